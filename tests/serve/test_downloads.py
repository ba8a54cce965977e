"""What people download, read by the product itself."""

import csv
import gzip
import json
import zipfile

import numpy as np
import pytest

from manymask.core import ArraySource, Instances, encode_crops, intersect_runs
from manymask.formats import read_dataset
from manymask.formats.records import write_pixels
from manymask.formats.stored import read_predictions
from manymask.imaging import open_image
from manymask.outputs import OUTPUTS, ImageEntry
from manymask.serve.changes import Filter
from manymask.serve.checked import CheckedImage, write_checked
from manymask.serve.downloads import write_download
from manymask.serve.measuring import measure_object, write_measurements
from manymask.training.augmentation import make_target
from tests.serve.edited import edit_at_random, make_instances, make_objects

SIZE = (120, 160)


def make_edited(folder):
    """Rings and squares that share no pixels, and what people made of them."""
    square, ring = np.ones((12, 12), dtype=bool), np.ones((12, 12), dtype=bool)
    ring[4:8, 4:8] = False
    crops = [(x, y, ring if x % 40 else square) for y in range(0, 100, 20) for x in range(0, 140, 20)]
    labels = np.arange(len(crops)) % 2 + 1
    scores = np.linspace(0.99, 0.4, len(crops)).astype(np.float32)
    objects = make_objects(folder, Instances.from_runs(encode_crops(crops, SIZE), labels, scores=scores))
    objects.edit({"op": "delete", "ids": [3]}, None, "u")
    objects.edit({"op": "merge", "ids": [1, 2]}, None, "u")  # two parts
    objects.edit({"op": "split", "id": 9, "stroke": [[25, 15], [25, 40]]}, None, "u")
    objects.edit({"op": "draw", "class": 7, "runs": [[150 + k, 60, 30 - k] for k in range(9)]}, None, "u")
    objects.edit({"op": "erase", "id": 10, "runs": [[44, 20, 9], [45, 20, 5]]}, None, "u")
    return objects


def make_image(folder, size=SIZE):
    """An image in a file."""
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    write_pixels(folder / "a.tif", pixels)
    return open_image(folder / "a.tif")


def download_objects(folder, objects, image, kind, only=None):
    """A download of an image ``a``."""
    return write_download(folder / "out", objects, ImageEntry(1, "a", "a.tif", image), kind, only)


def check(folder, name, objects, image, region=None):
    """A checked image, whose file is there or not."""
    return CheckedImage(name, folder / "a.tif", image, objects, region)


def read_back(folder, download):
    """What the product reads of a download, scored against an image without labels."""
    (folder / "data" / "images").mkdir(parents=True)
    (folder / "a.tif").rename(folder / "data" / "images" / "a.tif")
    names = [{"id": 1, "name": "nucleus"}, {"id": 7, "name": "cell"}]
    image = {"id": 1, "file_name": "a.tif", "height": SIZE[0], "width": SIZE[1]}
    content = {"images": [image], "annotations": [], "categories": names}
    (folder / "data" / "annotations.json").write_text(json.dumps(content))
    dataset = read_dataset(folder / "data")
    stored = folder / "stored"
    if download.suffix == ".zip" and not zipfile.is_zipfile(download):
        raise AssertionError(download)
    if download.suffix == ".zip" and "imagej" not in str(download.parent.name):
        with zipfile.ZipFile(download) as archive:
            archive.extractall(stored)
    else:
        stored.mkdir()
        download.rename(stored / download.name)
    return read_predictions(stored, dataset).read(dataset.records[0], SIZE)


def list_masks(instances):
    """Class and pixels of each object, in any order."""
    return sorted(
        (int(label), mask.tobytes()) for label, mask in zip(instances.labels, instances.to_masks(), strict=True)
    )


@pytest.mark.parametrize("kind", ["coco", "geojson", "imagej", "labels"])
def test_downloads_give_the_objects_again(tmp_path, kind):
    objects = make_edited(tmp_path / "image")
    expected = objects.to_instances()
    download = download_objects(tmp_path, objects, make_image(tmp_path), kind)
    found = read_back(tmp_path, download)
    assert len(found) == len(expected)
    assert list_masks(found) == list_masks(expected)
    if kind != "imagej":  # whose files hold no scores
        assert np.allclose(np.sort(found.scores), np.sort(expected.scores))


@pytest.mark.parametrize("kind", ["coco", "geojson", "imagej"])
def test_objects_that_overlap_come_back_whole(tmp_path, kind):
    objects = make_objects(tmp_path / "image", make_instances(size=SIZE))
    edit_at_random(objects, np.random.default_rng(2), 40)
    expected = objects.to_instances()
    assert len(intersect_runs(expected.runs, expected.runs)) > len(expected)
    found = read_back(tmp_path, download_objects(tmp_path, objects, make_image(tmp_path), kind))
    assert list_masks(found) == list_masks(expected)


