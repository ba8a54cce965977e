"""GeoJSON that QuPath opens."""

import gzip
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np

from manymask.core import Instances
from manymask.core.files import replace_file
from manymask.core.geojson import encode_features
from manymask.core.measurements import measure_shapes
from manymask.outputs.writer import ImageEntry, OutputWriter

logger = logging.getLogger(__name__)

MANY_FEATURES = 500_000
"""QuPath reads a whole file into memory first; 725,000 objects took Python's json two minutes (luna#390)."""
MOST_FILES = 10
"""Of one image; the last one holds all that is left."""

_MEASURED = ("area", "perimeter", "eccentricity", "solidity", "axis_major_length", "axis_minor_length")


class GeoJson(OutputWriter):
    """QuPath's GeoJSON: the predictions that are shown as detections with exact outlines, class, score and shape.

    Those of an image with more than ``MANY_FEATURES`` are in several files.
    """

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """A file an image, and others for very many objects."""
        endings = ["", *(f".part{number}" for number in range(2, MOST_FILES + 1))]
        return [f"geojson/{name}{ending}.geojson.gz" for name in names for ending in endings]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the features of an image, one after the other."""
        features = self._encode(image, instances)
        paths = [self.folder / name for name in self.list_files([image.name])]
        following = next(features, None)
        for number, path in enumerate(paths, start=1):
            first = [following] if following is not None else []
            most = MANY_FEATURES - 1 if number < MOST_FILES else None
            _write_features(path, chain(first, islice(features, most)))
            if (following := next(features, None)) is None:
                break
            logger.warning(
                f"{path} holds {MANY_FEATURES} objects, as many as QuPath loads in minutes and gigabytes of memory; "
                f"further ones of {image.name} are in {paths[number]}"
            )

    def _encode(self, image: ImageEntry, instances: Instances) -> Iterator[str]:
        for first_id, part in self.iterate_shown(image, instances):
            shapes = measure_shapes(part.runs)
            measured = {"label": np.arange(len(part)) + first_id, **{name: shapes[name] for name in _MEASURED}}
            yield from encode_features(part.runs, part.labels, part.scores, self.class_names, measured, image.name)


def _write_features(path: Path, features: Iterable[str]) -> None:
    # Without the time of day and a name inside, equal predictions give equal files.
    with replace_file(path) as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
        text.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for feature in features:
            text.write(separator + feature)
            separator = ",\n"
        text.write("\n]}\n")
        text.flush()
        text.detach()
