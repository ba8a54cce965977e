"""Regions of interest that ImageJ and Fiji open."""

import logging
from collections.abc import Sequence

from manymask.core import Instances
from manymask.formats.imagej import write_rois
from manymask.outputs.writer import ImageEntry, OutputWriter

logger = logging.getLogger(__name__)

MANY_ROIS = 5_000
"""The ROI Manager becomes slow with more; Fiji shows the label image at once."""


class ImagejRois(OutputWriter):
    """ImageJ's ROI zip: the predictions that are shown as polygons along pixel edges; the group is the class."""

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """A file an image."""
        return [f"imagej/{name}.zip" for name in names]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the ROIs of an image into a new file, one after the other."""
        path = self.folder / "imagej" / f"{image.name}.zip"
        num_shown = int((instances.scores >= self.score_threshold).sum())
        if num_shown > MANY_ROIS:
            logger.warning(f"{path} holds {num_shown} ROIs, which makes ImageJ slow; label images (labels/) are fast")
        write_rois(path, self.iterate_shown(image, instances), self.class_names, len(str(num_shown)))
