"""Objects of any size are seen as large as those in training; a planted detector answers by the scale it is given."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from manymask import load_model
from manymask.errors import PlanError
from manymask.modeling.detections import Detections
from manymask.prediction import Model, object_size, predict
from manymask.prediction.object_size import LARGEST_FACTOR, SMALLEST_FACTOR, FactorChoice, Scaling, split_sizes
from tests.tiny_model import CATEGORIES, make_tiny_plan, write_tiny_model

TRAINED = (6.0, 11.0, 17.0, 24.0, 42.0)
LOWEST, HIGHEST = (6 * 11) ** 0.5, 1.25 * 42


class Planted:
    """Finds those of the planted squares that look 5 to 60 pixels large, as good as they are near to 17."""

    device = torch.device("cpu")

    def __init__(self, boxes, width):
        self.boxes, self.width, self.seen = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), width, []

    def __call__(self, images):
        return [self.find(image) for image in images]

    def find(self, image):
        self.seen.append(image)
        boxes = self.boxes * (image.shape[-1] / self.width)
        sides = boxes[:, 2] - boxes[:, 0]
        scores = torch.exp(-((torch.log(sides / 17) / 3) ** 2))
        order = [row for row in torch.argsort(-scores, stable=True).tolist() if 5 <= sides[row] <= 60]
        masks = torch.ones(len(order), 28, 28)
        return Detections(boxes[order], torch.ones(len(order), dtype=torch.int64), scores[order], masks)

    @property
    def widths(self):
        return [image.shape[-1] for image in self.seen]


def plant(side, shape, pitch=1.6, first=0, count=20):
    """Boxes of squares in rows."""
    step = round(side * pitch)
    places = [(x, y) for y in range(0, shape[0] - side, step) for x in range(0, shape[1] - side, step)]
    return [(x, y, x + side, y + side) for x, y in places[first : first + count]]


def make_model(boxes, shape, trained=TRAINED, **settings):
    settings = {
        "object_size": "auto",
        "score_threshold": 0.5,
        "detections_per_image": 100,
        **settings,
    }
    plan = make_tiny_plan(mask_threshold=0.5, mask_alignment="exact", **settings)
    assert plan.data is not None
    plan = plan.model_copy(update={"data": plan.data.model_copy(update={"object_sizes": trained})})
    return Model(Planted(boxes, shape[1]), plan, CATEGORIES, Path("planted"))


def find(model, shape, **arguments):
    pixels = np.zeros(shape, dtype=np.uint8)
    pixels[::50, ::50] = 255  # windows of one colour are not looked at
    (found,) = predict(model, pixels, **arguments)
    return found


@pytest.mark.parametrize("side", [9, 17, 40, 50])
@pytest.mark.parametrize("shape", [(300, 400), (800, 1600)])
def test_sizes_of_training_stay_bit_for_bit(side, shape):
    """A short image is looked at once only; looks at a long one take a tenth of its pixels together."""
    model = make_model(boxes := plant(side, shape), shape)
    plain = make_model(boxes, shape, object_size=None)
    found, expected = find(model, shape), find(plain, shape)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.runs.start, expected.runs.start)
    *looks, last = model.detector.seen
    assert torch.equal(last, plain.detector.seen[0])
    assert sum(look.shape[-2] * look.shape[-1] for look in looks) <= (0 if shape[1] <= 800 else 0.1 * last[0].numel())


@pytest.mark.parametrize(
    ("side", "shape"), [(80, (500, 600)), (150, (600, 600)), (120, (1200, 1600)), (240, (2000, 3000))]
)
def test_large_objects_are_seen_smaller(side, shape):
    model = make_model(boxes := plant(side, shape), shape)
    found = find(model, shape)
    assert len(found) == len(boxes)
    np.testing.assert_allclose(
        sorted(found.boxes.tolist()), sorted(boxes), rtol=0.005, atol=0.5
    )  # sides are whole pixels
    assert model.detector.widths[-1] / shape[1] == pytest.approx(24 / side, rel=0.25)
    assert sum(model.detector.widths) < (2.5 if shape[1] <= 800 else 0.7) * shape[1]


def test_small_objects_are_seen_larger_as_far_as_memory_goes(monkeypatch):
    shape = (120, 160)
    model = make_model(boxes := plant(6, shape), shape)
    assert len(find(model, shape)) == len(boxes)
    assert model.detector.widths == [160, round(160 * 17 / 6)]
    monkeypatch.setattr(object_size, "LONGEST_SIDE", 200)
    model = make_model(boxes, shape)
    find(model, shape)
    assert model.detector.widths == [160, 200]


def test_what_covers_the_image_is_no_object():
    shape = (200, 200)
    model = make_model([(0, 0, 190, 190)], shape)
    assert len(find(model, shape)) == 0
    assert model.detector.widths == [200, 50, 25]  # and the first one's answer stands


@pytest.mark.parametrize("shape", [(300, 300), (1000, 1200), (1, 1), (5, 7)])
def test_an_image_without_objects_stays_as_it_is(shape, caplog):
    caplog.set_level(logging.INFO, "manymask")
    model = make_model([], shape)
    assert len(find(model, shape)) == 0
    assert shape[1] in model.detector.widths
    assert "image 1: nothing to measure, seen at 1 times its size" in caplog.text


@pytest.mark.parametrize(("shape", "small", "large"), [((400, 600), 12, 60), ((1000, 1400), 25, 110)])
def test_two_sizes_take_two_passes(shape, small, large, caplog):
    caplog.set_level(logging.INFO, "manymask")
    half = (shape[0], shape[1] // 2)
    moved = [(x + half[1], y, x2 + half[1], y2) for x, y, x2, y2 in plant(small, half)]
    model = make_model(boxes := plant(large, half, pitch=1.2, count=4) + moved, shape)
    found = find(model, shape)
    np.testing.assert_allclose(sorted(found.boxes.tolist()), sorted(boxes), atol=0.5)
    assert (np.diff(found.scores) <= 0).all()
    assert "seen at 1 and 0." in caplog.text


def test_debris_leaves_an_image_as_it_is():
    shape = (500, 600)
    boxes = plant(6, (500, 100)) + [(x + 150, y, x2 + 150, y2) for x, y, x2, y2 in plant(40, (500, 450))]
    model = make_model(boxes, shape)
    assert len(find(model, shape)) == len(boxes)
    assert model.detector.widths == [600]


def test_a_given_size_needs_no_looks():
    shape = (600, 800)
    model = make_model(boxes := plant(96, shape), shape, object_size=96)
    assert len(find(model, shape)) == len(boxes)
    assert model.detector.widths == [200]


def test_views_of_tta_are_seen_so_too():
    shape = (600, 800)
    model = make_model(boxes := plant(96, shape), shape, object_size=96, tta=True)
    assert len(find(model, shape, min_score=0.0)) >= len(boxes)
    assert model.detector.widths == [200] * 4 + [250] * 4


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        (1.0, LARGEST_FACTOR),
        (LOWEST - 0.1, 17 / (LOWEST - 0.1)),
        (LOWEST + 0.1, 1),
        (HIGHEST - 0.1, 1),
        (HIGHEST + 0.1, 24 / (HIGHEST + 0.1)),
        (5000.0, SMALLEST_FACTOR),
    ],
)
def test_limits(size, factor):
    assert FactorChoice(TRAINED, LARGEST_FACTOR).choose(size) == pytest.approx(factor)


def test_a_wrong_first_look_is_corrected():
    """At a small size clusters may look like objects; what is found at their size decides."""
    sizes = {1.0: np.full(50, 15.0)}
    looked = []

    def look(factor):
        looked.append(factor)
        return sizes.get(factor, np.full(4, 120.0 if factor < 0.15 else 40.0))

    assert FactorChoice(TRAINED, LARGEST_FACTOR).search(look, (1600, 1600)) == Scaling((1.0,), size=15.0)
    assert looked[0] == pytest.approx(1 / 12)


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], None),
        ([10.0], None),
        ([10.0] * 8, None),
        ([10.0] * 8 + [30.0] * 8, None),
        ([10.0] * 8 + [100.0] * 2, None),
        ([10.0] * 8 + [100.0] * 3, (10, 100)),
        ([8.0, 10.0, 12.0] * 3 + [80.0, 100.0, 120.0] * 3, (10, 100)),
        ([10.0] * 97 + [100.0] * 3, None),
    ],
)
def test_split_sizes(sizes, groups):
    found = split_sizes(np.array(sizes))
    assert found == (None if groups is None else pytest.approx(groups))


def test_a_model_of_before_is_refused(tmp_path):
    path = write_tiny_model(tmp_path / "last.ckpt")
    with pytest.raises(PlanError, match="last.ckpt does not say how large its training objects were"):
        load_model(path, settings={"object_size": "auto"})


@pytest.mark.parametrize("min_size", [{}, {"min_size": 0}])
def test_a_model_that_was_trained_at_min_size_is_refused(tmp_path, min_size):
    """In training each image was resized to it: 20 pixels of one file looked as large as 80 of another."""
    path = write_tiny_model(tmp_path / "last.ckpt", min_size=100)
    load_model(path, settings={"object_size": "none", **min_size})
    with pytest.raises(PlanError, match="last.ckpt was trained with min_size=100, .*; leave object_size out"):
        load_model(path, settings={"object_size": "auto", **min_size})
