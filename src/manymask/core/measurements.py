"""Shape and intensity of instances, measured on runs, under scikit-image's names and with its values.

``skimage.measure.regionprops_table`` paints an image for each object, and again for its convex hull. Sums over runs
give the same numbers some twenty times as fast (benchmarks/RESULTS.md), for masks that overlap too.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int64

from manymask.core.components import split_columns
from manymask.core.image import ImageSource, Window
from manymask.core.runs import RunLengths, expand_ranges, iterate_groups, iterate_parts

Measurements = dict[str, np.ndarray]
"""A column of one value for each instance, by name."""

# Pixels of masks that are looked at together (some 100 bytes each).
GROUP_PIXELS = 1 << 20
# Instances whose shapes are measured together have about this many runs (some 500 bytes each).
GROUP_RUNS = 1 << 18
# Side of the windows that a large image is read in.
WINDOW_SIZE = 4096

# Weights of border pixels by their number of border neighbours, across and down two each, diagonal ones ten each, plus
# one: Benkrid and Crookes, "Design and FPGA implementation of a perimeter estimator" (2000), as in scikit-image.
_PERIMETER_WEIGHTS = np.zeros(50)
_PERIMETER_WEIGHTS[[5, 7, 15, 17, 25, 27]] = 1
_PERIMETER_WEIGHTS[[21, 33]] = np.sqrt(2)
_PERIMETER_WEIGHTS[[13, 23]] = (1 + np.sqrt(2)) / 2


def iterate_tables(
    runs: RunLengths,
    labels: Int64[np.ndarray, " instances"],
    scores: Float32[np.ndarray, " instances"],
    class_names: Sequence[str],
    image: ImageSource | None = None,
    corner: tuple[int, int] = (0, 0),
) -> Iterator[Measurements]:
    """A table of measurements in parts of many instances, whose ids are their rows plus one.

    Args:
        runs: The masks.
        labels: The class index of each; label i + 1 is ``class_names[i]``.
        scores: The score of each.
        class_names: The classes.
        image: The image that the masks are of, for its values and the size of its pixels.
        corner: The row and the column of a larger image that the first pixel is; positions count in that one.

    Returns:
        Parts with equal columns, at least one: ``label`` (the id), ``class``, ``score``, what ``measure_shapes`` and
        ``to_micrometres`` give, and what ``measure_intensities`` gives.

    Raises:
        ValueError: The image is of another size.
        FormatError: The image cannot be read.
    """
    intensities = measure_intensities(runs, image) if image is not None else {}
    pixel_size = image.pixel_size if image is not None else None
    names = np.array([*class_names], dtype=object)
    for rows, part in iterate_parts(runs, GROUP_RUNS):
        shapes = measure_shapes(part, corner)
        yield {
            "label": np.arange(rows.start, rows.stop) + 1,
            "class": names[labels[rows] - 1],
            "score": scores[rows],
            **shapes,
            **(to_micrometres(shapes, pixel_size) if pixel_size else {}),
            **{name: column[rows] for name, column in intensities.items()},
        }


def measure_shapes(runs: RunLengths, corner: tuple[int, int] = (0, 0)) -> Measurements:
    """Measure the shapes of masks.

    Args:
        runs: The masks.
        corner: As in ``iterate_tables``.

    Returns:
        Columns in the order of a table, each of the meaning that ``skimage.measure.regionprops`` gives it: ``area``,
        ``centroid-0`` (row) and ``centroid-1`` (column), ``bbox-0`` to ``bbox-3`` (first row, first column, the row and
        the column after the last), ``perimeter``, ``eccentricity``, ``solidity``, ``orientation``,
        ``axis_major_length``, ``axis_minor_length``; in pixels and radians. An empty mask has an area of 0, an empty
        box in the corner, and NaN for all else.
    """
    boxes = runs.boxes.astype(np.int64)
    owner, column, top, bottom = split_columns(runs)
    x, y1, y2 = column - boxes[owner, 0], top - boxes[owner, 1], bottom - boxes[owner, 1] - 1

    def add_up(values: np.ndarray) -> Float64[np.ndarray, " instances"]:
        return np.bincount(owner, weights=values, minlength=len(runs)).astype(np.float64)

    # Sums of whole numbers, which float64 holds: coordinates are from the corner of each box.
    count = y2 - y1 + 1
    sum_y = (y1 + y2) * count // 2
    sum_yy = (y2 * (y2 + 1) * (2 * y2 + 1) - (y1 - 1) * y1 * (2 * y1 - 1)) // 6
    area = add_up(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = add_up(x * count) / area, add_up(sum_y) / area
        variance_x = add_up(x * x * count) / area - mean_x**2
        variance_y = add_up(sum_yy) / area - mean_y**2
        covariance = add_up(x * sum_y) / area - mean_x * mean_y
        middle, radius = (variance_x + variance_y) / 2, np.hypot((variance_x - variance_y) / 2, covariance)
        major, minor = middle + radius, np.maximum(middle - radius, 0)
        eccentricity = np.sqrt(1 - np.divide(minor, major, where=major > 0, out=np.ones(len(runs))))
        orientation = 0.5 * np.arctan2(2 * covariance, variance_y - variance_x)
        # scikit-image has a value of its own for masks without a direction.
        is_round = variance_x == variance_y
        orientation = np.where(is_round, np.where(covariance > 0, np.pi / 4, -np.pi / 4), orientation)
        convex_area = _measure_convex_areas(len(runs), owner, x, y1, y2)
        solidity = area / convex_area
    is_empty = area == 0
    boxes += [corner[1], corner[0]] * 2
    measured = {
        "perimeter": _measure_perimeters(runs),
        "eccentricity": eccentricity,
        "solidity": solidity,
        "orientation": orientation,
        "axis_major_length": 4 * np.sqrt(major),
        "axis_minor_length": 4 * np.sqrt(minor),
    }
    return {
        "area": area.astype(np.int64),
        "centroid-0": mean_y + boxes[:, 1],
        "centroid-1": mean_x + boxes[:, 0],
        **{f"bbox-{place}": boxes[:, corner] for place, corner in enumerate((1, 0, 3, 2))},
        **{name: np.where(is_empty, np.nan, values) for name, values in measured.items()},
    }


def measure_intensities(runs: RunLengths, image: ImageSource) -> Measurements:
    """Measure the values of an image inside masks; an image with a side above 4,096 pixels is read in windows.

    Returns:
        ``intensity_mean``, ``intensity_min``, ``intensity_max`` and ``intensity_std``, each followed by ``-0``, ``-1``
        .. for the channels where there are several, in the units of the file. NaN for an empty mask.

    Raises:
        ValueError: The masks are of another size than the image.
        FormatError: The image cannot be read.
    """
    if runs.size != image.size:
        raise ValueError(f"expected masks of the image's size {image.size}, got {runs.size}")
    shape = (len(runs), image.num_channels)
    count, mean, squares = np.zeros((len(runs), 1)), np.zeros(shape), np.zeros(shape)
    least, most = np.full(shape, np.inf), np.full(shape, -np.inf)
    for window, owner, column, top, bottom in _cut_windows(runs):
        pixels = image.read(window)
        for here in iterate_groups(bottom - top, GROUP_PIXELS):
            # Values of one instance lie behind each other, and those of several columns of it too.
            source, row = expand_ranges(top[here], (bottom - top)[here])
            values = pixels[row, column[here][source]].astype(np.float64)
            part_owner = owner[here][source]
            begin = np.flatnonzero(np.append(True, part_owner[1:] != part_owner[:-1]))
            rows, number = part_owner[begin], np.diff(np.append(begin, len(part_owner)))[:, None]
            part_mean = np.add.reduceat(values, begin) / number
            part_squares = np.add.reduceat((values - part_mean.repeat(number[:, 0], axis=0)) ** 2, begin)
            # Two means and sums of squares as one: Chan, Golub and LeVeque (1979).
            total = count[rows] + number
            shift = part_mean - mean[rows]
            squares[rows] += part_squares + shift**2 * count[rows] * number / total
            mean[rows] += shift * number / total
            count[rows] = total
            least[rows] = np.minimum(least[rows], np.minimum.reduceat(values, begin))
            most[rows] = np.maximum(most[rows], np.maximum.reduceat(values, begin))
    with np.errstate(invalid="ignore", divide="ignore"):
        tables = {"mean": mean, "min": least, "max": most, "std": np.sqrt(squares / count)}
    return {
        f"intensity_{name}{f'-{channel}' if image.num_channels > 1 else ''}": np.where(
            count[:, 0] > 0, table[:, channel], np.nan
        )
        for name, table in tables.items()
        for channel in range(image.num_channels)
    }


def to_micrometres(shapes: Measurements, pixel_size: tuple[float, float]) -> Measurements:
    """What ``measure_shapes`` gave in micrometres: ``area_um2`` and, if pixels are square, lengths that end in ``_um``.

    Args:
        shapes: The columns in pixels.
        pixel_size: Height and width of a pixel in micrometres.
    """
    height, width = pixel_size
    scaled = {
        "area_um2": shapes["area"] * height * width,
        "centroid-0_um": shapes["centroid-0"] * height,
        "centroid-1_um": shapes["centroid-1"] * width,
    }
    if np.isclose(height, width, rtol=1e-3):
        lengths = ("perimeter", "axis_major_length", "axis_minor_length")
        scaled |= {f"{name}_um": shapes[name] * height for name in lengths}
    return scaled


def _cut_windows(
    runs: RunLengths,
) -> Iterator[tuple[Window, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each window of an image its parts of columns, in its own coordinates, ascending by owner."""
    height, width = runs.size
    for left in range(0, width, WINDOW_SIZE):
        first, last = left * height, min(left + WINDOW_SIZE, width) * height
        here = np.flatnonzero((runs.start < last) & (runs.start + runs.length > first))
        start, end = np.maximum(runs.start[here], first), np.minimum((runs.start + runs.length)[here], last)
        strip = RunLengths(runs.size, len(runs), runs.owner[here], start, end - start)
        owner, column, top, bottom = split_columns(strip)
        for upper in range(0, height, WINDOW_SIZE):
            window = Window(upper, left, min(WINDOW_SIZE, height - upper), min(WINDOW_SIZE, width - left))
            inside = np.flatnonzero((top < upper + window.height) & (bottom > upper))
            if len(inside):
                above = np.maximum(top[inside] - upper, 0)
                below = np.minimum(bottom[inside] - upper, window.height)
                yield window, owner[inside], column[inside] - left, above, below


