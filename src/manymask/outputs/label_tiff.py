"""Label images, which nearly all tools open."""

from collections.abc import Sequence

from manymask.core import Instances
from manymask.formats import write_label_image
from manymask.outputs.writer import ImageEntry, OutputWriter


class LabelTiffs(OutputWriter):
    """Label images: the predictions that are shown, one id each, with class and score of each in a table beside it.

    Where predictions overlap, those that lose pixels are whole in a second file, under the same ids.
    """

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """Two files an image, and a third one where predictions overlap."""
        return [
            place for name in names for place in (f"labels/{name}.tif", f"labels/{name}.csv", f"overlaps/{name}.tif")
        ]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the files of an image; an overlap goes to the higher score."""
        write_label_image(
            self.folder / "labels" / f"{image.name}.tif",
            instances,
            self.categories,
            min_score=self.score_threshold,
            pixel_size=image.pixel_size,
            overlaps=self.folder / "overlaps" / f"{image.name}.tif",
        )
