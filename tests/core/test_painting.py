import numpy as np

from manymask.core import Instances, RunLengths, paint_ids
from tests.formats.format_files import make_ids, make_instances, make_many


def test_no_instances():
    ids, rows = paint_ids(Instances.from_runs(RunLengths.empty((3, 4)), np.zeros(0, np.int64)))
    assert ids.shape == (3, 4)
    assert not ids.any()
    assert len(rows) == 0


def test_overlap_goes_to_the_higher_score():
    low, high = make_ids((0, 0, 3, 4)), make_ids((1, 1, 5, 6))
    ids, rows = paint_ids(make_instances(low, high, scores=[0.4, 0.8]))
    np.testing.assert_array_equal(ids, np.where(high, 1, np.where(low, 2, 0)))
    assert rows.tolist() == [1, 0]


def test_equal_scores_go_to_the_earlier_row():
    first, second = make_ids((0, 0, 3, 4)), make_ids((1, 1, 5, 6))
    ids, rows = paint_ids(make_instances(first, second))
    np.testing.assert_array_equal(ids, np.where(first, 1, np.where(second, 2, 0)))
    assert rows.tolist() == [0, 1]


def test_covered_empty_and_crowd_rows_vanish_and_ids_stay_dense():
    outer, inner, empty, crowd = make_ids((0, 0, 4, 4)), make_ids((1, 1, 2, 2)), make_ids(), make_ids((5, 5, 6, 6))
    alone = make_ids((5, 0, 6, 2))
    instances = make_instances(outer, inner, empty, crowd, alone, scores=[0.9, 0.8, 0.7, 0.6, 0.5])
    instances.iscrowd[3] = True
    ids, rows = paint_ids(instances)
    np.testing.assert_array_equal(ids, np.where(outer, 1, np.where(alone, 2, 0)))
    assert rows.tolist() == [0, 4]


def test_many_one_pixel_instances():
    ids, rows = paint_ids(make_many(70_000, 100))
    np.testing.assert_array_equal(ids, np.arange(1, 70_001).reshape(700, 100))
    assert len(rows) == 70_000
