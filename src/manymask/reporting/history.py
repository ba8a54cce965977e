"""Where the model comes from: its curves, its data and its plan."""

from collections.abc import Mapping, Sequence
from typing import Any

from manymask.plan import RECIPES, SETTINGS, DataRecord, Plan
from manymask.reporting.charts import Frame, Line, choose_ticks, draw_chart
from manymask.reporting.markup import escape, escape_prose, format_count, format_plural, make_table

_LOSSES = {
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
_MAX_NAMES = 500  # of images, listed


def make_curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """Loss and validation scores over epochs, as HTML; empty without rows.

    Args:
        rows: One an epoch, with the columns of ``metrics.csv``; None where a value is undefined.
    """
    epochs = [float(row["epoch"]) for row in rows]
    if not epochs:
        return ""
    x_range = (min(epochs), max(epochs)) if len(set(epochs)) > 1 else (epochs[0] - 1, epochs[0] + 1)
    losses = _make_lines(rows, epochs, _LOSSES)
    largest = max((value for line in losses for value in line.y if value is not None), default=1.0) or 1.0
    top = largest if largest in choose_ticks(0, largest) else largest * 1.05
    loss = draw_chart("Loss", Frame("epoch", "loss", x_range, (0, top)), losses, note="training, mean over the epoch")
    scores = draw_chart(
        "Scores", Frame("epoch", "AP", x_range), _make_lines(rows, epochs, _SCORES), note=_describe_best(rows)
    )
    return f'<div class="charts">{loss}{scores}</div>'


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


def make_data(data: DataRecord | None, evaluation: Mapping[str, Any]) -> str:
    """What was trained on and what was scored, as HTML."""
    facts = []
    if data is not None:
        facts += [
            ("training data", f"<code>{escape(data.path)}</code> ({escape(data.data_format)})"),
            ("trained on", _list_names(data.train_names)),
            ("validated on", _list_names(data.val_names)),
            ("validation data", f"<code>{escape(data.val_path)}</code>" if data.val_path else "held out of the above"),
            ("classes", ", ".join(f"{escape(name)} <small>(id {id})</small>" for id, name in data.categories)),
            ("largest crowd", f"{format_plural(data.max_instances, 'instance')} in one training image"),
            ("fingerprint", f"<code>{escape(data.fingerprint[:16])}</code> <small>of all pixels and labels</small>"),
        ]
    for label, key in (("model", "model"), ("predictions", "predictions"), ("scored on", "data")):
        if evaluation.get(key) is not None:
            facts.append((label, f"<code>{escape(evaluation[key])}</code>"))
    for label, key in (("predictions kept", "detections_per_image"), ("from score", "min_score")):
        if evaluation.get(key) is not None:
            unit = " an image at most" if key == "detections_per_image" else ""
            facts.append((label, f"{evaluation[key]}{unit}"))
    items = "".join(f"<dt>{label}</dt><dd>{text}</dd>" for label, text in facts)
    return f'<dl class="facts">{items}</dl>' if facts else ""


def _list_names(names: Sequence[str]) -> str:
    rest = f" and {format_count(len(names) - _MAX_NAMES)} more" if len(names) > _MAX_NAMES else ""
    listed = ", ".join(escape(name) for name in names[:_MAX_NAMES])
    return f"<details><summary>{format_plural(len(names), 'image')}</summary><p>{listed}{rest}</p></details>"


def make_plan(plan: Plan) -> str:
    """Every setting with its value and meaning, as HTML; those that differ from the recipe's come first."""
    recipe = RECIPES.get(plan.recipe)
    rows: dict[bool, list[tuple[str, ...]]] = {True: [], False: []}
    for name in SETTINGS:
        value = getattr(plan, name)
        default = value if recipe is None else getattr(recipe, name)
        meaning = escape_prose(Plan.model_fields[name].description or "")
        shown = f"<code>{escape(name)}</code>", f"<b>{_format_value(value)}</b>"
        rows[value != default].append((*shown, _format_value(default), meaning))
    heading = f"Settings that differ from the recipe {escape(plan.recipe)}"
    parts = []
    if rows[True]:
        head = ("setting", "value", "recipe", "meaning")
        parts.append(f"<h3>{heading}</h3>{make_table(head, rows[True], 'changed-settings')}")
    if rows[False]:
        same = [(name, value, meaning) for name, value, _, meaning in rows[False]]
        title = f"The other {len(same)} settings, as the recipe has them" if parts else f"All {len(same)} settings"
        table = make_table(("setting", "value", "meaning"), same, "settings")
        parts.append(f'<details class="printed"><summary>{title}</summary>{table}</details>')
    return "".join(parts)


def _format_value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(_format_value(part) for part in value)
    return escape(f"{value:g}" if isinstance(value, float) else value)
