"""The page: ``report.html`` with all that is known of a run or of a file of predictions."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from manymask import __version__
from manymask.core import Category
from manymask.core.files import replace_file
from manymask.drawing import PALETTE
from manymask.plan import Plan
from manymask.reporting.error_kinds import KINDS
from manymask.reporting.history import make_curves, make_data, make_plan
from manymask.reporting.images import EncodedImage, ViewedImage, choose_images, encode_image, write_json
from manymask.reporting.markup import (
    escape,
    format_interval,
    format_percent,
    format_plural,
    format_score,
    get_interval,
    look_up,
    make_table,
)
from manymask.reporting.mistakes import make_mistakes
from manymask.reporting.scores import describe_intervals, make_scores

_STATIC = files("manymask.reporting") / "static"


def write_report(
    path: Path,
    *,
    title: str,
    plan: Plan | None,
    rows: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any],
    categories: Sequence[Category],
    images: Iterable[ViewedImage],
    max_images: int = 60,
) -> Path:
    """Write one HTML file that needs no other and no network.

    Memory holds one image at a time, and those that are shown as JPEG with their outlines.

    Args:
        path: The file.
        title: Its heading.
        plan: The run's plan; None where the predictions come from elsewhere.
        rows: The run's ``metrics.csv``, one mapping an epoch with None for what is undefined; may be empty.
        evaluation: The content of ``evaluation.json``; any part may be missing or null.
        categories: The classes; label i + 1 is ``categories[i]``.
        images: The images, in any order. Those that ``choose_images`` does not name are passed over.
        max_images: Number of images to show at most.

    Returns:
        The file.

    Raises:
        ValueError: The instances of an image do not fit it or the classes.
        ManymaskError: The file cannot be written.
    """
    per_image = look_up(evaluation, "per_image") or []
    chosen = set(choose_images(per_image, max_images))
    encoded = [encode_image(image, len(categories)) for image in images if image.name in chosen]
    encoded.sort(key=lambda image: -image.loss)
    names = [category.name for category in categories]
    sections = {
        "scores": ("Scores", make_scores(evaluation, names), describe_intervals(evaluation)),
        "errors": ("Errors", make_mistakes(evaluation, names), _describe_errors(evaluation)),
        "images": ("Images", _make_browser(encoded, evaluation), _describe_images(encoded, per_image)),
        "training": ("Training", make_curves(rows), ""),
        "origin": ("Data and settings", _make_origin(plan, evaluation), ""),
    }
    sections = {key: section for key, section in sections.items() if section[1]}
    page = (_STATIC / "report.html").read_text(encoding="utf-8")
    parts = {
        "style": (_STATIC / "report.css").read_text(encoding="utf-8"),
        "title": escape(title),
        "header": _make_header(
            title, plan, len(rows), evaluation, [(key, section[0]) for key, section in sections.items()]
        ),
        "sections": "".join(_make_section(key, *section) for key, section in sections.items()),
        "data": _make_scripts(encoded, names),
        "script": (_STATIC / "report.js").read_text(encoding="utf-8") if encoded else "",
    }
    for name, text in parts.items():  # no text of the user holds a marker: its < is escaped
        page = page.replace(f"<!--{name}-->", text, 1)
    with replace_file(path, "w") as f:
        f.write(page)
    return path


def _make_header(
    title: str, plan: Plan | None, num_epochs: int, evaluation: Mapping[str, Any], contents: Sequence[tuple[str, str]]
) -> str:
    today = datetime.now().astimezone()
    notes = "".join(f"<li>{escape(note)}</li>" for note in look_up(evaluation, "notes") or [])
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name in contents)
    return (
        f'<p class="overline">manymask {escape(__version__)} · <time datetime="{today:%Y-%m-%d}">{today.day} '
        f"{today:%B %Y}</time></p><h1>{escape(title)}</h1>"
        f'<p class="summary">{_summarize(plan, num_epochs, evaluation)}</p>'
        + (f'<ul class="notes" aria-label="Notes">{notes}</ul>' if notes else "")
        + f'<nav aria-label="Sections">{links}</nav>'
    )


def _summarize(plan: Plan | None, num_epochs: int, evaluation: Mapping[str, Any]) -> str:
    """One sentence: trained on what, and how good."""
    score, interval = look_up(evaluation, "mask", "AP50"), get_interval(evaluation, "mask", "AP50")
    level = look_up(evaluation, "intervals", "level")
    num_images = look_up(evaluation, "num_images")
    start = ""
    if plan is not None and plan.data is not None:
        is_best = Path(look_up(evaluation, "model") or "").name == "best.ckpt"
        best = "the best of " if is_best and num_epochs > 1 else ""
        epochs = f", {best}{format_plural(num_epochs, 'epoch')}" if num_epochs else ""
        start = f"Trained on {format_plural(len(plan.data.train_names), 'image')}{epochs}: "
    range_text = f", {format_percent(level)} interval {format_interval(interval)}," if interval and level else ""
    result = f"mask AP50 is <b>{format_score(score)}</b>{range_text}" if score is not None else "mask AP50 is undefined"
    end = "" if num_images is None else f" on {format_plural(num_images, 'image')}"
    sentence = f"{start}{result}{end}."
    return sentence[0].upper() + sentence[1:]


def _make_section(key: str, title: str, content: str, lead: str) -> str:
    paragraph = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{key}"><h2>{title}</h2>{paragraph}{content}</section>'


def _describe_errors(evaluation: Mapping[str, Any]) -> str:
    threshold = look_up(evaluation, "score_threshold")
    start = "" if threshold is None else f"Numbers are of predictions with a score of {threshold:g} or more. "
    return f"{start}A kind costs what mask AP50, which is of all scores, would gain if there were no such errors."


def _describe_images(encoded: Sequence[EncodedImage], per_image: Sequence[Mapping[str, Any]]) -> str:
    if len(encoded) < len(per_image):
        return (
            f"Worst F1 first: {len(encoded)} of {format_plural(len(per_image), 'image')}, the worst and then evenly "
            "through the rest."
        )
    return f"{format_plural(len(encoded), 'image')}, worst F1 first." if len(encoded) > 1 else ""


def _make_browser(encoded: Sequence[EncodedImage], evaluation: Mapping[str, Any]) -> str:
    if not encoded:
        return ""
    counts = {row["name"]: row for row in look_up(evaluation, "per_image") or []}
    items = "".join(_make_thumbnail(index, image, counts[image.name]) for index, image in enumerate(encoded))
    page = (_STATIC / "browser.html").read_text(encoding="utf-8")
    worst = _make_worst(encoded, look_up(evaluation, "worst_instances") or [])
    return page.replace("<!--thumbnails-->", items, 1).replace("<!--worst-->", worst, 1)


def _make_thumbnail(index: int, image: EncodedImage, row: Mapping[str, Any]) -> str:
    f1 = format_score(row.get("F1"))
    return (
        f'<li><button type="button" data-image="{index}"><img src="{image.thumbnail}" alt="">'
        f"<span><b>{escape(image.name)}</b><span>F1 {f1}</span>"
        f"<small>TP {row.get('TP')} · FP {row.get('FP')} · FN {row.get('FN')}</small></span></button></li>"
    )


def _make_worst(encoded: Sequence[EncodedImage], worst: Sequence[Mapping[str, Any]]) -> str:
    """The worst single instances; a button shows each in the browser above."""
    places = {image.name: index for index, image in enumerate(encoded)}
    labels = {kind.name: kind.label for kind in KINDS}
    rows = []
    for entry in worst:
        name = escape(entry["image"])
        if entry["image"] in places and entry.get("box"):
            place, box = places[entry["image"]], " ".join(f"{value:g}" for value in entry["box"])
            name = f'<button type="button" class="link" data-image="{place}" data-box="{box}">{name}</button>'
        what = "ground truth" if entry["what"] == "instance" else "prediction"
        scores = format_score(entry.get("score")), format_score(entry.get("iou"))
        rows.append((name, escape(labels.get(entry["kind"], entry["kind"])), what, escape(entry["category"]), *scores))
    if not rows:
        return ""
    table = make_table(("image", "kind", "what", "class", "#score", "#best IoU"), rows, "worst-instances")
    return f'<details class="worst"><summary>The {len(rows)} worst single errors</summary>{table}</details>'


def _make_scripts(encoded: Sequence[EncodedImage], names: Sequence[str]) -> str:
    colors = [f"#{bytes(color).hex()}" for color in PALETTE]
    page = {
        "classes": [[name, colors[index % len(colors)]] for index, name in enumerate(names)],
        "kinds": [[kind.label, kind.color] for kind in KINDS],
    }
    parts = [f'<script type="application/json" id="page">{write_json(page)}</script>']
    for index, image in enumerate(encoded):
        parts.append(f'<script type="application/json" id="image-{index}">{image.content}</script>')
    return "\n".join(parts) if encoded else ""


def _make_origin(plan: Plan | None, evaluation: Mapping[str, Any]) -> str:
    data = make_data(None if plan is None else plan.data, evaluation)
    return data + ("" if plan is None else make_plan(plan))
