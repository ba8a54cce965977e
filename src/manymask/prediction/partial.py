"""Finished tiles of a prediction, kept so that the same command goes on after it was stopped."""

import hashlib
import json
import shutil
import signal
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from manymask.core import Instances, RunLengths
from manymask.core.files import explain_writing, hold_lock, replace_file
from manymask.core.json_files import write_json
from manymask.errors import Interrupted, PlanError

PARTIAL_NAME = ".partial"
"""The folder of finished tiles in the folder of the outputs."""
_IDENTITY_NAME = "identity.json"
# A file that is not there, or that a bad disk damaged, is computed anew.
_DAMAGES = (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile)


class PartialResults:
    """The finished tiles of the images of one call; hidden files beside the outputs, until these are whole.

    Args:
        output: The folder of the outputs.
        settings: All that changes what is found, by the name that a user knows it by.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = output / PARTIAL_NAME, json.loads(json.dumps(settings))

    def check(self, images: Mapping[str, Path]) -> None:
        """Refuse to go on with another model, with other settings or with other images.

        Args:
            images: The file of each image that is seen in tiles, by the name of its results.

        Raises:
            PlanError: The folder holds tiles of another prediction; names what differs.
        """
        if not self.folder.is_dir():
            return
        remedy = f"go on with that, or remove {self.folder} to begin anew"
        found = _read_identity(self.folder)
        differing = [name for name in {**self.settings, **found} if found.get(name) != self.settings.get(name)]
        if differing and found and images:
            name = differing[0]
            what = f"{name} {found.get(name)}, not {self.settings.get(name)}" if name != "model" else "another model"
            raise PlanError(f"{self.folder} holds finished tiles of a prediction with {what}; {remedy}")
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            if folder.name not in images:
                raise PlanError(
                    f"{self.folder} holds finished tiles of {folder.name}, which is not among the images; {remedy}"
                )
            if (found := _read_identity(folder)) and found != {"digest": digest_file(images[folder.name])}:
                raise PlanError(
                    f"{self.folder} holds finished tiles of {folder.name} as it was before {images[folder.name]} was "
                    f"changed; {remedy}"
                )

    @contextmanager
    def hold(self, images: Mapping[str, Path]) -> Iterator[None]:
        """Keep the outputs for this process, and the folder where images need it until the block ends without an error.

        Args:
            images: As in ``check``.

        Raises:
            ManymaskError: Another process works on it.
            Interrupted: Ctrl-C.
        """
        output = self.folder.parent
        with explain_writing(output):
            output.mkdir(parents=True, exist_ok=True)
        conflict = f"another process predicts to {output}; wait for it, or choose another output"
        with hold_lock(output / f"{PARTIAL_NAME}.lock", conflict):
            if not images:
                yield
                return
            write_json(self.folder / _IDENTITY_NAME, self.settings)
            try:
                yield
            except KeyboardInterrupt as error:
                remedy = f"finished tiles are kept in {self.folder}: the same command goes on"
                raise Interrupted(signal.SIGINT, remedy) from error
            shutil.rmtree(self.folder)

    def open(self, name: str, image: Path) -> "TileStore":
        """The tiles of one image, by the name of its results.

        Raises:
            ManymaskError: The disk is full or cannot be written to.
        """
        folder = self.folder / name
        if not (folder / _IDENTITY_NAME).is_file():
            write_json(folder / _IDENTITY_NAME, {"digest": digest_file(image)})
        return TileStore(folder)


class TileStore:
    """What is found in the tiles of one image: a compressed file for each batch, which is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, batch: range) -> list[Instances] | None:
        """What was found in a batch of tiles, each in its own pixels; None where it is not done."""
        with suppress(*_DAMAGES), open(self._name(batch), "rb") as file, np.load(file) as arrays:
            return [unpack_instances({key: arrays[f"{index}_{key}"] for key in _KEYS}) for index in batch]
        return None

    def write(self, batch: range, found: Sequence[Instances]) -> None:
        """Keep what was found in a batch of tiles.

        Raises:
            ManymaskError: The disk is full or cannot be written to.
        """
        parts: dict[str, Any] = {
            f"{index}_{key}": values
            for index, instances in zip(batch, found, strict=True)
            for key, values in pack_instances(instances).items()
        }
        with replace_file(self._name(batch)) as file:
            np.savez_compressed(file, **parts)

    def recall(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, as JSON does; that of an earlier call where there was one, even if now it would differ.

        Raises:
            ManymaskError: The disk is full or cannot be written to.
        """
        path = self.folder / f"{name}.json"
        with suppress(*_DAMAGES):
            return json.loads(path.read_bytes())
        value = make()
        write_json(path, value)
        return value

    def _name(self, batch: range) -> Path:
        return self.folder / f"{batch.start}-{batch.stop}.npz"


_KEYS = ("size", "owner", "start", "length", "labels", "scores", "boxes")


def pack_instances(instances: Instances) -> dict[str, np.ndarray]:
    """Instances as arrays by name; crowd regions are not told from others."""
    runs = instances.runs
    values = (np.array(runs.size), *(part.astype(np.uint32) for part in (runs.owner, runs.start, runs.length)))
    return dict(zip(_KEYS, (*values, instances.labels, instances.scores, instances.boxes), strict=True))


def unpack_instances(arrays: Mapping[str, np.ndarray]) -> Instances:
    """Instances of such arrays."""
    height, width = arrays["size"].tolist()
    runs = (arrays[key].astype(np.int64) for key in ("owner", "start", "length"))
    masks = RunLengths((height, width), len(arrays["labels"]), *runs)
    return Instances.from_runs(masks, arrays["labels"], scores=arrays["scores"], boxes=arrays["boxes"])


def _read_identity(folder: Path) -> dict[str, Any]:
    """What a folder's tiles are of; nothing where a kill came before it was written."""
    path = folder / _IDENTITY_NAME
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise PlanError(f"{path} is damaged, so nobody knows what its tiles are of; remove {folder}") from error


def digest_file(path: Path) -> str:
    """Identifies the content of a file; of a folder, the names, sizes and times of its files."""
    digest = hashlib.blake2b(digest_size=16)
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            status = file.stat()
            digest.update(f"{file.relative_to(path)} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()
