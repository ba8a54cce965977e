"""Where the images are that annotations name."""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from manymask.errors import DatasetError
from manymask.imaging.files import IMAGE_SUFFIXES, is_hidden, make_key


class ImageFinder:
    """Finds the image files that annotations name, in the data folder and nowhere else.

    Args:
        root: The data folder.
        places: Folders in it that tools put images into, in the order in which they are looked at.
    """

    def __init__(self, root: Path, places: Sequence[Path]) -> None:
        self.root, self.places = root, list(dict.fromkeys(places))

    @classmethod
    def beside(cls, file: Path) -> "ImageFinder":
        """For a file of all annotations; the data folder is its own, or the one above one called ``annotations``."""
        folder = file.parent
        if folder.name != "annotations":
            return cls(folder, [folder / "images", folder])
        root, split = folder.parent, file.stem.removeprefix("instances_")
        above = [base / part for base in (root / "images", root) for part in ("", split)]
        return cls(root, [folder / "images", folder, *above])

    def find(self, file_name: str, listed_by: Path) -> tuple[Path, bool]:
        """The image that a file of annotations names, and whether it lies where that says.

        Exports of other machines give paths of theirs, or web addresses: then the last parts of the path are looked
        for, the longest first, and at last the file's name anywhere in the data folder, without regard to upper case.

        Raises:
            DatasetError: There is no such file in the data folder, or more than one of that name.
        """
        if (path := self._look(file_name)) is not None:
            return path, True
        for name in dict.fromkeys((file_name, unquote(file_name))):
            parts = PureWindowsPath(name).parts  # splits at both kinds of slash
            for first in range(len(parts)):
                if (path := self._look("/".join(parts[first:]))) is not None:
                    return path, False
        base = PureWindowsPath(unquote(file_name)).name
        found = self._by_name.get(_fold(base), [])
        if not found and Path(base).suffix.lower() not in IMAGE_SUFFIXES:
            found = self._by_stem.get(_fold(base), [])
        if len(found) == 1:
            return found[0], False
        raise DatasetError(f"{listed_by} lists the image {file_name}, {self._explain(file_name, base, found)}")

    def _look(self, name: str) -> Path | None:
        """A file in one of the places where tools put images; no name leads out of the data folder."""
        paths = [Path(os.path.normpath(place / name)) for place in self.places]
        root = os.path.abspath(self.root)
        paths = [path for path in paths if Path(os.path.abspath(path)).is_relative_to(root)]
        for path in paths:
            if os.path.isfile(path):  # Path.is_file raises on a name that is too long
                return path
        if not name.isascii():  # the file system may hold it in the other form of Unicode
            for path in paths:
                if found := self._by_place.get(make_key(os.path.abspath(path))):
                    return found[0]
        return None

    @cached_property
    def _images(self) -> list[Path]:
        """All image files in the data folder, hidden ones aside."""
        found: list[Path] = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not is_hidden(Path(name)))
            paths = (Path(folder, name) for name in sorted(names))
            found += [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path)]
        return found

    @cached_property
    def _by_place(self) -> dict[str, list[Path]]:
        return _group(self._images, lambda path: make_key(os.path.abspath(path)))

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _group(self._images, lambda path: _fold(path.name))

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return _group(self._images, lambda path: _fold(path.stem))

    def _explain(self, file_name: str, base: str, found: Sequence[Path]) -> str:
        if found:
            return f"but there are {found[0]} and {found[1]}; give the one that is meant with its folder"
        parts = PureWindowsPath(file_name)
        if ".." in parts.parts or parts.anchor:
            return (
                f"which leads out of the data folder {self.root}, and no {base} is in there; put it there, or move the "
                "file above the images"
            )
        looked = ", ".join(str(place) for place in self.places)
        if near := self._by_stem.get(_fold(Path(base).stem)):
            return f"which is not in {looked}, but {near[0]} is; correct the ending"
        return f"which is not in {looked}; put it there"


def _fold(name: str) -> str:
    """A name in the form for comparisons where upper case does not matter."""
    return make_key(name.casefold())


def _group(paths: Sequence[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups
