"""Full memory, which numpy and torch report in several ways."""

import torch

# What torch (2.15) writes into a RuntimeError where memory of a GPU is full; and its DefaultCPUAllocator where that of
# the machine is, on Linux and macOS, and on Windows.
DEVICE_SIGNS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
HOST_SIGNS = ("can't allocate memory", "not enough memory")


def find_full_memory(error: Exception) -> str | None:
    """Which memory an error says is full, in words; None where it says something else."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _has_any(error, HOST_SIGNS)):
        return "memory"
    if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and _has_any(error, DEVICE_SIGNS)):
        return "the device's memory"
    return None


def _has_any(error: Exception, signs: tuple[str, ...]) -> bool:
    return any(sign in str(error) for sign in signs)
