import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycoco_mask

from manymask.core import Category, Instances, RunLengths, encode_coco_rle, write_json
from manymask.errors import DatasetError, FormatError
from manymask.formats import encode_coco_results, read_dataset
from manymask.formats.coco import read_coco
from manymask.formats.coco_masks import _to_rle
from manymask.formats.datasets import open_dataset
from tests.formats.format_files import make_coco, make_ids, make_instances, make_pixels, write_array

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
    with pytest.raises(DatasetError, match="holds no .*annotations.*; give the JSON file"):
        read_coco(tmp_path)
    path = make_coco(tmp_path, [TRIANGLE])
    (tmp_path / "_annotations.coco.json").write_bytes(path.read_bytes())
    with pytest.raises(DatasetError, match=r"2 COCO files \(.*_annotations\.coco\.json, .*annotations\.json\)"):
        read_coco(tmp_path)


def test_a_file_without_cocos_lists_does_not_count(tmp_path):
    make_coco(tmp_path, [TRIANGLE])
    (tmp_path / "instances_captions.json").write_text("{}")
    assert len(read_coco(tmp_path)[0].labels) == 1


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 4}, "category_id 4, but 'categories' lists 3, 7"),
        ({"category_id": "seven"}, "category_id 'seven', but"),
        ({"category_id": None}, "category_id None"),
        ({"image_id": 6}, "image_id 6, which 'images' does not list"),
        ({"image_id": "5a"}, "image_id '5a', which"),
        ({"segmentation": [[0, 0, 5, 5]]}, "polygon of 4 numbers"),
        ({"segmentation": [[0, 0, 5, 5, 1, 3, 2]]}, "polygon of 7 numbers"),
        ({"segmentation": [[0, 0, 5, 0, 5, 5], "box"]}, "'box' as polygon"),
        ({"segmentation": [[0, 0, 5, 5, "x", 3]]}, "polygon with 'x', expected pixels"),
        ({"segmentation": [[0, 0, 5, 5, float("nan"), 3]]}, "polygon with nan"),
        ({"segmentation": [[0, 0, 5, 5, 1e300, 3]]}, r"polygon with 1e\+300"),
        ({"segmentation": []}, "has no segmentation"),
        ({"segmentation": [[]]}, "has no segmentation"),
        ({"segmentation": None}, "has no segmentation"),
        ({"segmentation": {"size": [8, 6], "counts": [48]}}, r"size \[8, 6\], but the image is of size \[6, 8\]"),
        ({"segmentation": {"size": [6, 8], "counts": [47]}}, "add up to 47"),
        ({"segmentation": {"size": [6, 8], "counts": [1.5, 46.5]}}, "not numbers of pixels"),
        ({"segmentation": {"size": [6, 8], "counts": "~"}}, "not COCO's compressed text"),
        ({"segmentation": {"size": [6, 8]}}, "counts of type NoneType"),
        ({"segmentation": {"size": [6, 8], "counts": "40, x"}}, "not numbers of pixels"),
        ({"iscrowd": 2}, "iscrowd 2, expected 0 or 1"),
        ({"iscrowd": "no"}, "iscrowd 'no'"),
        ({"iscrowd": [0]}, r"iscrowd \[0\]"),
    ],
)
def test_bad_annotation_is_named_when_the_file_is_read(tmp_path, annotation, message):
    path = make_coco(tmp_path, [TRIANGLE, TRIANGLE | annotation])
    with pytest.warns(UserWarning, match=f"left out 1 of 2 objects, .*annotation 2.*{message}.*manymask inspect"):
        assert len(read_dataset(path)[0].labels) == 1
    dataset = open_dataset(path)
    assert [(problem.kind, problem.severity) for problem in dataset.problems] == [("bad-annotation", "fault")]
    assert len(dataset[0].labels) == 1
    assert dataset[0].to_instances().runs.areas.sum() > 0


def test_all_bad_annotations_are_counted_and_five_named(tmp_path):
    path = make_coco(tmp_path, [TRIANGLE, *[{"segmentation": []}] * 7])
    with pytest.warns(UserWarning, match=r"left out 7 of 8 objects, .*: annotation 2 .*annotation 6 .*and 2 more; see"):
        read_dataset(path)


