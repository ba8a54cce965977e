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
@given(stacks(), st.integers(1, 20), st.integers(1, 30))
def test_stripes_are_the_label_image(masks, stripe_height, group):
    runs, ids = dense.encode_runs(masks), np.arange(len(masks)) * 3 + 7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_painting, "GROUP_PIXELS", group)
        stripes = list(paint_stripes(runs, ids, stripe_height))
    expected = paint(masks)
    np.testing.assert_array_equal(np.concatenate(stripes), np.append(0, ids)[expected])
    assert {len(stripe) for stripe in stripes[:-1]} <= {stripe_height}
    np.testing.assert_array_equal(paint_label_image(runs), expected)


@settings(max_examples=50, deadline=None)
@given(stacks(), st.data())
def test_ids_go_by_score_and_the_hidden_come_last(masks, data):
    scores = np.array([data.draw(st.sampled_from([0.2, 0.5, 0.9])) for _ in masks], dtype=np.float32)
    iscrowd = np.array([data.draw(st.booleans()) for _ in masks], dtype=bool)
    runs = dense.encode_runs(masks)
    rows, num_visible = rank_instances(runs, scores, iscrowd)
    by_score = [row for row in np.argsort(-scores, kind="stable").tolist() if not iscrowd[row]]
    shown = np.unique(paint(masks[by_score])).tolist() if by_score else []
    visible = [row for place, row in enumerate(by_score, start=1) if place in shown]
    assert rows.tolist() == visible + [row for row in by_score if row not in visible]
    assert num_visible == len(visible)


@settings(max_examples=30, deadline=None)
@given(stacks())
def test_overlapped_masks_lose_pixels(masks):
    painted = paint(masks)
    expected = [((painted == id_) != mask).any() for id_, mask in enumerate(masks, start=1)]
    assert find_overlapped(dense.encode_runs(masks)).tolist() == expected


def test_no_instances():
    runs = RunLengths.empty((3, 4))
    assert not paint_label_image(runs).any()
    assert rank_instances(runs, np.zeros(0, np.float32), np.zeros(0, bool))[1] == 0
