import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manymask.core import RunLengths, label_painting
from manymask.core.label_painting import find_overlapped, paint_label_image, paint_stripes, rank_instances
from tests import dense
from tests.strategies import stacks


def paint(masks):
    """Ids 1..N, earlier masks over later ones."""
    ids = np.zeros(masks.shape[1:], dtype=np.int32)
    for id_, mask in reversed(list(enumerate(masks, start=1))):
        ids[mask] = id_
    return ids


@settings(max_examples=50, deadline=None)
@given(stacks(), st.integers(1, 20), st.integers(1, 30), st.integers(1, 10), st.randoms())
def test_stripes_are_the_label_image(masks, stripe_height, group_pixels, group_runs, random):
    runs, ids = dense.encode_runs(masks), np.arange(len(masks)) * 3 + 7
    rows = np.array(random.sample(range(len(masks)), len(masks)), dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_painting, "GROUP_PIXELS", group_pixels)
        patch.setattr(label_painting, "GROUP_RUNS", group_runs)
        stripes = list(paint_stripes(runs, rows, ids, stripe_height))
    np.testing.assert_array_equal(np.concatenate(stripes), np.append(0, ids)[paint(masks[rows])])
    expected = paint(masks)
    assert {len(stripe) for stripe in stripes[:-1]} <= {stripe_height}
    np.testing.assert_array_equal(paint_label_image(runs), expected)


@settings(max_examples=50, deadline=None)
@given(stacks(), st.sampled_from([0.0, 0.5]), st.integers(1, 10), st.data())
def test_ids_go_by_score_and_the_hidden_come_last(masks, min_score, group_runs, data):
    scores = np.array([data.draw(st.sampled_from([0.2, 0.5, 0.9])) for _ in masks], dtype=np.float32)
    iscrowd = np.array([data.draw(st.booleans()) for _ in masks], dtype=bool)
    runs = dense.encode_runs(masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_painting, "GROUP_RUNS", group_runs)
        rows, num_visible = rank_instances(runs, scores, iscrowd, min_score)
    is_ranked = ~iscrowd & (scores >= min_score)
    by_score = [row for row in np.argsort(-scores, kind="stable").tolist() if is_ranked[row]]
    shown = np.unique(paint(masks[by_score])).tolist() if by_score else []
    visible = [row for place, row in enumerate(by_score, start=1) if place in shown]
    assert rows.tolist() == visible + [row for row in by_score if row not in visible]
    assert num_visible == len(visible)


@settings(max_examples=30, deadline=None)
@given(stacks(), st.randoms())
def test_overlapped_masks_lose_pixels(masks, random):
    rows = random.sample(range(len(masks)), len(masks) // 2)
    painted = paint(masks[rows])
    expected = [place for place, row in enumerate(rows) if ((painted == place + 1) != masks[row]).any()]
    found = find_overlapped(dense.encode_runs(masks), np.array(rows, dtype=np.int64))
    assert found.tolist() == expected


def test_no_instances():
    runs = RunLengths.empty((3, 4))
    assert not paint_label_image(runs).any()
    assert rank_instances(runs, np.zeros(0, np.float32), np.zeros(0, bool))[1] == 0
