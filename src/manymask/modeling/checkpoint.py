"""Weights and checkpoints on disk. Opening one never runs code: safetensors, or ``torch.load(weights_only=True)``."""

import io
import json
import textwrap
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from manymask.core.files import replace_file
from manymask.errors import CheckpointError
from manymask.modeling.catalogue import EXPORT_FILE

CHECKPOINT_KEY = "manymask"
"""Marks a training checkpoint as ours and holds its plan; weights lie under ``state_dict``, prefix ``network.``,
their moving average, where there is one, under ``average.module.``."""

NETWORK_PREFIX = "network."
AVERAGE_PREFIX = "average.module."
DENSE_PART = "roi_heads.dense_head."
"""A part that is there in training alone."""
EXPORT_FORMAT = 2
"""Of the graphs and of ``EXPORT_FILE``, which holds under ``CHECKPOINT_KEY`` what a checkpoint does."""


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill or a full disk at any moment leaves the old file or the new one.

    Raises:
        ManymaskError: The disk is full.
    """
    buffer = io.BytesIO()  # torch.save into a file hides a full disk behind errors of its own
    torch.save(checkpoint, buffer)
    with replace_file(path) as f:
        f.write(buffer.getbuffer())


def read_checkpoint(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Read a training checkpoint.

    Raises:
        CheckpointError: The file is not there, cut short, or not a checkpoint of manymask's.
    """
    checkpoint = _load(path, device)
    is_ours = isinstance(checkpoint, dict) and isinstance(checkpoint.get(CHECKPOINT_KEY), dict)
    if not (is_ours and "plan" in checkpoint[CHECKPOINT_KEY] and "state_dict" in checkpoint):
        raise CheckpointError(f"{path} is not a checkpoint of manymask's; expected a file that manymask train wrote")
    return checkpoint


def read_exported(path: Path) -> dict[str, Any]:
    """Read what an exported model's ``EXPORT_FILE`` says of it.

    Raises:
        CheckpointError: The file is damaged, or of another version.
    """
    content = _load(path, "cpu")
    own = content.get(CHECKPOINT_KEY) if isinstance(content, dict) else None
    if not isinstance(own, dict) or "plan" not in own or content.get("format") != EXPORT_FORMAT:
        raise CheckpointError(f"{path} is not as this version of manymask exports models; export the model anew")
    return content


def read_training_plan(path: Path) -> Any:
    """The plan that weights were trained with, as it was stored; None where the file is not a checkpoint of ours.

    Raises:
        CheckpointError: The file is not there or cannot be read.
    """
    content = _load(path, "cpu")
    own = content.get(CHECKPOINT_KEY) if isinstance(content, dict) else None
    return own.get("plan") if isinstance(own, dict) else None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read weights with torchvision's keys: a checkpoint of ours, a state dict of ``torch.save``, or safetensors.

    Raises:
        CheckpointError: The file is not there or holds no weights.
    """
    content = _load(path, "cpu")
    if isinstance(content, dict) and CHECKPOINT_KEY in content:
        return strip_prefix(content.get("state_dict", {}))
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]  # torchvision's reference scripts save so
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{path} holds no state dict; expected tensors by name, as torch.save(model.state_dict()) writes"
        )
    return content


def strip_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights of a checkpoint's ``state_dict``, with torchvision's keys; their average if it has one."""
    is_averaged = any(name.startswith(AVERAGE_PREFIX) for name in state)
    prefix = AVERAGE_PREFIX if is_averaged else NETWORK_PREFIX
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _load(path: Path, device: str) -> Any:
    try:
        if path.name == EXPORT_FILE:
            return json.loads(path.read_bytes())
        if path.suffix == ".safetensors":
            return _load_safetensors(path, device)
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"expected weights at {path}, but there is no such file") from error
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file the readers raise about anything
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 120, placeholder=" ...")
        raise CheckpointError(
            f"{path} is cut short or not a weights file ({reason}); use another checkpoint or fetch it anew"
        ) from error


def _load_safetensors(path: Path, device: str) -> dict[str, Any]:
    """Tensors by name; where ``write_model`` wrote the file, as a training checkpoint has them."""
    with safe_open(path, framework="pt", device=device) as file:
        names: list[str] = file.keys()
        state = {name: file.get_tensor(name) for name in names}
        own = (file.metadata() or {}).get(CHECKPOINT_KEY)
    if own is None:
        return state
    return {CHECKPOINT_KEY: json.loads(own), "state_dict": {NETWORK_PREFIX + name: v for name, v in state.items()}}


def write_model(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a training checkpoint's weights and plan as one small safetensors file, which loads as the checkpoint does.

    Weights are stored in fp16, which halves the file; what is of one axis (biases, statistics of BatchNorm, whose
    range may be larger) stays in fp32.

    Args:
        checkpoint: What ``read_checkpoint`` gives.
        path: The file to write.
    """
    state = {
        name: (value.half() if value.ndim > 1 and value.is_floating_point() else value).contiguous()
        for name, value in strip_prefix(checkpoint["state_dict"]).items()
        if not name.startswith(DENSE_PART)
    }
    with replace_file(path) as file:
        file.write(save(state, {CHECKPOINT_KEY: json.dumps(checkpoint[CHECKPOINT_KEY])}))
