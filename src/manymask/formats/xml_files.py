"""XML files of annotation tools, read without entities, which can make a small file fill the memory."""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring, iterparse

from manymask.errors import FormatError
from manymask.formats.label_files import list_files

_HEAD = 4096
# Of a declaration, a comment or a document type, the second character is no letter.
_ROOT_TAG = re.compile(rb"<([A-Za-z_][\w.-]*)")


def read_root_tag(path: Path) -> str | None:
    """The name of a file's outermost element, from its first bytes; None where it is no XML."""
    try:
        with open(path, "rb") as file:
            match = _ROOT_TAG.search(re.sub(rb"<!--.*?-->", b"", file.read(_HEAD), flags=re.DOTALL))
    except OSError:
        return None
    return match[1].decode() if match else None


def read_xml(path: Path) -> Element:
    """The outermost element of a file.

    Raises:
        FormatError: It cannot be read, is not XML, or defines entities.
    """
    with _explain(path):
        return fromstring(path.read_bytes())


def iterate_xml(path: Path, tags: tuple[str, ...]) -> Iterator[Element]:
    """The elements of a file with one of some names, one after another, so that memory holds one at a time.

    Raises:
        FormatError: It cannot be read, is not XML, or defines entities.
    """
    with _explain(path):
        for _, element in iterparse(path, events=("end",)):
            if element.tag in tags:
                yield element
                element.clear()


@contextmanager
def _explain(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, SyntaxError, ValueError, LookupError) as error:
        message = f"{path} is not XML without entities ({error}); it is damaged or cut short: export it again"
        raise FormatError(message) from error


def list_xml(root: Path, tag: str, *, is_deep: bool = False) -> list[Path]:
    """The XML files of a folder, or of those below it too, whose outermost element has a name, and damaged ones.

    None where all are damaged. Those with another element are of another tool.
    """
    tags = {path: read_root_tag(path) for path in list_files(root, ".xml", is_deep=is_deep)}
    return [path for path, found in tags.items() if found in (tag, None)] if tag in tags.values() else []


def to_number(element: Element, name: str) -> float:
    """A number of an element.

    Raises:
        FormatError: It is not there or no finite number.
    """
    text = element.get(name)
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not abs(value) < 2**31:
        raise FormatError(f"has {name} {text!r}, expected a number")
    return value
