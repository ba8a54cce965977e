"""Where the model comes from: its curves and its plan."""

from collections.abc import Mapping, Sequence
from typing import Any

from manymask.plan import RECIPES, SETTINGS, Plan
from manymask.reporting.charts import Chart, Frame, Line, choose_ticks

_LOSSES = {
    "loss_dense": ("dense", 5, "1 3"),
    "loss_box_reg_2": ("box 2", 3, "1 3"),
    "loss_classifier_2": ("class 2", 1, "1 3"),
    "loss_rpn_box_reg": ("RPN box", 6, "2 3"),
    "loss_objectness": ("RPN object", 4, "2 3"),
    "loss_box_reg": ("box", 3, "6 3"),
    "loss_classifier": ("class", 1, "6 3"),
    "loss_mask": ("mask", 2, ""),
    "loss": ("total", 0, ""),
}
_SCORES = {
    "val_box_AP": ("box AP", 5, "2 3"),
    "val_mask_AP75": ("mask AP75", 3, "6 3"),
    "val_mask_AP50": ("mask AP50", 2, ""),
    "val_mask_AP": ("mask AP", 0, ""),
}


def make_curves(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss and validation scores over epochs.

    Args:
        rows: One an epoch, at least one, with the columns of ``metrics.csv``; None where a value is undefined.
    """
    epochs = [float(row["epoch"]) for row in rows]
    x_range = (min(epochs), max(epochs)) if len(set(epochs)) > 1 else (epochs[0] - 1, epochs[0] + 1)
    losses = _make_lines(rows, epochs, _LOSSES)
    largest = max((value for line in losses for value in line.y if value is not None), default=1.0) or 1.0
    top = largest if largest in choose_ticks(0, largest) else largest * 1.05
    loss = Chart("Loss", Frame("epoch", "loss", x_range, (0, top)), losses, "training, mean over the epoch")
    scores = Chart("Scores", Frame("epoch", "AP", x_range), _make_lines(rows, epochs, _SCORES), _describe_best(rows))
    return [chart for chart in (loss, scores) if chart.lines]


def _make_lines(
    rows: Sequence[Mapping[str, Any]], epochs: list[float], columns: Mapping[str, tuple[str, int, str]]
) -> list[Line]:
    return [
        Line(label, epochs, [row.get(column) for row in rows], color, dash, has_dots=len(rows) <= 20)
        for column, (label, color, dash) in columns.items()
    ]


def _describe_best(rows: Sequence[Mapping[str, Any]]) -> str:
    scored = [row for row in rows if row.get("val_mask_AP") is not None]
    if not scored:
        return "validation"
    best = max(scored, key=lambda row: row["val_mask_AP"])  # the earliest on ties, as best.ckpt
    return f"validation; best mask AP {best['val_mask_AP']:.3f} in epoch {best['epoch']:g}"


def list_settings(plan: Plan) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Name, value, the recipe's value and meaning of the settings that differ from the recipe's, and of the others."""
    recipe = RECIPES.get(plan.recipe, plan)
    changed, same = [], []
    for name in SETTINGS:
        value, default = getattr(plan, name), getattr(recipe, name)
        meaning = Plan.model_fields[name].description or ""
        row = (name, _format_value(value), _format_value(default), meaning)
        (same if value == default else changed).append(row)
    return changed, same


def _format_value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(_format_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
