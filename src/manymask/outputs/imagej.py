"""Regions of interest that ImageJ and Fiji open."""

import logging
import zipfile
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import roifile
from jaxtyping import Float32, Int64

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
        path = self.folder / "imagej" / f"{image.name}.zip"
        num_shown = int((instances.scores >= self.score_threshold).sum())
        if num_shown > MANY_ROIS:
            logger.warning(f"{path} holds {num_shown} ROIs, which makes ImageJ slow; label images (labels/) are fast")
        num_digits = len(str(num_shown))
        with replace_file(path) as file, zipfile.ZipFile(file, "w") as archive:
            for first_id, part in self.iterate_shown(instances):
                for id_, roi in enumerate(self._make_rois(part), start=first_id):
                    if roi is None:
                        continue
                    # The id of the label image, the class and the score, so that the ROI Manager shows them.
                    roi.name = f"{id_:0{num_digits}} {roi.name}"
                    entry = zipfile.ZipInfo(f"{id_:0{num_digits}}.roi")  # of a fixed date: equal files
                    archive.writestr(entry, roi.tobytes())

    def _make_rois(self, instances: Instances) -> Iterator[roifile.ImagejRoi | None]:
        """The ROI of each instance, named by class and score; None for an empty mask."""
        boxes = instances.runs.boxes.astype(np.int64).tolist()
        for rows, outlines in iterate_outlines(instances.runs):
            rings = [outlines.points[begin:end] for begin, end in pairwise(outlines.ring_splits.tolist())]
            splits = outlines.polygon_splits[outlines.instance_splits].tolist()
            for row, (begin, end) in zip(rows, pairwise(splits), strict=True):
                if begin == end:
                    yield None
                    continue
                roi, label = make_roi(rings[begin:end], boxes[row]), int(instances.labels[row])
                roi.group = label if label <= _MAX_GROUP else 0  # as many groups as ImageJ has
                roi.name = f"{self.class_names[label - 1]} {instances.scores[row]:.3f}"
                yield roi


def make_roi(rings: Sequence[Int64[np.ndarray, "_ 2"]], box: Sequence[int]) -> roifile.ImagejRoi:
    """A ROI of one instance: a traced polygon, or a composite of rings where it has holes or several parts.

    Args:
        rings: All outer rings and holes, as points x y on pixel corners.
        box: x1 y1 x2 y2 of the instance.
    """
    roi = roifile.ImagejRoi()
    roi.left, roi.top, roi.right, roi.bottom = box
    if len(rings) > 1:
        roi.roitype = roifile.ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([_to_path(ring) for ring in rings])
        roi.shape_roi_size = len(roi.multi_coordinates)
        return roi
    roi.n_coordinates = len(rings[0])
    roi.integer_coordinates = (rings[0] - box[:2]).astype(np.int32)
    if max(box) <= _MAX_INTEGER:
        roi.roitype = roifile.ROI_TYPE.TRACED  # what ImageJ's wand makes: corners of pixels
    else:  # the box is of 16 bits, from which integer coordinates are counted
        roi.roitype = roifile.ROI_TYPE.POLYGON
        roi.options |= roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        roi.subpixel_coordinates = rings[0].astype(np.float32)
    return roi


def _to_path(ring: Int64[np.ndarray, "points 2"]) -> Float32[np.ndarray, " values"]:
    """A closed path as ImageJ writes it: 0 x y to begin with, 1 x y for each line, 4 at the end."""
    path = np.ones((len(ring), 3), dtype=np.float32)
    path[0, 0], path[:, 1:] = 0, ring
    return np.append(path.ravel(), np.float32(4))
