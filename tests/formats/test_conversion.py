import json
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from manymask import convert
from manymask.core import encode_coco_rle, paint_layers, write_json
from manymask.core.dataset import HOLDS
from manymask.core.outlines import iterate_polygons
from manymask.core.outputs import record_outputs
from manymask.core.polygons import fill_polygons
from manymask.errors import DatasetError, PlanError
from manymask.formats import read_dataset
from manymask.formats.conversion import TARGETS
from manymask.formats.datasets import FORMATS
from manymask.formats.drawn import join_rings
from manymask.formats.splits import check_same_classes, find_splits
from tests.formats.format_files import make_coco, make_ids, make_instances, make_pixels, write_array
from tests.formats.test_datasets import MAKERS
from tests.formats.test_geojson import SQUARE, make_feature, write_features

SIZE = (20, 30)
CLASSES = ("cell", "nucleus")


def make_mask(*boxes, hole=None):
    mask = make_ids(*boxes, size=SIZE) > 0
    if hole is not None:
        mask &= make_ids(hole, size=SIZE) == 0
    return mask


# A square; one with a hole; one of two parts; two cells that overlap, one of which hides in a nucleus.
MASKS = [
    make_mask((1, 1, 6, 6)),
    make_mask((1, 8, 8, 15), hole=(3, 10, 6, 12)),
    make_mask((10, 1, 13, 4), (15, 2, 18, 6)),
    make_mask((10, 10, 16, 18)),
    make_mask((11, 17, 16, 24)),
    make_mask((12, 12, 14, 14)),
]
LABELS = [1, 2, 1, 1, 1, 2]


def write_truth(root, **changes):
    """COCO of two images, of which the second shows nothing."""
    instances = make_instances(*MASKS, labels=LABELS)
    images = [{"id": number, "file_name": f"{name}.png", "height": 20, "width": 30} for number, name in enumerate("ab")]
    for name in "ab":
        write_array(root / "images" / f"{name}.png", make_pixels(*SIZE))
    annotations = [
        {"id": 10 + row, "image_id": 0, "category_id": int(label), "segmentation": rle} | changes
        for row, (rle, label) in enumerate(zip(encode_coco_rle(instances.runs), LABELS, strict=True))
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"info": {"year": 2026}, "images": images, "annotations": annotations, "categories": categories}
    write_json(root / "annotations.json", content)
    return root


def read_objects(path, name, data_format=None):
    """Label and mask of each object of an image that has pixels."""
    dataset = read_dataset(path, data_format)
    (sample,) = (sample for sample in dataset if sample.name == name)
    instances = sample.to_instances()
    return list(zip(instances.labels.tolist(), instances.to_masks(), strict=True))


def reduce_to(objects, holds):
    """What a format can hold of objects, the obvious way."""
    taken: dict[int, np.ndarray] = {}
    reduced = []
    for label, mask in objects:
        layer = 0 if "overlaps of classes" not in holds else label
        if "overlaps" not in holds:
            free = ~taken.get(layer, np.zeros(SIZE, dtype=bool))
            taken[layer] = ~free | mask
            mask = mask & free
        if mask.any():
            reduced.append((label if "classes" in holds else 1, mask))
    return reduced


def sort_objects(objects):
    return sorted((label, mask.tobytes()) for label, mask in objects)


def test_truth_is_read(tmp_path):
    objects = read_objects(write_truth(tmp_path), "a")
    assert sort_objects(objects) == sort_objects(zip(LABELS, MASKS, strict=True))


@pytest.mark.parametrize("source", TARGETS)
def test_round_trips(tmp_path, source):
    first = convert(write_truth(tmp_path / "truth"), to=source, output=tmp_path / source)
    assert (first.num_images, first.left_out) == (2, ())
    objects = read_objects(tmp_path / source, "a")
    assert sort_objects(objects) == sort_objects(reduce_to(zip(LABELS, MASKS, strict=True), TARGETS[source].holds))
    for target, format in TARGETS.items():
        output = tmp_path / f"{source}-{target}"
        done = convert(tmp_path / source, to=target, output=output)
        expected = reduce_to(objects, format.holds)
        assert sort_objects(read_objects(output, "a")) == sort_objects(expected)
        assert read_objects(output, "b") == []
        assert (done.num_images, done.num_objects, done.left_out) == (2, len(expected), ())
        if "names" in TARGETS[source].holds & format.holds:
            assert tuple(category.name for category in read_dataset(output).categories) == CLASSES
        lost = {line.partition(":")[0] for line in done.lost}
        is_lost = {
            "classes": "classes" in TARGETS[source].holds and "classes" not in format.holds,
            "holes": "holes" not in format.holds,
            "parts": "parts" not in format.holds,
            "overlaps": sort_objects(reduce_to(objects, format.holds | {"classes"})) != sort_objects(objects),
        }
        assert {name: name in lost for name in is_lost} == is_lost


