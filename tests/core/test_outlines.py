from itertools import pairwise

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings

from manymask.core import RunLengths, outlines
from manymask.core.outlines import iterate_outlines, trace_outlines
from tests import dense
from tests.strategies import stacks


def make_mask(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def to_lists(outlines):
    """The polygons of each instance, each a list of rings of [x, y]."""
    nested = outlines.points.tolist()
    for splits in (outlines.ring_splits, outlines.polygon_splits, outlines.instance_splits):
        nested = [nested[begin:end] for begin, end in pairwise(splits.tolist())]
    return nested


def trace(mask):
    return to_lists(trace_outlines(dense.encode_runs(mask[None])))[0]


def fill(polygons, size):
    """Pixels whose centres lie inside by the even-odd rule: OpenCV on a grid of eight steps a pixel."""
    canvas = np.zeros((size[0] * 8, size[1] * 8), dtype=np.uint8)
    rings = [np.array(ring, dtype=np.int32) * 8 for polygon in polygons for ring in polygon]
    cv2.fillPoly(canvas, rings, 1)
    return canvas[4::8, 4::8].astype(bool)


def to_shape(polygons):
    return shapely.MultiPolygon([(polygon[0], polygon[1:]) for polygon in polygons])


@settings(max_examples=80, deadline=None)
@given(stacks())
def test_filled_outlines_are_the_masks(masks):
    found = trace_outlines(dense.encode_runs(masks))
    assert len(found) == len(masks)
    height, width = masks.shape[1:]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    for polygons, mask in zip(to_lists(found), masks, strict=True):
        np.testing.assert_array_equal(fill(polygons, mask.shape), mask)
        shape = to_shape(polygons)
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == mask.sum()
        np.testing.assert_array_equal(shapely.contains_xy(shape, x, y), mask)
        for polygon in shape.geoms:
            assert polygon.exterior.is_ccw  # by shapely's upward y
            assert not any(hole.is_ccw for hole in polygon.interiors)


def test_no_instances_and_an_empty_mask():
    assert to_lists(trace_outlines(RunLengths.empty((4, 5)))) == []
    assert to_lists(trace_outlines(RunLengths.empty((4, 5), 2))) == [[], []]


def test_points_within_straight_lines_are_left_out():
    assert trace(make_mask("....", ".###", ".###")) == [[[[1, 1], [4, 1], [4, 3], [1, 3]]]]


def test_pixels_that_meet_in_a_corner_are_two_polygons():
    assert trace(make_mask("#.", ".#")) == [
        [[[0, 0], [1, 0], [1, 1], [0, 1]]],
        [[[1, 1], [2, 1], [2, 2], [1, 2]]],
    ]


def test_a_hole_follows_its_outer_ring():
    (polygon,) = trace(make_mask("###", "#.#", "###"))
    assert [len(ring) for ring in polygon] == [4, 4]
    assert sorted(polygon[1]) == [[1, 1], [1, 2], [2, 1], [2, 2]]


@pytest.mark.parametrize(
    "mask",
    [
        make_mask("##.", "#.#", "###"),  # a hole that meets the outside in a corner
        make_mask("####", "#.##", "##.#", "####"),  # two holes that meet in a corner
        make_mask("#####", "#...#", "#.#.#", "#...#", "#####"),  # an island in a hole
        make_mask("#.#.#", ".#.#.", "#.#.#"),
    ],
)
def test_corners_holes_and_islands_are_valid(mask):
    polygons = trace(mask)
    assert to_shape(polygons).is_valid
    np.testing.assert_array_equal(fill(polygons, mask.shape), mask)


@settings(max_examples=20, deadline=None)
@given(stacks())
def test_groups_give_what_all_at_once_give(masks):
    runs, groups = dense.encode_runs(masks), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlines, "GROUP_RUNS", 5)
        for rows, found in iterate_outlines(runs):
            assert len(rows) == len(found)
            groups += to_lists(found)
    assert groups == to_lists(trace_outlines(runs))
