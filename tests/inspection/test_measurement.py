import pickle
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from scipy import ndimage

from manymask.core import RunLengths
from manymask.inspection import measurement
from manymask.inspection.measurement import group_several, hash_grey, measure_instances
from tests import dense, strategies
from tests.inspection.samples import draw_masks, draw_pixels, make_sample, measure


def measure_masks(masks, labels=None, iscrowd=None):
    count = len(masks)
    labels = np.ones(count, dtype=np.int64) if labels is None else np.array(labels)
    crowd = np.zeros(count, dtype=bool) if iscrowd is None else np.array(iscrowd)
    return measure_instances(dense.encode_runs(masks), labels, crowd)


def find_touching_slowly(masks):
    cross = ndimage.generate_binary_structure(2, 1)
    grown = [ndimage.binary_dilation(mask, cross) if mask.any() else mask for mask in masks]
    others = [[row for row in range(len(masks)) if row != own] for own in range(len(masks))]
    return [any((grown[own] & masks[row]).any() for row in others[own]) for own in range(len(masks))]


class TestInstances:
    def test_none(self):
        found = measure_masks(np.zeros((0, 5, 6), dtype=bool))
        assert len(found.areas) == len(found.is_object) == 0
        assert found.pieces == {}

    @given(strategies.stacks())
    def test_against_dense(self, masks):
        found = measure_masks(masks)
        iou = np.triu(dense.iou(masks, masks), 1)
        iou += iou.T
        np.testing.assert_array_equal(found.areas, dense.areas(masks))
        np.testing.assert_allclose(found.mask_iou, iou.max(axis=1, initial=0), atol=1e-12)
        np.testing.assert_array_equal(found.is_overlapping, (iou > 0).any(axis=1))
        np.testing.assert_array_equal(found.is_touching, find_touching_slowly(masks))
        earlier = [[j for j in range(i) if iou[i, j] >= measurement.DUPLICATE_IOU] for i in range(len(masks))]
        assert found.duplicate_of.tolist() == [rows[0] if rows else -1 for rows in earlier]
        assert (found.class_twin_of == -1).all()
        apart = measure_masks(masks, labels=np.arange(len(masks)) + 1)  # each of a class of its own
        assert apart.class_twin_of.tolist() == found.duplicate_of.tolist()
        assert (apart.duplicate_of == -1).all()

    def test_box_iou_in_blocks(self, monkeypatch):
        monkeypatch.setattr(measurement, "_BOX_BLOCK", 3)
        corners = np.random.default_rng(1).integers(0, 40, (30, 2))
        boxes = np.concatenate([corners, corners + np.random.default_rng(2).integers(1, 20, (30, 2))], axis=1)
        masks = draw_masks(*map(tuple, boxes.tolist()))
        found = measure_masks(masks)
        iou = dense.iou(masks, masks) - np.eye(30)
        np.testing.assert_allclose(found.box_iou, iou.max(axis=1), atol=1e-9)  # rectangles fill their boxes

    @pytest.mark.parametrize(
        ("front", "is_occluded"),
        [
            ((0, 10, 20, 20), True),
            ((0, 10, 20, 15), False),  # half of the gap
            ((0, 10, 20, 16), True),
            ((10, 10, 20, 20), False),  # below the gap
            ((0, 0, 60, 80), False),  # background
        ],
    )
    @pytest.mark.parametrize("is_turned", [False, True])
    def test_occluded(self, front, is_occluded, is_turned):
        bar, hole, other = draw_masks((4, 4, 9, 40), (0, 10, 60, 20), front)
        masks = np.stack([other & ~bar | other & hole, bar & ~hole])
        found = measure_masks(masks.transpose(0, 2, 1) if is_turned else masks)
        assert found.pieces[1] == (100, 30)
        assert found.is_occluded.tolist() == [False, is_occluded]

    def test_background_in_pieces_is_not_occluded(self):
        found = measure_masks(~draw_masks((1, 1, 59, 4), (0, 20, 60, 24)).any(axis=0)[None])
        assert len(found.pieces[0]) == 2
        assert not found.is_occluded.any()

    def test_pieces_of_many_rows_take_linear_time(self):
        owner = np.repeat(np.arange(100_000), 2)
        started = time.process_time()
        found = group_several(owner, np.arange(200_000))
        assert time.process_time() - started < 1  # a scan of all pieces for each row takes far longer
        assert (len(found), found[7].tolist()) == (100_000, [14, 15])

    def test_other_classes_are_no_neighbours_but_touch(self):
        found = measure_masks(draw_masks((0, 0, 9, 9), (0, 0, 9, 9)), labels=[1, 2])
        assert found.box_iou.tolist() == found.mask_iou.tolist() == [0, 0]
        assert found.is_touching.all()
        assert found.duplicate_of.tolist() == [-1, -1]
        assert found.class_twin_of.tolist() == [-1, 0]

    def test_crowd_regions_are_no_neighbours(self):
        found = measure_masks(draw_masks((0, 0, 9, 9), (0, 0, 9, 9)), iscrowd=[True, False])
        assert found.is_object.tolist() == [False, True]
        assert not found.is_touching.any()
        assert found.duplicate_of.tolist() == [-1, -1]

    def test_memory_does_not_grow_as_instances_x_instances(self):
        num_instances = 20_000  # a full matrix of one byte each would be 400 MB
        start = np.arange(num_instances) * 2
        runs = RunLengths((200, 200), num_instances, np.arange(num_instances), start, np.ones_like(start))
        tracemalloc.start()
        measure_instances(runs, np.ones(num_instances, dtype=np.int64), np.zeros(num_instances, dtype=bool))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2e8


