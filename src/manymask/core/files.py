"""Files that are there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from manymask.errors import ManymaskError

_FULL = {errno.ENOSPC: "no space left on the device", errno.EFBIG: "the file-size limit is reached"}
_FULL[errno.EDQUOT] = "the disk quota is used up"


@contextmanager
def replace_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that takes the place of ``path`` only when it is complete and on the disk.

    It is written beside ``path`` and renamed at the end, so that a crash at any moment leaves the old file or the new
    one. Parent folders are made.

    Raises:
        ManymaskError: The disk is full; the message names the file, and the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(
            temporary, mode, encoding=None if "b" in mode else "utf-8", newline="" if "b" not in mode else None
        ) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in _FULL:
            raise ManymaskError(f"cannot write {path}: {_FULL[error.errno]}; make room and run again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
