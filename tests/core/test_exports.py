"""What ``Instances`` gives to other libraries."""

import json
import sys

import numpy as np
import pytest
import shapely
import supervision
from hypothesis import given, settings

from manymask.core import ArraySource, Instances
from manymask.errors import ManymaskError
from tests import dense
from tests.strategies import stacks


def make_instances(masks):
    rows = np.arange(len(masks))
    scores = (0.9 - rows / 100).astype(np.float32)
    return Instances.from_runs(dense.encode_runs(masks), rows % 2 + 1, scores=scores)


def make_squares():
    """Two squares that overlap, and a crowd region."""
    masks = np.zeros((3, 8, 9), dtype=bool)
    masks[0, 1:4, 1:4] = masks[1, 3:7, 3:7] = masks[2, 0, :] = True
    instances = make_instances(masks)
    return Instances(instances.runs, instances.labels, instances.scores, instances.boxes, np.array([0, 0, 1], bool))


def test_labels_give_overlaps_to_the_higher_score():
    ids = make_squares()[[1, 0, 2]].to_labels()
    assert ids.dtype == np.int32
    assert [(ids == id_).sum() for id_ in (1, 2, 3)] == [9, 15, 0]


@settings(max_examples=20, deadline=None)
@given(stacks(max_instances=4))
def test_geojson_holds_the_masks(masks):
    instances = make_instances(masks)
    collection = json.loads(json.dumps(instances.to_geojson(["cell", "seed"])))
    order = [row for row in range(len(masks)) if masks[row].any()]
    assert len(collection["features"]) == len(order)
    for feature in collection["features"]:
        label = feature["properties"]["measurements"]["label"]
        row = instances.scores.tolist().index(np.float32(feature["properties"]["measurements"]["score"]))
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        x, y = np.meshgrid(np.arange(masks.shape[2]) + 0.5, np.arange(masks.shape[1]) + 0.5)
        np.testing.assert_array_equal(shapely.contains_xy(shape, x, y), masks[row])
        np.testing.assert_array_equal(instances.sort_by_id()[label - 1].to_masks()[0], masks[row])


def test_dataframe_joins_labels():
    instances = make_squares()
    pixels = np.arange(72, dtype=np.uint8).reshape(8, 9)
    table, bare = instances.to_dataframe(pixels, ["cell", "seed"]), instances.to_dataframe()
    assert table["label"].tolist() == [1, 2]
    assert table["class"].tolist() == ["cell", "seed"]
    assert bare["class"].tolist() == ["class 1", "class 2"]
    assert table["area"].tolist() == [9, 16]
    assert table["intensity_mean"].tolist() == [pixels[1:4, 1:4].mean(), pixels[3:7, 3:7].mean()]
    assert not any(name.startswith("intensity") for name in bare)
    color = instances.to_dataframe(ArraySource(np.zeros((8, 9, 3), np.uint8)))
    assert "intensity_std-2" in color
    with pytest.raises(ValueError, match="expected masks of the image's size"):
        instances.to_dataframe(pixels[1:])
    with pytest.raises(ValueError, match="expected names of 2 classes, got 1"):
        instances.to_dataframe(class_names=["cell"])


@settings(max_examples=20, deadline=None)
@given(stacks(min_instances=1))
def test_supervision_has_the_masks_without_a_dense_stack(masks):
    instances = make_instances(masks)
    detections = instances.to_supervision()
    assert isinstance(detections.mask, supervision.CompactMask)
    np.testing.assert_array_equal(detections.mask.to_dense(), masks)
    np.testing.assert_array_equal(detections.xyxy, instances.boxes)
    np.testing.assert_array_equal(detections.confidence, instances.scores)
    np.testing.assert_array_equal(detections.class_id, instances.labels)
    np.testing.assert_array_equal(detections[:1].mask.to_dense(), masks[:1])


def test_nothing_found():
    nothing = make_squares()[:0]
    assert nothing.to_geojson()["features"] == []
    assert len(nothing.to_dataframe()) == len(nothing.to_supervision()) == 0
    assert "axis_minor_length" in nothing.to_dataframe()
    assert not nothing.to_labels().any()


@pytest.mark.parametrize(
    ("module", "extra", "name"), [("pandas", "tables", "dataframe"), ("supervision", "supervision", "supervision")]
)
def test_a_missing_package_is_named_with_its_extra(module, extra, name, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ManymaskError, match=rf"needs {module}; install it with: pip install 'manymask\[{extra}\]'"):
        getattr(make_squares(), f"to_{name}")()
