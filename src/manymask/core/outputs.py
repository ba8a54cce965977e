"""Records of the files that manymask wrote: no command overwrites another's or a user's, and readers skip them all.

Each folder that a command writes to holds ``.manymask.json``: for each command the files that it wrote, by their place
in the folder, with a digest of their content. A file that is not in it, or that was changed since, is the user's. So
predictions that somebody has corrected to serve as labels are never lost, and are read as labels.

While a command writes, ``.manymask.<command>.jsonl`` gets the digest of each file before the file is put in place: what
a kill or a full disk leaves is known too.
"""

import hashlib
import json
import logging
import os
from collections.abc import Container, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from manymask.core.files import announce_files, check_writable, explain_writing
from manymask.core.json_files import write_json
from manymask.errors import PlanError
from manymask.wording import list_some

logger = logging.getLogger(__name__)

RECORD_NAME = ".manymask.json"
LOCK_NAME = ".lock"
"""What a run folder holds while its run trains."""

# Digests of files by their path in a folder, with "/" between its parts; None while the file is being written.
_Digests = dict[str, str | None]

# Versions without a record wrote these files: for each command one of them, and a text by which it is recognised.
_OLD_SIGNS = {
    "evaluate": ("evaluation.json", '"per_image"'),
    "compare": ("comparison.json", '"comparisons"'),
    "inspect": ("fingerprint.json", '"neighbor_box_iou"'),
    "report": ("report.html", '<p class="overline">manymask'),
}
# What these versions wrote beside labels and pictures.
_OLD_NAMES = frozenset({
    "comparison.csv", "comparison.json", "comparison.md", "evaluation.json", "findings.json", "fingerprint.json",
    "images.json", "predictions.json", "report.html", "test-results.json", "test-results.zip",
})  # fmt: skip


def check_outputs(folder: Path, command: str, names: Iterable[str]) -> None:
    """Refuse, before any work, to write where that is not possible or would do harm.

    Args:
        folder: The folder of the outputs; it need not exist.
        command: Who writes.
        names: All files that may be written, by their place in the folder.

    Raises:
        PlanError: A file is there and is not as the command wrote it, or a folder below ``folder`` that it writes to,
            such as ``labels``, holds other files.
        ManymaskError: There is no permission, the disk is read-only, or a name is too long.
    """
    records, parts = _read_records(folder), _group_by_folder(names)
    own, is_old = records.get(command, {}), command not in records and _is_old_output(folder, command)
    for part, inside in parts.items():
        with explain_writing(folder / part):
            there = [] if part == "." else [f"{part}/{path.name}" for path in _list_visible(folder / part)]
        for name in sorted({*inside, *there}):
            is_known = _is_unchanged(folder / name, name, own) or (is_old and (name in _OLD_NAMES or part == "curves"))
            if os.path.lexists(folder / name) and not is_known:
                raise PlanError(
                    f"{folder / name} is not as manymask {command} wrote it, so it may be yours and is not "
                    "written over or added to; choose another --output, or move it away"
                )
        check_writable(folder / max(inside, key=lambda name: len(os.fsencode(name))))


@contextmanager
def record_outputs(folder: Path, command: str, names: Iterable[str], *, is_whole: bool = True) -> Generator[None]:
    """Keep the record of the files that are written inside the block, after ``check_outputs``.

    Args:
        folder: The folder of the outputs.
        command: Who writes.
        names: All files that may be written, by their place in the folder.
        is_whole: Whether they replace all that the command wrote there before. That is removed first, so that after a
            kill all files that are left are from one call.
    """
    records, names = _read_records(folder), list(names)
    before = records.get(command, {})
    if is_whole:
        old = [name for name in before if _is_unchanged(folder / name, name, before)]
        for name in old:
            _remove(folder, name)
        if gone := sorted(set(old) - set(names)):
            logger.info(
                f"{folder}: removed what manymask {command} wrote there before and does not write now: "
                f"{list_some(gone)}; to keep such files, choose another --output"
            )
        before = {}
    write_json(folder / RECORD_NAME, records | {command: before | dict.fromkeys(names)})
    notes = _get_notes(folder, command)
    notes.unlink(missing_ok=True)
    places = {os.path.abspath(folder / name): name for name in names}

    def note(temporary: Path, path: Path) -> None:
        if (name := places.get(os.path.abspath(path))) is not None:
            # The line break comes first, as the line before may have been cut short by a full disk.
            with explain_writing(notes), open(notes, "a", encoding="utf-8") as file:
                file.write("\n" + json.dumps([name, _digest(temporary)]))

    try:
        with announce_files(note):
            yield
    finally:
        written = {name: _digest(folder / name) for name in names if (folder / name).is_file()}
        records = _read_records(folder)  # another command may have written its own meanwhile
        before = {} if is_whole else {name: d for name, d in records.get(command, {}).items() if name not in names}
        write_json(folder / RECORD_NAME, records | {command: before | written})
        notes.unlink(missing_ok=True)


