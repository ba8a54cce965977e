"""Work shared out by Ray, over the cores of this machine or over a cluster; only this module loads Ray."""

import logging
import os
import pickle
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

from manymask.errors import ManymaskError, PlanError
from manymask.wording import count_of

ENGINES = ("local", "ray")
# A worker that ends is started again and gets its item again; one that ends it so many times more is given up.
MAX_RETRIES = 2
# Ray itself would wait two minutes for an address where nothing answers.
CONNECT_SECONDS = 5


class Lost:
    """Stands for the result of an item at which each worker that tried ended, by a crash or for want of memory."""


def check_engine(engine: str, address: str | None) -> None:
    """Refuse an engine that does not exist, and an address without Ray.

    Raises:
        PlanError: See above.
    """
    if engine not in ENGINES:
        raise PlanError(f"engine is {engine!r}, expected one of: {', '.join(ENGINES)}")
    if address is not None and engine != "ray":
        raise PlanError("an address is that of a Ray cluster; set engine=ray, or leave the address out")


@contextmanager
def connect_ray(address: str | None = None, num_workers: int | None = None) -> Iterator["RayWorkers"]:
    """Start Ray on this machine, or use a cluster; a program's own connection is used, and stays.

    Args:
        address: ``auto`` for the cluster that runs on this machine, or the host:port of a cluster's head.
        num_workers: Processes that work at a time; by default one for each core, or with GPUs for each of them.

    Raises:
        ManymaskError: Ray is not installed, or there is no cluster.
        PlanError: There are more workers than cores.
    """
    try:
        # What Ray tells of itself goes to its log files, and statistics about its use to nobody.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray.data
    except ModuleNotFoundError as error:
        raise ManymaskError(
            f"{error.name} is not installed, which --engine ray needs; run pip install 'manymask[ray]'"
        ) from error
    is_own = not ray.is_initialized()
    if is_own:
        _start(address)
    try:
        yield RayWorkers(num_workers)
    finally:
        if is_own:
            ray.shutdown()


