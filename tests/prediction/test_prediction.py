import itertools
import json
import logging
import re
import shutil
import sys
import time
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image
from pycocotools.coco import COCO

from manymask.core import Instances, RunLengths, encode_crops
from manymask.errors import BrokenImagesError, CheckpointError, DatasetError, ManymaskError, PlanError
from manymask.evaluation import evaluate
from manymask.formats import read_dataset, write_class_folder
from manymask.imaging import PlaneChoice, read_pixels
from manymask.modeling import catalogue
from manymask.modeling.build import build_model
from manymask.modeling.checkpoint import CHECKPOINT_KEY, read_state_dict, write_checkpoint
from manymask.modeling.detections import Postprocessing, make_instances
from manymask.outputs import OUTPUTS, CocoResults
from manymask.plan import make_plan
from manymask.prediction import (
    TTA_FACTORS,
    Model,
    find_checkpoint,
    load_model,
    predict,
    predict_files,
    predict_tensor,
    predicting,
)
from manymask.prediction.views import detect_views, list_views, warn_of_cap
from manymask.synthetic import make_categories, make_sample
from manymask.training.setup import read_start
from tests import dense
from tests.tiny_model import CATEGORIES, LARGER, SETTINGS, make_tiny_plan, ship, write_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*cap of 12")  # the tiny model finds something everywhere


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with a best checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    write_tiny_model(folder / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def model(run) -> Model:
    return load_model(run)


def make_pixels(height: int = 40, width: int = 52, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def write_images(folder: Path, *names: str) -> Path:
    """PNG or TIFF files of different sizes."""
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        pixels = make_pixels(36 + 4 * index, 48, seed=index)
        if name.endswith(".tif"):
            tifffile.imwrite(folder / name, pixels, photometric="rgb")
        else:
            Image.fromarray(pixels).save(folder / name)
    return folder


def assert_same_instances(found: Instances, expected: Instances) -> None:
    dense.assert_same_runs(found.runs, expected.runs)
    for name in ("labels", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)


def predict_one(model: Model, image) -> Instances:
    (instances,) = predict(model, [image], min_score=0.0)
    return instances


def test_model_of_a_run_folder(run, model):
    assert model.source == run / "best.ckpt"
    assert model.categories == CATEGORIES
    assert model.plan.score_threshold == SETTINGS["score_threshold"]
    assert not model.detector.network.training


def test_best_checkpoint_goes_before_last_and_a_file_is_itself(tmp_path):
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    last.touch()
    assert find_checkpoint(tmp_path) == last
    best.touch()
    assert find_checkpoint(tmp_path) == best
    assert find_checkpoint(last) == last


def test_no_checkpoint(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(CheckpointError, match=r"a.png is an image, not a model; the model comes first"):
        find_checkpoint(tmp_path / "a.png")
    with pytest.raises(
        CheckpointError, match=r"a run folder, a checkpoint or an exported model at .*none, found nothing"
    ):
        load_model(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"found a folder without best\.ckpt, last\.ckpt and model\.json"):
        load_model(tmp_path)


def test_a_file_that_is_not_ours(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"other\.ckpt is not a checkpoint of manymask's"):
        load_model(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"other\.ckpt is cut short"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_dict": {}}, "does not fit the architecture"),
        ({CHECKPOINT_KEY: {"plan": make_tiny_plan().model_copy(update={"data": None}).model_dump()}}, "which classes"),
        ({CHECKPOINT_KEY: {}}, "is not a checkpoint of manymask's"),
    ],
    ids=["weights", "classes", "plan"],
)
def test_a_checkpoint_that_lacks_something(tmp_path, changes, message):
    content = {CHECKPOINT_KEY: {"plan": make_tiny_plan().model_dump(mode="json")}, "state_dict": {}}
    write_checkpoint(content | changes, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_scor": 0.1}, "there is no setting 'min_scor'; did you mean 'min_score'?"),
        ({"source": "x"}, "there is no setting 'source'"),
        ({"epochs": 3}, "epochs is fixed by training; at prediction one can set device, crowd_as_objects, detections"),
        ({"min_score": 2}, "min_score is 2"),
        ({"device": "gpu"}, "device is 'gpu', expected auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "device is cuda:99, but torch sees"),
    ],
)
def test_wrong_settings(run, settings, message):
    with pytest.raises(PlanError) as error:
        load_model(run, settings=settings)
    assert message in str(error.value)


@pytest.mark.filterwarnings("ignore:.*cap of 3")
def test_settings_act(run, model):
    found = predict_one(model, make_pixels())
    median = float(np.median(found.scores))
    assert_same_instances(predict_one(load_model(run, settings={"detections_per_image": 3}), make_pixels()), found[:3])
    high = predict_one(load_model(run, settings={"min_score": str(median)}), make_pixels())
    assert_same_instances(high, found[found.scores > median])
    # What is cut in JSON and AP does not depend on what is shown.
    assert_same_instances(predict_one(load_model(run, settings={"score_threshold": 1}), make_pixels()), found)
    assert load_model(run, settings={"detections_per_image": "auto"}).plan.max_detections == 135  # 1.5 x 90


@pytest.mark.parametrize("size", [(33, 33), (34, 97), (70, 41)])
def test_instances_lie_in_an_image_of_any_size(model, size):
    instances = predict_one(model, make_pixels(*size))
    assert instances.size == size
    assert 2 < len(instances) <= SETTINGS["detections_per_image"]
    assert (np.diff(instances.scores) <= 0).all()
    assert instances.scores.min() > SETTINGS["min_score"]
    assert set(instances.labels.tolist()) <= {1, 2}
    assert (instances.boxes >= 0).all()
    assert (instances.boxes <= [size[1], size[0]] * 2).all()
    dense.assert_valid_runs(instances.runs)


def test_grey_of_any_shape_and_depth_is_the_same(model):
    grey = make_pixels(channels=1)
    expected = predict_one(model, grey)
    for pixels in (grey[..., 0], grey.repeat(3, axis=2), grey.astype(np.uint16) * 257, (grey / 255).astype(np.float64)):
        assert_same_instances(predict_one(model, pixels), expected)


def test_files_and_arrays_are_the_same(model, tmp_path):
    folder = write_images(tmp_path / "in", "a.png", "b.tif")
    paths = [str(folder / "a.png"), folder / "b.tif"]
    for found, path in zip(predict(model, paths, min_score=0.0), paths, strict=True):
        assert_same_instances(found, predict_one(model, read_pixels(Path(path))))


def test_an_image_alone_is_the_same_as_among_others(model):
    images = [make_pixels(60, 40, seed=1), make_pixels(seed=2), make_pixels(33, 80, seed=3)]
    for together, image in zip(list(predict(model, images, min_score=0.0)), images, strict=True):
        assert_same_instances(together, predict_one(model, image))


def test_images_are_taken_one_ahead_only(model):
    taken = []

    def give():
        for index in range(5):
            taken.append(index)
            yield make_pixels(33, 33)

    results = predict(model, give())
    assert taken == []
    next(results)
    assert taken == [0, 1]
    results.close()


def test_no_images(model):
    assert list(predict(model, [])) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((40, 40, 4), dtype=np.uint8), "expected 1 or 3 channels, found 4 in an array"),
        (np.full((40, 40), 2.0), r"expected intensities in \[0, 1\], found 2 to 2 in an array"),
        (np.zeros((0, 40), dtype=np.uint8), r"expected pixels of shape .* found an array of shape \(0, 40\)"),
        (Path("nowhere.png"), "nowhere.png does not exist"),
    ],
)
def test_images_that_cannot_be_used(model, image, message):
    with pytest.raises(DatasetError, match=message):
        predict_one(model, image)


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


