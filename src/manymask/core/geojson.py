"""Instances as features of GeoJSON, with the properties that QuPath reads."""

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from manymask.core.outlines import iterate_outlines
from manymask.core.palette import PALETTE
from manymask.core.runs import RunLengths


def encode_features(
    runs: RunLengths,
    labels: Int64[np.ndarray, " instances"],
    scores: Float32[np.ndarray, " instances"],
    class_names: Sequence[str],
    measurements: Mapping[str, np.ndarray],
    source: str = "",
) -> Iterator[dict[str, Any]]:
    """A GeoJSON feature for each mask that has pixels, as QuPath writes them.

    A feature is a ``detection`` with exact outlines in pixels of the image, a Polygon or a MultiPolygon with holes;
    ``classification`` is the name and the colour of its class; ``measurements`` are the given ones after the ``score``.
    Its ``id`` is a UUID that depends on ``source`` and on all else, so that equal predictions give equal files.

    Args:
        runs: The masks.
        labels: The class index of each; label i + 1 is ``class_names[i]``.
        scores: The score of each.
        class_names: The classes.
        measurements: Further numbers by name, one for each instance.
        source: The image that the masks are of.
    """
    names, columns = list(measurements), [column.tolist() for column in measurements.values()]
    classes = [{"name": name, "color": list(PALETTE[place % len(PALETTE)])} for place, name in enumerate(class_names)]
    for rows, outlines in iterate_outlines(runs):
        for row, polygons in zip(rows, outlines.to_lists(is_closed=True), strict=True):
            if not polygons:
                continue
            is_single = len(polygons) == 1  # some readers refuse a MultiPolygon of one
            geometry = {
                "type": "Polygon" if is_single else "MultiPolygon",
                "coordinates": polygons[0] if is_single else polygons,
            }
            values = {name: _to_number(column[row]) for name, column in zip(names, columns, strict=True)}
            properties = {
                "objectType": "detection",
                "classification": classes[int(labels[row]) - 1],
                "measurements": {"score": _to_number(_shorten(scores[row])), **values},
            }
            content = repr((source, int(labels[row]), float(scores[row]), values, polygons))
            digest = blake2b(content.encode("utf-8", "surrogateescape"), digest_size=16).digest()
            # Version 5 of RFC 9562: a UUID that is made of a digest.
            id_ = str(uuid.UUID(bytes=digest, version=5))
            yield {"type": "Feature", "id": id_, "geometry": geometry, "properties": properties}


def _shorten(score: np.float32) -> float:
    """A score with the digits that it has, 0.9 rather than 0.8999999761581421."""
    return float(str(score))


def _to_number(value: int | float) -> int | float | str:
    """A number as QuPath reads it, who takes the text ``NaN`` for what JSON has no number for."""
    return value if math.isfinite(value) else "NaN"
