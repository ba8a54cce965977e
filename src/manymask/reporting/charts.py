"""Line charts as SVG: one look for all, coloured by the page's style sheet, drawn for about 360 pixels of width."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from manymask.reporting.markup import Number, escape

_WIDTH, _HEIGHT = 360, 248
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 96, 10, 38
_LINE = 15  # between two labels


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: Its name, shown at its right end.
        x: Where its points are.
        y: Their values; None leaves a gap.
        color: Number of its colour in the style sheet, 0 (ink) to 7.
        dash: Lengths of dashes and gaps in pixels, empty for a solid line.
        has_dots: Whether points are marked.
        intervals: Low and high end at each point, or None.
        notes: What a point says when the pointer rests on it; empty for its coordinates.
    """

    label: str
    x: Sequence[Number]
    y: Sequence[Number | None]
    color: int = 0
    dash: str = ""
    has_dots: bool = False
    intervals: Sequence[tuple[Number, Number] | None] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Frame:
    """The ranges and names of a chart's axes."""

    x_label: str
    y_label: str
    x_range: tuple[Number, Number]
    y_range: tuple[Number, Number] = (0, 1)

    def place_x(self, value: Number) -> float:
        """Where a value lies, in the drawing's units from the left."""
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def place_y(self, value: Number) -> float:
        """Where a value lies, in the drawing's units from the top."""
        low, high = self.y_range
        share = (min(max(value, low), high) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def draw_chart(title: str, frame: Frame, lines: Sequence[Line], *, note: str = "", extra: str = "") -> str:
    """A figure of lines that are named at their right ends; with no line that has a value, an empty text.

    Args:
        title: Its heading.
        frame: Its axes.
        lines: The lines, the most important one last, on top.
        note: HTML below the title.
        extra: SVG under the lines.
    """
    lines = [line for line in lines if any(value is not None for value in line.y)]
    if not lines:
        return ""
    drawn = "".join(_draw_line(frame, line) for line in lines)
    caption = f"<small>{note}</small>" if note else ""
    return (
        f'<figure class="chart"><figcaption><h3>{escape(title)}</h3>{caption}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_describe(title, lines))}">'
        f"{_draw_axes(frame)}{extra}{drawn}{_draw_labels(frame, lines)}</svg></figure>"
    )


def draw_diagonal(frame: Frame) -> str:
    """A thin line from corner to corner."""
    (x1, x2), (y1, y2) = frame.x_range, frame.y_range
    ends = frame.place_x(x1), frame.place_y(y1), frame.place_x(x2), frame.place_y(y2)
    return '<line class="diagonal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*ends)


def draw_columns(frame: Frame, columns: Sequence[tuple[Number, Number, Number]]) -> str:
    """Pale columns from the bottom, each of (left, right, share of the height)."""
    floor, parts = frame.place_y(frame.y_range[0]), []
    for left, right, share in columns:
        x, height = frame.place_x(left) + 0.5, share * (floor - _TOP)
        width = max(frame.place_x(right) - x - 0.5, 0.5)
        parts.append(
            f'<rect class="column" x="{x:.1f}" y="{floor - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
        )
    return "".join(parts)


def choose_ticks(low: Number, high: Number, count: int = 5, *, is_whole: bool = False) -> list[float]:
    """Round numbers in a range, about ``count`` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if is_whole:
        step = max(1.0, float(round(step)))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _draw_axes(frame: Frame) -> str:
    parts = []
    for value in choose_ticks(*frame.y_range):
        y = frame.place_y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in choose_ticks(*frame.x_range, is_whole=frame.x_range[1] > 2):
        x, y = frame.place_x(value), _HEIGHT - _BOTTOM
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 17}" text-anchor="middle">{value:g}</text>')
    y = _HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
    parts.append(
        f'<text class="name" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{escape(frame.x_label)}</text>'
    )
    parts.append(f'<text class="name" x="{_LEFT}" y="{_HEIGHT - 6}">↑ {escape(frame.y_label)}</text>')
    return "".join(parts)


def _draw_line(frame: Frame, line: Line) -> str:
    points = [(frame.place_x(x), None if y is None else frame.place_y(y)) for x, y in zip(line.x, line.y, strict=True)]
    path, is_down = [], False
    for x, y in points:
        if y is not None:
            path.append(f"{'L' if is_down else 'M'}{x:.1f} {y:.1f}")
        is_down = y is not None
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    parts = [f'<path d="{"".join(path)}"{dash}/>']
    for x, interval in zip(line.x, line.intervals, strict=False):
        if interval is not None:
            low, high = frame.place_y(interval[0]), frame.place_y(interval[1])
            parts.append(f'<line class="interval" x1="{frame.place_x(x):.1f}" x2="{frame.place_x(x):.1f}" '
                         f'y1="{low:.1f}" y2="{high:.1f}"/>')  # fmt: skip
    if line.has_dots or sum(y is not None for y in line.y) == 1:
        parts += [_draw_dot(line, index, x, y) for index, (x, y) in enumerate(points) if y is not None]
    return f'<g class="line line-{line.color}">{"".join(parts)}</g>'


def _draw_dot(line: Line, index: int, x: float, y: float) -> str:
    note = line.notes[index] if line.notes else f"{line.label}: {line.y[index]:.3f} at {line.x[index]:g}"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(note)}</title></circle>'


def _draw_labels(frame: Frame, lines: Sequence[Line]) -> str:
    """Each line's name beside its last point, moved up or down until none lies on another."""
    ends = []
    for line in lines:
        index = max(i for i, value in enumerate(line.y) if value is not None)
        ends.append((frame.place_y(line.y[index] or 0.0), frame.place_x(line.x[index]), line))
    ends.sort(key=lambda end: end[0])
    places = _spread([end[0] for end in ends], _TOP + 2.0, _HEIGHT - _BOTTOM - 2.0)
    parts = []
    for y, (_, x, line) in zip(places, ends, strict=True):
        name = line.label if len(line.label) <= 13 else f"{line.label[:12]}…"
        parts.append(
            f'<text class="label line-{line.color}" x="{x + 8:.1f}" y="{y + 4:.1f}">'
            f"<title>{escape(line.label)}</title>{escape(name)}</text>"
        )
    return "".join(parts)


def _spread(places: list[float], top: float, bottom: float) -> list[float]:
    """Ascending places moved apart by a line's height, inside the frame as long as they fit."""
    spread = []
    for place in places:
        spread.append(max(place, top if not spread else spread[-1] + _LINE))
    limit = bottom
    for index in range(len(spread) - 1, -1, -1):
        spread[index] = min(spread[index], limit)
        limit = spread[index] - _LINE
    return spread


def _describe(title: str, lines: Sequence[Line]) -> str:
    """The chart in words, for those who do not see it."""
    last = [next(value for value in reversed(line.y) if value is not None) for line in lines]
    return f"{title}. Last values: " + ", ".join(
        f"{line.label} {value:.3f}" for line, value in zip(lines, last, strict=True)
    )