def test_an_image_in_memory_of_any_kind_is_the_same(model):
    pixels = make_pixels(40, 60)
    expected = predict_one(model, pixels)
    first = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (Image.fromarray(pixels), first, np.moveaxis(pixels, 2, 0), first.to(torch.int64).to(torch.uint8)):
        assert_same_instances(predict_one(model, image), expected)
    mask = pixels[..., 0] > 90
    assert_same_instances(predict_one(model, mask), predict_one(model, mask * np.uint8(255)))
    with pytest.raises(DatasetError, match=r"expected pixels of shape \(height, width, channels\).*\(1, 3, 40, 60\)"):
        predict_one(model, first[None])


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


@pytest.mark.parametrize(("cap", "is_warned"), [(3, True), (4, False)])
def test_warns_where_the_cap_cuts_off_sure_instances(cap, is_warned):
    runs = encode_crops(((10 * i, 0, np.ones((5, 5), dtype=bool)) for i in range(3)), (40, 40))
    instances = Instances.from_runs(runs, np.ones(3, dtype=np.int64))
    plan = make_plan("baseline", {"detections_per_image": cap})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_cap(instances, Postprocessing.of(plan), Path("crowd.tif"))
    assert [f"cap of {cap}" in str(warning.message) for warning in caught] == [True] * is_warned


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """Two labelled images."""
    folder = tmp_path_factory.mktemp("cells")
    for index in range(2):
        pixels, found = make_sample(index, size=(40, 40), num_instances=3, num_classes=2)
        write_class_folder(folder, f"{index:04d}", pixels, found, make_categories(2))
    return folder


