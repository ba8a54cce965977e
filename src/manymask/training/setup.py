"""What comes before the first step: every file read once, the settings decided, the images split."""

import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from manymask.core import Category, Dataset, Record, Sample, match_categories
from manymask.core.progress import Progress
from manymask.errors import CheckpointError, DatasetError, PlanError
from manymask.formats import check_dataset, read_dataset
from manymask.formats.datasets import DatasetCheck, ImageCheck
from manymask.formats.splits import Parts, check_same_classes, tell_mixed
from manymask.imaging.normalization import Normalization, Scales, measure_scale
from manymask.inspection import group_images
from manymask.inspection.doubts import LabelDoubts
from manymask.inspection.inspector import Inspection, inspect_dataset
from manymask.modeling.backbones import check_backbone
from manymask.modeling.catalogue import list_shipped, resolve_weights
from manymask.modeling.checkpoint import read_training_plan
from manymask.modeling.device import choose_device
from manymask.plan import SETTINGS, DataRecord, ObjectSizes, Plan, load_plan
from manymask.planning.planner import Decision, fit_schedule, format_value, plan_training
from manymask.planning.rules import find_channels
from manymask.planning.sampling import weigh_images
from manymask.prediction.tiling import Tiling
from manymask.training.loading import PLAIN_LOOK
from manymask.training.processes import INSTANCE_PIXELS
from manymask.training.step_cost import find_machine, measure_step
from manymask.wording import count_of, list_some

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InspectedData:
    """Labelled images that have all been read once; those to validate on, where they are a set of their own."""

    dataset: Dataset
    inspection: Inspection
    val: Dataset | None
    val_check: DatasetCheck | None
    scales: Scales


@dataclass(frozen=True)
class TrainingData:
    """The images of a run, and what was recorded and measured of them.

    Attributes:
        train: Those to train on.
        val: Those to validate on.
        weights: How often each training image is drawn; None for all alike.
        record: What the plan keeps of them.
        scales: What brings the values of each to [0, 1].
        train_costs: About how dear a step on a crop of each training image is, in pixels.
        val_costs: About how dear the prediction of each validation image is, likewise.
    """

    train: Dataset
    val: Dataset
    weights: list[float] | None
    record: DataRecord
    scales: Scales
    train_costs: list[float]
    val_costs: list[float]


def check_start(plan: Plan, settings: Container[str] = SETTINGS) -> None:
    """Refuse what is not there, or does not fit, before every file is checked, not after.

    Args:
        plan: The settings.
        settings: Names of those that are not for rules to decide.

    Raises:
        PlanError: There is no such device or backbone, or the weights are another network's.
        CheckpointError: There is no such weights file.
    """
    choose_device(plan.device)
    if plan.backbone is not None:
        check_backbone(plan.backbone)
    if plan.weights not in ("coco", "imagenet", "none") and not resolve_weights(plan.weights).is_file():
        names = ", ".join(("coco", "imagenet", "none", *list_shipped()))
        raise CheckpointError(
            f"weights is {plan.weights!r}, expected {names}, a run folder or a file; no such file is there"
        )
    if (start := read_start(plan.weights)) is not None:
        for name in ("architecture", "backbone", "convolutions", "aspect_ratios", "box_stages"):
            own, expected = getattr(plan, name), getattr(start, name)
            can_be_made = name == "box_stages" and own > expected  # a second stage starts as a copy of the first
            if name in settings and own != expected and not can_be_made:
                raise PlanError(
                    f"weights={plan.weights} were trained with {name}={format_value(expected)}, not "
                    f"{format_value(own)}; set it so, or take other weights"
                )


