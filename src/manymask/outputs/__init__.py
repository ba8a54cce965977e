"""The kinds of files that predictions are written as, image by image: a writer each."""

from manymask.outputs.coco import CocoResults as CocoResults
from manymask.outputs.geojson import GeoJson as GeoJson
from manymask.outputs.imagej import ImagejRois as ImagejRois
from manymask.outputs.label_tiff import LabelTiffs as LabelTiffs
from manymask.outputs.overlay import Overlays as Overlays
from manymask.outputs.submission import Submission as Submission
from manymask.outputs.tables import CsvTables as CsvTables
from manymask.outputs.tables import ParquetTables as ParquetTables
from manymask.outputs.writer import ImageEntry as ImageEntry
from manymask.outputs.writer import OutputWriter as OutputWriter
from manymask.outputs.writer import close_writers as close_writers

OUTPUTS: dict[str, type[OutputWriter]] = {
    "coco": CocoResults,
    "labels": LabelTiffs,
    "geojson": GeoJson,
    "imagej": ImagejRois,
    "csv": CsvTables,
    "parquet": ParquetTables,
    "overlay": Overlays,
}
"""The kinds of files that predictions can be written as, by the name that a user types."""

DEFAULT_OUTPUTS = ("coco", "labels", "overlay")
"""Those that are written where the user names none."""