@pytest.mark.parametrize("kind", list(OUTPUTS))
def test_every_output_is_one_file(tmp_path, kind):
    objects = make_objects(tmp_path / "image")  # of which some overlap
    download = download_objects(tmp_path, objects, make_image(tmp_path, (220, 300)), kind)
    assert download.is_file()
    assert download.stat().st_size > 100
    if kind == "labels":
        with zipfile.ZipFile(download) as archive:
            assert archive.namelist() == ["labels/a.tif", "labels/a.csv", "overlaps/a.tif"]


def test_downloads_of_a_choice(tmp_path):
    objects = make_edited(tmp_path / "image")
    download = download_objects(tmp_path, objects, make_image(tmp_path), "geojson", Filter(classes=[7], min_score=0.8))
    with gzip.open(download) as file:
        features = json.load(file)["features"]
    shown = objects.to_instances()
    assert len(features) == ((shown.labels == 2) & (shown.scores >= 0.8)).sum()
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"cell"}


def test_measurements_of_all_and_of_one_are_equal(tmp_path):
    objects, image = make_edited(tmp_path / "image"), make_image(tmp_path)
    objects.edit({"op": "accept", "ids": [5]}, None, "u")
    write_measurements(tmp_path / "m.csv", objects, image)
    with open(tmp_path / "m.csv", newline="") as file:
        rows = {int(row["id"]): row for row in csv.DictReader(file)}
    selection = objects.select()
    assert list(rows) == selection.ids.tolist()
    assert 3 not in rows
    assert [int(row["area"]) for row in rows.values()] == selection.instances.runs.areas.tolist()
    assert (rows[1]["edited"], rows[1]["accepted"], rows[5]["edited"], rows[5]["accepted"]) == ("1", "0", "0", "1")
    for each in (1, 5, 9, selection.ids[-1]):
        one = measure_object(objects, image, int(each))
        assert list(one) == list(rows[each])
        for name, value in one.items():
            if name == "class":
                assert rows[each][name] == value
            else:
                assert float(rows[each][name]) == pytest.approx(value, abs=1e-6)
    json.dumps(one, allow_nan=False)
    assert measure_object(objects, image, 3)["edited"] == 1  # deleted ones have numbers, too
    with pytest.raises(LookupError, match="no object 999"):
        measure_object(objects, image, 999)


def test_checked_images_are_a_data_set(tmp_path):
    objects, image = make_edited(tmp_path / "image"), make_image(tmp_path)
    write_checked(folder := tmp_path / "set", [check(tmp_path, "first", objects, image)])
    dataset = read_dataset(folder)
    assert dataset.categories == objects.version.categories
    assert dataset.problems == ()
    (whole,) = dataset
    assert not whole.iscrowd.any()
    assert list_masks(whole.to_instances()) == list_masks(objects.to_instances())
    np.testing.assert_array_equal(whole.pixels, image.read())


def test_what_nobody_looked_at_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr("manymask.serve.checked.MARGIN", 20)
    objects, image = make_edited(tmp_path / "image"), make_image(tmp_path)
    part = check(tmp_path, "second", objects, image, (30, 10, 60, 50))
    write_checked(folder := tmp_path / "set", [part])
    with pytest.warns(UserWarning, match="2 of 13 annotations are crowd regions"):
        dataset = read_dataset(folder)
    (sample,) = dataset
    window = np.s_[0:80, 10:110]
    np.testing.assert_array_equal(sample.pixels, image.read()[window])
    all_masks = objects.to_instances().to_masks()
    is_seen = all_masks[:, 10:60, 30:90].any(axis=(1, 2))
    expected = [
        (int(label), mask[window].tobytes())
        for label, mask in zip(objects.to_instances().labels[is_seen], all_masks[is_seen], strict=True)
    ]
    found = sample.to_instances()
    assert list_masks(found[~found.iscrowd]) == sorted(expected)
    crowds = found[found.iscrowd]
    assert sorted(crowds.labels.tolist()) == [1, 2]
    outside = np.ones((80, 100), dtype=bool)
    outside[10:60, 20:80] = False
    for mask in crowds.to_masks():
        np.testing.assert_array_equal(mask, outside)
    target = make_target(sample.layers, sample.labels, sample.iscrowd)
    objects_there = all_masks[is_seen].any(axis=0)[window]
    np.testing.assert_array_equal(target["ignored"].numpy(), outside & ~objects_there)


def test_checked_images_that_cannot_be_used_are_named(tmp_path):
    objects, image = make_edited(tmp_path / "image"), make_image(tmp_path)
    with pytest.raises(Exception, match="no image is marked"):
        write_checked(tmp_path / "set", [])
    outside = check(tmp_path, "first", objects, image, (500, 0, 5, 5))
    with pytest.raises(Exception, match="no pixels in the image"):
        write_checked(tmp_path / "set", [outside])


def test_round_trips_of_random_edits(tmp_path):
    objects = make_objects(tmp_path / "image")
    edit_at_random(objects, np.random.default_rng(5), 80)
    expected = objects.to_instances()
    image = ArraySource(np.zeros((*objects.size, 1), dtype=np.uint8))
    write_checked(folder := tmp_path / "set", [check(tmp_path, "a", objects, image)])
    (sample,) = read_dataset(folder)
    assert list_masks(sample.to_instances()) == list_masks(expected)
