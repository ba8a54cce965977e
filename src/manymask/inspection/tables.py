"""What was found, as tables to print."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manymask.inspection.findings import Finding
from manymask.inspection.fingerprint import Distribution, Fingerprint
from manymask.inspection.inspector import Inspection
from manymask.inspection.repair import LEFT_OUT
from manymask.wording import count_of

Rows = list[tuple[str, ...]]


def format_findings(findings: Sequence[Finding], data: Path) -> tuple[str, tuple[str, ...], Rows]:
    """Title, column names and rows of a table of findings; files by their place in the data."""
    counts = (
        count_of(sum(finding.severity == severity for finding in findings), severity)
        for severity in ("fault", "warning", "note")
    )
    rows: Rows = []
    for finding in findings:
        place = "whole data set" if finding.path is None else _shorten(finding.path, data)
        place = place if finding.part is None else f"{finding.part}: {place}"
        what = finding.detail.removeprefix(f"{finding.path}").lstrip(": ")
        rows.append((finding.severity, place, what, finding.remedy + _describe_fix(finding)))
    return f"findings: {', '.join(counts)}", ("", "file", "what", "remedy"), rows


def _describe_fix(finding: Finding) -> str:
    if not finding.is_fixable:
        return ""
    return " (--fix leaves the image out)" if finding.kind in (*LEFT_OUT, "incomplete-image") else " (--fix does it)"


def format_treatments(findings: Sequence[Finding]) -> tuple[str, tuple[str, ...], Rows]:
    """Title, column names and rows of a table of how training treats each kind of finding."""
    counts = Counter((finding.kind, finding.treatment) for finding in findings)
    rows: Rows = [(kind, str(number), treatment) for (kind, treatment), number in counts.items()]
    return "how training treats them as they are", ("kind", "findings", "in training"), rows


def describe_copy(found: Inspection, folder: Path) -> str:
    """One line about the repaired copy in a folder: what was done, and what its format changes."""
    what = (
        f"{count_of(len(found.repairs), 'image')} changed or left out, see"
        if found.repairs
        else "nothing to repair; see"
    )
    changes = f"; {found.format.changes}" if found.format.changes else ""
    return f"copy written to {folder}: {what} {folder / 'repairs.json'}{changes}"


def _shorten(path: Path, data: Path) -> str:
    root = data if data.is_dir() else data.parent
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def format_fingerprint(fingerprint: Fingerprint) -> tuple[str, tuple[str, ...], Rows]:
    """Title, column names and rows of a table of what the data is like."""
    crowds = fingerprint.num_crowd_regions
    instances = str(fingerprint.num_instances) + (f", and {count_of(crowds, 'crowd region')}" if crowds else "")
    images = f"{fingerprint.num_images}, of which {fingerprint.num_empty_images} show no instance"
    rows: Rows = [
        ("images that can be read", images),
        ("height, width in pixels", f"{_span(fingerprint.heights)}; {_span(fingerprint.widths)}"),
        ("channels", _list_counts(fingerprint.channels)),
        ("type of values", _list_counts(fingerprint.pixel_types)),
        ("instances", instances),
        ("instances an image", _span(fingerprint.instances_per_image)),
        ("side of an instance's box in pixels", _span(fingerprint.box_size)),
        ("longer over shorter side", _span(fingerprint.elongation)),
        ("touching another one", f"{fingerprint.touching_fraction:.0%} of the instances"),
        ("overlapping another one", f"{fingerprint.overlapping_fraction:.0%} of the instances"),
        ("box IoU with the nearest one", _span(fingerprint.neighbor_box_iou)),
        ("cut by the border", f"{fingerprint.border_fraction:.0%} of the instances"),
    ]
    if fingerprint.ignored_fraction:
        rows.append(("ignored, in crowd regions", f"{fingerprint.ignored_fraction:.1%} of the pixels"))
    if fingerprint.group_by is not None:
        rows.append(("groups", f"{fingerprint.num_groups} by {fingerprint.group_by}"))
    for one in fingerprint.classes:
        amount = f"{count_of(one.num_instances, 'instance')} in {count_of(one.num_images, 'image')}"
        rows.append((f"class {one.name}", amount))
    return "fingerprint", ("", "of several values: smallest, median, 99 % and largest"), rows


def _list_counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{value} ({count_of(number, 'image')})" for value, number in counts.items())


def _span(values: Distribution) -> str:
    """Smallest, median, 99 % and largest; or the one value."""
    points = [values.max] if values.min == values.max else [values.min, values.median, values.p99, values.max]
    return ", ".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in points)
