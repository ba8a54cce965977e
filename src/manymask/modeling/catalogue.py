"""The models that the package carries: weights and plan in ``NAME.safetensors``, the card in ``NAME.json``."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from manymask.errors import CheckpointError
from manymask.plan import ObjectSizes

FOLDER = Path(__file__).parents[1] / "models"
EXPORT_FILE = "model.json"
"""What a folder that ``manymask export`` wrote holds beside the graphs."""


class Card(BaseModel):
    """What to know of a shipped model.

    Attributes:
        classes: Names of its classes.
        box_sizes: Sides in pixels of the boxes that it is taken for by the planner, the smallest and the largest.
        object_sizes: Quantiles of the size of its training objects, as the plan's record of data has them.
        data: What it was trained on.
        licence: Licence of the weights.
        scores: What it scores, and on which images.
        parameters: Number of trained parameters, as text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: tuple[str, ...]
    box_sizes: tuple[float, float]
    object_sizes: ObjectSizes
    data: str
    licence: str
    scores: str
    parameters: str


def list_shipped() -> dict[str, Path]:
    """The file of each model by its name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def read_cards() -> dict[str, Card]:
    """The card of each model by its name."""
    return {
        name: Card.model_validate_json(path.with_suffix(".json").read_bytes()) for name, path in list_shipped().items()
    }


@dataclass(frozen=True)
class FoundModel:
    """The file of a model, and whether the package carries it."""

    file: Path
    is_shipped: bool


def find_model(source: str | Path) -> FoundModel | None:
    """The model that a text stands for: a file, a run folder's best or else last checkpoint, or a shipped one's name.

    Of an exported model it is ``EXPORT_FILE``, beside its graphs. None where it stands for none; another ``.json`` file
    holds predictions, not a model.
    """
    path = Path(source)
    places = (path, path / "best.ckpt", path / "last.ckpt", path / EXPORT_FILE)
    own = next((place for place in places if place.is_file() and _may_be_model(place)), None)
    file = own or list_shipped().get(str(source))
    return None if file is None else FoundModel(file, is_shipped=own is None)


def _may_be_model(file: Path) -> bool:
    is_export = file.name == EXPORT_FILE and any(file.parent.glob("trunk.*"))
    return is_export or file.suffix.lower() != ".json"


def resolve_weights(source: str | Path) -> Path:
    """The file that a model's weights are read from; where there is none, the path as it was given.

    Raises:
        CheckpointError: It is an exported model.
    """
    found = find_model(source)
    if found is not None and found.file.name == EXPORT_FILE:
        raise CheckpointError(
            f"{source} is an exported model, from whose graphs nothing can be trained; give the run or the checkpoint "
            "that it was made from"
        )
    return Path(source) if found is None else found.file
