"""One pass over a data set: every file is decoded once, checked, measured and examined."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from manymask.core import Dataset, Problem, Record
from manymask.errors import DatasetError, FormatError, ManymaskError, PlanError
from manymask.formats import (
    DatasetCheck,
    ImageCheck,
    check_sample,
    find_empty_masks,
    find_polygon_faults,
    list_files,
    name_instances,
    sum_up_checks,
)
from manymask.inspection.checks import examine_dataset, examine_image
from manymask.inspection.findings import KINDS, Finding, make_finding
from manymask.inspection.fingerprint import Fingerprint, make_fingerprint
from manymask.inspection.measurement import ImageFacts, measure_sample
from manymask.wording import count_of, list_some

_SEVERITIES = ("fault", "warning", "note")


@dataclass(frozen=True)
class Repair:
    """What was done to one image.

    Attributes:
        image: Its name.
        is_kept: Whether it is in the copy.
        actions: What was done, in sentences.
    """

    image: str
    is_kept: bool
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What one pass over a data set found.

    Attributes:
        check: Counts and digests, as ``formats.check_dataset`` gives them, of the images that can be read.
        facts: Of these images, in their order.
        findings: What is wrong or unusual: faults first, then warnings, then notes.
        fingerprint: What the data set is like.
        data_format: Name of the reader.
        repairs: What was done for a repaired copy, where one was written.
    """

    check: DatasetCheck
    facts: tuple[ImageFacts, ...]
    findings: tuple[Finding, ...]
    fingerprint: Fingerprint
    data_format: str
    repairs: tuple[Repair, ...] = ()

    @property
    def has_faults(self) -> bool:
        """Whether any finding is a fault."""
        return any(finding.severity == "fault" for finding in self.findings)


@dataclass(frozen=True)
class _Look:
    """What the look at one record gave; check and facts are None where it cannot be read."""

    findings: list[Finding]
    check: ImageCheck | None = None
    facts: ImageFacts | None = None


def inspect_dataset(
    dataset: Dataset,
    *,
    progress: Callable[[int, int], None] | None = None,
    num_workers: int = 2,
    is_strict: bool = False,
    group_by: str | None = None,
    cap: int | None = None,
) -> Inspection:
    """Decode and examine every image and its labels once; each worker holds one image at a time.

    Args:
        dataset: The data set.
        progress: Called with the number of images done so far and the number of images.
        num_workers: Number of threads; decoding and measuring leave the interpreter's lock most of the time.
        is_strict: Raise the first error in the order of records, as ``formats.check_dataset`` does; by default an image
            that cannot be read becomes a finding.
        group_by: Regular expression that finds an image's group in its name.
        cap: Names images that hold more instances than this.

    Raises:
        DatasetError: No image can be read, or none has an instance; with ``is_strict`` any error of a file.
        PlanError: ``group_by`` is no regular expression.
    """
    groups = group_images(dataset, group_by)
    looks: list[_Look] = []
    with ThreadPoolExecutor(max(num_workers, 1)) as executor:
        for look in executor.map(lambda row: _look(dataset, row, is_strict, cap), range(len(dataset))):
            looks.append(look)
            if progress is not None:
                progress(len(looks), len(dataset))
    facts = tuple(look.facts for look in looks if look.facts is not None)
    findings = [_report_problem(problem) for problem in dataset.problems]
    findings += [finding for look in looks for finding in look.findings]
    if not facts:
        raise DatasetError(
            f"no image of {dataset.root} can be read; the first: {findings[0].detail}; {findings[0].remedy}"
        )
    return Inspection(
        sum_up_checks([look.check for look in looks if look.check is not None], dataset.categories),
        facts,
        sort_findings([*findings, *examine_dataset(facts, dataset.categories)]),
        make_fingerprint(facts, dataset.categories, group_by, groups, dataset.root),
        dataset.data_format,
    )


def sort_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """Faults first, then warnings, then notes; otherwise in their order."""
    return tuple(sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity)))


