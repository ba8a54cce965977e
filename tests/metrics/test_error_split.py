from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from manymask.core import Instances, concatenate_instances, encode_crops
from manymask.metrics import ScoredImage, make_tally, score_image, split_errors, summarize_scores
from manymask.metrics.error_split import ERROR_KINDS, summarize_errors
from tests.metrics.cases import CAP, CASES, CATEGORIES, score

CELL, SIDE = 56, 6  # pixels of a cell, cells along a side of the image: each holds one planted scene
SIZE = (CELL * SIDE, CELL * SIDE)
NUM_CLASSES = 3

Part = tuple[str, int, int]
"""Kind, and the first and last column of a bar of 20 rows."""


@dataclass
class Scene:
    """What is planted in a cell: bars of the ground truth, and bars that are predicted."""

    truth: list[Part]
    predictions: list[Part]


SCENES = {
    "correct": Scene([("found", 0, 20)], [("correct", 1, 21)]),
    "missed": Scene([("missed", 0, 20)], []),
    "spurious": Scene([], [("spurious", 0, 20)]),
    "no more than touched": Scene([("missed", 0, 20)], [("spurious", 18, 40)]),
    "duplicate": Scene([("found", 0, 20)], [("correct", 0, 20), ("duplicate", 3, 23)]),
    "two duplicates": Scene([("found", 0, 20)], [("correct", 0, 20), ("duplicate", 3, 23), ("duplicate", 0, 16)]),
    "two merged": Scene([("merged", 0, 20), ("merged", 21, 41)], [("merged", 0, 41)]),
    "five merged": Scene([("merged", x, x + 8) for x in range(0, 45, 9)], [("merged", 0, 44)]),
    "a small one merged with a large one": Scene([("found", 0, 30), ("merged", 31, 39)], [("correct", 0, 39)]),
    "merged twice": Scene([("merged", 0, 20), ("merged", 21, 41)], [("merged", 0, 41), ("merged", 1, 40)]),
    "merged beside those that found both": Scene(
        [("found", 0, 20), ("found", 21, 41)], [("correct", 0, 20), ("correct", 21, 41), ("merged", 0, 41)]
    ),
    "two halves": Scene([("split", 0, 41)], [("split", 0, 20), ("split", 21, 41)]),
    "six tenths and four": Scene([("found", 0, 40)], [("correct", 0, 24), ("split", 24, 40)]),
    "five parts": Scene([("split", 0, 44)], [("split", x, x + 8) for x in range(0, 45, 9)]),
    "wrong class": Scene([("wrong_class", 0, 20)], [("wrong_class", 2, 22)]),
    "loose border, moved": Scene([("loose_border", 0, 20)], [("loose_border", 10, 30)]),
    "loose border, too small": Scene([("loose_border", 0, 40)], [("loose_border", 12, 22)]),
    "loose border, too large": Scene([("loose_border", 12, 22)], [("loose_border", 0, 40)]),
    "part of what was found": Scene([("found", 0, 40)], [("correct", 0, 38), ("split", 10, 24)]),
    "crowd region": Scene([("ignored", 0, 44)], [("ignored", 0, 10), ("ignored", 12, 22), ("ignored", 5, 40)]),
    "crowd region beside an instance": Scene(
        [("ignored", 0, 20), ("found", 22, 42)], [("ignored", 0, 12), ("correct", 22, 40)]
    ),
}


@dataclass
class Planted:
    """An image with known errors: for each row its kind, and for each prediction its instance, if it has one alone."""

    truth: Instances
    predictions: Instances
    truth_kinds: np.ndarray
    prediction_kinds: np.ndarray
    right: np.ndarray

    def mend(self, kind: str) -> tuple[Instances, Instances]:
        """The same data without the errors of one kind: made right where that can be, else gone."""
        is_wrong = self.prediction_kinds == kind
        if kind not in ("wrong_class", "loose_border"):
            return self.truth[self.truth_kinds != kind], self.predictions[~is_wrong]
        both = concatenate_instances([self.predictions, self.truth])
        rows = np.where(is_wrong, len(is_wrong) + self.right, np.arange(len(is_wrong)))
        return self.truth, replace(both[rows], scores=self.predictions.scores)


