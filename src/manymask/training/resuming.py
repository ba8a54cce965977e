"""Go on with a run: what it goes on from, and refusals of what would give another result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manymask.core.files import explain_reading
from manymask.core.progress import Progress
from manymask.errors import DatasetError, PlanError
from manymask.formats.splits import Parts, choose_parts
from manymask.imaging.orientation import CHOICE_NAME
from manymask.modeling.checkpoint import CHECKPOINT_KEY, read_checkpoint
from manymask.plan import LENGTH, Plan, change_plan, list_changes, load_plan
from manymask.run_folder import RunFolder, read_rows
from manymask.training.loading import count_steps
from manymask.training.module import HOLD_SHARE
from manymask.training.setup import TrainingData, read_data, split_data
from manymask.wording import list_some


@explain_reading()
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
    if changed := list_changes(original, plan):
        name, found, expected = changed[0], getattr(plan, changed[0]), getattr(original, changed[0])
        raise PlanError(f"{file} says {name}={found}, but the checkpoint was made with {name}={expected}; restore it")


def check_retired(file: Path) -> None:
    """Refuse to go on with a run whose images this version would normalize otherwise.

    Raises:
        PlanError: The ``plan.json`` of an earlier version limited how far the contrast of an image was stretched.
    """
    values = json.loads(file.read_bytes())
    if values.get("min_contrast") and values.get("normalization") == "image":
        raise PlanError(
            f"the run began with min_contrast={values['min_contrast']} in {file}, which this version no longer has, so "
            "its remaining epochs would see other intensities; start a new run"
        )


def check_changes(plan: Plan, recipe: str | None, settings: Mapping[str, Any]) -> Plan:
    """The plan of a run that is resumed with some settings given again.

    Raises:
        PlanError: A setting that changes the result is another than it was.
    """
    if recipe is not None and recipe != plan.recipe:
        raise PlanError(f"the run began with recipe {plan.recipe!r}; a resume cannot change it to {recipe!r}")
    new_plan = change_plan(plan, settings).resolve_detections(plan.data.max_instances if plan.data else 0)
    if changed := list_changes(plan, new_plan):
        name, old, new = changed[0], getattr(plan, changed[0]), getattr(new_plan, changed[0])
        raise PlanError(
            f"the run began with {name}={old}; a resume cannot change it to {new}: leave it out, or start a new run"
        )
    return new_plan


def check_length(plan: Plan, checkpoint: Path, steps_per_epoch: int) -> bool:
    """Whether a run that is resumed is to be longer or shorter than it was to be at a checkpoint.

    Raises:
        PlanError: Its learning rate was falling already at the checkpoint, or would have been.
    """
    old = load_plan(read_checkpoint(checkpoint)[CHECKPOINT_KEY]["plan"], str(checkpoint))
    if all(getattr(old, name) == getattr(plan, name) for name in LENGTH):
        return False
    num_steps = min(count_steps(either, steps_per_epoch) for either in (old, plan))
    if (read_rows(checkpoint)[-1]["step"] or 0) > HOLD_SHARE * num_steps:
        raise PlanError(
            f"the learning rate falls from step {HOLD_SHARE * num_steps:.0f} of {num_steps} on, which {checkpoint} is "
            "past; resume from an earlier epoch's checkpoint, of which keep_checkpoints=all keeps all, or start a new "
            "run from these weights"
        )
    return True


def reload_data(
    plan: Plan, data: str | Path | None, val: str | Path | None, data_format: str | None, progress: Progress | None
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
    own_val = Path(val) if val else None
    given = Parts(Path(old.path), own_val) if data is None else choose_parts(Path(data), own_val)
    parts = Parts(given.train, (given.val or Path(old.val_path)) if old.val_path else None)
    inspected = read_data(parts, old.data_format, plan, progress)
    found = split_data(inspected, plan)
    # The fingerprint holds all pixels and labels; plans of before have no digests of single images, and no sizes.
    places = ("path", "val_path", "train_digests", "val_digests", "object_sizes", "longest_object")
    if found.record.model_copy(update={name: getattr(old, name) for name in places}) != old:
        changed = sorted({*old.train_names, *old.val_names} ^ {*found.record.train_names, *found.record.val_names})
        what = (
            f"images added or removed: {list_some(changed)}"
            if changed
            else f"pixels, labels or classes changed, or {CHOICE_NAME} is set otherwise"
        )
        raise DatasetError(
            f"the data in {data or old.path} is not what the run began with ({what}); restore it, or start a new run"
        )
    return found
