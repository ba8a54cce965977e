"""How often each image is drawn for training."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from manymask.inspection.measurement import ImageFacts


def weigh_images(facts: Sequence[ImageFacts], crop_size: int, num_classes: int) -> Float64[np.ndarray, " images"]:
    """Weights for ``sampling=balanced``: an image's crops, times the rarity of its rarest class.

    Rarity is the root of how many more images hold the commonest class (repeat factors of LVIS, arXiv 1908.03195,
    appendix B, with the commonest class's share as the threshold).

    Args:
        facts: Of each training image.
        crop_size: Side of the crops in pixels; 0 for whole images.
        num_classes: Classes, without background.
    """
    areas = np.array([image.size[0] * image.size[1] for image in facts], dtype=np.float64)
    crops = np.maximum(areas / crop_size**2, 1.0) if crop_size else np.ones(len(facts))
    present = np.zeros((len(facts), num_classes + 1))
    for row, image in enumerate(facts):
        present[row, image.instances.labels[image.instances.is_object]] = 1
    num_images = np.maximum(present.sum(axis=0), 1)
    rarity = np.sqrt(num_images[1:].max() / num_images)
    rarity[0] = 1.0
    present[:, 0] = 1  # an image without objects counts as one of the commonest class
    return crops * (present * rarity).max(axis=1)
