from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manymask.core import RunLengths, concatenate_runs, encode_crops
from manymask.core import runs as runs_module
from manymask.core.runs import iterate_groups, subtract_runs
from tests import dense, strategies

SIZE = (6, 5)


def make_runs(size, num_instances, *intervals):
    """Runs of (owner, start, length) in any order."""
    owner, start, length = np.array(intervals, dtype=np.int64).reshape(-1, 3).T
    return RunLengths.from_intervals(size, num_instances, owner, start, length)


def make_pixels(num_instances, size):
    """One pixel for each instance, in column order."""
    position = np.arange(num_instances)
    return RunLengths(size, num_instances, position, position, np.ones_like(position))


@st.composite
def interval_sets(draw):
    """(size, number of instances, rows of owner, start, length) in any order: empty, touching, nested, repeated."""
    size, num_instances = draw(strategies.sizes(6)), draw(st.integers(1, 4))
    num_pixels = size[0] * size[1]
    ends = st.tuples(st.integers(0, num_pixels), st.integers(0, num_pixels)).map(sorted)
    rows = draw(st.lists(st.tuples(st.integers(0, num_instances - 1), ends), max_size=12))
    return size, num_instances, [(owner, begin, end - begin) for owner, (begin, end) in rows]


@st.composite
def crop_sets(draw):
    """A stack and, for each mask, a box that holds all of it, at least of its own size."""
    masks = draw(strategies.stacks())
    height, width = masks.shape[1:]
    crops = []
    for mask, (x1, y1, x2, y2) in zip(masks, dense.boxes(masks).astype(int).tolist(), strict=True):
        left, top = draw(st.integers(0, x1)), draw(st.integers(0, y1))
        right, bottom = draw(st.integers(x2, width)), draw(st.integers(y2, height))
        crops.append((left, top, mask[top:bottom, left:right]))
    return masks, crops


class TestFromIntervals:
    def test_none(self):
        runs = make_runs(SIZE, 0)
        dense.assert_same_runs(runs, RunLengths.empty(SIZE))
        assert len(runs) == 0

    def test_instances_without_intervals(self):
        dense.assert_same_runs(make_runs(SIZE, 3), RunLengths.empty(SIZE, 3))

    def test_one(self):
        runs = make_runs(SIZE, 1, (0, 4, 5))
        assert (runs.owner.tolist(), runs.start.tolist(), runs.length.tolist()) == ([0], [4], [5])

    @pytest.mark.parametrize(
        ("intervals", "expected"),
        [
            ([(0, 3, 2), (0, 5, 2)], [(0, 3, 4)]),  # touching
            ([(0, 5, 2), (0, 3, 2)], [(0, 3, 4)]),  # the other way round
            ([(0, 2, 20), (0, 4, 3), (0, 10, 2)], [(0, 2, 20)]),  # nested
            ([(0, 2, 20), (0, 4, 3), (0, 22, 1)], [(0, 2, 21)]),  # touching the furthest end, not the last one
            ([(0, 3, 2), (0, 6, 2)], [(0, 3, 2), (0, 6, 2)]),  # one pixel apart
            ([(0, 3, 0), (0, 9, 1)], [(0, 9, 1)]),  # empty
            ([(1, 0, 3), (0, 27, 3)], [(0, 27, 3), (1, 0, 3)]),  # the image's end and the next one's begin
        ],
    )
    def test_joins(self, intervals, expected):
        runs = make_runs(SIZE, 2, *intervals)
        assert list(zip(runs.owner.tolist(), runs.start.tolist(), runs.length.tolist(), strict=True)) == expected

    def test_types(self):
        owner, start, length = np.array([1, 0], np.uint8), np.array([250, 255], np.uint8), np.array([255, 2], np.uint8)
        runs = RunLengths.from_intervals((30, 30), 2, owner, start, length)
        dense.assert_valid_runs(runs)
        assert runs.areas.tolist() == [2, 255]

    def test_does_not_change_its_arguments(self):
        arrays = [np.array([1, 0]), np.array([3, 4]), np.array([2, 2])]
        RunLengths.from_intervals(SIZE, 2, *arrays)
        assert [a.tolist() for a in arrays] == [[1, 0], [3, 4], [2, 2]]

    def test_last_pixels_of_a_huge_image(self):
        side, num_instances = 30_000, 100_000
        owner = np.arange(num_instances)[::-1].copy()
        runs = RunLengths.from_intervals(
            (side, side), num_instances, owner, np.full(num_instances, side**2 - 2), np.full(num_instances, 2)
        )
        dense.assert_valid_runs(runs)
        assert (runs.areas == 2).all()
        assert (runs.boxes == [side - 1, side - 2, side, side]).all()

    @given(interval_sets())
    def test_equals_painting(self, intervals):
        size, num_instances, rows = intervals
        masks = np.zeros((num_instances, size[1] * size[0]), dtype=bool)
        for owner, start, length in rows:
            masks[owner, start : start + length] = True
        masks = masks.reshape(num_instances, size[1], size[0]).transpose(0, 2, 1)
        dense.assert_same_runs(make_runs(size, num_instances, *rows), dense.encode_runs(masks))


