import contextlib
import io
import json
import time
from dataclasses import replace
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

from manymask.core import Category, Instances, encode_crops
from manymask.evaluation import (
    IOU_THRESHOLDS,
    ScoredImage,
    compute_precision,
    count_matches,
    format_scores,
    merge_categories,
    score_image,
    summarize_ap_t,
    summarize_scores,
    write_scores,
)
from tests import dense

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


def make_coco(scored: list[ScoredImage]) -> dict:
    annotations = [annotation for image in scored for annotation in image.truth]
    return {
        "images": [image.image for image in scored],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": c.name} for number, c in enumerate(CATEGORIES, start=1)],
    }


def list_results(scored: list[ScoredImage]) -> list[dict]:
    return [result for image in scored for result in image.predictions]


def compute_oracle(content: dict, results: list[dict], iou_type: str, cap: int) -> np.ndarray:
    """pycocotools' precision for all sizes at one cap."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results), iou_type)
        evaluator.params.maxDets = [cap]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][:, :, :, 0, -1]


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("cap", [CAP, 40])
@pytest.mark.parametrize("case", CASES)
def test_precision_is_that_of_pycocotools(case, cap, iou_type):
    scored = score(CASES[case])
    content, results = make_coco(scored), list_results(scored)
    found = compute_precision(hotcoco.COCO(content), results, iou_type, cap)
    np.testing.assert_allclose(found, compute_oracle(content, results, iou_type, cap), rtol=0, atol=1e-9)


def test_the_cap_matters_in_a_crowd():
    assert len(make_crowded()[0][1]) > 2 * 100
    scored = score(make_crowded())
    content, results = make_coco(scored), list_results(scored)
    low, high = (compute_precision(hotcoco.COCO(content), results, "segm", cap) for cap in (40, CAP))
    assert low[low > -1].mean() < high[high > -1].mean()


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_summary_is_the_mean_of_pycocotools_precision(kind):
    scored = score(CASES["crowded"])
    oracle = compute_oracle(make_coco(scored), list_results(scored), {"mask": "segm", "box": "bbox"}[kind], CAP)
    found = summarize_scores(scored, CATEGORIES, CAP)[kind]
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
        assert [scores[kind][name] for name in ("AP", "AP50", "AP75")] == [0, 0, 0]
        assert scores[kind]["per_class"]["class2"]["AP"] == 0
        assert scores[kind]["per_class"]["class7"] == {"AP": None, "AP50": None, "AP75": None, "num_instances": 0}
    assert scores["ap_t"]["pooled"]["0.50"] == 0


def test_summary_of_nothing_at_all_is_undefined():
    scores = summarize_scores(score([(EMPTY, EMPTY)]), CATEGORIES, CAP)
    assert scores["mask"]["AP"] is None
    assert scores["box"]["per_class"]["class3"]["AP50"] is None
    assert set(scores["ap_t"]["pooled"].values()) == set(scores["ap_t"]["per_image"].values()) == {None}


def test_a_class_without_instances_does_not_change_the_mean():
    scores = summarize_scores(score(CASES["a class without instances"]), CATEGORIES, CAP)["mask"]
    of_classes = [scores["per_class"][name]["AP"] for name in ("class2", "class3")]
    assert scores["per_class"]["class7"]["AP"] is None
    assert scores["AP"] == pytest.approx(np.mean(of_classes))


def test_crowd_regions_are_not_counted_as_instances():
    scores = summarize_scores(score(CASES["crowd regions only"]), CATEGORIES, CAP)
    assert all(entry["num_instances"] == 0 for entry in scores["mask"]["per_class"].values())


def test_truth_given_back_scores_one():
    truth = make_truth(1, 80)
    scores = summarize_scores(score([(truth, truth)]), CATEGORIES, CAP)
    for kind in ("mask", "box"):
        assert [scores[kind][name] for name in ("AP", "AP50", "AP75")] == pytest.approx([1, 1, 1])
    assert set(scores["ap_t"]["pooled"].values()) == {1.0}


def test_scoring_takes_a_fifth_of_pycocotools_time_at_most():
    truths = [make_truth(seed, 300) for seed in range(20)]
    scored = score([(truth, make_predictions(truth, seed, 300)) for seed, truth in enumerate(truths)])
    content, results = make_coco(scored), list_results(scored)
    truth = hotcoco.COCO(content)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = compute_precision(truth, results, "segm", CAP)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    expected = compute_oracle(content, results, "segm", CAP)
    ratio = (time.perf_counter() - start) / min(seconds)
    print(f"hotcoco {min(seconds):.3f} s, pycocotools {ratio:.1f} times as long")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert ratio > 5


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
    np.testing.assert_array_equal(count_matches(truth, predictions), count_by_brute_force(truth, predictions))


@pytest.mark.parametrize(("num_truth", "num_found"), [(0, 0), (0, 1), (1, 0)])
def test_matches_of_no_instances(num_truth, num_found):
    one = make_truth(3, 1)
    counts = count_matches(one[:num_truth], one[:num_found])
    assert (counts == [0, num_found, num_truth]).all()


def test_one_prediction_matches_one_instance_only():
    masks = np.zeros((2, 10, 10), dtype=bool)
    masks[:, :6] = True
    both = Instances.from_masks(masks, np.array([1, 1]))
    assert count_matches(both, both[:1])[0].tolist() == [1, 0, 1]
    assert count_matches(both[:1], both)[0].tolist() == [1, 1, 0]


def test_assignment_is_optimal_where_the_best_score_first_is_not():
    masks = np.zeros((4, 1, 20), dtype=bool)
    masks[0, 0, 0:10] = masks[1, 0, 3:13] = True  # truth
    masks[2, 0, 2:11] = masks[3, 0, 3:15] = True  # the first overlaps both, the second only the second enough
    objects = Instances.from_masks(masks, np.ones(4, dtype=np.int64))
    assert count_matches(objects[:2], objects[2:])[0].tolist() == [2, 0, 0]


def test_predictions_in_a_crowd_region_of_their_class_are_left_out():
    masks = np.zeros((2, 10, 10), dtype=bool)
    masks[0], masks[1, 2:5, 2:5] = True, True
    objects = Instances.from_masks(masks, np.array([1, 1]))
    crowd = replace(objects[:1], iscrowd=np.array([True]))
    inside = objects[1:]
    assert (count_matches(crowd, inside) == 0).all()
    assert (count_matches(crowd, replace(inside, labels=np.array([2]))) == [0, 1, 0]).all()


def test_a_prediction_outside_the_crowd_region_takes_the_instance():
    masks = np.zeros((4, 1, 20), dtype=bool)
    masks[0, 0, :10] = masks[2, 0, :10] = masks[3, 0, :8] = True
    masks[1, 0, :6] = True
    objects = Instances.from_masks(masks, np.ones(4, dtype=np.int64))
    truth = replace(objects[:2], iscrowd=np.array([False, True]))  # the crowd covers 0.6 of one, 0.75 of the other
    for order in ([2, 3], [3, 2]):
        counts = count_matches(truth, objects[np.array(order)])
        assert counts[IOU_THRESHOLDS.index(0.7)].tolist() == [1, 0, 0]


def test_ap_t_pooled_and_per_image():
    counts = np.zeros((3, 10, 3), dtype=np.int64)
    counts[0, :] = 9, 1, 0
    counts[1, 0] = 0, 0, 2
    scores = summarize_ap_t(counts)  # the third image has nothing to count
    assert scores["pooled"]["0.50"] == 9 / 12
    assert scores["per_image"]["0.50"] == (0.9 + 0) / 2
    assert scores["pooled"]["0.95"] == scores["per_image"]["0.95"] == 0.9
    assert list(scores["pooled"]) == [f"{0.5 + 0.05 * step:.2f}" for step in range(10)]


def test_categories_merge_by_name_then_by_id():
    data = (Category(1, "round"), Category(2, "long"), Category(5, "grain"))
    model = (Category(1, "long"), Category(2, "cell"), Category(5, "seed"), Category(9, "spore"))
    merged, labels = merge_categories(data, model)
    # cell has the id of long, which is taken by name; seed has the id of grain, which the model lacks.
    assert merged == (*data, Category(6, "cell"), Category(9, "spore"))
    assert labels.tolist() == [0, 2, 4, 3, 5]


def test_equal_categories_stay():
    merged, labels = merge_categories(CATEGORIES, CATEGORIES)
    assert merged == CATEGORIES
    assert labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(20))
def test_merged_ids_and_names_are_unique(seed):
    rng = np.random.default_rng(seed)
    names = "abcdef"
    data, model = (
        tuple(Category(id_, names[i]) for id_, i in rng.permuted([range(6)] * 2, axis=1)[:, :4].T.tolist())
        for _ in range(2)
    )
    merged, labels = merge_categories(data, model)
    assert len({c.id for c in merged}) == len({c.name for c in merged}) == len(merged)
    assert len(set(labels.tolist())) == len(model) + 1


def test_score_image_keeps_the_highest_scores_up_to_the_cap():
    found = make_predictions(make_truth(1, 50), 2, 120)
    kept = score([(make_truth(1, 50), found)], cap=30)[0].predictions
    expected = np.sort(found.scores)[::-1][:30].astype(float)
    assert [result["score"] for result in kept] == expected.tolist()


def test_score_threshold_acts_on_ap_t_only():
    truth = make_truth(1, 40)
    found = replace(truth, scores=np.linspace(0.1, 0.9, 40, dtype=np.float32))
    low, high = (
        score_image(1, truth, found, max_detections=CAP, score_threshold=threshold) for threshold in (0.0, 0.5)
    )
    assert len(low.predictions) == len(high.predictions) == 40
    assert low.counts[0].tolist() == [40, 0, 0]
    assert high.counts[0].tolist() == [20, 0, 20]


def test_boxes_are_those_of_the_detector_as_x_y_width_height():
    found = make_predictions(make_truth(1, 5), 2, 3)
    results = score([(make_truth(1, 5), found)])[0].predictions
    boxes = found.boxes[np.argsort(-found.scores, kind="stable")].astype(float)
    np.testing.assert_array_equal([r["bbox"][:2] for r in results], boxes[:, :2])
    np.testing.assert_array_equal([r["bbox"][2:] for r in results], boxes[:, 2:] - boxes[:, :2])


def test_evaluation_json_has_the_keys_of_the_contract(tmp_path: Path):
    scores = summarize_scores(score(CASES["a class without instances"]), CATEGORIES, CAP)
    write_scores(scores, tmp_path / "run" / "evaluation.json")
    read = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert read == scores
    assert read.keys() == {"mask", "box", "ap_t", "num_images", "num_predictions", "detections_per_image"}
    assert read["mask"].keys() == read["box"].keys() == {"AP", "AP50", "AP75", "per_class"}
    assert list(read["mask"]["per_class"]) == ["class2", "class3", "class7"]
    assert read["box"]["per_class"]["class2"].keys() == {"AP", "AP50", "AP75", "num_instances"}
    assert read["ap_t"].keys() == {"pooled", "per_image"}
    assert (read["num_images"], read["num_predictions"], read["detections_per_image"]) == (1, 120, CAP)


def test_format_scores_shows_undefined_values_as_a_dash():
    truth = make_truth(1, 30, num_classes=1)
    rows = format_scores(summarize_scores(score([(truth, truth)]), CATEGORIES[:2], CAP))
    assert rows[0] == ["all", *["1.000"] * 6, "30"]
    assert rows[1] == ["class2", *["1.000"] * 6, "30"]
    assert rows[2] == ["class3", *["-"] * 6, "0"]
