"""The whole look at a data set, with the files that it leaves."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from manymask.core import write_json
from manymask.core.files import write_file
from manymask.core.outputs import check_outputs, record_outputs
from manymask.core.progress import Progress
from manymask.formats.conversion import check_new_folder
from manymask.formats.datasets import open_dataset
from manymask.formats.splits import find_splits
from manymask.inspection.checks import compare_sets
from manymask.inspection.findings import Finding
from manymask.inspection.inspector import Inspection, examine, inspect_dataset, sort_findings
from manymask.inspection.repair import write_repaired
from manymask.plan import GivenLabels

logger = logging.getLogger(__name__)

_NAMES = ("fingerprint.json", "findings.json")


def inspect(
    data: str | Path,
    *,
    val: str | Path | None = None,
    data_format: str | None = None,
    group_by: str | None = None,
    output: str | Path | None = None,
    fix: str | Path | None = None,
    cap: int | None = None,
    crowd_as_objects: bool = False,
    ignore_label: GivenLabels = (),
    progress: Progress | None = None,
) -> Inspection:
    """Look at every image and label of a data set: what is wrong, and what the data is like.

    Writes nothing, but with ``output`` ``fingerprint.json`` and ``findings.json``, and with ``fix`` a repaired copy
    with its ``repairs.json``.

    Args:
        data: Folder of labelled images, or a COCO file. Of a data set that is split all parts are examined, and the
            others searched for images of the one to train on.
        val: A separate validation set in the format of ``data``; examined too, and searched for images of ``data``.
        data_format: Name of the reader; found out by default.
        group_by: Regular expression that finds an image's group (slide, patient) in its name.
        output: Folder to write the findings and the fingerprint to.
        fix: New or empty folder for a repaired copy of ``data``, or of its part to train on.
        cap: Names images that hold more instances than this; by default training takes its cap from the data.
        crowd_as_objects: Take COCO's crowd regions for objects like the others, in the copy too.
        ignore_label: Value of pixels to ignore in label images, or several; they are -1 in the copy.
        progress: Called with the number of images done, their number, and what is being done.

    Returns:
        What was found; ``repairs`` says what was done for the copy.

    Raises:
        DatasetError: A data set cannot be listed, or none of its images can be read; or none of ``data`` has an
            instance.
        PlanError: The pattern is no regular expression, the folder of ``fix`` is not empty, or files that ``inspect``
            did not write are in the way of ``output``.
    """
    splits = find_splits(data)
    data = splits.pop("train", data)
    others = splits if val is None else splits | {"val": Path(val)}
    reading = {"crowd_as_objects": crowd_as_objects, "ignore_label": ignore_label}
    dataset = open_dataset(data, data_format, **reading)
    other_sets = [open_dataset(path, dataset.format.name, **reading) for path in others.values()]
    # What would stop the writing stops before the long look.
    if fix is not None:
        check_new_folder(Path(fix), dataset.root, "--fix")
    if output is not None:
        check_outputs(Path(output), "inspect", _NAMES)
    found = inspect_dataset(dataset, progress=progress, group_by=group_by, cap=cap)
    main = "train" if others else None
    looked_at, findings = {main: found.facts}, {main: [*found.findings]}
    for name, other in zip(others, other_sets, strict=True):
        _, other_facts, other_findings = examine(other, progress=progress, cap=cap)
        for part, facts in looked_at.items():
            findings[part] += compare_sets(facts, other_facts)
        looked_at[name], findings[name] = other_facts, [*other_findings]
    own, *of_others = [[replace(one, part=part) for one in ones] for part, ones in findings.items()]
    found = replace(found, findings=tuple(own))
    if fix is not None:
        if splits:
            logger.info(f"only {dataset.root} is copied; for another part give its folder")
        found = replace(found, repairs=write_repaired(dataset, found, Path(fix), progress))
    others_of_all = [replace(one, is_fixable=False) for ones in of_others for one in ones]
    found = replace(found, findings=sort_findings([*own, *others_of_all]))
    if output is not None:
        with record_outputs(Path(output), "inspect", _NAMES):
            write_file(Path(output) / "fingerprint.json", found.fingerprint.model_dump_json(indent=2) + "\n")
            write_json(Path(output) / "findings.json", [_to_json(finding) for finding in found.findings])
    return found


def _to_json(finding: Finding) -> dict[str, Any]:
    return asdict(finding) | {"path": finding.path and str(finding.path)}
