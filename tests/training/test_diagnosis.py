import logging
import re
import time

import numpy as np
import pytest
import torch

from manymask.core import Instances
from manymask.formats import read_dataset
from manymask.metrics.stages import SHARES, format_shares, pool_counts
from manymask.modeling.build import assemble_model
from manymask.modeling.detections import Detections, Postprocessing
from manymask.modeling.preprocessing import Preprocessing
from manymask.plan import make_plan
from manymask.run_folder import read_diagnosis
from manymask.training import diagnosis, train
from manymask.training.diagnosis import LEAST_SECONDS, TIME_SHARE, diagnose_image, diagnose_model
from manymask.training.loading import ValidationImages
from tests.training.runs import SETTINGS, find_differences, read_rows

SCALE, SIZE = 2, (60, 60)
# A and B touch at a corner; C and D are alone, D is small; the last is a crowd region.
A, B, C, D, CROWD = (5, 5, 15, 15), (15, 15, 25, 25), (30, 30, 50, 50), (2, 40, 8, 46), (30, 2, 58, 20)
PLAN = make_plan(settings=SETTINGS | {"scale": SCALE, "mask_alignment": "exact", "detections_per_image": 10})


def make_truth() -> Instances:
    masks = np.zeros((5, *SIZE), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, (A, B, C, D, CROWD), strict=True):
        mask[y1:y2, x1:x2] = True
    runs = Instances.from_masks(masks, [1, 2, 1, 1, 1]).runs
    return Instances.from_runs(runs, np.array([1, 2, 1, 1, 1]), iscrowd=np.array([False] * 4 + [True]))


def to_view(*boxes) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float32) * SCALE


@pytest.fixture
def network():
    """Whose proposals, detections and heads are given; it sees the image at twice its size."""
    network = assemble_model(3, PLAN).eval()
    # Of B with an IoU of 0.8, of C with one of 0.6.
    network.rpn.forward = lambda *_: ([to_view(A, (15, 15, 25, 23), (30, 30, 50, 42))], {})
    # B is found below the threshold; what is found of C has an IoU of 0.8; one in the crowd region, one on nothing.
    boxes = to_view(A, (30, 30, 50, 46), (5, 50, 15, 58), (32, 5, 40, 15), B)
    found = Detections(
        boxes, torch.tensor([2, 1, 1, 1, 2]), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.3]), torch.ones(5, 28, 28)
    )
    network.roi_heads.forward = lambda *_: ([found], {})
    network.roi_heads._run_box_head = run_box_head
    network.roi_heads._run_mask_head = run_mask_head
    return network


def run_box_head(features, boxes, image_shapes):
    """A, B and C are objects of class 2, D is background."""
    torch.testing.assert_close(boxes[0], to_view(A, B, C, D))
    logits = torch.tensor([[0.0, 0.0, 3.0]] * 3 + [[1.0, 0.0, 0.0]])
    return logits, torch.zeros(4, 12)


def run_mask_head(features, boxes, image_shapes):
    """Class 2 fills the boxes of A, B and C, the mask of D, like all of class 1, is empty."""
    logits = torch.full((4, 3, 28, 28), -10.0)
    logits[:3, 2] = 10
    return logits


def diagnose(network, truth):
    with torch.inference_mode():
        image = torch.rand(3, *SIZE)
        return diagnose_image(network, image, truth, Preprocessing.of(PLAN), Postprocessing.of(PLAN))


class TestDiagnoseImage:
    def test_planted_network(self, network):
        assert diagnose(network, make_truth()) == {
            "AP50": (2, 5),  # A and C; B and D are missed, and one is wrong
            "AP75": (2, 5),
            "AP90": (1, 6),
            "touching_found": (1, 2),
            "lone_found": (1, 2),
            "small_found": (0, 1),
            "true_boxes_scored": (3, 4),
            "proposed": (2, 4),
            "refined": (2, 4),
            "true_boxes_masked": (3, 4),
        }

    def test_scores_of_two_box_stages(self, network):
        network.roi_heads.second = torch.nn.Module()
        network.roi_heads.second._run_box_head = lambda *_: (torch.tensor([[9.0, 0, 0]] * 2 + [[0, 0, 9.0]] * 2), None)
        assert diagnose(network, make_truth())["true_boxes_scored"] == (2, 4)  # C and D

    def test_no_objects(self):
        empty = Instances.from_masks(np.zeros((0, *SIZE)), np.zeros(0, dtype=np.int64))
        counts = diagnose(assemble_model(3, PLAN).eval(), empty)
        assert {total for name, (_, total) in counts.items() if not name.startswith("AP")} == {0}

    def test_memory_holds_no_masks_of_the_image(self, network, monkeypatch):
        largest = 0
        zeros = np.zeros

        def count(shape, *arguments, **settings):
            nonlocal largest
            largest = max(largest, int(np.prod(shape)))
            return zeros(shape, *arguments, **settings)

        truth = make_truth()
        monkeypatch.setattr(np, "zeros", count)
        diagnose(network, truth)
        assert largest <= SIZE[0] * SIZE[1]


