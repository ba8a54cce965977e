import itertools
import json
import logging
import re
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from pycocotools.coco import COCO

from manymask.errors import BrokenImagesError, DatasetError, ManymaskError, PlanError
from manymask.imaging import PlaneChoice, read_pixels
from manymask.outputs import OUTPUTS, CocoResults
from manymask.prediction import (
    load_model,
    predict,
    predict_files,
)
from tests import dense
from tests.prediction.scenes import make_pixels, predict_one, write_images
from tests.tiny_model import CATEGORIES

pytestmark = pytest.mark.filterwarnings("ignore:.*cap of 12")  # the tiny model finds something everywhere


def test_predictions_json_is_what_pycocotools_reads(model, tmp_path):
    folder = write_images(tmp_path / "in", "a.png", "b.tif")
    written = predict_files(model, folder, tmp_path / "out", formats=["coco"])
    assert written == [tmp_path / "out" / "predictions.json", tmp_path / "out" / "images.json"]
    images = json.loads(written[1].read_text())
    names = [(image["id"], image["file_name"], image["name"], image["height"], image["width"]) for image in images]
    assert names == [(1, "a.png", "a", 36, 48), (2, "b.tif", "b", 40, 48)]
    truth = COCO()
    truth.dataset = {"images": images, "annotations": [], "categories": [{"id": c.id} for c in CATEGORIES]}
    truth.createIndex()
    found = truth.loadRes(str(written[0]))
    found_again = predict(model, [folder / "a.png", folder / "b.tif"], min_score=0.0)
    for image, instances in zip(images, found_again, strict=True):
        results = found.loadAnns(found.getAnnIds(imgIds=image["id"]))
        masks = dense.decode_coco([result["segmentation"] for result in results], instances.size)
        np.testing.assert_array_equal(masks, instances.to_masks())
        boxes = np.array([result["bbox"] for result in results])
        np.testing.assert_array_equal(boxes[:, :2], instances.boxes[:, :2])
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], instances.boxes[:, 2:])
        assert [result["score"] for result in results] == instances.scores.tolist()
        assert [result["category_id"] for result in results] == [CATEGORIES[i - 1].id for i in instances.labels]


def test_label_images_and_overlays_show_scores_from_the_threshold_on(run, tmp_path):
    folder = write_images(tmp_path / "in", "a.png")
    model = load_model(
        run, settings={"score_threshold": float(np.median(predict_one(load_model(run), folder / "a.png").scores))}
    )
    written = predict_files(model, folder, tmp_path / "out")
    names = {path.name for path in written} - {"overlaps"}  # which is there if predictions overlap
    assert names == {"labels", "overlays", "predictions.json", "images.json"}
    rows = (tmp_path / "out" / "labels" / "a.csv").read_text().splitlines()
    scores = [float(row.split(",")[2]) for row in rows[1:]]
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert rows[0] == "id,class,score"
    assert len(scores) < len(results)
    assert min(scores) >= model.plan.score_threshold
    assert min(result["score"] for result in results) < model.plan.score_threshold
    ids = tifffile.imread(tmp_path / "out" / "labels" / "a.tif")
    assert ids.shape == (36, 48)
    assert np.unique(ids).tolist() == list(range(len(scores) + 1))
    assert Image.open(tmp_path / "out" / "overlays" / "a.png").size[0] % 48 == 0


def test_pages_are_images_of_their_own(model, tmp_path):
    pages = np.stack([np.random.default_rng(seed).integers(0, 250, (36, 48), dtype=np.uint8) for seed in range(5)])
    write_images(tmp_path / "in", "b.png")
    tifffile.imwrite(tmp_path / "in" / "a.tif", pages, imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(DatasetError, match=r"a\.tif is a stack .* --z \(1 to 5\), or --page \(1 to 5, or all\)"):
        predict_files(model, tmp_path / "in" / "a.tif", tmp_path / "out")
    predict_files(model, tmp_path / "in", tmp_path / "out", planes=PlaneChoice(page="all"), formats=["coco", "labels"])
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    names = [f"a_p{number:03}" for number in range(1, 6)]
    assert [image["name"] for image in images] == [*names, "b"]
    assert {image["file_name"] for image in images} == {"a.tif", "b.png"}
    assert {path.stem for path in (tmp_path / "out" / "labels").iterdir()} == {*names, "b"}
    predict_files(model, tmp_path / "in" / "a.tif", tmp_path / "one", planes=PlaneChoice(z=3), formats=["coco"])
    results, one = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("out", "one"))
    assert [result | {"image_id": 1} for result in results if result["image_id"] == 3] == one
    with pytest.raises(PlanError, match="ids names files and not their pages"):
        predict_files(
            model, tmp_path / "in", tmp_path / "out", ids=tmp_path / "ids.json", planes=PlaneChoice(page="all")
        )


