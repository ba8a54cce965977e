from dataclasses import replace

import numpy as np
import pytest

from manymask.core import Category, Instances, encode_crops
from manymask.metrics import ScoredImage, explain_scores, score_image

CATEGORIES = (Category(1, "round"), Category(4, "long"))
CAP = 30


def make_truth(seed: int, size: tuple[int, int] = (150, 210), count: int = 20) -> Instances:
    """Rectangles, each in a cell of its own of a 5 x 5 grid."""
    rng = np.random.default_rng(seed)
    cell = np.array(size) // 5
    corners = np.stack(np.divmod(rng.permutation(25)[:count], 5), axis=1) * cell + rng.integers(
        0, cell // 3, (count, 2)
    )
    sides = np.round(cell * rng.uniform(0.3, 0.6, (count, 2))).astype(int)
    crops = ((int(x), int(y), np.ones(side, bool)) for (y, x), side in zip(corners, sides.tolist(), strict=True))
    return Instances.from_runs(encode_crops(crops, size), 1 + np.arange(count) % 2)


def predict(truth: Instances, seed: int = 0) -> Instances:
    """The truth itself, with scores from 0.5 on."""
    scores = np.random.default_rng(seed).uniform(0.5, 1, len(truth)).astype(np.float32)
    return replace(truth, scores=scores, iscrowd=np.zeros(len(truth), dtype=bool))


def score(pairs: list[tuple[Instances, Instances]], cap: int | None = CAP) -> list[ScoredImage]:
    return [
        score_image(number, truth, found, max_detections=cap, score_threshold=0.5, name=f"image{number}")
        for number, (truth, found) in enumerate(pairs, start=1)
    ]


def explain(pairs: list[tuple[Instances, Instances]], cap: int = CAP, **options) -> list[str]:
    return explain_scores(score(pairs, cap), CATEGORIES, **{"has_intervals": False, **options})


TRUTHS = [make_truth(seed) for seed in range(3)]
CLEAN = [(truth, predict(truth, seed)) for seed, truth in enumerate(TRUTHS)]
NOTHING = TRUTHS[0][:0]


def add_crowd(truth: Instances) -> Instances:
    return replace(truth, iscrowd=np.arange(len(truth)) < 3)


CLEAN_CASES = {
    "perfect": CLEAN,
    "an image without instances": [*CLEAN, (NOTHING, NOTHING)],
    "false positives in an image without instances": [*CLEAN, (NOTHING, CLEAN[0][1])],
    "crowd regions": [(add_crowd(truth), found) for truth, found in CLEAN],
    "an image with only crowd regions, without predictions": [*CLEAN, (add_crowd(TRUTHS[0])[:3], NOTHING)],
    "loose boxes": [(t, replace(f, boxes=f.boxes + np.array([-2, -2, 2, 2], dtype=np.float32))) for t, f in CLEAN],
    "most predictions wrong": [(t, f[np.arange(20)[i % 20 :][:2]]) for i, (t, f) in enumerate(CLEAN)],
    "some of another class": [(t, replace(f, labels=np.where(np.arange(20) < 5, 1, f.labels))) for t, f in CLEAN],
    "small images": [(t, predict(t)) for t in [make_truth(1, (40, 40)), make_truth(2, (60, 50))]],
    "one prediction": [(TRUTHS[0], CLEAN[0][1][:1])],
}


@pytest.mark.parametrize("case", CLEAN_CASES)
def test_nothing_is_said_where_all_is_well(case):
    assert explain(CLEAN_CASES[case]) == []


def test_nothing_is_said_of_the_cap_below_it_or_without_one():
    assert explain(CLEAN, cap=21) == []
    assert explain_scores(score(CLEAN, None), CATEGORIES, has_intervals=False) == []


def test_nothing_is_said_of_intervals_of_many_images():
    assert explain(CLEAN * 7, has_intervals=True) == []


def relabel(found: Instances) -> Instances:
    return replace(found, labels=3 - found.labels)


def turn(instances: Instances) -> Instances:
    """The same masks with rows for columns, as far as they fit into the image."""
    height, width = instances.size
    turned = np.zeros((len(instances), height, width), dtype=bool)
    turned[:, :, :height] = instances.to_masks().transpose(0, 2, 1)[:, :height]
    turned = Instances.from_masks(turned, instances.labels)
    return replace(turned, scores=instances.scores)[turned.runs.areas > 0]


BROKEN_CASES = {
    "The data have no instances": [(NOTHING, found) for _, found in CLEAN],
    "No instances of long in the data": [(t[t.labels == 1], f[f.labels == 1]) for t, f in CLEAN],
    "There are no predictions at all": [(truth, NOTHING) for truth in TRUTHS],
    "No prediction reaches the score threshold": [(t, replace(f, scores=f.scores / 3)) for t, f in CLEAN],
    "All scores are equal": [(t, replace(f, scores=np.ones_like(f.scores))) for t, f in CLEAN],
    "Only 0 of 60 instances have a prediction with an IoU of 0.5": [(t, turn(f)) for t, f in CLEAN],
    "but never on one of their own class (round, long)": [(t, relabel(f)) for t, f in CLEAN],
}


