"""Numbers of objects: of one for the page, and of all as a table."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manymask.core import ArraySource, ImageSource, Window, crop_runs
from manymask.core.measurements import Measurements, iterate_tables
from manymask.outputs.tables import write_csv
from manymask.serve.changes import Filter
from manymask.serve.objects import ImageObjects, Selection
from manymask.serve.table import ACCEPTED, EDITED


def measure_object(objects: ImageObjects, image: ImageSource, object_id: int) -> dict[str, Any]:
    """The numbers of one object as ``write_measurements`` has them, for JSON: what is unknown is None.

    Raises:
        LookupError: There is no such object.
        FormatError: The image cannot be read.
    """
    selection = objects.look_up([object_id])
    instances = selection.instances
    left, top, right, bottom = instances.runs.boxes[0].astype(int).tolist()
    window = Window(top, left, bottom - top, right - left)
    part = ArraySource(image.read(window))
    part.pixel_size = image.pixel_size
    tables = iterate_tables(
        crop_runs(instances.runs, window), instances.labels, instances.scores, objects.class_names, part, (top, left)
    )
    (row,) = _mark(tables, selection)
    values = {name: column.tolist()[0] for name, column in row.items()}
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def write_measurements(path: Path, objects: ImageObjects, image: ImageSource, only: Filter | None = None) -> None:
    """Write the numbers of all objects that are shown, or that a filter lets through, as CSV.

    Columns are those of ``predict``'s tables, but with the object's own number, ``id``, for ``label``, and with whether
    people changed (``edited``) or accepted it.

    Raises:
        ManymaskError: The disk is full or cannot be written to.
        FormatError: The image cannot be read.
    """
    selection = objects.select(only)
    instances = selection.instances
    tables = iterate_tables(instances.runs, instances.labels, instances.scores, objects.class_names, image)
    write_csv(path, _mark(tables, selection))


def _mark(tables: Iterator[Measurements], selection: Selection) -> Iterator[Measurements]:
    """Put the objects' own numbers and marks into tables."""
    for table in tables:
        rows = table.pop("label") - 1
        flags = selection.flags[rows]
        marks = {name: (flags & flag != 0).astype(int) for name, flag in (("edited", EDITED), ("accepted", ACCEPTED))}
        yield {"id": selection.ids[rows], **table, **marks}
