"""Pieces of masks, beside a search pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from scipy import ndimage

from manymask.core import RunLengths
from manymask.core.components import FAR_GAP, find_pieces, find_touching, split_columns
from tests import dense, strategies
from tests.inspection.samples import draw_masks


def find_pieces_slowly(mask):
    """Areas of the pieces of a mask, largest first, gathered pixel by pixel."""
    parts = [(y, x) for y, x in np.argwhere(mask)]
    pieces = []
    while parts:
        piece, todo = [], [parts.pop()]
        while todo:
            y, x = todo.pop()
            piece.append((y, x))
            close = [p for p in parts if max(abs(p[0] - y), abs(p[1] - x)) <= FAR_GAP + 1]
            parts = [p for p in parts if p not in close]
            todo += close
        pieces.append(len(piece))
    return sorted(pieces, reverse=True)


def test_no_pieces():
    pieces, owner = find_pieces(RunLengths.empty((4, 5), 2))
    assert (len(pieces), len(owner)) == (0, 0)


@pytest.mark.parametrize(("gap", "count"), [(FAR_GAP, 1), (FAR_GAP + 1, 2)])
@pytest.mark.parametrize("is_turned", [False, True])
def test_far_begins_beyond_the_gap(gap, count, is_turned):
    masks = draw_masks((2, 2, 5, 5), (2, 5 + gap, 5, 9 + gap), size=(20, 20)).any(axis=0)[None]
    pieces, owner = find_pieces(dense.encode_runs(masks.transpose(0, 2, 1) if is_turned else masks))
    assert owner.tolist() == [0] * count
    assert sorted(pieces.areas.tolist()) == ([9, 12] if count == 2 else [21])


@given(strategies.stacks())
def test_against_pixels(masks):
    pieces, owner = find_pieces(dense.encode_runs(masks))
    dense.assert_valid_runs(pieces)
    for row, mask in enumerate(masks):
        assert sorted(pieces.areas[owner == row].tolist(), reverse=True) == find_pieces_slowly(mask)
        np.testing.assert_array_equal(dense.decode_runs(pieces)[owner == row].any(axis=0), mask)


@given(strategies.stacks())
def test_columns(masks):
    owner, column, top, bottom = split_columns(dense.encode_runs(masks))
    painted = np.zeros_like(masks)
    for row, x, begin, end in zip(owner, column, top, bottom, strict=True):
        painted[row, begin:end, x] = True
    np.testing.assert_array_equal(painted, masks)


@given(strategies.stacks())
def test_touching_by_corners(masks):
    grown = [ndimage.binary_dilation(mask, np.ones((3, 3))) if mask.any() else mask for mask in masks]
    others = [[row for row in range(len(masks)) if row != own] for own in range(len(masks))]
    expected = [any((grown[own] & masks[row]).any() for row in others[own]) for own in range(len(masks))]
    np.testing.assert_array_equal(find_touching(dense.encode_runs(masks), by_corners=True), expected)