def test_boxes_alone_are_refused(tmp_path):
    path = make_coco(tmp_path, [{"segmentation": [], "bbox": [1, 1, 3, 3]}] * 3)
    with pytest.raises(FormatError, match=r"none of the 3 objects .* the first: .*annotation 1 .* needs masks: add a"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([IMAGE, IMAGE | {"file_name": "b.png"}], "id 5 occurs twice in 'images'"),
        ([IMAGE, IMAGE | {"id": 6}], "images 5 and 6 are the same file"),
        ([IMAGE, {"id": 6}], "image 6 has no file_name"),
        ([IMAGE, IMAGE | {"id": None}], "entry 1 of 'images' has no id"),
        ([IMAGE, IMAGE | {"id": 6, "file_name": "b.png"}], r"lists the image b\.png, which is not in"),
    ],
)
def test_bad_entries_of_images_are_left_out(tmp_path, entries, message):
    path = make_coco(tmp_path, [TRIANGLE], images=entries)
    with pytest.warns(UserWarning, match=f"left out 1 of 2 images, which cannot be used: {message}"):
        assert len(read_dataset(path)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 7, "name": "x"}] * 2}, "id 7 occurs twice in 'categories'"),
        ({"categories": [{"id": 7, "name": "x"}, {"id": 3, "name": "x"}]}, "category 7 has the name 'x' of category 3"),
        ({"categories": [{"id": "seven", "name": "x"}]}, "entry 0 of 'categories' has no whole number as id"),
        ({"categories": [], "annotations": []}, "lists no categories"),
        ({"annotations": None}, "no list 'annotations'"),
    ],
)
def test_bad_lists_are_refused(tmp_path, changes, message):
    with pytest.raises(FormatError, match=f"annotations.json.*{message}"):
        read_dataset(make_coco(tmp_path, [TRIANGLE], **changes))


def test_no_images_missing_image_and_equal_names_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="lists no images"):
        read_dataset(make_coco(tmp_path, [], images=[]))
    with pytest.raises(DatasetError, match=r"lists the image b\.png, which is not in"):
        read_dataset(make_coco(tmp_path, [], images=[IMAGE | {"file_name": "b.png"}]))
    with pytest.raises(DatasetError, match=r"lists the image aaa.*\.png, which is not in"):
        read_dataset(make_coco(tmp_path, [], images=[IMAGE | {"file_name": "a" * 300 + ".png"}]))
    write_array(tmp_path / "images" / "a.jpg", make_pixels())
    with pytest.raises(DatasetError, match="both named 'a'"):
        read_dataset(make_coco(tmp_path, [], images=[IMAGE, IMAGE | {"id": 6, "file_name": "a.jpg"}]))


def as_floats(content):
    for entry in (*content["images"], *content["annotations"], *content["categories"]):
        entry |= {
            name: float(entry[name]) for name in ("id", "image_id", "category_id", "height", "width") if name in entry
        }


def as_text(content):
    content["images"][0]["id"] = "5"
    for entry in content["annotations"]:
        entry |= {"image_id": "5", "category_id": "7", "iscrowd": "0"}
        entry["segmentation"] = [[str(number) for number in entry["segmentation"][0]]]


def change_each(**changes):
    def change(content):
        for entry in content["annotations"]:
            entry |= {name: make(entry) for name, make in changes.items()}

    return change


def points(entry):
    flat = entry["segmentation"][0]
    return [[[x, y] for x, y in zip(flat[::2], flat[1::2], strict=True)]]