def test_pooled_shares():
    first, second = (dict.fromkeys(SHARES, (1, 4)), dict.fromkeys(SHARES, (2, 2)) | {"small_found": (0, 0)})
    pooled = pool_counts([first, second])
    assert (pooled.num_images, pooled.num_objects, pooled.proposed, pooled.small_found) == (2, 6, 0.5, 0.25)
    assert pool_counts([]).proposed is None
    lines = format_shares({"training": pooled, "validation": pool_counts([])}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].split()[-2:] == ["0.500", "-"]


class TestDiagnoseModel:
    @pytest.fixture
    def dataset(self, data):
        return read_dataset(data)

    def diagnose(self, run, dataset, **limits):
        return diagnose_model(run / "last.ckpt", {"all": dataset, "two": dataset[:2]}, torch.device("cpu"), **limits)

    def test_all_images(self, run, dataset):
        found = self.diagnose(run, dataset)
        assert [shares.num_images for shares in found.values()] == [7, 2]
        assert found["all"].num_objects == sum(len(sample.labels) for sample in dataset)
        assert found == self.diagnose(run, dataset)

    def test_at_most_so_many(self, run, dataset, monkeypatch):
        monkeypatch.setattr(diagnosis, "MAX_IMAGES", 3)
        assert self.diagnose(run, dataset)["all"].num_images == 3

    def test_time_is_over(self, run, dataset):
        assert self.diagnose(run, dataset, seconds=5.0, seconds_per_image=10.0)["all"].num_images == 0

    def test_large_images_are_left_out_unread(self, run, dataset, monkeypatch):
        assert self.diagnose(run, dataset, max_pixels=40 * 48)["all"].num_images == 7
        monkeypatch.setattr(ValidationImages, "normalize", lambda *_: pytest.fail("it is read"))
        assert self.diagnose(run, dataset, max_pixels=40 * 48 - 1)["all"].num_images == 0


class TestRun:
    @pytest.fixture
    def long(self, monkeypatch):
        """As if the run had taken long enough."""
        monkeypatch.setattr("manymask.training.run.TIME_SHARE", 1e6)

    def test_file_and_table(self, long, data, run, output, caplog):
        caplog.set_level(logging.INFO, "manymask")
        train(data, output=output, recipe="baseline", settings=SETTINGS)
        assert not find_differences(run / "last.ckpt", output / "last.ckpt")
        shares = read_diagnosis(output)
        assert [own.num_images for own in shares.values()] == [6, 1]
        assert f"what best.ckpt gets right at each stage:\n{format_shares(shares)}" in caplog.text
        train(resume=output)
        assert read_diagnosis(output) == shares

    def test_failure_loses_nothing(self, long, data, output, caplog, monkeypatch):
        monkeypatch.setattr(diagnosis, "diagnose_image", lambda *_: 1 / 0)
        assert train(data, output=output, recipe="baseline", settings=SETTINGS | {"max_steps": 1}) == output
        assert "its diagnosis failed (ZeroDivisionError" in caplog.text
        assert (output / "best.ckpt").exists()
        assert not (output / "diagnosis.json").exists()

    @pytest.mark.parametrize("minutes", [None, 0.001, 2])
    def test_its_time_is_a_share_of_the_run(self, minutes, data, output, monkeypatch):
        """Of a time budget at least enough to load the network."""
        given = []
        monkeypatch.setattr("manymask.training.run.diagnose_run", lambda *arguments: given.append(arguments[-1]))
        long_ago = time.monotonic() - 200  # so that there is time for no more than a step of each epoch
        short = {"epochs": 1, "minutes": minutes}
        train(data, output=output, recipe="baseline", settings=SETTINGS | short, started=long_ago)
        took = sum(float(row["seconds"]) for row in read_rows(output))
        assert given == [pytest.approx({None: TIME_SHARE * took, 0.001: LEAST_SECONDS, 2: TIME_SHARE * 120}[minutes])]

    @pytest.mark.parametrize(("minutes", "seconds"), [(10, 600 * TIME_SHARE), (1, LEAST_SECONDS)])
    def test_time_is_kept_back(self, data, output, monkeypatch, minutes, seconds):
        deadlines = []
        monkeypatch.setattr("manymask.training.run.Pace", lambda *arguments: deadlines.append(arguments[1]) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(data, output=output, recipe="baseline", settings=SETTINGS | {"minutes": minutes}, started=1000.0)
        assert deadlines == [pytest.approx(1000 + 60 * minutes - seconds)]

    def test_a_short_run_says_that_it_has_none(self, data, output, caplog):
        train(data, output=output, recipe="baseline", settings=SETTINGS | {"max_steps": 1})
        assert re.search(r"no diagnosis: the run has \d\.\d s for it, and it takes at least \d\.\d s", caplog.text)
        assert read_diagnosis(output) == {}

    def test_time_is_over_before_an_image_is_seen(self, data, output, caplog, monkeypatch):
        monkeypatch.setattr(diagnosis, "COST", 0.0)
        monkeypatch.setattr(diagnosis, "speed_up", lambda network, *_: time.sleep(2.1) or network)
        train(data, output=output, recipe="baseline", settings=SETTINGS | {"epochs": 1, "minutes": 0.001})
        assert "no diagnosis: none of the training and validation images fits into its 2.0 s" in caplog.text
        assert read_diagnosis(output) == {}
