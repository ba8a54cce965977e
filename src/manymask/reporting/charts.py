"""Line charts as SVG: where everything lies; ``templates/parts.html`` draws it, for about 360 pixels of width."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

Number = int | float
"""JSON gives 0 and 1 where a score is whole."""

_LINE = 15  # between two labels


@dataclass(frozen=True)
class Frame:
    """The ranges and names of a chart's axes, and the edges of what lies between them."""

    x_label: str
    y_label: str
    x_range: tuple[Number, Number]
    y_range: tuple[Number, Number] = (0, 1)
    width: ClassVar[int] = 360
    height: ClassVar[int] = 248
    left: ClassVar[int] = 34
    right: ClassVar[int] = width - 96
    top: ClassVar[int] = 10
    bottom: ClassVar[int] = height - 38

    def place_x(self, value: Number) -> float:
        """Where a value lies, in the drawing's units from the left."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def place_y(self, value: Number) -> float:
        """Where a value lies, in the drawing's units from the top."""
        low, high = self.y_range
        share = (min(max(value, low), high) - low) / (high - low)
        return self.bottom - share * (self.bottom - self.top)

    @property
    def x_ticks(self) -> list[float]:
        """Values that are written on the axis."""
        return choose_ticks(*self.x_range, is_whole=self.x_range[1] > 2)

    @property
    def y_ticks(self) -> list[float]:
        """Values that are written on the axis."""
        return choose_ticks(*self.y_range)


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

    @property
    def last(self) -> tuple[Number, Number]:
        """The last point that has a value."""
        return [(x, y) for x, y in zip(self.x, self.y, strict=True) if y is not None][-1]

    def trace(self, frame: Frame) -> str:
        """An SVG path through the points."""
        path, is_down = [], False
        for x, y in zip(self.x, self.y, strict=True):
            if y is not None:
                path.append(f"{'L' if is_down else 'M'}{frame.place_x(x):.1f} {frame.place_y(y):.1f}")
            is_down = y is not None
        return "".join(path)

    def list_intervals(self) -> list[tuple[Number, Number, Number]]:
        """Each point's place, low and high end."""
        return [(x, *ends) for x, ends in zip(self.x, self.intervals, strict=False) if ends is not None]

    def list_dots(self) -> list[tuple[Number, Number, str]]:
        """The points that are marked, with what they say; a single one always is."""
        if not self.has_dots and sum(y is not None for y in self.y) != 1:
            return []
        notes = self.notes or [f"{self.label}: {y or 0:.3f} at {x:g}" for x, y in zip(self.x, self.y, strict=True)]
        return [(x, y, note) for x, y, note in zip(self.x, self.y, notes, strict=True) if y is not None]


@dataclass
class Chart:
    """A figure of lines that are named at their right ends.

    Attributes:
        title: Its heading.
        frame: Its axes.
        lines: The lines, the most important one last, on top; those without any value are left out.
        note: What stands below the title.
        columns: Pale columns from the bottom, each of (left, right, share of the height).
        has_diagonal: Whether a thin line runs from corner to corner.
    """

    title: str
    frame: Frame
    lines: Sequence[Line]
    note: str = ""
    columns: Sequence[tuple[Number, Number, Number]] = ()
    has_diagonal: bool = False

    def __post_init__(self) -> None:
        self.lines = [line for line in self.lines if any(value is not None for value in line.y)]

    def describe(self) -> str:
        """The chart in words, for those who do not see it."""
        return f"{self.title}. Last values: " + ", ".join(f"{line.label} {line.last[1]:.3f}" for line in self.lines)

    def place_labels(self) -> list[tuple[float, float, Line]]:
        """Each line's name beside its last point, moved up or down until none lies on another."""
        ends = [(self.frame.place_x(line.last[0]), self.frame.place_y(line.last[1]), line) for line in self.lines]
        ends.sort(key=lambda end: end[1])
        places = _spread([y for _, y, _ in ends], self.frame.top + 2.0, self.frame.bottom - 2.0)
        return [(x, y, line) for (x, _, line), y in zip(ends, places, strict=True)]


def choose_ticks(low: Number, high: Number, count: int = 5, *, is_whole: bool = False) -> list[float]:
    """Round numbers in a range, about ``count`` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if is_whole:
        step = max(1.0, float(round(step)))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


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
