import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manymask.core import Category, Dataset, Instances, Record, RunLengths, write_json
from manymask.core.outputs import record_outputs
from manymask.errors import DatasetError, FormatError
from manymask.formats import encode_coco_results, write_label_image
from manymask.formats.coco import read_coco
from manymask.formats.datasets import FORMATS
from manymask.formats.label_images import read_label_images
from manymask.formats.stored import StoredPredictions, read_predictions
from tests.dense import assert_same_runs, count_pixels
from tests.formats.format_files import (
    make_coco,
    make_ids,
    make_instances,
    make_many,
    make_pixels,
    write_array,
    write_seg,
)

SIZE = (6, 8)
CATEGORIES = (Category(3, "grain"), Category(7, "seed"))
OBJECT = (Category(1, "object"),)
NOTHING = Instances.from_runs(RunLengths.empty(SIZE), np.zeros(0, np.int64))
SQUARE = {"image_id": 10, "category_id": 7, "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]], "score": 0.5}


def refuse(record: Record, categories: tuple[Category, ...]):
    raise AssertionError(f"no image is read to find predictions, but {record} was")


def make_dataset(names: Iterable[str] = "ab", categories: tuple[Category, ...] = CATEGORIES) -> Dataset:
    """Images of the given names, numbered 10, 20, ..."""
    records = tuple(Record(10 * i, name, Path("data", f"{name}.png"), None) for i, name in enumerate(names, start=1))
    return Dataset(Path("data"), FORMATS["coco"], categories, records, refuse, has_image_ids=True)


def read(stored: StoredPredictions, dataset: Dataset, size: tuple[int, int] = SIZE) -> list[Instances]:
    return [stored.read(record, size) for record in dataset.records]


def assert_same(found: Instances, expected: Instances) -> None:
    assert_same_runs(found.runs, expected.runs)
    for name in ("labels", "scores", "boxes", "iscrowd"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)


def make_overlapping() -> Instances:
    """By falling score, with boxes that are not those of the masks."""
    masks = [make_ids((0, 0, 4, 5)), make_ids((2, 2, 6, 8)), make_ids((2, 2, 3, 3))]
    instances = make_instances(*masks, labels=[2, 1, 2], scores=[0.9, 0.7, 0.123456])
    instances.boxes[:] += np.float32([0.1, 0.7, -0.3, 1 / 3])
    return instances


def write_entries(path: Path, *entries: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, list(entries))
    return path


def test_results_of_another_time_than_the_label_images_are_refused(tmp_path):
    dataset = make_dataset("a")
    with record_outputs(tmp_path, "predict", ["labels/a.tif"]):
        write_label_image(tmp_path / "labels" / "a.tif", make_overlapping(), CATEGORIES)
    assert read_predictions(tmp_path, dataset).path == tmp_path / "labels"
    write_entries(tmp_path / "predictions.json")
    with pytest.raises(DatasetError, match=r"predictions\.json and the label images in .*labels were not written by"):
        read_predictions(tmp_path, dataset)
    assert read_predictions(tmp_path / "predictions.json", dataset).missing == ("a",)
    assert read_predictions(tmp_path / "labels", dataset).missing == ()


# COCO results


def test_an_empty_list_misses_every_image(tmp_path):
    dataset = make_dataset()
    stored = read_predictions(write_entries(tmp_path / "r.json"), dataset)
    assert (stored.path, stored.categories) == (tmp_path / "r.json", CATEGORIES)
    assert (stored.has_scores, stored.missing) == (True, ("a", "b"))
    for instances in read(stored, dataset):
        assert_same(instances, NOTHING)


@pytest.mark.parametrize("name", ["predictions.json", "test-results.json"])
def test_results_come_back_as_they_were_written(tmp_path, name):
    dataset, instances = make_dataset(), make_overlapping()
    write_entries(tmp_path / name, *encode_coco_results(instances, 20, CATEGORIES))
    stored = read_predictions(tmp_path, dataset)
    assert (stored.path, stored.missing, stored.has_scores) == (tmp_path / name, ("a",), True)
    first, second = read(stored, dataset)
    assert_same(first, NOTHING)
    assert_same(second, instances)


def test_numbers_of_images_without_numbers_are_refused(tmp_path):
    dataset = replace(make_dataset(), has_image_ids=False)
    path = write_entries(tmp_path / "r.json", SQUARE)
    with pytest.raises(FormatError, match=r"data has no such numbers; give the names, in a list .*images\.json"):
        read_predictions(path, dataset)
    write_entries(tmp_path / "images.json", {"id": 10, "name": "b"})
    nothing, found = read(read_predictions(path, dataset), dataset)
    assert (len(nothing), len(found)) == (0, 1)


@pytest.mark.parametrize("image_id", ["b", "b.png", "images/b.png", "images\\b.tif"])
def test_results_may_name_their_images(tmp_path, image_id):
    dataset = replace(make_dataset(), has_image_ids=False)
    stored = read_predictions(write_entries(tmp_path / "r.json", SQUARE | {"image_id": image_id}), dataset)
    assert stored.missing == ("a",)
    assert [len(found) for found in read(stored, dataset)] == [0, 1]


@pytest.mark.parametrize("num_instances", [1, 300])
def test_many_results_come_back(tmp_path, num_instances):
    dataset, width = make_dataset("a", OBJECT), 100 if num_instances > 1 else 1
    instances = make_many(num_instances, width)
    path = write_entries(tmp_path / "r.json", *encode_coco_results(instances, 10, OBJECT))
    (found,) = read(read_predictions(path, dataset), dataset, instances.size)
    assert_same(found, instances)


def test_entries_of_any_kind_and_order_come_by_falling_score(tmp_path):
    mask = make_ids((2, 3, 6, 8)) > 0
    rle = {"size": [6, 8], "counts": count_pixels(mask)}
    empty = {"size": [6, 8], "counts": [48]}
    entries = [
        SQUARE | {"image_id": 20},
        SQUARE,
        SQUARE | {"segmentation": rle, "score": 1, "category_id": 3, "bbox": None},
        SQUARE | {"segmentation": empty, "bbox": [1, 2, 3, 4]},
    ]
    dataset = make_dataset()
    instances, other = read(read_predictions(write_entries(tmp_path / "r.json", *entries), dataset), dataset)
    assert (len(other), instances.labels.tolist(), instances.scores.tolist()) == (1, [1, 2, 2], [1, 0.5, 0.5])
    assert instances.boxes.tolist() == [[3, 2, 8, 6], [1, 1, 4, 4], [1, 2, 4, 6]]
    np.testing.assert_array_equal(instances.to_masks()[0], mask)


def test_results_without_scores(tmp_path):
    dataset = make_dataset()
    entries = [{key: value for key, value in SQUARE.items() if key != "score"} | {"category_id": i} for i in (7, 3)]
    stored = read_predictions(write_entries(tmp_path / "r.json", *entries), dataset)
    assert not stored.has_scores
    assert read(stored, dataset)[0].scores.tolist() == [1, 1]


def write_list(folder: Path, *images: tuple[int, str]) -> None:
    entries = [{"id": i, "name": name, "file_name": f"{name}/image.tif"} for i, name in images]
    write_entries(folder / "images.json", *entries)


def test_images_json_leads_to_the_data_by_name(tmp_path):
    dataset = make_dataset("abc")
    write_list(tmp_path, (1, "b"), (10, "c"), (3, "elsewhere"))
    write_entries(tmp_path / "predictions.json", SQUARE | {"image_id": 1})
    stored = read_predictions(tmp_path, dataset)
    assert stored.missing == ("a",)  # nothing was found in c, but it was predicted on
    assert [len(instances) for instances in read(stored, dataset)] == [0, 1, 0]


@pytest.mark.parametrize("image_id", ["\u00e4", "\u00e4.png", 1])
def test_names_in_another_form_of_unicode_are_the_same(tmp_path, image_id):
    dataset = make_dataset(["a\u0308"])
    write_list(tmp_path, (1, "\u00e4"))
    stored = read_predictions(write_entries(tmp_path / "predictions.json", SQUARE | {"image_id": image_id}), dataset)
    assert list(stored.sources) == [10]
    assert stored.missing == ()


def test_one_image_by_two_names_is_refused(tmp_path):
    path = write_entries(tmp_path / "a.json", SQUARE | {"image_id": "a"}, SQUARE | {"image_id": "a.png"})
    with pytest.raises(FormatError, match=r"calls the image a both 'a' and 'a\.png'"):
        read_predictions(path, make_dataset())


def test_ids_that_are_texts_are_those_of_the_data(tmp_path):
    images = [{"id": "0b5e-77", "file_name": "a.png", "height": 6, "width": 8}]
    dataset = read_coco(
        make_coco(tmp_path, [{"image_id": "0b5e-77", "segmentation": SQUARE["segmentation"]}], images=images)
    )
    path = write_entries(tmp_path / "results.json", SQUARE | {"image_id": "0b5e-77"})
    assert list(read_predictions(path, dataset).sources) == [dataset.records[0].image_id]


def test_many_images_by_name_are_found_at_once(tmp_path):
    """Time grows with the number of images, not with its square, which took 11 s."""
    names = [f"image{number}" for number in range(10_000)]
    path = write_entries(tmp_path / "a.json", *(SQUARE | {"image_id": name} for name in names))
    dataset, start = make_dataset(names), time.process_time()
    assert len(read_predictions(path, dataset).sources) == len(names)
    assert time.process_time() - start < 5


def test_results_for_a_task_keep_the_ids_of_the_task(tmp_path):
    dataset = make_dataset()
    write_list(tmp_path, (10, "b"))
    write_entries(tmp_path / "test-results.json", SQUARE)
    assert read_predictions(tmp_path, dataset).missing == ("b",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 1.5}, r"image_id 1\.5, expected a whole number or the image's name"),
        ({"image_id": True}, "image_id True, expected a whole number"),
        ({"category_id": None}, "category_id None, expected a whole number"),
        ({"segmentation": None}, "no segmentation; manymask needs masks"),
        ({"segmentation": [[0, 0, 5, 5]]}, "polygon of 4 numbers"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\], expected x, y, width and height"),
        ({"bbox": [1, 2, -3, 4]}, "expected x, y, width and height"),
        ({"bbox": [1, 2, 3, "4"]}, "expected x, y, width and height"),
        ({"bbox": [1, 2, 3, float("nan")]}, "expected x, y, width and height"),
        ({"score": 1.01}, "score 1.01, expected a number from 0 to 1"),
        ({"score": -1}, "score -1, expected a number from 0 to 1"),
        ({"score": float("nan")}, "score nan, expected a number from 0 to 1"),
        ({"score": "0.9"}, "score '0.9', expected a number from 0 to 1"),
        ({"score": None}, "score None, expected a number from 0 to 1"),
        ({}, "repeats entry 0, as in a file that was joined with itself"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, change, message):
    (tmp_path / "r.json").write_text(json.dumps([SQUARE, SQUARE | change]))
    with pytest.raises(FormatError, match=rf"r\.json: entry 1 .*{message}"):
        read_predictions(tmp_path / "r.json", make_dataset())