def test_a_zarr_image_is_predicted_as_a_file_is(model, tmp_path):
    pixels = read_pixels(write_images(tmp_path / "in", "a.png") / "a.png")
    group = zarr.open_group(tmp_path / "in" / "b.zarr", mode="w")
    group.create_array("0", data=pixels)
    axes = [{"name": name} for name in "yxc"]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    predict_files(model, tmp_path / "in" / "b.zarr", tmp_path / "one", formats=["coco"])
    predict_files(model, tmp_path / "in", tmp_path / "both", formats=["coco"])
    one, both = (json.loads((tmp_path / name / "images.json").read_text()) for name in ("one", "both"))
    assert [image["file_name"] for image in one + both] == ["b.zarr", "a.png", "b.zarr"]
    results = json.loads((tmp_path / "both" / "predictions.json").read_text())
    first, second = ([r | {"image_id": 0} for r in results if r["image_id"] == number] for number in (1, 2))
    assert first == second != []


@pytest.mark.parametrize("formats", [["labels"], ["overlay"], ["labels", "coco"], [], [*OUTPUTS]])
def test_only_the_wanted_formats_are_written(model, tmp_path, formats):
    folder = write_images(tmp_path / "in", "a.png")
    written = predict_files(model, folder / "a.png", tmp_path / "out", formats=formats)
    expected = {"coco": {"predictions.json", "images.json"}, "labels": {"labels"}, "overlay": {"overlays"}}
    expected |= {"geojson": {"geojson"}, "imagej": {"imagej"}, "csv": {"measurements"}, "parquet": {"measurements"}}
    there = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert there == {path.name for path in written}
    assert there - {"overlaps"} == set().union(*(expected[name] for name in formats))


def test_a_format_without_its_package_is_refused_before_the_first_image(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ManymaskError, match="needs pyarrow"):
        predict_files(model, write_images(tmp_path / "in", "a.png"), tmp_path / "out", formats=["parquet"])
    assert not (tmp_path / "out").exists()


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()}


def test_ground_truth_is_not_written_over(model, tmp_path, monkeypatch):
    write_images(tmp_path / "images", "a.png", "b.png")
    write_images(tmp_path / "labels", "a.png")  # b has none yet, and none is put among those of the user
    before = list_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    for output in (tmp_path, "."):
        with pytest.raises(PlanError, match=r"labels/a\.png is not as manymask predict wrote it.*another --output"):
            predict_files(model, tmp_path, output)
    assert list_files(tmp_path) == before


@pytest.mark.parametrize("folder", ["images", "."])
def test_images_may_lie_where_the_predictions_go(model, tmp_path, folder):
    write_images(tmp_path / "in" / folder, "a.png", "b.png")
    predict_files(model, tmp_path / "in", tmp_path / "in")
    before = list_files(tmp_path / "in")
    predict_files(model, tmp_path / "in", tmp_path / "in")
    assert list_files(tmp_path / "in") == before
    assert {"labels/a.tif", "labels/b.tif", "predictions.json"} <= before


