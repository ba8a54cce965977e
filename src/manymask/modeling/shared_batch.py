"""What makes the parts of a batch, each seen by a process of its own, learn what the whole batch would teach.

DistributedDataParallel gives every process the mean of all gradients. That is the gradient of the whole batch only if
each loss is a mean over the whole batch, and if what is drawn of an image does not depend on the others beside it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

_is_shared = False


@contextmanager
def share_batch() -> Iterator[None]:
    """Take the batch within for a part of one that all processes see together; all of them must enter."""
    global _is_shared
    _is_shared = True
    try:
        yield
    finally:
        _is_shared = False


def weigh_loss(loss: Tensor, count: int | Tensor) -> Tensor:
    """A mean over ``count`` samples, so scaled that its mean over the processes is the mean over all their samples."""
    if not _is_shared:
        return loss
    total = torch.as_tensor(count, dtype=torch.float64, device=loss.device).clone()
    dist.all_reduce(total)
    return loss * (count * dist.get_world_size() / total.clamp(min=1)).to(loss.dtype)


def agree_on_size(height: int, width: int) -> tuple[int, int]:
    """The longest sides of the whole batch, of which each process knows those of its part."""
    if not _is_shared:
        return height, width
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    sides = torch.tensor([height, width], device=device)
    dist.all_reduce(sides, dist.ReduceOp.MAX)
    height, width = sides.tolist()
    return height, width


class SeededSampler(BalancedPositiveNegativeSampler):
    """torchvision's sampler, whose draws of an image follow from the image's own seed.

    Attributes:
        seeds: One for each image of the batch; without any, all are drawn from torch's generator as it stands.
        num_sampled: How many samples the last batch gave.
    """

    seeds: Sequence[int] = ()
    num_sampled = 0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the positive and of the negative samples of each image."""
        chosen = []
        for index, labels in enumerate(matched_idxs):
            self.seed(index)
            chosen.append(super().__call__([labels]))
        positive, negative = [own[0][0] for own in chosen], [own[1][0] for own in chosen]
        self.num_sampled = int(sum(mask.sum() for mask in (*positive, *negative)))
        return positive, negative

    def seed(self, index: int) -> None:
        """Begin the draws of an image."""
        if self.seeds:
            torch.manual_seed(self.seeds[index])
