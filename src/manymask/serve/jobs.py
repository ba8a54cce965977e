"""Work that takes longer than a request: what it is, how far it is and what it gave."""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from manymask.serve.refusals import Refusal

Kind = Literal["predict", "improve"]
Status = Literal["waiting", "running", "done", "failed", "cancelled"]
# Finished jobs that are remembered, with their results.
_NUM_KEPT = 100


@dataclass(eq=False)
class Job:
    """A piece of work.

    Attributes:
        kind: What it is.
        id: Its name in addresses.
        status: Whether it is done.
        progress: Things done, and their number.
        what: What is being done.
        rows: Metrics of each epoch of a training.
        result: What it gave, in plain values.
        error: Why it failed, in a sentence.
        output: What it gave, as the server has it.
        stop: Calls it off.
        refresh: Looks how far it is.
    """

    kind: Kind
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    status: Status = "waiting"
    progress: tuple[int, int] = (0, 1)
    what: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    error: str | None = None
    output: Any = None
    stop: Callable[[], None] = lambda: None
    refresh: Callable[[], None] = lambda: None

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ("done", "failed", "cancelled")

    def to_json(self) -> dict[str, Any]:
        """What others see of it."""
        self.refresh()
        names = ("id", "kind", "status", "what", "rows", "result", "error")
        return {name: getattr(self, name) for name in names} | {"progress": list(self.progress)}


class Jobs:
    """All jobs that are not over, and the last ones that are."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def add(self, job: Job) -> Job:
        """Remember a job; the oldest that is over is forgotten."""
        with self._lock:
            self._jobs[job.id] = job
            for each in self._jobs.values():  # nobody may have asked for them since they ended
                each.refresh()
            over = [each.id for each in self._jobs.values() if each.is_over]
            for job_id in over[: max(len(over) - _NUM_KEPT, 0)]:
                del self._jobs[job_id]
        return job

    def get(self, job_id: str) -> Job:
        """A job by its id.

        Raises:
            Refusal: There is none, or it is forgotten.
        """
        with self._lock:
            if job_id not in self._jobs:
                raise Refusal(404, "there is no such job; those that ended long ago are forgotten")
            return self._jobs[job_id]

    def list_jobs(self) -> list[Job]:
        """All that are remembered, the oldest first."""
        with self._lock:
            return list(self._jobs.values())