@pytest.mark.parametrize("sentence", BROKEN_CASES)
def test_each_case_has_its_sentence_and_no_other(sentence):
    notes = explain(BROKEN_CASES[sentence])
    assert len(notes) == 1, notes
    assert sentence in notes[0]


def test_the_highest_score_below_the_threshold_is_named():
    (note,) = explain([(TRUTHS[0], replace(CLEAN[0][1], scores=np.linspace(0, 0.25, 20, dtype=np.float32)))])
    assert "(the highest score is 0.250)" in note


def test_more_instances_than_the_cap():
    crowds = [(add_crowd(truth), found[:10]) for truth, found in CLEAN]
    (note,) = explain(crowds, cap=15)
    assert note.startswith("In 3 of 3 images there are more instances than the cap of 15 detections (image1: 17)")


def test_the_fullest_image_is_the_one_with_most_instances():
    many_crowds = replace(TRUTHS[0], iscrowd=np.arange(20) < 8)
    (note,) = explain([(many_crowds, CLEAN[0][1][:5]), (TRUTHS[1][:18], CLEAN[1][1][:5])], cap=10)
    assert "(image2: 18)" in note


def test_more_predictions_than_the_cap():
    few = [(truth[:10], replace(found, scores=found.scores - 0.3)) for truth, found in CLEAN]
    (note,) = explain([*few[:2], (TRUTHS[2][:10], few[2][1][:16])], cap=16)
    assert note.startswith("In 2 of 3 images there are more predictions than the cap of 16")


def test_as_many_sure_detections_as_the_cap():
    (note,) = explain([CLEAN[0], *((truth, found[:19]) for truth, found in CLEAN[1:])], cap=20)
    assert note.startswith("In 1 of 3 images there are as many sure detections as the cap of 20 allows (image1)")


def write_boxes(order: str, found: Instances) -> np.ndarray:
    """The four numbers that a tool with another notion of boxes writes into ``bbox``."""
    x1, y1, x2, y2 = found.boxes.astype(float).T
    height, width = found.size
    numbers = {
        "x1 y1 x2 y2": (x1, y1, x2, y2),
        "y x height width": (y1, x1, y2 - y1, x2 - x1),
        "y1 x1 y2 x2": (y1, x1, y2, x2),
        "centre": ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
        "half": (x1 / 2, y1 / 2, (x2 - x1) / 2, (y2 - y1) / 2),
        "divided": (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height),
        "shuffled": tuple(found.boxes[::-1].astype(float).T),
    }
    return np.stack(numbers[order], axis=1)


def read_boxes(order: str, found: Instances) -> Instances:
    """The same predictions with such boxes read as COCO's x, y, width and height."""
    boxes = write_boxes(order, found)
    boxes[:, 2:] += boxes[:, :2]
    return replace(found, boxes=boxes.astype(np.float32))


ORDERS = {
    "x1 y1 x2 y2": "written as x1 y1 x2 y2 where COCO wants x y width height",
    "y x height width": "written as y x height width where",
    "y1 x1 y2 x2": "written as y1 x1 y2 x2 where",
    "centre": "written as centre, width and height where",
    "half": "scaled by 1 / 2.",
    "divided": "divided by the image's size",
    "shuffled": "in no order or scale that is known",
}
SIZES = {"wide": [(150, 210)] * 3, "square": [(200, 200)] * 3, "mixed": [(150, 210), (300, 200), (90, 400), (256, 256)]}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("order", ORDERS)
def test_boxes_in_another_order_or_scale(order, sizes):
    truths = [make_truth(seed, size) for seed, size in enumerate(SIZES[sizes])]
    notes = explain([(truth, read_boxes(order, predict(truth))) for truth in truths])
    assert len(notes) == 1
    assert ORDERS[order] in notes[0]
    assert notes[0].endswith("Box AP is void.")


def test_predictions_in_a_crowd_region_lie_on_no_instance():
    whole = Instances.from_masks(np.ones((1, 150, 210), dtype=bool), [1])
    truth = TRUTHS[0]
    crowd = Instances.from_runs(whole.runs, whole.labels, iscrowd=np.array([True]))
    found = replace(predict(truth), labels=np.full(20, 2))
    notes = explain([(truth, turn(predict(truth))), (crowd, found)])
    assert len(notes) == 1
    assert "instances have a prediction with an IoU of 0.5 (the best has" in notes[0]


@pytest.mark.parametrize(
    ("num_images", "groups", "sentence"),
    [
        (1, None, "One image only"),
        (3, None, "Only 3 images: the intervals are rough"),
        (19, None, "Only 19 images"),
        (24, 1, "One group only"),
        (24, 6, "Only 6 groups"),
    ],
)
def test_few_images_or_groups(num_images, groups, sentence):
    names = None if groups is None else {f"image{i}": f"slide{i % groups}" for i in range(1, num_images + 1)}
    (note,) = explain((CLEAN * 8)[:num_images], has_intervals=True, groups=names)
    assert note.startswith(sentence)
    assert explain((CLEAN * 8)[:num_images], groups=names) == []
