"""Everything that a server holds: images, models, the thread that predicts, and what is told to pages."""

import asyncio
import logging
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manymask.core import ArraySource, Category, ImageSource, Instances, write_json
from manymask.errors import DatasetError, ManymaskError
from manymask.imaging.normalization import Normalization
from manymask.prediction import Model
from manymask.serve.checked import CheckedImage, check_classes, write_checked
from manymask.serve.decoding import FORMATS, Decoder, Facts, find_format
from manymask.serve.events import Events
from manymask.serve.improving import TASK_NAME, start_improving
from manymask.serve.jobs import Job, Jobs
from manymask.serve.limits import Limits
from manymask.serve.models import Models
from manymask.serve.objects import ImageObjects
from manymask.serve.predicting import Cancelled, Predictor
from manymask.serve.refusals import Refusal
from manymask.serve.tiles import Tiles
from manymask.serve.versions import list_versions
from manymask.serve.workspace import StoredImage, Workspace
from manymask.wording import list_some

logger = logging.getLogger(__name__)

# Objects of so many images stay in memory; others are opened anew when they are asked for.
_NUM_OPEN = 32
# Progress of one image is told at most so often.
_TELL_SECONDS = 0.2
# Of the checked images so many, and at least one, score the models and are not trained on.
_HELD_OUT = 0.25


