"""The objects of an image as files that other tools open."""

import zipfile
from pathlib import Path

from manymask.core.files import replace_file
from manymask.outputs import OUTPUTS, ImageEntry, close_writers
from manymask.serve.changes import Filter
from manymask.serve.objects import ImageObjects


def write_download(
    folder: Path, objects: ImageObjects, image: ImageEntry, kind: str, only: Filter | None = None
) -> Path:
    """Write the objects that are shown, or that a filter lets through, in a format of ``OUTPUTS``.

    Args:
        folder: Where to write; empty, or for this image and format alone.
        objects: The objects.
        image: Their image; its name has to be fit for a file.
        kind: The format.
        only: Which of the objects.

    Returns:
        The file; where the format has several, a zip of them.

    Raises:
        ManymaskError: The format needs a package that is not there, or the disk is full or cannot be written to.
        FormatError: The image cannot be read.
    """
    output = OUTPUTS[kind]
    output.check()
    name = image.name
    with close_writers([writer := output(folder, [name], objects.version.categories, 0.0)]):
        writer.write(image, objects.to_instances(only))
    files = [folder / each for each in output.list_files([name]) if (folder / each).is_file()]
    if len(files) == 1:
        return files[0]
    path = folder / f"{name}.{kind}.zip"
    with replace_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in files:
            archive.write(each, each.relative_to(folder).as_posix())
    return path