class TestPixels:
    def test_values_are_shares_of_the_type(self):
        pixels = draw_pixels(channels=3)
        small, large = measure(pixels=pixels), measure(pixels=pixels.astype(np.uint16) * 257)
        assert small.num_channels == 3
        assert (small.dtype, large.dtype) == ("uint8", "uint16")
        assert small.value_range == large.value_range == (20 / 255, 220 / 255)
        np.testing.assert_allclose(small.channel_ranges, large.channel_ranges)
        np.testing.assert_allclose(small.dark_and_bright, np.percentile(pixels, [1, 99.8]) / 255)

    def test_floats_stay_as_they_are(self):
        found = measure(pixels=draw_pixels().astype(np.float64) * 10)
        assert found.value_range == (200, 2200)
        assert found.is_finite

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, value):
        pixels = draw_pixels().astype(np.float32)
        pixels[3, 3] = value
        found = measure(pixels=pixels)
        assert not found.is_finite
        assert found.hash is None

    def test_constant(self):
        found = measure(pixels=np.full((60, 80, 1), 7, dtype=np.uint8))
        assert found.is_constant
        assert (found.hash, found.trends) == (None, (0, 0))

    @pytest.mark.parametrize(
        ("ground", "light", "is_in_color", "is_bright"),
        [
            ([20], [200], False, True),
            ([200], [20], False, False),
            ([20, 20, 20], [200, 201, 199], False, True),
            ([220, 190, 220], [90, 40, 130], True, False),
            ([0, 5, 0], [0, 200, 10], True, True),
        ],
    )
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int64"])
    def test_kind(self, ground, light, is_in_color, is_bright, dtype):
        masks = draw_masks((10, 10, 30, 30))
        pixels = np.where(masks[0, ..., None], light, ground).astype(dtype)
        found = measure(masks, pixels)
        assert (found.is_in_color, found.has_bright_objects) == (is_in_color, is_bright)

    @pytest.mark.parametrize("masks", [draw_masks(), draw_masks((0, 0, 60, 80))])
    def test_kind_without_objects_or_ground(self, masks):
        assert measure(masks).has_bright_objects is None

    def test_trends(self):
        ramp = np.repeat(np.arange(60, dtype=np.uint8)[:, None, None], 80, axis=1)
        down, right = measure(pixels=ramp).trends
        assert down == pytest.approx(3**0.5, rel=1e-3)  # of a ramp: half its length over its length / sqrt(12)
        assert right == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize(("start", "dtype"), [(2**32 - 300, "uint32"), (1e8, "float64"), (1e8, "int64")])
    def test_trends_and_hash_far_from_zero(self, start, dtype):
        pixels = draw_pixels()
        near, far = measure(pixels=pixels), measure(pixels=pixels.astype(dtype) + np.array(start, dtype=dtype))
        assert far.hash == near.hash
        assert far.trends == pytest.approx(near.trends, rel=1e-3)

    def test_large_images_are_looked_at_in_part(self):
        found = measure(np.zeros((0, 2000, 1500), dtype=bool), draw_pixels((2000, 1500)))
        assert found.size == (2000, 1500)
        assert found.dark_and_bright[0] == pytest.approx(np.percentile(draw_pixels((2000, 1500)), 1) / 255, abs=0.01)

    def test_facts_go_to_other_processes(self):
        assert pickle.loads(pickle.dumps(measure())).size == (60, 80)


class TestAlike:
    @pytest.mark.parametrize(
        "change", [lambda p: p + 3.0, lambda p: p * 257, lambda p: p * 0.97, lambda p: p[::2, ::2]]
    )
    def test_hash_of_copies(self, change):
        grey = draw_pixels((128, 160), seed=3)[..., 0].astype(np.float32)
        assert (hash_grey(grey) ^ hash_grey(change(grey).astype(np.float32))).bit_count() <= 4

    @pytest.mark.parametrize(
        "change", [np.rot90, np.fliplr, np.flipud, lambda p: draw_pixels((60, 80), seed=9)[..., 0]]
    )
    def test_hash_of_others(self, change):
        grey = draw_pixels(seed=3)[..., 0].astype(np.float32)
        assert (hash_grey(grey) ^ hash_grey(change(grey).astype(np.float32))).bit_count() > 8

    def test_digests(self):
        masks = draw_masks((0, 0, 5, 5), (9, 9, 20, 20))
        first, second = measure(masks, labels=[1, 2]), measure(masks[::-1], labels=[2, 1])
        assert first.pixels_digest == second.pixels_digest
        assert first.labels_digest == second.labels_digest
        assert first.labels_digest != measure(masks).labels_digest
        other = measure(masks, make_sample().pixels.astype(np.uint16))
        assert first.pixels_digest != other.pixels_digest
