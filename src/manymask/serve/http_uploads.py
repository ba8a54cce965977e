"""Multipart bodies, written to the disk part by part as they come."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from manymask.core.files import explain_writing
from manymask.serve.refusals import Refusal
from manymask.serve.workspace import clean_name

FILE_NAME = "upload"
"""Uploaded files are called so, whatever their senders call them."""


@dataclass(eq=False)
class Upload:
    """A file that came with a request.

    Attributes:
        name: What its sender calls it, for people only.
        path: Where it is.
    """

    name: str
    path: Path


@dataclass(eq=False)
class _Part:
    """A part of the body while it comes."""

    headers: dict[str, bytes] = field(default_factory=dict)
    header_name: bytes = b""
    header_value: bytes = b""
    file: IO[bytes] | None = None


async def receive_files(request: Request, field_name: str, most: int, make_place: Callable[[], Path]) -> list[Upload]:
    """Write the files of a multipart body to the disk; parts that are no files are passed over.

    Args:
        request: The request.
        field_name: The field that files are taken of.
        most: Files at most.
        make_place: Gives a new folder for each file.

    Raises:
        Refusal: It is no multipart body, is cut short, or holds no file or too many.
        ManymaskError: The disk is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Refusal(415, f"expected a body of multipart/form-data with files in the field {field_name!r}")
    receiver = _Receiver(field_name, most, make_place)
    parser = MultipartParser(boundary, receiver.callbacks())  # pyright: ignore[reportArgumentType]
    try:
        async for chunk in request.stream():
            # Written in another thread, so that a slow disk holds up nobody else.
            await run_in_threadpool(receiver.feed, parser, chunk)
        parser.finalize()
    except FormParserError as error:
        raise Refusal(400, "the multipart body is damaged; send it again") from error
    finally:
        receiver.close()
    if not receiver.is_whole:
        raise Refusal(400, "the multipart body is cut short; send it again")
    if not receiver.uploads:
        raise Refusal(422, f"the body holds no file; send images in the field {field_name!r}")
    return receiver.uploads


class _Receiver:
    """Takes what the parser finds."""

    def __init__(self, field_name: str, most: int, make_place: Callable[[], Path]) -> None:
        self.field_name, self.most, self.make_place = field_name, most, make_place
        self.uploads: list[Upload] = []
        self.is_whole = False
        self._part = _Part()

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_name,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._write,
            "on_part_end": self.close,
            "on_end": self._end,
        }

    def feed(self, parser: MultipartParser, chunk: bytes) -> None:
        """Parse a piece of the body."""
        parser.write(chunk)

    def close(self) -> None:
        """End the file that is being written."""
        if self._part.file is not None:
            with explain_writing(self.uploads[-1].path):
                self._part.file.close()
            self._part.file = None

    def _begin(self) -> None:
        self._part = _Part()

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _end_header(self) -> None:
        self._part.headers[self._part.header_name.decode("latin-1").lower()] = self._part.header_value
        self._part.header_name = self._part.header_value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._part.headers.get("content-disposition", b""))
        name = options.get(b"filename")
        if name is None or options.get(b"name", b"").decode("latin-1") != self.field_name:
            return
        if len(self.uploads) >= self.most:
            raise Refusal(413, f"there are more than {self.most} files in one request; send fewer at a time")
        folder = self.make_place()
        path = folder / FILE_NAME
        with explain_writing(path):
            self._part.file = open(path, "wb")  # noqa: SIM115 - closed at the end of the part
        self.uploads.append(Upload(clean_name(name.decode("utf-8", "replace")), path))

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._part.file is not None:
            with explain_writing(self.uploads[-1].path):
                self._part.file.write(data[start:end])

    def _end(self) -> None:
        self.is_whole = True
