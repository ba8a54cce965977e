import math

import pytest
import torch

from manymask.core import Category
from manymask.errors import TrainingError
from manymask.metrics import choose_score_threshold
from manymask.modeling.build import assemble_model
from manymask.modeling.checkpoint import strip_prefix
from manymask.modeling.network import MaskRCNN
from manymask.plan import make_plan
from manymask.training import train
from manymask.training.module import TrainingModule
from manymask.training.time_budget import SECONDS_AT_END, Pace
from tests.metrics.cases import make_predictions, make_truth, score
from tests.training.runs import SETTINGS, STEPS_PER_EPOCH, load_checkpoint, read_rows

CATEGORIES = (Category(1, "class1"), Category(2, "class2"))


def make_network():
    return assemble_model(3, make_plan(settings=SETTINGS))


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture
def make_module(network):
    def make_module(total_steps=100, steps_per_epoch=10, network=network, **settings):
        plan = make_plan(settings=SETTINGS | settings)
        return TrainingModule(network, plan, CATEGORIES, CATEGORIES, steps_per_epoch, total_steps)

    return make_module


class TestScaleLearningRate:
    def scale(self, module, *steps):
        return pytest.approx([module.scale_learning_rate(step) for step in steps], rel=1e-9)

    def test_multistep_falls_at_80_and_90_percent_of_the_epochs(self, make_module):
        module = make_module(epochs=10)
        assert self.scale(module, 0, 79, 80, 89, 90, 99) == [1, 1, 0.1, 0.1, 0.01, 0.01]

    def test_multistep_falls_between_epochs(self, make_module):
        module = make_module(epochs=7, total_steps=70)
        assert self.scale(module, 49, 50, 59, 60, 69) == [1, 0.1, 0.1, 0.01, 0.01]

    @pytest.mark.parametrize("epochs", range(1, 6))
    def test_multistep_leaves_the_first_epoch(self, make_module, epochs):
        module = make_module(epochs=epochs, total_steps=10 * epochs)
        assert self.scale(module, *range(10)) == [1] * 10

    def test_multistep_in_a_run_that_max_steps_ends(self, make_module):
        module = make_module(epochs=10, max_steps=20, total_steps=20)
        assert self.scale(module, 15, 16, 17, 18) == [1, 0.1, 0.1, 0.01]
        assert self.scale(make_module(max_steps=1, total_steps=1), 0) == [1]

    def test_cosine(self, make_module):
        module = make_module(scheduler="cosine")
        assert self.scale(module, 0, 25, 50) == [1, (1 + math.sqrt(0.5)) / 2, 0.5]
        assert self.scale(module, 99) == [(1 - math.cos(math.pi / 100)) / 2]
        assert module.scale_learning_rate(100) == module.scale_learning_rate(101) == 0

    def test_trapezoid_falls_in_the_last_fifth(self, make_module):
        assert self.scale(make_module(scheduler="trapezoid"), 0, 80, 90, 95, 100) == [1, 1, 0.5, 0.25, 0]

    def test_none(self, make_module):
        assert self.scale(make_module(scheduler="none"), 0, 99) == [1, 1]

    @pytest.mark.parametrize("scheduler", ["multistep", "none"])
    def test_warmup(self, make_module, scheduler):
        module = make_module(scheduler=scheduler, epochs=10, warmup_steps=4)
        assert self.scale(module, 0, 1, 2, 3, 4) == [0.25, 0.5, 0.75, 1, 1]

    def test_warmup_with_cosine(self, make_module):
        assert self.scale(make_module(scheduler="cosine", warmup_steps=100), 49) == [
            0.25 * (1 + math.cos(math.pi * 0.49))
        ]


class TestPace:
    """A run of four epochs with a time budget of 100 seconds and what is kept back for its end."""

    @pytest.fixture
    def make_paced(self, make_module):
        def make_paced(*, seconds, num_done=0, **settings):
            """In the epoch after ``num_done``, of 21.25 seconds of steps, so many seconds after its begin."""
            times = iter([0.0, 0.0, 0.0])
            module = make_module(minutes=10, epochs=4, epoch_steps=10, **settings)
            deadline = (4 - num_done) * 25 + SECONDS_AT_END
            module.pace = Pace(module.plan.epochs, deadline, num_done, lambda: next(times, seconds))
            module.pace.begin_epoch(num_done)
            return module

        return make_paced

    @pytest.mark.parametrize(("num_done", "share"), [(0, 0.125), (1, 0.375), (3, 0.875)])
    def test_cosine(self, make_paced, num_done, share):
        module = make_paced(seconds=21.25 / 2, num_done=num_done, scheduler="cosine", total_steps=1)
        assert module.scale_learning_rate(5) == pytest.approx(0.5 * (1 + math.cos(math.pi * share)))

    @pytest.mark.parametrize(("seconds", "expected"), [(0.0, 1), (5.0, 0.1), (12.0, 0.1), (13.0, 0.01), (99.0, 0.01)])
    def test_multistep(self, make_paced, seconds, expected):
        """It falls at shares of the run, 0.8 and 0.9."""
        assert make_paced(seconds=seconds, num_done=3).scale_learning_rate(14) == pytest.approx(expected)

    def test_warmup(self, make_paced):
        module = make_paced(seconds=1.0, scheduler="none", warmup_steps=10)
        assert module.scale_learning_rate(6) == 0.7