def test_gives_what_is_shown_unless_more_is_asked_for(run):
    pixels = make_pixels()
    scores = predict_one(load_model(run), pixels).scores
    threshold = float(np.median(scores))
    model = load_model(run, settings={"score_threshold": threshold})
    (shown,) = predict(model, pixels)
    assert 0 < len(shown) == (scores >= threshold).sum() < len(scores)
    (everything,) = predict(model, pixels, min_score=0.0)
    assert everything.scores.tolist() == scores.tolist()
    with pytest.raises(PlanError, match="min_score is 2.0, expected a number from 0 to 1"):
        predict(model, pixels, min_score=2.0)


def test_says_where_the_cap_may_have_cut_off(run, cells):
    model = load_model(run, settings={"detections_per_image": 3, "score_threshold": 0.05})
    with pytest.warns(UserWarning, match=r"^image 2: the cap of 3 detections is reached, and more instances may be"):
        list(predict(model, [make_pixels(), make_pixels()]))
    with pytest.warns(UserWarning, match=r"image\.tif: the cap of 3 detections is reached"):
        list(predict(model, cells / "0000" / "image.tif"))


class TestOneImage:
    """A single file, folder or array is one call away, without a list around it."""

    def test_array(self, model):
        pixels = np.full((40, 48, 3), 128, dtype=np.uint8)
        assert [found.size for found in predict(model, pixels)] == [(40, 48)]

    @pytest.mark.parametrize("num_channels", [1, 3])
    def test_in_memory_in_any_form(self, model, num_channels):
        pixels = make_pixels()[..., :num_channels]
        first = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
        image = Image.fromarray(pixels.squeeze())
        forms = [image, torch.from_numpy(pixels), torch.from_numpy(first), first]
        expected = predict_one(model, pixels)
        for form in forms:
            assert_same_instances(predict_one(model, form), expected)
            assert [found.size for found in predict(model, form)] == [expected.size]

    def test_two_values_are_black_and_white(self, model):
        is_light = make_pixels()[..., 0] > 100
        expected = predict_one(model, is_light * np.uint8(255))
        for form in (is_light, torch.from_numpy(is_light), Image.fromarray(is_light * np.uint8(255)).convert("1")):
            assert_same_instances(predict_one(model, form), expected)

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (lambda: iter([[[1, 2], [3, 4]]]), "a torch tensor or a Pillow image, found list; make an array of it"),
            (lambda: torch.zeros(2, 3, 40, 48), r"found an array of shape \(2, 3, 40, 48\) .* each image by itself"),
            (lambda: np.full((40, 48), "a"), "expected pixels of shape"),
        ],
    )
    def test_what_is_no_image_is_refused_in_a_sentence(self, model, images, message):
        with pytest.raises(DatasetError, match=message):
            list(predict(model, images()))

    def test_file_and_folder(self, model, cells):
        image = cells / "0000" / "image.tif"
        assert len(list(predict(model, image))) == 1
        assert len(list(predict(model, str(image)))) == 1
        assert len(list(predict(model, str(cells)))) == len(read_dataset(cells))

    def test_missing_file_is_said_at_the_call(self, model, tmp_path):
        with pytest.raises(DatasetError, match="does not exist"):
            predict(model, tmp_path / "nothing.png")

    def test_model_by_its_path(self, model, cells):
        assert len(list(predict(model.source, cells / "0000" / "image.tif"))) == 1


