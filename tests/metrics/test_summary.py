import contextlib
import io
import time
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

from manymask.core import Instances, RunLengths, encode_coco_rle
from manymask.metrics import make_tally, score_image, summarize_scores
from manymask.metrics.matching import IOU_THRESHOLDS
from manymask.metrics.precision import compute_precision, rank_images
from manymask.metrics.record import ClassPrecision
from manymask.metrics.summary import format_scores
from tests import dense
from tests.metrics.cases import CAP, CASES, CATEGORIES, EMPTY, make_crowded, make_predictions, make_truth, score


def make_coco(pairs: list[tuple[Instances, Instances]]) -> dict:
    annotations = [row for i, (truth, _) in enumerate(pairs, start=1) for row in list_rows(truth, i, "iscrowd")]
    return {
        "images": [{"id": i, "height": t.size[0], "width": t.size[1]} for i, (t, _) in enumerate(pairs, start=1)],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": c.name} for number, c in enumerate(CATEGORIES, start=1)],
    }


def list_rows(instances: Instances, image_id: int, kind: str) -> list[dict]:
    boxes = instances.boxes.astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    values = instances.iscrowd.astype(int) if kind == "iscrowd" else instances.scores.astype(float)
    columns = (boxes.tolist(), instances.labels.tolist(), instances.runs.areas.tolist(), values.tolist())
    return [
        {"image_id": image_id, "category_id": label, "segmentation": rle, "bbox": box, "area": area, kind: value}
        for rle, box, label, area, value in zip(encode_coco_rle(instances.runs), *columns, strict=True)
    ]


def list_results(pairs: list[tuple[Instances, Instances]], cap: int) -> list[dict]:
    """COCO results: of each image those of the highest scores, whatever the class."""
    ranked = [found[np.argsort(-found.scores, kind="stable")[:cap]] for _, found in pairs]
    return [row for i, found in enumerate(ranked, start=1) for row in list_rows(found, i, "score")]


