"""Our numbers are those of StarDist, of Cellpose and of dense masks compared pair by pair.

``golden.json`` holds what the two libraries say; where they are installed (the extra ``oracles``) they are asked anew.
"""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from manymask.core import Category, Instances
from manymask.metrics import ScoredImage, Tally, make_tally, score_image
from manymask.metrics.matching import IOU_THRESHOLDS
from tests import dense
from tests.metrics.cases import CAP, CATEGORIES, make_predictions, make_truth
from tests.metrics.label_cases import LABEL_CASES, hash_pairs, to_instances
from tests.metrics.make_golden import GOLDEN, run_cellpose, run_stardist

GOLDEN_ROWS = json.loads(GOLDEN.read_text())


def score_labels(case: str) -> Tally:
    pairs = [(to_instances(truth), to_instances(found)) for truth, found in LABEL_CASES[case]]
    images = [
        score_image(number, truth, found, max_detections=CAP, score_threshold=0.5)
        for number, (truth, found) in enumerate(pairs, start=1)
    ]
    return make_tally(images, (Category(1, "cell"),))


@pytest.fixture(scope="module")
def tallies() -> dict[str, Tally]:
    return {case: score_labels(case) for case in LABEL_CASES}


def zero_undefined(value: float) -> float:
    """StarDist calls 0 what is undefined."""
    return 0.0 if np.isnan(value) else value


@pytest.mark.parametrize("case", LABEL_CASES)
def test_golden_numbers_are_of_these_label_images(case):
    assert GOLDEN_ROWS[case]["hash"] == hash_pairs(LABEL_CASES[case])


@pytest.mark.parametrize("case", LABEL_CASES)
def test_golden_numbers_are_those_of_stardist(case, require):
    require("oracles", find_spec("stardist"))
    found, expected = run_stardist(LABEL_CASES[case]), GOLDEN_ROWS[case]["stardist"]
    for name, columns in expected.items():
        assert all(found[name][key] == pytest.approx(values, abs=1e-6) for key, values in columns.items())


@pytest.mark.parametrize("case", LABEL_CASES)
def test_golden_numbers_are_those_of_cellpose(case, require):
    require("oracles", find_spec("cellpose"))
    found, expected = run_cellpose(LABEL_CASES[case]), GOLDEN_ROWS[case]["cellpose"]
    assert found["aji"] == pytest.approx(expected["aji"], abs=1e-6)
    assert [row is None for row in found["ap"]] == [row is None for row in expected["ap"]]
    for row, values in zip(found["ap"], expected["ap"], strict=True):
        assert values is None or row == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("case", LABEL_CASES)
def test_counts_and_pooled_ap_are_those_of_stardist(case, tallies):
    expected, found = GOLDEN_ROWS[case]["stardist"]["pooled"], tallies[case].compute()
    counts = tallies[case].counts.sum(axis=(0, 1))
    np.testing.assert_array_equal(counts, np.stack([expected["tp"], expected["fp"], expected["fn"]], axis=1))
    pooled = [found["ap_t", "pooled", f"{threshold:.2f}"][0] for threshold in IOU_THRESHOLDS]
    assert [zero_undefined(value) for value in pooled] == pytest.approx(expected["accuracy"], abs=1e-6)


STARDIST_PATHS = {
    ("detection", "precision"): "precision",
    ("detection", "recall"): "recall",
    ("detection", "F1"): "f1",
    ("panoptic", "PQ"): "panoptic_quality",
    ("panoptic", "RQ"): "f1",
    ("panoptic", "SQ"): "mean_matched_score",
}


@pytest.mark.parametrize("case", LABEL_CASES)
def test_scores_at_iou_50_are_those_of_stardist(case, tallies):
    expected, found = GOLDEN_ROWS[case]["stardist"]["pooled"], tallies[case].compute()
    for path, name in STARDIST_PATHS.items():
        assert zero_undefined(found[path][0]) == pytest.approx(expected[name][0], abs=1e-6), path


