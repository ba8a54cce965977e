"""Curves of losses and scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from manymask.core.files import replace_file
from manymask.core.palette import PALETTE

DPI = 100

_LOSSES = {
    "loss": "total",
    "loss_classifier": "box head: class",
    "loss_box_reg": "box head: box",
    "loss_mask": "mask head",
    "loss_objectness": "RPN: objectness",
    "loss_rpn_box_reg": "RPN: box",
    "loss_classifier_2": "second box head: class",
    "loss_box_reg_2": "second box head: box",
    "loss_dense": "dense head",
}
_SCORES = {"val_mask_AP": "mask AP", "val_mask_AP50": "mask AP50", "val_mask_AP75": "mask AP75", "val_box_AP": "box AP"}


def draw_curves(rows: Sequence[Mapping[str, int | float | None]], folder: Path) -> None:
    """Write ``loss.png`` (the loss and its parts) and ``map.png`` (validation AP), both against the epoch.

    Args:
        rows: One an epoch, with the columns of ``metrics.csv``. Columns may be missing; None and NaN leave a gap.
        folder: Where the pictures go.
    """
    figure, axes = _make_axes()
    _plot_columns(axes, rows, _LOSSES)
    axes.set(title="Training loss", ylabel="loss (mean over the epoch)")
    axes.set_ylim(bottom=0)
    _write_figure(figure, folder / "loss.png")
    figure, axes = _make_axes()
    _plot_columns(axes, rows, _SCORES)
    axes.set(title="Validation: average precision (AP)", ylabel="AP (0 to 1)", ylim=(-0.02, 1.02))
    _write_figure(figure, folder / "map.png")


def draw_overlaid_curves(
    curves: Mapping[str, Sequence[Sequence[Mapping[str, int | float | None]]]], folder: Path
) -> None:
    """Write ``loss.png`` and ``map.png`` (validation mask AP50 and AP) of several variants over each other.

    Args:
        curves: For each variant its runs (one a seed), each the rows of its ``metrics.csv``. Runs are thin lines, the
            mean of the epochs that all of them have a bold one.
        folder: Where the pictures go.
    """
    figure, axes = _make_axes()
    _plot_variants(axes, curves, "loss")
    axes.set(title="Training loss", ylabel="loss (mean over the epoch)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _write_figure(figure, folder / "loss.png")
    figure, left = _make_axes(columns=2)
    right = _add_axes(figure, 2, 2, sharey=left)
    for axes, column, name in ((left, "val_mask_AP50", "mask AP50"), (right, "val_mask_AP", "mask AP")):
        _plot_variants(axes, curves, column)
        axes.set(title=f"Validation: {name}", ylabel=f"{name} (0 to 1)")
    left.set_ylim(bottom=0)
    left.legend(frameon=False, loc="lower right")
    _write_figure(figure, folder / "map.png")


def _plot_variants(
    axes: Axes, curves: Mapping[str, Sequence[Sequence[Mapping[str, int | float | None]]]], column: str
) -> None:
    for place, (name, runs) in enumerate(curves.items()):
        color = [value / 255 for value in PALETTE[(5, 2, 1, 6, 4, 3, 0)[place % len(PALETTE)]]]
        values = [_get_column(rows, column) for rows in runs]
        common = min(len(run) for run in values)
        mean = np.mean([run[:common] for run in values], axis=0)
        label = name if len(runs) == 1 else f"{name} (mean of {len(runs)} seeds)"
        marker = "o" if common == 1 else None  # a line of one point cannot be seen
        axes.plot(_get_column(runs[0], "epoch")[:common], mean, color=color, label=label, linewidth=2.5, marker=marker)
        for rows, run in zip(runs, values, strict=True):
            axes.plot(_get_column(rows, "epoch"), run, color=color, linewidth=0.8, alpha=0.6)


def _make_axes(columns: int = 1) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9 if columns == 1 else 12, 5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, _add_axes(figure, columns, 1)


def _add_axes(figure: Figure, columns: int, place: int, sharey: Axes | None = None) -> Axes:
    """One of several axes beside each other, of values against the epoch."""
    axes = figure.add_subplot(1, columns, place, sharey=sharey)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _plot_columns(axes: Axes, rows: Sequence[Mapping[str, int | float | None]], names: Mapping[str, str]) -> None:
    """One line a column, the first in bold black; columns without a defined value are left out."""
    epochs = _get_column(rows, "epoch")
    colors = ["black", *([value / 255 for value in PALETTE[i]] for i in (5, 2, 1, 4, 6, 3, 0)), "0.5"]
    for (column, label), color, marker in zip(names.items(), colors, "os^Dvp<>*", strict=False):
        values = _get_column(rows, column)
        if np.isfinite(values).any():
            width = 2.5 if column == next(iter(names)) else 1.5
            size = 8 if len(rows) == 1 else 4
            axes.plot(epochs, values, color=color, label=label, linewidth=width, marker=marker, markersize=size)
    if axes.lines:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    else:
        axes.text(0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", color="0.5")
    if len(rows) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)


def _get_column(rows: Sequence[Mapping[str, int | float | None]], name: str) -> np.ndarray:
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)


def _write_figure(figure: Figure, path: Path) -> None:
    with replace_file(path) as f:
        figure.savefig(f, format="png")
