"""The models that the package carries, by name."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "models"


def list_shipped() -> dict[str, Path]:
    """The file of each model by its name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


@dataclass(frozen=True)
class FoundModel:
    """The file of a model, and whether the package carries it."""

    file: Path
    is_shipped: bool


def find_model(source: str | Path) -> FoundModel | None:
    """The model that a text stands for: a file, a run folder's best or else last checkpoint, or a shipped one's name.

    None where it stands for none; a ``.json`` file holds predictions, not a model.
    """
    path = Path(source)
    places = (path, path / "best.ckpt", path / "last.ckpt")
    own = next((place for place in places if place.is_file() and place.suffix.lower() != ".json"), None)
    file = own or list_shipped().get(str(source))
    return None if file is None else FoundModel(file, is_shipped=own is None)


def resolve_weights(source: str | Path) -> Path:
    """The file that a model's weights are read from; where there is none, the path as it was given."""
    found = find_model(source)
    return Path(source) if found is None else found.file