@pytest.mark.parametrize("case", LABEL_CASES)
def test_mean_ap_of_images_is_that_of_stardist_and_of_cellpose(case, tallies):
    """With neither instance nor prediction an image counts 0 in StarDist, nothing in Cellpose and here."""
    rows = [row for row in GOLDEN_ROWS[case]["cellpose"]["ap"] if row is not None]
    found = tallies[case].compute()
    for column, threshold in enumerate(IOU_THRESHOLDS):
        value = found["ap_t", "per_image", f"{threshold:.2f}"][0]
        assert value == pytest.approx(np.mean([row[column] for row in rows]), abs=1e-6)
        of_stardist = GOLDEN_ROWS[case]["stardist"]["per_image"]["accuracy"][column]
        assert value * len(rows) == pytest.approx(of_stardist * len(LABEL_CASES[case]), abs=1e-6)


@pytest.mark.parametrize("case", LABEL_CASES)
def test_aji_foreground_of_each_image_is_that_of_cellpose(case, tallies):
    expected = [np.nan if value is None else value for value in GOLDEN_ROWS[case]["cellpose"]["aji"]]
    np.testing.assert_allclose(tallies[case].aji[:, 2], expected, rtol=0, atol=1e-6)


def brute_force_aji(truth: Instances, found: Instances) -> list[float]:
    """AJI and AJI+ from their definitions, on dense masks, without crowd regions."""
    a, b = truth.to_masks(), found.to_masks()
    shared = np.tensordot(a.astype(np.float32), b.astype(np.float32), axes=([1, 2], [1, 2])).astype(float)
    iou = shared / np.maximum(dense.areas(a)[:, None] + dense.areas(b) - shared, 1)
    best = [(i, int(iou[i].argmax())) for i in range(len(a)) if len(b) and iou[i].max() > 0]
    matched = [(i, j) for i, j in zip(*linear_sum_assignment(-iou), strict=True) if iou[i, j] > 0]
    values = []
    for pairs in (best, matched):
        above, below = 0, 0
        for i, j in pairs:
            above += shared[i, j]
            below += (a[i] | b[j]).sum()
        below += sum(a[i].sum() for i in range(len(a)) if i not in {i for i, _ in pairs})
        below += sum(b[j].sum() for j in range(len(b)) if j not in {j for _, j in pairs})
        values.append(above / below if below else np.nan)
    return values


def score_one(truth: Instances, found: Instances) -> ScoredImage:
    return score_image(1, truth, found, max_detections=CAP, score_threshold=0.0)


@pytest.mark.parametrize("case", LABEL_CASES)
def test_aji_of_label_images_is_that_of_a_brute_force(case, tallies):
    expected = [brute_force_aji(to_instances(truth), to_instances(found)) for truth, found in LABEL_CASES[case]]
    np.testing.assert_allclose(tallies[case].aji[:, :2], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(10, 14))
@pytest.mark.parametrize(("num_truth", "num_found"), [(70, 90), (90, 40), (1, 60), (60, 1)])
def test_aji_of_overlapping_instances_is_that_of_a_brute_force(seed, num_truth, num_found):
    truth = make_truth(seed, num_truth)
    found = make_predictions(truth, seed + 100, num_found)
    found = found[np.argsort(-found.scores, kind="stable")]  # of equal IoUs the first counts
    aji = make_tally([score_one(truth, found)], CATEGORIES).aji[0]
    np.testing.assert_allclose(aji[:2], brute_force_aji(truth, found), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_aji_leaves_out_crowd_regions_and_what_lies_in_them(seed):
    truth = make_truth(seed, 60, num_classes=1, num_crowds=3)
    found = make_predictions(truth, seed, 80, num_classes=1)
    crowd = truth[truth.iscrowd]
    in_crowd = dense.iou(found.to_masks(), crowd.to_masks(), crowd.iscrowd).max(axis=1) >= 0.5
    is_matched = np.zeros(len(found), dtype=bool)
    iou = dense.iou(found.to_masks(), truth[~truth.iscrowd].to_masks())
    gain = np.where(iou >= 0.5, 1000.0 + ~in_crowd[:, None] + iou / 1000, 0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    is_matched[rows[gain[rows, columns] > 0]] = True
    kept = found[is_matched | ~in_crowd]
    kept = kept[np.argsort(-kept.scores, kind="stable")]
    expected = make_tally([score_one(truth[~truth.iscrowd], kept)], CATEGORIES).aji[0]
    aji = make_tally([score_one(truth, found)], CATEGORIES).aji[0]
    np.testing.assert_allclose(aji, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(aji[:2], brute_force_aji(truth[~truth.iscrowd], kept), rtol=0, atol=1e-12)
