"""What training changes in the process, and gives back to whoever calls it."""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # Lightning sets it for a deterministic run


@contextmanager
def keep_global_state() -> Iterator[None]:
    """Leave generators, torch's deterministic mode, cuDNN's flags and signals as they were found; also a decorator."""
    states = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    is_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    flags = (cudnn.benchmark, cudnn.deterministic)
    workspace = os.environ.get(_CUBLAS)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        with suppress(ValueError):  # not the main thread, so they were not changed
            for number, handler in handlers.items():
                if handler is not None:  # not Python's
                    signal.signal(number, handler)  # Lightning leaves its own for SIGTERM, which then ends nothing
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
        elif torch.cuda.is_initialized():  # by the block: without it, generators would begin with the caller's seed
            torch.cuda.manual_seed_all(torch.initial_seed())
        torch.use_deterministic_algorithms(is_deterministic, warn_only=is_warning)
        cudnn.benchmark, cudnn.deterministic = flags
        if workspace is None:
            os.environ.pop(_CUBLAS, None)
        else:
            os.environ[_CUBLAS] = workspace
