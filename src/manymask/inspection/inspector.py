"""One pass over a data set, in which every file is decoded once, checked, measured and examined."""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from manymask.core.dataset import Dataset, Doubt, Format, Record
from manymask.core.progress import Progress, track
from manymask.errors import DatasetError, FormatError, ManymaskError, PlanError
from manymask.formats.datasets import DatasetCheck, ImageCheck, check_sample
from manymask.inspection.checks import examine_dataset, examine_image
from manymask.inspection.findings import Finding, Severity, make_finding
from manymask.inspection.fingerprint import Fingerprint, make_fingerprint
from manymask.inspection.measurement import ImageFacts, measure_sample

SEVERITIES: tuple[str, ...] = get_args(Severity)

_Look = tuple[list[Finding], ImageFacts | None, ImageCheck | None]
"""What the look at one image gave; None and None where it cannot be read."""


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
        format: The format of the data set.
        repairs: What was done for a repaired copy, where one was written.
    """

    check: DatasetCheck
    facts: tuple[ImageFacts, ...]
    findings: tuple[Finding, ...]
    fingerprint: Fingerprint
    format: Format
    repairs: tuple[Repair, ...] = ()

    @property
    def has_faults(self) -> bool:
        """Whether any finding is a fault."""
        return any(finding.severity == "fault" for finding in self.findings)


def inspect_dataset(
    dataset: Dataset,
    *,
    progress: Progress | None = None,
    num_workers: int = 2,
    is_strict: bool = False,
    group_by: str | None = None,
    cap: int | None = None,
) -> Inspection:
    """Decode and examine every image and its labels once; each worker holds one image at a time.

    Args:
        dataset: The data set.
        progress: Called with the number of images done, their number, and what is being done.
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
    check, facts, findings = examine(dataset, progress=progress, num_workers=num_workers, is_strict=is_strict, cap=cap)
    fingerprint = make_fingerprint(facts, dataset.categories, group_by, groups, dataset.root)
    return Inspection(check, facts, findings, fingerprint, dataset.format)


def examine(
    dataset: Dataset,
    *,
    progress: Progress | None = None,
    num_workers: int = 2,
    is_strict: bool = False,
    cap: int | None = None,
) -> tuple[DatasetCheck, tuple[ImageFacts, ...], tuple[Finding, ...]]:
    """The parts of an inspection that need no labelled object; arguments and errors as of ``inspect_dataset``."""
    with ThreadPoolExecutor(max(num_workers, 1)) as executor:
        found = executor.map(lambda row: _look(dataset, row, is_strict, cap), range(len(dataset)))
        looks = list(track(found, len(dataset), f"looking at {dataset.root}", progress))
    facts = tuple(facts for _, facts, _ in looks if facts is not None)
    findings = [_make_finding(one.kind, one.message, one.image, one.path) for one in dataset.problems]
    findings += [finding for found, _, _ in looks for finding in found]
    if not facts:
        raise DatasetError(
            f"no image of {dataset.root} can be used; the first: {findings[0].detail}; {findings[0].remedy}"
        )
    check = DatasetCheck.of([check for _, _, check in looks if check is not None], dataset.categories)
    return check, facts, sort_findings([*findings, *examine_dataset(facts, dataset.categories)])


def sort_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """Faults first, then warnings, then notes; otherwise in their order."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


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
        sample.image.read()
    except ManymaskError as error:
        if is_strict:
            raise
        return _explain(dataset, record, error, cap)
    facts = measure_sample(sample)
    findings = _report_doubts(record, sample.doubts)
    findings += examine_image(facts, lambda: dataset.format.name_instances(record), cap)
    findings += _report_doubts(record, dataset.format.find_faults(record) or ())
    return findings, facts, check_sample(sample)


def _report_doubts(record: Record, doubts: Iterable[Doubt]) -> list[Finding]:
    return [make_finding(doubt.kind, doubt.detail, record.name, record.path) for doubt in doubts]


def _explain(dataset: Dataset, record: Record, error: ManymaskError, cap: int | None) -> _Look:
    """The finding for an image that cannot be read; where its labels can be salvaged, also the look at these."""
    if (salvage := dataset.format.salvage(record)) is not None:
        finding = make_finding(salvage.kind, salvage.detail, record.name, salvage.path)
        found, facts, check = _look(replace(dataset, records=(salvage.record,)), 0, False, cap)
        return [finding, *found], facts, check
    message = str(error)
    path = next((file for file in record.label_files if message.startswith(f"{file} ")), record.path)
    if path == record.path:
        kind = "unreadable-image"
    else:
        kind = "unreadable-labels" if isinstance(error, FormatError) else "size-mismatch"
    return [_make_finding(kind, message, record.name, path)], None, None


def _make_finding(kind: str, message: str, image: str | None, path: Path) -> Finding:
    """The finding of a message, which says what is wrong and, after the last semicolon, the remedy."""
    detail, has_remedy, remedy = message.rpartition("; ")
    detail, remedy = (detail, remedy) if has_remedy else (message, None)
    return make_finding(kind, detail, image, path, remedy)