class Server:
    """All of a server but HTTP.

    Args:
        models: What it is started with.
        workspace: The folder for all that it writes.
        device: Where models compute.
        limits: What it takes.

    Raises:
        ManymaskError: A model cannot be loaded, or the folder cannot be used.
    """

    def __init__(
        self, models: Sequence[str | Path], workspace: Path, *, device: str = "auto", limits: Limits | None = None
    ) -> None:
        self.limits, self.device = limits or Limits(), device
        self.workspace = Workspace(workspace)
        self.models = Models(models, device, self.workspace.runs)
        self.decoder = Decoder(self.limits)
        self.predictor = Predictor(self.models, self.limits.queue)
        self.tiles, self.jobs, self.events = Tiles(), Jobs(), Events(self.limits.listeners)
        self.counts: Counter[str] = Counter()
        # Uploads for the page, and requests of programs, that are being received.
        self.num_receiving, self.num_coming = 0, 0
        # Files wait here for the decoder, and not in the threads that answer other requests.
        self.decode_turns = asyncio.Semaphore(2)
        self._open: weakref.WeakValueDictionary[tuple[str, int | None], ImageObjects] = weakref.WeakValueDictionary()
        self._recent: deque[ImageObjects] = deque(maxlen=_NUM_OPEN)
        self._lock = threading.RLock()

    def start(self) -> None:
        """Begin to work, with what an earlier server left undone."""
        threading.Thread(target=self.decoder.start, name="manymask-decoder-start", daemon=True).start()
        self.predictor.start()
        for image in self.workspace.list_images():
            if image.meta.status in ("waiting", "predicting"):
                self.predict(image, self._find_listed(image.meta.model), is_new=True)

    def _find_listed(self, model: str | None) -> str | None:
        """A model of an earlier server, where this one has it too."""
        return model if model in {each.name for each in self.models.list_models()} else None

    def close(self) -> None:
        """End all work."""
        for job in self.jobs.list_jobs():
            if not job.is_over:
                job.stop()
        self.predictor.close()
        self.decoder.close()
        self.workspace.close()

    def add_images(self, found: Sequence[tuple[str, Path]]) -> None:
        """Take images of this machine, where they stay, that are not among the images already; by names and files."""
        known = {image.meta.file for image in self.workspace.list_images()}
        for name, path in found:
            file = os.path.abspath(path)
            if file in known:
                continue
            try:
                with self.workspace.receive() as received:
                    self._add(received, path, f"{name}{path.suffix}", file, is_trusted=True)
            except ManymaskError as error:
                logger.warning(f"passed over: {path}: {error}")

    def add_upload(self, received: Path, file: Path, name: str) -> StoredImage:
        """Check and decode a file that was received, take it among the images and let it be predicted.

        Args:
            received: The folder that ``Workspace.receive`` made, which becomes the image's.
            file: The file in it.
            name: What its sender calls it.

        Raises:
            Refusal: It is no image, damaged, too large, or nothing that the model can take.
        """
        if len(self.workspace.list_images()) >= self.limits.images:
            raise Refusal(507, f"this server holds {self.limits.images} images already; remove some first")
        named = file.rename(file.with_suffix(FORMATS[find_format(file)]))  # by its content, whatever its sender says
        return self._add(received, named, name, named.name, is_trusted=False)

    def _add(self, received: Path, file: Path, name: str, stored: str, *, is_trusted: bool) -> StoredImage:
        facts = (self._decode if is_trusted else self.decode_upload)(file, received, name)
        image = self.workspace.add(received, stored, name, facts, self.models.current)
        self.predict(image, self.models.current, is_new=True)
        return image

    def decode_upload(self, file: Path, folder: Path, name: str, model: str | None = None) -> Facts:
        """Check and decode a file that was received; what is needed of it is written to a folder.

        Raises:
            Refusal: It is no image, damaged, too large, or nothing that the model can take.
        """
        find_format(file)
        return self._decode(file, folder, name, model)

    def _decode(self, file: Path, folder: Path, name: str, model: str | None = None) -> Facts:
        facts = self.decoder.decode(file, folder, name)
        check_channels(facts, name, self.models.get(model))
        return facts

    def remove(self, image_id: str) -> None:
        """Remove an image with all that was made of it.

        Raises:
            Refusal: There is none.
        """
        self.workspace.remove(image_id)
        with self._lock:
            for key in [key for key in self._open if key[0] == image_id]:
                self._forget(key)

    def predict(self, image: StoredImage, model: str | None, *, is_new: bool = False) -> None:
        """Let an image be predicted; what was found and corrected before stays as a version.

        Args:
            image: The image.
            model: The model's name; by default the current one.
            is_new: Whether this server has not begun with it yet.

        Raises:
            Refusal: There is no such model, the model cannot take the image, or it is being predicted.
        """
        name = self.models.find(model).name
        with image.lock:
            if image.meta.status == "predicting" and not is_new:
                raise Refusal(409, "this image is being predicted; wait for the end, or cancel it")
            image.is_cancelled, image.progress = False, (0, 1)
            image.change(status="waiting", model=name, error=None)
            if not is_new:  # nobody has looked at what will be found
                image.change(checked=False, region=None)
        self.predictor.submit_image(PageTask(self, image, name))
        self.tell_image(image)

    def cancel(self, image: StoredImage) -> None:
        """Call the prediction of an image off; what was found until then stays."""
        with image.lock:
            image.is_cancelled = True
            if image.meta.status == "waiting":
                image.change(status="cancelled")
        self.tell_image(image)

    def find_objects(self, image: StoredImage, version: int | None = None) -> ImageObjects | None:
        """The objects of an image, by default of its newest version; None where it was not predicted yet.

        Raises:
            ManymaskError: There is no such version, or its files are damaged.
        """
        with self._lock:
            newest = self._open.get((image.id, None))
            if newest is not None and version in (None, newest.version.number):
                return newest
            numbers = [each.number for each in list_versions(image.folder)]
            if version is None and not numbers:
                return None
            # Never two of one version, whose edits would not see each other.
            key = (image.id, None if newest is None and version in (None, numbers[-1:] and numbers[-1]) else version)
            objects = self._open.get(key)
            if objects is None:
                objects = ImageObjects.open(image.folder, version)
                self.hold(key, objects)
            return objects

    def get_objects(self, image: StoredImage, version: int | None = None) -> ImageObjects:
        """As ``find_objects``.

        Raises:
            Refusal: The image was not predicted yet.
        """
        objects = self.find_objects(image, version)
        if objects is None:
            raise Refusal(404, "this image was not predicted yet; wait for it")
        return objects

    def hold(self, key: tuple[str, int | None], objects: ImageObjects) -> None:
        """Keep the objects of an image at hand."""
        with self._lock:
            self._open[key] = objects
            self._recent.append(objects)

    def _forget(self, key: tuple[str, int | None]) -> None:
        objects = self._open.pop(key, None)
        if objects in self._recent:
            self._recent.remove(objects)

    def forget(self, image_id: str) -> None:
        """Open the newest version of an image anew when it is asked for."""
        with self._lock:
            self._forget((image_id, None))

    def describe(self, image: StoredImage) -> dict[str, Any]:
        """An image as pages and programs see it."""
        meta, objects = image.meta, None
        status, error = meta.status, meta.error
        try:
            objects = self.find_objects(image)
        except ManymaskError as damage:  # the other images are as good as before
            status, error = "failed", str(damage)
        height, width = meta.facts.size
        return {
            "id": image.id,
            "name": meta.name,
            "width": width,
            "height": height,
            "status": status,
            "progress": list(image.progress),
            "num_objects": objects.num_objects if objects else 0,
            "num_edited": objects.num_edited if objects else 0,
            "num_unsure": objects.num_unsure if objects else 0,
            "checked": meta.checked,
            "region": list(meta.region) if meta.region else None,
            "model": meta.model,
            "version": objects.version.number if objects else None,
            "revision": objects.revision if objects else 0,
            "error": error,
        }

    def describe_models(self) -> list[dict[str, Any]]:
        """The models that can be loaded, as pages and programs see them."""
        described: list[dict[str, Any]] = []
        for each in self.models.list_models():
            try:
                categories, threshold = self.models.describe(each.name)
            except ManymaskError as error:
                logger.warning(f"the model {each.name} is left out: {error}")
                continue
            classes = [{"id": category.id, "name": category.name} for category in categories]
            described.append({"name": each.name, "classes": classes, "score_threshold": threshold, "note": each.note})
        return described

    def tell_image(self, image: StoredImage) -> None:
        """Tell all pages how an image is."""
        self.events.tell("image", image=self.describe(image))

    def tell_job(self, job: Job) -> None:
        """Tell all pages how a job is."""
        self.events.tell("job", job=job.to_json())

    def improve(self, minutes: float, base: str | None) -> Job:
        """Train on the checked images, from a model on.

        Args:
            minutes: Time that it may take.
            base: The model; by default the current one.

        Raises:
            Refusal: Too few images are checked, or another training goes on.
        """
        listed = self.models.find(base)
        checked = [image for image in self.workspace.list_images() if image.meta.checked]
        if len(checked) < 2:
            raise Refusal(
                422,
                "training needs two or more checked images, one of which scores the result; look through images and "
                "mark them as checked",
            )
        with self._lock:
            if any(job.kind == "improve" and not job.is_over for job in self.jobs.list_jobs()):
                raise Refusal(409, "another training goes on; wait for its end, or cancel it")
            job = self.jobs.add(Job("improve", what="writing the checked images"))
            job.stop = lambda: setattr(job, "status", "cancelled")
        threading.Thread(
            target=self._improve, args=(job, listed.source, minutes, checked), name="manymask-improve", daemon=True
        ).start()
        return job

    def _improve(self, job: Job, base: Path, minutes: float, checked: Sequence[StoredImage]) -> None:
        try:
            folder = self._make_run_folder()
            num_held = max(round(len(checked) * _HELD_OUT), 1)
            # Spread over all images, as people often go through them in an order that means something.
            step = len(checked) / num_held
            held = {int(step * number + step / 2) for number in range(num_held)}
            described = [self._describe_checked(image) for image in checked]
            check_classes(described)
            for part, use in (("train", "are trained on"), ("val", "score the new model")):
                images = [image for place, image in enumerate(described) if (place in held) == (part == "val")]
                if not write_checked(folder / part, images):
                    raise DatasetError(
                        f"the checked images that {use} have no objects where they were checked: "
                        f"{list_some([image.name for image in images])}; check other images, or larger parts"
                    )
            task = {"minutes": minutes, "weights": str(base), "device": self.device}
            write_json(folder / TASK_NAME, task)
            if job.status != "cancelled":
                start_improving(folder, job, self.tell_job, lambda folder: self.models.add_trained(folder).name)
        except Exception as error:  # of any kind: the page waits for an end, which the job must have
            if not isinstance(error, ManymaskError):
                logger.exception("training could not begin")
            job.status, job.error = "failed", str(error) or type(error).__name__
        self.tell_job(job)

    def _make_run_folder(self) -> Path:
        self.workspace.runs.mkdir(exist_ok=True)
        numbers = [int(path.name) for path in self.workspace.runs.iterdir() if path.name.isdecimal()]
        folder = self.workspace.runs / str(max(numbers, default=0) + 1)
        folder.mkdir()
        return folder

    def _describe_checked(self, image: StoredImage) -> CheckedImage:
        name, file = f"{image.stem}-{image.id}", image.folder / image.meta.file
        return CheckedImage(name, file, image.source, self.get_objects(image), image.meta.region)


