"""How often each image is drawn for training."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from manymask.inspection.measurement import ImageFacts

# How often an image of a small kind may be drawn, in draws of the usual image: more often would be learnt by heart.
_MAX_REPEATS = 2.5


def weigh_images(facts: Sequence[ImageFacts], crop_size: int, num_classes: int) -> Float64[np.ndarray, " images"]:
    """Weights for ``sampling=balanced``: by kind of image, by size, and by the rarity of an image's rarest class.

    Images are of one kind where they look alike in two ways: in colour or not, and with objects brighter or darker than
    the rest. A kind's share of the draws goes by the cube root of its number of objects (as languages are drawn by the
    power 0.3 of their texts, arXiv 1911.02116), up to 2.5 times its share of the images. Within a kind an image's goes
    by the root of the number of its crops. An image without objects is of the commonest kind and counts as one object.

    Rarity is the root of how many more images hold the commonest class (repeat factors of LVIS, arXiv 1908.03195,
    appendix B, with the commonest class's share as the threshold).

    Args:
        facts: Of each training image.
        crop_size: Side of the crops in pixels; 0 for whole images.
        num_classes: Classes, without background.

    Returns:
        The weights, whose mean is 1 where no class is rarer than another.
    """
    return _weigh_kinds(facts, crop_size) * _measure_rarity(facts, num_classes)


def _weigh_kinds(facts: Sequence[ImageFacts], crop_size: int) -> Float64[np.ndarray, " images"]:
    areas = np.array([image.size[0] * image.size[1] for image in facts], dtype=np.float64)
    crops = np.maximum(areas / crop_size**2, 1.0) if crop_size else np.ones(len(facts))
    counts = np.array([max(int(image.instances.is_object.sum()), 1) for image in facts])
    kinds = np.array([2 * image.is_in_color + (image.has_bright_objects is True) for image in facts])
    is_known = np.array([image.has_bright_objects is not None for image in facts])
    kinds[~is_known] = np.bincount(kinds[is_known], minlength=1).argmax()  # else the commonest kind
    _, kind_of, num_images = np.unique(kinds, return_inverse=True, return_counts=True)
    num_objects = np.bincount(kind_of, counts)
    shares = _divide(np.cbrt(num_objects), _MAX_REPEATS * num_images / len(facts))
    within = np.sqrt(crops)
    return len(facts) * shares[kind_of] * within / np.bincount(kind_of, within)[kind_of]


def _divide(sizes: Float64[np.ndarray, " kinds"], limits: Float64[np.ndarray, " kinds"]) -> np.ndarray:
    """Shares in proportion to sizes, none above its limit; what one may not have goes to the others."""
    shares, left, sizes_left = np.zeros(len(sizes)), 1.0, sizes.sum()
    for kind in np.argsort(limits / sizes):  # those that reach their limits come first
        shares[kind] = min(limits[kind], left * sizes[kind] / sizes_left)
        left -= shares[kind]
        sizes_left -= sizes[kind]
    return shares


def _measure_rarity(facts: Sequence[ImageFacts], num_classes: int) -> Float64[np.ndarray, " images"]:
    """1 for the images that hold only the commonest class, or nothing."""
    present = np.zeros((len(facts), num_classes + 1))
    for row, image in enumerate(facts):
        present[row, image.instances.labels[image.instances.is_object]] = 1
    num_images = np.maximum(present.sum(axis=0), 1)
    rarity = np.sqrt(num_images[1:].max() / num_images)
    rarity[0] = 1.0
    present[:, 0] = 1  # an image without objects counts as one of the commonest class
    return (present * rarity).max(axis=1)