def test_what_was_predicted_before_goes(model, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first, second = write_images(tmp_path / "1", "a.png", "b.png"), write_images(tmp_path / "2", "c.png")
    predict_files(model, first, tmp_path / "out")
    predict_files(model, first, tmp_path / "out")
    assert "removed" not in caplog.text
    predict_files(model, second, tmp_path / "out", formats=["labels"])
    assert "removed what manymask predict wrote there before" in caplog.text
    assert re.search("images.json, labels/a.csv, .* and [0-9]+ more; to keep such files, choose another", caplog.text)
    assert list_files(tmp_path / "out") - {"overlaps/c.tif"} == {"labels/c.tif", "labels/c.csv"}


def test_a_place_that_cannot_be_written_is_found_before_the_first_image(model, tmp_path):
    (tmp_path / "file").touch()
    folder = write_images(tmp_path / "in", "a.png")
    (folder / "a.png").write_bytes(b"broken")
    with pytest.raises(ManymaskError, match="a file is where a folder is needed"):
        predict_files(model, folder, tmp_path / "file" / "out")


def test_long_names(model, tmp_path):
    longest = "x" * 251
    write_images(tmp_path / "in", f"{longest}.tif")
    predict_files(model, tmp_path / "in", tmp_path / "out", formats=["labels"])
    written = list_files(tmp_path / "out") - {f"overlaps/{longest}.tif"}
    assert written == {f"labels/{longest}.tif", f"labels/{longest}.csv"}
    write_images(tmp_path / "cells" / f"{longest}xyz", "image.tif", "class1.tif")
    with pytest.raises(ManymaskError, match="the name is longer than the file system allows; rename the image"):
        predict_files(model, tmp_path / "cells", tmp_path / "more", formats=["labels"])


def test_files_that_are_passed_over_are_named(model, tmp_path):
    folder = write_images(tmp_path / "in", "a.png", "b_masks.png", "a_masks.png")
    write_images(folder / "masks", "c.png")
    (folder / "d.avif").write_bytes(b"x")
    (folder / "e.tif").symlink_to("/nowhere")
    with pytest.warns(UserWarning, match=r"4 files .*: b_masks\.png, d\.avif, e\.tif \(a .*, masks.*; images"):
        predict_files(model, folder, tmp_path / "out", formats=["coco"])
    (folder / "masks" / "notes.csv").write_text("x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(?s).*cap of 12")
        predict_files(model, folder / "masks", tmp_path / "out2", formats=["coco"])


def test_class_folders_are_named_by_their_folders(model, tmp_path):
    for name in ("x", "y"):
        write_images(tmp_path / "in" / name, "image.tif", "class1.tif")
    predict_files(model, tmp_path / "in", tmp_path / "out", formats=["coco", "labels"])
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [(image["name"], image["file_name"]) for image in images] == [("x", "x/image.tif"), ("y", "y/image.tif")]
    assert (tmp_path / "out" / "labels" / "y.tif").is_file()


def test_several_files_and_a_list_of_files(model, tmp_path):
    write_images(tmp_path / "in", "a.png", "b.tif", "c.png")
    write_images(tmp_path / "in2", "a.png")
    (tmp_path / "in" / "list.txt").write_text("# plate 1\na.png\n\n  # plate 2\n../in2/a.png\n")
    given = [tmp_path / "in" / "b.tif", tmp_path / "in" / "list.txt", str(tmp_path / "in" / "b.tif")]
    predict_files(model, given, tmp_path / "out", formats=["coco", "labels"])
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [(image["name"], image["file_name"]) for image in images] == [
        ("b", "in/b.tif"),
        ("in_a", "in/a.png"),
        ("in2_a", "in2/a.png"),
    ]
    assert (tmp_path / "out" / "labels" / "in2_a.tif").is_file()
    assert len(list(predict(model, tmp_path / "in" / "list.txt"))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a.png\nb.png\n",
            r"list\.txt lists .*b\.png on line 2, which does not exist; paths count from",
        ),
        ("\n# nothing\n", r"list\.txt is empty; expected the path of an image on each line"),
        (None, r"list\.txt does not exist; expected a text file"),
    ],
)
def test_a_list_that_cannot_be_used(model, tmp_path, text, message):
    path = write_images(tmp_path / "in", "a.png") / "list.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        predict_files(model, path, tmp_path / "out")


def test_folders_of_folders_of_images(model, tmp_path):
    write_images(tmp_path / "in" / "plate1", "a.png", "b.png")
    for name in ("day1", "masks"):
        write_images(tmp_path / "in" / "plate2" / name, "a.png")
    (tmp_path / "in" / "plate2" / "round").symlink_to(tmp_path / "in")
    predict_files(model, tmp_path / "in", tmp_path / "out", formats=["coco"])
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [(image["name"], image["file_name"]) for image in images] == [
        ("plate1_a", "plate1/a.png"),
        ("b", "plate1/b.png"),
        ("plate2_day1_a", "plate2/day1/a.png"),
    ]


def test_folders_beside_images(model, tmp_path):
    write_images(tmp_path / "in", "a.png")
    for name in ("plate/day", "images", "Masks", "label masks"):
        write_images(tmp_path / "in" / name, "a.png")
    write_images(tmp_path / "in" / "cell", "image.tif", "class1.tif")
    with pytest.warns(UserWarning, match=r"passed over .*: Masks/ \(a subfolder\), label masks/"):
        predict_files(model, tmp_path / "in", tmp_path / "out", formats=["coco"])
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [(image["name"], image["file_name"]) for image in images] == [
        ("a", "a.png"),
        ("cell", "cell/image.tif"),
        ("images_a", "images/a.png"),
        ("plate_day_a", "plate/day/a.png"),
    ]


def break_inside(data: bytes) -> bytes:
    return data[:60] + bytes(len(data) - 80) + data[-20:]


