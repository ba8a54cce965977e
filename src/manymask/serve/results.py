"""What was found in an image that a program sent, as one of the formats that programs read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from manymask.core import ImageSource, Instances
from manymask.formats import encode_coco_results
from manymask.outputs import ImageEntry, LabelTiffs
from manymask.prediction import Model
from manymask.serve.packed import MEDIA_TYPE, encode_packed
from manymask.serve.workspace import Workspace

Format = Literal["coco", "geojson", "labels", "packed"]
_NAME = "image"


@dataclass(frozen=True, eq=False)
class Found:
    """What a model found in an image.

    Attributes:
        model: The model.
        instances: All that it keeps, by falling score.
        source: The image.
        name: What the program calls it.
    """

    model: Model
    instances: Instances
    source: ImageSource
    name: str

    @property
    def num_shown(self) -> int:
        """The instances that the model's score threshold shows."""
        return int(np.count_nonzero(self.instances.scores >= self.model.plan.shown_score))


def encode(found: Found, format: Format, workspace: Workspace) -> tuple[bytes, str]:
    """The content and its media type; but for ``packed``, which holds all, of what the model's threshold shows."""
    model, shown_score = found.model, found.model.plan.shown_score
    if format == "packed":
        return encode_packed(found.instances), MEDIA_TYPE
    shown = found.instances[found.instances.scores >= shown_score]
    if format == "geojson":
        names = [category.name for category in model.categories]
        return json.dumps(shown.to_geojson(names)).encode(), "application/geo+json"
    if format == "labels":
        with workspace.receive() as folder:
            writer = LabelTiffs(folder, [_NAME], model.categories, shown_score)
            writer.write(ImageEntry(1, _NAME, found.name, found.source), shown)
            (file,) = (folder / "labels").glob("*.tif")
            return file.read_bytes(), "image/tiff"
    return json.dumps(_make_coco(found, shown)).encode(), "application/json"


def _make_coco(found: Found, shown: Instances) -> dict[str, object]:
    """A COCO file of one image, whose annotations have scores too."""
    height, width = shown.size
    areas = shown.runs.areas.tolist()
    entries = encode_coco_results(shown, 1, found.model.categories)
    annotations = [
        {"id": place, **entry, "area": area, "iscrowd": 0}
        for place, (entry, area) in enumerate(zip(entries, areas, strict=True), start=1)
    ]
    return {
        "images": [{"id": 1, "file_name": Path(found.name).name, "height": height, "width": width}],
        "categories": [{"id": category.id, "name": category.name} for category in found.model.categories],
        "annotations": annotations,
    }
