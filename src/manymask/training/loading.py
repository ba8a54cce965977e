"""Batches for training and validation, in an order that is a function of (seed, epoch)."""

import itertools
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from manymask.core import Dataset, InstanceLayers, Instances, Sample, Window
from manymask.errors import PlanError
from manymask.imaging.normalization import Normalization, Scale, Scales, measure_scale
from manymask.plan import Plan
from manymask.prediction.tiling import LoadedImage, Tiling, load_image
from manymask.training.augmentation import Augmentation, apply_augmentation, draw_augmentation, drop_crowds, make_target
from manymask.training.contacts import paste_in_contact
from manymask.training.processes import Processes, share_out
from manymask.training.time_budget import Pace

TrainingItem = tuple[Tensor, dict[str, Tensor], str]
ValidationItem = tuple[LoadedImage, Instances, int]

PLAIN_LOOK = {"tta": False, "object_size": None}
"""The settings of prediction that training's own validations do without."""


class _Images:
    """Labelled images with values in [0, 1]; each is measured only once, since that reads the whole image.

    Args:
        dataset: The images.
        plan: The settings.
        scales: What is measured of them already; what is measured here is added.

    Attributes:
        tiling: How large ones are cut, as in prediction; None where all are seen whole.
    """

    def __init__(self, dataset: Dataset, plan: Plan, scales: Scales | None = None) -> None:
        self.dataset, self.plan, self.normalization = dataset, plan, Normalization.of(plan)
        self.tiling = Tiling.of(plan.model_copy(update=PLAIN_LOOK))
        self.scales: Scales = {} if scales is None else scales

    def __len__(self) -> int:
        return len(self.dataset)

    def measure(self, sample: Sample) -> Scale:
        """What brings an image to [0, 1]."""
        key = (sample.path, self.normalization)
        if key not in self.scales:
            self.scales[key] = measure_scale(sample.image, str(sample.path), self.normalization)
        return self.scales[key]

    def normalize(self, sample: Sample, window: Window | None = None) -> Tensor:
        """An image or a part of it."""
        return self.measure(sample).apply(sample.image.read(window))


class TrainingImages(_Images, TorchDataset[TrainingItem]):
    """Image, target and name of a training image, cropped and turned as its place among all draws of the run says."""

    def __getitem__(self, item: tuple[int, int]) -> TrainingItem:
        """The image of a draw: its index, and the place of the draw in the run."""
        index, place = item
        sample = self.dataset[index]
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_000_007 + place)
        # What touches a crowd region alone touches no object that is trained on.
        objects = drop_crowds(sample.layers, sample.iscrowd) if self.plan.touching_share else sample.layers
        draw = draw_augmentation(self._choose_augmentation(objects), objects, generator)
        layers = InstanceLayers(sample.layers.as_subclass(Tensor)[:, *draw.window.slices])
        image, layers = apply_augmentation(self.normalize(sample, draw.window), layers, draw, generator)
        labels, iscrowd = sample.labels, sample.iscrowd
        if self.plan.contact_paste and torch.rand((), generator=generator).item() < self.plan.contact_paste:
            image, layers, copied = paste_in_contact(image, layers, ~iscrowd, generator)
            labels, iscrowd = np.append(labels, labels[copied]), np.append(iscrowd, iscrowd[copied])
        target = make_target(layers, labels, iscrowd)
        # Anchors and proposals are sampled by it, whatever images are beside this one and in whichever process.
        target["seed"] = torch.tensor(generator.initial_seed())
        return image, target, sample.name

    def _choose_augmentation(self, layers: InstanceLayers) -> Augmentation:
        """The plan's; where it wants whole images, one that is longer than a tile is cropped to a tile's size."""
        augmentation, longest = Augmentation.of(self.plan), max(layers.shape[1:])
        if augmentation.crop_size or self.tiling is None or longest <= self.tiling.tile_size:
            return augmentation
        return replace(augmentation, crop_size=self.tiling.tile_size)


class ValidationImages(_Images, TorchDataset[ValidationItem]):
    """Image, of which large ones are not read yet, ground truth and image id of each validation image."""

    def __getitem__(self, index: int) -> ValidationItem:
        sample = self.dataset[index]
        loaded = load_image(sample.image, str(sample.path), self.plan, self.tiling, self.measure(sample))
        return loaded, sample.to_instances(), sample.image_id


def count_steps(plan: Plan, steps_per_epoch: int) -> int:
    """The optimizer steps of a run, as far as they are known before it."""
    limit = plan.epochs * steps_per_epoch
    return min(plan.max_steps or limit, limit)


def check_batches(plan: Plan, num_images: int, num_processes: int) -> None:
    """Refuse batches of which some process would get nothing.

    Raises:
        PlanError: A batch has fewer images than there are processes.
    """
    rest = num_images % plan.batch_size if plan.epoch_steps is None and plan.minutes is None else 0
    if (fewest := rest or plan.batch_size) < num_processes:
        remedy = "set epoch_steps" if rest else f"set batch_size to {num_processes} or more"
        raise PlanError(f"a batch of {fewest} images cannot be shared out to {num_processes} processes; {remedy}")


