"""Made images of crowded, stained cells with exact masks: for demos, tests and benchmarks.

Cells are painted as amounts of three stains, and light through the stains gives the colours (Beer-Lambert law).
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from manymask.core import Category, Instances, encode_crops
from manymask.errors import PlanError

# Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston 2001, in the
# unit lengths of scikit-image's ``rgb_from_hed``).
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=np.float32)
# Every other number of this module is chosen by eye.
_MAX_OVERLAP = 0.2  # of the smaller cell of a pair
_MAX_HIDDEN = 0.4  # of a cell, by all cells above it
_MIN_VISIBLE = 0.3  # of a cell at the image's border
_TRIES = 300  # without success, before the image counts as full


@dataclass(frozen=True)
class _Look:
    """How the cells of a class look.

    Attributes:
        scale: Diameter of a circle of the cell's area, relative to the median diameter.
        elongation: Long axis over short axis.
        roughness: Size of the outline's waves, relative to the radius.
        stains: Amounts of haematoxylin, eosin and DAB.
        rim: How much more stain the cell's edge holds than its inside; below 0, less.
        has_nucleoli: Whether dark spots lie inside.
    """

    scale: float
    elongation: float
    roughness: float
    stains: tuple[float, float, float]
    rim: float = 0.3
    has_nucleoli: bool = False


_LOOKS = (
    _Look(1.4, 1.25, 0.03, (0.75, 0.15, 0.0), rim=0.9, has_nucleoli=True),
    _Look(0.8, 1.05, 0.02, (2.2, 0.3, 0.0), rim=-0.4),
    _Look(1.0, 3.0, 0.04, (1.0, 0.9, 0.0)),
    _Look(1.15, 1.2, 0.14, (0.5, 0.1, 1.5)),
)


@dataclass(frozen=True, eq=False)
class _Cell:
    """One cell inside its own box: its place, and how far out each pixel lies (0 centre, 1 outline)."""

    label: int
    centre: tuple[float, float]
    radius: float
    window: tuple[slice, slice]
    depth: Float32[np.ndarray, "crop_height crop_width"]

    @property
    def mask(self) -> Bool[np.ndarray, "crop_height crop_width"]:
        return self.depth <= 1


def make_categories(num_classes: int) -> tuple[Category, ...]:
    """The classes ``class1`` to ``classN`` with ids 1 to N."""
    return tuple(Category(number, f"class{number}") for number in range(1, num_classes + 1))


def make_sample(
    index: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (256, 256),
    num_instances: int = 60,
    num_classes: int = 3,
    diameter: float = 14.0,
) -> tuple[UInt8[np.ndarray, "height width 3"], Instances]:
    """Make one image of stained tissue and the masks of its cells, the same for the same arguments.

    Cells stand in clusters: many touch, some lie over others. Where they are of two classes, both masks hold the
    shared pixels (about 20 % of the smaller at most); where they are of one class, the upper cell takes them, so that
    each class is a plain label image. Classes differ in size, shape and colour; an image may lack some of them.

    Args:
        index: Number of the image in its series.
        seed: Number of the series.
        size: (height, width) in pixels.
        num_instances: Cells on average, from 25 % fewer to 25 % more, and less where no more fit; 0 gives tissue only.
        num_classes: Number of classes; labels are 1 to this.
        diameter: Typical diameter of a cell in pixels.

    Raises:
        PlanError: A setting is out of range.
    """
    if min(size) < 1 or num_instances < 0 or num_classes < 1 or not 4 <= diameter <= max(size):
        raise PlanError(
            "expected a size of at least 1 x 1, num_instances >= 0, num_classes >= 1 and a diameter from 4 to the "
            f"longer side, got {size[0]} x {size[1]}, {num_instances}, {num_classes} and {diameter:g}; change what is "
            "out of range"
        )
    rng = np.random.default_rng([seed, index])
    looks = _make_looks(num_classes)
    count = round(num_instances * rng.uniform(0.75, 1.25))
    cells, top, under = _place_cells(rng, size, count, looks, diameter)
    pixels = _render(rng, size, cells, looks, diameter)
    crops = (
        (cell.window[1].start, cell.window[0].start, (top[cell.window] == row) | (under[cell.window] == row))
        for row, cell in enumerate(cells)
    )
    labels = np.array([cell.label for cell in cells], dtype=np.int64)
    return pixels, Instances.from_runs(encode_crops(crops, size), labels)


def _make_looks(num_classes: int) -> list[_Look]:
    """Looks of the classes; from the fifth on the shapes come again, larger and in other stains."""
    looks = []
    for number in range(num_classes):
        turn, base = number // len(_LOOKS), _LOOKS[number % len(_LOOKS)]
        stains = base.stains[-turn % 3 :] + base.stains[: -turn % 3]
        looks.append(replace(base, scale=base.scale * 1.25**turn, stains=stains))
    return looks


def _place_cells(
    rng: np.random.Generator, size: tuple[int, int], count: int, looks: list[_Look], diameter: float
) -> tuple[list[_Cell], np.ndarray, np.ndarray]:
    """Place cells, later ones over earlier ones.

    Returns:
        The cells, and two images of their indices (-1 for none): the uppermost cell of each pixel, and the one of
        another class right under it. No pixel has a third one.
    """
    top, under = np.full(size, -1, dtype=np.int32), np.full(size, -1, dtype=np.int32)
    cells: list[_Cell] = []
    labels, areas, hidden = (np.zeros(count, dtype=np.int64) for _ in range(3))
    weights = _draw_class_weights(rng, len(looks))
    tries = 0
    while len(cells) < count and tries < _TRIES:
        tries += 1
        label = int(rng.choice(len(looks), p=weights)) + 1
        cell = _draw_cell(rng, size, cells, label, looks[label - 1], diameter)
        mask, below = cell.mask, top[cell.window]
        area = int(mask.sum())
        rows, shared = np.unique(below[mask & (below >= 0)], return_counts=True)
        if (
            area < _MIN_VISIBLE * np.pi * cell.radius**2
            or (under[cell.window][mask] >= 0).any()
            or (shared > _MAX_OVERLAP * np.minimum(area, areas[rows] - hidden[rows])).any()
            or (hidden[rows] + shared > _MAX_HIDDEN * areas[rows]).any()
        ):
            continue
        is_shared = mask & (below >= 0) & (labels[below] != label)
        under[cell.window][is_shared] = below[is_shared]
        top[cell.window][mask] = len(cells)
        labels[len(cells)], areas[len(cells)] = label, area
        hidden[rows] += shared
        cells.append(cell)
        tries = 0
    return cells, top, under


def _draw_class_weights(rng: np.random.Generator, num_classes: int) -> np.ndarray:
    """How often each class occurs in an image; some classes do not, but at least one does."""
    weights = rng.uniform(0.4, 1.6, num_classes) * (rng.random(num_classes) < 0.85)
    weights[rng.integers(num_classes)] += 0.5
    return weights / weights.sum()


def _draw_cell(
    rng: np.random.Generator, size: tuple[int, int], cells: list[_Cell], label: int, look: _Look, diameter: float
) -> _Cell:
    """Draw a cell beside one that is there already, or, one time in five, anywhere."""
    radius = diameter / 2 * look.scale * np.exp(rng.normal(0, 0.12))
    centre = rng.uniform(0, size)
    if cells and rng.random() > 0.2:
        neighbour = cells[rng.integers(len(cells))]
        angle, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.25)
        offset = gap * (radius + neighbour.radius) * np.array([np.sin(angle), np.cos(angle)])
        centre = np.clip(neighbour.centre + offset, 0, size)
    return _shape_cell(rng, size, (float(centre[0]), float(centre[1])), float(radius), label, look)


def _shape_cell(
    rng: np.random.Generator, size: tuple[int, int], centre: tuple[float, float], radius: float, label: int, look: _Look
) -> _Cell:
    """Shape an ellipse with a wavy outline, inside its box, which ends at the image's border."""
    stretch = np.sqrt(max(1.0, look.elongation * np.exp(rng.normal(0, 0.12))))
    angle = rng.uniform(0, np.pi)
    orders = np.arange(2, 6)
    waves = np.clip(rng.normal(0, look.roughness, len(orders)), -0.2, 0.2) * 2 / orders
    reach = radius * stretch * (1 + np.abs(waves).sum()) + 2
    rows, columns = (
        slice(max(0, int(middle - reach)), min(end, int(middle + reach) + 1))
        for middle, end in zip(centre, size, strict=True)
    )
    y, x = np.ogrid[rows, columns]
    y, x = y + 0.5 - centre[0], x + 0.5 - centre[1]
    along = (x * np.cos(angle) + y * np.sin(angle)) / stretch
    across = (y * np.cos(angle) - x * np.sin(angle)) * stretch
    theta = np.arctan2(across, along)[..., None] * orders + rng.uniform(0, 2 * np.pi, len(orders))
    outline = radius * (1 + np.cos(theta) @ waves)
    depth = (np.hypot(along, across) / outline).astype(np.float32)
    return _Cell(label, centre, radius, (rows, columns), depth)


