"""What every kind of output does, and what is left of each when predicting stops half-way."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from manymask.core import ArraySource, Category, Instances, Region, Window, json_files
from manymask.core.files import replace_file
from manymask.core.tiles import place_instances
from manymask.errors import ManymaskError
from manymask.outputs import (
    OUTPUTS,
    CocoResults,
    CsvTables,
    GeoJson,
    ImageEntry,
    ImagejRois,
    LabelTiffs,
    Overlays,
    ParquetTables,
    Submission,
    close_writers,
)
from tests.outputs import results

CATEGORIES = (Category(3, "grain"),)
KINDS = [*OUTPUTS.values(), Submission]


def make_instances(num_instances: int) -> Instances:
    masks = np.zeros((num_instances, 8, 12), dtype=bool)
    for place in range(num_instances):
        masks[place, 2:5, 3 * place : 3 * place + 4] = True  # which overlap
    runs = Instances.from_masks(masks, np.ones(num_instances, dtype=np.int64)).runs
    scores = np.linspace(0.9, 0.1, num_instances).astype(np.float32)
    return Instances.from_runs(runs, np.ones(num_instances, dtype=np.int64), scores=scores)


def write_some(kind, folder, *, num_images=2):
    """Write two images of three instances, of which two are above the threshold."""
    names = [f"image{place}" for place in range(num_images)]
    writer = kind(folder, names, CATEGORIES, 0.5)
    with close_writers([writer]):
        for place, name in enumerate(names[:2], start=1):
            image = ImageEntry(place, name, f"{name}.png", ArraySource(np.zeros((8, 12, 1), dtype=np.uint8)))
            writer.write(image, make_instances(3))
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_writes_the_files_that_it_lists(kind, tmp_path):
    kind.check()
    listed = kind.list_files(["image0", "image1"])
    assert write_some(kind, tmp_path) == {name for name in listed if ".part" not in name}


def test_coco_results_are_what_json_writes(tmp_path):
    write_some(CocoResults, tmp_path)
    text = (tmp_path / "predictions.json").read_text()
    assert text == json.dumps(json.loads(text))
    assert [entry["image_id"] for entry in json.loads(text)] == [1, 1, 1, 2, 2, 2]
    assert json.loads((tmp_path / "images.json").read_text())[1] == {
        "id": 2, "file_name": "image1.png", "name": "image1", "height": 8, "width": 12,
    }  # fmt: skip


@pytest.fixture
def region():
    """A part of an image, of the size that ``results.make_instances`` are of."""
    return Region(results.make_image((90, 150)), Window(30, 70, 40, 60))


def read_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", [GeoJson, ImagejRois, CsvTables, ParquetTables])
def test_positions_in_a_region_count_from_the_corner_of_the_file(kind, tmp_path, region):
    placed = place_instances(results.make_instances(), region.window, region.image.size)
    results.write(kind, tmp_path / "whole", placed, region.image)
    results.write(kind, tmp_path / "region", image=region)
    assert read_files(tmp_path / "region") == read_files(tmp_path / "whole")


@pytest.mark.parametrize("kind", [CocoResults, LabelTiffs, Overlays])
def test_masks_of_a_region_are_of_its_size(kind, tmp_path, region):
    cut = results.Image(region.read())
    results.write(kind, tmp_path / "cut", image=cut)
    results.write(kind, tmp_path / "region", image=region)
    expected = read_files(tmp_path / "cut")
    if kind is CocoResults:
        (entry,) = json.loads((tmp_path / "cut" / "images.json").read_text())
        entry["region"] = [70, 30, 60, 40]
        expected[Path("images.json")] = json.dumps([entry]).encode()
    assert read_files(tmp_path / "region") == expected


def test_pycocotools_reads_the_masks(tmp_path):
    write_some(CocoResults, tmp_path)
    results = json.loads((tmp_path / "predictions.json").read_text())
    for result, mask in zip(results, [*make_instances(3).to_masks()] * 2, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]), mask)


def test_nothing_found_is_an_empty_list(tmp_path):
    with close_writers([CocoResults(tmp_path, [], CATEGORIES, 0.5)]):
        pass
    assert (tmp_path / "predictions.json").read_text() == "[]"


def test_results_until_an_error_are_kept(tmp_path):
    writer = CocoResults(tmp_path, ["a", "b"], CATEGORIES, 0.5)

    def fail():
        with close_writers([writer]):
            writer.write(
                ImageEntry(1, "a", "a.png", ArraySource(np.zeros((8, 12, 1), dtype=np.uint8))), make_instances(2)
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 2
    assert list(tmp_path.glob(".*")) == []


def test_no_part_of_a_submission_is_packed(tmp_path):
    assert write_some(Submission, tmp_path, num_images=3) == {"test-results.json"}


def test_equal_submissions_are_equal_files(tmp_path):
    for name in ("first", "second"):
        write_some(Submission, tmp_path / name)
    first, second = (tmp_path / name / "test-results.zip" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.read("test-results.json") == (tmp_path / "first" / "test-results.json").read_bytes()


def test_nothing_is_left_where_the_second_file_cannot_be_opened(tmp_path, monkeypatch):
    def refuse_images(path, mode):
        if path.name == "images.json":
            raise ManymaskError("cannot write images.json")
        return replace_file(path, mode)

    monkeypatch.setattr(json_files, "replace_file", refuse_images)
    with pytest.raises(ManymaskError, match="cannot write images.json"):
        write_some(CocoResults, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]


def test_a_writer_that_is_made_opens_no_file(tmp_path):
    for kind in KINDS:
        kind(tmp_path, ["a"], CATEGORIES, 0.5)
    assert list(tmp_path.iterdir()) == []


def test_full_disk(tmp_path):
    (tmp_path / "predictions.json").mkdir()
    writer = CocoResults(tmp_path, ["a"], CATEGORIES, 0.5)
    with pytest.raises(ManymaskError, match="cannot write .*predictions.json: a folder is where the file belongs"):
        writer.close()
    assert not list(tmp_path.glob(".*.partial"))
