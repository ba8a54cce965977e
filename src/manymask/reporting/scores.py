"""The scores with their intervals: headline numbers, by class, by size and over IoU thresholds."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from manymask.metrics.catalogue import COUNTING, REPORTED, Metric
from manymask.reporting.charts import Frame, Line, draw_chart
from manymask.reporting.markup import (
    MINUS,
    NONE,
    Number,
    draw_track,
    escape,
    format_count,
    format_interval,
    format_percent,
    format_score,
    get_interval,
    look_up,
    make_table,
)

_SIZES = {
    "small": "small (COCO)",
    "medium": "medium (COCO)",
    "large": "large (COCO)",
    "lower_tercile": "smallest third",
    "middle_tercile": "middle third",
    "upper_tercile": "largest third",
}


def make_scores(evaluation: Mapping[str, Any], names: Sequence[str]) -> str:
    """The section's HTML.

    Args:
        evaluation: The content of ``evaluation.json``.
        names: The classes.
    """
    tables = _make_headline(evaluation)
    side = _draw_thresholds(evaluation)
    return f'<div class="headline">{tables}</div>{_make_classes(evaluation, names)}' + (
        f'<div class="pair">{side}{_make_sizes(evaluation)}</div>'
    )


def describe_intervals(evaluation: Mapping[str, Any]) -> str:
    """How the intervals were made, in a sentence; empty where there are none."""
    level = look_up(evaluation, "intervals", "level")
    if level is None:
        return "There are no intervals."
    draws, unit, num_units = (look_up(evaluation, "intervals", key) for key in ("draws", "unit", "num_units"))
    return (
        f"Bars are {format_percent(level)} intervals: each score anew on {format_count(draws)} sets of "
        f"{format_count(num_units)} {unit}s, drawn with repetition."
    )


def _make_headline(evaluation: Mapping[str, Any]) -> str:
    parts = []
    for title, metrics in groupby(REPORTED, lambda metric: metric.group):
        cells = [_make_score_row(evaluation, metric) for metric in metrics if title != COUNTING]
        if any(cells):
            parts.append(f"<section><h3>{escape(title)}</h3><dl>{''.join(cells)}</dl></section>")
    return "".join(parts) + _make_counts(evaluation)


def _make_score_row(evaluation: Mapping[str, Any], metric: Metric) -> str:
    value, interval = look_up(evaluation, *metric.path), get_interval(evaluation, *metric.path)
    if value is None and look_up(evaluation, *metric.path[:-1]) is None:
        return ""
    return (
        f"<div><dt>{escape(metric.label)} <small>{escape(metric.hint)}</small></dt>"
        f"<dd><b>{format_score(value)}</b>{draw_track(value, interval)}"
        f"<small>{format_interval(interval)}</small></dd></div>"
    )


def _make_counts(evaluation: Mapping[str, Any]) -> str:
    """Errors of the number of instances: not between 0 and 1, so without a track."""
    rows = []
    for metric in REPORTED:
        if metric.group != COUNTING:
            continue
        key = metric.path[-1]
        value, interval = look_up(evaluation, "counts", key), get_interval(evaluation, "counts", key)
        if value is not None:
            text = f"{_format_signed(interval[0], key)} to {_format_signed(interval[1], key)}" if interval else ""
            rows.append(
                f"<div><dt>{key.replace('_', ' ')} <small>{metric.hint}</small></dt>"
                f"<dd><b>{_format_signed(value, key)}</b>"
                f'<span class="no-track"></span><small>{text}</small></dd></div>'
            )
    return f"<section><h3>Counting</h3><dl>{''.join(rows)}</dl></section>" if rows else ""


def _format_signed(value: Number | None, key: str = "mean_error") -> str:
    if value is None:
        return NONE
    return (f"{value:+.1f}" if key == "mean_error" else f"{value:.1f}").replace("-", MINUS)


def _make_classes(evaluation: Mapping[str, Any], names: Sequence[str]) -> str:
    rows = []
    for name in names:
        scores = look_up(evaluation, "mask", "per_class", name)
        if scores is None:
            continue
        path = ("mask", "per_class", name, "AP50")
        interval = get_interval(evaluation, *path)
        found = look_up(evaluation, "detection", "per_class", name) or {}
        rows.append(
            (
                escape(name),
                format_count(scores.get("num_instances")),
                f"<b>{format_score(scores.get('AP50'))}</b>",
                draw_track(scores.get("AP50"), interval),
                format_score(scores.get("AP")),
                format_score(scores.get("AP75")),
                format_score(found.get("precision")),
                format_score(found.get("recall")),
                format_score(found.get("F1")),
                format_score(look_up(evaluation, "panoptic", "per_class", name, "PQ")),
                _format_signed(look_up(evaluation, "counts", "per_class", name, "mean_error")),
            )
        )
    if not rows:
        return ""
    head = ("class", "#instances", "#AP50", "", "#AP", "#AP75", "#precision", "#recall", "#F1", "#PQ", "#count error")
    return f"<h3>By class</h3>{make_table(head, rows, 'scores-by-class')}"


def _make_sizes(evaluation: Mapping[str, Any]) -> str:
    rows = []
    for key, label in _SIZES.items():
        size = look_up(evaluation, "mask", "by_size", key)
        if size is not None:
            scores = [format_score(size.get(name)) for name in ("AP50", "AP", "AP75")]
            rows.append((label, _format_areas(size), format_count(size.get("num_instances")), *scores))
    if not rows:
        return ""
    head = ("size", "#area, px²", "#instances", "#AP50", "#AP", "#AP75")
    return f"<div><h3>By size</h3>{make_table(head, rows, 'scores-by-size')}</div>"


def _format_areas(size: Mapping[str, Any]) -> str:
    low, high = size.get("min_area"), size.get("max_area")
    if low is None and high is None:
        return NONE
    if high is None:
        return f"from {format_count(low)}"
    return f"{format_count(low)} to {format_count(high)}"


def _draw_thresholds(evaluation: Mapping[str, Any]) -> str:
    lines = []
    for label, key, color, dash in (("each image", "per_image", 2, "5 3"), ("all together", "pooled", 1, "")):
        values = look_up(evaluation, "ap_t", key) or {}
        x = [float(threshold) for threshold in values]
        intervals = [get_interval(evaluation, "ap_t", key, threshold) for threshold in values]
        lines.append(Line(label, x, list(values.values()), color, dash, has_dots=True, intervals=intervals))
    frame = Frame("IoU threshold t", "AP(t)", (0.5, 0.95))
    return draw_chart(
        "AP(t) over the IoU threshold t", frame, lines, note="of all images together, and mean of each's own"
    )
