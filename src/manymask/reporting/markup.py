"""The page's templates, and how values are written in them; texts are escaped where they are put in."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from manymask.reporting.charts import Number

NONE = "\N{EN DASH}"
"""What stands where a value is undefined."""
MINUS = "\N{MINUS SIGN}"


def format_score(value: Number | None) -> str:
    """A score in three decimals; minus is a true minus sign."""
    return NONE if value is None else f"{value:.3f}".replace("-", MINUS)


def _format_count(value: Number | None) -> str:
    """A whole number, thousands apart; an undefined one as a dash."""
    return NONE if value is None else f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _format_interval(interval: tuple[Number, Number] | None) -> str:
    return "" if interval is None else f"{format_score(interval[0])} to {format_score(interval[1])}"


def _format_count_error(value: Number | None, sign: str) -> str:
    return NONE if value is None else f"{value:{sign}.1f}".replace("-", MINUS)


def _format_prose(text: str) -> Markup:
    """Text of a docstring: what stands between double backquotes becomes code."""
    return Markup(re.sub(r"``(.+?)``", r"<code>\1</code>", str(escape(text))))


TEMPLATES = Environment(
    loader=PackageLoader("manymask.reporting"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "score": format_score,
    "interval": _format_interval,
    "count": _format_count,
    "count_error": _format_count_error,
    "percent": lambda share: f"{share * 100:g}\N{NARROW NO-BREAK SPACE}%",
    "plural": lambda count, noun: f"{_format_count(count)} {noun}{'s' * (count != 1)}",
    "prose": _format_prose,
    "px": lambda value: f"{value:.1f}",
    "inside": lambda value: min(max(value, 0.0), 1.0),
}