@contextmanager
def _hush() -> Iterator[None]:
    """Let Ray's own log be of fatal errors only, without the line on stderr by which it says so."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _start(address: str | None) -> None:
    import ray

    remedy = "start one with ray start --head, or leave the address out"
    if address not in (None, "auto"):
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or "/" in address:
            raise PlanError(f"address is {address!r}, expected auto or host:port; for example 10.0.0.1:6379")
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ManymaskError(f"no Ray cluster answers at {address} ({error}); {remedy}") from error
    options: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    try:
        with _hush():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except ConnectionError as error:
        if address == "auto":
            raise ManymaskError(f"no Ray cluster runs on this machine; {remedy}") from error
        raise ManymaskError(
            f"{address} does not let this process in ({' '.join(str(error).split())}); if it is a Ray cluster's head, "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as there"
        ) from error
    except RuntimeError as error:  # other versions of Ray or Python there
        text = " ".join(str(error).split())
        raise ManymaskError(f"the Ray cluster at {address} cannot be used: {text}") from error


class RayWorkers:
    """Processes on the machines of the cluster that this one is connected to, of one thread each.

    Args:
        num_workers: As in ``connect_ray``.
    """

    def __init__(self, num_workers: int | None) -> None:
        import ray
        from ray._private import worker

        # What Ray says of processes that end would stand on stdout; ``Lost`` tells of it.
        worker._worker_logs_enabled = False  # pyright: ignore[reportPrivateUsage]
        resources = ray.cluster_resources()
        self._num_cpus, self._num_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if num_workers is not None and not 1 <= num_workers <= self._num_cpus:
            raise PlanError(
                f"num_workers is {num_workers}, but Ray has {count_of(self._num_cpus, 'core')}; set it from 1 to "
                f"{self._num_cpus}"
            )
        self._num_workers = num_workers

    def map(self, work: Callable[[Any], Any], items: Sequence[Any], *, on_gpu: bool = False) -> Iterator[Any]:
        """What ``work`` gives for each item, in order, by Ray Data: an actor in each process holds ``work``.

        What it tells in the package's log is told here, once.

        Args:
            work: Called in other processes, on other machines too; it is sent there as a pickle.
            items: What it is called with; small, as all are held.
            on_gpu: Whether each process needs a GPU of its own.

        Returns:
            The results; ``Lost`` for an item that ended its worker each time.

        Raises:
            ManymaskError: ``work`` raised it, or Ray cannot go on.
        """
        if not items:
            return
        import ray
        from ray import cloudpickle
        from ray.exceptions import RayError

        if on_gpu and not self._num_gpus:
            raise PlanError("the model is on a GPU, but Ray has none; set device=cpu")
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars, context.print_on_execution_start = False, False
        context.execution_options.preserve_order = True
        context.max_errored_blocks = -1  # an item that ends its workers ends no others
        size = min(self._num_workers or (self._num_gpus if on_gpu else self._num_cpus), len(items))
        rows = [{"index": index, "item": pickle.dumps(item)} for index, item in enumerate(items)]
        # Pickled here, since Ray would unpickle it before the worker has set its number of threads.
        held = ray.put(cloudpickle.dumps(work))  # pyright: ignore[reportPrivateImportUsage]
        with warnings.catch_warnings(), ray.data.DataContext.current(context):
            warnings.simplefilter("ignore")  # of remote arguments, which have no other name yet
            # A block for each row, of which an actor gets one at a time: when it ends, no other row pays for it.
            results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Worker,
                fn_constructor_args=(held, os.getcwd()),
                compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
                batch_size=1,
                num_cpus=1,
                num_gpus=1 if on_gpu else 0,
                max_task_retries=MAX_RETRIES,
            )
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        told: set[tuple[str, int, str]] = set()
        next_index = 0
        try:
            for row in results.iter_rows():
                yield from (Lost() for _ in range(next_index, row["index"]))
                next_index = row["index"] + 1
                yield _open_answer(row["answer"], told)
        except RayError as error:
            raise ManymaskError(f"Ray cannot go on: {_get_last_line(error)}") from error
        yield from (Lost() for _ in range(next_index, len(items)))

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], *, on_gpu: bool
    ) -> Iterator[tuple[int, Any]]:
        """The number and the result of each call of a function, as they end; each is a Ray task of its own.

        Args:
            function: Called in other processes; one that ended is called again.
            calls: Its arguments, each time.
            on_gpu: Whether each call gets a GPU of its own, where Ray has any.

        Raises:
            ManymaskError: The function raised it, or its processes end each time.
        """
        import ray
        from ray.exceptions import RayError

        num_gpus = 1 if on_gpu and self._num_gpus else 0
        task = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=MAX_RETRIES)(_answer)
        waiting = {task.remote(function, arguments, os.getcwd()): number for number, arguments in enumerate(calls)}
        told: set[tuple[str, int, str]] = set()
        while waiting:
            (done, *_), _ = ray.wait(list(waiting))
            try:
                yield waiting.pop(done), _open_answer(ray.get(done), told)
            except RayError as error:
                raise ManymaskError(f"Ray cannot go on: {_get_last_line(error)}") from error


class _Worker:
    """What an actor of Ray Data runs."""

    def __init__(self, work: Any, folder: str) -> None:
        import ray

        _settle(folder)
        self.work, self.failure = None, None
        try:
            self.work = pickle.loads(ray.get(work))
        except ManymaskError as error:  # an exported model that is not there
            self.failure = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The answer for the one row of a batch."""
        item = pickle.loads(batch["item"][0])
        return {"index": batch["index"], "answer": [_make_answer(self._work_on, (item,))]}

    def _work_on(self, item: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        assert self.work is not None
        return self.work(item)


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...], folder: str) -> bytes:
    """What a Ray task runs."""
    _settle(folder)
    return _make_answer(function, arguments)


def _settle(folder: str) -> None:
    """Begin in a process: last digits depend on the number of threads, relative paths on the folder."""
    torch.set_num_threads(1)
    with suppress(OSError):  # of another machine, where the folder need not be
        os.chdir(folder)


def _make_answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """The result of a call, or what it raised, and what it told in the log."""
    log, notes = logging.getLogger("manymask"), _Notes()
    log.handlers, log.propagate = [notes], False
    log.setLevel(logging.INFO)
    try:
        result, failure = function(*arguments), None
    except Exception as error:  # of any kind: it is raised where the answer is taken
        error.add_note(f"In a Ray worker on {socket.gethostname()}:\n{traceback.format_exc()}")
        result, failure = None, error
    return pickle.dumps((result, failure, notes.told))


class _Notes(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a note."""
        self.told.append((record.name, record.levelno, record.getMessage()))


def _open_answer(answer: bytes, told: set[tuple[str, int, str]]) -> Any:
    """The result in an answer; tells what is not in ``told``, and adds it."""
    result, failure, notes = pickle.loads(answer)
    for note in notes:
        if note not in told:
            told.add(note)
            name, level, message = note
            logging.getLogger(name).log(level, "%s", message)
    if failure is not None:
        raise failure
    return result


def _get_last_line(error: Exception) -> str:
    """The cause, below the traceback that Ray puts above it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
