"""A detector of what is bright, for processes of their own: it notes its calls, and can end its process.

``python -m tests.prediction.bright IMAGES OUTPUT CALLS ADDRESS`` predicts with it on Ray, slowly.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from manymask.modeling.detections import Detections
from manymask.prediction import Model, predict_files
from tests.tiny_model import CATEGORIES, make_tiny_plan

FORMATS = ["coco", "labels", "geojson", "imagej", "csv", "parquet", "overlay"]
TILE_SIZE = 384
# Height and width of an image that ends the process which looks at it.
POISON = (33, 47)


@dataclass
class Bright:
    """Finds the pieces of what is bright.

    Attributes:
        calls: The file that gets a line with the process's number at each call.
        pause: Seconds that a call takes.
        end_at: The line at which the process ends, once.
    """

    calls: Path
    pause: float = 0.0
    end_at: int = 0

    device = torch.device("cpu")

    def __call__(self, images):
        time.sleep(self.pause)
        with open(self.calls, "a") as file:
            file.write(f"{os.getpid()}\n")
        if len(list_calls(self.calls)) == self.end_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return [self.detect((image.mean(0) * 255).round().byte().numpy()) for image in images]

    def detect(self, grey):
        if grey.shape == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        number, pieces, table, _ = cv2.connectedComponentsWithStats((grey > 100).astype(np.uint8))
        left, top, width, height, area = table[1:].T
        boxes = torch.tensor(np.stack([left, top, left + width, top + height], axis=1), dtype=torch.float32)
        masks = [
            cv2.resize((pieces[y : y + h, x : x + w] == row).astype(np.float32), (28, 28))
            for row, x, y, w, h in zip(range(1, number), left, top, width, height, strict=True)
        ]
        probabilities = torch.tensor(np.stack(masks)) if masks else torch.zeros(0, 28, 28)
        scores = torch.tensor(1 - 1 / (1 + area), dtype=torch.float32)
        order = scores.argsort(descending=True, stable=True)
        labels = torch.ones(len(area), dtype=torch.int64)
        return Detections(boxes[order], labels[order], scores[order], probabilities[order])


def list_calls(calls: Path) -> list[str]:
    return calls.read_text().split() if calls.exists() else []


def make_model(calls: Path, **changes) -> Model:
    plan = make_tiny_plan(detections_per_image=1000, mask_threshold=0.5)
    plan = plan.model_copy(update={"data": plan.data.model_copy(update={"longest_object": 24.0})})
    return Model(Bright(calls, **changes), plan, CATEGORIES, Path("bright"))


def write_images(folder: Path, number: int) -> Path:
    """Small images, and between them in order a large one that is seen in tiles."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    sizes = [(60, 80)] * number
    sizes[number // 2] = (900, 1100)
    for place, (height, width) in enumerate(sizes):
        pixels = np.full((height, width, 3), 20, dtype=np.uint8)
        pixels[0, 0] = 255  # so that no image's own range of values makes it brighter
        for _ in range(height * width // 2000):
            top, left = rng.integers(2, height - 20), rng.integers(2, width - 20)
            pixels[top : top + rng.integers(5, 18), left : left + rng.integers(5, 18)] = 200
        cv2.imwrite(str(folder / f"{place:02}.png"), pixels)
    return folder


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


if __name__ == "__main__":
    images, output, calls, address = sys.argv[1:]
    model = make_model(Path(calls), pause=0.2)
    on = {"engine": "ray", "address": address, "num_workers": 1}
    predict_files(model, images, output, formats=FORMATS, tile_size=TILE_SIZE, **on)