class TestRunLengths:
    def test_empty(self):
        runs = RunLengths.empty(SIZE)
        assert runs.areas.shape == (0,)
        assert runs.boxes.shape == (0, 4)
        assert runs.row_splits.tolist() == [0]

    @pytest.mark.parametrize("size", [(0, 0), (0, 4), (4, 0)])
    def test_empty_image(self, size):
        runs = RunLengths.empty(size, 2)
        assert runs.areas.tolist() == [0, 0]
        assert (runs.boxes == 0).all()

    def test_empty_masks_between_others(self):
        runs = make_runs(SIZE, 5, (1, 2, 3), (3, 0, 30))
        assert runs.areas.tolist() == [0, 3, 0, 30, 0]
        assert runs.row_splits.tolist() == [0, 0, 1, 1, 2, 2]
        assert runs.boxes.tolist() == [[0, 0, 0, 0], [0, 2, 1, 5], [0, 0, 0, 0], [0, 0, 5, 6], [0, 0, 0, 0]]

    def test_box_of_a_run_that_passes_a_column_end(self):
        assert make_runs(SIZE, 1, (0, 5, 2)).boxes.tolist() == [[0, 0, 2, 6]]

    def test_box_of_runs_that_end_at_column_ends(self):
        assert make_runs(SIZE, 1, (0, 4, 2), (0, 16, 2)).boxes.tolist() == [[0, 4, 3, 6]]

    def test_image_of_one_row(self):
        runs = make_runs((1, 9), 1, (0, 2, 3))
        assert runs.boxes.tolist() == [[2, 0, 5, 1]]

    def test_area_of_a_huge_image(self):
        runs = make_runs((60_000, 60_000), 2, (0, 0, 60_000**2), (1, 1, 60_000**2 - 1))
        assert runs.areas.tolist() == [60_000**2, 60_000**2 - 1]

    @pytest.mark.parametrize("num_instances", [300, 70_000])
    def test_many_instances(self, num_instances):
        runs = make_pixels(num_instances, (260, 280))
        dense.assert_valid_runs(runs)
        assert (runs.areas == 1).all()
        x, y = np.divmod(np.arange(num_instances), 260)
        np.testing.assert_array_equal(runs.boxes, np.stack([x, y, x + 1, y + 1], axis=1))

    @given(strategies.stacks())
    def test_equals_dense(self, masks):
        runs = dense.encode_runs(masks)
        dense.assert_valid_runs(runs)
        assert len(runs) == len(masks)
        np.testing.assert_array_equal(runs.areas, dense.areas(masks))
        np.testing.assert_array_equal(runs.boxes, dense.boxes(masks))
        assert (runs.areas.dtype, runs.boxes.dtype) == (np.int64, np.float32)


class TestSelect:
    def test_nothing_of_nothing(self):
        dense.assert_same_runs(RunLengths.empty(SIZE).select(np.zeros(0, dtype=np.int64)), RunLengths.empty(SIZE))

    def test_nothing(self):
        runs = make_runs(SIZE, 2, (0, 2, 3), (1, 0, 30))
        dense.assert_same_runs(runs.select(np.zeros(2, dtype=bool)), RunLengths.empty(SIZE))

    def test_reversed_with_duplicates(self):
        runs = make_runs(SIZE, 3, (0, 2, 3), (0, 9, 1), (2, 0, 30))
        selected = runs.select(np.array([2, 1, 0, 0], dtype=np.uint8))
        dense.assert_same_runs(selected, make_runs(SIZE, 4, (0, 0, 30), (2, 2, 3), (2, 9, 1), (3, 2, 3), (3, 9, 1)))

    def test_more_than_65535(self):
        runs = make_pixels(70_000, (260, 280)).select(np.arange(70_000)[::-1])
        dense.assert_valid_runs(runs)
        np.testing.assert_array_equal(runs.start, np.arange(70_000)[::-1])

    @pytest.mark.parametrize("rows", [np.array([2]), np.array([-3]), np.array([True]), np.array([True] * 3)])
    def test_rows_that_do_not_exist(self, rows):
        with pytest.raises(IndexError):
            RunLengths.empty(SIZE, 2).select(rows)

    @given(strategies.stacks(min_instances=1), st.data())
    def test_indices_equal_dense(self, masks, data):
        rows = np.array(data.draw(st.lists(st.integers(-len(masks), len(masks) - 1))), dtype=np.int64)
        selected = dense.encode_runs(masks).select(rows)
        dense.assert_same_runs(selected, dense.encode_runs(dense.select(masks, rows)))

    @given(strategies.stacks(), st.data())
    def test_flags_equal_dense(self, masks, data):
        flags = np.array(data.draw(st.lists(st.booleans(), min_size=len(masks), max_size=len(masks))), dtype=bool)
        selected = dense.encode_runs(masks).select(flags)
        dense.assert_same_runs(selected, dense.encode_runs(dense.select(masks, flags)))


