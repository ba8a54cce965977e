"""Reading and writing of JSON files."""

import json
import logging
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from manymask.core.files import explain_writing, replace_file
from manymask.errors import FormatError

logger = logging.getLogger(__name__)

# Up to which JSON is unpacked; lists of numbers take up to some twenty times less room by gzip, zeros a thousand times.
_MAX_RATIO = 200


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FormatError: The file is not there, cannot be read, or is not JSON.
    """
    path = Path(path)
    try:
        return parse_json(path, path.read_bytes())
    except FileNotFoundError as error:
        raise FormatError(f"{path} does not exist; expected a JSON file") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}); expected a JSON file") from error


def parse_json(path: Path, content: bytes) -> Any:
    """The value of the content of a JSON file, which may be compressed by gzip.

    Bytes that are no UTF-8, as older tools on Windows write them, are read as Windows' own coding for Western Europe.

    Raises:
        FormatError: It is not JSON; names the file.
    """
    try:
        content = _unpack(content)
    except (zlib.error, EOFError) as error:
        raise FormatError(f"{path} cannot be unpacked ({error}); unpack it, or copy it again") from error
    try:
        return json.loads(content)
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
    except (ValueError, RecursionError) as error:
        raise FormatError(_explain_damage(path, content.decode("utf-8", "replace"), error)) from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(_explain_damage(path, text, error)) from error
    logger.info(f"{path} is not UTF-8, so it was read as Windows-1252; save it as UTF-8 if names look wrong")
    return value


def _unpack(content: bytes) -> bytes:
    """What gzip compressed, or the content as it is."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    decompressor = zlib.decompressobj(wbits=31)  # 16 + 15: with gzip's header
    unpacked = decompressor.decompress(content, _MAX_RATIO * len(content))
    if not decompressor.eof:
        is_larger = bool(decompressor.unconsumed_tail)
        raise EOFError(f"it holds more than {_MAX_RATIO} times its size" if is_larger else "it is cut short")
    return unpacked


def _explain_damage(path: Path, text: str, error: Exception) -> str:
    """Why a text is not JSON, whose values of interest are all lists and objects."""
    start = text.lstrip("\ufeff").lstrip()[:40]
    if start.startswith(("{", "[")):
        return f"{path} is not JSON ({error}); it is damaged or cut short: export it again"
    return f"{path} is not JSON: it begins with {start!r}; give a JSON file"


class JsonList:
    """A JSON file of a list, written entry by entry; it takes the place of ``path`` when it is closed.

    Its methods raise ``ManymaskError`` where the disk is full or cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._closing, self._start = path, ExitStack(), "["

    @cached_property
    def _file(self) -> IO[str]:
        """Opened when it is first written to, so that making several lists and failing at one leaves nothing behind."""
        return self._closing.enter_context(replace_file(self._path, "w"))

    def extend(self, entries: Iterable[object]) -> None:
        """Add entries; where that fails, the file is dropped, since nobody knows how much of them is in it."""
        with explain_writing(self._path):
            try:
                for entry in entries:
                    self._file.write(self._start + json.dumps(entry, allow_nan=False))
                    self._start = ", "
            except OSError as error:
                self._closing.__exit__(type(error), error, error.__traceback__)
                raise

    def close(self) -> None:
        """Put the file in place, if it was not dropped."""
        with self._closing:
            if not self._file.closed:
                self._file.write("]" if self._start == ", " else "[]")


def write_json(path: Path, data: object) -> None:
    """Write a JSON file, whole or not at all."""
    with replace_file(path, "w") as file:
        json.dump(data, file, allow_nan=False)
