"""Finding the files of labels of tools that write one for each image."""

from collections.abc import Sequence
from pathlib import Path

from manymask.core.outputs import drop_outputs
from manymask.imaging.files import is_hidden


def find_label_files(
    root: Path, folders: Sequence[str], suffixes: Sequence[str], *, with_outputs: bool = False
) -> list[Path]:
    """The files with one of some endings in a folder and in those of its folders that have one of some names.

    Args:
        root: The folder.
        folders: Names of folders in it.
        suffixes: Endings of files, in lower case; upper case counts as well.
        with_outputs: Also look into folders in which everything is an output of manymask, as it wrote it.
    """
    places = [root / name for name in folders if (root / name).is_dir()]
    files = (path for place in (root, *(places if with_outputs else drop_outputs(places))) for path in place.iterdir())
    return sorted(
        path for path in files if path.name.lower().endswith(tuple(suffixes)) and not is_hidden(path) and path.is_file()
    )