@pytest.mark.parametrize("threshold", ["auto", 0.6])
def test_score_threshold_of_the_last_validation_is_stored(make_module, threshold):
    truth = make_truth(1, 30, num_classes=2)
    images = score([(truth, make_predictions(truth, 1, 40, num_classes=2))])
    module = make_module(score_threshold=threshold)
    module._scored = images
    module.on_validation_epoch_end()
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    chosen = choose_score_threshold(images)
    assert chosen not in (0.5, 0.6)
    assert checkpoint["manymask"]["score_threshold"] == (chosen if threshold == "auto" else 0.6)
    assert checkpoint["manymask"]["plan"]["score_threshold"] == threshold


class TestAverage:
    def test_moves_by_the_decay_and_faster_at_first(self, make_module):
        module = make_module(weight_average=0.5, network=make_network())
        name, value = next(iter(module.network.named_parameters()))
        average, first = module.average.module.get_parameter(name), value.detach().clone()
        expected, decays = [], []
        for step in range(12):
            with torch.no_grad():
                value.copy_(first + step)
            module.average.update_parameters(module.network)
            decays.append(min(0.5, (1 + step) / (10 + step)) if step else 0)
            expected.append((expected[-1] if step else 0) * decays[-1] + step * (1 - decays[-1]))
            torch.testing.assert_close(average - first, torch.full_like(first, expected[-1]))
        assert decays[1] < 0.2
        assert decays[-1] == 0.5

    def test_is_what_a_checkpoint_gives(self, make_module, tmp_path):
        module = make_module(weight_average=0.9, network=make_network())
        module.average.update_parameters(module.network)
        averaged = {name: value.clone() for name, value in module.average.module.state_dict().items()}
        with torch.no_grad():
            for value in module.network.parameters():
                value.add_(1)
        state = strip_prefix(module.state_dict())
        assert state.keys() == module.network.state_dict().keys()
        assert all(torch.equal(state[name], value) for name, value in averaged.items())
        assert module.kept_network is module.average.module

    def test_is_not_optimized(self, make_module):
        module = make_module(weight_average=0.9, network=make_network())
        (group,) = module.configure_optimizers()["optimizer"].param_groups
        assert len(group["params"]) == len(list(module.network.parameters()))
        assert not any(value.requires_grad for value in module.average.parameters())


class TestConfigureOptimizers:
    def test_sgd(self, make_module):
        optimizer = make_module(momentum=0.7, weight_decay=0.3).configure_optimizers()["optimizer"]
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, torch.optim.SGD)
        assert (group["initial_lr"], group["momentum"], group["weight_decay"]) == (0.005, 0.7, 0.3)

    def test_adamw(self, make_module):
        optimizer = make_module(optimizer="adamw", momentum=0.8, weight_decay=0.3).configure_optimizers()["optimizer"]
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, torch.optim.AdamW)
        assert (group["betas"], group["weight_decay"]) == ((0.8, 0.999), 0.3)

    def test_frozen_parameters_are_left_out(self, make_module):
        network = make_network()
        network.rpn.requires_grad_(False)
        (group,) = make_module(network=network).configure_optimizers()["optimizer"].param_groups
        rpn = set(network.rpn.parameters())
        assert len(group["params"]) == len(list(network.parameters())) - len(rpn)
        assert not rpn & set(group["params"])

    def test_each_step(self, make_module):
        configured = make_module(warmup_steps=2).configure_optimizers()
        assert configured["lr_scheduler"]["interval"] == "step"
        assert configured["optimizer"].param_groups[0]["lr"] == 0.0025
        assert configured["lr_scheduler"]["scheduler"].state_dict()["lr_lambdas"] == [None]


class TestNotFinite:
    def test_learning_rate_too_high(self, data, output):
        with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch 1, images 000\d, 000\d; ") as caught:
            train(data, output=output, recipe="baseline", settings=SETTINGS | {"learning_rate": 99})
        assert "\n" not in str(caught.value)
        assert not list(output.rglob("*.ckpt"))

    def test_last_good_checkpoint_is_kept(self, data, output, monkeypatch):
        forward, num_calls = MaskRCNN.forward, []

        def forward_until_nan(self, images, targets=None):
            losses = forward(self, images, targets)
            num_calls.append(self.training)
            return {k: v * math.nan for k, v in losses.items()} if sum(num_calls) > STEPS_PER_EPOCH + 1 else losses

        monkeypatch.setattr(MaskRCNN, "forward", forward_until_nan)
        with pytest.raises(TrainingError, match="the loss is nan in epoch 2, images"):
            train(data, output=output, recipe="baseline", settings=SETTINGS)
        assert load_checkpoint(output / "last.ckpt")["epoch"] == 0
        assert [row["epoch"] for row in read_rows(output)] == ["1"]

    def test_weights_after_the_last_step(self, make_module):
        network = make_network()
        module = make_module(network=network)
        module.on_validation_epoch_start()
        next(network.parameters()).data.view(-1)[0] = math.inf
        with pytest.raises(TrainingError, match="the weights are not finite after epoch 1"):
            module.on_validation_epoch_start()