def test_a_score_for_some_entries_only_is_refused(tmp_path):
    entry = {key: value for key, value in SQUARE.items() if key != "score"}
    path = write_entries(tmp_path / "r.json", SQUARE, entry | {"category_id": 3})
    with pytest.raises(FormatError, match=r"r\.json: entry 1 has no score, but others have"):
        read_predictions(path, make_dataset())


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [6, 9], "counts": [54]}, r"is of size \[6, 9\], but the image is of size \[6, 8\]"),
        ({"size": [6, 8], "counts": [47]}, "add up to 47"),
        ({"size": [6, 8], "counts": "~"}, "not COCO's compressed text"),
        ({}, "is of size None"),
    ],
)
def test_a_bad_rle_is_named_when_its_image_is_read(tmp_path, rle, message):
    dataset = make_dataset()
    path = write_entries(tmp_path / "r.json", SQUARE | {"image_id": 20}, SQUARE, SQUARE | {"segmentation": rle})
    stored = read_predictions(path, dataset)
    with pytest.raises(FormatError, match=rf"r\.json: entry 2: .*its RLE.* {message}"):
        read(stored, dataset)


def test_categories_that_the_data_lack_are_refused(tmp_path):
    path = write_entries(tmp_path / "r.json", *(SQUARE | {"category_id": i} for i in (9, 7, 1)))
    with pytest.raises(FormatError, match=r"r\.json holds category_id 1, 9, but data has 3 \(grain\), 7 \(seed\)"):
        read_predictions(path, make_dataset())


