"""Reading and writing of JSON files."""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from manymask.core.files import explain_writing, replace_file
from manymask.errors import FormatError


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
    """The value of the content of a JSON file.

    Raises:
        FormatError: It is not JSON; names the file.
    """
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not text in UTF-8 ({error}); unpack it, or save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON ({error}); it is damaged or cut short: export it again") from error


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
        """Add entries."""
        with explain_writing(self._path):
            for entry in entries:
                self._file.write(self._start + json.dumps(entry, allow_nan=False))
                self._start = ", "

    def close(self) -> None:
        """Put the file in place."""
        with self._closing:
            self._file.write("]" if self._start == ", " else "[]")


def write_json(path: Path, data: object) -> None:
    """Write a JSON file, whole or not at all."""
    with replace_file(path, "w") as file:
        json.dump(data, file, allow_nan=False)
