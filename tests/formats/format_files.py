"""Small files and instances for the tests of formats."""

import json
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

from manymask.core import Dataset, InstanceLayers, Instances
from manymask.formats.ids import read_label_image


def write_array(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, **options)
    else:
        Image.fromarray(array).save(path, **options)
    return path


def write_seg(path: Path, content: object) -> Path:
    """A file as Cellpose saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content, allow_pickle=True)
    return path


def cut_short(path: Path, fraction: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def read_ids(path: Path) -> np.ndarray:
    """The ids of a label image as they are stored."""
    label = read_label_image(path, is_checked=False)
    return np.append(0, label.old_ids)[label.ids]


def make_pixels(height: int = 6, width: int = 8, channels: int = 3, dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 250, (height, width, channels))
    return values.astype(dtype)


def make_ids(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (6, 8), dtype: str = "uint16") -> np.ndarray:
    """A label image of boxes top, left, bottom, right; ids 1, 2, ..."""
    ids = np.zeros(size, dtype=dtype)
    for number, (top, left, bottom, right) in enumerate(boxes, start=1):
        ids[top:bottom, left:right] = number
    return ids


def make_instances(*masks: np.ndarray, labels: list[int] | None = None, scores: list[float] | None = None) -> Instances:
    instances = Instances.from_masks(np.stack(masks).astype(bool), np.array(labels or [1] * len(masks)))
    if scores is None:
        return instances
    return Instances.from_runs(instances.runs, instances.labels, scores=np.array(scores, dtype=np.float32))


def make_many(num_instances: int, width: int) -> Instances:
    """Instances of one pixel each that fill an image."""
    layers = InstanceLayers(torch.arange(1, num_instances + 1).reshape(1, -1, width))
    return Instances.from_layers(layers, np.ones(num_instances, dtype=np.int64))


def make_coco(root: Path, entries: list[dict], **changes) -> Path:
    """One image of 6 x 8 named a.png, categories 3 and 7; ``changes`` replace whole lists."""
    write_array(root / "images" / "a.png", make_pixels())
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": 6, "width": 8}],
        "categories": [{"id": 7, "name": "seed"}, {"id": 3, "name": "grain"}],
        "annotations": [{"id": i, "image_id": 5, "category_id": 7} | a for i, a in enumerate(entries, start=1)],
    }
    path = root / "annotations.json"
    path.write_text(json.dumps(content | changes))
    return path


def copy_with(dataset: Dataset, folder: Path, *masks: np.ndarray, labels: list[int]) -> Dataset:
    """A copy of a data set in its format, of its first image with other objects, read again."""
    writer = dataset.format.open_writer(folder, dataset)
    writer.write(dataset.records[0], make_instances(*masks, labels=labels), np.arange(len(masks)))
    writer.close()
    return dataset.format.read(folder)