def group_images(dataset: Dataset, pattern: str | None) -> dict[str, str] | None:
    """The group of each image: what the pattern finds in its name, or its first pair of brackets.

    Raises:
        PlanError: The pattern is no regular expression.
        DatasetError: It finds nothing in the name of an image.
    """
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise PlanError(f"--group-by {pattern!r} is not a regular expression: {error}") from error
    groups: dict[str, str] = {}
    for record in dataset.records:
        found = expression.search(record.name)
        group = found and found.group(min(expression.groups, 1))
        if not group:
            raise DatasetError(f"--group-by {pattern!r} finds nothing in the image name {record.name!r}; correct it")
        groups[record.name] = group
    return groups


def _look(dataset: Dataset, row: int, is_strict: bool, cap: int | None) -> _Look:
    record = dataset.records[row]
    try:
        sample = dataset[row]
    except ManymaskError as error:
        if is_strict:
            raise
        return _explain(dataset, record, error, cap)
    facts = measure_sample(sample)
    findings = [make_finding(doubt.kind, doubt.detail, record.name, record.path) for doubt in sample.doubts]
    findings += examine_image(facts, lambda: name_instances(record, dataset.data_format), cap)
    if dataset.data_format == "coco":
        findings += _examine_polygons(record)
    return _Look(findings, check_sample(sample), facts)


def _examine_polygons(record: Record) -> list[Finding]:
    what = {"out-of-frame": "that reach out of the image", "self-crossing": "whose outlines cross themselves"}
    return [
        make_finding(
            kind,
            f"has {count_of(len(ids), 'instance')} {what[kind]}: annotation {list_some(ids)}",
            record.name,
            record.path,
        )
        for kind, ids in find_polygon_faults(record).items()
        if ids
    ]


def _explain(dataset: Dataset, record: Record, error: ManymaskError, cap: int | None) -> _Look:
    """The finding for an image that cannot be read."""
    if dataset.data_format == "mask_files" and (empty := _try_empty_masks(record)):
        names = list_some(path.name for path in empty)
        finding = make_finding("empty-mask-file", f"has masks without any pixel: {names}", record.name, empty[0])
        rest = replace(dataset, records=(drop_masks(record, empty),))
        look = _look(rest, 0, False, cap)
        return replace(look, findings=[finding, *look.findings])
    split = replace(dataset, records=(replace(record, is_split=True),))
    is_shared = not record.is_split and _can_read(split)
    message = str(error)
    path = next((file for file in list_files(record) if message.startswith(f"{file} ")), record.path)
    if is_shared:
        kind = "shared-ids"
    elif path == record.path:
        kind = "unreadable-image"
    else:
        kind = "unreadable-labels" if isinstance(error, FormatError) else "size-mismatch"
    finding = _make_finding(kind, message, record.name, path)
    if not is_shared:
        return _Look([finding])
    look = _look(split, 0, False, cap)
    return replace(look, findings=[replace(finding, remedy=KINDS[kind].remedy), *look.findings])


def _report_problem(problem: Problem) -> Finding:
    """The finding for what a reader read around."""
    return _make_finding(problem.kind, problem.message, problem.image, problem.path)


def _make_finding(kind: str, message: str, image: str | None, path: Path) -> Finding:
    """The finding that an error's message tells of: what is wrong, and after the last semicolon the remedy."""
    detail, has_remedy, remedy = message.rpartition("; ")
    detail, remedy = (detail, remedy) if has_remedy else (message, None)
    return make_finding(kind, detail, image, path, remedy)


def _can_read(dataset: Dataset) -> bool:
    """Whether the one image of a data set can be read."""
    try:
        dataset[0]
    except ManymaskError:
        return False
    return True


def _try_empty_masks(record: Record) -> list[Path]:
    """Masks without pixels; none where one of the masks cannot be read at all, which then is the finding."""
    try:
        return find_empty_masks(record)
    except FormatError:
        return []


def drop_masks(record: Record, masks: list[Path]) -> Record:
    """A record of one file for each mask without some of them."""
    return replace(record, annotation=tuple(path for path in record.annotation if path not in masks))