class TestModelPredict:
    def test_is_the_one_implementation(self, model, cells):
        for given in (make_pixels(), cells / "0000" / "image.tif", [make_pixels(), cells / "0001" / "image.tif"]):
            pairs = list(zip(model.predict(given, min_score=0.0), predict(model, given, min_score=0.0), strict=True))
            assert pairs
            for found, expected in pairs:
                assert_same_instances(found, expected)

    @pytest.mark.parametrize("content", [None, b"no image"])
    def test_images_before_one_that_cannot_be_read_come_first(self, model, tmp_path, content):
        if content is not None:
            (tmp_path / "a.tif").write_bytes(content)
        found = model.predict([make_pixels(), make_pixels(), tmp_path / "a.tif", make_pixels()], min_score=0.0)
        assert [instances.size for instances in (next(found), next(found))] == [(40, 52)] * 2
        with pytest.raises(DatasetError, match=r"a\.tif"):
            next(found)

    def test_batches_are_of_images_of_one_size(self, model, monkeypatch):
        sizes = [(40, 48), (40, 48), (40, 48), (36, 40), (40, 48)]
        images = [make_pixels(*size, seed=place) for place, size in enumerate(sizes)]
        seen, forward = [], model.detector.network.forward
        monkeypatch.setattr(model.detector.network, "forward", lambda batch: seen.append(len(batch)) or forward(batch))
        found = list(model.predict(iter(images), batch_size=2, min_score=0.0))
        assert seen == [2, 1, 1, 1]
        for instances, image in zip(found, images, strict=True):
            (expected,) = model.predict(image, min_score=0.0)
            assert instances.size == image.shape[:2]
            np.testing.assert_allclose(instances.scores, expected.scores, atol=1e-5)
            np.testing.assert_allclose(instances.boxes, expected.boxes, atol=1e-2)

    @pytest.mark.parametrize("batch_size", [1, 8])
    def test_memory_is_flat(self, model, monkeypatch, batch_size):
        """Of a thousand images only those of a batch and the ones read ahead are alive."""

        class Counted(np.ndarray):
            alive = most = 0

            def __del__(self):
                type(self).alive -= self.is_first

        def make_images():
            for _ in range(1000):
                image = np.zeros((8, 8, 3), dtype=np.uint8).view(Counted)
                Counted.alive += 1
                image.is_first = True
                Counted.most = max(Counted.most, Counted.alive)
                yield image

        Counted.is_first = False
        nothing = Instances.from_runs(RunLengths.empty((8, 8)), np.zeros(0, dtype=np.int64))
        monkeypatch.setattr(predicting, "find_instances", lambda *_: nothing)
        monkeypatch.setattr(predicting, "predict_alike", lambda _, images, __: [nothing] * len(images))
        assert sum(1 for _ in model.predict(make_images(), batch_size=batch_size)) == 1000
        assert Counted.most <= batch_size + 4

    def test_pages_and_channels(self, model, tmp_path):
        pages = np.stack([make_pixels()[..., 0], make_pixels()[..., 1]])
        tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", metadata={"axes": "ZYX"})
        found = list(model.predict(tmp_path / "a.tif", planes=PlaneChoice(page="all"), min_score=0.0))
        for instances, page in zip(found, pages, strict=True):
            assert_same_instances(instances, predict_one(model, page))

    def test_tile_size(self, model, monkeypatch):
        with pytest.raises(PlanError, match="tile_size is 8, but tiles of this model overlap"):
            model.predict(make_pixels(), tile_size=8)

    def test_no_batch_is_refused(self, model):
        with pytest.raises(PlanError, match="batch_size is 0, expected 1 or more"):
            model.predict(make_pixels(), batch_size=0)


def test_full_device_is_one_line(model, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.detector.network, "forward", fail)
    with pytest.raises(ManymaskError, match="40 x 48; lower detections_per_image"):
        list(predict(model, np.zeros((40, 48), dtype=np.uint8)))


def test_full_memory_is_one_line(model):
    """Fifty terabytes, which torch's allocator refuses as it does a few gigabytes too many."""
    image = torch.zeros(3, 1, 1).expand(3, 1 << 21, 1 << 21)
    with pytest.raises(
        ManymaskError, match=r"^memory is full at a\.png of 2097152 x 2097152; lower detections_per_image .* predict$"
    ):
        predict_tensor(model, image, "a.png")


def test_says_that_nothing_reaches_the_threshold(model, cells, tmp_path):
    strict = load_model(model.source, settings={"score_threshold": 1.0})
    with pytest.warns(UserWarning, match="no instance has a score of 1 or more"):
        predict_files(strict, cells, tmp_path / "out", formats=["coco"])


