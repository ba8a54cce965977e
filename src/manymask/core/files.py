"""Files that are written whole or not at all, checks of places to write to, and locks that end with their process."""

import errno
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from manymask.errors import DatasetError, ManymaskError

logger = logging.getLogger(__name__)

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

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
    errno.ENAMETOOLONG: "the name is longer than the file system allows; rename the image, or choose another place",
}


@contextmanager
def explain_writing(path: Path) -> Generator[None]:
    """Turn the system's error about a file that cannot be written into one sentence.

    Raises:
        ManymaskError: The disk is full or cannot be written to; names the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _CAUSES:
            raise ManymaskError(f"cannot write {path}: {_CAUSES[error.errno]}") from error
        raise


@contextmanager
def explain_reading() -> Generator[None]:
    """Turn the error about a refused permission into one sentence; also a decorator.

    Raises:
        DatasetError: A file or folder may not be read; names it.
    """
    try:
        yield
    except PermissionError as error:
        raise DatasetError(
            f"{error.filename} cannot be read: no permission; change its permissions, or copy it to another place"
        ) from error


Announce = Callable[[Path, Path], None]
"""Called with a complete temporary file and the place that it is about to take."""
_announcing: list[Announce] = []


@contextmanager
def announce_files(announce: Announce) -> Generator[None]:
    """Call a function before ``replace_file`` puts a file in place, in any thread; if it fails, the file is dropped."""
    _announcing.append(announce)
    try:
        yield
    finally:
        _announcing.remove(announce)


@contextmanager
def replace_file(path: Path, mode: str = "wb") -> Generator[IO[Any]]:
    """Open a file for writing that takes the place of ``path`` only when it is complete and on the disk.

    It is written beside ``path`` and renamed at the end, so that a crash at any moment leaves the old file or the new
    one. Parent folders are made.

    Raises:
        ManymaskError: The disk is full or cannot be written to; names the file, and the old one is untouched.
    """
    # A name of its own for each writer, be it a process or a thread, and short, however long the file's name is.
    temporary = path.with_name(f".{secrets.token_hex(8)}.partial")
    text_options: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with explain_writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, mode, **text_options) as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            for announce in tuple(_announcing):
                announce(temporary, path)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # what went wrong is told already
                temporary.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all."""
    with replace_file(path, "w" if isinstance(content, str) else "wb") as file:
        file.write(content)


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file into another one, which is there whole or not at all."""
    with open(source, "rb") as original, replace_file(target) as copy:
        shutil.copyfileobj(original, copy)


def check_writable(path: Path) -> None:
    """Find out, before any work, whether a file can be written; nothing is left behind.

    Raises:
        ManymaskError: It cannot; names the file.
    """
    folder = path.parent
    with explain_writing(path):
        while not os.path.exists(folder):
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
        with suppress(FileNotFoundError):
            os.lstat(folder / path.name)  # fails for a name that is too long


@contextmanager
def hold_lock(path: Path, conflict: str) -> Generator[None]:
    """Keep other processes from taking the same lock; it ends with its process, however that ends.

    The system drops the lock of a killed process, whose empty file stays and is not in the way. Loader processes that
    are forked and outlive their parent by seconds do not hold it, as they would with ``flock``.

    Args:
        path: The lock's file, in a folder that is there; removed at the end.
        conflict: What to say where another process holds the lock: what that does, and what to do instead.

    Raises:
        ManymaskError: Another process holds the lock, or the file cannot be written.
    """
    descriptor = _open_locked(path, conflict)
    try:
        yield
    finally:
        if sys.platform == "win32":  # where an open file cannot be removed, and so not one that another has locked
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
        else:  # removed while it is locked, so that it is nobody else's
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _open_locked(path: Path, conflict: str) -> int:
    """Open a file and lock it, or fail at once."""
    while True:
        with explain_writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if sys.platform == "win32":
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                os.close(descriptor)
                raise ManymaskError(conflict) from error
            logger.warning(f"this disk has no locks ({error.strerror}): use {path.parent} once at a time")
            return descriptor
        # Between the opening and the lock, the one who held it may have removed the file.
        if sys.platform == "win32" or os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)