def test_counts_are_exact(tmp_path):
    data = write_truth(tmp_path / "truth")
    flat = convert(data, to="cellpose", output=tmp_path / "flat")
    assert flat.lost == (
        "classes: all objects are of one class now; they were cell (4), nucleus (2)",
        "overlaps: 9 pixels of 2 objects went to others, and 1 object vanished",
        "ids: objects are numbered anew",
    )
    assert flat.num_objects == 5
    seams = "became one outline with seams of no width, which manymask fills to the same mask"
    assert convert(data, to="yolo", output=tmp_path / "yolo").lost == (
        f"holes: 1 object with holes {seams}",
        f"parts: 1 object of several parts {seams}",
        "ids: objects are numbered anew",
    )
    folders = convert(data, to="class_folders", output=tmp_path / "folders")
    assert folders.lost[:2] == (
        "names of classes: there they have numbers, in this order: cell, nucleus",
        "overlaps: 5 pixels of 1 object went to others",
    )
    assert convert(data, to="coco", output=tmp_path / "coco").lost == ()
    assert flat.describe()[-1] == f"2 images with 5 objects written to {tmp_path / 'flat'}"


def test_images_are_copied_byte_for_byte(tmp_path):
    data = write_truth(tmp_path / "truth")
    for target in TARGETS:
        convert(data, to=target, output=tmp_path / target)
        copies = list((tmp_path / target).rglob("a.png"))
        if target != "class_folders":  # whose images are TIFF
            assert [path.read_bytes() for path in copies] == [(data / "images" / "a.png").read_bytes()]
        assert (read_dataset(tmp_path / target)[0].pixels == make_pixels(*SIZE)).all()


def test_coco_keeps_what_is_its_own_and_writes_fresh_entries_for_others(tmp_path):
    data = write_truth(tmp_path / "truth")
    convert(data, to="coco", output=tmp_path / "own")
    own = json.loads((tmp_path / "own" / "annotations.json").read_text())
    assert own["info"] == {"year": 2026}
    assert [entry["id"] for entry in own["annotations"]] == [10, 11, 12, 13, 14, 15]
    convert(data, to="labelme", output=tmp_path / "labelme")
    convert(tmp_path / "labelme", to="coco", output=tmp_path / "fresh")
    fresh = json.loads((tmp_path / "fresh" / "annotations.json").read_text())
    assert fresh["images"][0] == {"id": 1, "file_name": "a.png", "height": 20, "width": 30}
    assert fresh["categories"] == [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]
    (entry,) = (entry for entry in fresh["annotations"] if entry["bbox"] == [1, 1, 5, 5])
    assert sorted(entry) == ["area", "bbox", "category_id", "id", "image_id", "iscrowd", "segmentation"]
    assert (entry["area"], entry["image_id"], entry["category_id"], entry["iscrowd"]) == (25, 1, 1, 0)
    assert sorted(entry["id"] for entry in fresh["annotations"]) == [1, 2, 3, 4, 5, 6]


@pytest.mark.filterwarnings("ignore:.*crowd regions")
def test_crowd_regions(tmp_path):
    data = write_truth(tmp_path / "truth", iscrowd=1)
    kept = convert(data, to="coco", output=tmp_path / "coco")
    assert (kept.num_objects, kept.lost) == (6, ())
    assert read_dataset(tmp_path / "coco")[0].iscrowd.all()
    left_out = convert(data, to="yolo", output=tmp_path / "yolo")
    assert left_out.num_objects == 0
    assert left_out.lost[0].startswith("crowd regions: left out 6; if they are single objects")
    as_objects = convert(data, to="yolo", output=tmp_path / "objects", crowd_as_objects=True)
    assert as_objects.num_objects == 6


