import json

import numpy as np
import pytest

from manymask.core import Category
from manymask.core.outputs import record_outputs
from manymask.errors import DatasetError, FormatError
from manymask.formats.stored import read_predictions
from manymask.outputs import GeoJson, ImagejRois
from tests.formats.format_files import make_ids, make_pixels, write_array
from tests.formats.test_datasets import MAKERS
from tests.formats.test_geojson import FAR, SQUARE, make_feature, write_features
from tests.formats.test_imagej import make_polygon, write_zip
from tests.formats.test_labelme import write_shapes
from tests.formats.test_stored import CATEGORIES, OBJECT, SIZE, make_dataset, read
from tests.outputs.results import CATEGORIES as RESULT_CATEGORIES
from tests.outputs.results import ROWS, make_instances, write


def write_geojson(root, *features, name="a"):
    write_features(root, *features, name=name, file=f"{name}.geojson")
    (root / f"{name}.png").unlink()


@pytest.mark.parametrize("kind", [GeoJson, ImagejRois])
@pytest.mark.parametrize("is_recorded", [False, True])
def test_what_predict_writes_comes_back(tmp_path, kind, is_recorded):
    if is_recorded:
        with record_outputs(tmp_path, "predict", kind.list_files(["a"])):
            write(kind, tmp_path)
    else:
        write(kind, tmp_path)
    dataset, expected = make_dataset("ab", RESULT_CATEGORIES), make_instances()[ROWS].sort_by_id()
    stored = read_predictions(tmp_path, dataset)
    assert (stored.categories, stored.has_scores, stored.missing) == (RESULT_CATEGORIES, True, ("b",))
    found, nothing = read(stored, dataset, expected.size)
    order = np.argsort(-expected.scores, kind="stable")
    np.testing.assert_array_equal(found.to_masks(), expected.to_masks()[order])
    np.testing.assert_array_equal(found.labels, expected.labels[order])
    np.testing.assert_allclose(found.scores, expected.scores[order], atol=1e-6)
    assert len(nothing) == 0


def test_files_of_other_tools_with_and_without_classes(tmp_path):
    write_zip(tmp_path / "rois", make_polygon(SQUARE[:4]), make_polygon(FAR[:4]), file="a_rois.zip")
    write_shapes(tmp_path / "labelme", "a", {"label": "seed", "points": SQUARE})
    for folder, categories, known, labels in (
        ("rois", CATEGORIES, None, [1, 1]),
        ("rois", OBJECT, OBJECT, [1, 1]),
        ("labelme", CATEGORIES, CATEGORIES, [2]),
        ("labelme", (Category(1, "nucleus"),), (Category(1, "nucleus"),), [1]),
    ):
        dataset = make_dataset("ab", categories)
        stored = read_predictions(tmp_path / folder, dataset)
        assert (stored.categories, stored.has_scores, stored.missing) == (known, False, ("b",))
        assert read(stored, dataset)[0].labels.tolist() == labels
        assert any("are all scored as nucleus" in note for note in stored.notes) == (categories[0].name == "nucleus")


FILES = {
    "cvat": "annotations.xml",
    "label_studio": "tasks.json",
    "via": "via.json",
    "aperio": "a.xml",
    "geojson": "a.geojson",
    "imagej": "a.roi",
    "labelme": "a.json",
    "yolo": "labels/a.txt",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_file", [False, True])
def test_each_format_of_drawn_objects_and_one_file_of_it(tmp_path, name, is_file):
    MAKERS[name](tmp_path)
    (tmp_path / "a.png").unlink(missing_ok=True)
    (tmp_path / "a.tif").unlink(missing_ok=True)
    dataset = make_dataset("ab", OBJECT)
    stored = read_predictions(tmp_path / FILES[name] if is_file else tmp_path, dataset)
    assert stored.missing == ("b",)
    assert [len(found) for found in read(stored, dataset)] == [1, 0]


def test_files_of_other_kinds_are_refused(tmp_path):
    for name in ("a.zip", "a.txt", "a.npy"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DatasetError, match=r"expected .* at .*, found another file"):
            read_predictions(tmp_path / name, make_dataset())
    with pytest.raises(DatasetError, match="found nothing"):
        read_predictions(tmp_path / "x.geojson", make_dataset())


# The square from (1, 1) to (4, 4) of an image 8 wide and 6 high, and a triangle.
YOLO_ROWS = ("1 0.125 0.166667 0.5 0.166667 0.5 0.666667 0.125 0.666667 0.75", "0 0 0 0.25 0 0.25 0.5 0.25")


def write_yolo(root, rows=YOLO_ROWS, name="a"):
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows))


