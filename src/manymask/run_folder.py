"""The run folder: where a run keeps its plan, metrics, curves and checkpoints."""

import csv
import logging
import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from manymask.core import read_json, write_json
from manymask.core.files import copy_file, explain_writing, hold_lock, replace_file
from manymask.core.outputs import LOCK_NAME, is_unused
from manymask.errors import CheckpointError, FormatError, PlanError
from manymask.metrics.catalogue import LOGGED, MetricPath
from manymask.metrics.stages import StageShares
from manymask.modeling.checkpoint import CHECKPOINT_KEY, read_checkpoint
from manymask.plan import Plan

logger = logging.getLogger(__name__)

MetricsRow = dict[str, int | float | None]


class RunFolder:
    """Paths and files of one run; nothing is held in memory that the files do not say.

    Attributes:
        path: The folder.
        plan_file: The settings and the record of the data.
        explanation_file: Every setting with the reason for it, where rules decided them.
        diagnosis_file: What the finished run gets right at each stage, on images of training and of validation.
        last: The checkpoint of the last epoch.
        best: The checkpoint of the epoch with the highest validation mask AP.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan_file, self.explanation_file = path / "plan.json", path / "plan.md"
        self.diagnosis_file = path / "diagnosis.json"
        self.last, self.best = path / "last.ckpt", path / "best.ckpt"

    def epoch_file(self, epoch: int) -> Path:
        """The checkpoint of an epoch, counted from 1."""
        return self.path / "checkpoints" / f"epoch_{epoch:03d}.ckpt"

    def list_epoch_files(self) -> list[Path]:
        """All epochs' checkpoints, the newest first."""
        files = (self.path / "checkpoints").glob("epoch_*.ckpt")
        return sorted(files, key=lambda file: (len(file.name), file.name), reverse=True)

    def check_unused(self) -> None:
        """Refuse to train over another run.

        Raises:
            PlanError: The folder holds something, or is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise PlanError(
                f"expected a new or empty folder for the run, but {self.path} is a file; choose another --output"
            )
        if not is_unused(self.path):
            raise PlanError(f"{self.path} is not empty; choose another --output, or go on: {format_resume(self.path)}")

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Make the folder if it is not there, and lock it for this process; one that stays empty is removed.

        Raises:
            ManymaskError: Another process trains in the folder, or it cannot be written to.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        with explain_writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        conflict = f"another process trains in {self.path}; wait until it ends, or choose another --output"
        try:
            with hold_lock(self.path / LOCK_NAME, conflict):
                yield
        finally:
            with suppress(OSError):  # until the first folder that holds anything
                for path in made:
                    path.rmdir()

    def remove_partial_files(self) -> None:
        """Remove half-written files that a kill has left, in the folders that only training writes to."""
        for folder in (self.path, self.path / "checkpoints", self.path / "curves"):
            for file in folder.glob(".*.partial"):
                file.unlink()

    def rewind(self, checkpoint: Path) -> list[MetricsRow]:
        """Make the folder what it was when a checkpoint was written, and return the rows of the epochs until then.

        Afterwards ``last.ckpt`` is that checkpoint, nothing is left of later epochs, and ``metrics.csv`` and the curves
        are made anew. ``best.ckpt`` is removed where no copy of the best epoch's checkpoint is left.

        Raises:
            CheckpointError: The checkpoint cannot be read or holds no metrics.
        """
        rows = read_rows(checkpoint)
        if checkpoint != self.last:
            copy_file(checkpoint, self.last)
        for file in self.list_epoch_files():
            number = file.stem.removeprefix("epoch_")
            if number.isdigit() and int(number) > len(rows):
                logger.info(f"removed: {file}, which is of a later epoch than {checkpoint}")
                file.unlink()
        self._restore_best(rows)
        self.write_metrics(rows)
        return rows

    def _restore_best(self, rows: list[MetricsRow]) -> None:
        expected = rows[: find_best_epoch(rows)]
        for file in (self.best, self.last, self.epoch_file(len(expected))):
            with suppress(CheckpointError):  # gone or damaged: the next may be good
                if read_rows(file) == expected:
                    if file != self.best:
                        copy_file(file, self.best)
                    return
        self.best.unlink(missing_ok=True)

    def write_metrics(self, rows: list[MetricsRow]) -> None:
        """Write ``metrics.csv``, one row an epoch, and draw the curves."""
        # Here, because only training draws, and matplotlib takes a while to load.
        from manymask.drawing.curves import draw_curves

        with replace_file(self.path / "metrics.csv", "w") as f:
            writer = csv.DictWriter(f, fieldnames=list(rows[-1]))
            writer.writeheader()
            writer.writerows({name: _format(value) for name, value in row.items()} for row in rows)
        draw_curves(rows, self.path / "curves")

    def write_diagnosis(self, diagnosis: Mapping[str, StageShares]) -> None:
        """Write ``diagnosis.json``, the shares of each set of images by its name."""
        write_json(self.diagnosis_file, {name: shares.model_dump() for name, shares in diagnosis.items()})

    def finish_epoch(self, epoch: int, rows: list[MetricsRow], keep_all: bool) -> None:
        """Make ``last.ckpt`` and ``best.ckpt`` of the epoch's checkpoint; a resume makes up for a kill in between."""
        copy_file(self.epoch_file(epoch), self.last)  # not a link: damage to one must not be damage to the other
        if find_best_epoch(rows) == epoch:
            copy_file(self.epoch_file(epoch), self.best)
        if not keep_all:
            for file in self.list_epoch_files():
                file.unlink()

    def find_resume_checkpoint(self) -> Path | None:
        """``last.ckpt``, or None where no epoch was finished.

        Raises:
            CheckpointError: It is damaged, or missing though epochs were finished; names the newest good checkpoint.
        """
        if not self.last.exists() and len(self.list_epoch_files()) < 2:  # one alone may be from a kill before the copy
            return None
        try:
            read_checkpoint(self.last)
        except CheckpointError as error:
            good = self._find_good_checkpoint()
            hint = f"go on from {good}: {format_resume(good)}" if good else "no other is good; start anew"
            raise CheckpointError(f"{error}; {hint}") from error
        return self.last

    def _find_good_checkpoint(self) -> Path | None:
        for file in [*self.list_epoch_files(), self.best]:
            with suppress(CheckpointError):
                read_checkpoint(file)
                return file
        return None