def test_results_for_images_that_the_data_lack_are_refused(tmp_path):
    entries = [SQUARE | {"image_id": i} for i in range(1, 8)]
    path = write_entries(tmp_path / "r.json", *entries)
    message = r"^all images that .*r\.json .* in data \(by image_id, .*: 1, 2, 3, 4, 5 and 2 more; .* 10, 20\)"
    with pytest.raises(DatasetError, match=message):
        read_predictions(path, make_dataset())
    write_entries(path, *entries, SQUARE)
    with pytest.raises(DatasetError, match=r"^7 of the 8 images"):
        read_predictions(path, make_dataset())
    write_list(tmp_path, (1, "x"), *((i, f"x{i}") for i in range(2, 8)), (10, "a"))
    with pytest.raises(DatasetError, match=r"^7 of the 8 images .* \(by name: x, x2, .* the data have a, b\)"):
        read_predictions(path, make_dataset())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([{"id": 1, "name": "a"}], r"predictions\.json holds image_id 10, which .*images\.json does not list"),
        ([{"id": 10, "name": "a"}, {"id": 11, "name": "a"}], r"images\.json gives the name a twice"),
        ([{"id": 10, "name": "a"}, {"id": 10, "name": "b"}], r"images\.json gives the id 10 twice"),
        ([{"id": 10, "file_name": "a.tif"}], r"images\.json: entry 0 needs id and name"),
        ({"images": []}, r"images\.json holds a dict, expected a list of images"),
    ],
)
def test_a_bad_list_of_images_is_refused(tmp_path, images, message):
    write_entries(tmp_path / "predictions.json", SQUARE)
    write_json(tmp_path / "images.json", images)
    with pytest.raises(FormatError, match=message):
        read_predictions(tmp_path, make_dataset())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [], "annotations": []}', "is a COCO data set, expected COCO results"),
        ('{"predictions": []}', "holds a dict, expected COCO's list of results"),
        ("[[1]]", "entry 0 is a list"),
        ("[{", "is not JSON"),
    ],
)
def test_json_of_another_kind_is_refused(tmp_path, content, message):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(FormatError, match=rf"r\.json.* {message}"):
        read_predictions(tmp_path / "r.json", make_dataset())