def plant(seed: int, names: Sequence[str] = tuple(SCENES)) -> Planted:
    """Scenes at random places of a grid, mirrored and turned at random, in random order."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for place, name in enumerate(rng.choice(names, SIDE * SIDE).tolist()):
        corner, turn, mirror = np.array(divmod(place, SIDE)) * CELL + rng.integers(1, 8), *rng.integers(0, 2, 2)
        label, score, scene = int(rng.integers(NUM_CLASSES)), rng.random(), SCENES[name]
        first = len(truth)

        def bar(low: int, high: int, corner=corner, turn=turn, mirror=mirror):
            low, high = (44 - high, 44 - low) if mirror else (low, high)
            shape, offset = ((high - low, 20), (0, low)) if turn else ((20, high - low), (low, 0))
            return (int(corner[0]) + offset[0], int(corner[1]) + offset[1], np.ones(shape, dtype=bool))

        for kind, low, high in scene.truth:
            truth.append((kind, bar(low, high), 1 + label))
        for row, (kind, low, high) in enumerate(scene.predictions):
            own = 1 + (label + (int(rng.integers(1, NUM_CLASSES)) if kind == "wrong_class" else 0)) % NUM_CLASSES
            found.append((kind, bar(low, high), own, score * 0.9**row, first))
    return order_rows(rng, truth, found)


def order_rows(rng: np.random.Generator, truth: list, found: list) -> Planted:
    rows, order = rng.permutation(len(truth)), rng.permutation(len(found))
    place_of = np.argsort(rows)  # of a row before the shuffle
    truth, found = [truth[row] for row in rows], [found[row] for row in order]
    kinds = np.array([row[0] for row in truth], dtype=str)
    runs, found_runs = (encode_crops([row[1] for row in part], SIZE) for part in (truth, found))
    scores = np.array([row[3] for row in found], dtype=np.float32)
    return Planted(
        Instances.from_runs(runs, np.array([row[2] for row in truth], dtype=np.int64), iscrowd=kinds == "ignored"),
        Instances.from_runs(found_runs, np.array([row[2] for row in found], dtype=np.int64), scores=scores),
        kinds,
        np.array([row[0] for row in found], dtype=str),
        np.append(place_of, 0)[[row[4] for row in found]],
    )


def score_planted(planted: Planted, number: int = 1, threshold: float = 0.0) -> ScoredImage:
    return score_image(number, planted.truth, planted.predictions, max_detections=CAP, score_threshold=threshold)


@pytest.mark.parametrize("seed", range(12))
def test_planted_errors_are_found_row_by_row(seed):
    planted = plant(seed)
    errors = split_errors(score_planted(planted))
    order = np.argsort(-planted.predictions.scores, kind="stable")
    assert errors.predictions.tolist() == planted.prediction_kinds[order].tolist()
    assert errors.instances.tolist() == planted.truth_kinds.tolist()


def test_planted_images_hold_every_kind():
    images = [plant(seed) for seed in range(12)]
    assert {kind for image in images for kind in image.prediction_kinds} == {"correct", "ignored", *ERROR_KINDS} - {
        "missed"
    }
    assert {kind for image in images for kind in image.truth_kinds} == {"found", "ignored", *ERROR_KINDS} - {
        "spurious",
        "duplicate",
    }


@pytest.mark.parametrize("name", SCENES)
def test_each_scene_alone(name):
    planted = plant(1, [name])
    errors = split_errors(score_planted(planted))
    assert Counter(errors.predictions.tolist()) == Counter(planted.prediction_kinds.tolist())
    assert Counter(errors.instances.tolist()) == Counter(planted.truth_kinds.tolist())


@pytest.mark.parametrize("first", [0, 3, 6])
def test_numbers_of_several_images_are_those_planted(first):
    planted = [plant(first + number) for number in range(3)]
    images = [score_planted(image, number) for number, image in enumerate(planted, start=1)]
    found = summarize_scores(images, CATEGORIES, CAP).errors
    predictions = Counter(kind for image in planted for kind in image.prediction_kinds.tolist())
    instances = Counter(kind for image in planted for kind in image.truth_kinds.tolist())
    assert list(found) == list(ERROR_KINDS)
    for kind, entry in found.items():
        assert (entry.predictions, entry.instances) == (predictions[kind], instances[kind]), kind


@pytest.mark.parametrize("seed", range(4))
def test_cost_is_what_ap50_gains_where_the_errors_really_are_absent(seed):
    planted = [plant(seed * 3 + number) for number in range(3)]
    scores = summarize_scores([score_planted(image, i) for i, image in enumerate(planted, start=1)], CATEGORIES, CAP)
    for kind, entry in scores.errors.items():
        mended = score([image.mend(kind) for image in planted])
        without = summarize_scores(mended, CATEGORIES, CAP).mask.AP50
        assert entry.AP50_cost == pytest.approx(without - scores.mask.AP50, abs=1e-9), kind


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_kinds_add_up_to_false_positives_and_negatives(case, threshold):
    for number, (truth, found) in enumerate(CASES[case], start=1):
        image = score_image(number, truth, found, max_detections=CAP, score_threshold=threshold)
        counts = make_tally([image], CATEGORIES).counts[0, :, 0].sum(axis=0).tolist()
        errors = split_errors(image)
        is_right = errors.predictions == "correct"
        is_wrong = ~is_right & (errors.predictions != "ignored")
        is_lost = ~np.isin(errors.instances, ("found", "ignored"))
        assert [is_right.sum(), is_wrong.sum(), is_lost.sum()] == counts
        assert (errors.instances == "found").sum() == counts[0]
        assert (errors.instances[truth.iscrowd] == "ignored").all()


@pytest.mark.parametrize("case", CASES)
def test_no_error_kind_has_a_cost_below_zero(case):
    for entry in summarize_scores(score(CASES[case]), CATEGORIES, CAP).errors.values():
        assert entry.AP50_cost is None or entry.AP50_cost >= -1e-9


def test_pairs_of_one_kind_are_as_many_predictions_as_instances():
    for found in [summarize_scores(score(pairs), CATEGORIES, CAP).errors for pairs in CASES.values()]:
        for kind in ("wrong_class", "loose_border"):
            assert found[kind].predictions == found[kind].instances
        assert found["missed"].predictions == found["spurious"].instances == 0
        assert found["duplicate"].instances == 0


@pytest.mark.parametrize("case", CASES)
def test_confusion_agrees_with_detection_and_with_the_errors(case):
    scores = summarize_scores(score(CASES[case]), CATEGORIES, CAP)
    matrix, detection = np.array(scores.confusion.matrix), scores.detection
    same_class, all_pairs = np.trace(matrix[:-1, :-1]), matrix[:-1, :-1].sum()
    assert same_class == detection.TP
    assert all_pairs - same_class == scores.errors["wrong_class"].predictions
    assert matrix[:, -1].sum() + all_pairs == detection.TP + detection.FN
    assert matrix[-1].sum() + all_pairs == detection.TP + detection.FP


def test_predictions_below_the_score_threshold_are_not_there():
    planted = plant(1)
    errors = split_errors(score_planted(planted, threshold=1.0))
    assert len(errors.predictions) == 0
    assert set(errors.instances.tolist()) == {"missed", "ignored"}


def test_highest_ious_are_those_of_any_class():
    scenes = [SCENES["wrong class"].truth[0][1:], SCENES["wrong class"].predictions[0][1:]]
    masks = np.zeros((2, 20, 30), dtype=bool)
    for mask, (low, high) in zip(masks, scenes, strict=True):
        mask[:, low:high] = True
    one = Instances.from_masks(masks, np.array([1, 2]))
    errors = split_errors(score_image(1, one[:1], one[1:], max_detections=CAP, score_threshold=0.0))
    assert errors.prediction_ious.tolist() == errors.instance_ious.tolist() == [18 / 22]


def test_a_class_that_is_wholly_missed_has_no_cost_where_it_is_the_only_one():
    planted = plant(0)
    images = [score_image(1, planted.truth, planted.predictions[:0], max_detections=CAP, score_threshold=0.0)]
    found = summarize_errors(images, [split_errors(image) for image in images], 3)
    assert found["missed"].AP50_cost is None  # without what was missed there is nothing to find
    assert found["spurious"].AP50_cost == 0