class TestTta:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory) -> Path:
        """Of the network that the bounds below were found with."""
        folder = tmp_path_factory.mktemp("larger")
        write_tiny_model(folder / "best.ckpt", **LARGER)
        return folder

    @pytest.fixture(scope="class")
    def model(self, run) -> Model:
        return load_model(run)

    def predict_view(self, model, image, **changes):
        (view,) = list_views(size := (image.shape[-2], image.shape[-1]), model.preprocessing)
        (detections,) = detect_views(model.detector, image, [replace(view, **changes)])
        return make_instances(detections, size, model.postprocessing)

    @pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)])
    def test_a_view_of_a_flipped_image_is_the_image_s(self, model, flips):
        """The network sees the same pixels, so what it finds lies at the mirrored places."""
        image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
        axes = [axis for axis, is_flipped in ((2, flips[0]), (1, flips[1])) if is_flipped]
        plain = self.predict_view(model, image)
        view = self.predict_view(model, image.flip(axes), flips=flips)
        assert len(plain) > 0
        np.testing.assert_allclose(view.scores, plain.scores)
        expected = plain.to_masks()[:, :: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
        assert (view.to_masks() == expected).mean() > 0.999

    @pytest.mark.parametrize("axis", [1, 2])
    def test_a_flipped_image_gives_the_flipped_masks(self, run, axis):
        """Its views are the image's own in another order."""
        model, image = (
            load_model(run, settings={"tta": True}),
            torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0)),
        )
        plain, flipped = predict_tensor(model, image), predict_tensor(model, image.flip(axis))
        np.testing.assert_allclose(flipped.scores, plain.scores, atol=1e-4)
        assert (np.flip(flipped.to_masks(), axis) == plain.to_masks()).mean() > 0.99

    def test_an_enlarged_view_has_the_image_s_size(self, model):
        image = torch.rand(3, 41, 53, generator=torch.Generator().manual_seed(0))
        found = self.predict_view(model, image, factor=1.25)
        assert found.size == (41, 53)
        assert (found.boxes[:, 2:].max(axis=0) <= (53, 41)).all()
        assert found.boxes[:, 2:].max() > 45  # boxes over the whole of it, not the view's part

    def test_merged(self, run):
        model = load_model(run, settings={"tta": True})
        (found,) = predict(model, make_pixels(), min_score=0.0)
        assert model.plan.tta
        assert 0 < len(found) <= model.plan.max_detections
        assert (np.diff(found.scores) <= 0).all()
        assert found.scores.min() >= model.plan.min_score
        assert found.size == (40, 52)


class TestShipped:
    @pytest.fixture
    def name(self, run, tmp_path, monkeypatch):
        ship(run / "best.ckpt", tmp_path, "tiny")
        monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
        monkeypatch.chdir(tmp_path)
        return "tiny"

    def test_by_name(self, name, model):
        loaded = load_model(name)
        assert loaded.categories == model.categories
        assert loaded.source.name == "tiny.safetensors"
        (plain,), (found,) = (predict(m, make_pixels(), min_score=0.0) for m in (model, loaded))
        assert abs(len(found) - len(plain)) <= 2  # weights in half precision

    def test_a_run_of_that_name_comes_first(self, name, run):
        shutil.copytree(run, "tiny")
        assert load_model(name).source == Path("tiny/best.ckpt")

    def test_a_folder_of_that_name_is_no_run(self, name):
        Path("tiny").mkdir()
        assert load_model(name).source.name == "tiny.safetensors"

    def test_names_are_listed(self, name):
        with pytest.raises(
            CheckpointError,
            match=r"the name of a shipped model \(tiny\), a run folder, a checkpoint or an exported model at none",
        ):
            load_model("none")

    def test_as_starting_weights(self, name):
        assert read_start(name).backbone == SETTINGS["backbone"]
        network = build_model(3, settings={**SETTINGS, "weights": name})
        expected = read_state_dict(Path("tiny.safetensors"))
        assert all(torch.equal(v, expected[n].to(v.dtype)) for n, v in network.state_dict().items())

    def test_evaluating_needs_data(self, name):
        with pytest.raises(
            DatasetError, match="tiny is a shipped model, which holds no images to score on; give the data"
        ):
            evaluate(name)


def test_views_are_enlarged_where_images_are_not_resized_to_one_size(run):
    def count(**settings):
        preprocessing = load_model(run, settings=settings).preprocessing
        return len({view.factor for view in list_views((40, 52), preprocessing, tta=True)})

    assert count() == count(max_size=60) == len(TTA_FACTORS)
    assert count(min_size=64) == 1


def test_cap_in_a_view_is_told(run):
    with pytest.warns(UserWarning, match=r"a view of the image reached the cap of 3 detections"):
        list(
            predict(
                load_model(run, settings={"tta": True, "detections_per_image": 3, "score_threshold": 0.05}),
                make_pixels(),
            )
        )
