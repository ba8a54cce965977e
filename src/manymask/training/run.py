"""Train a model, from the check of every file to the last checkpoint."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy
from timm.layers.norm_act import convert_sync_batchnorm

from manymask.core import Category
from manymask.core.files import write_file
from manymask.core.progress import Progress
from manymask.errors import DatasetError, PlanError
from manymask.formats.splits import choose_parts
from manymask.modeling.build import assemble_model
from manymask.modeling.device import choose_device, choose_precision
from manymask.modeling.weights import load_starting_weights
from manymask.plan import (
    AUTO,
    SETTINGS,
    Plan,
    change_plan,
    make_plan,
    read_plan,
    write_plan,
)
from manymask.planning.planner import Decision, write_explanation
from manymask.run_folder import MetricsRow, RunFolder, count_epochs
from manymask.training.callbacks import EndOnSignal, ReportProgress, RunWriter, WholeFileIO
from manymask.training.diagnosis import LEAST_SECONDS, TIME_SHARE, diagnose_run
from manymask.training.failures import explain_failures
from manymask.training.global_state import keep_global_state
from manymask.training.loading import InstanceDataModule, check_batches
from manymask.training.module import TrainingModule
from manymask.training.processes import TIMEOUT, Processes, explain_lost, join_processes, quiet_lightning
from manymask.training.resuming import (
    check_changes,
    check_length,
    check_plan_file,
    check_retired,
    find_resume,
    reload_data,
)
from manymask.training.setup import TrainingData, check_start, decide_settings, read_data, split_data
from manymask.training.time_budget import Pace
from manymask.wording import count_of

logger = logging.getLogger(__name__)

# From fewer images BatchNorm measures too roughly, so that devices measure together (arXiv 1803.08494, figure 1).
LEAST_FOR_BATCHNORM = 8


@keep_global_state()
def train(
    data: str | Path | None = None,
    *,
    output: str | Path | None = None,
    recipe: str | None = None,
    val: str | Path | None = None,
    data_format: str | None = None,
    resume: str | Path | None = None,
    started: float | None = None,
    settings: Mapping[str, Any] | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Train a model and return its run folder.

    Started by ``torchrun`` or SLURM several times, the processes train one model together (docs/scaling.md): each sees
    its part of every batch, and the steps are those that one process would take.

    Args:
        data: The training data, or a data set that is split into ``train``, ``val`` and perhaps ``test``; with
            ``resume`` only where it has moved.
        output: The run folder, which must be empty or new; ``runs/<name of the data>`` by default.
        recipe: Where the settings start from: ``auto`` (by default), which decides them by the data; ``baseline``; or a
            ``plan.json``.
        val: A separate validation set in the format of ``data``; by default that of a data set that is split, else a
            part of ``data`` is held out (``val_fraction``).
        data_format: Name of the reader; found out from the folder by default.
        resume: A run folder, or a checkpoint in one, to go on with.
        started: When the command began, on ``time.monotonic``, from which ``minutes`` count; now by default.
        settings: Settings of the plan by name, whose values may be text.
        devices: Processes on each machine, if they are to be checked.
        num_nodes: Machines, likewise.
        progress: Called with the number of images looked at, then of steps done, their number, and what is being done.

    Raises:
        ManymaskError: Data, settings or checkpoint cannot be used, another process trains in the run folder, or
            training cannot go on; see ``manymask.errors``.
        Interrupted: Ctrl-C or SIGTERM arrived; the run can be resumed.
    """
    started = time.monotonic() if started is None else started
    processes = join_processes(_find_device(recipe, resume, settings or {}), devices, num_nodes)
    with ExitStack() as claims, explain_lost(processes):
        start = processes.run_on_first(
            lambda: _begin(claims, data, output, recipe, val, data_format, resume, started, settings or {}, progress)
        )
        fit(start, processes, progress)
    return start.folder.path


