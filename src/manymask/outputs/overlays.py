"""Pictures: ``overlays/<name>.png``, the image with outlines."""

from collections.abc import Sequence

from manymask.core import Instances
from manymask.drawing.overlays import write_overlay
from manymask.outputs.writer import ImageEntry, OutputWriter


class Overlays(OutputWriter):
    """The outlines of the predictions that are shown."""

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """A file an image."""
        return [f"overlays/{name}.png" for name in names]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Draw the picture of an image."""
        path = self.folder / "overlays" / f"{image.name}.png"
        write_overlay(path, image.image.read(), instances, self.categories, score_threshold=self.score_threshold)
