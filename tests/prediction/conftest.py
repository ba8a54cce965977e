from pathlib import Path

import pytest

from manymask.formats import write_class_folder
from manymask.prediction import (
    Model,
    load_model,
)
from manymask.synthetic import make_categories, make_sample
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with a best checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    write_tiny_model(folder / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def model(run) -> Model:
    return load_model(run)


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """Two labelled images."""
    folder = tmp_path_factory.mktemp("cells")
    for index in range(2):
        pixels, found = make_sample(index, size=(40, 40), num_instances=3, num_classes=2)
        write_class_folder(folder, f"{index:04d}", pixels, found, make_categories(2))
    return folder