def test_scores_and_outlines_between_pixels(tmp_path):
    square = make_feature(SQUARE, properties={"measurements": {"score": 0.9}})  # on the edges of pixels, with a score
    write_features(tmp_path / "data", square, make_feature([[1, 1], [5, 1], [3, 4]]))
    done = convert(tmp_path / "data", to="labelme", output=tmp_path / "out")
    assert done.lost == (
        "outlines: those of 1 object run along the edges of pixels now",
        "scores: those of 1 object",
    )
    again = convert(tmp_path / "out", to="geojson", output=tmp_path / "again")
    assert again.lost == ()


@pytest.mark.parametrize("source", [name for name in FORMATS if name not in TARGETS])
@pytest.mark.parametrize("target", ["coco", "labelme", "label_images", "class_folders"])
def test_formats_that_are_only_read(tmp_path, source, target):
    MAKERS[source](tmp_path / "data")
    done = convert(tmp_path / "data", to=target, output=tmp_path / "out")
    dataset = read_dataset(tmp_path / "data")
    assert (done.num_images, done.num_objects) == (len(dataset), len(dataset[0].to_instances()))
    np.testing.assert_array_equal(read_dataset(tmp_path / "out")[0].pixels, dataset[0].pixels)


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    good = {"segmentation": [[1, 1, 5, 1, 3, 4]]}
    data = make_coco(tmp_path / "data", [good, {"segmentation": [[1, 1]]}, {"segmentation": []}]).parent
    done = convert(data, to="labelme", output=tmp_path / "out")
    assert (done.num_images, done.num_objects, len(done.left_out)) == (1, 1, 2)
    assert "annotation 2 has a polygon of 2 numbers" in done.left_out[0]
    assert done.describe()[0].startswith("left out 2 that cannot be used: ")


def test_an_image_that_cannot_be_read_is_left_out(tmp_path):
    data = write_truth(tmp_path / "truth")
    (data / "images" / "a.png").write_bytes(b"no image")
    done = convert(data, to="yolo", output=tmp_path / "out")
    assert (done.num_images, len(done.left_out)) == (1, 1)
    assert "a.png" in done.left_out[0]
    (data / "images" / "b.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="nothing of .* can be used; the first: .*a.png"):
        convert(data, to="yolo", output=tmp_path / "none")


def test_images_that_are_seen_turned_but_labelled_as_stored(tmp_path):
    data = write_truth(tmp_path / "truth")
    exif = Image.Exif()
    exif[0x0112] = 6
    write_array(data / "images" / "a.png", make_pixels(*SIZE), exif=exif)
    done = convert(data, to="yolo", output=tmp_path / "out")
    assert done.num_images == 1
    assert "a.png has orientation tag 6, and its labels fit only the image as it is stored" in done.left_out[0]


def test_wrong_places_and_names(tmp_path):
    data = write_truth(tmp_path / "truth")
    with pytest.raises(PlanError, match="cannot write data format 'aperio'; choose one of class_folders, label_images"):
        convert(data, to="aperio", output=tmp_path / "out")
    with pytest.raises(PlanError, match="--output .* lies inside the data"):
        convert(data, to="yolo", output=data / "out")
    with pytest.raises(PlanError, match="--output .* is not an empty folder"):
        convert(data, to="yolo", output=data)
    assert not (tmp_path / "out").exists()


def test_predictions_are_written_by_predict(tmp_path):
    with record_outputs(tmp_path, "predict", ["predictions.json"]):
        (tmp_path / "predictions.json").write_text("[]")
    with pytest.raises(DatasetError, match="holds predictions, not labelled images; .* --format geojson"):
        convert(tmp_path, to="geojson", output=tmp_path.parent / "out")


def test_progress(tmp_path):
    steps = []
    convert(write_truth(tmp_path / "a"), to="via", output=tmp_path / "out", progress=lambda *step: steps.append(step))
    assert steps == [(number, 2, f"writing {tmp_path / 'out'}") for number in (1, 2)]


def test_words_for_what_formats_hold():
    for format in (*FORMATS.values(), *TARGETS.values()):
        assert format.holds <= HOLDS.keys()
        assert format.copy_format in ("", *TARGETS)
        if format.copy_format:
            assert format.holds == TARGETS[format.copy_format].holds


def test_each_part_of_a_split_becomes_a_folder(tmp_path):
    for name in ("train", "val"):
        convert(write_truth(tmp_path / name), to="labelme", output=tmp_path / "data" / name)
    done = convert(tmp_path / "data", to="yolo", output=tmp_path / "out")
    assert (done.num_images, done.num_objects) == (4, 12)
    assert [line.split(":")[:2] for line in done.lost] == [["train, val", f" {what}"] for what in ("holes", "parts")]
    for name in ("train", "val"):
        assert len(read_objects(tmp_path / "out" / name, "a")) == 6
    # As Ultralytics reads it: folders lie where ``path`` says, by default beside the file.
    content = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert {name: content.get(name) for name in ("path", "train", "val")} == {
        "path": None, "train": "train/images", "val": "val/images",
    }  # fmt: skip
    assert list(find_splits(tmp_path / "out")) == ["train", "val"]
    assert not (tmp_path / "out" / "train" / "data.yaml").exists()


def test_data_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="^nowhere does not exist"):
        convert("nowhere", to="yolo", output="out")


