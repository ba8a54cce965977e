"""Data sets of several layouts on the disk, to be inspected, and what was found in them."""

import json

import numpy as np

from manymask.formats import read_dataset
from manymask.inspection import inspect
from manymask.inspection.inspector import inspect_dataset
from tests.formats.format_files import write_array
from tests.inspection.samples import draw_pixels

BOXES = [(4 * row, 4 * column, 4 * row + 3, 4 * column + 3) for row in range(1, 5) for column in range(2, 6)]


def draw_ids(*boxes, dtype="uint16"):
    ids = np.zeros((60, 80), dtype=dtype)
    for number, (top, left, bottom, right) in enumerate(boxes, start=1):
        ids[top:bottom, left:right] = number
    return ids


def write_pair(root, name, ids=None, pixels=None, suffix=".tif"):
    """An image with its label image."""
    seed = sum(map(ord, name))
    write_array(root / "images" / f"{name}.tif", draw_pixels(seed=seed)[..., 0] if pixels is None else pixels)
    return write_array(root / "labels" / f"{name}{suffix}", draw_ids(*BOXES) if ids is None else ids)


def write_masks(root, name, *masks):
    """An image with a file for each mask."""
    write_array(root / name / "images" / f"{name}.png", draw_pixels(seed=sum(map(ord, name)))[..., 0])
    for number, mask in enumerate(masks):
        write_array(root / name / "masks" / f"m{number}.png", mask.astype(np.uint8) * 255)


def write_coco(root, **annotations):
    """Images by name, each with its list of segmentations."""
    images, entries = [], []
    for number, (name, segmentations) in enumerate(annotations.items(), start=1):
        write_array(root / "images" / f"{name}.png", draw_pixels(seed=sum(map(ord, name)))[..., 0])
        images.append({"id": number, "file_name": f"{name}.png", "height": 60, "width": 80})
        for segmentation in segmentations:
            entries.append(
                {"id": 100 + len(entries), "image_id": number, "category_id": 3, "segmentation": segmentation}
            )
    content = {"images": images, "annotations": entries, "categories": [{"id": 3, "name": "seed"}]}
    (root / "annotations.json").write_text(json.dumps(content))


def rectangle(top, left, bottom, right):
    return [left, top, right, top, right, bottom, left, bottom]


def fix(root):
    """The actions for the one image that was repaired, and the areas of its instances then."""
    found = inspect(root / "data", output=root, fix=root / "fixed")
    return found.repairs, inspect_dataset(read_dataset(root / "fixed")).facts[0].instances.areas.tolist()


def list_kinds(inspection):
    return {(finding.image, finding.kind) for finding in inspection.findings if finding.image}


def count_instances(inspection):
    return {image.name: int(image.instances.is_object.sum()) for image in inspection.facts}


def find_one(inspection, image, kind):
    return next(finding for finding in inspection.findings if (finding.image, finding.kind) == (image, kind))


def assert_says(finding, image, part):
    assert part in finding.detail
    assert image in str(finding.path)
    assert finding.treatment
    assert finding.remedy
