import math

import cv2
import numpy as np
import pytest

from manymask.core import ArraySource, Category, Instances
from manymask.core.palette import PALETTE
from manymask.drawing import overlays
from manymask.drawing.curves import draw_curves, draw_overlaid_curves
from manymask.drawing.overlays import draw_image_overlay, draw_overlay, write_picture
from manymask.synthetic import make_categories, make_sample

CATEGORIES = make_categories(3)


def make_instances(size, *rectangles, labels=None, scores=None):
    masks = np.zeros((len(rectangles), *size), dtype=bool)
    for mask, (top, left, bottom, right) in zip(masks, rectangles, strict=True):
        mask[top:bottom, left:right] = True
    labels = np.array(labels or [1] * len(rectangles), dtype=np.int64)
    instances = Instances.from_masks(masks, labels)
    return Instances.from_runs(instances.runs, labels, scores=scores)


def find_colour(picture, label):
    return (picture == PALETTE[label - 1]).all(axis=2)


def make_rows(count):
    return [
        {"epoch": i + 1, "step": 10 * i, "loss": 2 / (i + 1), "loss_mask": 1 / (i + 1), "val_mask_AP": 0.1}
        for i in range(count)
    ]


def read_size(path):
    return cv2.imread(str(path)).shape[:2]


def test_no_instances():
    pixels = np.full((900, 800, 3), 255, dtype=np.uint8)
    picture = draw_overlay(pixels, make_instances((900, 800)), CATEGORIES)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 800
    assert (picture[:900] == pixels).all()
    assert 0 < len(picture) - 900 < 100


def test_outline_is_the_outermost_pixels_of_the_mask():
    pixels = np.zeros((800, 800, 3), dtype=np.uint8)
    picture = draw_overlay(pixels, make_instances((800, 800), (100, 200, 110, 212)), CATEGORIES)
    expected = np.zeros((800, 800), dtype=bool)
    expected[100:110, 200:212] = True
    expected[101:109, 201:211] = False
    assert (find_colour(picture[:800], 1) == expected).all()
    assert (picture[:800][~expected] == 0).all()


def test_outline_of_an_enlarged_image_lies_on_the_enlarged_border():
    picture = draw_overlay(
        np.zeros((80, 80, 1), dtype=np.uint8), make_instances((80, 80), (10, 20, 15, 26)), CATEGORIES
    )
    rows, columns = np.nonzero(find_colour(picture[:800], 1))
    assert picture.shape[1] == 800
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 149, 200, 259)
    assert not find_colour(picture, 1)[110:140, 210:250].any()


def test_outline_at_the_images_border_and_of_full_columns():
    size = (801, 800)
    picture = draw_overlay(np.zeros((*size, 3), dtype=np.uint8), make_instances(size, (0, 0, 801, 5)), CATEGORIES)
    colour = find_colour(picture[:801], 1)
    assert colour[:, 0].any()
    assert colour[0, :5].all()
    assert colour[800, :5].all()
    assert not colour[:, 5:].any()


def test_outlines_equal_those_of_dense_masks():
    pixels, instances = make_sample(0, size=(120, 150), num_instances=30)
    picture = draw_overlay(pixels, instances, CATEGORIES)
    factor = picture.shape[1] // 150
    expected = np.zeros((120 * factor, 150 * factor), dtype=bool)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for mask in instances.to_masks():
        large = np.pad(mask.astype(np.uint8).repeat(factor, 0).repeat(factor, 1), 1)
        expected |= (large > cv2.erode(large, cross, iterations=3))[1:-1, 1:-1]
    found = np.any([find_colour(picture[: len(expected)], label) for label in (1, 2, 3)], axis=0)
    assert (found == expected).all()


def test_overlapping_instances_each_keep_their_outline():
    instances = make_instances((800, 800), (10, 10, 40, 40), (30, 30, 60, 60), labels=[1, 2])
    picture = draw_overlay(np.zeros((800, 800, 3), dtype=np.uint8), instances, CATEGORIES)
    assert find_colour(picture, 1)[39, 33:38].all()
    assert find_colour(picture, 2)[30, 33:38].all()


def test_instances_below_the_threshold_are_left_out():
    instances = make_instances(
        (800, 800), (10, 10, 40, 40), (50, 50, 90, 90), labels=[1, 2], scores=np.float32([0.4, 0.6])
    )
    picture = draw_overlay(np.zeros((800, 800, 3), dtype=np.uint8), instances, CATEGORIES, score_threshold=0.5)
    assert not find_colour(picture, 1).any()
    assert find_colour(picture[:800], 2).any()


def test_an_empty_mask_is_skipped():
    instances = make_instances((800, 800), (5, 5, 5, 5), (10, 10, 40, 40))
    assert find_colour(draw_overlay(np.zeros((800, 800, 3), dtype=np.uint8), instances, CATEGORIES)[:800], 1).any()


