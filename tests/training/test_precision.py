import pytest
import torch

from manymask.training import train
from manymask.training.run import make_precision
from tests.training.runs import SETTINGS, find_differences, load_checkpoint, read_rows

CPU = torch.device("cpu")


def test_make_precision():
    assert make_precision("fp32", CPU).precision == "32-true"
    assert make_precision("bf16", CPU).precision == "bf16-mixed"
    assert isinstance(make_precision("fp16", CPU).scaler, torch.amp.GradScaler)


def test_fp16_scaler_goes_through_the_checkpoint():
    precision, resumed = (make_precision("fp16", CPU) for _ in range(2))
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], 0.1)
    for factor in (1.0, float("inf"), 1.0, 1.0):
        precision.scaler.scale(weight * factor).backward()
        precision.scaler.step(optimizer)
        precision.scaler.update()
        optimizer.zero_grad()
    resumed.load_state_dict(precision.state_dict())
    resumed.scaler.scale(weight)
    assert (resumed.scaler.get_scale(), resumed.state_dict()["_growth_tracker"]) == (32768, 2)


@pytest.mark.slow
def test_fp16_has_one_scaler_that_a_resume_restores(data, output):
    """The first epoch overflows and so lowers the scale: a scaler made anew would be told by the second epoch."""
    train(
        data,
        output=output,
        recipe="baseline",
        settings=SETTINGS | {"precision": "fp16", "batch_size": 3, "max_steps": 4},
    )
    first, last = (load_checkpoint(output / name) for name in ("checkpoints/epoch_001.ckpt", "last.ckpt"))
    assert last["MixedPrecision"]["scale"] < first["MixedPrecision"]["scale"] < 65536
    (output / "last.ckpt").rename(output / "expected.ckpt")
    train(resume=output / "checkpoints" / "epoch_001.ckpt")
    assert load_checkpoint(output / "last.ckpt")["MixedPrecision"] == last["MixedPrecision"]
    assert find_differences(output / "expected.ckpt", output / "last.ckpt") == []


def test_bf16(data, output):
    train(data, output=output, recipe="baseline", settings=SETTINGS | {"precision": "bf16", "max_steps": 1})
    assert 0 < float(read_rows(output)[0]["loss"]) < 100
    weights = load_checkpoint(output / "last.ckpt")["state_dict"].values()
    assert {value.dtype for value in weights} <= {torch.float32, torch.int64}
