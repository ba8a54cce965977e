"""The models that the package carries, by name."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "models"


def list_shipped() -> dict[str, Path]:
    """The file of each model by its name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def resolve_weights(source: str | Path) -> Path:
    """The file that a model's weights are read from, of which the first that is there is taken.

    It is the file itself, the best or else the last checkpoint of the run folder, or the shipped model of this name;
    where there is none of these, the path as it was given.
    """
    path = Path(source)
    places = (path, path / "best.ckpt", path / "last.ckpt")
    return next((place for place in places if place.is_file()), list_shipped().get(str(source), path))
