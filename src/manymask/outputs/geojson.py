"""GeoJSON that QuPath opens."""

import gzip
import io
import logging
from collections.abc import Sequence

from manymask.core import Instances
from manymask.core.files import replace_file
from manymask.core.geojson import encode_features
from manymask.core.measurements import GROUP_RUNS, iterate_tables
from manymask.outputs.writer import ImageEntry, OutputWriter

logger = logging.getLogger(__name__)

MANY_FEATURES = 500_000
"""QuPath reads a whole file into memory first; 725,000 objects took Python's json two minutes (luna#390)."""

_MEASURED = ("label", "area", "perimeter", "eccentricity", "solidity", "axis_major_length", "axis_minor_length")


class GeoJson(OutputWriter):
    """QuPath's GeoJSON: the predictions that are shown as detections with exact outlines, class, score and shape."""

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """A file an image."""
        return [f"geojson/{name}.geojson.gz" for name in names]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the features of an image, one after the other."""
        shown = self.select_shown(instances)
        path = self.folder / "geojson" / f"{image.name}.geojson.gz"
        if len(shown) > MANY_FEATURES:
            logger.warning(f"{path} holds {len(shown)} objects, for which QuPath needs minutes and gigabytes of memory")
        # Without the time of day and a name inside, equal predictions give equal files.
        with replace_file(path) as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
            text.write('{"type": "FeatureCollection", "features": [')
            separator = "\n"
            tables = iterate_tables(shown.runs, shown.labels, shown.scores, self.class_names)
            for table, part in zip(tables, shown.split(GROUP_RUNS), strict=True):
                measured = {name: table[name] for name in _MEASURED}
                for feature in encode_features(
                    part.runs, part.labels, part.scores, self.class_names, measured, image.name
                ):
                    text.write(separator + feature)
                    separator = ",\n"
            text.write("\n]}\n")
            text.flush()
            text.detach()