def test_no_file_another_file_or_two_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"expected a \.json file .*none\.json, found nothing"):
        read_predictions(tmp_path / "none.json", make_dataset())
    (tmp_path / "r.npy").touch()
    with pytest.raises(DatasetError, match=r"expected a \.json file .*r\.npy, found another file"):
        read_predictions(tmp_path / "r.npy", make_dataset())
    for name in ("predictions.json", "test-results.json"):
        write_entries(tmp_path / name)
    with pytest.raises(DatasetError, match=r"holds both predictions\.json and test-results\.json; give one"):
        read_predictions(tmp_path, make_dataset())


# Label images


def test_label_images_come_back_as_they_were_written(tmp_path):
    dataset, instances = make_dataset("abc"), make_overlapping()
    write_label_image(tmp_path / "labels" / "a.tif", instances, CATEGORIES)
    write_label_image(tmp_path / "labels" / "b.tif", NOTHING, CATEGORIES)
    stored = read_predictions(tmp_path, dataset)
    assert (stored.path, stored.categories) == (tmp_path / "labels", CATEGORIES)
    assert (stored.missing, stored.has_scores) == (("c",), True)
    first, second, third = read(stored, dataset)
    assert first.labels.tolist() == [2, 1]  # the third lies below the first
    np.testing.assert_array_equal(first.scores, instances.scores[:2])
    np.testing.assert_array_equal(first.runs.areas, [20, 24 - 6])
    for nothing in (second, third):
        assert_same(nothing, NOTHING)


@pytest.mark.parametrize("num_instances", [300, 70_000])
def test_many_label_image_ids_come_back(tmp_path, num_instances):
    dataset, instances = make_dataset("a", OBJECT), make_many(num_instances, 100)
    write_label_image(tmp_path / "a.tif", instances, OBJECT)
    (found,) = read(read_predictions(tmp_path, dataset), dataset, instances.size)
    assert_same(found, instances)


@pytest.mark.parametrize(
    "name",
    [
        *("a.tif", "a.png", "a_masks.tif", "a_cp_masks.png", "a_label.tif", "a_labels.png", "a_Labels.tif"),
        *("a_mask.png", "mask_a.png", "a_pred.tif", "a-labels.tif", "a_instanseg_prediction.tif", "a_seg.npy"),
        *("a_Object Identities.tif", "a_Simple Segmentation.tif", "a.tif_mask.png", "A_masks.tif"),
    ],
)
@pytest.mark.parametrize(("categories", "known"), [(OBJECT, OBJECT), (CATEGORIES, None)])
def test_label_images_of_other_tools(tmp_path, name, categories, known):
    ids = make_ids((0, 0, 2, 2), (3, 3, 6, 8))
    if name.endswith(".npy"):
        write_seg(tmp_path / name, {"masks": ids * 70})
    else:
        write_array(tmp_path / name, ids * 70)
    dataset = make_dataset("ab", categories)
    stored = read_predictions(tmp_path, dataset)
    assert (stored.categories, stored.has_scores, stored.missing) == (known, False, ("b",))
    assert_same(read(stored, dataset)[0], make_instances(ids == 1, ids == 2))