def read_data(parts: Parts, data_format: str | None, plan: Plan, progress: Progress | None) -> InspectedData:
    """Read and check every file as training will, so that what it would stop at is found before the first step.

    Raises:
        DatasetError: A file cannot be used, or the classes of a data set's parts differ.
    """
    dataset, val = read_dataset(parts.train, data_format, **plan.reading), None
    tell_mixed(dataset)
    if plan.channels == "auto":
        plan = plan.model_copy(update={"channels": _look_at_channels(dataset)})
    if parts.val is not None:
        val = read_dataset(parts.val, dataset.format.name, **plan.reading)
        if parts.are_one:
            check_same_classes(dataset, val)
    _tell_notes(dataset, *([] if val is None else [val]))
    doubts, val_doubts = LabelDoubts(), LabelDoubts()
    scales: Scales = {}
    inspection = inspect_dataset(
        _read_as_training(dataset, plan, doubts, scales),
        progress=progress,
        num_workers=plan.num_workers,
        is_strict=True,
        group_by=plan.group_by,
    )
    _tell_findings(dataset, inspection)
    _tell_doubts(dataset, doubts)
    if val is None:
        return InspectedData(dataset, inspection, None, None, scales)
    val_check = check_dataset(_read_as_training(val, plan, val_doubts, scales), progress, plan.num_workers)
    _tell_doubts(val, val_doubts)
    return InspectedData(dataset, inspection, val, val_check, scales)


def _look_at_channels(dataset: Dataset) -> Any:
    """The setting ``channels`` for images such as the first."""
    try:
        return find_channels([dataset[0].image.num_channels])
    except DatasetError:  # reading all of them will say more
        return "auto"


def _read_as_training(dataset: Dataset, plan: Plan, doubts: LabelDoubts, scales: Scales) -> Dataset:
    """The data set, of whose images ``doubts`` and ``scales`` are told as they are read, by any thread."""
    normalization = Normalization.of(plan)

    def read(record: Record, categories: tuple[Category, ...]) -> Sample:
        try:
            sample = dataset.read_record(record, categories)
            sample.load()
        except DatasetError as error:
            copy = f"manymask inspect {dataset.root} --fix COPY"
            raise type(error)(f"{error}; or train on a copy without what is broken: {copy}") from error
        scales[sample.path, normalization] = measure_scale(sample.image, str(sample.path), normalization)
        doubts.add(sample, sample.to_instances())
        return sample

    return replace(dataset, read_record=read)


def _tell_notes(*datasets: Dataset) -> None:
    """Say what readers took in their own way; one that two parts share, such as that of their one file, only once."""
    notes = (one.message for dataset in datasets for one in dataset.problems if one.severity == "note")
    for message in dict.fromkeys(notes):
        logger.info(message)


def _tell_doubts(dataset: Dataset, doubts: LabelDoubts) -> None:
    for sentence in doubts.describe():
        logger.warning(f"{dataset.root}: {sentence}")


def _tell_findings(dataset: Dataset, inspection: Inspection) -> None:
    counts = {kind: sum(found.severity == kind for found in inspection.findings) for kind in ("fault", "warning")}
    if any(counts.values()):
        found = " and ".join(count_of(count, kind) for kind, count in counts.items() if count)
        logger.info(f"the doctor found {found} in {dataset.root}; see: manymask inspect {dataset.root}")


def decide_settings(
    data: InspectedData, draft: Plan, settings: Mapping[str, Any], *, is_auto: bool
) -> tuple[Plan, tuple[Decision, ...]]:
    """The plan of a run, and with the recipe ``auto`` why.

    Args:
        data: The images.
        draft: The recipe's plan with the user's own settings.
        settings: These settings.
        is_auto: Whether rules decide the others.

    Raises:
        PlanError: Settings do not fit each other.
    """
    if "minutes" in settings and "epoch_steps" in settings:
        raise PlanError("minutes decide how many steps an epoch has; leave epoch_steps out")
    fingerprint = data.inspection.fingerprint
    if draft.channels == "auto":
        draft = draft.model_copy(update={"channels": find_channels(fingerprint.channels)})
    if data.val_check is None:
        val_megapixels = draft.val_fraction * fingerprint.megapixels
    else:
        val_megapixels = sum(image.size[0] * image.size[1] for image in data.val_check.images) / 1e6
    machine = find_machine(choose_device(draft.device))

    def measure(plan: Plan) -> Any:
        logger.info("measuring a training step on this machine")
        return measure_step(plan, data.dataset, fingerprint, val_megapixels)

    if is_auto:
        return plan_training(fingerprint, machine, settings, measure, read_start)
    if draft.minutes is not None:
        return fit_schedule(draft, fingerprint, machine, settings, measure), ()
    return draft, ()


