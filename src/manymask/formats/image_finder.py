"""Where the images are that annotations name."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from manymask.errors import DatasetError
from manymask.formats.label_names import fold_stem
from manymask.imaging.files import IMAGE_SUFFIXES, is_hidden, make_key

# Label Studio puts eight hexadecimal digits before the names of images that are uploaded.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")


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
        """The image that a file of annotations names, and whether it lies where that says, if it says where.

        Exports of other machines give paths of theirs, or web addresses: then the last parts of the path are looked
        for, the longest first, and at last the file's name anywhere in the data folder, without regard to upper case,
        and without the prefix that Label Studio gives to uploads. A name without ending, or with that of another kind
        of image, stands for the one image of that name where the file says or where tools put images.

        Raises:
            DatasetError: There is no such file in the data folder, or more than one of that name.
        """
        if (path := self._look(file_name)) is not None:
            return path, True
        address = strip_address(file_name)
        has_no_place = file_name.startswith("/data/")  # Label Studio's own addresses say nothing of where a file lies
        for name in dict.fromkeys((address, file_name, unquote(file_name))):
            parts = PureWindowsPath(name).parts  # splits at both kinds of slash
            for first in range(len(parts)):
                if (path := self._look("/".join(parts[first:]))) is not None:
                    return path, has_no_place
        base = PureWindowsPath(address).name
        found = self._by_name.get(_fold(base), []) or self._by_name.get(_fold(_UPLOAD_PREFIX.sub("", base)), [])
        if not found:
            has_ending = Path(base).suffix.lower() in IMAGE_SUFFIXES
            # The name as it is may be a stem, too, as of p.jpg.tif and of names with a per cent sign.
            stems = (PureWindowsPath(file_name).name, Path(base).stem if has_ending else base)
            named_alike = next(filter(None, (self._by_stem.get(_fold(stem)) for stem in stems)), [])
            above = [folder.as_posix() for folder in PureWindowsPath(address).parents]
            # Where tools put images, or where the file says; elsewhere an image of that name may be its mask.
            for folder in [place / part for place in self.places for part in ("", *above)]:
                if len(here := [path for path in named_alike if path.parent == folder]) == 1:
                    return here[0], not has_ending
            found = [] if has_ending else named_alike
        if len(found) == 1:
            return found[0], has_no_place
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
    def images(self) -> list[Path]:
        """All image files in the data folder, hidden ones aside."""
        found: list[Path] = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not is_hidden(Path(name)))
            paths = (Path(folder, name) for name in sorted(names))
            found += [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path)]
        return found

    @cached_property
    def _by_place(self) -> dict[str, list[Path]]:
        return _group(self.images, lambda path: make_key(os.path.abspath(path)))

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _group(self.images, lambda path: _fold(path.name))

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return _group(self.images, lambda path: fold_stem(path.name)) | _group(
            self.images, lambda path: _fold(path.stem)
        )

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


def strip_address(name: str) -> str:
    """The path in a web address, without what is asked for; of Label Studio's local files that is the path itself."""
    path, _, query = name.partition("?")
    if query.startswith("d="):
        return unquote(query[2:])
    return unquote(path if "://" in path or path.startswith("/") else name)


def _fold(name: str) -> str:
    """A name in the form for comparisons where upper case does not matter."""
    return make_key(name.casefold())


def _group(paths: Sequence[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups
