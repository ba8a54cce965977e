import numpy as np
import pytest

from manymask.core import ONE_CLASS
from manymask.errors import DatasetError
from manymask.evaluation.predictions import OneClassPredictions, open_predictions
from tests.cells import write_cells, write_results


@pytest.fixture
def cells(tmp_path):
    return write_cells(tmp_path / "data", 2)


def test_files_with_classes(cells, tmp_path):
    found = open_predictions(write_results(tmp_path / "a.json", cells), cells)
    assert (found.plan, found.max_detections, found.has_scores, found.describe_reuse()) == (None, None, True, [])
    assert found.categories == cells.categories
    np.testing.assert_array_equal(found.predict(cells[0]).labels, cells[0].to_instances().labels)


def test_classes_are_taken_for_one(cells, tmp_path):
    found = OneClassPredictions(open_predictions(write_results(tmp_path / "a.json", cells), cells))
    assert found.categories == ONE_CLASS
    assert set(found.predict(cells[0]).labels.tolist()) == {1}
    assert found.truth_labels.tolist() == [0, *[1] * len(cells.categories)]
    assert found.path == tmp_path / "a.json"


def test_nothing_is_there(cells, tmp_path):
    with pytest.raises(DatasetError, match="a shipped model's name, a .json file of COCO results or a folder"):
        open_predictions(tmp_path / "none", cells)