def read_start(weights: str) -> Plan | None:
    """The plan that weights were trained with; None where these are foreign, or their file does not say."""
    path = resolve_weights(weights)
    values = read_training_plan(path) if path.is_file() else None
    return None if values is None else load_plan(values, weights)


def split_data(data: InspectedData, plan: Plan) -> TrainingData:
    """Hold images out for validation, and record what the run is trained on.

    Raises:
        DatasetError: All images are of one group.
    """
    dataset, check = data.dataset, data.inspection.check
    if data.val is not None and data.val_check is not None:
        train_set, val_set, val_check = dataset, data.val, data.val_check
        fingerprint = check.fingerprint + val_check.fingerprint
    else:
        groups = group_images(dataset, plan.group_by)
        train_set, val_set = split_dataset(dataset, plan.val_fraction, plan.split_seed, groups)
        val_check, fingerprint = check, check.fingerprint
        if len(dataset) == 1:
            logger.warning("one image only: trained and validated on the same, so scores mean little")
    # Classes that only one of both parts has.
    for note in match_categories(val_set.categories, dataset.categories).notes:
        logger.warning(note)
    own, val_own = ({image.name: image for image in c.images} for c in (check, val_check))
    # What a resume compares, and a model needs to know.
    record = DataRecord(
        path=str(dataset.root.resolve()),
        val_path=str(data.val.root.resolve()) if data.val else None,
        data_format=dataset.format.name,
        fingerprint=fingerprint,
        categories=tuple((category.id, category.name) for category in dataset.categories),
        train_names=tuple(r.name for r in train_set.records),
        val_names=tuple(r.name for r in val_set.records),
        max_instances=max(own[r.name].num_instances for r in train_set.records),
        train_digests=tuple(own[r.name].digest for r in train_set.records),
        val_digests=tuple(val_own[r.name].digest for r in val_set.records),
        object_sizes=_measure_sizes(train_set, data.inspection),
        longest_object=_find_longest(train_set, data.inspection),
    )
    _warn_of_copies(record)
    logger.info(
        f"{count_of(len(train_set), 'image')} to train on, {len(val_set)} to validate on; "
        f"{count_of(len(dataset.categories), 'class')}; at most {count_of(record.max_instances, 'instance')} an image"
    )
    # What the plan cannot do for these images, said before the first step.
    if plan.touching_share and plan.crop_size == 0:
        logger.warning("touching_share does nothing: it chooses where crops lie, and crop_size is 0; set crop_size")
    tiling = Tiling.of(plan.model_copy(update={"data": record, **PLAIN_LOOK}))
    if tiling is not None and plan.crop_size == 0:
        _tell_crops([own[r.name] for r in train_set.records], tiling)
    cap = plan.resolve_detections(record.max_instances).max_detections
    _warn_of_cap([val_own[r.name] for r in val_set.records], cap, tiling)
    weights = _weigh(train_set, data.inspection, plan)
    train_costs = [_find_cost(own[r.name], plan.crop_size) for r in train_set.records]
    val_costs = [_find_cost(val_own[r.name], 0) for r in val_set.records]
    return TrainingData(train_set, val_set, weights, record, data.scales, train_costs, val_costs)


def _find_cost(image: ImageCheck, crop_size: int) -> float:
    """What a crop of an image (0: the whole) costs, in pixels."""
    height, width = image.size
    share = min(crop_size / height, 1.0) * min(crop_size / width, 1.0) if crop_size else 1.0
    return share * (height * width + INSTANCE_PIXELS * image.num_instances)


def _measure_sizes(train_set: Dataset, inspection: Inspection) -> ObjectSizes | None:
    """Quantiles of the objects' sizes; None where the training images hold no object."""
    facts = {image.name: image.instances for image in inspection.facts}
    areas = np.concatenate([facts[r.name].areas[facts[r.name].is_object] for r in train_set.records])
    if len(areas) == 0:
        return None
    p5, p25, p50, p75, p95 = np.percentile(np.sqrt(areas), [5, 25, 50, 75, 95]).round(1).tolist()
    return p5, p25, p50, p75, p95


