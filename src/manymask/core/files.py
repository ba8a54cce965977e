"""Files that are there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from manymask.errors import ManymaskError

_CAUSES = {
    errno.ENOSPC: "no space left on the device; make room and run again",
    errno.EDQUOT: "the disk quota is used up; make room and run again",
    errno.EFBIG: "the file-size limit is reached; raise it and run again",
    errno.EACCES: "no permission; choose another place or change the folder's permissions",
    errno.EPERM: "not permitted; choose another place or change the folder's permissions",
    errno.EROFS: "the disk is read-only; choose another place",
    errno.ENOTDIR: "a file is where a folder is needed; choose another place",
    errno.EEXIST: "a file is where a folder is needed; choose another place",
    errno.EISDIR: "a folder is where the file belongs; choose another name",
}


@contextmanager
def replace_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that takes the place of ``path`` only when it is complete and on the disk.

    It is written beside ``path`` and renamed at the end, so that a crash at any moment leaves the old file or the new
    one. Parent folders are made.

    Raises:
        ManymaskError: The disk is full or cannot be written to; names the file, and the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text_options: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with open(temporary, mode, **text_options) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in _CAUSES:
            raise ManymaskError(f"cannot write {path}: {_CAUSES[error.errno]}") from error
        raise
    finally:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)
