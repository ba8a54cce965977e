from pathlib import Path

import pytest

from manymask.modeling import catalogue
from manymask.modeling.catalogue import FoundModel, find_model, list_shipped, resolve_weights


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("second.safetensors", "first.safetensors", "first.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    return tmp_path


def test_names(folder):
    expected = {"first": folder / "first.safetensors", "second": folder / "second.safetensors"}
    assert list(list_shipped().items()) == list(expected.items())


def test_names_stand_for_files(folder):
    assert resolve_weights("first") == folder / "first.safetensors"
    for path in ("first.safetensors", "./first", "third", "runs/first"):
        assert resolve_weights(path) == Path(path)


def test_models_are_files_runs_or_names(folder, tmp_path):
    (tmp_path / "run").mkdir()
    assert find_model(tmp_path / "run") is None
    for name in ("last.ckpt", "best.ckpt"):
        (tmp_path / "run" / name).touch()
        assert find_model(tmp_path / "run") == FoundModel(tmp_path / "run" / name, is_shipped=False)
    assert find_model(folder / "first.safetensors") == FoundModel(folder / "first.safetensors", is_shipped=False)
    assert find_model("first") == FoundModel(folder / "first.safetensors", is_shipped=True)
    (tmp_path / "predictions.json").touch()
    assert find_model(tmp_path / "predictions.json") is find_model("third") is None


def test_no_models(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path / "none")
    assert list_shipped() == {}
    assert resolve_weights("first") == Path("first")
