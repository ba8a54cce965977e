"""Train a model, from the check of every file to the last checkpoint."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from manymask.core import Category, Dataset, Record, Sample
from manymask.data.datamodule import InstanceDataModule
from manymask.data.transforms import scale_pixels
from manymask.errors import CheckpointError, DatasetError, PlanError
from manymask.formats import DatasetCheck, check_dataset, read_dataset
from manymask.modeling.architectures import assemble_model, check_backbone, load_starting_weights
from manymask.modeling.checkpoint import CHECKPOINT_KEY, read_checkpoint
from manymask.modeling.device import choose_device, choose_precision
from manymask.planning import (
    CHANGEABLE,
    SETTINGS,
    DataRecord,
    Plan,
    change_plan,
    load_plan,
    make_plan,
    read_plan,
    write_plan,
)
from manymask.training.callbacks import EndOnSignal, RunWriter, ShowProgress, WholeFileIO, print_line
from manymask.training.failures import explain_failures
from manymask.training.module import TrainingModule
from manymask.training.run_folder import MetricsRow, RunFolder


@dataclass(frozen=True)
class TrainingData:
    """The images of a run and what is recorded of them."""

    train: Dataset
    val: Dataset
    record: DataRecord


def train(
    data: str | Path | None = None,
    *,
    output: str | Path | None = None,
    recipe: str | None = None,
    val: str | Path | None = None,
    data_format: str | None = None,
    resume: str | Path | None = None,
    **settings: Any,
) -> Path:
    """Train a model and return its run folder.

    Args:
        data: The training data; with ``resume`` only where it has moved.
        output: The run folder, which must be empty or new; ``runs/<name of the data>`` by default.
        recipe: Where the settings start from; ``baseline`` by default.
        val: A separate validation set in the format of ``data``; by default a part of ``data`` is held out
            (``val_fraction``).
        data_format: Name of the reader; found out from the folder by default.
        resume: A run folder, or a checkpoint in one, to go on with.
        **settings: Settings of the plan by name.

    Raises:
        ManymaskError: Data, settings or checkpoint cannot be used, or training cannot go on; see ``manymask.errors``.
        Interrupted: Ctrl-C or SIGTERM arrived; the run can be resumed.
    """
    console = Console(stderr=True)
    if resume is None:
        if data is None:
            raise PlanError("expected a data set to train on; for example: manymask train data/train")
        folder, checkpoint = RunFolder(Path(output or _choose_folder(Path(data)))), None
        if not Path(data).exists():
            raise DatasetError(f"{data} does not exist; give a folder of labelled images, or a COCO file")
        folder.check_unused()
        plan = make_plan(recipe or "baseline", settings)
        check_start(plan)
        data_set = load_data(Path(data), Path(val) if val else None, data_format, plan, console)
        plan = plan.resolve_detections(data_set.record.max_instances)
    else:
        folder, checkpoint = find_resume(Path(resume))
        if output is not None and Path(output).resolve() != folder.path.resolve():
            raise PlanError(f"a resumed run stays in its folder, {folder.path}; leave --output out")
        plan = read_plan(folder.plan_file)
        if checkpoint is not None:
            check_plan_file(plan, folder.plan_file, checkpoint)
        plan = check_changes(plan, recipe, settings)
        choose_device(plan.device)
        data_set = reload_data(plan, data, val, data_format, console)
        folder.remove_partial_files()
        if checkpoint is None:
            print_line(console, f"no epoch of {folder.path} was finished: starting at step 0")
    fit(folder, plan.model_copy(update={"data": data_set.record}), data_set, checkpoint, console)
    return folder.path


def _choose_folder(data: Path) -> Path:
    """The default run folder, named after the data's folder."""
    data = data.resolve()
    return Path("runs") / (data.parent.name if data.is_file() else data.name)


def check_start(plan: Plan) -> None:
    """Refuse what is not there before every file is checked, not after.

    Raises:
        PlanError: There is no such device or backbone.
        CheckpointError: There is no such weights file.
    """
    choose_device(plan.device)
    if plan.backbone is not None:
        check_backbone(plan.backbone)
    if plan.weights not in ("coco", "imagenet", "none") and not Path(plan.weights).is_file():
        raise CheckpointError(
            f"weights is {plan.weights!r}, expected coco, imagenet, none or a file; no such file is there"
        )