def check_channels(facts: Facts, name: str, model: Model) -> None:
    """Refuse an image whose channels the model cannot take.

    Raises:
        Refusal: It cannot.
    """
    pixel = ArraySource(np.zeros((1, 1, facts.num_channels), facts.dtype))
    try:
        Normalization.of(model.plan).find_channels(pixel, name)
    except ManymaskError as error:
        raise Refusal(422, str(error)) from error


class PageTask:
    """An image of the page that the predictor is to predict; see ``ImageTask``."""

    def __init__(self, server: Server, image: StoredImage, model: str) -> None:
        self.server, self.image, self.model = server, image, model
        self.id, self.name = image.id, image.meta.name
        self._objects: ImageObjects | None = None
        self._told = 0.0

    def open(self) -> ImageSource | None:
        """The image's pixels; None where it was removed, called off, or is to be predicted by another model."""
        image = self.image
        with image.lock:
            is_wanted = (image.meta.status, image.meta.model) == ("waiting", self.model)
            return image.source if is_wanted and not image.is_cancelled else None

    def begin(self, model: Model, num_tiles: int) -> None:
        """Begin a new version."""
        image = self.image
        with image.lock:
            if image.is_cancelled or image.meta.model != self.model:  # another one is wanted since it was opened
                raise Cancelled
            image.progress = (0, num_tiles)
            image.change(status="predicting")
        categories: tuple[Category, ...] = model.categories
        self._objects = ImageObjects.create(image.folder, image.meta.facts.size, categories, self.model)
        self.server.hold((image.id, None), self._objects)
        self.server.tell_image(image)

    def show(self, instances: Instances) -> None:
        """Add what some tiles show, and tell which blocks changed."""
        if self.image.is_cancelled:
            raise Cancelled
        assert self._objects is not None
        blocks = self._objects.add_predictions(instances)
        self.server.events.tell("blocks", id=self.image.id, blocks=blocks, revision=self._objects.revision)

    def tell(self, num_tiles: int) -> None:
        """Tell how far the image is, now and then."""
        done, total = self.image.progress
        self.image.progress = (done + num_tiles, total)
        if time.monotonic() - self._told > _TELL_SECONDS:
            self._told = time.monotonic()
            self.server.tell_image(self.image)

    def finish(self, instances: Instances) -> None:
        """Keep the result."""
        assert self._objects is not None
        with self.image.lock:  # so that it is not removed meanwhile
            if self.image.is_cancelled:
                raise Cancelled
            self._objects.finish_predictions(instances)
            self.image.progress = (self.image.progress[1], self.image.progress[1])
            self.image.change(status="done", error=None)
        self.server.tell_image(self.image)

    def fail(self, sentence: str | None) -> None:
        """Keep what was found until it was called off, or say why nothing was."""
        with self.image.lock:
            # It was removed, or another model is to predict it.
            if not self.image.folder.is_dir() or self.image.meta.model != self.model:
                return
            if sentence is None and self._objects is not None and self._objects.num_objects:
                self._objects.finish_predictions(None)
            else:
                self.server.forget(self.image.id)
            self.image.change(status="failed" if sentence else "cancelled", error=sentence)
        self.server.tell_image(self.image)
