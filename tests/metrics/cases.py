"""Ground truth and predictions that all tests of evaluation share."""

import numpy as np

from manymask.core import Category, Instances, encode_crops
from manymask.metrics import ScoredImage, score_image

SIZE = (200, 230)
CATEGORIES = tuple(Category(number, f"class{number}") for number in (2, 3, 7))
CAP = 1000


def make_ellipses(rng: np.random.Generator, corners: np.ndarray, sides: np.ndarray):
    """Ellipses in boxes with the given (x, y) corners and (width, height), cut at the border."""
    for (x, y), (width, height) in zip(corners.tolist(), sides.tolist(), strict=True):
        v, u = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        left, top = max(x, 0), max(y, 0)
        yield left, top, (u * u + v * v <= 1.01)[top - y : SIZE[0] - y, left - x : SIZE[1] - x]


def make_truth(seed: int, count: int, num_classes: int = 3, num_crowds: int = 0) -> Instances:
    """Overlapping ellipses, the first of which are large crowd regions."""
    rng = np.random.default_rng(seed)
    is_crowd = np.arange(count) < num_crowds
    sides = np.where(is_crowd[:, None], 60, rng.integers(6, 22, (count, 2)))
    corners = rng.integers(-3, np.array(SIZE)[::-1] - sides)
    runs = encode_crops(make_ellipses(rng, corners, sides), SIZE)
    return Instances.from_runs(runs, rng.integers(1, num_classes + 1, count), iscrowd=is_crowd)


def make_predictions(truth: Instances, seed: int, count: int, num_classes: int = 3) -> Instances:
    """Each a truth's box moved and stretched a little; scores have ties and one class in eight is wrong."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(truth), count)
    boxes = truth.runs.boxes[rows].astype(int)
    corners = boxes[:, :2] + rng.integers(-3, 4, (count, 2))
    corners = np.minimum(corners, np.array(SIZE)[::-1] - 1)
    runs = encode_crops(make_ellipses(rng, corners, boxes[:, 2:] - boxes[:, :2] + rng.integers(1, 4, (count, 2))), SIZE)
    labels = np.where(rng.random(count) < 0.125, rng.integers(1, num_classes + 1, count), truth.labels[rows])
    scores = rng.random(count).round(2).astype(np.float32)
    return Instances.from_runs(runs, labels, scores=scores, boxes=runs.boxes + rng.random((count, 4), dtype=np.float32))


EMPTY = make_truth(0, 0)


def score(pairs: list[tuple[Instances, Instances]], cap: int = CAP) -> list[ScoredImage]:
    return [
        score_image(number, truth, found, max_detections=cap, score_threshold=0.5)
        for number, (truth, found) in enumerate(pairs, start=1)
    ]


def make_crowded() -> list[tuple[Instances, Instances]]:
    """Up to 300 predictions an image, crowd regions, and images without instances, predictions or both."""
    first, second, third = make_truth(1, 150, num_crowds=3), make_truth(2, 250, num_crowds=1), make_truth(3, 40)
    pairs = [(first, make_predictions(first, 1, 300)), (second, make_predictions(second, 2, 200))]
    pairs += [(third, make_predictions(third, 3, 150)), (EMPTY, make_predictions(first, 4, 30))]
    return [*pairs, (make_truth(4, 20), EMPTY), (EMPTY, EMPTY)]


def make_cases() -> dict[str, list[tuple[Instances, Instances]]]:
    truth = make_truth(6, 60, num_classes=2)
    elsewhere = Instances.from_runs(truth.runs, truth.labels % 2 + 1, scores=np.full(60, 0.5, dtype=np.float32))
    return {
        "crowded": make_crowded(),
        "all wrong": [(truth, elsewhere)],
        "a class without instances": [(truth, make_predictions(truth, 7, 120, num_classes=3))],
        "crowd regions only": [(make_truth(8, 4, num_crowds=4), make_predictions(truth, 8, 20))],
        "perfect": [(truth, truth)],
        "nothing to find": [(EMPTY, make_predictions(truth, 9, 20))],
    }


CASES = make_cases()
