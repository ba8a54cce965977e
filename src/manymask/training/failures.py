"""Errors of a full memory, a full disk and broken loader processes, in words that say what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from manymask.core.memory import DEVICE_SIGNS, HOST_SIGNS
from manymask.errors import ManymaskError, TrainingError

_MEMORY_FULL = "memory is full; lower num_workers, or start a new run with a lower batch_size or crop_size"
# What torch (2.15) writes into a RuntimeError, of which its OutOfMemoryError is a kind, and what it means; the first
# that fits is taken.
_CAUSES = {
    ("shared memory", "</torch_", "Bus error"): (
        "the loader processes ran out of shared memory; lower num_workers (0 needs none), or enlarge /dev/shm"
    ),
    HOST_SIGNS: _MEMORY_FULL,
    DEVICE_SIGNS: (
        "the device's memory is full; start a new run with a lower batch_size (and a higher accumulate), crop_size "
        "or roi_samples"
    ),
    ("exited unexpectedly", "is killed by signal"): (
        "a loader process was ended from outside, most likely because memory is full; lower num_workers and resume"
    ),
}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FROM_LOADER = "in DataLoader worker process"


@contextmanager
def explain_failures() -> Iterator[None]:
    """Turn what a full memory, a full disk or a loader process raises into one line.

    Raises:
        TrainingError: Memory, shared memory or the disk is full; says what to change.
        ManymaskError: What a loader process raised, without its traceback.
    """
    try:
        yield
    except ManymaskError as error:
        if _FROM_LOADER not in str(error):
            raise
        last_line = str(error).strip().splitlines()[-1]  # of the traceback that DataLoader makes the message of
        raise type(error)(last_line.partition(": ")[2]) from error
    except MemoryError as error:
        raise TrainingError(_MEMORY_FULL) from error
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise TrainingError(f"the disk is full ({error}); make room and resume") from error
        raise
    except RuntimeError as error:
        for signs, text in _CAUSES.items():
            if any(sign in str(error) for sign in signs):
                raise TrainingError(text) from error
        raise
