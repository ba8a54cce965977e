import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from manymask.core import ArraySource, Category, ImageSource, Instances, Window, crop_runs, encode_crops
from manymask.core.outputs import RECORD_NAME
from manymask.errors import BrokenImagesError, DatasetError, FormatError, Interrupted, ManymaskError, PlanError
from manymask.evaluation import evaluate
from manymask.imaging import ONE_PLANE
from manymask.plan import make_plan
from manymask.prediction import Model, load_model, predict, predict_files, tiling
from manymask.prediction.job import _describe_settings, _Job
from manymask.prediction.partial import PARTIAL_NAME, PartialResults, TileStore
from manymask.prediction.tiling import Tiling, find_instances, load_image
from tests import dense
from tests.prediction.scenes import assert_same_instances
from tests.tiny_model import make_tiny_plan, write_tiny_model

TILES = Tiling(tile_size=96, overlap=24, alignment=8)


@dataclass
class NoDetector:
    """Stands where a network would; what is found comes from the truth."""

    device = torch.device("cpu")

    def __call__(self, images):
        raise AssertionError


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    file = tmp_path_factory.mktemp("model") / "model.ckpt"
    file.write_bytes(b"weights")
    return make_model(file)


def make_model(file: Path, **settings) -> Model:
    plan = make_tiny_plan(**{"detections_per_image": 1000, **settings})
    plan = plan.model_copy(update={"data": plan.data.model_copy(update={"longest_object": 24.0})})
    return Model(NoDetector(), plan, (Category(2, "round"), Category(5, "long")), file)


def draw_truth(size: tuple[int, int], num_objects: int = 150, seed: int = 0) -> Instances:
    """Rectangles and bars that touch and overlap; some are longer than the overlap."""
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(num_objects):
        height, width = rng.integers(3, 20, 2) if rng.random() < 0.95 else (5, 120)
        height, width = min(height, size[0]), min(width, size[1])
        top, left = rng.integers(0, size[0] - height + 1), rng.integers(0, size[1] - width + 1)
        crops.append((int(left), int(top), np.ones((height, width), dtype=bool)))
    scores = rng.choice(np.linspace(0.4, 1, 50, dtype=np.float32), num_objects)
    return Instances.from_runs(encode_crops(crops, size), rng.integers(1, 3, num_objects), scores=scores)


