"""Images, and predictions of them, for the tests of prediction."""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from manymask.core import Instances
from manymask.prediction import (
    Model,
    predict,
)
from tests import dense


def make_pixels(height: int = 40, width: int = 52, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def write_images(folder: Path, *names: str) -> Path:
    """PNG or TIFF files of different sizes."""
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        pixels = make_pixels(36 + 4 * index, 48, seed=index)
        if name.endswith(".tif"):
            tifffile.imwrite(folder / name, pixels, photometric="rgb")
        else:
            Image.fromarray(pixels).save(folder / name)
    return folder


def assert_same_instances(found: Instances, expected: Instances) -> None:
    dense.assert_same_runs(found.runs, expected.runs)
    for name in ("labels", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)


def predict_one(model: Model, image) -> Instances:
    (instances,) = predict(model, [image], min_score=0.0)
    return instances
