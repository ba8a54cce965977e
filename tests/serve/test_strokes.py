import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manymask.serve.errors import EditError
from manymask.serve.strokes import split_mask
from tests import dense, strategies

POINTS = st.lists(st.tuples(*2 * [st.floats(-5, 20)]), min_size=2, max_size=4).map(np.array)


@given(strategies.stacks(min_instances=1, max_instances=1), POINTS)
def test_parts_are_disjoint_and_lose_no_pixel(masks, stroke):
    try:
        parts = split_mask(dense.encode_runs(masks), stroke)
    except EditError:
        return
    stack = dense.decode_runs(parts)
    assert len(stack) >= 2
    assert (stack.sum(axis=0) == masks[0]).all()
    areas = stack.sum(axis=(1, 2)).tolist()
    assert areas == sorted(areas, reverse=True)
    assert areas[-1] > 0


@pytest.mark.parametrize("turn", [np.array, lambda points: np.array(points)[:, ::-1], np.flipud])
@pytest.mark.parametrize("middle", [(10, 10), (7, 12), (3, 3)])
def test_a_line_through_a_disk_gives_two_parts(turn, middle):
    y, x = np.mgrid[:20, :20]
    disk = ((y - 9.5) ** 2 + (x - 9.5) ** 2 < 81)[None]
    parts = dense.decode_runs(split_mask(dense.encode_runs(disk), turn([(-1.0, 0.0), middle, (21.0, 17.5)]) + 0.5))
    assert len(parts) == 2
    assert (parts.sum(axis=0) == disk[0]).all()


def test_pixels_beside_the_line_go_to_their_side():
    mask = np.ones((1, 9, 9), dtype=bool)
    parts = dense.decode_runs(split_mask(dense.encode_runs(mask), np.array([(-1.0, 3.5), (10.0, 3.5)])))
    assert parts[0][4:].all()
    assert parts[1][:3].all()