def _find_device(recipe: str | None, resume: str | Path | None, settings: Mapping[str, Any]) -> torch.device:
    """The device that a run will have, before its plan is made."""
    if resume is not None and "device" not in settings:
        return choose_device(read_plan(find_resume(Path(resume))[0].plan_file).device)
    return choose_device(make_plan(str(recipe or AUTO), settings).device)


@dataclass(frozen=True)
class Start:
    """A run that can begin or go on.

    Attributes:
        folder: Its folder.
        plan: All settings.
        data: Its images.
        checkpoint: What it goes on from; None at its beginning.
        started: When the command began, on the clock of the first process.
        explanation: The reason for each setting, where rules decided them.
    """

    folder: RunFolder
    plan: Plan
    data: TrainingData
    checkpoint: Path | None
    started: float
    explanation: str | None


def _begin(
    claims: ExitStack,
    data: str | Path | None,
    output: str | Path | None,
    recipe: str | None,
    val: str | Path | None,
    data_format: str | None,
    resume: str | Path | None,
    started: float,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> Start:
    """Claim the run folder, read all data and decide every setting; the arguments are those of ``train``."""
    if resume is None:
        if data is None:
            raise PlanError("expected a data set to train on; for example: manymask train data/train")
        folder, checkpoint = RunFolder(Path(output or _choose_folder(Path(data)))), None
        folder.check_unused()
    else:
        folder, checkpoint = find_resume(Path(resume))
        if output is not None and Path(output).resolve() != folder.path.resolve():
            raise PlanError(f"a resumed run stays in its folder, {folder.path}; leave --output out")
        read_plan(folder.plan_file)  # refuses what is no run, where the claim would make a folder
    claims.enter_context(folder.claim())
    decisions: Sequence[Decision] = ()
    if resume is None and data is not None:
        folder.check_unused()  # again: another process may have had the folder since
        plan, decisions, data_set = prepare(data, recipe, val, data_format, settings, progress)
    else:
        plan = read_plan(folder.plan_file)
        if checkpoint is not None:
            check_retired(folder.plan_file)
            check_plan_file(plan, folder.plan_file, checkpoint)
        plan = check_changes(plan, recipe, settings)
        choose_device(plan.device)
        data_set = reload_data(plan, data, val, data_format, progress)
        folder.remove_partial_files()
        if checkpoint is None:
            logger.info(f"no epoch of {folder.path} was finished: starting at step 0")
    plan = plan.model_copy(update={"data": data_set.record})
    explanation = write_explanation(decisions) if decisions else None
    return Start(folder, plan, data_set, checkpoint, started, explanation)


@keep_global_state()
def plan_run(
    data: str | Path,
    *,
    recipe: str | Path | None = None,
    val: str | Path | None = None,
    data_format: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[Plan, tuple[Decision, ...]]:
    """The plan that ``train`` would make with the same arguments, and with the recipe ``auto`` why; trains nothing.

    Raises:
        ManymaskError: Data or settings cannot be used.
    """
    plan, decisions, _ = prepare(data, recipe, val, data_format, settings or {}, progress)
    return plan, decisions


def prepare(
    data: str | Path,
    recipe: str | Path | None,
    val: str | Path | None,
    data_format: str | None,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> tuple[Plan, tuple[Decision, ...], TrainingData]:
    """Read and check the data and decide every setting; the arguments are those of ``train``.

    Returns:
        The plan, the reason for each setting with the recipe ``auto``, and the images.
    """
    if not Path(data).exists():
        raise DatasetError(f"{data} does not exist; give a folder of labelled images, or a COCO file")
    recipe = str(recipe or AUTO)
    draft = make_plan(recipe, settings)
    check_start(draft, settings if recipe == AUTO else SETTINGS)
    as_read = draft
    if recipe == AUTO and "normalization" not in settings:
        as_read = change_plan(draft, {"normalization": "image"})  # what the rules choose for values that need it
    parts = choose_parts(Path(data), Path(val) if val else None)
    inspected = read_data(parts, data_format, as_read, progress)
    plan, decisions = decide_settings(inspected, draft, settings, is_auto=recipe == AUTO)
    for decision in decisions:
        if decision.setting == "epoch_steps" and plan.minutes is None:
            logger.info(f"{decision.because}; --minutes N fits a run to your time")
    data_set = split_data(inspected, plan)
    return plan.resolve_detections(data_set.record.max_instances), decisions, data_set


def _choose_folder(data: Path) -> Path:
    """The default run folder, named after the data's folder."""
    data = data.resolve()
    return Path("runs") / (data.parent.name if data.is_file() else data.name)


def fit(start: Start, processes: Processes, progress: Progress | None) -> None:
    """Run the epochs that are left.

    Raises:
        TrainingError: The loss is not finite, or memory or disk is full.
        Interrupted: Ctrl-C or SIGTERM arrived.
    """
    folder, plan, data = start.folder, start.plan, start.data
    device = processes.choose_device(choose_device(plan.device))
    datamodule = InstanceDataModule(
        data.train,
        data.val,
        plan,
        weights=data.weights,
        scales=data.scales,
        costs=(data.train_costs, data.val_costs),
        processes=processes,
        pin_memory=device.type == "cuda",
    )
    rows, num_epochs = processes.run_on_first(lambda: _find_place(start, datamodule))
    if len(rows) >= num_epochs:
        return
    is_resumed = start.checkpoint is not None
    module = _make_module(datamodule, plan, data, processes, is_gpu=device.type != "cpu", has_weights=is_resumed)
    kept_back = max(TIME_SHARE * (plan.minutes or 0) * 60, LEAST_SECONDS)  # for the diagnosis
    if plan.minutes is not None:
        deadline = start.started + plan.minutes * 60 - sum(row["seconds"] or 0 for row in rows)
        pace = Pace(num_epochs, deadline - kept_back, len(rows), processes.read_clock)
        datamodule.pace = module.pace = pace
    processes.run_on_first(lambda: _write_start(start, datamodule, device, processes))
    end_on_signal = EndOnSignal(folder, processes)
    callbacks = [end_on_signal, RunWriter(folder, rows)]
    if progress is not None or processes.count > 1:
        # In each process, because asking for the time that is left is something that all do together.
        callbacks.append(ReportProgress(datamodule, (processes.is_first and progress) or (lambda *_: None)))
    with explain_failures(), quiet_lightning():
        trainer = _make_trainer(folder, plan, device, num_epochs, callbacks, processes)
        try:
            trainer.fit(module, datamodule=datamodule, ckpt_path=folder.last if is_resumed else None, weights_only=True)
        except RuntimeError:
            end_on_signal.check()  # a signal to the whole process group may end a loader before this process looks
            raise
    if processes.is_first:
        took = sum(row["seconds"] or 0 for row in rows)
        diagnose_run(folder, data, module, TIME_SHARE * took if plan.minutes is None else kept_back)


def _find_place(start: Start, datamodule: InstanceDataModule) -> tuple[list[MetricsRow], int]:
    """The rows of the epochs that are done, and how many there are to be."""
    folder, plan, checkpoint, num_epochs = start.folder, start.plan, start.checkpoint, datamodule.num_epochs
    check_batches(plan, len(start.data.train), datamodule.processes.count)
    if checkpoint is None:
        return [], num_epochs
    is_prolonged = check_length(plan, checkpoint, datamodule.steps_per_epoch)
    rows = folder.rewind(checkpoint)
    if not is_prolonged:
        num_epochs = min(num_epochs, count_epochs(folder.last, plan, rows))
    if len(rows) >= num_epochs:
        logger.info(f"the run is complete: {len(rows)} of {num_epochs} epochs are done, nothing is left to do")
    else:
        folder.diagnosis_file.unlink(missing_ok=True)
        logger.info(f"going on from {checkpoint}, the end of epoch {len(rows)}/{num_epochs}")
    return rows, num_epochs


def _write_start(start: Start, datamodule: InstanceDataModule, device: torch.device, processes: Processes) -> None:
    """Write the plan; only once the network is built, so that a plan that cannot be built leaves no folder behind."""
    write_plan(start.plan, start.folder.plan_file)
    if start.explanation is not None:
        write_file(start.folder.explanation_file, start.explanation)
    logger.info(_describe_start(start.plan, device, datamodule, start.folder))
    if processes.count > 1:
        logger.info(f"{processes.count} processes, each on its part of every batch of {start.plan.batch_size} images")


def _describe_start(plan: Plan, device: torch.device, datamodule: InstanceDataModule, folder: RunFolder) -> str:
    backbone = f" with {plan.backbone}" if plan.backbone else ""
    length = f"{datamodule.total_steps} steps"
    if plan.minutes is not None:
        length = f"{plan.minutes:g} minutes (about {length})"
    return (
        f"{plan.architecture}{backbone} on {device} in {choose_precision(plan.precision, device)}, "
        f"{length} in {count_of(datamodule.num_epochs, 'epoch')}, at most {plan.max_detections} detections an image; "
        f"every setting: {folder.explanation_file if folder.explanation_file.exists() else folder.plan_file}"
    )


def _make_module(
    datamodule: InstanceDataModule,
    plan: Plan,
    data: TrainingData,
    processes: Processes,
    *,
    is_gpu: bool,
    has_weights: bool,
) -> TrainingModule:
    """The network with its starting weights, or where a checkpoint has them (``has_weights``) without."""
    categories = tuple(Category(*entry) for entry in data.record.categories)
    torch.manual_seed(plan.seed)
    network = assemble_model(len(categories) + 1, plan)
    if not has_weights:
        load_starting_weights(network, plan)
    if processes.count > 1 and is_gpu and plan.batch_size / processes.count < LEAST_FOR_BATCHNORM:
        # timm's own, since torch's drops the activation in timm's layers. The heads see boxes, of which there are many.
        network.backbone = convert_sync_batchnorm(network.backbone)
    steps = (datamodule.steps_per_epoch, datamodule.total_steps)
    return TrainingModule(network, plan, categories, data.val.categories, *steps, processes)


def _make_trainer(
    folder: RunFolder,
    plan: Plan,
    device: torch.device,
    num_epochs: int,
    callbacks: list[L.Callback],
    processes: Processes,
) -> L.Trainer:
    is_alone, is_gpu = processes.count == 1, device.type != "cpu"
    plugins: list[Any] = [make_precision(plan.precision, device), WholeFileIO()]
    if is_alone:
        plugins.append(LightningEnvironment())  # in the shell of a SLURM job it would wait for other tasks
    # Statistics of BatchNorm are averaged by this package where a validation needs them.
    strategy = "auto" if is_alone else DDPStrategy(timeout=TIMEOUT, broadcast_buffers=False)
    return L.Trainer(
        accelerator="gpu" if is_gpu else "cpu",
        devices=[device.index or 0] if is_gpu and is_alone else processes.num_devices,
        num_nodes=processes.num_nodes,
        strategy=strategy,
        plugins=plugins,
        max_epochs=num_epochs,
        accumulate_grad_batches=plan.accumulate,
        gradient_clip_val=plan.gradient_clip or None,
        deterministic=plan.deterministic,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        callbacks=callbacks,
        logger=TensorBoardLogger(str(folder.path), name="tensorboard", version=""),
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def make_precision(precision: str, device: torch.device) -> Precision:
    """Lightning's plugin: fp16 has one scaler for the whole run, whose state is in each checkpoint."""
    chosen = choose_precision(precision, device)
    if chosen == "fp32":
        return Precision()
    if chosen == "bf16":
        return MixedPrecision("bf16-mixed", device.type)
    return MixedPrecision("16-mixed", device.type, torch.amp.GradScaler(device.type))
