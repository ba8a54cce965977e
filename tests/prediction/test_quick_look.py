"""``object_size=auto`` in tiles: the factor is chosen once for the image, and no look is larger than a tile."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from manymask.core import ArraySource, ImageSource, Instances, RunLengths, Window
from manymask.errors import FormatError
from manymask.formats.ids import read_label_image
from manymask.imaging import ONE_PLANE
from manymask.imaging.normalization import Scale
from manymask.imaging.orientation import open_labelled_image
from manymask.modeling.detections import Detections
from manymask.prediction import quick_look, tiling
from manymask.prediction.job import _Job
from manymask.prediction.pace import Pace
from manymask.prediction.partial import TileStore
from manymask.prediction.parts import ImageFile
from manymask.prediction.quick_look import read_resized, spread_windows
from manymask.prediction.tiling import Tiling, find_instances, load_image
from tests.prediction.test_object_size import find, make_model, plant
from tests.prediction.test_tiling import Coordinates

SHAPE = (900, 1200)


class PlantedInWindows:
    """Finds the planted squares that look 5 to 60 pixels large in whatever part of ``Coordinates`` it is shown."""

    device = torch.device("cpu")

    def __init__(self, boxes, preprocessing):
        self.boxes, self.preprocessing, self.seen = torch.tensor(boxes, dtype=torch.float64), preprocessing, []

    def __call__(self, images):
        return [self.find(image) for image in images]

    def find(self, image):
        height, width = image.shape[1:]
        self.seen.append((height, width))
        mean, std = (torch.tensor(values[:2]).double() for values in (self.preprocessing.mean, self.preprocessing.std))
        first, last = (image[:2, place, place].double() * std + mean for place in (1, -2))
        steps = (last - first) * 65535 / torch.tensor([height - 3, width - 3])
        top, left = (first * 65535 + 0.5 - 1.5 * steps).tolist()  # centres of pixels lie half a step in
        boxes = (self.boxes - torch.tensor([left, top] * 2)) / steps.flip(0).repeat(2)
        sides = boxes[:, 2] - boxes[:, 0]
        clipped = torch.stack([
            boxes[:, 0].clamp(0, width), boxes[:, 1].clamp(0, height),
            boxes[:, 2].clamp(0, width), boxes[:, 3].clamp(0, height),
        ], dim=1)  # fmt: skip
        is_found = (sides > 5) & (sides < 60) & ((clipped[:, 2:] - clipped[:, :2]).min(dim=1).values > 0.5)
        scores = torch.exp(-((torch.log(sides[is_found] / 17) / 3) ** 2)).float()
        order = torch.argsort(-scores, stable=True)
        labels, masks = torch.ones(len(order), dtype=torch.int64), torch.ones(len(order), 28, 28)
        return Detections(clipped[is_found][order].float().round(decimals=2), labels, scores[order], masks)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiling, "TILE_SIDE", 240)
    monkeypatch.setattr(tiling, "CONTEXT", 12)
    monkeypatch.setattr(quick_look, "WINDOW_SIDE", 80)


def look(boxes, **settings):
    model = make_model(boxes, SHAPE, **settings)
    data = model.plan.data.model_copy(update={"longest_object": 60.0})
    model = dataclasses.replace(model, plan=model.plan.model_copy(update={"data": data}))
    detector = PlantedInWindows(boxes, model.preprocessing)
    model, image = dataclasses.replace(model, detector=detector), Coordinates(SHAPE)
    tiles = Tiling.of(model.plan)
    loaded = load_image(image, "a.tif", model.plan, tiles)
    assert len(loaded.tiles) > 1
    return find_instances(model, loaded, tiles), detector.seen


def test_objects_of_the_size_of_training_are_found_as_without_it():
    boxes = plant(17, SHAPE, count=900)
    found, seen = look(boxes)
    expected, plain = look(boxes, object_size=None)
    assert found.boxes.tolist() == expected.boxes.tolist()
    assert found.runs.start.tolist() == expected.runs.start.tolist()
    assert len(found) == len(boxes)
    assert seen[-len(plain) :] == plain
    looks = seen[: -len(plain)]
    assert 0 < sum(height * width for height, width in looks) <= 2 * 240**2


def test_large_objects_are_seen_smaller():
    boxes = plant(120, SHAPE)
    found, seen = look(boxes)
    np.testing.assert_allclose(sorted(found.boxes.tolist()), sorted(boxes), atol=1.5)
    assert max(max(size) for size in seen) <= 240


def test_two_sizes_take_two_passes(caplog):
    half = (SHAPE[0], SHAPE[1] // 2)
    small = [(x + half[1], y, x2 + half[1], y2) for x, y, x2, y2 in plant(25, half, count=30)]
    boxes = plant(110, half, pitch=1.2, count=6) + small
    found, seen = look(boxes)
    np.testing.assert_allclose(sorted(found.boxes.tolist()), sorted(boxes), atol=1.5)
    assert "a.tif: objects of about" in caplog.text
    assert "seen at 1 and 0.23 times its size" in caplog.text
    assert max(max(size) for size in seen) <= 240


def test_progress_counts_the_tiles_that_were_planned():
    model = make_model([], SHAPE)
    model = dataclasses.replace(model, detector=PlantedInWindows(np.zeros((0, 4)), model.preprocessing))
    tiles = Tiling.of(model.plan)
    loaded = load_image(Coordinates(SHAPE), "a.tif", model.plan, tiles)
    passes = [loaded.tiles, loaded.tiles[:1]]
    told, nothing = [], Instances.from_runs(RunLengths.empty((8, 8)), np.zeros(0, dtype=np.int64))
    sizes = {"num_told": len(loaded.tiles), "num_tiles": sum(map(len, passes)), "num_pixels": 2 * SHAPE[0] * SHAPE[1]}
    pace = Pace("a.tif", 0.5, lambda number, _: told.append(number), **sizes)
    for tile in itertools.chain(*passes):
        pace.tell([tile], [nothing], is_new=True)
    assert sum(told) == len(loaded.tiles)


def test_a_scaling_is_kept_with_the_tiles(tmp_path):
    store = TileStore(tmp_path)
    assert store.recall("scaling", lambda: {"factors": (0.3, 1.0)}) == {"factors": (0.3, 1.0)}
    assert store.recall("scaling", lambda: pytest.fail("it is known"))["factors"] == [0.3, 1.0]
    (tmp_path / "scaling.json").write_text("{")
    assert store.recall("scaling", lambda: 3) == 3


def test_the_cap_in_a_pass_is_told():
    half = (400, 300)
    moved = [(x + 300, y, x2 + 300, y2) for x, y, x2, y2 in plant(12, half)]
    boxes = plant(60, half, pitch=1.2, count=4) + moved
    with pytest.warns(UserWarning, match="image 1: a pass over the image reached the cap of 24 detections"):
        find(make_model(boxes, (400, 600), detections_per_image=24), (400, 600), tile_size=1000)


class Pyramid(ImageSource):
    """A ramp from left to right in two resolutions; notes what is read."""

    size, num_channels, dtype, level_sizes = (300, 400), 1, np.dtype("uint8"), ((300, 400), (75, 100))

    def __init__(self):
        self.reads = []

    def read(self, window=None, level=0):
        window = self._locate(window, level)
        self.reads.append((level, window))
        columns = np.arange(window.left, window.left + window.width) * 4**level / 2
        return np.tile(columns.astype(np.uint8), (window.height, 1))[..., None]


@pytest.mark.parametrize(("factor", "level"), [(0.1, 1), (0.25, 1), (0.5, 0), (2.0, 0)])
def test_a_window_is_read_at_the_smallest_resolution_that_suffices(factor, level, monkeypatch):
    monkeypatch.setattr(quick_look, "BLOCK_SIDE", 30)
    image = Pyramid()
    found = read_resized(image, Scale(0.0, 255.0), Window(100, 200, 120, 160), factor)
    assert found.shape == (3, round(120 * factor), round(160 * factor))
    assert {each for each, _ in image.reads} == {level}
    assert max(max(window[2:]) for _, window in image.reads) <= 30
    columns = (np.arange(found.shape[2]) + 0.5) / factor + 200
    np.testing.assert_allclose(found[0, 0] * 255, columns / 2, atol=3)


def test_read_resized_is_a_plain_resizing_where_one_block_holds_it():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    found = read_resized(ArraySource(pixels), Scale(0.0, 255.0), Window(4, 8, 20, 30), 0.5)
    values = torch.from_numpy(pixels[4:24, 8:38] / np.float32(255)).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(values, (10, 15), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [(10, 10), (100, 1000), (1000, 1000)])
def test_windows_are_spread_over_the_image(size):
    windows = list(spread_windows(size, 80))
    assert len(windows) == {10: 1, 100: 3, 1000: 9}[size[0]]
    for axis in (0, 1):
        begins, ends = [w[axis] for w in windows], [w[axis] + w[2 + axis] for w in windows]
        assert min(begins) >= 0
        assert min(begins) == size[axis] - max(ends)


class TestDeclaredSize:
    @pytest.fixture
    def slide(self, tmp_path) -> Path:
        """60,000 x 60,000 pixels, of which one tile was written."""
        tiles = iter([np.zeros((1024, 1024, 3), dtype=np.uint8)] + [None] * (59**2 - 1))
        shape, tile = (60_000, 60_000, 3), (1024, 1024)
        tifffile.imwrite(tmp_path / "a.tif", tiles, shape=shape, dtype="uint8", tile=tile, photometric="rgb")
        return tmp_path / "a.tif"

    @pytest.mark.parametrize("object_size", [None, "auto"])
    def test_counts_for_what_is_decoded_at_once(self, slide, object_size):
        model = make_model([], SHAPE, object_size=object_size)
        (task,) = self.plan(model, slide)
        assert task.num_tiles > 1000
        with pytest.raises(FormatError, match=r"a\.tif declares 60000 x 60000 x 3 values, 10\.8 GB"):
            self.plan(make_model([], SHAPE, object_size=None, min_size=800), slide)

    def plan(self, model, path):
        job = _Job(model, Tiling.of(model.plan), None, None, may_break=False)
        return job.plan_tasks([ImageFile("a", path, ONE_PLANE)], None)

    def test_labels_are_whole_in_memory(self, slide):
        with pytest.raises(FormatError, match=r"a\.tif declares 60000 x 60000 labelled pixels, 14\.4 GB once decoded"):
            open_labelled_image(slide, (60_000, 60_000))
        with pytest.raises(FormatError, match="60000 x 60000 labelled pixels"):
            read_label_image(slide)