def test_cellpose_leaves_images_and_other_files_beside_its_masks(tmp_path):
    for name in ("a.tif", "b.tif", "a_flows.tif", "a_cp_outlines.png"):
        write_array(tmp_path / name, make_pixels())
    (tmp_path / "a_seg.npy").touch()
    write_array(tmp_path / "a_cp_masks.png", make_ids((0, 0, 2, 2)))
    dataset = make_dataset()
    stored = read_predictions(tmp_path, dataset)
    assert stored.missing == ("b",)  # Cellpose writes no masks where it finds none
    assert [len(instances) for instances in read(stored, dataset)] == [1, 0]


def test_an_image_may_be_named_like_a_label_image(tmp_path):
    for name in ("a_label.tif", "b.tif"):
        write_array(tmp_path / name, make_ids((0, 0, 2, 2)))
    assert read_predictions(tmp_path, make_dataset(["a_label", "b"])).missing == ()


def test_cellpose_leaves_its_own_files_beside_images(tmp_path):
    write_seg(tmp_path / "a_seg.npy", {"masks": make_ids((0, 0, 2, 2))})
    write_seg(tmp_path / "b_seg.npy", {"masks": Path("x")})
    for name in "ab":
        write_array(tmp_path / f"{name}.tif", make_pixels())
    dataset = make_dataset()
    stored = read_predictions(tmp_path, dataset)
    assert len(stored.read(dataset.records[0], SIZE)) == 1
    with pytest.raises(FormatError, match=r"b_seg\.npy .*as PNG or TIFF"):
        stored.read(dataset.records[1], SIZE)


def test_a_folder_without_predictions_is_refused(tmp_path):
    (tmp_path / "other.json").touch()
    with pytest.raises(DatasetError, match=r"holds no predictions; expected predictions\.json, .*<name>\.tif"):
        read_predictions(tmp_path, make_dataset())


@pytest.mark.parametrize("names", [("a.tif", "a.png"), ("a_masks.png", "a_cp_masks.png")])
def test_two_label_images_of_one_image_are_refused(tmp_path, names):
    for name in names:
        write_array(tmp_path / name, make_ids())
    with pytest.raises(DatasetError, match="are both label images of data.a.png; keep one"):
        read_predictions(tmp_path, make_dataset())


def test_label_images_of_images_that_the_data_lack_are_refused(tmp_path):
    write_array(tmp_path / "x.tif", make_ids())
    with pytest.raises(DatasetError, match=r"^all images that .* \(by name: x; the data have a, b\)"):
        read_predictions(tmp_path, make_dataset())
    write_array(tmp_path / "a.tif", make_ids())
    stored = read_predictions(tmp_path, make_dataset())
    assert stored.missing == ("b",)
    classless, note = stored.notes
    assert "knows no classes" in classless
    assert note.startswith("1 of the 2 images that ")
    assert note.endswith("are not in the data and are not scored: x.")


def test_the_images_of_the_data_are_no_predictions(tmp_path):
    write_array(tmp_path / "images" / "a.png", make_pixels())
    write_array(tmp_path / "labels" / "a.png", make_ids((0, 0, 2, 2)))
    dataset = read_label_images(tmp_path)
    with pytest.raises(DatasetError, match=r"a\.png is an image of the data, expected label images"):
        read_predictions(tmp_path / "images", dataset)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (make_ids(size=(6, 9)), "is 6 x 9 .* is 6 x 8"),
        (make_ids((0, 0, 2, 2)).astype("uint8") * np.uint8(255), "a binary mask"),
        (make_ids((0, 0, 2, 2)) / 2, "expected whole numbers"),
    ],
)
def test_a_bad_label_image_is_refused_when_it_is_read(tmp_path, ids, message):
    write_array(tmp_path / "a.tif", ids)
    dataset = make_dataset()
    stored = read_predictions(tmp_path, dataset)
    with pytest.raises(DatasetError, match=rf"a\.tif .*{message}"):
        read(stored, dataset)