def drop_outputs(folders: Sequence[Path]) -> list[Path]:
    """The folders of a data set, without those in which everything is an output of manymask."""
    recorded = {parent: _merge(_read_records(parent)) for parent in {folder.parent for folder in folders}}
    return [folder for folder in folders if not _is_output(folder, _list_below(recorded[folder.parent], folder.name))]


def is_unused(folder: Path) -> bool:
    """Whether a place is free for a new folder: nothing is there, or a folder without anything of the user's."""
    if not os.path.lexists(folder):
        return True
    return folder.is_dir() and all(path.name in (RECORD_NAME, LOCK_NAME) for path in folder.iterdir())


def list_writers(folder: Path) -> dict[str, str]:
    """The command that wrote each file, by its place in a folder; the others are not known."""
    return {name: command for command, digests in _read_records(folder).items() for name in digests}


def _is_output(folder: Path, recorded: _Digests) -> bool:
    """Whether nothing in a folder is the user's; ``recorded`` are its files in the records of folders above it."""
    children = _list_visible(folder)  # first, so that a folder which may not be read is named itself
    if _is_run(folder) or (folder / "experiment.json").is_file():
        return True
    recorded = recorded | _merge(_read_records(folder))
    for path in children:
        if path.is_dir():
            if not _is_output(path, _list_below(recorded, path.name)):
                return False
        elif path.name in _OLD_NAMES or _is_unchanged(path, path.name, recorded):
            continue
        elif recorded.get(path.name, "") is not None:  # None: it is being written, or a kill left it
            return False
    return bool(children) or any((folder / name).exists() for name in (RECORD_NAME, LOCK_NAME))


def _is_run(folder: Path) -> bool:
    """Whether training wrote a folder: its plan names the data, unlike one that ``manymask plan`` wrote."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return json.loads((folder / "plan.json").read_bytes())["data"] is not None
    return False


def _is_old_output(folder: Path, command: str) -> bool:
    """Whether a version without records wrote a folder with this command."""
    name, sign = _OLD_SIGNS.get(command, ("", ""))
    with suppress(OSError, UnicodeDecodeError):
        return bool(name) and sign in (folder / name).read_text(encoding="utf-8")
    return False


def _is_unchanged(path: Path, name: str, digests: _Digests) -> bool:
    """Whether a file is as it was recorded under a name.

    One without a digest, of a version that noted none before a kill, may have been corrected since.
    """
    return digests.get(name) is not None and path.is_file() and digests[name] == _digest(path)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _list_visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _group_by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(Path(name).parent.as_posix(), []).append(name)
    return parts


def _list_below(digests: _Digests, part: str) -> _Digests:
    """The recorded files of one subfolder, by their place in it."""
    return {name.removeprefix(f"{part}/"): d for name, d in digests.items() if name.startswith(f"{part}/")}


def _merge(records: dict[str, _Digests]) -> _Digests:
    return {name: digest for digests in records.values() for name, digest in digests.items()}


def _remove(folder: Path, name: str) -> None:
    """Remove a file, and its subfolder of ``folder`` if that is empty then."""
    (folder / name).unlink()
    if (parent := (folder / name).parent) != folder:
        with suppress(OSError):  # others are in it
            parent.rmdir()


def _read_records(folder: Path) -> dict[str, _Digests]:
    """For each command the files that it wrote to a folder.

    Raises:
        PlanError: The record is damaged, or names files outside of the folder.
    """
    path = folder / RECORD_NAME
    try:
        records: Any = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:
        records = None
    root = os.path.abspath(folder)
    try:
        places = [os.path.abspath(folder / name) for digests in records.values() for name, _ in digests.items()]
    except (AttributeError, TypeError):
        places = [""]
    if not all(place.startswith(os.path.join(root, "")) for place in places):
        raise PlanError(f"{path} is not as manymask wrote it; remove it, and the files beside it are taken for yours")
    for command, digests in records.items():
        digests.update(_read_notes(folder, command, digests))
    return records


def _get_notes(folder: Path, command: str) -> Path:
    return folder / f".manymask.{command}.jsonl"


def _read_notes(folder: Path, command: str, names: Container[str]) -> Iterator[tuple[str, str]]:
    """What a command that has not ended noted of its files, of those that the record names."""
    with suppress(OSError):
        for line in _get_notes(folder, command).read_bytes().splitlines():
            with suppress(ValueError):  # cut short
                name, digest = json.loads(line)
                if name in names:
                    yield name, digest