def find_run(path: Path) -> Path | None:
    """The run folder that a path is, or that the checkpoint there lies in; None where it is neither."""
    if path.is_dir():
        places = [path]
    else:  # a name that is no path, such as a shipped model's, lies in no run folder
        parent = path.parent
        places = [parent, *([parent.parent] if parent.name == "checkpoints" else [])] if path.exists() else []
    return next((place for place in places if (place / "plan.json").is_file()), None)


def read_metrics(path: Path) -> list[MetricsRow]:
    """The rows of ``metrics.csv`` of a run folder, or a checkpoint in one; none where no epoch was finished.

    Raises:
        FormatError: The file was changed since it was written.
    """
    path = (find_run(path) or path) / "metrics.csv"
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as f:
            rows = [{n: float(v) if v else None for n, v in row.items()} for row in csv.DictReader(f)]
        if not all({"epoch", "step"} <= row.keys() for row in rows):
            raise ValueError("no columns epoch and step")
        if not all(value is None or math.isfinite(value) for row in rows for value in row.values()):
            raise ValueError("a value is not finite")
    except (ValueError, TypeError) as error:
        raise FormatError(f"{path} is not as training wrote it ({error}); a resume of the run makes it anew") from error
    return rows


def read_diagnosis(path: Path) -> dict[str, StageShares]:
    """What ``diagnosis.json`` of a run folder, or of a checkpoint's, says; nothing where there is none.

    Raises:
        FormatError: The file was changed since it was written.
    """
    path = RunFolder(find_run(path) or path).diagnosis_file
    if not path.exists():
        return {}
    try:
        return {name: StageShares(**values) for name, values in read_json(path).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} is not as training wrote it; remove it, and the report does without") from error


def read_rows(checkpoint: Path) -> list[MetricsRow]:
    """The metrics of a run's epochs, from the first to the checkpoint's.

    Raises:
        CheckpointError: The checkpoint cannot be read or holds no metrics.
    """
    rows = read_checkpoint(checkpoint)[CHECKPOINT_KEY].get("metrics")
    if not rows:
        raise CheckpointError(f"{checkpoint} holds no metrics, so no run can go on from it; start a new run")
    return rows


def count_epochs(checkpoint: Path, plan: Plan, rows: list[MetricsRow]) -> int:
    """How many epochs a run has in all, as far as was known at a checkpoint; the clock may make them fewer.

    Args:
        checkpoint: The checkpoint, which may be gone.
        plan: The run's.
        rows: The metrics of the epochs until then, at least one.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    own = read_checkpoint(checkpoint)[CHECKPOINT_KEY] if checkpoint.is_file() else {}
    if "num_epochs" in own:
        return own["num_epochs"]
    # Older checkpoints hold no number. A run with a time budget is over when none of its epochs fits in any more.
    seconds = sum(row.get("seconds") or 0 for row in rows)
    is_over = plan.minutes is not None and plan.minutes * 60 - seconds < seconds / len(rows)
    is_over |= plan.max_steps is not None and (rows[-1]["step"] or 0) >= plan.max_steps
    return len(rows) if is_over else plan.epochs


def format_resume(path: Path) -> str:
    """The command that goes on with a run, or from a checkpoint, ready for a shell."""
    return f"manymask train --resume {shlex.quote(str(path))}"


def find_best_epoch(rows: list[MetricsRow]) -> int:
    """The epoch with the highest validation mask AP, the earliest on ties; an undefined AP loses to any."""

    def rank(row: MetricsRow) -> tuple[int | float, int | float]:
        ap = row["val_mask_AP"]
        return (-1 if ap is None else ap), -(row["epoch"] or 0)

    return int(max(rows, key=rank)["epoch"] or 0)


def flatten_scores(scores: Mapping[MetricPath, float | None]) -> MetricsRow:
    """The scores that go to ``metrics.csv``: of all classes, and those of masks of each class."""
    row: MetricsRow = {f"val_{'_'.join(metric.path)}": scores[metric.path] for metric in LOGGED}
    for name in (path[2] for path in scores if path[:2] == ("mask", "per_class") and path[3] == "AP"):
        of_masks = [metric for metric in LOGGED if metric.path[0] == "mask"]
        row |= {f"val_{'_'.join(metric.path)}_{name}": scores[metric.of_class(name)] for metric in of_masks}
    return row


def _format(value: int | float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
