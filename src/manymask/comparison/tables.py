"""A comparison as files: JSON, CSV, Markdown and overlaid curves."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from manymask.core import write_json
from manymask.core.files import replace_file, write_file
from manymask.drawing.curves import draw_overlaid_curves
from manymask.run_folder import read_metrics
from manymask.wording import count_of, format_interval, format_score

COMPARISON_NAMES = ("comparison.json", "comparison.csv", "comparison.md", "curves/loss.png", "curves/map.png")
"""The files of a comparison; curves only where there are runs."""

_NONE = (None, None)  # the ends of an interval that is not there


def write_comparison(result: Mapping[str, Any], sources: Mapping[str, Sequence[Path]], folder: Path) -> None:
    """Write ``comparison.json``, ``.csv`` and ``.md``, and for runs ``curves/loss.png`` and ``curves/map.png``.

    Args:
        result: What ``compare`` found.
        sources: The run folders of each variant, or whatever was compared.
        folder: Where the files go.
    """
    write_json(folder / "comparison.json", result)
    with replace_file(folder / "comparison.csv", "w") as f:
        rows = list(_list_rows(result))
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    curves = {name: [rows for path in paths if (rows := read_metrics(path))] for name, paths in sources.items()}
    curves = {name: runs for name, runs in curves.items() if runs}
    if curves:
        draw_overlaid_curves(curves, folder / "curves")
    write_file(folder / "comparison.md", format_markdown(result, has_curves=bool(curves)))


def _list_rows(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for pair in result["comparisons"]:
        for name, differences in _list_classes(pair):
            for row in differences:
                (low, high), (image_low, image_high) = row["interval"] or _NONE, row["image_interval"] or _NONE
                yield {
                    "class": name, "metric": row["metric"], "first": pair["first"], "second": pair["second"],
                    "first_value": row["first"], "second_value": row["second"], "difference": row["difference"],
                    "low": low, "high": high, "image_low": image_low, "image_high": image_high,
                    "first_seed_deviation": row["first_deviation"], "second_seed_deviation": row["second_deviation"],
                }  # fmt: skip


def _list_classes(pair: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The differences of all classes together, then of each; one class alone would say the same twice."""
    per_class = list(pair["per_class"].items())
    return [("", pair["differences"]), *(per_class if len(per_class) > 1 else [])]


def format_markdown(result: Mapping[str, Any], *, has_curves: bool) -> str:
    """The comparison in words and tables, for a lab book or a pull request."""
    lines = ["# Comparison", "", f"{count_of(result['num_images'], 'image')} of `{result['data']}`.", ""]
    for pair in result["comparisons"]:
        lines += [f"- {sentence}" for sentence in pair["sentences"]]
    lines += ["", *(f"> {note}\n" for note in result["notes"]), "## Scores", "", *_format_scores(result["variants"])]
    for pair in result["comparisons"]:
        lines += ["", f"## {pair['second']} minus {pair['first']}", "", *_format_differences(pair)]
        images = pair["images"]
        lines += [
            "",
            f"Images by F1: {pair['second']} wins {images['won']} against {pair['first']}, loses {images['lost']}, "
            f"ties {images['tied']}.",
        ]
    if has_curves:
        lines += ["", "## Training", "", "![Training loss](curves/loss.png)", "", "![Validation AP](curves/map.png)"]
    return "\n".join(lines) + "\n"


def list_scores(variants: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: a row for each metric, a column for each variant."""
    rows = []
    for metric in variants[0]["metrics"]:
        cells = []
        for variant in variants:
            entry = variant["metrics"][metric]
            spread = "" if entry["seed_deviation"] is None else f" ± {entry['seed_deviation']:.3f}"
            cells.append(format_score(entry["mean"], entry["interval"]) + spread)
        rows.append([metric, *cells])
    return ["", *(variant["name"] for variant in variants)], rows


def _format_scores(variants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    names, rows = list_scores(variants)
    yield _format_row(names)
    yield "| --- |" + " ---: |" * len(variants)
    yield from map(_format_row, rows)
    yield ""
    yield "In brackets the 95 % interval over images; after ± the deviation over seeds, where there are several."


def _format_differences(pair: Mapping[str, Any]) -> Iterator[str]:
    yield "Of many differences without any cause, one in twenty leaves 0 out. The first rows are of all classes."
    yield ""
    yield "| class | metric | difference | 95 % interval | of images alone |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for name, differences in _list_classes(pair):
        for row in differences:
            intervals = [format_interval(row[key]) for key in ("interval", "image_interval")]
            yield _format_row([name, row["metric"], format_score(row["difference"]), *intervals])


def _format_row(cells: Sequence[str]) -> str:
    # Classes may be named so.
    escaped = (" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(escaped)} |"