def _measure_perimeters(runs: RunLengths) -> Float64[np.ndarray, " instances"]:
    """scikit-image's ``perimeter``: pixels with a side at the border, weighted by how those beside them lie."""
    perimeters = np.zeros(len(runs))
    boxes = runs.boxes.astype(np.int64)
    heights, widths = boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]
    for rows in iterate_groups((heights + 2) * (widths + 2), GROUP_PIXELS):
        # All boxes of the group lie behind each other in one array, each with a pixel of background around.
        stride = heights[rows] + 2
        ends = np.cumsum(stride * (widths[rows] + 2))
        part = runs.select(np.arange(len(runs))[rows])
        owner, column, top, bottom = split_columns(part)
        begin = (ends - stride * (widths[rows] + 2))[owner] + 1 + top - boxes[rows][owner, 1]
        begin += (column - boxes[rows][owner, 0] + 1) * stride[owner]
        source, pixel = expand_ranges(begin, bottom - top)
        pixel_owner = owner[source]
        across = stride[pixel_owner]
        is_mask = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=bool)
        is_mask[pixel] = True
        is_inside = is_mask[pixel - 1] & is_mask[pixel + 1] & is_mask[pixel - across] & is_mask[pixel + across]
        pixel, across, pixel_owner = pixel[~is_inside], across[~is_inside], pixel_owner[~is_inside]
        border = np.zeros(len(is_mask), dtype=np.int8)
        border[pixel] = 1
        near = border[pixel - 1] + border[pixel + 1] + border[pixel - across] + border[pixel + across]
        far = border[pixel - across - 1] + border[pixel - across + 1] + border[pixel + across - 1]
        far += border[pixel + across + 1]
        weights = _PERIMETER_WEIGHTS[1 + 2 * near + 10 * far]
        perimeters[rows] = np.bincount(pixel_owner, weights=weights, minlength=len(part))
    return perimeters


