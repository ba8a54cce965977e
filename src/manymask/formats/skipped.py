"""Files that a reader passes over although a user may have meant them as images."""

import os
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path

from manymask.core.dataset import Problem
from manymask.core.outputs import drop_outputs
from manymask.imaging.files import CLASS_FILE, IMAGE_SUFFIXES, LABEL_STEM, is_hidden
from manymask.wording import list_some

# Endings of tables, notes, settings, pages, programs, archives and weights, which lie beside images everywhere.
_SIDECARS = (
    *(".json", ".jsonl", ".geojson", ".csv", ".tsv", ".txt", ".md", ".rst", ".xml", ".yaml", ".yml", ".toml", ".ini"),
    *(".cfg", ".log", ".html", ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".ppt", ".pptx", ".py"),
    *(".ipynb", ".m", ".r", ".ijm", ".cpproj", ".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".md5", ".sha256"),
    *(".db", ".ckpt", ".pt", ".pth", ".safetensors", ".roi"),
)
# Entries of a folder that are looked at to tell whether it holds images.
_MAX_LOOKED_AT = 2000


def find_skipped(folders: Iterable[Path], used: Collection[Path]) -> Problem | None:
    """What lies in the folders that were read, but was not read: files that may be images, broken links, subfolders.

    Labels of images that were read, tables and the like belong to a layout and are not counted, nor are outputs of
    manymask's own.

    Args:
        folders: The folders that a reader listed.
        used: The files that it took.

    Returns:
        A warning that counts and names them; None where there is nothing of note.
    """
    taken = {os.path.abspath(path) for path in used}
    read = {os.path.abspath(folder) for folder in folders}
    # Folders on the way to one that was read are no subfolders that were passed over.
    on_the_way = {str(parent) for folder in read for parent in (Path(folder), *Path(folder).parents)}
    stems = {Path(path).stem for path in taken}
    root = Path(os.path.commonpath(read))
    skipped: list[str] = []
    for folder in sorted(read):
        for entry in sorted(Path(folder).iterdir()):
            name = str(entry.relative_to(root))
            if str(entry) in taken or is_hidden(entry):
                continue
            if entry.is_dir():
                if str(entry) not in on_the_way and drop_outputs([entry]) and _holds_images(entry):
                    skipped.append(f"{name}{os.sep} (a subfolder)")
            elif not entry.exists():
                skipped.append(f"{name} (a broken link)")
            elif entry.suffix.lower() not in ("", *_SIDECARS) and not _is_label_of(entry, stems):
                skipped.append(name)
    if not skipped:
        return None
    count = "1 file or folder was" if len(skipped) == 1 else f"{len(skipped)} files or folders were"
    return Problem(
        "skipped-files",
        "warning",
        f"{count} passed over in {root}: {list_some(skipped)}; images are read as {', '.join(IMAGE_SUFFIXES)}, "
        "directly in their folder: save them so, or move these away",
        root,
    )


def _is_label_of(path: Path, stems: Collection[str]) -> bool:
    """Whether a file is of the layout: of a class, or named after an image that was read."""
    match = LABEL_STEM.fullmatch(path.stem)
    owner = match["stem"] if match else path.stem.removesuffix("_seg")  # Cellpose's masks, flows and settings
    return bool(CLASS_FILE.fullmatch(path.name)) or (owner != path.stem and owner in stems)


def _holds_images(folder: Path) -> bool:
    """Whether a folder holds image files, at any depth; of a very large one only the first entries are looked at."""
    files = (name for _, _, names in os.walk(folder) for name in names)
    return any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in islice(files, _MAX_LOOKED_AT))