# Ways in which other tools write the same annotations: CVAT and pandas (floats), Label Studio (text), VIA (flat),
# coco-annotator (parts of one point), LIVECell (an object by id), MATLAB (one entry in place of a list).
DIALECTS = {
    "floats": as_floats,
    "text": as_text,
    "crowd of words": change_each(iscrowd=lambda entry: "False"),
    "crowd of null": change_each(iscrowd=lambda entry: None),
    "flat polygon": change_each(segmentation=lambda entry: entry["segmentation"][0]),
    "polygon nested once more": change_each(segmentation=lambda entry: [entry["segmentation"]]),
    "pairs of points": change_each(segmentation=points),
    "parts of one and two points": change_each(
        segmentation=lambda entry: [[5, 5], *entry["segmentation"], [1, 1, 2, 2], []]
    ),
    "no ids": lambda content: [entry.pop("id") for entry in content["annotations"]],
    "equal ids": change_each(id=lambda entry: 1),
    "annotations by id": lambda content: content.update(annotations={str(a["id"]): a for a in content["annotations"]}),
    "one image as an object": lambda content: content.update(images=content["images"][0]),
    "no size": lambda content: [content["images"][0].pop(side) for side in ("height", "width")],
    "an image twice": lambda content: content["images"].append(dict(content["images"][0])),
    "ids of text": lambda content: (
        content["images"][0].update(id="3f-2a"),
        change_each(image_id=lambda entry: "3f-2a")(content),
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_other_tools_write_is_read_as_it_is_meant(tmp_path, dialect):
    path = make_coco(tmp_path, [TRIANGLE, {"segmentation": [[3, 3, 7, 3, 7, 6]]}])
    expected = read_dataset(path)[0]
    content = json.loads(path.read_text())
    DIALECTS[dialect](content)
    path.write_text(json.dumps(content))
    dataset = read_dataset(path)
    np.testing.assert_array_equal(dataset[0].layers, expected.layers)
    assert dataset[0].labels.tolist() == expected.labels.tolist() == [2, 2]
    assert not dataset[0].iscrowd.any()
    assert dataset.has_image_ids == (dialect != "ids of text")


def test_counts_as_floats_or_text_and_rle_in_a_list(tmp_path):
    rle = {"size": [6.0, 8.0], "counts": [7.0, 3.0, 38.0]}
    text = rle | {"counts": "[7, 3, 38]"}
    sample = read_dataset(make_coco(tmp_path, [{"segmentation": each} for each in (rle, [rle], text)]))[0]
    assert sample.to_instances().runs.areas.tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("images/a.png", "images\\a.png"),
        ("images/a.png", "..\\..\\media\\upload\\4\\a.png"),
        ("images/a.png", "/home/someone/data/a.png"),
        ("images/a.png", "C:\\data\\a.png"),
        ("images/a.png", "https://example.org/a.png"),
        ("images/a.png", "A.PNG"),
        ("images/a.png", "a"),
        ("images/my a.png", "my%20a.png"),
        ("images/plate/a.png", "a.png"),
        ("data/a.png", "a.png"),
    ],
)
def test_images_are_found_by_name_in_the_data_folder(tmp_path, name, file_name):
    path = make_coco(tmp_path, [TRIANGLE], images=[IMAGE | {"file_name": file_name}])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "images" / "a.png").rename(tmp_path / name)
    assert read_dataset(path).records[0].path == tmp_path / name


def test_a_name_that_fits_two_images_is_refused(tmp_path):
    for folder in "xy":
        write_array(tmp_path / folder / "b.png", make_pixels())
    with pytest.raises(DatasetError, match=r"there are .*b\.png and .*b\.png; give the one that is meant"):
        read_dataset(make_coco(tmp_path, [TRIANGLE], images=[IMAGE | {"file_name": "b.png"}]))


def test_another_ending_is_taken_beside_the_place_and_nowhere_else(tmp_path):
    """Elsewhere an image of that name may be its mask."""
    path = make_coco(tmp_path, [TRIANGLE], images=[IMAGE | {"file_name": "a.jpg"}])
    write_array(tmp_path / "masks" / "a.png", make_pixels())
    dataset = read_dataset(path)
    assert dataset.records[0].path == tmp_path / "images" / "a.png"
    assert [(problem.kind, problem.severity) for problem in dataset.problems] == [("unusual-entries", "note")]
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"lists the image a\.jpg, .* but .*a\.png is; correct the ending"):
        read_dataset(path)


@pytest.mark.parametrize("key", ["filename", "path"])
def test_images_under_other_keys(tmp_path, key):
    images = [{"id": 5, "height": 6, "width": 8, key: "a.png"}]
    assert read_dataset(make_coco(tmp_path, [TRIANGLE], images=images)).records[0].name == "a"