def test_legend_lies_below_and_shows_the_classes_that_occur():
    instances = make_instances((800, 900), (10, 10, 40, 40), (50, 50, 90, 90), labels=[1, 3])
    legend = draw_overlay(np.zeros((800, 900, 3), dtype=np.uint8), instances, CATEGORIES)[800:]
    assert find_colour(legend, 1).sum() > 50
    assert not find_colour(legend, 2).any()
    assert find_colour(legend, 3).sum() > 50


def test_legend_wraps_and_colours_cycle():
    categories = [Category(i + 1, f"a rather long $name\n {i}") for i in range(30)]
    instances = make_instances((800, 900), *[(9 * i, 0, 9 * i + 8, 8) for i in range(30)], labels=list(range(1, 31)))
    legend = draw_overlay(np.zeros((800, 900, 3), dtype=np.uint8), instances, categories)[800:]
    assert len(legend) > 200
    assert all(find_colour(legend, label).any() for label in range(1, 8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_types_and_channels_are_stretched_for_display(dtype, channels):
    ramp = np.linspace(0, 100, 800 * 801).reshape(800, 801, 1).repeat(channels, axis=2).astype(dtype)
    picture = draw_overlay(ramp, make_instances((800, 801)), CATEGORIES)[:800]
    assert picture.min() == 0
    assert picture.max() == 255
    assert (picture[..., 0] == picture[..., 2]).all()


@pytest.mark.parametrize("dtype", [np.float64, np.uint32, np.int64])
def test_values_far_from_zero_are_shown(dtype):
    ramp = (10**8 + np.linspace(0, 100, 800 * 801)).reshape(800, 801, 1).astype(dtype)
    assert len(np.unique(draw_overlay(ramp, make_instances((800, 801)), CATEGORIES)[:800])) > 90


def test_flat_and_undefined_pixels():
    pixels = np.full((20, 20, 1), np.nan)
    assert (draw_overlay(pixels, make_instances((20, 20)), CATEGORIES)[:800] == 0).all()


def test_a_thousand_instances():
    pixels, instances = make_sample(0, size=(1000, 1000), num_instances=1000)
    assert draw_overlay(pixels, instances, CATEGORIES).shape[1] == 1000


def test_a_long_strip_is_not_blown_up():
    picture = draw_overlay(np.zeros((10, 3000, 3), dtype=np.uint8), make_instances((10, 3000)), CATEGORIES)
    assert picture.shape[1] == 3000


def test_wrong_size_and_unknown_label():
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="the image's size"):
        draw_overlay(pixels, make_instances((30, 20)), CATEGORIES)
    with pytest.raises(ValueError, match="got label 4"):
        draw_overlay(pixels, make_instances((20, 30), (1, 1, 5, 5), labels=[4]), CATEGORIES)


def test_written_picture_keeps_the_colours(tmp_path):
    pixels, instances = make_sample(0, size=(100, 100), num_instances=5)
    path = tmp_path / "overlays" / "a.png"
    write_picture(path, draw_overlay(pixels, instances, CATEGORIES))
    written = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert (written == draw_overlay(pixels, instances, CATEGORIES)).all()
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("count", [0, 1, 30])
def test_curves(tmp_path, count):
    draw_curves(make_rows(count), tmp_path / "curves")
    assert sorted(p.name for p in (tmp_path / "curves").iterdir()) == ["loss.png", "map.png"]
    assert all(read_size(tmp_path / "curves" / name) == (500, 900) for name in ("loss.png", "map.png"))


def test_curves_with_one_row_show_markers(tmp_path):
    draw_curves([], tmp_path / "none")
    draw_curves([{**make_rows(1)[0], "val_mask_AP": 0.5}], tmp_path / "one")
    dark = [
        (cv2.imread(str(tmp_path / name / "map.png"))[50:400, 100:700] == 0).all(axis=2).sum()
        for name in ("none", "one")
    ]
    assert dark[1] > dark[0] + 20


def test_curves_with_undefined_values(tmp_path):
    rows = make_rows(4)
    rows[1]["val_mask_AP"], rows[2]["val_mask_AP"], rows[3]["loss"] = None, math.nan, None
    draw_curves(rows, tmp_path)
    draw_curves([{**row, "val_mask_AP": None} for row in rows], tmp_path / "undefined")
    assert (tmp_path / "undefined" / "map.png").exists()


def make_run(count, last):
    """A run whose loss falls to ``last`` and whose scores rise to a half of it."""
    return [
        {"epoch": i + 1, "loss": 2 - (2 - last) * i / 9, "val_mask_AP": last * i / 20, "val_mask_AP50": last * i / 18}
        for i in range(count)
    ]


class TestOverlaidCurves:
    BLUE, ORANGE = PALETTE[5], PALETTE[2]

    def draw(self, folder, curves):
        draw_overlaid_curves(curves, folder)
        assert sorted(p.name for p in folder.iterdir()) == ["loss.png", "map.png"]
        return [cv2.cvtColor(cv2.imread(str(folder / name)), cv2.COLOR_BGR2RGB) for name in ("loss.png", "map.png")]

    def count(self, picture, color):
        return int((abs(picture.astype(int) - color).sum(axis=2) < 12).sum())

    def test_each_variant_has_its_colour(self, tmp_path):
        curves = {"a": [make_run(10, 0.5), make_run(10, 0.6)], "scheduler=none": [make_run(10, 1.0)]}
        loss, scores = self.draw(tmp_path, curves)
        assert (loss.shape[:2], scores.shape[:2]) == ((500, 900), (500, 1200))
        for picture in (loss, scores[:, :600], scores[:, 600:]):
            assert min(self.count(picture, color) for color in (self.BLUE, self.ORANGE)) > 200

    def test_the_mean_ends_where_the_shortest_run_does(self, tmp_path):
        even = self.draw(tmp_path / "even", {"a": [make_run(10, 0.5)] * 2})[0]
        short = self.draw(tmp_path / "short", {"a": [make_run(10, 0.5), make_run(4, 0.5)]})[0]
        assert self.count(short, self.BLUE) < self.count(even, self.BLUE)

    def test_gaps_and_columns_that_are_missing(self, tmp_path):
        rows = make_run(5, 0.5)
        rows[2]["loss"], rows[3]["val_mask_AP"] = None, math.nan
        bare = [{"epoch": row["epoch"], "loss": row["loss"]} for row in rows]
        self.draw(tmp_path, {"a": [rows], "b": [bare], **{f"more {i}": [rows] for i in range(8)}})

    def test_one_epoch_can_be_seen(self, tmp_path):
        curves = {name: [[{"epoch": 1, "loss": loss}]] for name, loss in (("a", 1.0), ("b", 2.0))}
        loss, _ = self.draw(tmp_path, curves)
        inside = loss[:430, 100:600]  # without the legend
        assert min(self.count(inside, color) for color in (self.BLUE, self.ORANGE)) > 20


class TestVeryLargeImages:
    @pytest.mark.parametrize("num_channels", [1, 3, 5])
    def test_is_smaller_with_its_outlines_in_place(self, num_channels, monkeypatch):
        monkeypatch.setattr(overlays, "_MAX_SIDE", 500)
        monkeypatch.setattr(overlays, "_LONG_SIDE", 250)
        pixels = np.full((450, 999, num_channels), 7, dtype=np.uint16)
        pixels[:, 500:] = 4000
        picture = draw_image_overlay(
            ArraySource(pixels), make_instances((450, 999), (100, 200, 200, 320), labels=[2]), CATEGORIES
        )
        assert picture.shape[1] == 250  # a quarter, rounded up
        rows, columns = np.nonzero(find_colour(picture[:113], 2))
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 50, 50, 80)
        assert len(rows) == 2 * (26 + 31) - 4  # a line of one pixel
        assert picture[0, 0].tolist() == [0, 0, 0]
        assert picture[0, 249].tolist() == [255, 255, 255]

    def test_of_a_pyramid_the_level_that_fits_is_read(self, monkeypatch):
        monkeypatch.setattr(overlays, "_MAX_SIDE", 500)
        monkeypatch.setattr(overlays, "_LONG_SIDE", 250)
        pixels = np.random.default_rng(0).integers(0, 255, (450, 1000, 3), dtype=np.uint8)
        levels = [ArraySource(pixels[::step, ::step]) for step in (1, 2, 3, 5)]
        reads = []

        class Pyramid(ArraySource):
            level_sizes = tuple(level.size for level in levels)

            def read(self, window=None, level=0):
                reads.append(level)
                return levels[level].read(window)

        instances = make_instances((450, 1000), (100, 200, 200, 320), labels=[2])
        picture = draw_image_overlay(Pyramid(pixels), instances, CATEGORIES)
        assert {*reads} == {2}  # 150 x 334 for a picture of 113 x 250
        assert picture.shape == draw_image_overlay(ArraySource(pixels), instances, CATEGORIES).shape

    def test_smaller_images_are_drawn_as_ever(self):
        pixels, instances = np.zeros((80, 90, 1), dtype=np.uint8), make_instances((80, 90), (10, 20, 15, 26))
        found = draw_image_overlay(ArraySource(pixels), instances, CATEGORIES)
        np.testing.assert_array_equal(found, draw_overlay(pixels, instances, CATEGORIES))

    def test_instances_of_another_size_are_refused(self):
        with pytest.raises(ValueError, match="expected instances of the image's size"):
            draw_image_overlay(ArraySource(np.zeros((80, 90, 1), np.uint8)), make_instances((8, 9)), CATEGORIES)