class InstanceDataModule(L.LightningDataModule):
    """The loaders of a run.

    No state is saved: the batches of an epoch follow from the seed and the epoch's number, so a resumed run sees what
    the run that was never stopped would have seen, with any number of loader processes.

    Args:
        train: The images to train on.
        val: The images to validate on.
        plan: The settings.
        weights: How often each training image is drawn against the others; all alike by default.
        scales: What was measured of the images before, so that the loaders need not.
        costs: About how dear each training image and each validation image is, against the others; by default alike.
        processes: Those that the batches and the validation images are shared out to.
        pin_memory: Whether batches go to page-locked memory, from which a CUDA device copies faster.

    Attributes:
        pace: Ends the epochs of a run with a time budget; ``total_steps`` is an estimate then.
    """

    def __init__(
        self,
        train: Dataset,
        val: Dataset,
        plan: Plan,
        *,
        weights: Sequence[float] | None = None,
        scales: Scales | None = None,
        costs: tuple[Sequence[float], Sequence[float]] | None = None,
        processes: Processes | None = None,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        self.train_costs, self.val_costs = costs or ([1.0] * len(train), [1.0] * len(val))
        self.processes = processes or Processes()
        self.train_images = TrainingImages(train, plan, scales)
        self.val_images = ValidationImages(val, plan, scales)
        self.plan = plan
        self.pin_memory = pin_memory
        self._shares = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.steps_per_epoch = plan.epoch_steps or -(-len(train) // (plan.batch_size * plan.accumulate))
        self.pace: Pace | None = None
        self.total_steps = count_steps(plan, self.steps_per_epoch)
        self.num_epochs = -(-self.total_steps // self.steps_per_epoch)

    def list_batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The draws of this process in each batch of an epoch (0-based); the last epoch ends where the steps run out.

        A draw is the index of an image and the draw's place in the run. Without ``epoch_steps`` an epoch is one pass
        over the images, whose last batch may be smaller.
        """
        if self.plan.epoch_steps is not None:
            first = epoch * self.steps_per_epoch
            return self.list_steps(first, min(first + self.steps_per_epoch, self.total_steps))
        num_draws = len(self.train_images)
        batches = self._make_batches(epoch * num_draws, (epoch + 1) * num_draws)
        steps_left = self.total_steps - epoch * self.steps_per_epoch
        return batches[: max(steps_left, 0) * self.plan.accumulate]

    def list_steps(self, first: int, last: int) -> list[list[tuple[int, int]]]:
        """The draws of each batch of some optimizer steps of the run, pass after pass over the images."""
        draws_per_step = self.plan.batch_size * self.plan.accumulate
        return self._make_batches(first * draws_per_step, last * draws_per_step)

    def _make_batches(self, first: int, last: int) -> list[list[tuple[int, int]]]:
        """The draws from one place of the run to another, in batches: pass after pass over the images."""
        num_images, batch_size = len(self.train_images), self.plan.batch_size
        passes = range(first // num_images, -(-last // num_images))
        indices = [index for number in passes for index in self._shuffle(number)]
        offset = passes.start * num_images
        draws = [(indices[place - offset], place) for place in range(first, last)]
        return [self._take_part(draws[i : i + batch_size]) for i in range(0, len(draws), batch_size)]

    def _take_part(self, batch: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The part of a batch that this process sees."""
        if self.processes.count == 1:
            return batch
        own = share_out([self.train_costs[index] for index, _ in batch], self.processes.count)[self.processes.rank]
        return [batch[i] for i in own]

    def _shuffle(self, pass_number: int) -> list[int]:
        """As many draws as there are images: each once, or as often as its weight says."""
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + pass_number)
        order = torch.randperm(len(self.train_images), generator=generator)
        if self._shares is None:
            return order.tolist()
        # Systematic sampling: evenly spaced marks on the cumulated shares, from a random start.
        ends = self._shares[order].cumsum(0) * (len(order) / self._shares.sum())
        start = torch.rand((), generator=generator, dtype=torch.float64)
        places = torch.searchsorted(ends, torch.arange(len(order)) + start, right=True).clamp(max=len(order) - 1)
        return order[places][torch.randperm(len(order), generator=generator)].tolist()

    def train_dataloader(self) -> DataLoader[TrainingItem]:
        """The loader of the trainer's current epoch; it is made anew for each."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        if self.pace is None or self.trainer is None:
            return self._make_loader(self.train_images, self.list_batches(epoch))
        self.pace.begin_epoch(epoch)
        self.num_epochs = self.trainer.fit_loop.max_epochs = self.pace.num_epochs
        return self._make_loader(self.train_images, ClockedBatches(self, self.pace, self.trainer.global_step))

    def val_dataloader(self) -> DataLoader[ValidationItem]:
        """This process's validation images, one at a time: their sizes differ and their crowds set the memory."""
        own = share_out(self.val_costs, self.processes.count)[self.processes.rank]
        # A process without any would leave out the validation, whose end all reach together.
        return self._make_loader(self.val_images, [[index] for index in own or [0]])

    def _make_loader(self, images: Any, batches: Iterable[Sequence[Any]]) -> DataLoader[Any]:
        num_workers = self.plan.num_workers
        return DataLoader(
            images,
            batch_sampler=batches,  # pyright: ignore[reportArgumentType]
            num_workers=min(num_workers, len(batches)) if isinstance(batches, list) else num_workers,
            collate_fn=collate,
            worker_init_fn=ignore_interrupt,
            pin_memory=self.pin_memory,
        )


class ClockedBatches:
    """The batches of an epoch that begins at ``step`` and ends when its time is over, at least one step's."""

    def __init__(self, datamodule: InstanceDataModule, pace: Pace, step: int) -> None:
        self.datamodule = datamodule
        self.pace = pace
        self.step = step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The draws of each batch; the clock is looked at after each step's."""
        for step in itertools.count(self.step):
            yield from self.datamodule.list_steps(step, step + 1)
            if not self.pace.has_time():
                return


def ignore_interrupt(worker_index: int) -> None:
    """Leave Ctrl-C, which reaches the whole process group, to the main process: it ends the loaders by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def collate(items: list[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    """Keep the items of a batch as lists: images differ in size, targets in length."""
    return tuple(list(column) for column in zip(*items, strict=True))