@pytest.mark.parametrize("size", [{}, {"height": None}, {"height": float("nan")}, {"height": 1e400}, {"width": "wide"}])
def test_the_size_of_an_image_that_its_entry_does_not_give(tmp_path, size):
    image = IMAGE | size if size else {"id": 5, "file_name": "a.png"}
    assert read_dataset(make_coco(tmp_path, [TRIANGLE], images=[image]))[0].image.size == (6, 8)


def test_an_image_of_which_no_object_can_be_used_is_left_out(tmp_path):
    """As an example of background it would teach the wrong thing; one without annotations shows none."""
    for name in "bc":
        write_array(tmp_path / "images" / f"{name}.png", make_pixels())
    images = [IMAGE, IMAGE | {"id": 6, "file_name": "b.png"}, IMAGE | {"id": 7, "file_name": "c.png"}]
    bad = {"image_id": 6, "segmentation": []}
    path = make_coco(tmp_path, [TRIANGLE, bad, bad], images=images)
    with pytest.warns(UserWarning, match=r"left out 2 of 3 objects and 1 of 3 images, .*b\.png has objects, but none"):
        assert [record.name for record in read_dataset(path).records] == ["a", "c"]
    assert [problem.kind for problem in open_dataset(path).problems] == ["bad-annotation"] * 2 + ["incomplete-image"]


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("latin-1"),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: gzip.compress(text.encode()),
    ],
)
def test_codings_of_the_file(tmp_path, encode):
    path = make_coco(tmp_path, [TRIANGLE], categories=[{"id": 7, "name": "Zellk\u00f6rper"}])
    path.write_bytes(encode(json.dumps(json.loads(path.read_text()), ensure_ascii=False)))
    assert read_dataset(path).categories == (Category(7, "Zellk\u00f6rper"),)


