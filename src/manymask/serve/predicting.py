"""The one thread that has the model: what the page and programs want predicted goes through it in turn."""

import logging
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from manymask.core import ImageSource, Instances
from manymask.errors import ManymaskError
from manymask.prediction import Model
from manymask.prediction.tiling import LoadedImage, Tiling, find_instances, load_image
from manymask.prediction.views import predict_alike
from manymask.serve.models import Models
from manymask.serve.refusals import Refusal
from manymask.wording import count_of

logger = logging.getLogger(__name__)

# Small images that go through the network at once on a GPU; a CPU is as fast with one.
GPU_BATCH = 8


class Cancelled(Exception):  # noqa: N818 - somebody asked for it
    """A prediction was called off between two tiles."""


class _Closed(Cancelled):
    """The server ends."""


@dataclass(eq=False)
class Request:
    """An image that a program wants predicted.

    Attributes:
        source: Its pixels.
        name: What the program calls it.
        model: The model's name.
        batch_size: So many images such as it go through the network at once; 0 where it is seen in tiles.
        future: What was found, with the model that found it; cancelled, it is not begun, or ends at the next tile.
        progress: Tiles done, and their number.
    """

    source: ImageSource
    name: str
    model: str
    batch_size: int
    future: "Future[tuple[Model, Instances]]" = field(default_factory=Future)
    progress: tuple[int, int] = (0, 1)
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Call it off."""
        self.is_cancelled = True
        self.future.cancel()


@runtime_checkable
class ImageTask(Protocol):
    """An image of the page that is to be predicted; all methods are called in the predictor's thread."""

    name: str
    model: str

    def open(self) -> ImageSource | None:
        """Its pixels; None where nobody wants it any more."""
        ...

    def begin(self, model: Model, num_tiles: int) -> None:
        """Say that it begins; raises ``Cancelled`` where it was called off."""
        ...

    def show(self, instances: Instances) -> None:
        """Take what some tiles show; raises ``Cancelled`` where it was called off."""
        ...

    def tell(self, num_tiles: int) -> None:
        """So many tiles more are done."""
        ...

    def finish(self, instances: Instances) -> None:
        """Take the result."""
        ...

    def fail(self, sentence: str | None) -> None:
        """Say why there is no result; None where it was called off."""
        ...


