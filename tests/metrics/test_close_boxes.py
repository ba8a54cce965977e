import numpy as np
import pytest

from manymask.metrics.close_boxes import find_close_boxes


def make_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes of sides from an eighth to 256 pixels, some without an area."""
    corners = rng.uniform(-50, 200, (count, 2))
    sides = 2 ** rng.uniform(-3, 8, (count, 2)) * (rng.random((count, 1)) > 0.1)
    return np.concatenate([corners, corners + sides], axis=1)


def compute_shared(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all pairs the shared area, and the areas of both boxes."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    areas = [np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, others)]
    return np.prod(np.maximum(high - low, 0), axis=2), areas[0][:, None], areas[1][None]


def take_part(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """Each box with sides from half to double of its own, from its own corner: many have an IoU of just 0.5."""
    sides = (boxes[:, 2:] - boxes[:, :2]) * rng.choice([0.5, 1, 1.25, 2], (len(boxes), 2))
    return np.concatenate([boxes[:, :2], boxes[:, :2] + sides], axis=1)


@pytest.mark.parametrize("seed", range(20))
def test_all_pairs_that_overlap_by_half_are_found_once(seed):
    rng = np.random.default_rng(seed)
    boxes = make_boxes(rng, 60)
    others = np.concatenate([make_boxes(rng, 40), boxes, take_part(rng, boxes), take_part(rng, boxes)])
    shared, area, other_area = compute_shared(boxes, others)
    for alike, is_wanted in (
        (True, (shared > 0) & (shared >= (0.5 - 1e-9) * (area + other_area - shared))),
        (False, (shared > 0) & (shared >= (0.5 - 1e-9) * other_area)),  # as of predictions in a crowd region
    ):
        found = list(zip(*(row.tolist() for row in find_close_boxes(boxes, others, alike=alike)), strict=True))
        assert len(found) == len(set(found))
        assert is_wanted.sum() > 20
        assert set(zip(*(row.tolist() for row in np.nonzero(is_wanted)), strict=True)) <= set(found)


def test_no_boxes():
    for num_boxes, num_others in ((0, 3), (3, 0), (0, 0)):
        rows, columns = find_close_boxes(np.ones((num_boxes, 4)), np.ones((num_others, 4)), alike=True)
        assert len(rows) == len(columns) == 0


def test_pairs_that_are_looked_at_grow_with_the_boxes():
    side = np.arange(200) * 10.0
    corners = np.stack(np.meshgrid(side, side), axis=2).reshape(-1, 2)
    cells = np.concatenate([corners, corners + 12], axis=1)  # 40,000 that overlap their neighbours
    whole = np.tile([[0.0, 0.0, 2000.0, 2000.0]], (100, 1))  # and a hundred as large as the image
    rows, _ = find_close_boxes(np.concatenate([cells, whole]), cells, alike=True)
    assert len(rows) < 10 * len(cells)