def load_data(path: Path, val_path: Path | None, data_format: str | None, plan: Plan, console: Console) -> TrainingData:
    """Read and check every file, and split the images.

    Raises:
        DatasetError: A file cannot be used.
    """
    dataset = read_dataset(path, data_format)
    check = _check(dataset, plan, console)
    if val_path is not None:
        train_set, val_set = dataset, read_dataset(val_path, dataset.data_format)
        val_check = _check(val_set, plan, console)
        fingerprint = check.fingerprint + val_check.fingerprint
    else:
        train_set, val_set = split_dataset(dataset, plan.val_fraction, plan.split_seed)
        val_check, fingerprint = check, check.fingerprint
        if len(dataset) == 1:
            print_line(console, "warning: one image only: trained and validated on the same, so scores mean little")
    counts, val_counts = ({image.name: image.num_instances for image in c.images} for c in (check, val_check))
    record = DataRecord(
        path=str(path.resolve()),
        val_path=str(val_path.resolve()) if val_path else None,
        data_format=dataset.data_format,
        fingerprint=fingerprint,
        categories=tuple((category.id, category.name) for category in dataset.categories),
        train_names=tuple(r.name for r in train_set.records),
        val_names=tuple(r.name for r in val_set.records),
        max_instances=max(counts[r.name] for r in train_set.records),
    )
    print_line(
        console,
        f"{len(train_set)} images to train on, {len(val_set)} to validate on; {len(dataset.categories)} classes; "
        f"at most {record.max_instances} instances an image",
    )
    cap = plan.resolve_detections(record.max_instances).max_detections
    _warn_of_cap(val_set.records, val_counts, cap, console)
    return TrainingData(train_set, val_set, record)


def _warn_of_cap(records: tuple[Record, ...], counts: dict[str, int], cap: int, console: Console) -> None:
    """Say so where validation images hold more instances than can ever be found."""
    fullest = max(records, key=lambda record: counts[record.name])
    num_instances = counts[fullest.name]
    if num_instances > cap:
        print_line(
            console,
            f"warning: validation image {fullest.name} holds {num_instances} instances, but at most {cap} detections "
            f"an image are scored; set detections_per_image to at least {num_instances} in a new run",
        )


def _check(dataset: Dataset, plan: Plan, console: Console) -> DatasetCheck:
    """Decode every file as training will, so that what it would stop at is found before the first step."""
    as_in_training = replace(dataset, read_record=partial(_read_scalable, dataset.read_record))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(f"checking {len(dataset)} images of {dataset.root}"), total=len(dataset))
        return check_dataset(as_in_training, lambda num_done: bar.update(task, completed=num_done), plan.num_workers)


def _read_scalable(
    read_record: Callable[[Record, tuple[Category, ...]], Sample], record: Record, categories: tuple[Category, ...]
) -> Sample:
    sample = read_record(record, categories)
    scale_pixels(sample.pixels, str(sample.path))
    return sample