def test_a_number_means_one_class_in_all_parts_of_a_split(tmp_path):
    """Tools that train on YOLO know one list of names for all parts."""
    for name in ("train", "val"):
        convert(write_truth(tmp_path / name), to="labelme", output=tmp_path / "data" / name)
    path = tmp_path / "data" / "train" / "a.json"
    content = json.loads(path.read_text())
    shapes = [shape for shape in content["shapes"] if shape["label"] == "nucleus"]
    write_json(path, content | {"shapes": shapes})
    convert(tmp_path / "data", to="yolo", output=tmp_path / "out")
    names = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"]
    assert len(names) == 2
    labels = [[label for label, _ in read_objects(tmp_path / "out" / name, "a")] for name in ("train", "val")]
    assert labels == [[1, 1], [2, 1, 2, 2, 2, 1]]


@pytest.mark.parametrize(
    ("val", "files"),
    [
        ({"seed": 9, "grain": 8}, ["class2", "class2"]),  # a name with another number
        ({"grain": 7}, ["class2", "class3"]),  # a number with another name
        ({"grain": 5}, ["class7", "class5"]),  # numbers that all parts agree on stay
    ],
)
def test_classes_of_parts_are_one_by_their_names(tmp_path, val, files):
    for part, classes in (("train", {"seed": 7, "husk": 3}), ("val", val)):
        entry = {"segmentation": [[1, 1, 5, 1, 3, 4]], "category_id": next(iter(classes.values()))}
        categories = [{"id": number, "name": name} for name, number in classes.items()]
        make_coco(tmp_path / "data" / part, [entry], categories=categories)
    for to in ("yolo", "labelme", "coco", "class_folders"):
        convert(tmp_path / "data", to=to, output=tmp_path / to)
        copies = [read_dataset(tmp_path / to / part) for part in ("train", "val")]
        found = [copy.categories[copy[0].labels[0] - 1].name for copy in copies]
        assert found == (files if to == "class_folders" else ["seed", next(iter(val))])


def test_a_part_without_objects_adds_no_class(tmp_path):
    for name in ("train", "val"):
        convert(write_truth(tmp_path / name), to="labelme", output=tmp_path / "data" / name)
    for path in (tmp_path / "data" / "val").glob("*.json"):
        write_json(path, json.loads(path.read_text()) | {"shapes": []})
    train, val = (read_dataset(tmp_path / "data" / name) for name in ("train", "val"))
    check_same_classes(train, val)
    convert(tmp_path / "data", to="yolo", output=tmp_path / "out")
    names = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"]
    assert set(names.values()) == {category.name for category in train.categories}


def test_what_is_lost_in_all_parts_is_said_once(tmp_path):
    for name in ("train", "val"):
        make_coco(tmp_path / "data" / name, [{"segmentation": [[1, 1, 5, 1, 3, 4]]}])
    done = convert(tmp_path / "data", to="yolo", output=tmp_path / "out")
    assert done.lost[-1] == "train, val: ids: objects are numbered anew"


def find_boxes(path, data_format=None):
    """The box of each object, by the name of its image."""
    data = read_dataset(path, data_format)
    return {sample.name: sample.to_instances().boxes.tolist() for sample in map(data.__getitem__, range(len(data)))}


