import json

import numpy as np
import pytest
from format_files import make_coco, make_ids, make_instances, make_pixels, write_array
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycoco_mask

from manymask.core import Category, Instances, RunLengths, encode_coco_rle
from manymask.errors import DatasetError, FormatError
from manymask.formats import encode_coco_results, read_coco, write_json
from manymask.formats.coco import _to_rle

TRIANGLE = {"segmentation": [[1, 1, 5, 1, 3, 4]]}
IMAGE = {"id": 5, "file_name": "a.png", "height": 6, "width": 8}


def test_image_without_annotations(tmp_path):
    sample = read_coco(make_coco(tmp_path, []))[0]
    assert len(sample.labels) == 0
    assert sample.layers.shape == (1, 6, 8)
    assert sample.image_id == 5


def test_categories_with_gaps_in_any_order(tmp_path):
    dataset = read_coco(make_coco(tmp_path, [TRIANGLE, TRIANGLE | {"category_id": 3}]))
    assert dataset.categories == (Category(3, "grain"), Category(7, "seed"))
    assert dataset[0].labels.tolist() == [2, 1]
    assert len(dataset[0].layers) == 2


def test_polygons_of_several_parts(tmp_path):
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [5, 3, 8, 3, 8, 6, 5, 6]]
    sample = read_coco(make_coco(tmp_path, [{"segmentation": parts}]))[0]
    expected = pycoco_mask.decode(pycoco_mask.merge(pycoco_mask.frPyObjects(parts, 6, 8)))
    np.testing.assert_array_equal(sample.to_instances().to_masks()[0], expected)


point = st.floats(-5, 45, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(point, point), min_size=3, max_size=9), min_size=1, max_size=3))
def test_polygons_are_filled_as_by_pycocotools(polygons):
    flat = [[float(number) for xy in polygon for number in xy] for polygon in polygons]
    assert _to_rle(flat, (30, 40)) == pycoco_mask.merge(pycoco_mask.frPyObjects(flat, 30, 40))


@pytest.mark.parametrize("is_compressed", [True, False])
def test_rle_with_a_hole(tmp_path, is_compressed):
    mask = make_ids((1, 1, 5, 6)) > 0
    mask[2:4, 3] = False
    rle = encode_coco_rle(make_instances(mask).runs)[0]
    if not is_compressed:
        changes = np.flatnonzero(np.diff(mask.T.ravel())) + 1
        rle["counts"] = np.diff(np.concatenate([[0], changes, [48]])).tolist()
    sample = read_coco(make_coco(tmp_path, [{"segmentation": rle, "iscrowd": 1}, TRIANGLE]))[0]
    np.testing.assert_array_equal(sample.to_instances().to_masks()[0], mask)
    assert sample.iscrowd.tolist() == [True, False]


@pytest.mark.parametrize("polygon", [[-9, -9, -8, -9, -8, -8], [1, 1, 3, 1, 5, 1]])
def test_polygon_without_pixels_is_no_instance(tmp_path, polygon):
    sample = read_coco(make_coco(tmp_path, [{"segmentation": [polygon]}, TRIANGLE | {"category_id": 3}]))[0]
    assert sample.labels.tolist() == [2, 1]
    instances = sample.to_instances()
    assert instances.labels.tolist() == [1]
    assert (instances.runs.areas > 0).all()


@pytest.mark.parametrize("place", ["x.png", "images/x.png", "val/x.png", "images/val/x.png"])
def test_images_of_a_file_in_annotations(tmp_path, place):
    path = make_coco(tmp_path / "old", [TRIANGLE], images=[IMAGE | {"file_name": "x.png"}])
    (tmp_path / "annotations").mkdir()
    path.rename(tmp_path / "annotations" / "instances_val.json")
    write_array(tmp_path / place, make_pixels())
    assert read_coco(tmp_path).records[0].path == tmp_path / place


def test_images_beside_the_file_and_at_a_relative_path(tmp_path):
    for place in ("x.png", "sub/y.png"):
        write_array(tmp_path / place, make_pixels())
    images = [IMAGE | {"file_name": "x.png"}, IMAGE | {"id": 2, "file_name": "sub/y.png"}]
    dataset = read_coco(make_coco(tmp_path, [], images=images))
    assert [(record.image_id, record.name) for record in dataset.records] == [(2, "y"), (5, "x")]