@pytest.mark.parametrize("names", [("grain", "seed"), ("0", "1"), ("object",)])
def test_rows_of_yolo_with_scores_and_classes_by_number(tmp_path, names):
    dataset = make_dataset("ab", tuple(Category(3 + number, name) for number, name in enumerate(names)))
    write_yolo(tmp_path / "labels")
    (tmp_path / "labels" / "classes.txt").write_text("nothing of the data\n")
    write_array(tmp_path / "a.jpg", make_pixels())  # the picture that Ultralytics draws
    for path in (tmp_path, tmp_path / "labels", tmp_path / "labels" / "a.txt"):
        stored = read_predictions(path, dataset)
        assert (stored.categories, stored.has_scores) == (dataset.categories, True)
        found, nothing = read(stored, dataset)
        np.testing.assert_array_equal(found.to_masks()[0], make_ids((1, 1, 4, 4)) > 0)
        assert found.labels.tolist() == ([1, 1] if len(names) == 1 else [2, 1])
        assert (found.scores.tolist(), len(nothing)) == ([0.75, 0.25], 0)
        assert any("0 is grain, 1 is seed" in note for note in stored.notes) == ("grain" in names)


def test_rows_of_yolo_that_cannot_be_used_are_refused(tmp_path):
    write_yolo(tmp_path, ["0 0.5 0.5 0.1 0.1 0.9"])
    with pytest.raises(FormatError, match="a.txt: line 1 is a box, which is no mask"):
        read_predictions(tmp_path, make_dataset())
    write_yolo(tmp_path, ["2" + YOLO_ROWS[0][1:]])
    with pytest.raises(FormatError, match="a.txt: line 1 is of class 2, expected one of 0, 1"):
        read_predictions(tmp_path, make_dataset())


def test_unknown_classes_are_refused(tmp_path):
    write_geojson(tmp_path, make_feature(SQUARE, name="seed"), make_feature(FAR, name="rock"))
    with pytest.raises(FormatError, match=r"objects of rock, but data has 3 \(grain\), 7 \(seed\); name them alike"):
        read_predictions(tmp_path, make_dataset())


def test_images_that_the_data_lack_are_named(tmp_path):
    write_geojson(tmp_path, make_feature(SQUARE), name="x")
    with pytest.raises(DatasetError, match=r"^all images that .*as geojson, by name: x"):
        read_predictions(tmp_path, make_dataset("ab", OBJECT))
    write_geojson(tmp_path, make_feature(SQUARE), name="a_pred")
    stored = read_predictions(tmp_path, make_dataset("ab", OBJECT))
    assert (stored.missing, len(stored.notes)) == (("b",), 1)
    assert stored.notes[0].endswith("are not in the data and are not scored: x.")


def test_two_files_of_an_image_or_two_formats_are_refused(tmp_path):
    write_geojson(tmp_path, make_feature(SQUARE))
    write_geojson(tmp_path, make_feature(SQUARE), name="a.tif")
    with pytest.raises(DatasetError, match="both hold predictions for 'a'; keep one"):
        read_predictions(tmp_path, make_dataset())
    write_zip(tmp_path, make_polygon(SQUARE))
    with pytest.raises(DatasetError, match="holds predictions as geojson and imagej; give a folder"):
        read_predictions(tmp_path, make_dataset())


def test_scores_for_some_objects_and_damaged_files_are_refused(tmp_path):
    scored = make_feature(SQUARE, kind="detection", properties={"measurements": {"score": 0.5}})
    write_geojson(tmp_path, scored, make_feature(FAR))
    with pytest.raises(FormatError, match="gives scores to 1 of 2 objects"):
        read_predictions(tmp_path, make_dataset())
    (tmp_path / "a.geojson").write_text(json.dumps({"features": 1}))
    with pytest.raises(FormatError, match="a.geojson holds no features"):
        read_predictions(tmp_path, make_dataset())


def test_the_size_is_compared(tmp_path):
    write_shapes(tmp_path, "a", {"label": "seed", "points": SQUARE}, size=(6, 9))
    dataset = make_dataset()
    stored = read_predictions(tmp_path, dataset)
    with pytest.raises(DatasetError, match="a.json gives image a.png as 6 x 9"):
        stored.read(dataset.records[0], SIZE)


def test_label_images_with_an_affix_come_before_what_lies_beside(tmp_path):
    write_features(tmp_path, make_feature(SQUARE))
    assert len(read(read_predictions(tmp_path, make_dataset("a", OBJECT)), make_dataset("a", OBJECT))[0]) == 1
    write_array(tmp_path / "a.png", make_pixels())
    write_array(tmp_path / "a_cp_masks.png", make_ids((0, 0, 2, 2), (3, 3, 6, 8)))
    assert len(read(read_predictions(tmp_path, make_dataset("a", OBJECT)), make_dataset("a", OBJECT))[0]) == 2
