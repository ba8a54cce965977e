"""Problems of a file, gathered while it is read."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from manymask.core.dataset import Problem
from manymask.formats.label_files import list_files
from manymask.imaging.files import list_images
from manymask.wording import list_some

# Bytes of a file that tell whose it is.
_HEAD = 1 << 16


def list_json(root: Path, *keys: bytes) -> list[Path]:
    """The JSON files of a folder in whose beginnings all of some patterns are found, so that none is read whole."""
    files = list_files(root, ".json")
    return [path for path in files if all(re.search(key, read_head(path)) for key in keys)]


def read_head(path: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def list_unlabelled(labelled: Collection[Path]) -> list[Path]:
    """Images in the folders of labelled ones that are not among them."""
    folders = sorted({path.parent for path in labelled})
    return [path for folder in folders for path in list_images(folder) if path not in labelled]


@dataclass(frozen=True)
class Reading:
    """What is wrong or unusual in a file or folder of annotations, gathered while it is read.

    Attributes:
        path: The file or folder.
        problems: Entries that are left out.
        unusual: What is read, but is not as its format asks, each with the items that it was seen at.
    """

    path: Path
    problems: list[Problem] = field(default_factory=list)
    unusual: dict[str, list[object]] = field(default_factory=dict)

    def fault(self, kind: str, message: str, image: str | None = None, path: Path | None = None) -> None:
        """Report an entry that is left out; ``path`` is its own file where the annotations lie in several."""
        self.problems.append(Problem(kind, "fault", message, path or self.path, image))

    def note(self, what: str, item: object | None = None) -> None:
        """Report what is read, but is not as its format asks; equal ones become one."""
        self.unusual.setdefault(what, []).extend([] if item is None else [item])

    def note_unlisted(self, listed: Collection[Path]) -> None:
        """Report the images beside those that are listed of which nothing else is said."""
        named = {PurePath(problem.image).stem for problem in self.problems if problem.image}
        for path in list_unlabelled(listed):
            if path.stem not in named:
                self.note("says nothing of images beside the others, which are left out", path.name)

    def list_problems(self) -> tuple[Problem, ...]:
        """All of them."""
        unusual = [
            f"{self.path} {what}" + (f": {list_some(items)}" if items else "") for what, items in self.unusual.items()
        ]
        notes = [Problem("unusual-entries", "note", message, self.path) for message in unusual]
        return (*self.problems, *notes)