class TestConcatenate:
    def test_no_parts(self):
        with pytest.raises(ValueError, match="one size"):
            concatenate_runs([])

    def test_different_sizes(self):
        with pytest.raises(ValueError, match=r"\(5, 6\).*\(6, 5\)"):
            concatenate_runs([RunLengths.empty((6, 5)), RunLengths.empty((5, 6))])

    def test_empty_parts_keep_their_rows(self):
        dense.assert_same_runs(
            concatenate_runs([RunLengths.empty(SIZE, 2), make_runs(SIZE, 1, (0, 2, 3)), RunLengths.empty(SIZE)]),
            make_runs(SIZE, 3, (2, 2, 3)),
        )

    @given(strategies.stack_pairs())
    def test_equals_dense(self, pair):
        parts = [*pair, pair[0]]
        joined = concatenate_runs([dense.encode_runs(part) for part in parts])
        dense.assert_same_runs(joined, dense.encode_runs(dense.concatenate(parts)))


class TestEncodeCrops:
    def test_none(self):
        dense.assert_same_runs(encode_crops([], SIZE), RunLengths.empty(SIZE))

    def test_one(self):
        dense.assert_same_runs(encode_crops([(1, 2, np.ones((3, 1), dtype=bool))], SIZE), make_runs(SIZE, 1, (0, 8, 3)))

    def test_overlapping(self):
        crop = np.ones((2, 2), dtype=bool)
        runs = encode_crops([(0, 0, crop), (1, 1, crop)], SIZE)
        dense.assert_same_runs(runs, make_runs(SIZE, 2, (0, 0, 2), (0, 6, 2), (1, 7, 2), (1, 13, 2)))

    def test_columns_of_full_height_join(self):
        runs = encode_crops([(1, 0, np.ones((6, 3), dtype=bool))], SIZE)
        dense.assert_same_runs(runs, make_runs(SIZE, 1, (0, 6, 18)))

    def test_last_pixel_of_the_image(self):
        runs = encode_crops([(4, 5, np.ones((1, 1), dtype=bool))] * 2, SIZE)
        dense.assert_same_runs(runs, make_runs(SIZE, 2, (0, 29, 1), (1, 29, 1)))

    @pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
    def test_crops_without_pixels(self, shape):
        nothing, pixel = np.zeros(shape, dtype=bool), np.ones((1, 1), dtype=bool)
        runs = encode_crops([(0, 0, nothing), (1, 1, pixel), (5, 6, nothing), (2, 2, pixel), (0, 0, nothing)], SIZE)
        dense.assert_same_runs(runs, make_runs(SIZE, 5, (1, 7, 1), (3, 14, 1)))

    def test_crops_can_be_views_and_a_generator(self):
        mask = np.eye(8, dtype=bool)[::2, 1::2][:, ::-1].T
        runs = encode_crops(((x, 0, mask) for x in range(2)), (4, 5))
        dense.assert_same_runs(runs, dense.encode_runs(np.stack([np.pad(mask, [(0, 0), (x, 1 - x)]) for x in (0, 1)])))

    def test_more_than_65535(self):
        pixel = np.ones((1, 1), dtype=bool)
        runs = encode_crops(((i // 260, i % 260, pixel) for i in range(70_000)), (260, 280))
        dense.assert_same_runs(runs, make_pixels(70_000, (260, 280)))

    def test_huge_image(self):
        runs = encode_crops([(29_999, 29_999, np.ones((1, 1), dtype=bool))], (30_000, 30_000))
        assert runs.start.tolist() == [30_000**2 - 1]

    @given(crop_sets())
    def test_equals_dense(self, masks_and_crops):
        masks, crops = masks_and_crops
        dense.assert_same_runs(encode_crops(crops, masks.shape[1:]), dense.encode_runs(masks))

    @given(crop_sets(), st.integers(1, 40))
    def test_groups_change_nothing(self, masks_and_crops, crop_pixels):
        masks, crops = masks_and_crops
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs_module, "CROP_PIXELS", crop_pixels)
            dense.assert_same_runs(encode_crops(crops, masks.shape[1:]), dense.encode_runs(masks))


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 15))
def test_groups_are_as_large_as_allowed(sizes, most):
    groups = [sizes[group] for group in iterate_groups(np.array(sizes, dtype=np.int64), most)]
    assert list(chain(*groups)) == sizes
    assert all(len(group) == 1 or sum(group) <= most for group in groups)
    for group, following in pairwise(groups):
        assert sum(group) + following[0] > most


class TestSubtractRuns:
    @given(strategies.stack_pairs())
    def test_pixels_of_the_first_alone(self, pair):
        number = min(map(len, pair))
        first, second = (masks[:number] for masks in pair)
        runs = subtract_runs(dense.encode_runs(first), dense.encode_runs(second))
        expected = dense.encode_runs(first & ~second)
        for name in ("owner", "start", "length"):
            np.testing.assert_array_equal(getattr(runs, name), getattr(expected, name))

    def test_other_numbers_of_instances_are_refused(self):
        with pytest.raises(ValueError, match="sets of one size"):
            subtract_runs(RunLengths.empty((3, 3), 1), RunLengths.empty((3, 3), 2))
