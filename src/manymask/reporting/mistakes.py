"""What goes wrong: kinds of error, confusion of classes, precision over recall, and how far scores can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manymask.reporting.charts import Frame, Line, draw_chart, draw_columns, draw_diagonal
from manymask.reporting.error_kinds import ERRORS
from manymask.reporting.markup import MINUS, NONE, Number, escape, format_count, format_score, look_up, make_table

_MAX_CONFUSED = 20  # classes in the confusion matrix
_MAX_LINES = 6  # classes in the chart of precision over recall
_RECALLS = [step / 100 for step in range(101)]


def make_mistakes(evaluation: Mapping[str, Any], names: Sequence[str]) -> str:
    """The section's HTML.

    Args:
        evaluation: The content of ``evaluation.json``.
        names: The classes.
    """
    charts = _draw_recall(evaluation) + _draw_class_recall(evaluation, names) + _draw_reliability(evaluation)
    return (
        _make_kinds(evaluation)
        + _make_confusion(evaluation)
        + (f'<div class="charts">{charts}</div>' if charts else "")
    )


def _make_kinds(evaluation: Mapping[str, Any]) -> str:
    """One row a kind, the most expensive first, with bars for its counts and its cost."""
    errors = look_up(evaluation, "errors") or {}
    kinds = [kind for kind in ERRORS if kind.name in errors]
    if not kinds:
        return ""
    kinds.sort(key=lambda kind: -(errors[kind.name].get("AP50_cost") or 0))
    counts = [errors[kind.name].get(key) or 0 for kind in kinds for key in ("predictions", "instances")]
    costs = [errors[kind.name].get("AP50_cost") or 0 for kind in kinds]
    rows = []
    for kind in kinds:
        entry = errors[kind.name]
        name = (
            f'<i class="swatch" style="background:{kind.color}"></i>{kind.label}<small class="meaning">{kind.meaning}'
            "</small>"
        )
        bars = [_draw_bar(entry.get(key), max(counts), "", kind.color) for key in ("predictions", "instances")]
        rows.append((name, *bars, _draw_bar(entry.get("AP50_cost"), max(costs), "cost", kind.color)))
    head = ("kind", "predictions", "instances", "what it costs in AP50")
    return make_table(head, rows, "kinds-of-error")


def _draw_bar(value: Number | None, largest: Number, kind: str, color: str) -> str:
    if value is None:
        return NONE
    text = f"{value:.3f}".replace("-", MINUS) if kind == "cost" else format_count(value)
    share = max(value, 0) / largest * 100 if largest > 0 else 0
    bar = f'<i style="width:{share:.1f}%;background:{color}"></i>' if share else ""
    return f'<div class="amount"><span>{text}</span><div>{bar}</div></div>'


def _make_confusion(evaluation: Mapping[str, Any]) -> str:
    """Rows are true classes and what is spurious, columns predicted classes and what is missed."""
    names, matrix = look_up(evaluation, "confusion", "names"), look_up(evaluation, "confusion", "matrix")
    if not names or not matrix or len(names) < 2:
        return ""
    table = np.asarray(matrix)
    shown = np.sort(np.argsort(-table[:-1].sum(axis=1), kind="stable")[:_MAX_CONFUSED]).tolist()
    places = [*shown, len(names)]
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    rows = []
    for row in places:
        name = "<em>spurious</em>" if row == len(names) else escape(names[row])
        rows.append((name, *(_make_cell(int(table[row, c]), float(shares[row, c]), row == c) for c in places)))
    rows[-1] = (*rows[-1][:-1], "<td></td>")  # what is neither true nor predicted is nothing
    head = ["true ↓ predicted →", *(f"#{escape(names[column])}" for column in shown), "#<em>missed</em>"]
    left_out = f" The {_MAX_CONFUSED} classes with most instances of {len(names)}." if len(names) > len(shown) else ""
    return (
        f"<h3>Which class is taken for which</h3><p>Each row is a true class: how many of its instances were predicted "
        f"as each class, at mask IoU 0.5 or more. Missed and spurious are all without a partner, whatever the cause. "
        f"Shades are shares of the row.{left_out}</p>"
        f"{make_table(head, rows, 'confusion')}"
    )


def _make_cell(count: int, share: float, is_right: bool) -> str:
    color = "--good" if is_right else "--bad"
    text = format_count(count) if count else '<span class="zero">0</span>'
    return f'<td class="number" style="--share:{share:.2f};--shade:var({color})">{text}</td>'


def _draw_recall(evaluation: Mapping[str, Any]) -> str:
    curves = look_up(evaluation, "precision_recall", "all") or {}
    dashes = {"0.90": "2 3", "0.75": "6 3", "0.50": ""}
    lines = [
        Line(f"IoU {threshold}", _RECALLS, _trim(curves[threshold]), color, dashes[threshold])
        for color, threshold in ((3, "0.90"), (2, "0.75"), (1, "0.50"))
        if curves.get(threshold)
    ]
    return draw_chart("Precision over recall", Frame("recall", "precision", (0, 1)), lines, note="masks, all classes")


def _trim(precisions: Sequence[Number]) -> list[Number | None]:
    """Nothing in place of the zeros beyond the highest recall that was reached."""
    last = max((i for i, value in enumerate(precisions) if value > 0), default=0)
    return [value if i <= last else None for i, value in enumerate(precisions)]


def _draw_class_recall(evaluation: Mapping[str, Any], names: Sequence[str]) -> str:
    """Curves at IoU 0.5 of the classes with most instances."""

    def count(name: str) -> int:
        return look_up(evaluation, "mask", "per_class", name, "num_instances") or 0

    dashes = ("", "6 3", "2 3")
    curves = {name: look_up(evaluation, "precision_recall", "per_class", name, "0.50") for name in names}
    drawn = sorted((name for name in names if curves[name]), key=count, reverse=True)[:_MAX_LINES]
    lines = (
        [Line(n, _RECALLS, _trim(curves[n]), 1 + i % 7, dashes[i % 3]) for i, n in enumerate(drawn)]
        if len(names) > 1
        else []
    )
    note = "masks, IoU 0.50" + (f", the {_MAX_LINES} largest classes" if len(names) > _MAX_LINES else "")
    return draw_chart("Precision over recall, by class", Frame("recall", "precision", (0, 1)), lines, note=note)


def _draw_reliability(evaluation: Mapping[str, Any]) -> str:
    """Precision against score in bins, above columns that show how many predictions each bin holds."""
    bins = [b for b in look_up(evaluation, "reliability", "bins") or [] if b["num_predictions"]]
    bins = [b for b in bins if b["mean_score"] is not None and b["precision"] is not None]
    if not bins:
        return ""
    frame = Frame("score", "precision", (0, 1))
    most = max(b["num_predictions"] for b in bins)
    columns = [(b["low"], b["high"], 0.3 * b["num_predictions"] / most) for b in bins]
    notes = [
        f"scores {b['low']:g} to {b['high']:g}: {b['num_predictions']} predictions, mean score {b['mean_score']:.2f}, "
        f"precision {b['precision']:.2f}"
        for b in bins
    ]
    x, y = [b["mean_score"] for b in bins], [b["precision"] for b in bins]
    error = look_up(evaluation, "reliability", "expected_calibration_error")
    return draw_chart(
        "Can the scores be believed?",
        frame,
        [Line("precision", x, y, 1, has_dots=True, notes=notes)],
        note=f"dotted: exactly right; grey: how many predictions; expected calibration error {format_score(error)}",
        extra=draw_columns(frame, columns) + draw_diagonal(frame),
    )