@pytest.mark.parametrize("target", ["label_images", "cellpose", "class_folders", "geojson", "imagej"])
def test_images_with_an_orientation_tag_are_written_as_they_are_seen(tmp_path, target):
    pixels = make_pixels(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    square = {"bbox": [2, 20, 5, 4], "area": 20, "segmentation": [[2, 20, 7, 20, 7, 24, 2, 24]]}
    make_coco(tmp_path / "data", [square], images=[{"id": 5, "file_name": "a.png", "height": 30, "width": 20}])
    Image.fromarray(pixels).save(tmp_path / "data" / "images" / "a.png", exif=exif)
    convert(tmp_path / "data", to=target, output=tmp_path / "out")
    (image,) = [
        path
        for path in (tmp_path / "out").rglob("*.tif")
        if path.stem in ("a", "image") and path.parent.name != "labels"
    ]
    np.testing.assert_array_equal(tifffile.imread(image), np.rot90(pixels, -1))
    assert find_boxes(tmp_path / "out") == find_boxes(tmp_path / "data")


@pytest.mark.parametrize("target", ["geojson", "imagej", "label_studio", "via"])
@pytest.mark.parametrize("names", [("x.png", "x.part2.png"), ("p.jpg.tif", "q.png"), ("per%20cent.png", "h#a&b+c.png")])
def test_names_of_images_survive(tmp_path, target, names):
    root = tmp_path / "data"
    for place, name in enumerate(names):
        write_array(root / "images" / name, make_pixels(*SIZE))
        write_array(root / "labels" / f"{name.rpartition('.')[0]}.tif", make_ids((1, 1, 5, 6 + place), size=SIZE))
    convert(root, to=target, output=tmp_path / "out")
    assert find_boxes(tmp_path / "out") == find_boxes(root)


def test_addresses_of_label_studio_name_the_images(tmp_path):
    root = tmp_path / "data"
    write_array(root / "images" / "h#a&b+c.png", make_pixels(*SIZE))
    write_array(root / "labels" / "h#a&b+c.png", make_ids((1, 1, 5, 6), size=SIZE, dtype="uint8"))
    convert(root, to="label_studio", output=tmp_path / "out")
    (task,) = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert parse_qs(urlsplit(task["data"]["image"]).query) == {"d": ["images/h#a&b+c.png"]}


@pytest.mark.parametrize("target", ["geojson", "via"])
@pytest.mark.parametrize("name", ["Tumor*", " lead"])
def test_names_of_classes_survive(tmp_path, target, name):
    content = json.loads((write_truth(tmp_path / "data") / "annotations.json").read_text())
    content["categories"][0]["name"] = name
    write_json(tmp_path / "data" / "annotations.json", content)
    convert(tmp_path / "data", to=target, output=tmp_path / "out")
    assert name in [category.name for category in read_dataset(tmp_path / "out").categories]


def test_classes_that_xml_cannot_hold_are_refused(tmp_path):
    content = json.loads((write_truth(tmp_path / "data") / "annotations.json").read_text())
    content["categories"][0]["name"] = "a\x01b"
    write_json(tmp_path / "data" / "annotations.json", content)
    with pytest.raises(DatasetError, match=r"the class 'a\\x01b' has a character that XML cannot hold"):
        convert(tmp_path / "data", to="cvat", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_what_fails_half_way_can_be_run_again(tmp_path, monkeypatch, is_there):
    root, output = write_truth(tmp_path / "data"), tmp_path / "out"
    if is_there:
        output.mkdir()

    def fail(number, *_):
        assert (output / "images").is_dir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(root, to="yolo", output=output, progress=fail)
    assert output.is_dir() == is_there
    assert convert(root, to="yolo", output=output).num_images == 2


def test_one_object_of_very_many_pieces(tmp_path):
    mask = np.random.default_rng(0).random((60, 60)) > 0.3
    rings = [ring for polygon in next(iter(iterate_polygons(make_instances(mask).runs))) for ring in polygon]
    assert len(rings) > 300
    joined = join_rings([[ring] for ring in rings])
    np.testing.assert_array_equal(paint_layers(fill_polygons((60, 60), [[[joined]]])).numpy()[0] > 0, mask)
