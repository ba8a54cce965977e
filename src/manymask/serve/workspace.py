"""The folder that a server keeps its images in; nothing is written elsewhere."""

import logging
import os
import re
import secrets
import shutil
import string
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from manymask.core import ImageSource, read_json, write_json
from manymask.core.files import explain_writing, hold_lock
from manymask.errors import ManymaskError
from manymask.serve.decoding import Facts, open_decoded
from manymask.serve.refusals import Refusal

logger = logging.getLogger(__name__)

META_NAME = "meta.json"
_ID_CHARACTERS = string.ascii_lowercase + string.digits
_ID_LENGTH = 12
_ID = re.compile(f"[a-z0-9]{{{_ID_LENGTH}}}")
_NEW_SUFFIX = ".new"
# Of a name that was given with an upload; file systems have no longer ones.
_NAME_LENGTH = 255


@dataclass(frozen=True)
class Meta:
    """What is kept of an image beside its objects.

    Attributes:
        name: What the user calls it; shown, and never used as a path.
        file: The file, by its place in the image's folder, or anywhere where the server was started with it.
        added: When, in seconds since 1970.
        facts: What decoding found.
        status: ``waiting``, ``predicting``, ``done``, ``failed`` or ``cancelled``.
        model: The model of the newest prediction, or the one that is asked for.
        error: Why prediction failed.
        checked: Whether a person looked at all of it, or at ``region``.
        region: Left, top, width and height of the part that was looked at; None for the whole.
    """

    name: str
    file: str
    added: float
    facts: Facts
    status: str = "waiting"
    model: str | None = None
    error: str | None = None
    checked: bool = False
    region: tuple[int, int, int, int] | None = None


@dataclass(eq=False)
class StoredImage:
    """An image of the workspace.

    Attributes:
        id: Its name in addresses, and its folder's.
        folder: Where everything of it is.
        meta: What is kept of it.
        progress: Tiles done and their number, while it is predicted.
        is_cancelled: Whether somebody asked that its prediction end.
    """

    id: str
    folder: Path
    meta: Meta
    progress: tuple[int, int] = (0, 1)
    is_cancelled: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def source(self) -> ImageSource:
        """Its pixels."""
        return open_decoded(self.folder, self.folder / self.meta.file, self.meta.facts)

    @property
    def stem(self) -> str:
        """A name for files that are made of it: letters, digits, ``-`` and ``_`` of its own name."""
        return re.sub(r"[^\w-]+", "_", self.meta.name.rpartition(".")[0] or self.meta.name)[:100].strip("_") or "image"

    def change(self, **values: Any) -> None:
        """Change what is kept of it, on the disk too."""
        with self.lock:
            self.meta = replace(self.meta, **values)
            write_json(self.folder / META_NAME, _pack(self.meta))


def _pack(meta: Meta) -> dict[str, Any]:
    return asdict(meta) | {"facts": meta.facts.to_json()}


def _unpack(values: dict[str, Any]) -> Meta:
    region = values.get("region")
    facts = Facts.from_json(values["facts"])
    return Meta(**(values | {"facts": facts, "region": tuple(region) if region else None}))


class Workspace:
    """All images of a server, in the order in which they came.

    Args:
        folder: Where they are kept; made where it is not there.

    Raises:
        ManymaskError: Another server works in the folder, or it cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self._images_folder = folder / "images"
        self._lock, self._closing = threading.RLock(), ExitStack()
        with explain_writing(folder):
            self._images_folder.mkdir(parents=True, exist_ok=True)
        conflict = f"another server works in {folder}; stop it, or choose another --workspace"
        self._closing.enter_context(hold_lock(folder / ".lock", conflict))
        self._images: dict[str, StoredImage] = {}
        for path in self._images_folder.iterdir():
            if path.name.endswith(_NEW_SUFFIX):  # of uploads that a kill has cut short
                shutil.rmtree(path)
            elif _ID.fullmatch(path.name) and (path / META_NAME).is_file():
                try:
                    self._images[path.name] = StoredImage(path.name, path, _unpack(read_json(path / META_NAME)))
                except (ManymaskError, KeyError, TypeError, ValueError, AttributeError) as error:
                    logger.warning(f"passed over: the image in {path}, whose {META_NAME} is damaged ({error!r})")
        self._images = dict(sorted(self._images.items(), key=lambda item: item[1].meta.added))

    def close(self) -> None:
        """Let another server work in the folder."""
        self._closing.close()

    def list_images(self) -> list[StoredImage]:
        """All images, the oldest first."""
        with self._lock:
            return list(self._images.values())

    def get(self, image_id: str) -> StoredImage:
        """An image by its id.

        Raises:
            Refusal: There is none.
        """
        with self._lock:
            if image_id not in self._images:
                raise Refusal(404, "there is no such image; it may have been removed")
            return self._images[image_id]

    @contextmanager
    def receive(self) -> Iterator[Path]:
        """A new folder for a file that is being received; what is left of it afterwards is removed."""
        folder = self._images_folder / (_make_id() + _NEW_SUFFIX)
        with explain_writing(folder):
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, received: Path, file: str, name: str, facts: Facts, model: str) -> StoredImage:
        """Take a received and decoded file among the images.

        Args:
            received: The folder that ``receive`` made.
            file: The file in it, or the absolute path of one elsewhere.
            name: What the user calls it.
            facts: What decoding found.
            model: What is to predict it.
        """
        meta = Meta(name[:_NAME_LENGTH], file, time.time(), facts, model=model)
        write_json(received / META_NAME, _pack(meta))
        image_id = received.name.removesuffix(_NEW_SUFFIX)
        folder = self._images_folder / image_id
        os.replace(received, folder)
        image = StoredImage(image_id, folder, meta)
        with self._lock:
            self._images[image_id] = image
        return image

    def remove(self, image_id: str) -> None:
        """Remove an image with all that was made of it.

        Raises:
            Refusal: There is none.
        """
        image = self.get(image_id)
        with self._lock:
            del self._images[image_id]
        gone = image.folder.with_name(image.folder.name + _NEW_SUFFIX)
        with image.lock:
            image.is_cancelled = True
            os.replace(image.folder, gone)  # at once, so that nothing half removed is found after a kill
        shutil.rmtree(gone, ignore_errors=True)


def _make_id() -> str:
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


def clean_name(name: str) -> str:
    """The last part of a name that came with an upload, without what cannot be shown; for people only."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(character for character in last if character.isprintable())[:_NAME_LENGTH] or "unnamed"