def compute_oracle(pairs: list[tuple[Instances, Instances]], iou_type: str, cap: int, areas=None) -> np.ndarray:
    """pycocotools' precision; its -1, for undefined, is NaN here."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = make_coco(pairs)
        truth.createIndex()
        found = truth.loadRes(list_results(pairs, cap))
        if iou_type == "segm":  # loadRes takes the box's area where there is a box
            for annotation in found.dataset["annotations"]:
                annotation["area"] = float(coco_mask.area(annotation["segmentation"]))
        evaluator = COCOeval(truth, found, iou_type)
        evaluator.params.maxDets = [cap]
        evaluator.params.areaRng = [areas or [0, 1e10]]
        evaluator.params.areaRngLbl = ["chosen"]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    return np.where(precision > -1, precision, np.nan)


KINDS = {"segm": "mask", "bbox": "box"}


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("cap", [CAP, 40])
@pytest.mark.parametrize("case", CASES)
def test_precision_is_that_of_pycocotools(case, cap, iou_type):
    found = compute_precision(rank_images(score(CASES[case], cap), 3, KINDS[iou_type]))
    np.testing.assert_allclose(found, compute_oracle(CASES[case], iou_type, cap), rtol=0, atol=1e-9)


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("areas", [(0.0, 60.0), (60.0, 150.0), (150.0, 1e10)])
@pytest.mark.parametrize("case", CASES)
def test_precision_of_a_size_is_that_of_pycocotools(case, areas, iou_type):
    found = compute_precision(rank_images(score(CASES[case]), 3, KINDS[iou_type], areas))
    expected = compute_oracle(CASES[case], iou_type, CAP, list(areas))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_the_cap_matters_in_a_crowd():
    assert len(make_crowded()[0][1]) > 2 * 100
    low, high = (compute_precision(rank_images(score(make_crowded(), cap), 3, "mask")) for cap in (40, CAP))
    assert np.nanmean(low) < np.nanmean(high)


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_summary_is_the_mean_of_pycocotools_precision(kind):
    scored = score(CASES["crowded"])
    oracle = compute_oracle(CASES["crowded"], {"mask": "segm", "box": "bbox"}[kind], CAP)
    found = summarize_scores(scored, CATEGORIES, CAP).model_dump()[kind]
    assert found["AP"] == pytest.approx(oracle.mean(), abs=1e-9)
    for index, category in enumerate(CATEGORIES):
        of_class = oracle[:, :, index]
        expected = {"AP": of_class.mean(), "AP50": of_class[0].mean(), "AP75": of_class[5].mean()}
        assert found["per_class"][category.name] == pytest.approx(
            {**expected, "num_instances": found["per_class"][category.name]["num_instances"]}, abs=1e-9
        )


def test_summary_of_no_predictions_is_zero_where_there_was_something_to_find():
    truth = make_truth(1, 30, num_classes=2)
    scores = summarize_scores(score([(truth, EMPTY)]), CATEGORIES, CAP)
    for kind in ("mask", "box"):
        assert [scores.get_value((kind, name)) for name in ("AP", "AP50", "AP75")] == [0, 0, 0]
        per_class = getattr(scores, kind).per_class
        assert per_class["class2"].AP == 0
        assert per_class["class7"] == ClassPrecision(AP=None, AP50=None, AP75=None, num_instances=0)
    assert scores.ap_t.pooled["0.50"] == 0


def test_summary_of_nothing_at_all_is_undefined():
    scores = summarize_scores(score([(EMPTY, EMPTY)]), CATEGORIES, CAP)
    assert scores.mask.AP is None
    assert scores.box.per_class["class3"].AP50 is None
    assert set(scores.ap_t.pooled.values()) == set(scores.ap_t.per_image.values()) == {None}


def test_a_class_without_instances_does_not_change_the_mean():
    scores = summarize_scores(score(CASES["a class without instances"]), CATEGORIES, CAP).mask
    of_classes = [scores.per_class[name].AP for name in ("class2", "class3")]
    assert scores.per_class["class7"].AP is None
    assert pytest.approx(np.mean(of_classes)) == scores.AP


def test_crowd_regions_are_not_counted_as_instances():
    scores = summarize_scores(score(CASES["crowd regions only"]), CATEGORIES, CAP)
    assert all(entry.num_instances == 0 for entry in scores.mask.per_class.values())


def test_truth_given_back_scores_one():
    truth = make_truth(1, 80)
    scores = summarize_scores(score([(truth, truth)]), CATEGORIES, CAP)
    for kind in ("mask", "box"):
        assert [scores.get_value((kind, name)) for name in ("AP", "AP50", "AP75")] == pytest.approx([1, 1, 1])
    assert set(scores.ap_t.pooled.values()) == {1.0}


def test_scoring_takes_half_of_pycocotools_time_at_most():
    truths = [make_truth(seed, 300) for seed in range(20)]
    pairs = [(truth, make_predictions(truth, seed, 300)) for seed, truth in enumerate(truths)]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = compute_precision(rank_images(score(pairs), 3, "mask"))
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    expected = compute_oracle(pairs, "segm", CAP)
    ratio = (time.perf_counter() - start) / min(seconds)
    print(f"manymask {min(seconds):.3f} s, pycocotools {ratio:.1f} times as long")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert ratio > 2  # 4 or more here, with the checks of types that tests have; benchmarks/scoring.py is without


def count(truth: Instances, found: Instances) -> np.ndarray:
    """TP, FP and FN of one image at each threshold, all predictions shown."""
    scored = score_image(1, truth, found, max_detections=CAP, score_threshold=0.0)
    return make_tally([scored], CATEGORIES).counts[0].sum(axis=0)


def count_by_brute_force(truth: Instances, predictions: Instances) -> np.ndarray:
    """Dense IoU, and for each threshold the assignment with the most pairs, then the fewest false positives."""
    iou = dense.iou(predictions.to_masks(), truth.to_masks(), truth.iscrowd)
    is_class = predictions.labels[:, None] == truth.labels
    rows = []
    for threshold in IOU_THRESHOLDS:
        is_pair = is_class & (iou >= threshold)
        is_ignored = (is_pair & truth.iscrowd).any(axis=1)
        gain = np.where(is_pair & ~truth.iscrowd, 1000.0 + ~is_ignored[:, None], 0)
        chosen = linear_sum_assignment(gain, maximize=True)
        is_matched = np.zeros(len(predictions), dtype=bool)
        is_matched[chosen[0][gain[chosen] > 0]] = True
        num_matched = is_matched.sum()
        rows.append((num_matched, (~is_matched & ~is_ignored).sum(), (~truth.iscrowd).sum() - num_matched))
    return np.array(rows)


@pytest.mark.parametrize("seed", range(8))
def test_matches_are_those_of_a_brute_force_assignment(seed):
    num_classes, num_crowds = 1 + seed % 3, seed % 4
    truth = make_truth(seed, 60, num_classes, num_crowds)
    predictions = make_predictions(truth, seed, 90, num_classes)
    np.testing.assert_array_equal(count(truth, predictions), count_by_brute_force(truth, predictions))


@pytest.mark.parametrize(("num_truth", "num_found"), [(0, 0), (0, 1), (1, 0)])
def test_matches_of_no_instances(num_truth, num_found):
    one = make_truth(3, 1)
    counts = count(one[:num_truth], one[:num_found])
    assert (counts == [0, num_found, num_truth]).all()


def test_one_prediction_matches_one_instance_only():
    masks = np.zeros((2, 10, 10), dtype=bool)
    masks[:, :6] = True
    both = Instances.from_masks(masks, np.array([1, 1]))
    assert count(both, both[:1])[0].tolist() == [1, 0, 1]
    assert count(both[:1], both)[0].tolist() == [1, 1, 0]


def test_assignment_is_optimal_where_the_best_score_first_is_not():
    masks = np.zeros((4, 1, 20), dtype=bool)
    masks[0, 0, 0:10] = masks[1, 0, 3:13] = True  # truth
    masks[2, 0, 2:11] = masks[3, 0, 3:15] = True  # the first overlaps both, the second only the second enough
    objects = Instances.from_masks(masks, np.ones(4, dtype=np.int64))
    assert count(objects[:2], objects[2:])[0].tolist() == [2, 0, 0]


def test_predictions_in_a_crowd_region_of_their_class_are_left_out():
    masks = np.zeros((2, 10, 10), dtype=bool)
    masks[0], masks[1, 2:5, 2:5] = True, True
    objects = Instances.from_masks(masks, np.array([1, 1]))
    crowd = replace(objects[:1], iscrowd=np.array([True]))
    inside = objects[1:]
    assert (count(crowd, inside) == 0).all()
    assert (count(crowd, replace(inside, labels=np.array([2]))) == [0, 1, 0]).all()


def test_a_prediction_outside_the_crowd_region_takes_the_instance():
    masks = np.zeros((4, 1, 20), dtype=bool)
    masks[0, 0, :10] = masks[2, 0, :10] = masks[3, 0, :8] = True
    masks[1, 0, :6] = True
    objects = Instances.from_masks(masks, np.ones(4, dtype=np.int64))
    truth = replace(objects[:2], iscrowd=np.array([False, True]))  # the crowd covers 0.6 of one, 0.75 of the other
    for order in ([2, 3], [3, 2]):
        counts = count(truth, objects[np.array(order)])
        assert counts[IOU_THRESHOLDS.index(0.7)].tolist() == [1, 0, 0]


def test_ap_t_pooled_and_per_image():
    truth = make_truth(1, 12, num_classes=1)
    found = replace(truth[:9], scores=np.ones(9, dtype=np.float32))
    pairs = [(truth[:10], found), (truth[10:12], EMPTY), (EMPTY, EMPTY)]  # the third image has nothing to count
    scores = summarize_scores(score(pairs), CATEGORIES, CAP).ap_t
    assert scores.pooled["0.50"] == 9 / 12
    assert scores.per_image["0.50"] == (0.9 + 0) / 2
    assert list(scores.pooled) == [f"{0.5 + 0.05 * step:.2f}" for step in range(10)]


def test_score_image_keeps_the_highest_scores_up_to_the_cap():
    found = make_predictions(make_truth(1, 50), 2, 120)
    kept = score([(make_truth(1, 50), found)], cap=30)[0]
    assert kept.predictions.scores.tolist() == np.sort(found.scores)[::-1][:30].tolist()
    assert kept.num_found == 120


def test_score_threshold_does_not_touch_ap():
    truth = make_truth(1, 40)
    found = replace(truth, scores=np.linspace(0.1, 0.9, 40, dtype=np.float32))
    low, high = (
        score_image(1, truth, found, max_detections=CAP, score_threshold=threshold) for threshold in (0.0, 0.5)
    )
    assert len(low.predictions) == len(high.predictions) == 40
    assert make_tally([low], CATEGORIES).counts[0, :, 0].sum(axis=0).tolist() == [40, 0, 0]
    assert make_tally([high], CATEGORIES).counts[0, :, 0].sum(axis=0).tolist() == [20, 0, 20]


def test_scores_of_a_bins_edge_are_in_the_bin_above():
    truth = CASES["a class without instances"][0][0][:8]
    scores = np.arange(8, 0, -1, dtype=np.float32) / 10
    bins = summarize_scores(score([(truth, replace(truth, scores=scores))]), CATEGORIES, CAP).reliability.bins
    assert [(row.low, row.num_predictions) for row in bins if row.num_predictions] == [(i / 10, 1) for i in range(1, 9)]


def test_format_scores_shows_undefined_values_as_a_dash():
    truth = make_truth(1, 30, num_classes=1)
    title, names, rows = format_scores(summarize_scores(score([(truth, truth)]), CATEGORIES[:2], CAP))
    assert title == f"1 image, at most {CAP} detections each, or each tile"
    assert names == ["", "all", "class2", "class3"]
    assert rows[0] == ["mask AP", "1.000", "1.000", "-"]
    assert rows[-1] == ["instances", "30", "30", "0"]


def test_format_scores_of_one_class_has_one_column_with_intervals():
    pairs = [(truth, truth[:-index]) for index in range(1, 5) for truth in [make_truth(index, 20, num_classes=1)]]
    scores = summarize_scores(score(pairs), CATEGORIES[:1], CAP, draws=50)
    _, names, rows = format_scores(scores)
    low, high = scores.intervals.values["detection.recall"]
    assert names == ["", "all"]
    assert ["recall", f"{scores.detection.recall:.3f} [{low:.3f} to {high:.3f}]"] in rows


def make_squares(corners: np.ndarray, side: int, size: tuple[int, int]) -> RunLengths:
    """Squares with the given (x, y) corners."""
    owner = np.repeat(np.arange(len(corners)), side)
    column = np.repeat(corners[:, 0], side) + np.tile(np.arange(side), len(corners))
    start = column * size[0] + np.repeat(corners[:, 1], side)
    return RunLengths.from_intervals(size, len(corners), owner, start, np.full(len(start), side))


def test_35_000_objects_of_one_image_are_scored_in_seconds():
    rng, size = np.random.default_rng(0), (1900, 1900)
    corners = np.stack(np.meshgrid(np.arange(187), np.arange(188)), axis=2).reshape(-1, 2)[:35_000] * 10
    runs = [make_squares(corners + rng.integers(0, 3, (35_000, 2)), side, size) for side in (9, 11)]
    labels = rng.integers(1, 4, 35_000)
    truth = Instances.from_runs(runs[0], labels)
    found = Instances.from_runs(runs[1], labels, scores=rng.uniform(0.5, 1, 35_000).astype(np.float32))
    began = time.process_time()
    scores = summarize_scores(score([(truth, found)], cap=35_000), CATEGORIES, 35_000)
    assert time.process_time() - began < 40  # here about 6 s, and 200 where all boxes are paired with all
    assert scores.mask.AP50 > 0.5
    assert scores.detection.TP > 25_000
