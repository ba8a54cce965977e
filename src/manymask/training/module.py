"""The training and validation step."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from manymask.core import Category, Instances, Window, match_categories
from manymask.errors import TrainingError
from manymask.metrics import MetricPath, ScoredImage, choose_score_threshold, score_image, summarize_headline
from manymask.modeling.checkpoint import CHECKPOINT_KEY
from manymask.modeling.network import MaskRCNN
from manymask.modeling.preprocessing import Preprocessing
from manymask.modeling.shared_batch import share_batch
from manymask.plan import Plan
from manymask.prediction import Model
from manymask.prediction.detectors import TorchDetector
from manymask.prediction.tiling import LoadedImage, Tiling, find_instances
from manymask.training.loading import PLAIN_LOOK
from manymask.training.processes import Processes
from manymask.training.time_budget import Pace

_REMEDY = (
    "the last good checkpoint is kept: look at these images, or start anew with a lower learning_rate, warmup_steps, "
    "gradient_clip or precision=fp32"
)
# Where multistep's learning rate falls, as shares of the run (the baseline recipe).
MILESTONES = (0.8, 0.9)
# The share of the run before which trapezoid's learning rate is constant.
HOLD_SHARE = 0.8


class TrainingModule(L.LightningModule):
    """Mask R-CNN under Lightning's Trainer.

    Attributes:
        losses: Sum of each loss over the epoch's batches so far, and of the total under ``loss``.
        num_batches: Batches of the epoch so far.
        last_learning_rate: Learning rate of the last step.
        scores: Scores of the last validation.
        average: The moving average of the network's weights; None where the plan has none.
        pace: What the learning rate follows in a run with a time budget.
        score_threshold: The plan's, or what the last validation gave the highest F1 with.
        seconds_per_image: What an image took in the last validation.
        most_pixels: That were seen at once in the last validation.
    """

    def __init__(
        self,
        network: MaskRCNN,
        plan: Plan,
        categories: tuple[Category, ...],
        val_categories: tuple[Category, ...],
        steps_per_epoch: int,
        total_steps: int,
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.processes = processes or Processes()
        self.average = (
            AveragedModel(network, multi_avg_fn=self._move_average, use_buffers=True) if plan.weight_average else None
        )
        if self.average is not None:
            self.average.requires_grad_(False)
        self.plan = plan
        self.preprocessing = Preprocessing.of(plan)
        self.categories = categories
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = total_steps
        match = match_categories(val_categories, categories)
        self.scored_categories = match.categories
        self._truth_labels, self._scored_labels = match.data_labels, match.model_labels
        self.losses: dict[str, float] = {}
        self.num_batches = 0
        self.last_learning_rate = 0.0
        self.scores: dict[MetricPath, float | None] = {}
        self.score_threshold = plan.shown_score
        self.pace: Pace | None = None
        self.seconds_per_image = 0.0
        self.most_pixels = 0
        self._validation_started = 0.0
        self._scored: list[ScoredImage] = []
        self._last_names: list[str] = []
        self._model: Model | None = None

    def configure_optimizers(self) -> Any:
        """The plan's optimizer, and its learning rate as a function of the step alone."""
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        plan = self.plan
        if plan.optimizer == "sgd":
            optimizer = torch.optim.SGD(parameters, plan.learning_rate, plan.momentum, weight_decay=plan.weight_decay)
        else:
            betas = (plan.momentum, 0.999)
            optimizer = torch.optim.AdamW(parameters, plan.learning_rate, betas, weight_decay=plan.weight_decay)
        # A plain function, because LambdaLR puts the attributes of anything else into the checkpoint.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.scale_learning_rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def scale_learning_rate(self, step: int) -> float:
        """The share of ``learning_rate`` at an optimizer step (0-based)."""
        warmup = min(1.0, (step + 1) / self.plan.warmup_steps) if self.plan.warmup_steps else 1.0
        share = min(step / self.total_steps, 1.0) if self.pace is None else self.pace.share
        if self.plan.scheduler == "cosine":
            return warmup * 0.5 * (1 + math.cos(math.pi * share))
        if self.plan.scheduler == "trapezoid":
            return warmup * min((1 - share) / (1 - HOLD_SHARE), 1.0)
        if self.plan.scheduler == "multistep":
            if self.pace is not None:
                return warmup * 0.1 ** sum(share >= milestone for milestone in MILESTONES)
            return warmup * 0.1 ** sum(step >= milestone for milestone in self._list_milestones())
        return warmup

    def _list_milestones(self) -> list[int]:
        """Steps at which the learning rate falls: at whole epochs, or by steps in a run that ``max_steps`` ends.

        It never falls before the first epoch (or step) is done, however short the run.
        """
        if self.plan.max_steps is None:
            return [max(int(share * self.plan.epochs), 1) * self.steps_per_epoch for share in MILESTONES]
        return [max(int(share * self.total_steps), 1) for share in MILESTONES]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move images and targets of training; those of validation stay where they are."""
        images, targets, names = batch
        if isinstance(targets[0], dict):
            images = [image.to(device, non_blocking=True) for image in images]
            targets = [{k: value.to(device, non_blocking=True) for k, value in target.items()} for target in targets]
        return images, targets, names

    def on_train_epoch_start(self) -> None:
        """Begin a new mean of the losses."""
        self.losses, self.num_batches = {}, 0

    def training_step(self, batch: tuple[list[Tensor], list[dict[str, Tensor]], list[str]], batch_index: int) -> Tensor:
        """The summed loss of a batch.

        Raises:
            TrainingError: The loss is not finite; names the images of the batch.
        """
        images, targets, names = batch
        # What the network draws beside its samples: a resume has no state to restore.
        torch.manual_seed(int(targets[0]["seed"]))
        # Here and not in the loaders, whose other number of threads would give other last digits.
        prepared = [self.preprocessing.prepare(*pair) for pair in zip(images, targets, strict=True)]
        with nullcontext() if self.processes.count == 1 else share_batch():
            losses = self.network([image for image, _ in prepared], [target for _, target in prepared])
        parts = torch.stack(list(losses.values()))
        loss = parts.sum()
        self._check_finite(loss.item(), names)
        self._last_names = names
        for name, value in zip(["loss", *losses], [loss.item(), *parts.tolist()], strict=True):
            self.losses[name] = self.losses.get(name, 0.0) + value
        self.num_batches += 1
        self.last_learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        return loss

    def _check_finite(self, loss: float, names: list[str]) -> None:
        if self.processes.find_highest(float(not math.isfinite(loss))):
            values = [own for own in self.processes.gather((loss, names)) if not math.isfinite(own[0])]
            all_names = ", ".join(name for _, own in values for name in own)
            text = f"the loss is {values[0][0]} in epoch {self.current_epoch + 1}, images {all_names}; {_REMEDY}"
            raise self.processes.fail_together(TrainingError(text))

    def average_losses(self) -> dict[str, float]:
        """The mean of each loss over the epoch's batches so far; all processes have to ask for it."""
        sums = self.processes.gather(self.losses)
        return {n: sum(own[n] for own in sums) / len(sums) / self.num_batches for n in self.losses}

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        """Step, then move the average of the weights."""
        super().optimizer_step(*arguments, **settings)
        if self.average is not None:
            self.average.update_parameters(self.network)

    @torch.no_grad()
    def _move_average(self, averages: Sequence[Tensor], values: Sequence[Tensor], num_steps: Tensor | int) -> None:
        # Early on the last tenth of the steps, so that the random weights of the start are soon forgotten.
        decay = min(self.plan.weight_average, (1 + int(num_steps)) / (10 + int(num_steps)))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:  # BatchNorm's count of batches
                average.copy_(value)

    @property
    def kept_network(self) -> MaskRCNN:
        """The network whose weights are validated and kept: the average, where there is one."""
        return self.network if self.average is None else cast(MaskRCNN, self.average.module)

    def on_validation_epoch_start(self) -> None:
        """Forget the images of the last validation.

        Raises:
            TrainingError: The epoch's last step left weights that are not finite, which no checkpoint may hold.
        """
        self._scored = []
        if self.pace is not None:
            self.pace.end_steps()
        is_finite = all(value.isfinite().all() for value in self.network.state_dict().values())
        if self.processes.find_highest(float(not is_finite)):
            text = (
                f"the weights are not finite after epoch {self.current_epoch + 1}, whose last images are "
                f"{', '.join(self._last_names)}; {_REMEDY}"
            )
            raise self.processes.fail_together(TrainingError(text))
        self.processes.average_buffers(self.network)
        if self.average is not None:
            self.processes.average_buffers(self.average)
        self._validation_started = time.monotonic()
        plan = self.plan.model_copy(update=PLAIN_LOOK)
        detector = TorchDetector(self.kept_network, self.device, plan.precision)
        self._model, self._tiling = Model(detector, plan, self.categories, Path()), Tiling.of(plan)

    def validation_step(self, batch: tuple[list[LoadedImage], list[Instances], list[int]], batch_index: int) -> None:
        """Predict as ``predict`` does, large images in tiles, and keep what scoring needs."""
        assert self._model is not None
        for loaded, truth, image_id in zip(*batch, strict=True):
            instances = find_instances(self._model, loaded, self._tiling, is_quiet=True)
            windows = [tile.window for tile in loaded.tiles] or [Window(0, 0, *truth.size)]
            self.most_pixels = max(self.most_pixels, *(window.height * window.width for window in windows))
            self._scored.append(
                score_image(
                    image_id,
                    truth.relabel(self._truth_labels),
                    instances.relabel(self._scored_labels),
                    max_detections=self.plan.max_detections * len(windows),
                    score_threshold=self.plan.shown_score,
                )
            )

    def on_validation_epoch_end(self) -> None:
        """Score all validation images together, those that other processes have predicted too."""
        self.seconds_per_image = (time.monotonic() - self._validation_started) / max(len(self._scored), 1)
        scored = {image.image_id: image for own in self.processes.gather(self._scored) for image in own}
        self._scored = [image for _, image in sorted(scored.items())]
        self.scores = summarize_headline(self._scored, self.scored_categories)
        if self.plan.score_threshold == "auto":
            self.score_threshold = choose_score_threshold(self._scored)
        self._scored, self._model = [], None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the plan and the score threshold, so that a checkpoint alone is a model."""
        own = checkpoint.setdefault(CHECKPOINT_KEY, {})
        own["plan"], own["score_threshold"] = self.plan.model_dump(mode="json"), self.score_threshold
