import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from manymask.core import Instances, RunLengths
from manymask.core.outlines import trace_outlines
from manymask.core.polygons import fill_polygons


def to_masks(runs):
    return Instances.from_runs(runs, np.ones(len(runs), dtype=np.int64)).to_masks()


def list_polygons(outlines, instance):
    polygons = []
    for polygon in range(*outlines.instance_splits[instance : instance + 2]):
        rings = range(*outlines.polygon_splits[polygon : polygon + 2])
        polygons.append(
            [outlines.points[slice(*outlines.ring_splits[ring : ring + 2])].astype(float) for ring in rings]
        )
    return polygons


@settings(max_examples=100, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))))
def test_traced_outlines_give_back_the_masks(masks):
    runs = Instances.from_masks(masks, np.ones(len(masks), dtype=np.int64)).runs
    outlines = trace_outlines(runs)
    filled = fill_polygons(runs.size, [list_polygons(outlines, row) for row in range(len(runs))])
    np.testing.assert_array_equal(to_masks(filled), masks)


def is_inside(x, y, ring):
    """The crossing number of a point, edge by edge."""
    inside = False
    for (x0, y0), (x1, y1) in itertools.pairwise([*ring, ring[0]]):
        if (x0 <= x < x1 or x1 <= x < x0) and y0 + (y1 - y0) * ((x - x0) / (x1 - x0)) < y:
            inside = not inside
    return inside


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-4, 12), st.floats(-4, 12)), min_size=3, max_size=8))
def test_centres_decide_as_point_by_point(points):
    filled = fill_polygons((7, 9), [[[np.array(points)]]])
    # y is compared after rounding to a pixel's centre, as where a line goes through one within rounding errors.
    expected = [[is_inside(x + 0.5, y + 0.5, points) for x in range(9)] for y in range(7)]
    difference = to_masks(filled)[0] != np.array(expected)
    nudged = [
        [is_inside(x + 0.5, y + 0.5 + nudge, points) for x in range(9)] for nudge in (-1e-9, 1e-9) for y in range(7)
    ]
    is_on_line = np.array(nudged[:7]) != np.array(nudged[7:])
    assert not (difference & ~is_on_line).any()


def test_a_hole_and_an_island_in_it():
    square = np.array([(0, 0), (7, 0), (7, 7), (0, 7)], dtype=float)
    polygons = [[square, np.clip(square, 1, 6)], [np.clip(square, 3, 4)]]
    (mask,) = to_masks(fill_polygons((7, 7), [polygons]))
    assert mask.sum() == 49 - 25 + 1
    assert mask[3, 3]
    assert not mask[2, 2]


def test_what_is_outside_is_cut_off_and_nothing_stays_nothing():
    far = np.array([(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)])
    runs = fill_polygons((4, 5), [[[far]], [], [[far + 3e9]], [[np.zeros((0, 2))]], [[np.zeros((1, 2))]]])
    assert runs.areas.tolist() == [20, 0, 0, 0, 0]
    assert len(fill_polygons((4, 5), [])) == 0


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_many_objects_on_a_large_image_take_no_image_each(shift):
    angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 8
    centres = np.random.default_rng(0).uniform(0, 40_000, (5000, 2))
    started = time.process_time()
    runs = fill_polygons((40_000, 40_000), [[[circle + centre + shift]] for centre in centres])
    assert time.process_time() - started < 10
    assert isinstance(runs, RunLengths)
    is_whole = (np.abs(centres - 20_000) < 19_980).all(axis=1)
    assert np.allclose(runs.areas[is_whole], 15 * 64 * np.sin(2 * np.pi / 30), rtol=0.1)
