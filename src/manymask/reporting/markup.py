"""Pieces of HTML that all sections are made of; every text of the user goes through ``escape``."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Number = int | float
"""JSON gives 0 and 1 where a score is whole."""
NONE = "\N{EN DASH}"
"""What stands where a value is undefined."""
MINUS = "\N{MINUS SIGN}"


def escape(text: object) -> str:
    """Text as HTML, also inside quoted attributes."""
    return html.escape(str(text))


def escape_prose(text: str) -> str:
    """Text of a docstring as HTML: what stands between double backquotes becomes code."""
    return re.sub(r"``(.+?)``", r"<code>\1</code>", escape(text))


def look_up(values: Mapping[str, Any], *path: str) -> Any:
    """The value at a path of keys, or None where a key on the way is missing or null."""
    found: Any = values
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def get_interval(evaluation: Mapping[str, Any], *path: str) -> tuple[Number, Number] | None:
    """The interval of the value at a path, where there is one."""
    interval = look_up(evaluation, "intervals", "values", ".".join(path))
    return None if interval is None or None in interval else (interval[0], interval[1])


def format_score(value: Number | None) -> str:
    """A score in three decimals; minus is a true minus sign."""
    return NONE if value is None else f"{value:.3f}".replace("-", MINUS)


def format_interval(interval: tuple[Number, Number] | None) -> str:
    """An interval in words."""
    return "" if interval is None else f"{format_score(interval[0])} to {format_score(interval[1])}"


def format_count(value: Number | None) -> str:
    """A whole number, thousands apart; an infinite or undefined one as a dash."""
    return NONE if value is None else f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def format_percent(share: Number) -> str:
    """A share in percent."""
    return f"{share * 100:g}\N{NARROW NO-BREAK SPACE}%"


def format_plural(count: int, noun: str) -> str:
    """A number with its noun, as in "1 image" and "2 images"."""
    return f"{format_count(count)} {noun}{'s' * (count != 1)}"


def make_table(head: Sequence[str], rows: Iterable[Sequence[str]], name: str) -> str:
    """A table that scrolls sideways inside itself where the screen is narrow.

    Args:
        head: HTML of the column heads; one that begins with ``#`` is of numbers, and its column is set right.
        rows: HTML of the cells; the first of each row is its head. One that begins with ``<td`` is taken as it is.
        name: What the table is, for screen readers and as its class, in lower case and without spaces.
    """
    is_number = [title.startswith("#") for title in head]
    heads = "".join(
        f'<th scope="col"{_number_class(number)}>{title.removeprefix("#")}</th>'
        for title, number in zip(head, is_number, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(_make_cell(cell, i, is_number[i]) for i, cell in enumerate(row))}</tr>" for row in rows
    )
    label = escape(name.replace("-", " "))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="{escape(name)}">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _make_cell(cell: str, column: int, is_number: bool) -> str:
    if cell.startswith("<td"):
        return cell
    name, scope = ("th", ' scope="row"') if column == 0 else ("td", "")
    return f"<{name}{scope}{_number_class(is_number)}>{cell}</{name}>"


def _number_class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def draw_track(value: Number | None, interval: tuple[Number, Number] | None) -> str:
    """A dot on a line from 0 to 1, with a bar for its interval; empty where the value is undefined."""
    if value is None:
        return ""
    bar = ""
    if interval is not None:
        low, high = (min(max(end, 0.0), 1.0) * 100 for end in interval)
        bar = f'<i class="bar" style="left:{low:.1f}%;width:{max(high - low, 0.5):.1f}%"></i>'
    return f'<div class="track" aria-hidden="true">{bar}<b style="left:{min(max(value, 0), 1) * 100:.1f}%"></b></div>'
