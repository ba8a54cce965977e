"""A detector of another kind takes one class."""

from pathlib import Path

import numpy as np
import pytest
import torch

from manymask.core import Window
from manymask.evaluation import evaluate
from manymask.formats import write_class_folder
from manymask.modeling.detections import Detections
from manymask.modeling.preprocessing import Preprocessing, View
from manymask.prediction import Model, predict, predict_files
from manymask.prediction.views import detect_views, list_views
from manymask.synthetic import make_categories, make_sample
from tests.tiny_model import CATEGORIES, make_tiny_plan


class LeftHalf:
    """Finds one object, the left half of whatever it sees."""

    device = torch.device("cpu")

    def __call__(self, images):
        return [
            Detections(
                torch.tensor([[0.0, 0.0, image.shape[-1] / 2, image.shape[-2]]]),
                torch.tensor([1]),
                torch.tensor([0.9]),
                torch.ones(1, 28, 28),
            )
            for image in images
        ]


def make_model(**settings) -> Model:
    plan = make_tiny_plan(mask_threshold=0.5, mask_alignment="exact", **settings)
    return Model(LeftHalf(), plan, CATEGORIES, Path("left"))


@pytest.fixture
def cells(tmp_path) -> Path:
    write_class_folder(tmp_path / "cells", "a", *make_sample(0, size=(40, 60), num_instances=3), make_categories(1))
    return tmp_path / "cells"


@pytest.mark.parametrize("settings", [{}, {"scale": 1.5}, {"min_size": 64}])
def test_predict(settings):
    (found,) = predict(make_model(**settings), np.zeros((40, 60), dtype=np.uint8))
    assert found.boxes.tolist() == [[0, 0, 30, 40]]
    (mask,) = found.to_masks()
    assert mask[:, :29].all()
    assert not mask[:, 30:].any()


def test_views_see_both_halves():
    (found,) = predict(make_model(tta=True), np.zeros((40, 60), dtype=np.uint8), min_score=0.0)
    assert sorted(round(box[0]) for box in found.boxes.tolist()) == [0, 30]


def test_files_and_scores(cells, tmp_path):
    (labels,) = predict_files(make_model(), cells, tmp_path / "out", formats=["labels"])
    assert [path.name for path in labels.glob("*.tif")] == ["a.tif"]
    assert evaluate(make_model(), cells).num_predictions == 1


@pytest.mark.parametrize(("batch_size", "expected"), [(1, [1] * 8), (3, [3, 1, 3, 1])])
def test_views_of_one_size_go_in_batches(batch_size, expected):
    sizes = []

    class Counting(LeftHalf):
        def __call__(self, images):
            sizes.append(len(images))
            return super().__call__(images)

    views = list_views((40, 60), Preprocessing.of(make_tiny_plan()), tta=True)
    found = list(detect_views(Counting(), torch.zeros(3, 40, 60), views, batch_size))
    assert sizes == expected
    for view, detections in zip(views, found, strict=True):
        left = 30 if view.flips[0] else 0
        torch.testing.assert_close(detections.boxes, torch.tensor([[left, 0.0, left + 30, 40]]))
    assert views[0] == View(Window(0, 0, 40, 60), views[0].preprocessing)
