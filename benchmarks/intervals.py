"""How often the 95 % interval of the difference between two models holds the true difference.

Images are drawn from a large simulated population, so that the truth is known: the same score of the whole population.
Both models see the same images, which differ in crowding and difficulty, those of one group less than others.

python benchmarks/intervals.py    # 200 data sets of each kind, 1,000 bootstrap draws each; about two minutes
"""

import time
from dataclasses import replace

import numpy as np

from manymask.core import Category
from manymask.metrics import ScoredImage, Tally, compute_interval, draw_weights, make_tally
from manymask.metrics.matching import Pairs, Table
from manymask.metrics.precision import RankedPredictions, compute_average_precision

NUM_SETS, DRAWS, NUM_GROUPS, GROUP_SIZE = 200, 1000, 500, 4
NAMES = {"F1": ("detection", "F1"), "AP(0.5)": ("ap_t", "pooled", "0.50"), "PQ": ("panoptic", "PQ")}
KINDS = (
    ("images", 40),
    ("images", 15),
    ("images", 8),
    ("images", 5),
    ("images", 3),
    ("groups, by group", 12),
    ("groups, by image", 12),
)


def main():
    """Print a row for each kind of data set: how often the interval of each score's difference holds the true one."""
    start = time.perf_counter()
    models = simulate_population(np.random.default_rng(0))
    truth = compute_differences([tally_images(images) for images in models], np.ones((1, NUM_GROUPS * GROUP_SIZE)))
    print("true difference", {name: round(float(values[0]), 4) for name, values in truth.items()})
    print(f"{'drawn':<18}{'number':>7}" + "".join(f"{name:>16}" for name in truth) + "   (coverage %, mean width)")
    for kind, number in KINDS:
        rng, hits, widths = np.random.default_rng(1), dict.fromkeys(truth, 0), dict.fromkeys(truth, 0.0)
        for seed in range(NUM_SETS):
            rows, groups = draw_rows(rng, kind, number)
            weights = draw_weights(len(rows), groups if kind == "groups, by group" else None, DRAWS, seed)
            tallies = [tally_images([images[row] for row in rows]) for images in models]
            for name, values in compute_differences(tallies, weights).items():
                interval = compute_interval(values, number if kind != "groups, by image" else len(rows))
                low, high = interval if interval else (np.nan, np.nan)
                hits[name] += int(low <= truth[name][0] <= high)
                widths[name] += (high - low) / NUM_SETS
        cells = (f"{100 * hits[name] / NUM_SETS:>9.1f} {widths[name]:.4f}" for name in truth)
        print(f"{kind:<18}{number:>7}" + "".join(cells))
    print(f"{NUM_SETS} data sets of each kind, {DRAWS} draws each, {time.perf_counter() - start:.0f} s")


def simulate_population(rng: np.random.Generator) -> tuple[list[ScoredImage], list[ScoredImage]]:
    """What two models find in the same images; the second is a little better."""
    group_ease = np.repeat(rng.normal(0, 0.8, NUM_GROUPS), GROUP_SIZE)
    group_crowd = np.repeat(rng.normal(0, 0.6, NUM_GROUPS), GROUP_SIZE)
    group_gain = np.repeat(rng.normal(0.25, 0.3, NUM_GROUPS), GROUP_SIZE)
    ease = group_ease + rng.normal(0, 0.4, len(group_ease))
    counts = rng.poisson(np.exp(3.4 + group_crowd + rng.normal(0, 0.3, len(ease)))) + 1
    gain = group_gain + rng.normal(0, 0.2, len(ease))
    places = list(zip(ease.tolist(), counts.tolist(), gain.tolist(), strict=True))
    first = [simulate_image(rng, i, count, own) for i, (own, count, _) in enumerate(places)]
    return first, [simulate_image(rng, i, count, own + more) for i, (own, count, more) in enumerate(places)]


def simulate_image(rng: np.random.Generator, number: int, count: int, ease: float) -> ScoredImage:
    """Some instances found, with higher IoU and score where the image is easy, and false positives of low score."""
    found = np.flatnonzero(rng.random(count) < 1 / (1 + np.exp(-1.5 - ease)))
    iou = 1 / (1 + np.exp(-rng.normal(1 + 0.5 * ease, 0.7, len(found))))
    num_false = rng.poisson(count * 0.25 * np.exp(-0.5 * ease))
    logits = np.concatenate([rng.normal(1 + 3 * (iou - 0.5) + 0.3 * ease, 1), rng.normal(-0.3, 1, num_false)])
    order = np.argsort(-logits, kind="stable")
    scores = (1 / (1 + np.exp(-logits[order]))).astype(np.float32)
    place = np.argsort(order)[: len(found)]  # of each found instance's prediction in the ranking
    rows = np.argsort(place)
    mask_pairs = Pairs(place[rows], found[rows], iou[rows], 100 * iou[rows])
    nothing = np.zeros(0, dtype=np.int64)
    return ScoredImage(
        image_id=number,
        name=str(number),
        truth=make_table(np.ones(count, dtype=np.float32)),
        predictions=make_table(scores),
        mask_pairs=mask_pairs,
        box_pairs=Pairs(nothing, nothing, np.zeros(0), np.zeros(0)),
        num_shown=int((scores >= 0.5).sum()),
        num_found=len(scores),
        max_detections=None,
        foreground=100 * count,
        mask_boxes=np.zeros((len(scores), 4), dtype=np.float32),
    )


def make_table(scores: np.ndarray) -> Table:
    num = len(scores)
    areas, boxes = np.full(num, 100), np.zeros((num, 4), dtype=np.float32)
    return Table(np.ones(num, dtype=np.int64), scores, boxes, areas, np.zeros(num, dtype=bool))


def draw_rows(rng: np.random.Generator, kind: str, number: int) -> tuple[list[int], list[str]]:
    """Images of the population, and the group that each belongs to."""
    if kind == "images":
        rows = rng.integers(0, NUM_GROUPS * GROUP_SIZE, number)
        return rows.tolist(), [str(row) for row in range(number)]
    groups = np.repeat(rng.integers(0, NUM_GROUPS, number), GROUP_SIZE)
    rows = groups * GROUP_SIZE + np.tile(np.arange(GROUP_SIZE), number)
    return rows.tolist(), [str(place // GROUP_SIZE) for place in range(len(rows))]


def tally_images(images: list[ScoredImage]) -> tuple[Tally, RankedPredictions]:
    """The tally without what AP needs, and that apart for IoU 0.5 alone, which saves nine tenths of the time."""
    tally = make_tally(images, (Category(1, "cell"),))
    ranked = tally.ranked["mask"][0]
    at_50 = replace(ranked, is_match=ranked.is_match[:1], is_ignored=ranked.is_ignored[:1])
    nothing = replace(ranked, num_positives=np.zeros_like(ranked.num_positives))
    return replace(tally, ranked={"mask": [nothing], "box": [nothing]}), at_50


def compute_differences(tallies: list[tuple[Tally, RankedPredictions]], weights: np.ndarray) -> dict[str, np.ndarray]:
    """The second model's score minus the first's, of each draw."""
    ap50 = [compute_average_precision([at_50], weights)[:, 0, 0] for _, at_50 in tallies]
    first, second = (tally.compute(weights) for tally, _ in tallies)
    return {"AP50": ap50[1] - ap50[0], **{name: second[path] - first[path] for name, path in NAMES.items()}}


if __name__ == "__main__":
    main()
