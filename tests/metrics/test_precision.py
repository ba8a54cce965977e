import numpy as np
import pytest

from manymask.core import Instances
from manymask.metrics import choose_score_threshold
from manymask.metrics.precision import match_image
from tests.metrics.cases import CASES, EMPTY, make_predictions, make_truth, score


def compute_f1(pairs, threshold):
    """F1 of the predictions from a threshold on, which alone are matched."""
    num_found = num_counted = num_true = 0
    for image in score([(truth, found[found.scores >= threshold]) for truth, found in pairs]):
        outcome = match_image(image, "mask")
        is_counted = ~outcome.is_ignored[0]
        num_found += int((outcome.is_match[0] & is_counted).sum())
        num_counted += int(is_counted.sum())
        num_true += len(outcome.positives)
    return 2 * num_found / (num_counted + num_true)


def make_random(seed):
    """Small images with many ties, crowd regions and instances of a wrong class."""
    truths = [make_truth(seed + n, 12, num_crowds=n) for n in (0, 1)]
    pairs = [(truth, make_predictions(truth, seed + 7, 20)) for truth in truths]
    rounded = [(t, Instances(f.runs, f.labels, f.scores.round(1).clip(0.1), f.boxes, f.iscrowd)) for t, f in pairs]
    return rounded if seed % 2 else pairs


@pytest.mark.parametrize("pairs", [CASES["crowded"], CASES["perfect"], *map(make_random, range(8))])
def test_gives_the_highest_f1(pairs):
    chosen = choose_score_threshold(score(pairs))
    scores = np.unique(np.concatenate([found.scores for _, found in pairs]).astype(float))
    best = max(compute_f1(pairs, threshold) for threshold in scores)
    assert compute_f1(pairs, chosen) == pytest.approx(best, abs=1e-12)
    assert best > 0
    neighbours = np.array([0.0, *scores])
    place = np.searchsorted(neighbours, chosen)
    assert chosen == pytest.approx(neighbours[place - 1 : place + 1].mean())  # as far from both as can be


def test_predictions_of_one_score_are_taken_together():
    """The first two are right; the third has the score of the second and is wrong, and so has the fourth."""
    truth = make_truth(1, 8, num_classes=1)
    labels, scores = np.array([1, 1, 2, 2]), np.array([0.9, 0.4, 0.4, 0.4], dtype=np.float32)
    found = Instances.from_runs(truth[:4].runs, labels, scores=scores)
    assert choose_score_threshold(score([(truth, found)])) == pytest.approx(0.2)  # F1 of 2 in 4 + 8 against 1 in 1 + 8
    apart = Instances.from_runs(truth[:4].runs, labels, scores=np.array([0.9, 0.4, 0.3, 0.3], dtype=np.float32))
    assert choose_score_threshold(score([(truth, apart)])) == pytest.approx(0.35)


@pytest.mark.parametrize(
    "pairs", [CASES["all wrong"], CASES["nothing to find"], CASES["crowd regions only"], [(EMPTY, EMPTY)]]
)
def test_nothing_is_found(pairs):
    assert choose_score_threshold(score(pairs)) == 0.5
