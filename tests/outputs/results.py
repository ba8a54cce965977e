"""Predictions that try writers: overlaps, holes, parts, corners, a hidden object, scores below the threshold."""

import numpy as np

from manymask.core import ArraySource, Category, Instances
from manymask.outputs import ImageEntry, close_writers

CATEGORIES = (Category(3, "grain"), Category(5, "seed, large"))
THRESHOLD = 0.5


def make_instances() -> Instances:
    """Seven objects of 40 x 60 pixels, by falling score; the last one is below the threshold."""
    masks = np.zeros((7, 40, 60), dtype=bool)
    masks[0, 2:20, 2:20] = True
    masks[0, 8:12, 8:12] = False  # a hole
    masks[1, 15:30, 15:40] = True  # overlaps the first
    masks[2, 30:34, 50:54] = masks[2, 34:38, 54:58] = masks[2, 0:3, 40:60] = True  # parts, two meet in a corner
    masks[3, 16:18, 16:18] = True  # hidden by the first
    masks[4, 25:28, 30:50] = True  # overlaps the second
    masks[5, 39, 59] = True  # a pixel in a corner of the image
    masks[6, 5:9, 50:55] = True
    labels = np.array([1, 2, 1, 1, 2, 2, 1])
    scores = np.array([0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.3], dtype=np.float32)
    return Instances.from_runs(Instances.from_masks(masks, labels).runs, labels, scores=scores)


# Rows by id: the hidden one comes last, the one below the threshold has none.
ROWS = [0, 1, 2, 4, 5, 3]


class Image(ArraySource):
    """An image in memory whose pixels have a size."""

    pixel_size = (0.5, 0.5)


def make_image(size=(40, 60), num_channels=3) -> Image:
    values = np.random.default_rng(3).integers(0, 4096, (*size, num_channels))
    return Image(values.astype(np.uint16))


def write(kind, folder, instances=None, image=None):
    """Write the predictions of one image, named ``a``."""
    image = image or make_image()
    with close_writers([writer := kind(folder, ["a"], CATEGORIES, THRESHOLD)]):
        writer.write(ImageEntry(1, "a", "in/a.png", image), make_instances() if instances is None else instances)
