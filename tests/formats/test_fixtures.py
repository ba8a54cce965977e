"""Files that the tools' own libraries wrote of known objects (fixtures/README.md) are read as these objects."""

from pathlib import Path

import numpy as np
import pytest

from manymask.formats import read_dataset
from manymask.formats.splits import find_splits
from tests.formats.fixtures.scene import CLASSES, SCENE

ROOT = Path(__file__).parent / "fixtures"
EXACT, POLYGON = 1.0, 0.98
# OpenCV's outlines end at the numbers of the last row and column, not at their edges, so that these two are lost.
THROUGH_CENTRES = 0.8


def compute_iou(first, second):
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


def read_parts(path, **options):
    """The data sets of a folder by part; ``all`` where it is not split."""
    parts = find_splits(path) or {"all": path}
    return {part: read_dataset(folder, **options) for part, folder in parts.items()}


@pytest.mark.parametrize(
    ("folder", "data_format", "is_split", "left_out", "least_iou"),
    [
        ("datumaro/coco_instances", "coco", True, {"holed"}, POLYGON),
        ("datumaro/coco_masks", "coco", False, set(), EXACT),
        ("datumaro/cvat", "cvat", False, set(), POLYGON),
        ("labelme", "labelme", False, set(), POLYGON),
        ("label_studio", "label_studio", False, set(), POLYGON),
        ("ome_zarr/0.4", "ome_zarr", False, set(), EXACT),
        ("ome_zarr/0.5", "ome_zarr", False, set(), EXACT),
        ("supervision/coco", "coco", True, {"holed"}, THROUGH_CENTRES),
    ],
)
def test_objects_classes_and_parts_are_those_that_were_written(folder, data_format, is_split, left_out, least_iou):
    if data_format == "ome_zarr":
        pytest.importorskip("zarr")
    # Datumaro marks masks in COCO files as crowd regions, supervision those of several parts.
    options = {"crowd_as_objects": True} if data_format == "coco" else {}
    datasets = read_parts(ROOT / folder, **options)
    names = {part: [record.name for record in dataset.records] for part, dataset in datasets.items()}
    assert names == ({"train": ["one"], "val": ["two"]} if is_split else {"all": ["one", "two"]})
    for dataset in datasets.values():
        assert dataset.format.name == data_format
        assert tuple(category.name for category in dataset.categories) == CLASSES
        assert [problem.message for problem in dataset.problems if problem.severity != "note"] == []
        for sample in dataset:
            expected = {key: known for key, known in SCENE[sample.name].items() if key not in left_out}
            instances = sample.to_instances()
            found = set()
            for label, mask in zip(instances.labels, instances.to_masks(), strict=True):
                ious = {key: compute_iou(known.mask, mask) for key, known in expected.items()}
                best = max(ious, key=ious.__getitem__)
                # Masks and boxes are exact in all of them.
                limit = EXACT if best in ("parts", "holed") and least_iou != THROUGH_CENTRES else least_iou
                assert (ious[best] >= limit, CLASSES[label - 1]) == (True, expected[best].category)
                found.add(best)
            assert (found, len(instances)) == (set(expected), len(expected))


def test_yolo_of_supervision_has_an_object_for_each_part():
    datasets = read_parts(ROOT / "supervision" / "yolo")
    assert {part: dataset.format.name for part, dataset in datasets.items()} == {"train": "yolo", "val": "yolo"}
    labels = {part: [CLASSES[label - 1] for label in dataset[0].labels] for part, dataset in datasets.items()}
    assert labels == {"train": ["cell", "cell", "cell"], "val": ["nucleus", "cell"]}
    for dataset in datasets.values():
        masks = dataset[0].to_instances().to_masks()
        shown = np.any([known.mask for key, known in SCENE[dataset[0].name].items() if key != "holed"], axis=0)
        assert compute_iou(masks.any(0), shown) > THROUGH_CENTRES


@pytest.mark.filterwarnings("ignore:.*crowd regions")
def test_masks_that_datumaro_marked_as_crowd_are_told():
    dataset = read_dataset(ROOT / "datumaro" / "coco_masks")
    assert "all 5 annotations are crowd regions" in dataset.problems[0].message
    assert dataset[0].iscrowd.all()


def test_boxes_that_label_studio_gives_outlines_of_coco_are_no_objects():
    dataset = read_dataset(ROOT / "label_studio")
    (note,) = (problem.message for problem in dataset.problems if "only the boxes" in problem.message)
    assert note.count("one: region") == note.count("two: region") == 1
