"""Pictures to look at."""

from collections.abc import Sequence

from manymask.core import Instances
from manymask.drawing.overlays import draw_image_overlay, write_picture
from manymask.outputs.writer import ImageEntry, OutputWriter


class Overlays(OutputWriter):
    """Pictures: each image with the outlines of the predictions that are shown; very large images are made smaller."""

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """A file an image."""
        return [f"overlays/{name}.png" for name in names]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Draw the picture of an image."""
        picture = draw_image_overlay(image.image, instances, self.categories, score_threshold=self.score_threshold)
        write_picture(self.folder / "overlays" / f"{image.name}.png", picture)