class Predictor:
    """Predicts one image after the other in a thread of its own.

    Requests of programs go first, also between two tiles of an image of the page, and in the order in which they came.

    Args:
        models: The models.
        most: Requests that wait at once.
    """

    def __init__(self, models: Models, most: int) -> None:
        self.models, self._most = models, most
        self._requests: deque[Request] = deque()
        self._tasks: deque[ImageTask] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self.num_predicted, self.num_found = 0, 0
        self._thread = threading.Thread(target=self._work, name="manymask-predictor", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End after the tile that is being looked at; what waits is dropped."""
        with self._changed:
            self._is_closed = True
            for request in self._requests:
                request.cancel()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    @property
    def num_waiting(self) -> int:
        """Requests of programs that wait."""
        return len(self._requests)

    @property
    def num_images_waiting(self) -> int:
        """Images of the page that wait."""
        return len(self._tasks)

    def check_room(self, num_coming: int = 0) -> None:
        """Refuse a request before anything of it is read.

        Args:
            num_coming: Others that are being received.

        Raises:
            Refusal: As many wait as may.
        """
        if len(self._requests) + num_coming >= self._most:
            raise Refusal(503, f"{count_of(self._most, 'request')} wait for the model already; come again", 2)

    def make_request(self, source: ImageSource, name: str, model: str) -> Request:
        """A request, which is not submitted yet.

        Raises:
            ManymaskError: There is no such model, or it cannot be loaded.
        """
        loaded = self.models.get(model)
        tiling = Tiling.of(loaded.plan)
        batch_size = 1 if loaded.detector.device.type == "cpu" else GPU_BATCH
        is_whole = tiling is None or len(tiling.list_tiles(source.size)) == 1
        return Request(source, name, model, batch_size if is_whole else 0)

    def submit(self, request: Request) -> None:
        """Let a program's image be predicted.

        Raises:
            Refusal: As many wait as may.
        """
        with self._changed:
            self.check_room()
            self._requests.append(request)
            self._changed.notify()

    def submit_image(self, task: ImageTask) -> None:
        """Let an image of the page be predicted."""
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._requests or self._tasks or self._is_closed):
                    self._changed.wait()
                if self._is_closed:
                    return
                task = None if self._requests else self._tasks.popleft()
            try:
                if task is None:
                    self._serve_requests()
                else:
                    self._predict_task(task)
            except Exception:  # such as a full disk while a failure is noted; the next one may go well
                logger.exception("a prediction failed")

    def _serve_requests(self, *, small_only: bool = False) -> None:
        """All requests that wait; between two tiles only those that are seen at once."""
        while batch := self._take_batch(small_only):
            self._predict_requests(batch)

    def _take_batch(self, small_only: bool) -> list[Request]:
        """The next requests that go through the network together."""
        with self._changed:
            waiting = [request for request in self._requests if not request.future.cancelled()]
            if small_only:
                waiting = [request for request in waiting if request.batch_size]
            if not waiting or self._is_closed:
                self._requests = deque(request for request in self._requests if not request.future.cancelled())
                return []
            first = waiting[0]
            batch = [first]
            if first.batch_size:
                alike = [each for each in waiting if (each.model, each.source.size) == (first.model, first.source.size)]
                batch = alike[: first.batch_size]
            self._requests = deque(each for each in self._requests if each not in batch)
            return batch

    def _predict_requests(self, batch: list[Request]) -> None:
        batch = [request for request in batch if request.future.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            model = self.models.get(batch[0].model)
            for request, found in zip(batch, self._find(model, batch), strict=True):
                self._count(found, model)
                request.future.set_result((model, found))
        except Exception as error:  # of any kind: those who wait get it, and the thread goes on
            if not isinstance(error, ManymaskError | Cancelled):
                logger.exception("a prediction failed")
            for request in batch:
                if not request.future.done():
                    request.future.set_exception(error)

    def _find(self, model: Model, batch: list[Request]) -> list[Instances]:
        tiling = Tiling.of(model.plan)
        loaded = [_load(request.source, request.name, model, tiling) for request in batch]
        if len(batch) > 1:
            return predict_alike(
                model, [image.values for image in loaded if image.values is not None], [each.name for each in loaded]
            )
        (request,) = batch

        def show(_: Instances) -> None:
            if request.is_cancelled or self._is_closed:
                raise _Closed if self._is_closed else Cancelled
            self._serve_requests(small_only=True)

        def tell(num_tiles: int, _: str) -> None:
            request.progress = (request.progress[0] + num_tiles, len(loaded[0].tiles))

        return [find_instances(model, loaded[0], tiling, None, tell, show=show)]

    def _predict_task(self, task: ImageTask) -> None:
        try:
            source = task.open()
            if source is None:
                return
            model = self.models.get(task.model)
            tiling = Tiling.of(model.plan)
            loaded = _load(source, task.name, model, tiling)
            task.begin(model, max(len(loaded.tiles), 1))

            def show(instances: Instances) -> None:
                if self._is_closed:
                    raise _Closed
                task.show(instances)
                self._serve_requests(small_only=True)

            found = find_instances(model, loaded, tiling, None, lambda number, _: task.tell(number), show=show)
            self._count(found, model)
            task.finish(found[found.scores >= model.plan.shown_score])
        except _Closed:  # it is predicted when the server starts again
            pass
        except Cancelled:
            task.fail(None)
        except ManymaskError as error:
            task.fail(str(error))
        except Exception:  # of any kind: the image is marked as failed, and the thread goes on
            logger.exception("a prediction failed")
            task.fail("the prediction failed by a fault of the program; its log says more")

    def _count(self, found: Instances, model: Model) -> None:
        self.num_predicted += 1
        self.num_found += int(np.count_nonzero(found.scores >= model.plan.shown_score))


def _load(source: ImageSource, name: str, model: Model, tiling: Tiling | None) -> LoadedImage:
    return replace(load_image(source, name, model.plan, tiling), name=name)
