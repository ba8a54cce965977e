import numpy as np
import pytest

from manymask import load_model
from manymask.core import ONE_CLASS
from manymask.errors import DatasetError
from manymask.evaluation import predictions
from manymask.evaluation.evaluating import summarize, view_images
from manymask.evaluation.predictions import OneClassPredictions, open_predictions
from manymask.formats import read_dataset, write_class_folder
from manymask.synthetic import make_categories, make_sample
from tests.cells import copy_truth, write_cells, write_results


@pytest.fixture
def cells(tmp_path):
    return write_cells(tmp_path / "data", 2)


def test_files_with_classes(cells, tmp_path):
    found = open_predictions(write_results(tmp_path / "a.json", cells), cells)
    assert (found.plan, found.max_detections, found.has_scores, found.describe_reuse()) == (None, None, True, [])
    assert found.categories == cells.categories
    np.testing.assert_array_equal(found.predict(cells[0])[0].labels, cells[0].to_instances().labels)


def test_classes_are_taken_for_one(cells, tmp_path):
    found = OneClassPredictions(open_predictions(write_results(tmp_path / "a.json", cells), cells))
    assert found.categories == ONE_CLASS
    assert set(found.predict(cells[0])[0].labels.tolist()) == {1}
    assert found.truth_labels.tolist() == [0, *[1] * len(cells.categories)]
    assert found.path == tmp_path / "a.json"


def test_nothing_is_there(cells, tmp_path):
    with pytest.raises(DatasetError, match="a shipped model's name, a .json file of COCO results or a folder"):
        open_predictions(tmp_path / "none", cells)


@pytest.mark.parametrize("wrap", [lambda source: source, OneClassPredictions])
def test_each_image_has_its_own_cap(tmp_path, monkeypatch, wrap):
    # The second image is seen in two tiles, each of which may have four objects.
    for name, size in {"small": (40, 48), "tiled": (40, 1200)}.items():
        pixels, cells = make_sample(0, seed=0, size=size, num_instances=6, num_classes=2, diameter=10.0)
        write_class_folder(tmp_path, name, pixels, cells, make_categories(2))
    data = read_dataset(tmp_path)
    model = load_model("nuclei", settings={"detections_per_image": 4})
    truths = {str(data[row].path): copy_truth(data[row]).relabel(np.array([0, 1, 1])) for row in range(2)}
    monkeypatch.setattr(predictions, "predict_tensor", lambda model, values, name: truths[name])
    monkeypatch.setattr(predictions, "find_instances", lambda model, loaded, tiling: truths[loaded.name])
    source = wrap(open_predictions(model, data))
    images = [view.scored for view in view_images(source, data)]
    assert [(len(image.predictions), image.num_found, image.max_detections) for image in images] == [
        (4, 6, 4),
        (6, 6, 8),
    ]
    scores = summarize(source, data, images, draws=0)
    assert scores.detections_per_image == 4
    assert any(
        "In 1 of 2 images there are more instances than the cap of 4 detections (small: 6)" in n for n in scores.notes
    )
