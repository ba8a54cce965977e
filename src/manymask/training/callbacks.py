"""What happens around the steps: progress, metrics, checkpoints, a clean end on Ctrl-C."""

import logging
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch.loggers import TensorBoardLogger

from manymask.core.progress import Progress
from manymask.errors import Interrupted
from manymask.modeling.checkpoint import CHECKPOINT_KEY, read_checkpoint, write_checkpoint
from manymask.run_folder import MetricsRow, RunFolder, flatten_scores, format_resume
from manymask.training.loading import InstanceDataModule
from manymask.training.module import TrainingModule
from manymask.training.processes import Processes

logger = logging.getLogger(__name__)


class WholeFileIO(CheckpointIO):
    """Checkpoints that are there whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside the target, then rename."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read without running code."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file."""
        Path(path).unlink(missing_ok=True)


class EndOnSignal(L.Callback):
    """End between two batches on Ctrl-C or SIGTERM, all processes of the run at the same; a second one ends at once."""

    def __init__(self, folder: RunFolder, processes: Processes) -> None:
        self.folder, self.processes = folder, processes
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over, after Lightning has set its own handlers."""
        try:
            self._previous = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals are not ours to handle
            self._previous = {}

    def _receive(self, signal_number: int, frame: FrameType | None) -> None:
        self._received = signal_number
        for number in self._previous:
            signal.signal(number, signal.SIG_DFL)

    def check(self) -> None:
        """End if asked to.

        Raises:
            Interrupted: A signal has arrived.
        """
        if self._received is not None:
            raise Interrupted(self._received, f"go on with: {format_resume(self.folder.path)}")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        """End here if any process was asked to."""
        # A signal that arrives meanwhile must not be overwritten.
        if highest := int(self.processes.find_highest(float(self._received or 0))):
            self._received = highest
        self.check()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        """End here if asked to; processes validate different numbers of images, so each looks for itself."""
        self.check()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    on_exception = teardown  # Lightning calls no teardown after an exception


class RunWriter(L.Callback):
    """After each epoch: ``metrics.csv``, curves and TensorBoard, then the checkpoints.

    Each checkpoint holds the rows up to its epoch, from which a resume writes ``metrics.csv`` anew: whenever the run
    was killed, each epoch is in it once.
    """

    def __init__(self, folder: RunFolder, rows: list[MetricsRow]) -> None:
        self.folder = folder
        self.rows = rows
        self._started = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write everything that the epoch made."""
        module = pl_module
        if not isinstance(module, TrainingModule):
            raise TypeError(f"expected a TrainingModule, got {type(module).__name__}")
        epoch = trainer.current_epoch + 1
        row: MetricsRow = {"epoch": epoch, "step": trainer.global_step}
        row |= module.average_losses()
        row["learning_rate"] = module.last_learning_rate
        row |= flatten_scores(module.scores)
        row["seconds"] = round(time.monotonic() - self._started, 3)
        self.rows.append(row)
        if trainer.is_global_zero:
            self.folder.write_metrics(self.rows)
            self._log_to_tensorboard(trainer, row)
        trainer.save_checkpoint(self.folder.epoch_file(epoch))  # by all processes, of which the first writes
        if trainer.is_global_zero:
            self.folder.finish_epoch(epoch, self.rows, keep_all=module.plan.keep_checkpoints == "all")
            logger.info(format_epoch(row, self.folder))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the rows and how many epochs there are to be, so that a resume needs nothing but the checkpoint."""
        own = checkpoint.setdefault(CHECKPOINT_KEY, {})
        own["metrics"], own["num_epochs"] = self.rows, trainer.max_epochs

    def _log_to_tensorboard(self, trainer: L.Trainer, row: MetricsRow) -> None:
        logger = trainer.logger
        if isinstance(logger, TensorBoardLogger):
            values = {name: value for name, value in row.items() if value is not None and name != "step"}
            logger.log_metrics(values, step=trainer.global_step)
            logger.experiment.flush()


def format_epoch(row: MetricsRow, folder: RunFolder) -> str:
    """One line on a finished epoch."""

    def text(name: str) -> str:
        return "-" if row[name] is None else f"{row[name]:.3f}"

    return (
        f"epoch {row['epoch']:.0f}  step {row['step']:.0f}  loss {row['loss']:.4f}  "
        f"mask AP {text('val_mask_AP')}  AP50 {text('val_mask_AP50')}  AP75 {text('val_mask_AP75')}  "
        f"box AP {text('val_box_AP')}  {row['seconds']:.1f} s  -> {folder.path}"
    )


class ReportProgress(L.Callback):
    """Says after each step how far the run is, its loss and the time that is left."""

    def __init__(self, datamodule: InstanceDataModule, progress: Progress) -> None:
        self.datamodule, self.progress = datamodule, progress
        self._first_step, self._started = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, at the step that a resume begins with."""
        self._first_step, self._started = trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        """Tell the step."""
        step, total_steps = trainer.global_step, self.datamodule.total_steps
        seconds_a_step = (time.monotonic() - self._started) / max(step - self._first_step, 1)
        seconds_left = seconds_a_step * (total_steps - step)
        if (pace := self.datamodule.pace) is not None:
            total_steps, seconds_left = round(step / max(pace.share, 1e-3)), pace.seconds_left
        loss = ""
        if isinstance(pl_module, TrainingModule) and pl_module.num_batches:
            loss = f"loss {pl_module.losses['loss'] / pl_module.num_batches:.3f}  "
        epoch = f"epoch {trainer.current_epoch + 1}/{self.datamodule.num_epochs}"
        self.progress(step, total_steps, f"{epoch}  {loss}{format_seconds(seconds_left)} left")


def format_seconds(seconds: float) -> str:
    """Time as people say it: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
