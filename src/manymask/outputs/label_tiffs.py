"""Label images: ``labels/<name>.tif`` of ids, with the class and the score of each in ``labels/<name>.csv``."""

from collections.abc import Sequence

from manymask.core import Instances
from manymask.formats import write_label_image
from manymask.outputs.writer import ImageEntry, OutputWriter


class LabelTiffs(OutputWriter):
    """The predictions that are shown, one id each; an overlap goes to the higher score."""

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """Two files an image."""
        return [f"labels/{name}.{kind}" for name in names for kind in ("tif", "csv")]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the files of an image."""
        shown = instances[instances.scores >= self.score_threshold]
        write_label_image(self.folder / "labels" / f"{image.name}.tif", shown, self.categories)
