"""``edits.jsonl``: a line for each act, on the disk before it is answered; lines are added only."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manymask.core.files import explain_writing
from manymask.errors import FormatError

LOG_NAME = "edits.jsonl"

_APPENDING = threading.Lock()


class EditLog:
    """The acts on one image, read by the places of their lines, so that memory holds none of them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: dict[str, Any]) -> int:
        """Add a line, and return its place when it is on the disk.

        Raises:
            ManymaskError: The disk is full or cannot be written to; no line was added.
        """
        line = json.dumps(entry, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with _APPENDING, explain_writing(self.path):
            is_new = not self.path.exists()
            with open(self.path, "r+b" if not is_new else "x+b", buffering=0) as file:
                place = _find_end(file)
                file.truncate(place)  # what a kill left of a line
                file.seek(place)
                try:
                    written = 0
                    while written < len(line):
                        written += file.write(line[written:]) or 0
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(place)
                    raise
            if is_new:
                sync_folder(self.path.parent)
        return place

    def read(self, place: int) -> dict[str, Any]:
        """The line at a place."""
        with open(self.path, "rb") as file:
            file.seek(place)
            return json.loads(file.readline())

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """All lines with their places; a last one that a kill cut short is left out.

        Raises:
            FormatError: A line is damaged; names it.
        """
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            place = 0
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield place, json.loads(line)
                except ValueError as error:
                    raise FormatError(
                        f"line {number} of {self.path} is damaged ({error}); mend it from a backup, or remove it and "
                        "the lines below, which undoes what they did"
                    ) from error
                place += len(line)


def _find_end(file: Any) -> int:
    """Where the last whole line ends."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(end - (1 << 16), 0)
        file.seek(begin)
        place = file.read(end - begin).rfind(b"\n")
        if place >= 0:
            return begin + place + 1
        end = begin
    return 0


def sync_folder(folder: Path) -> None:
    """Put the names of new files on the disk; Windows does so by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