def test_a_compressed_file_by_its_name(tmp_path):
    path = make_coco(tmp_path, [TRIANGLE])
    packed = path.with_name("annotations.json.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    for place in (tmp_path, packed):
        assert read_dataset(place).format.name == "coco"


@pytest.mark.parametrize("file_name", ["../secret.png", "{}/secret.png", "..\\secret.png", "images/../../secret.png"])
def test_no_file_name_leads_out_of_the_data_folder(tmp_path, file_name):
    write_array(tmp_path / "secret.png", make_pixels())
    path = make_coco(tmp_path / "data", [TRIANGLE], images=[IMAGE | {"file_name": file_name.format(tmp_path)}])
    with pytest.raises(DatasetError, match="leads out of the data folder"):
        read_dataset(path)
    assert open_dataset(path).records == ()


def test_paths_inside_the_data_folder_may_be_absolute_or_go_up(tmp_path):
    images = [IMAGE | {"file_name": "../images/a.png"}, IMAGE | {"id": 6, "file_name": f"{tmp_path}/images/b.png"}]
    path = make_coco(tmp_path, [TRIANGLE], images=images)
    write_array(tmp_path / "images" / "b.png", make_pixels())
    (tmp_path / "annotations").mkdir()
    path.rename(tmp_path / "annotations" / "x.json")
    paths = [record.path for record in read_dataset(tmp_path / "annotations" / "x.json").records]
    assert paths == [tmp_path / "images" / "a.png", tmp_path / "images" / "b.png"]


def test_images_of_equal_stem_in_two_folders(tmp_path):
    for folder in "xy":
        write_array(tmp_path / "images" / folder / "1.png", make_pixels())
    images = [IMAGE | {"id": i, "file_name": name} for i, name in enumerate(("x/1.png", "y/1.png", "a.png"), start=5)]
    records = read_dataset(make_coco(tmp_path, [TRIANGLE], images=images)).records
    assert [record.name for record in records] == ["x_1", "y_1", "a"]


@pytest.mark.parametrize("name", ["result.json", "labels.json", "annotations/train.json"])
def test_a_file_of_another_name_is_found_by_its_lists(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make_coco(tmp_path, [TRIANGLE]).rename(tmp_path / name)
    (tmp_path / "classes.json").write_text("[]")
    dataset = read_dataset(tmp_path)
    assert (dataset.format.name, len(dataset[0].labels)) == ("coco", 1)


ROOT = {"id": 0, "name": "seed", "supercategory": "none"}
LEAF = {"id": 7, "name": "seed", "supercategory": "seed"}


@pytest.mark.parametrize("name", ["seed", "seeds"])
def test_the_root_category_of_roboflow_is_no_class(tmp_path, name):
    root, leaf = ROOT | {"name": name}, LEAF | {"supercategory": name}
    dataset = read_dataset(make_coco(tmp_path, [TRIANGLE], categories=[root, leaf]))
    assert dataset.categories == (Category(7, "seed"),)
    assert [(problem.kind, problem.severity) for problem in dataset.problems] == [("unusual-entries", "note")]


@pytest.mark.parametrize(
    "categories",
    [
        [ROOT | {"name": "seeds", "supercategory": "plants"}, LEAF | {"supercategory": "seeds"}],  # is no root
        [ROOT | {"name": "seeds"}, LEAF | {"supercategory": "seeds"}, LEAF | {"id": 8, "name": "x"}],  # not of all
        [ROOT | {"name": "seeds", "id": 3}, LEAF | {"supercategory": "seeds"}],  # has an annotation
    ],
)
def test_other_categories_of_a_hierarchy_are_classes(tmp_path, categories):
    annotations = [TRIANGLE, TRIANGLE | {"category_id": categories[0]["id"] or 7}]
    found = read_dataset(make_coco(tmp_path, annotations, categories=categories)).categories
    assert len(found) == len(categories)


def test_a_file_name_in_another_form_of_unicode_is_the_same(tmp_path):
    """Also where another folder holds an image of that name."""
    images = [{"id": 5, "file_name": "\u00e4/\u00e4.png", "height": 6, "width": 8}]
    path = make_coco(tmp_path, [TRIANGLE], images=images)
    for folder in ("a\u0308", "b"):
        write_array(tmp_path / "images" / folder / "a\u0308.png", make_pixels())
    dataset = read_dataset(path)
    assert [record.path.parent.name for record in dataset.records] == ["a\u0308"]
    assert dataset.problems == ()


def test_a_moved_file_in_another_form_of_unicode_is_found(tmp_path):
    images = [{"id": 5, "file_name": "elsewhere/\u00c4.png", "height": 6, "width": 8}]
    path = make_coco(tmp_path, [TRIANGLE], images=images)
    write_array(tmp_path / "images" / "b" / "a\u0308.png", make_pixels())
    assert [record.name for record in read_dataset(path).records] == ["a\u0308"]


def test_splits_of_one_file_keep_a_parent_that_one_has_no_annotation_of(tmp_path):
    """Only id 0 is Roboflow's root; and a split without any annotation does not tell what is a class."""
    parent, child = ROOT | {"id": 1}, LEAF | {"name": "mitotic"}
    for number, (categories, annotations) in enumerate([([parent, child], [TRIANGLE]), ([ROOT, child], [])]):
        path = make_coco(tmp_path / str(number), annotations, categories=categories)
        assert [category.name for category in read_dataset(path).categories] == ["seed", "mitotic"]


def test_categories_without_a_list_or_without_names(tmp_path):
    assert read_dataset(make_coco(tmp_path, [TRIANGLE], categories=[])).categories == (Category(7, "class7"),)
    assert read_dataset(make_coco(tmp_path, [TRIANGLE], categories=[{"id": 7}])).categories == (Category(7, "class7"),)
    assert read_dataset(make_coco(tmp_path, [TRIANGLE], categories=LEAF)).categories == (Category(7, "seed"),)


def test_crowd_regions_are_counted_and_can_be_taken_as_objects(tmp_path):
    path = make_coco(tmp_path, [TRIANGLE, TRIANGLE | {"iscrowd": 1}, TRIANGLE | {"iscrowd": 1}])
    with pytest.warns(UserWarning, match="2 of 3 annotations are crowd regions .*crowd_as_objects=true"):
        assert read_dataset(path)[0].iscrowd.tolist() == [False, True, True]
    assert read_dataset(path, crowd_as_objects=True)[0].iscrowd.tolist() == [False] * 3
    with pytest.warns(UserWarning, match="all 2 annotations are crowd regions .*crowd_as_objects=true"):
        read_dataset(make_coco(tmp_path, [TRIANGLE | {"iscrowd": 1}] * 2))


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
