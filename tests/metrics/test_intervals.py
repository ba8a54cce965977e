from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t

from manymask.core import Instances
from manymask.metrics import compute_interval, draw_weights, make_tally, score_image, summarize_scores
from tests.metrics.cases import CAP, CASES, CATEGORIES, EMPTY, make_predictions, make_truth, score


def test_each_draw_holds_as_many_images_as_there_are():
    weights = draw_weights(7, draws=50)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == weights.astype(int)).all()


def test_draws_depend_on_the_seed_alone():
    np.testing.assert_array_equal(draw_weights(9, draws=20, seed=3), draw_weights(9, draws=20, seed=3))
    assert (draw_weights(9, draws=20, seed=3) != draw_weights(9, draws=20, seed=4)).any()


def test_every_image_is_drawn_once_a_draw_on_average():
    assert draw_weights(5, draws=4000).mean(axis=0) == pytest.approx(np.ones(5), abs=0.06)


def test_groups_are_drawn_whole():
    groups = ["b", "a", "b", "c", "a", "b"]
    weights = draw_weights(6, groups, draws=200)
    for name in "abc":
        own = weights[:, [group == name for group in groups]]
        assert (own == own[:, :1]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()  # three groups are drawn, however many images they have


def test_groups_of_one_image_are_images():
    names = [f"{number:02}" for number in range(8)]
    np.testing.assert_array_equal(draw_weights(8, names, draws=30), draw_weights(8, draws=30))


def test_one_image_or_group_gives_no_interval():
    assert compute_interval(np.full(100, 0.5), 1) is None
    images = score(CASES["crowded"])[:3]
    assert summarize_scores(images[:1], CATEGORIES, CAP, draws=20).intervals is None
    one_group = dict.fromkeys(["1", "2", "3"], "slide")
    assert summarize_scores(images, CATEGORIES, CAP, draws=20, groups=one_group).intervals is None
    assert summarize_scores(images, CATEGORIES, CAP).intervals is None


@pytest.mark.parametrize(("num_undefined", "is_defined"), [(0, True), (5, True), (6, False), (100, False)])
def test_an_interval_needs_nearly_all_of_the_draws_to_be_defined(num_undefined, is_defined):
    values = np.linspace(0, 1, 100)
    values[:num_undefined] = np.nan
    assert (compute_interval(values, 30) is not None) == is_defined


def test_undefined_draws_are_left_out():
    values = np.random.default_rng(0).random(1000)
    assert compute_interval(np.append(values, np.full(50, np.nan)), 30) == compute_interval(values, 30)


@pytest.mark.parametrize("seed", range(5))
def test_interval_is_the_expanded_percentile_of_a_direct_bootstrap(seed):
    values = np.random.default_rng(seed).gamma(2, size=12)
    weights = draw_weights(12, draws=3000, seed=seed)
    rows = np.random.default_rng(seed + 100).integers(0, 12, (100_000, 12))
    tail = norm.cdf(np.sqrt(12 / 11) * t.ppf(0.025, 11))
    expected = np.quantile(values[rows].mean(axis=1), [tail, 1 - tail])
    found = compute_interval(weights @ values / 12, 12)
    assert found is not None
    assert found == pytest.approx(expected, abs=0.12 * np.ptp(expected))
    assert found[0] < values.mean() < found[1]


def test_fewer_images_give_a_wider_interval_of_the_same_draws():
    values = np.random.default_rng(0).normal(size=2000)
    widths = [np.ptp(compute_interval(values, num) or (0, 0)) for num in (3, 5, 20, 1000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(2 * norm.ppf(0.975), rel=0.1)


def make_images(seed: int) -> list[tuple[Instances, Instances]]:
    """Images with no two scores alike, since equal scores are ranked by the order of images; one without truth."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(4):
        truth = make_truth(10 * seed + number, int(rng.integers(5, 40)), num_crowds=number % 2)
        found = make_predictions(truth, 10 * seed + number, int(rng.integers(5, 50)))
        pairs.append((truth, found))
    pairs += [(EMPTY, pairs[0][1][:5]), (pairs[1][0], EMPTY), (EMPTY, EMPTY)]
    scores = np.split(
        rng.permutation(sum(len(found) for _, found in pairs)), np.cumsum([len(found) for _, found in pairs])[:-1]
    )
    total = sum(len(own) for own in scores)
    return [
        (truth, replace(found, scores=(own / total).astype(np.float32)))
        for (truth, found), own in zip(pairs, scores, strict=True)
    ]


def repeat_images(pairs: list[tuple[Instances, Instances]], weights: np.ndarray) -> dict:
    """The statistics where each image is really there so many times, each under a number of its own."""
    rows = np.repeat(np.arange(len(pairs)), weights.astype(int))
    images = score([pairs[row] for row in rows])
    return make_tally(images, CATEGORIES).compute()


@pytest.mark.parametrize("groups", [None, ["a", "b", "a", "c", "c", "b", "d"]])
@pytest.mark.parametrize("seed", range(3))
def test_weighted_statistics_are_those_of_repeated_images(seed, groups):
    pairs = make_images(seed)
    weights = draw_weights(len(pairs), groups, draws=3, seed=seed)
    found = make_tally(score(pairs), CATEGORIES).compute(weights)
    for draw, row in enumerate(weights):
        expected = repeat_images(pairs, row)
        assert found.keys() == expected.keys()
        for path, values in expected.items():
            assert found[path][draw] == pytest.approx(values[0], abs=1e-12, nan_ok=True), path


def test_weights_of_one_are_the_estimate():
    tally = make_tally(score(CASES["crowded"]), CATEGORIES)
    weighted, plain = tally.compute(np.ones((2, 6))), tally.compute()
    assert all(weighted[path] == pytest.approx(np.repeat(plain[path], 2), nan_ok=True) for path in plain)


def test_every_headline_number_has_an_interval_that_holds_it():
    pairs = [(truth, make_predictions(truth, i, 40)) for i, truth in enumerate(make_truth(s, 30) for s in range(12))]
    scores = summarize_scores(score(pairs), CATEGORIES, CAP, draws=200)
    intervals = scores.intervals
    assert intervals.model_dump(exclude={"values"}) == {
        "level": 0.95,
        "draws": 200,
        "unit": "image",
        "num_units": 12,
    }
    statistics = make_tally(score(pairs), CATEGORIES).compute()
    assert intervals.values.keys() == {".".join(path) for path in statistics}
    for path, values in statistics.items():
        low, high = intervals.values[".".join(path)]
        assert low - 1e-12 <= values[0] <= high + 1e-12, path


def test_a_perfect_model_has_an_interval_of_no_width():
    truths = [make_truth(seed, 20, num_classes=1) for seed in range(4)]
    values = summarize_scores(score([(t, t) for t in truths]), CATEGORIES, CAP, draws=50).intervals.values
    assert values["mask.AP"] == values["panoptic.PQ"] == values["ap_t.pooled.0.50"] == pytest.approx([1, 1])
    assert values["mask.per_class.class7.AP"] is None  # a class without instances


def test_grouped_images_have_the_interval_of_their_groups():
    pairs = [(truth, make_predictions(truth, i, 30)) for i, truth in enumerate(make_truth(s, 20) for s in range(6))]
    images = [
        score_image(i, truth, found, max_detections=CAP, score_threshold=0.5, name=f"image{i}")
        for i, (truth, found) in enumerate([pair for pair in pairs for _ in range(3)], start=1)
    ]
    groups = {image.name: f"slide{(image.image_id - 1) // 3}" for image in images}
    grouped = summarize_scores(images, CATEGORIES, CAP, draws=300, groups=groups).intervals
    alone = summarize_scores(images, CATEGORIES, CAP, draws=300).intervals
    assert (grouped.unit, grouped.num_units) == ("group", 6)
    # The three images of a slide are the same, so there is no more to learn from all of them than from one.
    assert np.ptp(grouped.values["detection.F1"]) > 1.4 * np.ptp(alone.values["detection.F1"])


def test_a_class_that_one_image_holds_has_no_interval():
    truths = [make_truth(seed, 20, num_classes=1) for seed in range(30)]
    rare = replace(truths[0], labels=np.where(np.arange(20) < 4, 2, 1))
    pairs = [(truth, make_predictions(truth, 1, 30, num_classes=2)) for truth in [rare, *truths[1:]]]
    scores = summarize_scores(score(pairs), CATEGORIES[:2], CAP, draws=200)
    values = scores.intervals.values
    assert values["mask.per_class.class3.AP50"] is None
    assert values["mask.per_class.class2.AP50"] is not None
    assert "Classes that few images hold have no interval, or a rough one: class3 (1)." in scores.notes
