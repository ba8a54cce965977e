import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from manymask.errors import CheckpointError, DatasetError, PlanError
from manymask.evaluation import evaluate
from manymask.modeling import catalogue
from manymask.modeling.build import build_model
from manymask.modeling.checkpoint import CHECKPOINT_KEY, read_state_dict, write_checkpoint
from manymask.prediction import (
    find_checkpoint,
    load_model,
    predict,
)
from manymask.training.setup import read_start
from tests.prediction.scenes import assert_same_instances, make_pixels, predict_one
from tests.tiny_model import CATEGORIES, SETTINGS, make_tiny_plan, ship

pytestmark = pytest.mark.filterwarnings("ignore:.*cap of 12")  # the tiny model finds something everywhere


def test_model_of_a_run_folder(run, model):
    assert model.source == run / "best.ckpt"
    assert model.categories == CATEGORIES
    assert model.plan.score_threshold == SETTINGS["score_threshold"]
    assert not model.detector.network.training


def test_best_checkpoint_goes_before_last_and_a_file_is_itself(tmp_path):
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    last.touch()
    assert find_checkpoint(tmp_path) == last
    best.touch()
    assert find_checkpoint(tmp_path) == best
    assert find_checkpoint(last) == last


def test_no_checkpoint(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(CheckpointError, match=r"a.png is an image, not a model; the model comes first"):
        find_checkpoint(tmp_path / "a.png")
    with pytest.raises(
        CheckpointError, match=r"a run folder, a checkpoint or an exported model at .*none, found nothing"
    ):
        load_model(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"found a folder without best\.ckpt, last\.ckpt and model\.json"):
        load_model(tmp_path)


def test_a_file_that_is_not_ours(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"other\.ckpt is not a checkpoint of manymask's"):
        load_model(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"other\.ckpt is cut short"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_dict": {}}, "does not fit the architecture"),
        ({CHECKPOINT_KEY: {"plan": make_tiny_plan().model_copy(update={"data": None}).model_dump()}}, "which classes"),
        ({CHECKPOINT_KEY: {}}, "is not a checkpoint of manymask's"),
    ],
    ids=["weights", "classes", "plan"],
)
def test_a_checkpoint_that_lacks_something(tmp_path, changes, message):
    content = {CHECKPOINT_KEY: {"plan": make_tiny_plan().model_dump(mode="json")}, "state_dict": {}}
    write_checkpoint(content | changes, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_scor": 0.1}, "there is no setting 'min_scor'; did you mean 'min_score'?"),
        ({"source": "x"}, "there is no setting 'source'"),
        ({"epochs": 3}, "epochs is fixed by training; at prediction one can set device, crowd_as_objects, detections"),
        ({"min_score": 2}, "min_score is 2"),
        ({"device": "gpu"}, "device is 'gpu', expected auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "device is cuda:99, but torch sees"),
    ],
)
def test_wrong_settings(run, settings, message):
    with pytest.raises(PlanError) as error:
        load_model(run, settings=settings)
    assert message in str(error.value)


@pytest.mark.filterwarnings("ignore:.*cap of 3")
def test_settings_act(run, model):
    found = predict_one(model, make_pixels())
    median = float(np.median(found.scores))
    assert_same_instances(predict_one(load_model(run, settings={"detections_per_image": 3}), make_pixels()), found[:3])
    high = predict_one(load_model(run, settings={"min_score": str(median)}), make_pixels())
    assert_same_instances(high, found[found.scores > median])
    # What is cut in JSON and AP does not depend on what is shown.
    assert_same_instances(predict_one(load_model(run, settings={"score_threshold": 1}), make_pixels()), found)
    assert load_model(run, settings={"detections_per_image": "auto"}).plan.max_detections == 135  # 1.5 x 90


class TestShipped:
    @pytest.fixture
    def name(self, run, tmp_path, monkeypatch):
        ship(run / "best.ckpt", tmp_path, "tiny")
        monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
        monkeypatch.chdir(tmp_path)
        return "tiny"

    def test_by_name(self, name, model):
        loaded = load_model(name)
        assert loaded.categories == model.categories
        assert loaded.source.name == "tiny.safetensors"
        (plain,), (found,) = (predict(m, make_pixels(), min_score=0.0) for m in (model, loaded))
        assert abs(len(found) - len(plain)) <= 2  # weights in half precision

    def test_a_run_of_that_name_comes_first(self, name, run):
        shutil.copytree(run, "tiny")
        assert load_model(name).source == Path("tiny/best.ckpt")

    def test_a_folder_of_that_name_is_no_run(self, name):
        Path("tiny").mkdir()
        assert load_model(name).source.name == "tiny.safetensors"

    def test_names_are_listed(self, name):
        with pytest.raises(
            CheckpointError,
            match=r"the name of a shipped model \(tiny\), a run folder, a checkpoint or an exported model at none",
        ):
            load_model("none")

    def test_as_starting_weights(self, name):
        assert read_start(name).backbone == SETTINGS["backbone"]
        network = build_model(3, settings={**SETTINGS, "weights": name})
        expected = read_state_dict(Path("tiny.safetensors"))
        assert all(torch.equal(v, expected[n].to(v.dtype)) for n, v in network.state_dict().items())

    def test_evaluating_needs_data(self, name):
        with pytest.raises(
            DatasetError, match="tiny is a shipped model, which holds no images to score on; give the data"
        ):
            evaluate(name)
