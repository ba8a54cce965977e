"""What all readers share: numbering of images, and samples of one category."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64, Shaped

from manymask.core import Category, Doubt, InstanceLayers, Record, Sample
from manymask.errors import DatasetError
from manymask.imaging.files import check_unique_names

OBJECT_CATEGORIES = (Category(1, "object"),)


def make_records(entries: Iterable[tuple[str, Path, Any]], root: Path) -> tuple[Record, ...]:
    """Number images from 1 in the order of their names.

    Args:
        entries: Name, image file and annotation of each image.
        root: The data set, for the message.

    Raises:
        DatasetError: There are no images, or two of them have the same name.
    """
    ordered = sorted(entries, key=lambda entry: (entry[0], str(entry[1])))
    if not ordered:
        raise DatasetError(f"{root} holds no images with labels; give a folder that holds at least one")
    check_unique_names((name, path) for name, path, _ in ordered)
    return tuple(Record(image_id, *entry) for image_id, entry in enumerate(ordered, start=1))


def make_sample(
    record: Record,
    pixels: Shaped[np.ndarray, "height width channels"],
    layers: InstanceLayers | Int32[np.ndarray, "height width"],
    labels: Int64[np.ndarray, " instances"],
    iscrowd: Bool[np.ndarray, " instances"] | None = None,
    doubts: tuple[Doubt, ...] = (),
) -> Sample:
    """Put a sample together; one label image stands for a stack of one layer."""
    if isinstance(layers, np.ndarray):
        layers = InstanceLayers(torch.from_numpy(layers[None]))
    iscrowd = np.zeros(len(labels), dtype=bool) if iscrowd is None else iscrowd
    return Sample(record.image_id, record.name, record.path, pixels, layers, labels, iscrowd, doubts)