def _measure_convex_areas(
    num_instances: int, owner: np.ndarray, x: np.ndarray, top: np.ndarray, bottom: np.ndarray
) -> Float64[np.ndarray, " instances"]:
    """Pixels whose centres lie in the convex hull of the middles of all pixels' sides, as in scikit-image.

    Args:
        num_instances: Their number.
        owner: The instance of each part of a column, ascending.
        x: Its column, from that of the box.
        top: Its first row.
        bottom: Its last row.
    """
    # The hull's upper and lower border are found in the same way; coordinates are doubled to stay whole.
    width = np.zeros(num_instances, dtype=np.int64)
    np.maximum.at(width, owner, x + 1)
    hull_owner, hull_x = expand_ranges(np.zeros(num_instances, dtype=np.int64), width)
    lower = _bound_hulls(owner, x, 2 * top, hull_owner, hull_x)
    upper = -_bound_hulls(owner, x, -2 * bottom, hull_owner, hull_x)
    return np.bincount(hull_owner, weights=upper - lower + 1, minlength=num_instances).astype(np.float64)


def _bound_hulls(
    owner: np.ndarray, x: np.ndarray, doubled_y: np.ndarray, hull_owner: np.ndarray, hull_x: np.ndarray
) -> Int64[np.ndarray, " columns"]:
    """The least whole row inside the convex hull at each column ``hull_x`` of ``hull_owner``, ascending."""
    stride = int(hull_x.max(initial=0)) * 2 + 4
    # Of the four middles of a pixel's sides the lower one is no part of this border.
    keys = np.concatenate([owner * stride + 2 * x + shift for shift in (1, 2, 3)])
    y = np.concatenate([doubled_y, doubled_y - 1, doubled_y])
    order = np.lexsort((y, keys))
    keys, y = keys[order], y[order]
    is_first = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    keys, y = keys[is_first], y[is_first]
    point_owner = keys // stride
    # A point on or above the line between its neighbours is no corner; drop all of them until there are none.
    while len(keys) > 2:
        (x0, x1, x2), (y0, y1, y2) = ((values[:-2], values[1:-1], values[2:]) for values in (keys, y))
        is_flat = (y1 - y0) * (x2 - x0) >= (y2 - y0) * (x1 - x0)
        is_flat &= point_owner[:-2] == point_owner[2:]
        if not is_flat.any():
            break
        keep = np.concatenate([[True], ~is_flat, [True]])
        keys, y, point_owner = keys[keep], y[keep], point_owner[keep]
    wanted = hull_owner * stride + 2 * hull_x + 2
    right = np.searchsorted(keys, wanted, "right")  # hulls reach half a pixel over the last column
    x0, y0, dx, dy = keys[right - 1], y[right - 1], keys[right] - keys[right - 1], y[right] - y[right - 1]
    return -(-(y0 * dx + dy * (wanted - x0)) // (2 * dx))  # rounded up, with whole numbers
