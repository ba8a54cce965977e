import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manymask.core import RunLengths, compute_iou, intersect_runs, overlap
from tests import dense, strategies

SIZE = (6, 5)


def to_matrix(overlaps, values, shape):
    """Values of the pairs in a dense matrix, 0 elsewhere."""
    matrix = np.zeros(shape, dtype=values.dtype)
    matrix[overlaps.first, overlaps.second] = values
    return matrix


def encode_rectangles(size, *rectangles):
    """Runs of rectangles y1 x1 y2 x2."""
    masks = np.zeros((len(rectangles), *size), dtype=bool)
    for mask, (y1, x1, y2, x2) in zip(masks, rectangles, strict=True):
        mask[y1:y2, x1:x2] = True
    return dense.encode_runs(masks)


class TestIntersectRuns:
    @pytest.mark.parametrize(("num_first", "num_second"), [(0, 0), (0, 2), (2, 0), (2, 2)])
    def test_none(self, num_first, num_second):
        overlaps = intersect_runs(RunLengths.empty(SIZE, num_first), RunLengths.empty(SIZE, num_second))
        assert len(overlaps) == 0
        assert {a.dtype for a in (overlaps.first, overlaps.second, overlaps.intersection)} == {np.dtype(np.int64)}

    def test_no_instances_against_one(self):
        one = encode_rectangles(SIZE, (0, 0, 6, 5))
        assert len(intersect_runs(RunLengths.empty(SIZE), one)) == len(intersect_runs(one, RunLengths.empty(SIZE))) == 0

    def test_one_with_itself(self):
        one = encode_rectangles(SIZE, (1, 1, 4, 3))
        overlaps = intersect_runs(one, one)
        assert (overlaps.first.tolist(), overlaps.second.tolist(), overlaps.intersection.tolist()) == ([0], [0], [6])

    def test_touching_is_not_overlapping(self):
        first, second = encode_rectangles(SIZE, (0, 0, 3, 5)), encode_rectangles(SIZE, (3, 0, 6, 5))
        assert len(intersect_runs(first, second)) == 0

    def test_pairs_ascend(self):
        first = encode_rectangles(SIZE, (0, 4, 6, 5), (0, 0, 6, 5), (5, 0, 6, 1))
        second = encode_rectangles(SIZE, (0, 0, 6, 1), (0, 0, 1, 5))
        overlaps = intersect_runs(first, second)
        assert list(zip(overlaps.first, overlaps.second, strict=True)) == [(0, 1), (1, 0), (1, 1), (2, 0)]
        assert overlaps.intersection.tolist() == [1, 6, 5, 1]

    def test_different_sizes(self):
        with pytest.raises(ValueError, match=r"\(6, 5\) and \(5, 6\)"):
            intersect_runs(RunLengths.empty((6, 5)), RunLengths.empty((5, 6)))

    def test_more_than_65535_against_one(self):
        position = np.arange(70_000)
        many = RunLengths((260, 280), 70_000, position, position, np.ones_like(position))
        whole = RunLengths((260, 280), 1, np.array([0]), np.array([0]), np.array([260 * 280]))
        for overlaps, rows in [
            (o := intersect_runs(many, whole), o.first),
            (o := intersect_runs(whole, many), o.second),
        ]:
            np.testing.assert_array_equal(rows, position)
            assert (overlaps.intersection == 1).all()

    def test_huge_image_with_many_instances(self):
        num_pixels = 30_000**2
        last = np.array([99_999])
        runs = RunLengths((30_000, 30_000), 100_000, last, np.array([1]), np.array([num_pixels - 1]))
        overlaps = intersect_runs(runs, runs)
        assert (overlaps.first, overlaps.second, overlaps.intersection) == (last, last, num_pixels - 1)

    @given(strategies.stack_pairs())
    def test_equals_dense(self, pair):
        first, second = pair
        overlaps = intersect_runs(dense.encode_runs(first), dense.encode_runs(second))
        expected = dense.intersections(first, second)
        np.testing.assert_array_equal(np.stack([overlaps.first, overlaps.second]), np.stack(np.nonzero(expected)))
        np.testing.assert_array_equal(overlaps.intersection, expected[expected > 0])

    @given(strategies.stacks())
    def test_self_overlap_equals_dense(self, masks):
        runs = dense.encode_runs(masks)
        overlaps = intersect_runs(runs, runs)
        found = to_matrix(overlaps, overlaps.intersection, (len(masks), len(masks)))
        np.testing.assert_array_equal(found, dense.intersections(masks, masks))

    @pytest.mark.parametrize("num_pairs", [1, 3])
    @given(pair=strategies.stack_pairs())
    def test_chunks_give_the_same(self, num_pairs, pair):
        first, second = (dense.encode_runs(masks) for masks in pair)
        expected = intersect_runs(first, second)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(overlap, "RUN_PAIRS", num_pairs)
            found = intersect_runs(first, second)
        for name in ("first", "second", "intersection"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)

    def test_memory_does_not_grow_with_pairs_of_runs(self):
        count, num_runs = 200, 100  # 4 million pairs of runs, 40,000 of instances
        owner, run = np.divmod(np.arange(count * num_runs), num_runs)
        runs = RunLengths((200, 200), count, owner, run * 200, np.full_like(run, 100))
        tracemalloc.start()
        overlaps = intersect_runs(runs, runs)
        peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        assert (overlaps.intersection == 100 * num_runs).all()
        assert len(overlaps) == count**2
        assert peak_mib < 120  # about 310 if all pairs are expanded at once


class TestComputeIou:
    def test_none(self):
        none = RunLengths.empty(SIZE, 2)
        assert compute_iou(intersect_runs(none, none), none.areas, none.areas, np.zeros(2, dtype=bool)).shape == (0,)

    def test_crowd_region_divides_by_the_first_area(self):
        first, second = encode_rectangles(SIZE, (0, 0, 2, 1)), encode_rectangles(SIZE, (1, 0, 6, 5))
        overlaps = intersect_runs(first, second)
        assert compute_iou(overlaps, first.areas, second.areas).tolist() == [1 / 26]
        assert compute_iou(overlaps, first.areas, second.areas, np.array([True])).tolist() == [1 / 2]

    @given(strategies.stack_pairs(), st.data())
    def test_equals_pycocotools(self, pair, data):
        first, second = pair
        flags = st.lists(st.booleans(), min_size=len(second), max_size=len(second))
        iscrowd = np.array(data.draw(flags), dtype=bool)
        overlaps = intersect_runs(dense.encode_runs(first), dense.encode_runs(second))
        for crowd in (None, iscrowd):
            iou = compute_iou(overlaps, dense.areas(first), dense.areas(second), crowd)
            found = to_matrix(overlaps, iou, (len(first), len(second)))
            np.testing.assert_array_equal(found, dense.iou(first, second, crowd))


class TestFindSharing:
    @given(strategies.stacks(), st.sampled_from([1, 1 << 19]))
    def test_those_that_share_pixels(self, masks, band):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(overlap, "BAND_RUNS", band)
            found = overlap.find_sharing(dense.encode_runs(masks))
        others = [np.delete(masks, row, axis=0).any(axis=0) for row in range(len(masks))]
        assert found.tolist() == [bool((mask & other).any()) for mask, other in zip(masks, others, strict=True)]