def split_dataset(dataset: Dataset, val_fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold out a random share of the images, at least one; a single image serves as both parts."""
    if len(dataset) == 1:
        return dataset, dataset
    num_val = min(max(1, round(val_fraction * len(dataset))), len(dataset) - 1)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    return dataset.subset(sorted(order[num_val:])), dataset.subset(sorted(order[:num_val]))


def find_resume(path: Path) -> tuple[RunFolder, Path | None]:
    """The run folder and the checkpoint to go on from; None where no epoch was finished.

    Raises:
        CheckpointError: The checkpoint is damaged.
        PlanError: There is no such run.
    """
    if path.is_file():
        read_checkpoint(path)
        root = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        return RunFolder(root), path
    folder = RunFolder(path)
    return folder, folder.find_resume_checkpoint() if folder.plan_file.exists() else None


def check_plan_file(plan: Plan, file: Path, checkpoint: Path) -> None:
    """Refuse a ``plan.json`` that was changed by hand.

    Raises:
        PlanError: A setting that changes the result is another than the checkpoint's.
    """
    original = load_plan(read_checkpoint(checkpoint)[CHECKPOINT_KEY]["plan"], str(checkpoint))
    for name in ("recipe", *SETTINGS):
        found, expected = getattr(plan, name), getattr(original, name)
        if found != expected and name not in CHANGEABLE:
            raise PlanError(
                f"{file} says {name}={found}, but the checkpoint was made with {name}={expected}; restore it"
            )


def check_changes(plan: Plan, recipe: str | None, settings: dict[str, Any]) -> Plan:
    """The plan of a run that is resumed with some settings given again.

    Raises:
        PlanError: A setting that changes the result is another than it was.
    """
    if recipe is not None and recipe != plan.recipe:
        raise PlanError(f"the run began with recipe {plan.recipe!r}; a resume cannot change it to {recipe!r}")
    new_plan = change_plan(plan, settings).resolve_detections(plan.data.max_instances if plan.data else 0)
    for name in SETTINGS:
        old, new = getattr(plan, name), getattr(new_plan, name)
        if old != new and name not in CHANGEABLE:
            raise PlanError(
                f"the run began with {name}={old}; a resume cannot change it to {new}: leave it out, or start a new run"
            )
    return new_plan


def reload_data(
    plan: Plan, data: str | Path | None, val: str | Path | None, data_format: str | None, console: Console
) -> TrainingData:
    """The data of a run that is resumed, from where it was or has moved to.

    Raises:
        DatasetError: The data is not what the run began with.
        PlanError: The reader is another than it was, a validation set is given to a run without one, or the plan does
            not say what the run began with.
    """
    old = plan.data
    if old is None:
        raise PlanError("plan.json does not say what the run was trained on; start a new run")
    if data_format not in (None, old.data_format):
        raise PlanError(f"the run began with data format {old.data_format}; a resume cannot change it to {data_format}")
    if val is not None and old.val_path is None:
        raise PlanError("the run began without a separate validation set; leave --val out")
    val_path = val or old.val_path
    found = load_data(Path(data or old.path), Path(val_path) if val_path else None, old.data_format, plan, console)
    if found.record.model_copy(update={"path": old.path, "val_path": old.val_path}) != old:
        changed = sorted({*old.train_names, *old.val_names} ^ {*found.record.train_names, *found.record.val_names})
        what = f"images added or removed: {', '.join(changed[:5])}" if changed else "pixels, labels or classes changed"
        raise DatasetError(
            f"the data in {data or old.path} is not what the run began with ({what}); restore it, or start a new run"
        )
    return found


def fit(folder: RunFolder, plan: Plan, data: TrainingData, checkpoint: Path | None, console: Console) -> None:
    """Run the epochs that are left.

    Raises:
        TrainingError: The loss is not finite, or memory or disk is full.
        Interrupted: Ctrl-C or SIGTERM arrived.
    """
    device = choose_device(plan.device)
    datamodule = InstanceDataModule(data.train, data.val, plan, pin_memory=device.type == "cuda")
    num_epochs = datamodule.num_epochs
    rows: list[MetricsRow] = []
    if checkpoint is not None:
        rows = folder.rewind(checkpoint)
        num_done = len(rows)
        if num_done >= num_epochs:
            print_line(
                console, f"the run is complete: {num_done} of {num_epochs} epochs are done, nothing is left to do"
            )
            return
        print_line(console, f"going on from {checkpoint}, the end of epoch {num_done}/{num_epochs}")
    module = _make_module(datamodule, plan, data, has_weights=checkpoint is not None)
    write_plan(plan, folder.plan_file)  # only now, so that a plan that cannot be built leaves no folder behind
    print_line(
        console,
        f"{plan.architecture}{f' with {plan.backbone}' if plan.backbone else ''} on {device} in "
        f"{choose_precision(plan.precision, device)}, {datamodule.total_steps} steps in {num_epochs} epochs, "
        f"at most {plan.max_detections} detections an image",
    )
    end_on_signal = EndOnSignal(folder)
    callbacks = [end_on_signal, RunWriter(folder, rows, console)]
    callbacks.append(ShowProgress(datamodule.total_steps, num_epochs, console))
    with explain_failures(), _quiet_lightning():
        trainer = _make_trainer(folder, plan, device, num_epochs, callbacks)
        try:
            trainer.fit(module, datamodule=datamodule, ckpt_path=folder.last if checkpoint else None, weights_only=True)
        except RuntimeError:
            end_on_signal.check()  # a signal to the whole process group may end a loader before this process looks
            raise


def _make_module(datamodule: InstanceDataModule, plan: Plan, data: TrainingData, has_weights: bool) -> TrainingModule:
    """The network with its starting weights, or where a checkpoint has them (``has_weights``) without."""
    categories = tuple(Category(*entry) for entry in data.record.categories)
    torch.manual_seed(plan.seed)
    network = assemble_model(len(categories) + 1, plan)
    if not has_weights:
        load_starting_weights(network, plan)
    steps = (datamodule.steps_per_epoch, datamodule.total_steps)
    return TrainingModule(network, plan, categories, data.val.categories, *steps)


def _make_trainer(
    folder: RunFolder, plan: Plan, device: torch.device, num_epochs: int, callbacks: list[L.Callback]
) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=1 if device.type == "cpu" else [device.index or 0],
        plugins=[make_precision(plan.precision, device), WholeFileIO()],
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


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's notes on its own set-up, and on loaders that this package chose on purpose, from the user."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
