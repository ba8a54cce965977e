"""What of a data set cannot be used: one bad object or image never refuses a thousand good ones."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from manymask.core.dataset import Dataset, Problem
from manymask.errors import FormatError
from manymask.formats.records import report_incomplete
from manymask.wording import count_of, list_some

logger = logging.getLogger(__name__)


def leave_out_unlabelled(dataset: Dataset) -> Dataset:
    """The data set without the images of which no object can be used, which would teach that nothing is there.

    Each of them is added to ``problems``.
    """
    suspects = {problem.image for problem in dataset.problems if problem.kind == "bad-annotation"}
    lost = {
        record.name: record
        for record in dataset.records
        if record.name in suspects and not dataset.format.name_instances(record)
    }
    if not lost:
        return dataset
    problems = [
        report_incomplete(
            f"{record.path} has objects, but none that can be used; correct them, or remove them if it shows none",
            record.path,
            record.name,
        )
        for record in lost.values()
    ]
    records = tuple(record for record in dataset.records if record.name not in lost)
    return replace(dataset, records=records, problems=(*dataset.problems, *problems))


def tell_left_out(dataset: Dataset) -> None:
    """Warn once, with numbers and examples, of what was left out because it cannot be used.

    Raises:
        FormatError: Nothing is left that can be used.
    """
    faults = [problem for problem in dataset.problems if problem.severity == "fault"]
    if not faults:
        return
    num_bad = sum(fault.kind == "bad-annotation" for fault in faults)
    num_good = sum(len(dataset.format.name_instances(record)) for record in dataset.records) if num_bad else 0
    num_lost = len(faults) - num_bad
    if not dataset.records or (num_bad and not num_good):
        raise FormatError(_explain_nothing_left(dataset, faults, num_bad))
    counts = [(num_bad, num_bad + num_good, "object"), (num_lost, num_lost + len(dataset.records), "image")]
    what = " and ".join(f"{number} of {count_of(total, name)}" for number, total, name in counts if number)
    logger.warning(
        f"{dataset.root}: left out {what}, which cannot be used: {_name_some(dataset, faults)}; see all with: manymask "
        f"inspect {dataset.root}"
    )


def _explain_nothing_left(dataset: Dataset, faults: Sequence[Problem], num_bad: int) -> str:
    if len(faults) == 1:
        return faults[0].message
    what = f"{count_of(num_bad, 'object')}" if num_bad else "images"
    return f"none of the {what} in {dataset.root} can be used; the first: {faults[0].message}"


def _name_some(dataset: Dataset, faults: Sequence[Problem]) -> str:
    """What is wrong with the first of them, without the remedy and the path that all messages begin with."""
    paths = {fault.path for fault in faults}
    place = paths.pop() if len(paths) == 1 < len(faults) else dataset.root
    details = [fault.detail.removeprefix(f"{place}").removeprefix(os.sep).lstrip(": ") for fault in faults]
    return list_some(details, separator="; ")
