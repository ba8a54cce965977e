"""Regions of interest that ImageJ and Fiji open."""

import logging
import zipfile
from collections.abc import Sequence

import numpy as np
import roifile

from manymask.core import Instances
from manymask.core.files import replace_file
from manymask.core.outlines import iterate_outlines
from manymask.outputs.writer import ImageEntry, OutputWriter

logger = logging.getLogger(__name__)

MANY_ROIS = 5_000
"""The ROI Manager becomes slow with more; Fiji shows the label image at once."""

_MAX_GROUP = 255
_MAX_INTEGER = np.iinfo(np.int16).max


class ImagejRois(OutputWriter):
    """ImageJ's ROI zip: the predictions that are shown as polygons along pixel edges; the group is the class."""

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """A file an image."""
        return [f"imagej/{name}.zip" for name in names]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the ROIs of an image into a new file, one after the other."""
        shown = self.select_shown(instances)
        path = self.folder / "imagej" / f"{image.name}.zip"
        if len(shown) > MANY_ROIS:
            logger.warning(f"{path} holds {len(shown)} ROIs, which makes ImageJ slow; label images (labels/) are fast")
        num_digits = len(str(len(shown)))
        with replace_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for rows, outlines in iterate_outlines(shown.runs):
                for row, polygons in zip(rows, outlines.to_lists(), strict=True):
                    if not polygons:
                        continue
                    roi = make_roi(polygons)
                    label = int(shown.labels[row])
                    roi.group = label if label <= _MAX_GROUP else 0  # as many groups as ImageJ has
                    # The id of the label image, the class and the score, so that the ROI Manager shows them.
                    roi.name = f"{row + 1:0{num_digits}} {self.class_names[label - 1]} {shown.scores[row]:.3f}"
                    entry = zipfile.ZipInfo(f"{row + 1:0{num_digits}}.roi")  # of a fixed date: equal files
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, roi.tobytes())


def make_roi(polygons: list[list[list[list[int]]]]) -> roifile.ImagejRoi:
    """A ROI of one instance: a traced polygon, or a composite of rings where it has holes or several parts.

    Args:
        polygons: Of each part its outer ring and its holes, as points x y on pixel corners.
    """
    rings = [np.array(ring) for polygon in polygons for ring in polygon]
    left, top = np.min([ring.min(axis=0) for ring in rings], axis=0).tolist()
    right, bottom = np.max([ring.max(axis=0) for ring in rings], axis=0).tolist()
    if len(rings) == 1 and max(right, bottom) <= _MAX_INTEGER:
        roi = roifile.ImagejRoi.frompoints(rings[0], name="")
        roi.roitype = roifile.ROI_TYPE.TRACED  # what ImageJ's wand makes: corners of pixels
    elif len(rings) == 1:  # 16 bits do not hold such coordinates
        roi = roifile.ImagejRoi.frompoints(rings[0].astype(np.float32), name="")
        roi.roitype = roifile.ROI_TYPE.POLYGON
    else:
        roi = roifile.ImagejRoi()
        roi.roitype = roifile.ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([_to_path(ring) for ring in rings])
        roi.shape_roi_size = len(roi.multi_coordinates)
    roi.left, roi.top, roi.right, roi.bottom = left, top, right, bottom
    return roi


def _to_path(ring: np.ndarray) -> np.ndarray:
    """A closed path as ImageJ writes it: 0 x y to begin with, 1 x y for each line, 4 at the end."""
    path = np.ones((len(ring), 3), dtype=np.float32)
    path[0, 0], path[:, 1:] = 0, ring
    return np.append(path.ravel(), np.float32(4))
