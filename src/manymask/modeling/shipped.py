"""The models that the package carries, by name."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "models"


def list_shipped() -> dict[str, Path]:
    """The file of each model by its name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def resolve_weights(weights: str) -> Path:
    """The file that weights are read from: the one that is there, else that of the shipped model of this name."""
    path = Path(weights)
    return path if path.is_file() else list_shipped().get(weights, path)