DAMAGES = (lambda data: b"", lambda data: b"a letter", lambda data: data[: len(data) // 2])


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *itertools.product([".png", ".jpg", ".tif", ".webp", ".jp2", ".gif"], DAMAGES),
        *itertools.product([".png", ".jpg", ".tif", ".jp2", ".gif"], [break_inside]),  # WebP's decoder takes any bits
    ],
)
def test_the_others_are_predicted_where_an_image_is_broken(model, tmp_path, suffix, damage):
    folder = write_images(tmp_path / "in", "a.png", "c.png")
    Image.fromarray(make_pixels(seed=7)).save(folder / f"b{suffix}")
    (folder / f"b{suffix}").write_bytes(damage((folder / f"b{suffix}").read_bytes()))
    error = pytest.raises(BrokenImagesError, match=rf"1 of 3 images could not .*b\{suffix}")
    with pytest.warns(UserWarning, match=rf"passed over: .*b\{suffix}"), error:
        predict_files(model, folder, tmp_path / "out", formats=["labels"])
    assert sorted(path.name for path in (tmp_path / "out" / "labels").glob("*.tif")) == ["a.tif", "c.tif"]


def test_progress_is_told(model, tmp_path):
    calls = []
    folder = write_images(tmp_path / "in", "a.png", "b.png")
    predict_files(model, folder, tmp_path / "out", formats=["coco"], progress=lambda *call: calls.append(call))
    assert calls == [(1, 2, "predicting"), (2, 2, "predicting")]


def test_an_interrupt_waits_for_what_is_being_written(model, tmp_path, monkeypatch):
    write = CocoResults.write

    def write_slowly(*arguments):
        time.sleep(0.5)
        write(*arguments)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(CocoResults, "write", write_slowly)
    folder = write_images(tmp_path / "in", "a.png", "b.png", "c.png")
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, folder, tmp_path / "out", formats=["coco"], progress=interrupt)
    listed, results = (
        json.loads((tmp_path / "out" / name).read_text()) for name in ("images.json", "predictions.json")
    )
    assert {result["image_id"] for result in results} == {image["id"] for image in listed} == {1, 2}


def write_ids(path: Path, *entries: tuple[str, int, int, int]) -> Path:
    keys = ("file_name", "id", "height", "width")
    path.write_text(json.dumps([dict(zip(keys, entry, strict=True)) for entry in entries]))
    return path


def test_listed_ids_go_to_a_submission(model, tmp_path):
    folder = write_images(tmp_path / "in", "a.png", "b.png")
    ids = write_ids(tmp_path / "ids.json", ("b.png", 4, 40, 48), ("a.png", 9, 36, 48))
    written = predict_files(model, folder, tmp_path / "out", formats=["coco"], ids=ids)
    assert [path.name for path in written] == ["test-results.json", "test-results.zip"]
    results = json.loads(written[0].read_text())
    sizes = {result["image_id"]: result["segmentation"]["size"] for result in results}
    assert sizes == {9: [36, 48], 4: [40, 48]}
    with zipfile.ZipFile(written[1]) as archive:
        assert json.loads(archive.read("test-results.json")) == results
    assert not (tmp_path / "out" / "images.json").exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("a.png", 1, 36, 48)], r"holds 1 image \(b\) that is not in .*ids\.json;"),
        ([("a.png", 1, 36, 48), ("b.png", 2, 40, 48), ("c.png", 3, 9, 9)], r"ids\.json lists 1 image \(c\) that is "),
        ([("a.png", 1, 36, 48), ("b.png", 2, 48, 40)], r"gives b.png as 48 x 40 \(height x width\), but .* is 40 x 48"),
        ([("a.png", 1, 36, 48), ("b.png", 1, 40, 48)], "the id 1 occurs twice"),
    ],
)
def test_ids_that_do_not_meet_the_images_are_refused_before_anything_is_written(model, tmp_path, entries, message):
    folder = write_images(tmp_path / "in", "a.png", "b.png")
    with pytest.raises(DatasetError, match=message):
        predict_files(model, folder, tmp_path / "out", ids=write_ids(tmp_path / "ids.json", *entries))
    assert not (tmp_path / "out").exists()


def test_broken_images_alone_are_found_before_anything_is_written(model, tmp_path):
    folder = write_images(tmp_path / "in", "b.png", "c.png")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"b\.png is cut short"):
        predict_files(model, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_equal_stems_are_refused(model, tmp_path):
    folder = write_images(tmp_path / "in", "a.png", "a.tif")
    with pytest.raises(DatasetError, match="are both named 'a'"):
        predict_files(model, folder, tmp_path / "out")


def test_an_unknown_format_is_refused(model, tmp_path):
    with pytest.raises(PlanError, match=f"no output format 'png'; choose one of {', '.join(OUTPUTS)}"):
        predict_files(model, tmp_path, tmp_path / "out", formats=["coco", "png"])


def test_says_that_nothing_reaches_the_threshold(model, cells, tmp_path):
    strict = load_model(model.source, settings={"score_threshold": 1.0})
    with pytest.warns(UserWarning, match="no instance has a score of 1 or more"):
        predict_files(strict, cells, tmp_path / "out", formats=["coco"])
