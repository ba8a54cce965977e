"""Training and prediction on a CUDA device."""

import numpy as np
import pytest
import torch

from manymask.prediction import load_model, predict
from manymask.training import train
from tests.training.runs import SETTINGS, find_differences, load_checkpoint, read_rows

pytestmark = pytest.mark.gpu
CUDA = SETTINGS | {"device": "cuda", "precision": "fp16", "deterministic": True}


@pytest.fixture(autouse=True, scope="module")
def cuda(require):
    require("gpu", torch.cuda.is_available())


@pytest.fixture(autouse=True)
def leave_determinism():
    """Lightning turns it on for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


def test_fp16_scaler_is_restored_by_a_resume(data, output):
    train(data, output=output, recipe="baseline", settings=CUDA)
    assert [row["epoch"] for row in read_rows(output)] == ["1", "2"]
    (output / "last.ckpt").rename(output / "expected.ckpt")
    train(resume=output / "checkpoints" / "epoch_001.ckpt")
    expected, last = (load_checkpoint(output / name) for name in ("expected.ckpt", "last.ckpt"))
    assert last["MixedPrecision"] == expected["MixedPrecision"]
    assert find_differences(output / "expected.ckpt", output / "last.ckpt") == []


def test_deterministic(data, output):
    for name in ("first", "second"):
        train(data, output=output / name, recipe="baseline", settings=CUDA | {"epochs": 1})
    assert find_differences(output / "first" / "last.ckpt", output / "second" / "last.ckpt") == []


def test_predict(run):
    model = load_model(run, device="cuda", settings={"min_score": 0.0})
    pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    (instances,) = predict(model, pixels)
    assert model.detector.device.type == "cuda"
    assert instances.size == (40, 48)
    assert len(instances) <= SETTINGS["detections_per_image"]
