"""Batches for training and validation, in an order that is a function of (seed, epoch)."""

import signal
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from manymask.core import Dataset, Instances
from manymask.data.transforms import make_target, scale_pixels
from manymask.planning import Plan

TrainingItem = tuple[Tensor, dict[str, Tensor], str]
ValidationItem = tuple[Tensor, Instances, int]


class TrainingImages(TorchDataset[TrainingItem]):
    """Image, target and name of each training image."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> TrainingItem:
        sample = self.dataset[index]
        return scale_pixels(sample.pixels, str(sample.path)), make_target(sample), sample.name


class ValidationImages(TorchDataset[ValidationItem]):
    """Image, ground truth and image id of each validation image."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> ValidationItem:
        sample = self.dataset[index]
        return scale_pixels(sample.pixels, str(sample.path)), sample.to_instances(), sample.image_id


class InstanceDataModule(L.LightningDataModule):
    """The loaders of a run.

    No state is saved: the batches of an epoch follow from the seed and the epoch's number, so a resumed run sees what
    the run that was never stopped would have seen, with any number of loader processes.

    Args:
        train: The images to train on.
        val: The images to validate on.
        plan: The settings.
        pin_memory: Whether batches go to page-locked memory, from which a CUDA device copies faster.
    """

    def __init__(self, train: Dataset, val: Dataset, plan: Plan, *, pin_memory: bool = False) -> None:
        super().__init__()
        self.train_images = TrainingImages(train)
        self.val_images = ValidationImages(val)
        self.plan = plan
        self.pin_memory = pin_memory
        self.batches_per_epoch = -(-len(train) // plan.batch_size)
        self.steps_per_epoch = -(-self.batches_per_epoch // plan.accumulate)
        limit = plan.max_steps or plan.epochs * self.steps_per_epoch
        self.total_steps = min(limit, plan.epochs * self.steps_per_epoch)
        self.num_epochs = -(-self.total_steps // self.steps_per_epoch)

    def list_batches(self, epoch: int) -> list[list[int]]:
        """The image indices of each batch of an epoch (0-based); the last epoch ends where the steps run out."""
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.train_images), generator=generator).tolist()
        batches = [order[i : i + self.plan.batch_size] for i in range(0, len(order), self.plan.batch_size)]
        steps_left = self.total_steps - epoch * self.steps_per_epoch
        return batches[: max(steps_left, 0) * self.plan.accumulate]

    def train_dataloader(self) -> DataLoader[TrainingItem]:
        """The loader of the trainer's current epoch; it is made anew for each."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        return self._make_loader(self.train_images, self.list_batches(epoch))

    def val_dataloader(self) -> DataLoader[ValidationItem]:
        """The validation images in order, one at a time: their sizes differ and their crowds set the memory."""
        return self._make_loader(self.val_images, [[index] for index in range(len(self.val_images))])

    def _make_loader(self, images: Any, batches: list[list[int]]) -> DataLoader[Any]:
        return DataLoader(
            images,
            batch_sampler=batches,
            num_workers=min(self.plan.num_workers, len(batches)),
            collate_fn=collate,
            worker_init_fn=ignore_interrupt,
            pin_memory=self.pin_memory,
        )


def ignore_interrupt(worker_index: int) -> None:
    """Leave Ctrl-C, which reaches the whole process group, to the main process: it ends the loaders by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def collate(items: list[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    """Keep the items of a batch as lists: images differ in size, targets in length."""
    return tuple(list(column) for column in zip(*items, strict=True))