class Coordinates(ImageSource):
    """An image whose values say where they lie: row, column, 0. Reads windows only, and notes the largest one."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size, self.num_channels, self.dtype, self.longest = size, 3, np.dtype("uint16"), 0

    def read(self, window: Window | None = None, level: int = 0) -> np.ndarray:
        top, left, height, width = self._locate(window, level)
        self.longest = max(self.longest, height, width)
        return make_coordinates(top, left, height, width)


def make_coordinates(top: int, left: int, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[top : top + height, left : left + width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint16)


def answer_from(truth: Instances, calls: list | None = None):
    """In place of ``predict_tensor``: what a detector that is always right finds in the window that it is shown."""
    boxes = truth.runs.boxes

    def look(model, image, name, factor=None):
        top, left = (image[:2, 0, 0] * 65535).round().int().tolist()
        window = Window(top, left, image.shape[1], image.shape[2])
        is_in = (boxes[:, 2] > left) & (boxes[:, 0] < left + window.width)
        is_in &= (boxes[:, 3] > top) & (boxes[:, 1] < top + window.height)
        near = truth[is_in]
        runs = crop_runs(near.runs, window)
        if calls is not None:
            calls.append(window)
        return Instances.from_runs(runs, near.labels, scores=near.scores)[runs.areas > 0]

    return look


def list_objects(instances: Instances) -> list[tuple]:
    splits = instances.runs.row_splits.tolist()
    return sorted(
        (label, score, instances.runs.start[a:b].tolist(), instances.runs.length[a:b].tolist())
        for label, score, a, b in zip(
            instances.labels.tolist(), instances.scores.tolist(), splits[:-1], splits[1:], strict=True
        )
    )


class TestTiling:
    def test_overlap_is_that_of_the_longest_object_and_the_context(self):
        plan = make_model(Path()).plan
        assert Tiling.of(plan) == Tiling(tiling.TILE_SIDE, 2 * tiling.CONTEXT, 32)
        long = plan.model_copy(update={"data": plan.data.model_copy(update={"longest_object": 200.5})})
        assert Tiling.of(long).overlap == 202
        assert Tiling.of(make_tiny_plan()).overlap == max(make_tiny_plan().anchor_sizes)

    @pytest.mark.parametrize(("scale", "alignment"), [(1, 32), (1.5, 64), (2, 16), (0.5, 64), (1.25, 128), (1.37, 23)])
    def test_windows_begin_where_the_network_sees_them_as_in_the_whole(self, scale, alignment):
        found = Tiling.of(make_model(Path(), scale=scale).plan)
        assert found.alignment == alignment
        assert found.tile_size == int(tiling.TILE_SIDE / scale)

    def test_tiles_are_as_large_as_objects_are_made(self):
        """Objects four times as large as in training are seen in tiles four times as large."""
        plan = make_model(Path()).plan
        data = plan.data.model_copy(update={"object_sizes": (8.0, 9.0, 10.0, 11.0, 12.0)})
        found = Tiling.of(plan.model_copy(update={"data": data, "object_size": 44.0}))
        assert found == Tiling(4 * tiling.TILE_SIDE, 4 * 2 * tiling.CONTEXT, 128)
        assert Tiling.of(plan.model_copy(update={"data": data, "object_size": 10.0})) == Tiling.of(plan)

    def test_size_that_is_measured_begins_with_the_images_as_they_are(self):
        plan = make_model(Path()).plan
        measured = plan.model_copy(update={"object_size": "auto"})
        assert Tiling.of(measured) == Tiling.of(plan)
        assert Tiling.of(measured, tile_size=2000).tile_size == 2000

    def test_resized(self):
        """As large for the network, but no larger in the file than can be read."""
        tiles = Tiling(1728, 128, 32)
        assert tiles.resize(0.5, 1.0) == Tiling(3456, 256, 64)
        assert tiles.resize(1.0, 1.0) == tiles
        assert tiles.resize(0.1, 1.0) == Tiling(tiling.FILE_SIDE, 1280, 320)

    def test_models_that_resize_images_to_one_size_see_them_whole(self):
        plan = make_plan("baseline")
        assert Tiling.of(plan) is None
        assert Tiling.of(plan, tile_size=2000).tile_size == 2000

    def test_a_tile_that_is_hardly_longer_than_the_overlap(self):
        with pytest.raises(PlanError, match="tile_size is 100, but tiles of this model overlap by 192 pixels"):
            Tiling.of(make_model(Path()).plan, tile_size=100)


class TestFindInstances:
    @pytest.mark.parametrize("size", [(300, 420), (96, 500), (97, 97)])
    def test_gives_the_truth(self, model, monkeypatch, size):
        truth, image = draw_truth(size), Coordinates(size)
        calls = []
        monkeypatch.setattr(tiling, "predict_tensor", answer_from(truth, calls))
        loaded = load_image(image, "a.tif", model.plan, TILES)
        assert list_objects(find_instances(model, loaded, TILES)) == list_objects(truth)
        assert len(calls) == len(loaded.tiles) > 1
        assert image.longest <= TILES.tile_size

    def test_the_network_does_not_look_at_empty_windows(self, model, monkeypatch):
        """Empty is what has one colour; one pixel more is looked at."""
        truth, calls = draw_truth((300, 420)), []

        class Padded(Coordinates):
            def read(self, window=None, level=0):
                pixels = super().read(window, level)
                rows, columns = pixels[..., 0], pixels[..., 1]
                pixels[(rows >= 150) & ((rows != 299) | (columns != 419))] = (9, 5, 7)
                return pixels

        monkeypatch.setattr(tiling, "predict_tensor", answer_from(truth, calls))
        loaded = load_image(Padded((300, 420)), "a.tif", model.plan, TILES)
        found = find_instances(model, loaded, TILES)
        empty = [tile.window for tile in loaded.tiles if tile.window.top >= 150][:-1]
        seen = [tile.window for tile in loaded.tiles if tile.window not in empty]
        assert len(empty) > 3
        assert len(calls) == len(seen)
        assert len(found) > 0

    def test_says_how_many_are_stitched_and_how_it_comes_on(self, model, monkeypatch, caplog):
        truth, told = draw_truth((300, 420)), []
        monkeypatch.setattr(tiling, "predict_tensor", answer_from(truth))
        loaded = load_image(Coordinates((300, 420)), "a.tif", model.plan, TILES)
        with caplog.at_level("INFO"):
            find_instances(model, loaded, TILES, tell=lambda *call: told.append(call))
        assert "objects longer than the overlap of 24 pixels, put together of what several tiles show" in caplog.text
        assert sum(number for number, _ in told) == len(loaded.tiles)
        assert told[-1][1].startswith("a.tif: 1")
        assert told[-1][1].endswith("megapixels/s, 0 s left")

    def test_the_cap_is_a_tile_s(self, model, monkeypatch):
        look = answer_from(draw_truth((200, 200)))
        monkeypatch.setattr(tiling, "predict_tensor", lambda *arguments: look(*arguments)[:20])
        capped = make_model(model.source, detections_per_image=20)
        with pytest.warns(UserWarning, match=r"a\.tif: the cap of 20 detections is reached in \d of 9 tiles"):
            found = find_instances(capped, load_image(Coordinates((200, 200)), "a.tif", model.plan, TILES), TILES)
        assert len(found) > 20

    def test_a_tile_that_cannot_be_decoded_is_named(self, model, monkeypatch):
        class Damaged(Coordinates):
            def read(self, window=None, level=0):
                if window.left:
                    raise FormatError("a.tif is damaged")
                return super().read(window, level)

        monkeypatch.setattr(tiling, "predict_tensor", answer_from(draw_truth((96, 200))))
        loaded = load_image(Damaged((96, 200)), "a.tif", model.plan, TILES)
        with pytest.raises(FormatError, match=r"a\.tif is damaged \(in the region \d+,0,\d+,96\)"):
            find_instances(model, loaded, TILES)


def test_a_network_sees_tiles_at_the_plan_s_scale(tmp_path):
    """``max_size`` limits neither a tile nor a whole image."""
    model = load_model(write_tiny_model(tmp_path / "a.ckpt", scale=2.0, max_size=100, detections_per_image=2000))
    tiles, sizes = Tiling(96, 32, 16), []
    detect = model.detector.network.forward

    def note_sizes(images):
        sizes.extend(tuple(image.shape[1:]) for image in images)
        return detect(images)

    model.detector.network.forward = note_sizes
    pixels = np.random.default_rng(0).integers(0, 255, (80, 150, 3)).astype(np.uint8)
    found = find_instances(model, load_image(ArraySource(pixels), "a", model.plan, tiles), tiles)
    assert sizes == [(160, 192), (160, 172)]
    assert found.size == (80, 150)


@pytest.fixture
def scene(tmp_path, monkeypatch, model):
    """A folder of a large and a small image whose values say where they lie, and the truth."""
    truth = draw_truth((300, 420))
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(folder / "large.tif", make_coordinates(0, 0, 300, 420), photometric="rgb")
    monkeypatch.setattr(tiling, "CONTEXT", 12)
    monkeypatch.setattr(tiling, "TILE_SIDE", 96)
    monkeypatch.setattr(tiling, "predict_tensor", answer_from(truth))
    return folder, truth


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stop_after(look, number: int, error: BaseException):
    """Look at so many tiles, then fail."""
    calls = []

    def look_or_stop(*arguments):
        calls.append(1)
        if len(calls) > number:
            raise error
        return look(*arguments)

    return look_or_stop


def damage_identity(model: Model, folder: Path, output: Path) -> None:
    (output / PARTIAL_NAME).mkdir(parents=True)
    (output / PARTIAL_NAME / "identity.json").write_text("cut sh")
    predict_files(model, folder, output)


class TestGoingOn:
    def test_files_are_the_truth_and_nothing_else_is_left(self, scene, model, tmp_path):
        folder, truth = scene
        predict_files(model, folder, tmp_path / "out", formats=["coco"])
        assert sorted(read_all(tmp_path / "out")) == [RECORD_NAME, "images.json", "predictions.json"]
        (found,) = predict(model, folder, min_score=0.0)
        assert list_objects(found) == list_objects(truth)

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), ManymaskError("the disk is full")])
    def test_the_same_call_goes_on_to_the_same_files(self, scene, model, tmp_path, monkeypatch, error):
        folder, truth = scene
        predict_files(model, folder, tmp_path / "whole")
        monkeypatch.setattr(tiling, "predict_tensor", stop_after(answer_from(truth), 7, error))
        with pytest.raises((Interrupted, ManymaskError), match=r"\.partial: the same command goes on|disk is full"):
            predict_files(model, folder, tmp_path / "out")
        assert len(list((tmp_path / "out" / PARTIAL_NAME / "large").glob("*.npz"))) == 7
        calls = []
        monkeypatch.setattr(tiling, "predict_tensor", answer_from(truth, calls))
        predict_files(model, folder, tmp_path / "out")
        assert len(calls) == len(Tiling.of(model.plan).list_tiles((300, 420))) - 7
        assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")

    @pytest.mark.skipif(sys.platform == "win32", reason="the test forks")
    def test_after_a_kill(self, scene, model, tmp_path, monkeypatch):
        folder, truth = scene
        predict_files(model, folder, tmp_path / "whole")
        look = answer_from(truth)

        def look_slowly(*arguments):
            time.sleep(0.05)
            return look(*arguments)

        monkeypatch.setattr(tiling, "predict_tensor", look_slowly)
        process = multiprocessing.get_context("fork").Process(
            target=predict_files, args=(model, folder, tmp_path / "out")
        )
        process.start()
        for _ in range(2000):
            time.sleep(0.01)
            if len(list((tmp_path / "out").glob(f"{PARTIAL_NAME}/large/*.npz"))) >= 8:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        monkeypatch.setattr(tiling, "predict_tensor", look)
        predict_files(model, folder, tmp_path / "out")
        assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")

    @pytest.mark.parametrize("stays_full", [False, True])
    def test_wherever_the_disk_is_full(self, scene, model, tmp_path, monkeypatch, stays_full):
        """It is said in a line, what is there is whole, and the same call goes on when there is room."""
        folder, truth = scene
        calls, files = [], []

        def predict_to(name, full_at=-1):
            def sync(_):
                files.append(name)
                if len(files) == full_at or (stays_full and 0 < full_at < len(files)):
                    raise OSError(errno.ENOSPC, "No space left on device")

            files.clear()
            calls.clear()
            (tmp_path / name).mkdir(exist_ok=True)
            monkeypatch.setattr(os, "fsync", sync)
            predict_files(model, folder, tmp_path / name, formats=["coco", "labels", "csv"], tile_size=192)
            return read_all(tmp_path / name)

        monkeypatch.setattr(tiling, "predict_tensor", answer_from(truth, calls))
        whole, num_files, num_tiles = predict_to("whole"), len(files), len(calls)
        for number in (6, num_files - 5, num_files - 2):  # a tile, a label image, and predictions.json
            with pytest.raises(ManymaskError, match="^cannot write .*: no space left on the device; make room and run"):
                predict_to(f"{number}", number)
            there = read_all(tmp_path / f"{number}")
            visible = {name: content for name, content in there.items() if not name.startswith(".")}
            assert all(content in (whole[name], b"[]") for name, content in visible.items())
            num_done = sum(name.endswith(".npz") for name in there)
            assert num_done == min(number - 4, num_tiles)
            assert predict_to(f"{number}") == whole
            assert len(calls) == num_tiles - num_done

    def test_another_prediction_is_refused_by_name(self, scene, model, tmp_path, monkeypatch):
        folder, truth = scene
        out = tmp_path / "out"
        monkeypatch.setattr(tiling, "predict_tensor", stop_after(answer_from(truth), 3, KeyboardInterrupt()))
        with pytest.raises(Interrupted):
            predict_files(model, folder, out)
        before = read_all(out)
        other = tmp_path / "other.ckpt"
        other.write_bytes(b"other weights")
        with pytest.raises(PlanError, match="finished tiles of a prediction with another model; go on with that"):
            predict_files(make_model(other), folder, out)
        with pytest.raises(PlanError, match=r"a prediction with min_score 0\.05, not 0\.2"):
            predict_files(make_model(model.source, min_score=0.2), folder, out)
        with pytest.raises(PlanError, match=r"a prediction with tile_size 96, not 128"):
            predict_files(model, folder, out, tile_size=128)
        with pytest.raises(PlanError, match="a prediction with region none, not 8,4,200,250"):
            predict_files(model, folder, out, region=(8, 4, 200, 250))
        pixels = make_coordinates(0, 0, 300, 420)
        tifffile.imwrite(folder / "large.tif", np.maximum(pixels, 1), photometric="rgb")
        with pytest.raises(PlanError, match=r"finished tiles of large as it was before .*large\.tif was changed"):
            predict_files(model, folder, out)
        with pytest.raises(PlanError, match=r"identity\.json is damaged, so nobody knows .*; remove .*\.partial"):
            damage_identity(model, folder, tmp_path / "damaged")
        (folder / "large.tif").rename(folder / "larger.tif")
        with pytest.raises(PlanError, match="finished tiles of large, which is not among the images"):
            predict_files(model, folder, out)
        assert read_all(out) == before

    def test_the_score_threshold_is_another_prediction_where_it_chooses_the_factor(self, scene, model, tmp_path):
        job = _Job(model, Tiling.of(model.plan), None, None, may_break=False)
        settings = {}
        for size in (None, "auto"):
            for threshold in (0.3, 0.6):
                changes = {"object_size": size, "score_threshold": threshold}
                job.model = replace(model, plan=model.plan.model_copy(update=changes))
                settings[size, threshold] = _describe_settings(job, ONE_PLANE)
        assert settings[None, 0.3] == settings[None, 0.6]
        assert settings["auto", 0.3] != settings["auto", 0.6]

    @pytest.mark.skipif(sys.platform == "win32", reason="the test forks")
    def test_only_one_process_predicts_to_a_folder(self, scene, model, tmp_path):
        folder, _ = scene
        (folder / "large.tif").unlink()
        tifffile.imwrite(folder / "small.tif", make_coordinates(0, 0, 40, 50), photometric="rgb")
        context = multiprocessing.get_context("fork")
        messages = context.Queue()

        def predict_too():
            try:
                predict_files(model, folder, tmp_path / "out", formats=["csv"])
            except ManymaskError as error:
                messages.put(str(error))

        with PartialResults(tmp_path / "out", {}).hold({}):
            process = context.Process(target=predict_too)
            process.start()
            process.join()
        assert "another process predicts to" in messages.get(timeout=10)
        assert read_all(tmp_path / "out") == {}

    def test_a_damaged_tile_file_is_made_anew(self, scene, model, tmp_path):
        store, found = TileStore(tmp_path), [draw_truth((40, 50)), draw_truth((40, 50), 0)]
        assert store.read(range(3, 5)) is None
        store.write(range(3, 5), found)
        for stored, given in zip(store.read(range(3, 5)), found, strict=True):
            assert_same_instances(stored, given)
        (file,) = tmp_path.glob("*.npz")
        file.write_bytes(file.read_bytes()[:-100])
        assert store.read(range(3, 5)) is None


class TestRegion:
    def test_is_predicted_as_the_whole_file(self, scene, model, tmp_path):
        folder, truth = scene
        window = Window(40, 100, 200, 250)
        predict_files(model, folder, tmp_path / "out", formats=["labels", "coco"], region=(100, 40, 250, 200))
        labels = tifffile.imread(tmp_path / "out" / "labels" / "large.tif")
        assert labels.shape == (200, 250)
        (entry,) = json.loads((tmp_path / "out" / "images.json").read_text())
        assert (entry["height"], entry["width"], entry["region"]) == (200, 250, [100, 40, 250, 200])
        assert (labels > 0).tolist() == (crop_runs_to_mask(truth, window)).tolist()

    def test_outside_of_the_image(self, scene, model, tmp_path):
        folder, _ = scene
        with pytest.raises(DatasetError, match=r"region 400,0,50,50 .* is not inside of .*large\.tif, which is 420"):
            predict_files(model, folder, tmp_path / "out", region=(400, 0, 50, 50))


def crop_runs_to_mask(truth: Instances, window: Window) -> np.ndarray:
    shown = truth.runs.select(truth.scores >= 0.3)
    return dense.decode_runs(crop_runs(shown, window)).any(axis=0)


class TestBrokenImages:
    @pytest.mark.filterwarnings("ignore:passed over")
    def test_are_reported_and_passed_over(self, scene, model, tmp_path, caplog):
        folder, _ = scene
        tifffile.imwrite(folder / "b.tif", make_coordinates(0, 0, 40, 50), photometric="rgb")
        data = (folder / "b.tif").read_bytes()
        (folder / "a.tif").write_bytes(data[:200])
        (folder / "c.tif").write_bytes(b"no image")
        out, calls = tmp_path / "out", []
        with pytest.raises(
            BrokenImagesError, match="2 of 4 images could not be predicted; the results of the"
        ) as error:
            predict_files(model, folder, out, formats=["labels"], progress=lambda *call: calls.append(call))
        assert error.value.exit_code == 1
        assert "a.tif" in str(error.value)
        assert "c.tif" in str(error.value)
        assert "passed over: " in caplog.text
        assert sorted(path.name for path in (out / "labels").glob("*.tif")) == ["b.tif", "large.tif"]
        assert calls[-1][0] == calls[-1][1]

    @pytest.mark.filterwarnings("ignore:passed over")
    def test_inside_of_a_tiled_one(self, scene, model, tmp_path, monkeypatch):
        folder, truth = scene
        tifffile.imwrite(folder / "b.tif", make_coordinates(0, 0, 40, 50), photometric="rgb")
        look = answer_from(truth)
        monkeypatch.setattr(tiling, "predict_tensor", stop_after(look, 5, FormatError("large.tif is damaged")))
        out, calls = tmp_path / "out", []
        with pytest.raises(BrokenImagesError, match=r"1 of 2 images could not be predicted.*large\.tif is damaged"):
            predict_files(model, folder, out, formats=["coco"], progress=lambda *call: calls.append(call))
        assert calls[-1][0] == calls[-1][1]
        assert '"b"' in (out / "images.json").read_text()

    def test_one_alone_is_an_error(self, scene, model, tmp_path):
        folder, _ = scene
        (folder / "large.tif").write_bytes(b"no image")
        with pytest.raises(DatasetError, match="large.tif"):
            predict_files(model, folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_evaluation_sees_the_same_tiles(scene, model, monkeypatch):
    """There are more objects than one tile may have: the cap is a tile's in scores, too."""
    folder, _ = scene
    corners = [(x, y) for x in range(2, 410, 12) for y in range(2, 290, 12)]
    truth = Instances.from_runs(
        encode_crops([(x, y, np.ones((8, 8), dtype=bool)) for x, y in corners], (300, 420)),
        np.ones(len(corners), dtype=np.int64),
    )
    labels = (truth.to_masks() * np.arange(1, len(truth) + 1, dtype=np.uint16)[:, None, None]).sum(0, dtype=np.uint16)
    tifffile.imwrite(folder / "large_masks.tif", labels)
    monkeypatch.setattr(tiling, "predict_tensor", answer_from(truth))
    capped = make_model(model.source, detections_per_image=100)
    capped = replace(capped, categories=(Category(1, "object"),))
    scores = evaluate(capped, folder)
    assert pytest.approx(1) == scores.mask.AP
    assert len(truth) > 800


def test_objects_are_shown_tile_by_tile_until_the_viewer_ends_it(model, monkeypatch):
    truth = draw_truth((200, 300))
    monkeypatch.setattr(tiling, "predict_tensor", answer_from(truth))
    loaded = load_image(Coordinates((200, 300)), "image", model.plan, TILES)
    shown: list[Instances] = []
    found = find_instances(model, loaded, TILES, show=shown.append, is_quiet=True)
    assert len(shown) == len(loaded.tiles)
    assert all(part.size == (200, 300) for part in shown)
    # Each once, where it lies; but for those longer than a tile's margin, which the merge puts together.
    is_whole = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1) <= TILES.overlap
    listed = [str(each) for part in shown for each in list_objects(part)]
    assert len(listed) == len(set(listed)) > 100
    assert {str(each) for each in list_objects(found[is_whole])} <= set(listed)

    def end(_: Instances) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        find_instances(model, loaded, TILES, show=end)
