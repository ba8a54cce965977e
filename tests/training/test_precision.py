import torch

from manymask.training import train
from manymask.training.run import make_precision
from tests.training.runs import SETTINGS, find_differences, load_checkpoint, read_rows

CPU = torch.device("cpu")


def test_make_precision():
    assert make_precision("fp32", CPU).precision == "32-true"
    assert make_precision("bf16", CPU).precision == "bf16-mixed"
    assert isinstance(make_precision("fp16", CPU).scaler, torch.amp.GradScaler)


def test_fp16_has_one_scaler_that_a_resume_restores(data, output):
    settings = {"precision": "fp16", "batch_size": 3, "max_steps": 4}
    train(data, output=output, **SETTINGS | settings)
    first, last = (
        load_checkpoint(output / name)["MixedPrecision"] for name in ("checkpoints/epoch_001.ckpt", "last.ckpt")
    )
    # Either a step is counted or, after an overflow, the scale is halved: over the whole run, not anew each epoch.
    assert first["_growth_tracker"] == 2 or first["scale"] < 65536
    assert last["_growth_tracker"] == 4 or last["scale"] < 65536
    (output / "last.ckpt").rename(output / "expected.ckpt")
    train(resume=output / "checkpoints" / "epoch_001.ckpt")
    assert load_checkpoint(output / "last.ckpt")["MixedPrecision"] == last
    assert find_differences(output / "expected.ckpt", output / "last.ckpt") == []


def test_bf16(data, output):
    train(data, output=output, **SETTINGS | {"precision": "bf16", "max_steps": 1})
    assert 0 < float(read_rows(output)[0]["loss"]) < 100
    weights = load_checkpoint(output / "last.ckpt")["state_dict"].values()
    assert {value.dtype for value in weights} <= {torch.float32, torch.int64}
