import shutil
from pathlib import Path

import pytest

from manymask.training import train
from tests.training.runs import SETTINGS, make_data


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Seven images of 40 x 48 in class folders; training holds out one."""
    return make_data(tmp_path_factory.mktemp("data") / "cells", 7)


@pytest.fixture(scope="session")
def run(data, tmp_path_factory):
    """A finished run of two epochs of three steps. Tests only look at it."""
    path = train(data, output=tmp_path_factory.mktemp("runs") / "run", recipe="baseline", settings=SETTINGS)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def output(tmp_path):
    """A run folder that is removed after the test: checkpoints are large."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