# The tables beside label images


def write_table(folder: Path, text: str, name: str = "a") -> Path:
    write_array(folder / f"{name}.tif", make_ids((0, 0, 2, 2), (3, 3, 6, 8)) * 5)
    (folder / f"{name}.csv").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "categories", "labels", "scores"),
    [
        ("score,note,id,class\n0.5,x,10,seed\n1e-1,y,5,grain\n", CATEGORIES, [2, 1], [0.5, 0.1]),
        ("\ufeffid,class\n5,7\n10,3\n", CATEGORIES, [2, 1], None),
        ("id,score\n5,0\n10,1\n", None, [1, 1], [1, 0]),
        ("id\n5\n10\n", None, [1, 1], None),
    ],
)
def test_columns_of_a_table(tmp_path, text, categories, labels, scores):
    dataset = make_dataset()
    stored = read_predictions(write_table(tmp_path, text), dataset)
    assert (stored.categories, stored.has_scores) == (categories, scores is not None)
    instances = read(stored, dataset)[0]
    assert instances.labels.tolist() == labels
    np.testing.assert_array_equal(instances.scores, np.float32(scores or [1, 1]))
    assert instances.runs.areas.tolist() == ([4, 15] if scores is None else [15, 4])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns none, expected id, class, score"),
        ("class,area\n5,4\n", "has the columns class, area, expected id, class, score"),
        ("id,score\n5\n", "line 2 has score None"),
        ("id,score\n5,nan\n", "line 2 has score 'nan', expected a number from 0 to 1"),
        ("id,score\n5,1\n10,2\n", "line 3 has score '2'"),
        ("id\n1.5\n", "line 2 has id '1.5', expected a whole number"),
        ("id\n-1\n", "line 2 has id '-1'"),
        ("id\n99999999999999999999\n", "line 2 has id '99999999999999999999'"),
        (
            "id,class\n5,rock\n6,sand\n",
            r"class 'rock', expected a class of data: 3 \(grain\), 7 \(seed\); name them alike",
        ),
        ('id,class\n5,"seed\n', "cannot be read as CSV"),
        ("id,class\n5,\udcff\n", "cannot be read as CSV"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, message):
    write_table(tmp_path, "")
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(FormatError, match=rf"a\.csv.* {message}"):
        read_predictions(tmp_path, make_dataset())


def test_a_table_of_measurements_is_named(tmp_path):
    dataset = make_dataset()
    stored = read_predictions(write_table(tmp_path, "Label,Area,Circ.\n1,4,0.9\n"), dataset)
    assert stored.notes == (
        f"Tables without ids beside label images are taken for measurements and not read: {tmp_path / 'a.csv'}.",
    )
    assert [len(found) for found in read(stored, dataset)] == [2, 0]


@pytest.mark.parametrize("text", ["id\n5\n", "id\n5\n10\n15\n", "id\n5\n5\n10\n"])
def test_a_table_of_other_ids_is_refused(tmp_path, text):
    dataset = make_dataset()
    stored = read_predictions(write_table(tmp_path, text), dataset)
    with pytest.raises(FormatError, match=r"a\.tif holds 2 ids, but not just the \d of the CSV file beside it"):
        read(stored, dataset)


def test_tables_for_some_label_images_only_are_refused(tmp_path):
    write_table(tmp_path, "id,score\n5,1\n10,1\n")
    write_array(tmp_path / "b.tif", make_ids())
    with pytest.raises(FormatError, match=r"beside .*a\.tif gives id score, that beside .*b\.tif nothing; give all"):
        read_predictions(tmp_path, make_dataset())


def test_real_data_as_their_own_predictions(tmp_path, shared_data):
    dataset = read_coco(shared_data / "powder").subset(range(2))
    samples = [dataset[0], dataset[1]]
    for sample in samples:
        write_label_image(tmp_path / "labels" / f"{sample.name}.tif", sample.to_instances(), dataset.categories)
    entries = [e for s in samples for e in encode_coco_results(s.to_instances(), s.image_id, dataset.categories)]
    results = read_predictions(write_entries(tmp_path / "r.json", *entries), dataset)
    label_images = read_predictions(tmp_path, dataset)
    for record, sample in zip(dataset.records, samples, strict=True):
        expected = sample.to_instances()
        assert_same(results.read(record, expected.size), expected)
        assert len(label_images.read(record, expected.size)) <= len(expected)
