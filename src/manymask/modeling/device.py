"""Which device and which arithmetic."""

from contextlib import AbstractContextManager, nullcontext

import torch

from manymask.errors import PlanError


def choose_device(name: str) -> torch.device:
    """The device of a setting: ``auto`` is CUDA where there is one.

    Raises:
        PlanError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PlanError(f"device is {name}, but torch sees {torch.cuda.device_count()} CUDA devices; set device=cpu")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """The arithmetic of a setting: ``auto`` is fp16 on CUDA, bf16 on processors with bf16 instructions, else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "fp16"
    return "bf16" if has_bf16_instructions() else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a network computes on a device in the arithmetic of a setting."""
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    chosen = choose_precision(precision, device)
    return torch.autocast(device.type, types[chosen]) if chosen in types else nullcontext()


def has_bf16_instructions() -> bool:
    """Whether the processor multiplies bf16 itself; where it does not, bf16 is slower than fp32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]
