from pathlib import Path

import pytest

from manymask.formats import write_class_folder
from manymask.synthetic import make_categories, make_sample


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """Two labelled images."""
    folder = tmp_path_factory.mktemp("cells")
    for index in range(2):
        pixels, found = make_sample(index, size=(40, 40), num_instances=3, num_classes=2)
        write_class_folder(folder, f"{index:04d}", pixels, found, make_categories(2))
    return folder
