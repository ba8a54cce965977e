"""The kinds of files that predictions are written as, image by image; one module each."""

from manymask.outputs.coco_results import CocoResults as CocoResults
from manymask.outputs.label_tiffs import LabelTiffs as LabelTiffs
from manymask.outputs.overlays import Overlays as Overlays
from manymask.outputs.submission import Submission as Submission
from manymask.outputs.writer import ImageEntry as ImageEntry
from manymask.outputs.writer import OutputWriter as OutputWriter
from manymask.outputs.writer import close_writers as close_writers

OUTPUTS: dict[str, type[OutputWriter]] = {"coco": CocoResults, "labels": LabelTiffs, "overlay": Overlays}
"""The kinds of files that predictions can be written as, by the name that a user types."""