def test_folder_with_two_files_or_none_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="found none"):
        read_coco(tmp_path)
    make_coco(tmp_path, [TRIANGLE])
    (tmp_path / "_annotations.coco.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"_annotations\.coco\.json, .*annotations\.json"):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 4}, r"category 4, but 'categories' lists \[3, 7\]"),
        ({"category_id": None}, "category None"),
        ({"image_id": 6}, "image 6, which 'images' does not list"),
        ({"segmentation": [[0, 0, 5, 5]]}, "polygon of 4 numbers"),
        ({"segmentation": [[0, 0, 5, 5, 1, 3, 2]]}, "polygon of 7 numbers"),
        ({"segmentation": [[0, 0, 5, 5, "1", 3]]}, "finite numbers"),
        ({"segmentation": [[0, 0, 5, 5, float("nan"), 3]]}, "finite numbers"),
        ({"segmentation": []}, "has no segmentation"),
        ({"segmentation": None}, "has no segmentation"),
        ({"segmentation": {"size": [8, 6], "counts": [48]}}, r"size \[8, 6\], but the image is of size \[6, 8\]"),
        ({"segmentation": {"size": [6, 8], "counts": [47]}}, "add up to 47"),
        ({"segmentation": {"size": [6, 8], "counts": [1.5, 46.5]}}, "not numbers of pixels"),
        ({"segmentation": {"size": [6, 8], "counts": "~"}}, "not COCO's compressed text"),
        ({"segmentation": {"size": [6, 8]}}, "counts of type NoneType"),
        ({"iscrowd": 2}, "iscrowd 2"),
        ({"id": 1}, "id 1 occurs twice in 'annotations'"),
    ],
)
def test_bad_annotation_is_named_when_the_file_is_read(tmp_path, annotation, message):
    path = make_coco(tmp_path, [TRIANGLE, TRIANGLE | annotation])
    where = "annotations.json: " + ("" if "id" in annotation else "annotation 2")
    with pytest.raises(FormatError, match=f"{where}.*{message}"):
        read_coco(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [IMAGE, IMAGE]}, "id 5 occurs twice in 'images'"),
        ({"images": [{"id": 5, "file_name": "a.png"}]}, "image 5 needs file_name, and height and width"),
        ({"images": [IMAGE | {"id": "five"}]}, "entry 0 of 'images' has no whole number as id"),
        ({"categories": [{"id": 7, "name": "x"}] * 2}, "id 7 occurs twice in 'categories'"),
        ({"categories": [{"id": 7, "name": "x"}, {"id": 3, "name": "x"}]}, "category 7 has the name 'x' of category 3"),
        ({"categories": [{"id": 7}]}, "category 7 has no name"),
        ({"categories": []}, "lists no categories"),
        ({"annotations": None}, "no list 'annotations'"),
    ],
)
def test_bad_lists_are_refused(tmp_path, changes, message):
    with pytest.raises(FormatError, match=f"annotations.json.*{message}"):
        read_coco(make_coco(tmp_path, [TRIANGLE], **changes))


def test_no_images_missing_image_and_equal_names_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="lists no images"):
        read_coco(make_coco(tmp_path, [], images=[]))
    with pytest.raises(DatasetError, match=r"lists the image b\.png, which is not in"):
        read_coco(make_coco(tmp_path, [], images=[IMAGE | {"file_name": "b.png"}]))
    with pytest.raises(DatasetError, match=r"lists the image aaa.*\.png, which is not in"):
        read_coco(make_coco(tmp_path, [], images=[IMAGE | {"file_name": "a" * 300 + ".png"}]))
    with pytest.raises(DatasetError, match="both named 'a'"):
        read_coco(make_coco(tmp_path, [], images=[IMAGE, IMAGE | {"id": 6}]))


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_broken_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(FormatError, match=r"a\.json"):
        read_coco(tmp_path / "a.json")


def test_missing_json_is_refused(tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        read_coco(tmp_path / "a.json")


def test_folder_in_place_of_json_is_refused(tmp_path):
    (tmp_path / "annotations.json").mkdir()
    with pytest.raises(FormatError, match=r"annotations\.json cannot be read \(Is a directory\)"):
        read_coco(tmp_path)


def test_image_of_another_size_is_refused(tmp_path):
    dataset = read_coco(make_coco(tmp_path, [], images=[IMAGE | {"width": 9}]))
    with pytest.raises(DatasetError, match=r"gives image 5 as 6 x 9 .*a\.png is 6 x 8"):
        dataset[0]


def test_results_of_no_instances():
    nothing = Instances.from_runs(RunLengths.empty((6, 8)), np.zeros(0, np.int64))
    assert encode_coco_results(nothing, 1, (Category(7, "seed"),)) == []


def test_results(tmp_path):
    mask = make_ids((1, 2, 5, 6))
    instances = make_instances(mask, mask, labels=[2, 1], scores=[0.9, 0.1])
    instances.boxes[0] = [1.9, 0.7, 6.2, 5.1]
    results = encode_coco_results(instances, 11, (Category(3, "grain"), Category(7, "seed")))
    write_json(tmp_path / "r.json", results)
    first, second = json.loads((tmp_path / "r.json").read_text())
    assert (first["image_id"], first["category_id"], second["category_id"]) == (11, 7, 3)
    assert np.float32(first["score"]) == np.float32(0.9)
    np.testing.assert_allclose(first["bbox"], [1.9, 0.7, 4.3, 4.4], rtol=1e-6)
    assert second["bbox"] == [2, 1, 4, 4]
    np.testing.assert_array_equal(pycoco_mask.decode(second["segmentation"]), mask)


def test_real_data(shared_data):
    dataset = read_coco(shared_data / "powder")
    content = json.loads((shared_data / "powder" / "annotations.json").read_text())
    sample = dataset[0]
    own = [a for a in content["annotations"] if a["image_id"] == sample.image_id]
    size = tuple(sample.layers.shape[-2:])
    expected = [pycoco_mask.merge(pycoco_mask.frPyObjects(a["segmentation"], *size)) for a in own]
    results = encode_coco_results(sample.to_instances(), sample.image_id, dataset.categories)
    assert [r["segmentation"]["counts"].encode() for r in results] == [rle["counts"] for rle in expected]
    assert [r["category_id"] for r in results] == [a["category_id"] for a in own]
