"""COCO results, of all images in one file."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from manymask.core import Instances
from manymask.core.json_files import JsonList
from manymask.formats import encode_coco_results
from manymask.formats.stored import IMAGES_NAME, PREDICTIONS_NAME
from manymask.outputs.writer import GROUP_RUNS, ImageEntry, OutputWriter


class CocoResults(OutputWriter):
    """COCO results: all predictions with their scores, and in ``images.json`` the images that they refer to."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._results, self._images = (JsonList(self.folder / name) for name in (PREDICTIONS_NAME, IMAGES_NAME))

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """The two files."""
        return [PREDICTIONS_NAME, IMAGES_NAME]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Add the image and its predictions."""
        for part in instances.split(GROUP_RUNS):
            self._results.extend(encode_coco_results(part, image.id, self.categories))
        height, width = instances.size
        entry: dict[str, Any] = {
            "id": image.id,
            "file_name": image.file_name,
            "name": image.name,
            "height": height,
            "width": width,
        }
        if (window := image.image.window) is not None:
            entry["region"] = [window.left, window.top, window.width, window.height]
        self._images.extend([entry])

    def close(self) -> None:
        """Put both files in place."""
        with closing(self._images):
            self._results.close()
