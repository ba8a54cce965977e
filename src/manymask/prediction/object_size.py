"""The factor at which an image's objects look as large as those that the model was trained on."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from manymask.modeling.detections import Detections
from manymask.modeling.preprocessing import Preprocessing, Size
from manymask.plan import ObjectSizes

logger = logging.getLogger(__name__)

Look = Callable[[float], Float64[np.ndarray, " objects"]]
"""The sizes in pixels of the file of what is found in an image that is seen at a factor."""

SMALLEST_FACTOR, LARGEST_FACTOR = 0.1, 8.0
# Objects of up to this many times the 95 % quantile of training leave an image as it is.
MARGIN = 1.25
# The finest look at a long image takes some five percent of its own prediction; the first one, which is as large as
# that at an image of SHORT_SIDE, and each further one at twice the resolution, take less. Of an image up to SHORT_SIDE
# a look would take more than that, since some of its time is the same for all sizes: its own prediction comes first.
SHORT_SIDE, FINEST_LOOK = 800, 1 / 6
# Looks at a short image in which as it is next to nothing is found.
COARSE_LOOKS = (1 / 4, 1 / 8)
# Objects that tell a size.
ENOUGH = 3
# Longest side that a whole image is enlarged to; the features of so many pixels squared take 3 GB.
LONGEST_SIDE = 4096
# Times that the factor is corrected by what is found at it.
MOST_CORRECTIONS = 3
# Factors that differ less are one.
SAME_FACTOR = 1.25
# Two groups of objects are of two sizes where their medians differ by this factor, and each has this share of them.
MIXED_RATIO, MIXED_SHARE = 4.0, 0.1


@dataclass(frozen=True)
class Scaling:
    """How an image is to be seen.

    Attributes:
        factors: The factor of each pass over the image, the finest first.
        limits: Between them the size in pixels of the file from which the next, coarser pass sees an object better.
        size: Median size of its objects in pixels of the file; None where nothing was found to measure.
    """

    factors: tuple[float, ...] = (1.0,)
    limits: tuple[float, ...] = ()
    size: float | None = None


def measure_objects(
    detections: Detections, size: Size, shown_score: float, mask_threshold: float
) -> Float64[np.ndarray, " objects"]:
    """Square root of the area of each object that the network is sure of, in pixels.

    What covers more than half of the image is left out: a small look at a dark image is often taken for one object.

    Args:
        detections: What was found, in pixels of the image.
        size: (height, width) of the image.
        shown_score: Score from which the network is sure.
        mask_threshold: Probability from which a pixel belongs to an object.
    """
    sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]).clamp(min=0)
    areas = sides.prod(dim=1) * (detections.mask_probabilities > mask_threshold).float().mean(dim=(1, 2))
    is_object = (detections.scores >= shown_score) & (areas > 0) & (areas <= size[0] * size[1] / 2)
    return areas[is_object].sqrt().cpu().numpy().astype(np.float64)


@dataclass(frozen=True)
class FactorChoice:
    """Chooses factors by sizes.

    Attributes:
        trained: Sizes of the model's training objects.
        largest: The largest factor that the image can be enlarged by.
    """

    trained: ObjectSizes
    largest: float

    @classmethod
    def of(cls, trained: ObjectSizes, size: Size, preprocessing: Preprocessing) -> "FactorChoice":
        """That for an image of ``size``, which is seen whole and so is not enlarged without limit."""
        limit = LONGEST_SIDE / (preprocessing.scale * max(size))
        return cls(trained, min(LARGEST_FACTOR, max(limit, 1.0)))

    def choose(self, size: float) -> float:
        """The factor for objects of a size: 1 where training objects are as large, else that which makes them so.

        Images are shrunk until their objects are as large as large ones in training, the 75 % quantile, since small
        ones among them are lost first; and enlarged until they are as large as the median.
        """
        smallest, small, median, large, largest = self.trained
        if size > largest * MARGIN:
            return max(large / size, SMALLEST_FACTOR)
        if size < math.sqrt(smallest * small):
            return min(median / size, self.largest)
        return 1.0

    def search(self, look: Look, size: Size) -> Scaling:
        """Look at an image until what is found has the size that the factor was chosen for.

        Args:
            look: Looks at the image at a factor.
            size: (height, width) of the image.
        """
        looks = _list_looks(max(size))
        factor = next((factor for factor in looks if len(look(factor)) >= ENOUGH), None)
        if factor is None:  # the look with most says what there is, of several the finest
            factor = max(looks, key=lambda factor: (len(look(factor)), factor))
        median = None
        for _ in range(MOST_CORRECTIONS):
            if len(found := look(factor)) == 0:
                return Scaling()
            if (two := self._choose_two(found)) is not None:
                return two
            median = float(np.median(found))
            if _is_same(factor, following := self.choose(median)):
                break
            factor = following
        return Scaling((factor,), size=median)

    def _choose_two(self, found: Float64[np.ndarray, " objects"]) -> Scaling | None:
        """Two passes, where objects are clearly of two sizes that ask for different factors."""
        if (groups := split_sizes(found)) is None:
            return None
        small, large = groups
        # For a part of the objects nothing is enlarged: small ones beside those of training are mostly debris.
        factors = min(self.choose(small), 1.0), min(self.choose(large), 1.0)
        return None if _is_same(*factors) else Scaling(factors, (math.sqrt(small * large),), float(np.median(found)))


def find_scaling(choice: FactorChoice, look: Look, size: Size, source: str) -> Scaling:
    """Search for the factors of an image of (height, width), and tell them; ``source`` names it."""
    scaling = choice.search(look, size)
    found = "nothing to measure" if scaling.size is None else f"objects of about {scaling.size:.0f} pixels"
    logger.info(
        f"{source}: {found}, seen at {' and '.join(f'{factor:.2g}' for factor in scaling.factors)} times its size"
    )
    return scaling


def _list_looks(longest: int) -> list[float]:
    if longest <= SHORT_SIDE:
        return [1.0, *COARSE_LOOKS]
    first = FINEST_LOOK * SHORT_SIDE / longest
    num_doublings = math.floor(math.log2(longest / SHORT_SIDE))
    return [*(first * 2**step for step in range(num_doublings + 1)), 1.0]


def _is_same(one: float, other: float) -> bool:
    return max(one, other) / min(one, other) < SAME_FACTOR


def split_sizes(sizes: Float64[np.ndarray, " objects"]) -> tuple[float, float] | None:
    """The median sizes of small and of large objects; None where there are not two clearly different sizes.

    The groups are those between which the logarithms' variance is largest (Otsu 1979).

    Args:
        sizes: Of the objects, above 0.
    """
    if len(sizes) < 2 * ENOUGH:
        return None
    logs = np.sort(np.log2(sizes))
    counts, sums = np.arange(1, len(logs)), np.cumsum(logs)[:-1]
    others = len(logs) - counts
    cut = 1 + int(np.argmax(counts * others * (sums / counts - (logs.sum() - sums) / others) ** 2))
    if min(cut, len(logs) - cut) < max(ENOUGH, MIXED_SHARE * len(logs)):
        return None
    small, large = 2 ** np.median(logs[:cut]), 2 ** np.median(logs[cut:])
    return (float(small), float(large)) if large / small >= MIXED_RATIO else None
