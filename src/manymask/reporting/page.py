"""The page: ``report.html`` with all that is known of a run or of a file of predictions."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from manymask import __version__
from manymask.core import Category
from manymask.core.files import write_file
from manymask.core.palette import PALETTE
from manymask.metrics import Evaluation
from manymask.metrics.catalogue import REPORTED
from manymask.metrics.stages import StageShares, list_shares
from manymask.plan import Plan
from manymask.reporting.error_kinds import ERRORS, KINDS
from manymask.reporting.history import list_settings, make_curves
from manymask.reporting.images import EncodedImage, ViewedImage, encode_image, write_json
from manymask.reporting.markup import TEMPLATES
from manymask.reporting.mistakes import choose_confused, draw_thresholds, make_charts

_STATIC = files("manymask.reporting") / "static"


def write_report(
    path: Path,
    *,
    title: str,
    plan: Plan | None,
    rows: Sequence[Mapping[str, Any]],
    diagnosis: Mapping[str, StageShares],
    evaluation: Evaluation,
    categories: Sequence[Category],
    images: Iterable[ViewedImage],
) -> Path:
    """Write one HTML file that needs no other and no network.

    Memory holds one image at a time, and those that are shown as JPEG with their outlines.

    Args:
        path: The file.
        title: Its heading.
        plan: The run's plan; None where the predictions come from elsewhere.
        rows: The run's ``metrics.csv``, one mapping an epoch with None for what is undefined; may be empty.
        diagnosis: The run's ``diagnosis.json``; may be empty.
        evaluation: The scores.
        categories: The classes; label i + 1 is ``categories[i]``.
        images: The images to show, in any order.

    Returns:
        The file.

    Raises:
        ValueError: The instances of an image do not fit it or the classes.
        ManymaskError: The file cannot be written.
    """
    encoded = sorted((encode_image(image, len(categories)) for image in images), key=lambda image: -image.loss)
    sections = [
        ("scores", "Scores"),
        ("errors", "Errors"),
        *([("images", "Images")] if encoded else []),
        *([("training", "Training")] if rows else []),
        ("origin", "Data and settings"),
    ]
    confused = choose_confused(evaluation)
    changed, same = ([], []) if plan is None else list_settings(plan)
    text = TEMPLATES.get_template("report.html").render(
        title=title,
        version=__version__,
        today=datetime.now().astimezone(),
        style=_read_static("report.css"),
        script=_read_static("report.js"),
        sections=sections,
        evaluation=evaluation,
        plan=plan,
        rows=rows,
        is_best=Path(evaluation.model or "").name == "best.ckpt",
        changed=changed,
        same=same,
        curves=make_curves(rows) if rows else [],
        share_heads=["share", *(f"#{name}" for name in diagnosis)],
        shares=list_shares(diagnosis) if diagnosis else [],
        thresholds=draw_thresholds(evaluation),
        confused=confused,
        confused_heads=["true ↓ predicted →", *(f"#{name}" for name in confused.values()), Markup("#<em>missed</em>")],
        charts=make_charts(evaluation),
        groups=[(heading, list(metrics)) for heading, metrics in groupby(REPORTED, lambda metric: metric.group)],
        **_list_kinds(evaluation),
        **_list_images(encoded, evaluation, [category.name for category in categories]),
    )
    write_file(path, text)
    return path


def _read_static(name: str) -> Markup:
    return Markup((_STATIC / name).read_text(encoding="utf-8"))


def _list_kinds(evaluation: Evaluation) -> dict[str, Any]:
    """The kinds of error, the most expensive first, and the longest bars."""
    errors = evaluation.errors
    kinds = sorted(ERRORS, key=lambda kind: -(errors[kind.name].AP50_cost or 0))
    return {
        "kinds": [(kind, errors[kind.name]) for kind in kinds],
        "kind_labels": {kind.name: kind.label for kind in KINDS},
        "most": max(max(error.predictions, error.instances) for error in errors.values()),
        "highest_cost": max(error.AP50_cost or 0 for error in errors.values()),
    }


def _list_images(encoded: Sequence[EncodedImage], evaluation: Evaluation, names: Sequence[str]) -> dict[str, Any]:
    """The images, and what the script needs to know of all of them."""
    colors = [f"#{bytes(color).hex()}" for color in PALETTE]
    data = {
        "classes": [[name, colors[index % len(colors)]] for index, name in enumerate(names)],
        "kinds": [[kind.label, kind.color] for kind in KINDS],
    }
    return {
        "images": encoded,
        "counts": {row.name: row for row in evaluation.per_image},
        "places": {image.name: index for index, image in enumerate(encoded)},
        "page_data": write_json(data),
    }
