"""The objects of an image as files that other tools open."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from manymask.core import Category, ImageSource, Instances
from manymask.core.files import replace_file
from manymask.outputs import OUTPUTS, ImageEntry, close_writers


def write_download(
    folder: Path, kind: str, instances: Instances, categories: Sequence[Category], image: ImageSource, name: str
) -> Path:
    """Write objects in a format of ``OUTPUTS``.

    Args:
        folder: Where to write; empty, or for this image and format alone.
        kind: The format.
        instances: The objects.
        categories: Their classes.
        image: Their image.
        name: What the image's files are called; it has to be fit for that.

    Returns:
        The file; where the format has several, a zip of them.

    Raises:
        ManymaskError: The format needs a package that is not there, or the disk is full or cannot be written to.
        FormatError: The image cannot be read.
    """
    output = OUTPUTS[kind]
    output.check()
    with close_writers([writer := output(folder, [name], categories, 0.0)]):
        writer.write(ImageEntry(1, name, name, image), instances)
    files = [folder / each for each in output.list_files([name]) if (folder / each).is_file()]
    if len(files) == 1:
        return files[0]
    path = folder / f"{name}.{kind}.zip"
    with replace_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in files:
            archive.write(each, each.relative_to(folder).as_posix())
    return path
