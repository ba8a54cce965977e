import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from manymask.errors import CheckpointError
from manymask.modeling.checkpoint import (
    CHECKPOINT_KEY,
    read_checkpoint,
    read_state_dict,
    read_training_plan,
    strip_prefix,
    write_checkpoint,
    write_model,
)

CHECKPOINT = {
    CHECKPOINT_KEY: {"plan": {"epochs": 3}},
    "state_dict": {"network.a": torch.arange(500.0), "metric": torch.zeros(1)},
}


@pytest.fixture
def path(tmp_path):
    write_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def assert_refused(read, path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("stop")


class RunsCode:
    """What a malicious file does: pickle calls any function it names."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestWriteAndRead:
    def test_round_trip(self, path):
        found = read_checkpoint(path)
        assert found[CHECKPOINT_KEY] == {"plan": {"epochs": 3}}
        assert torch.equal(found["state_dict"]["network.a"], torch.arange(500.0))

    def test_only_the_file_is_left(self, path):
        assert os.listdir(path.parent) == ["last.ckpt"]

    def test_failed_write_leaves_the_old_file(self, path):
        before = path.read_bytes()
        with pytest.raises(RuntimeError, match="stop"):
            write_checkpoint({"a": torch.zeros(9), "b": Unpicklable()}, path)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == ["last.ckpt"]

    def test_folders_are_made(self, tmp_path):
        write_checkpoint(CHECKPOINT, tmp_path / "run" / "checkpoints" / "last.ckpt")
        assert read_state_dict(tmp_path / "run" / "checkpoints" / "last.ckpt").keys() == {"a"}

    def test_strip_prefix(self):
        assert strip_prefix(CHECKPOINT["state_dict"]).keys() == {"a"}


@pytest.mark.parametrize("read", [read_checkpoint, read_state_dict])
class TestRefused:
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
    def test_cut_short(self, path, read, share):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        assert_refused(read, path, "cut short or not a weights file")

    def test_missing(self, tmp_path, read):
        assert_refused(read, tmp_path / "none.ckpt", "there is no such file")
        assert_refused(read, tmp_path / "none.safetensors", "there is no such file")

    def test_folder(self, tmp_path, read):
        assert_refused(read, tmp_path, "not a weights file")

    @pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n\x1a\n" + bytes(99), b"\x80\x02J", bytes(range(256))])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_other_files(self, tmp_path, read, content, suffix):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        assert_refused(read, path, "not a weights file")

    def test_code_is_not_run(self, tmp_path, read):
        for name, save in (
            ("a.pth", torch.save),
            ("b.pth", lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))),
        ):
            save({"a": RunsCode(tmp_path / "made")}, tmp_path / name)
            assert_refused(read, tmp_path / name, "not a weights file")
        assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [{"model": {"a": torch.zeros(2)}}, [1, 2], torch.zeros(3)])
def test_not_our_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    assert_refused(read_checkpoint, tmp_path / "other.pth", "not a checkpoint of manymask's")


class TestReadStateDict:
    def test_torch(self, tmp_path):
        torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
        assert read_state_dict(tmp_path / "a.pth")["a"].tolist() == [1, 1]

    def test_old_torch(self, tmp_path):
        torch.save({"a": torch.ones(2)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
        assert read_state_dict(tmp_path / "a.pth")["a"].tolist() == [1, 1]

    def test_safetensors(self, tmp_path):
        save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
        assert read_state_dict(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]

    def test_torchvision_reference_script(self, tmp_path):
        torch.save({"model": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "a.pth")
        assert read_state_dict(tmp_path / "a.pth").keys() == {"a"}

    def test_checkpoint(self, path):
        assert read_state_dict(path).keys() == {"a"}

    @pytest.mark.parametrize("content", [{"a": 1}, [torch.zeros(2)], {"epoch": 3, "weights": {"a": torch.zeros(1)}}])
    def test_no_state_dict(self, tmp_path, content):
        torch.save(content, tmp_path / "a.pth")
        assert_refused(read_state_dict, tmp_path / "a.pth", "holds no state dict")


class TestModel:
    """A small file for a package: what it loads as is what training wrote."""

    @pytest.fixture
    def model(self, tmp_path):
        state = {
            "network.a": torch.arange(6.0).view(2, 3) / 7,
            "network.b": torch.tensor([1e6]),
            "metric": torch.zeros(1),
        }
        own = {"plan": {"epochs": 3}, "score_threshold": 0.6}
        write_model({CHECKPOINT_KEY: own, "state_dict": state}, tmp_path / "m.safetensors")
        return tmp_path / "m.safetensors"

    def test_round_trip(self, model):
        checkpoint = read_checkpoint(model)
        assert checkpoint[CHECKPOINT_KEY] == {"plan": {"epochs": 3}, "score_threshold": 0.6}
        assert set(checkpoint["state_dict"]) == {"network.a", "network.b"}
        assert read_training_plan(model) == {"epochs": 3}

    def test_weights_in_half_precision_but_for_one_axis(self, model):
        """Statistics of BatchNorm may be larger than fp16 holds."""
        state = read_state_dict(model)
        assert (state["a"].dtype, state["b"].dtype) == (torch.float16, torch.float32)
        assert torch.allclose(state["a"].float(), torch.arange(6.0).view(2, 3) / 7, atol=1e-3)
        assert state["b"].item() == 1e6

    def test_foreign_file(self, tmp_path):
        save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
        assert_refused(read_checkpoint, tmp_path / "a.safetensors", "is not a checkpoint of manymask's")

    def test_damaged(self, model):
        model.write_bytes(model.read_bytes()[:-5])
        assert_refused(read_checkpoint, model, "is cut short or not a weights file")
