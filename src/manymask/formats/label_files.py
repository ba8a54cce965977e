"""Finding the files of labels of tools."""

from collections.abc import Sequence
from pathlib import Path

from manymask.core.outputs import drop_outputs
from manymask.imaging.files import is_hidden


def list_files(root: Path, suffix: str, *, is_deep: bool = False) -> list[Path]:
    """The files of a folder, or of those below it too, with an ending; a file itself, if it has that.

    Upper case of the ending counts as well; hidden files and folders are ignored.
    """
    paths = [root] if root.is_file() else root.rglob("*") if is_deep else root.glob("*")
    files = (path for path in paths if path.suffix.lower() == suffix and path.is_file())
    return sorted(path for path in files if not any(map(is_hidden, _list_places(root, path))))


def _list_places(root: Path, path: Path) -> list[Path]:
    """A file and the folders between it and another one."""
    return [path, *(folder for folder in path.parents if folder != root and folder.is_relative_to(root))]


def find_label_files(
    root: Path, folders: Sequence[str], suffixes: Sequence[str], *, with_outputs: bool = False
) -> list[Path]:
    """The files with one of some endings in a folder and in those of its folders that have one of some names.

    Args:
        root: The folder, or a file itself.
        folders: Names of folders in it.
        suffixes: Endings of files, in lower case; upper case counts as well.
        with_outputs: Also look into folders in which everything is an output of manymask, as it wrote it.
    """
    inner = [root / name for name in folders if (root / name).is_dir()]
    places = [root, *(inner if with_outputs else drop_outputs(inner))]
    files = [root] if root.is_file() else [path for place in places for path in place.iterdir()]
    return sorted(
        path for path in files if path.name.lower().endswith(tuple(suffixes)) and not is_hidden(path) and path.is_file()
    )