def _render(
    rng: np.random.Generator, size: tuple[int, int], cells: list[_Cell], looks: list[_Look], diameter: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Stain tissue and cells, and take the picture: uneven light, a soft lens, a noisy camera."""
    amounts = _stain_tissue(rng, size, diameter)
    texture = 0.6 * _make_noise(rng, size, diameter / 5) + 0.4 * _make_noise(rng, size, diameter / 2.5)
    strength = rng.uniform(0.85, 1.15, 3).astype(np.float32)  # differs between slides, as in a laboratory
    for cell in cells:
        _stain_cell(rng, amounts, cell, looks[cell.label - 1], texture)
    stains = _STAINS * strength[:, None] + rng.normal(0, 0.03, (3, 3)).astype(np.float32)
    light = np.exp(-(amounts @ stains))
    light *= (rng.uniform(0.94, 1.0) + 0.03 * _make_noise(rng, size, max(size) / 1.5))[..., None]
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.035, 0.055) * diameter)
    light += 0.015 * rng.standard_normal(light.shape, dtype=np.float32)
    return (np.clip(light, 0, 1) * 255).astype(np.uint8)


def _stain_tissue(
    rng: np.random.Generator, size: tuple[int, int], diameter: float
) -> Float32[np.ndarray, "height width 3"]:
    """Amounts of the three stains in what lies around the cells: stroma with pale gaps, fibres and debris."""
    coarse, middle, fine = (_make_noise(rng, size, scale * diameter) for scale in (5, 1, 0.25))
    # The logistic curve makes gaps with soft edges.
    ground = 0.1 + 0.25 / (1 + np.exp(-3 * coarse)) + 0.04 * middle + 0.04 * fine
    fibres, debris = _draw_fibres(rng, size, diameter), _draw_debris(rng, size, diameter)
    amounts = np.zeros((*size, 3), dtype=np.float32)
    amounts[..., 0] = 0.05 + 0.1 * ground + 0.12 * fibres + 1.2 * debris
    amounts[..., 1] = ground * (1 + 0.9 * fibres) + 0.12 * fibres
    return np.maximum(amounts, 0)


def _draw_fibres(
    rng: np.random.Generator, size: tuple[int, int], diameter: float
) -> Float32[np.ndarray, "height width"]:
    """Thin wavy lines that run roughly one way, from 0 to 1."""
    canvas = np.zeros(size, dtype=np.uint8)
    direction = rng.uniform(0, np.pi)
    for _ in range(round(size[0] * size[1] / (6 * diameter) ** 2 * 4)):
        steps = np.arange(12) * diameter / 2
        heading = direction + rng.normal(0, 0.25) + 0.3 * np.sin(np.arange(12) / rng.uniform(1.5, 4))
        points = rng.uniform(0, size)[::-1] + np.stack([steps * np.cos(heading), steps * np.sin(heading)], axis=1)
        thickness = max(1, round(diameter / 14 * rng.uniform(0.6, 2.4)))
        cv2.polylines(canvas, [points.astype(np.int32)], False, int(rng.integers(80, 255)), thickness, cv2.LINE_AA)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), diameter / 20)


def _draw_debris(
    rng: np.random.Generator, size: tuple[int, int], diameter: float
) -> Float32[np.ndarray, "height width"]:
    """Dark specks far smaller than a cell, from 0 to 1."""
    canvas = np.zeros(size, dtype=np.uint8)
    for row, column in rng.uniform(0, size, (round(size[0] * size[1] / (2.5 * diameter) ** 2), 2)).astype(int):
        radius = int(diameter * rng.uniform(0.03, 0.16))
        cv2.circle(canvas, (int(column), int(row)), radius, int(rng.integers(60, 255)), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), diameter / 28)


def _stain_cell(
    rng: np.random.Generator,
    amounts: Float32[np.ndarray, "height width 3"],
    cell: _Cell,
    look: _Look,
    texture: Float32[np.ndarray, "height width"],
) -> None:
    """Lay a cell over what is there, inside its box."""
    depth = cell.depth
    density = 1 + 0.28 * texture[cell.window] + look.rim * np.clip((depth - 0.7) / 0.2, 0, 1)
    inside = np.argwhere(depth < 0.5)
    for _ in range(rng.integers(1, 4) if look.has_nucleoli and len(inside) else 0):
        spot = inside[rng.integers(len(inside))]
        rows, columns = np.ogrid[: depth.shape[0], : depth.shape[1]]
        distance = ((rows - spot[0]) ** 2 + (columns - spot[1]) ** 2) / (0.16 * cell.radius) ** 2
        density += 1.3 * np.exp(-distance / 2)
    tint = np.array(look.stains) * np.exp(rng.normal(0, 0.12, 3)) * np.exp(rng.normal(0, 0.18))
    cover = 0.93 * np.clip((1 - depth) * cell.radius + 0.5, 0, 1)[..., None]
    amounts[cell.window] += (cover * (np.maximum(density, 0.2)[..., None] * tint - amounts[cell.window])).astype(
        np.float32
    )


def _make_noise(rng: np.random.Generator, size: tuple[int, int], scale: float) -> Float32[np.ndarray, "height width"]:
    """Smooth noise of about unit variance whose spots are ``scale`` pixels wide."""
    scale = max(scale, 1.0)
    grid = rng.standard_normal([int(side / scale) + 4 for side in size], dtype=np.float32)
    large = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    first = int(scale)  # the outermost cells of the grid are flat
    return large[first : first + size[0], first : first + size[1]]