def _find_longest(train_set: Dataset, inspection: Inspection) -> float | None:
    """The side that 99.9 % of the training objects are no longer than; None where there are none."""
    facts = {image.name: image.instances for image in inspection.facts}
    boxes = np.concatenate([facts[r.name].boxes[facts[r.name].is_object] for r in train_set.records])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    return float(np.quantile(sides, 0.999, method="higher")) if len(sides) else None


def _warn_of_copies(record: DataRecord) -> None:
    """Say so where images to validate on are also trained on, under whatever name."""
    trained = set(record.train_digests)
    names = [n for n, digest in zip(record.val_names, record.val_digests, strict=True) if digest in trained]
    if names and (record.val_path or len(record.train_names) > 1):  # of a single image it is said already
        logger.warning(
            f"{len(names)} of {len(record.val_names)} validation images have the very pixels of training "
            f"images, so that scores on them are too good: {list_some(names)}; validate on other images, or "
            "remove the copies"
        )


def _weigh(train_set: Dataset, inspection: Inspection, plan: Plan) -> list[float] | None:
    if plan.sampling == "uniform":
        return None
    facts = {image.name: image for image in inspection.facts}
    own = [facts[record.name] for record in train_set.records]
    return weigh_images(own, plan.crop_size, len(train_set.categories)).tolist()


def _tell_crops(images: Sequence[ImageCheck], tiling: Tiling) -> None:
    """Say so where images are too large to be trained on whole, although ``crop_size`` is 0."""
    if large := [image.name for image in images if max(image.size) > tiling.tile_size]:
        logger.info(
            f"{count_of(len(large), 'training image')} longer than {tiling.tile_size} pixels are trained on in crops "
            f"of that size: {list_some(large)}; set crop_size to choose another"
        )


def _warn_of_cap(images: Sequence[ImageCheck], cap: int, tiling: Tiling | None) -> None:
    """Say so where validation images that are seen whole hold more instances than can ever be found."""
    whole = [image for image in images if tiling is None or len(tiling.list_tiles(image.size)) == 1]
    fullest = max(whole, key=lambda image: image.num_instances, default=None)
    if fullest is not None and fullest.num_instances > cap:
        logger.warning(
            f"validation image {fullest.name} holds {fullest.num_instances} instances, but at most {cap} detections "
            f"an image are scored; set detections_per_image to at least {fullest.num_instances} in a new run"
        )


def split_dataset(
    dataset: Dataset, val_fraction: float, seed: int, groups: Mapping[str, str] | None = None
) -> tuple[Dataset, Dataset]:
    """Hold out a random share of the images, at least one; a single image serves as both parts.

    Args:
        dataset: The images.
        val_fraction: The share.
        seed: Of the choice.
        groups: The group of each image, by its name; a group is held out whole, so the share may be larger.

    Raises:
        DatasetError: There are several images, but one group.
    """
    if len(dataset) == 1:
        return dataset, dataset
    groups = groups or {record.name: record.name for record in dataset.records}
    names = list(dict.fromkeys(groups[record.name] for record in dataset.records))
    if len(names) == 1:
        raise DatasetError(
            f"group_by puts all {len(dataset)} images of {dataset.root} into one group, {names[0]!r}, so that none can "
            "be held out; correct it, or give --val"
        )
    num_val = min(max(1, round(val_fraction * len(dataset))), len(dataset) - 1)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    sizes = dict.fromkeys(names, 0)
    for record in dataset.records:
        sizes[groups[record.name]] += 1
    held_out: set[str] = set()
    for place in order[:-1]:
        if sum(sizes[name] for name in held_out) < num_val:
            held_out.add(names[place])
    is_val = [groups[record.name] in held_out for record in dataset.records]
    parts = [[row for row, flag in enumerate(is_val) if flag == wanted] for wanted in (False, True)]
    return dataset.subset(parts[0]), dataset.subset(parts[1])
