"""Instances as features of GeoJSON, with the properties that QuPath reads."""

import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Int64

from manymask.core.outlines import Outlines, iterate_outlines
from manymask.core.palette import PALETTE
from manymask.core.runs import RunLengths

OBJECT_METADATA = {"manymask": "object"}
"""What marks an annotation that is an object, also if others lie in it; QuPath keeps it."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


def encode_features(
    runs: RunLengths,
    labels: Int64[np.ndarray, " instances"],
    scores: Float32[np.ndarray, " instances"] | None,
    class_names: Sequence[str],
    measurements: Mapping[str, np.ndarray],
    source: str = "",
) -> Iterator[str]:
    """The JSON of a GeoJSON feature for each mask that has pixels, as QuPath writes them.

    A feature is a ``detection`` with exact outlines in pixels of the image, a Polygon or a MultiPolygon with holes;
    ``classification`` is the name and the colour of its class; ``measurements`` are the given ones after the ``score``.
    Its ``id`` is a UUID that depends on ``source`` and on all else, so that equal predictions give equal files.

    Without scores it is an ``annotation``, which QuPath lets people redraw, with metadata that say that it is an object
    (``OBJECT_METADATA``) and not a region around objects.

    Args:
        runs: The masks.
        labels: The class index of each; label i + 1 is ``class_names[i]``.
        scores: The score of each; None for objects that people are to correct.
        class_names: The classes.
        measurements: Further numbers by name, one for each instance.
        source: The image that the masks are of.
    """
    names, columns = list(measurements), [column.tolist() for column in measurements.values()]
    classes = [{"name": name, "color": list(PALETTE[place % len(PALETTE)])} for place, name in enumerate(class_names)]
    for rows, outlines in iterate_outlines(runs):
        for row, geometry in zip(rows, _encode_geometries(outlines), strict=True):
            if geometry is None:
                continue
            values = {name: _to_number(column[row]) for name, column in zip(names, columns, strict=True)}
            properties = {"objectType": "detection", "classification": classes[int(labels[row]) - 1]}
            if scores is None:
                properties |= {"objectType": "annotation", "metadata": OBJECT_METADATA, "measurements": values}
            else:  # a score with the digits that it has, 0.9 rather than 0.8999999761581421
                properties |= {"measurements": {"score": _to_number(float(str(scores[row]))), **values}}
            content = f'"geometry":{geometry},"properties":{_encode(properties)}'
            digest = blake2b(f"{source}\n{content}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
            # Version 5 of RFC 9562: a UUID that is made of a digest.
            yield f'{{"type":"Feature","id":"{uuid.UUID(bytes=digest, version=5)}",{content}}}'


def _encode_geometries(outlines: Outlines) -> Iterator[str | None]:
    """The JSON of the geometry of each instance, put together by hand: nested lists take three times as long."""
    points = [f"[{x},{y}]" for x, y in zip(*outlines.points.T.tolist(), strict=True)]
    rings = [
        f"[{','.join(points[begin:end])},{points[begin]}]" for begin, end in pairwise(outlines.ring_splits.tolist())
    ]
    polygons = [f"[{','.join(rings[begin:end])}]" for begin, end in pairwise(outlines.polygon_splits.tolist())]
    for begin, end in pairwise(outlines.instance_splits.tolist()):
        if end - begin == 1:  # some readers refuse a MultiPolygon of one
            yield f'{{"type":"Polygon","coordinates":{polygons[begin]}}}'
        elif end > begin:
            yield f'{{"type":"MultiPolygon","coordinates":[{",".join(polygons[begin:end])}]}}'
        else:
            yield None


def _to_number(value: int | float) -> int | float | str:
    """A number as QuPath reads it, who takes the text ``NaN`` for what JSON has no number for."""
    return value if math.isfinite(value) else "NaN"
