"""The models of a server: those that it was started with, and those that it trained."""

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manymask.core import Category, write_json
from manymask.modeling.catalogue import list_shipped, read_cards
from manymask.prediction import Model, find_checkpoint, load_model
from manymask.serve.refusals import Refusal

logger = logging.getLogger(__name__)

RESULT_NAME = "improved.json"
"""What a folder of a finished training holds beside the run."""
_NUM_LOADED = 2


@dataclass(frozen=True)
class ListedModel:
    """A model that can be asked for.

    Attributes:
        name: Its name on the page.
        source: Where it is loaded from.
        note: A line on what it is.
    """

    name: str
    source: Path
    note: str


class Models:
    """The models by their names, loaded when they are needed; the two last used stay in memory.

    Args:
        sources: What the server was started with: run folders, checkpoints, exported models, names of shipped ones.
        device: Where they compute.
        runs: The folder of the models that were trained here.

    Attributes:
        current: The name of the one that predicts new images.

    Raises:
        ManymaskError: A source is no model, or the first one cannot be loaded.
    """

    def __init__(self, sources: Sequence[str | Path], device: str, runs: Path) -> None:
        self._device, self._lock = device, threading.RLock()
        self._listed: dict[str, ListedModel] = {}
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._described: dict[str, tuple[tuple[Category, ...], float]] = {}
        for source in sources:
            find_checkpoint(Path(source))  # refuses what is no model
            self._listed[name] = ListedModel(name := self._find_name(source), Path(source), _describe(source))
        self.current = next(iter(self._listed))
        self.get(self.current)
        for path in sorted(runs.glob(f"*/{RESULT_NAME}"), key=lambda path: path.stat().st_mtime):
            self.add_trained(path.parent)

    def list_models(self) -> list[ListedModel]:
        """All of them, in the order in which they came."""
        with self._lock:
            return list(self._listed.values())

    def find(self, name: str | None) -> ListedModel:
        """A model by its name; by default the current one.

        Raises:
            Refusal: There is none of this name.
        """
        with self._lock:
            wanted = self.current if name is None else name
            if wanted not in self._listed:
                raise Refusal(404, f"there is no model {wanted!r}; there are: {', '.join(self._listed)}")
            return self._listed[wanted]

    def get(self, name: str | None = None) -> Model:
        """A model by its name, loaded.

        Raises:
            Refusal: There is none of this name.
            ManymaskError: It cannot be loaded.
        """
        listed = self.find(name)
        with self._lock:
            if listed.name not in self._loaded:
                self._loaded[listed.name] = load_model(listed.source, self._device)
                while len(self._loaded) > _NUM_LOADED:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(listed.name)
            return self._loaded[listed.name]

    def describe(self, name: str) -> tuple[tuple[Category, ...], float]:
        """The classes and the score threshold of a model, which is loaded once to know them.

        Raises:
            ManymaskError: There is none of this name, or it cannot be loaded.
        """
        with self._lock:
            if name not in self._described:
                model = self.get(name)
                self._described[name] = model.categories, model.plan.shown_score
            return self._described[name]

    def choose(self, name: str) -> None:
        """Let a model predict new images from now on.

        Raises:
            ManymaskError: There is none of this name, or it cannot be loaded.
        """
        self.get(name)
        self.current = name

    def add_trained(self, folder: Path) -> ListedModel:
        """List a model that was trained here.

        Args:
            folder: The folder of its run, with ``RESULT_NAME``.
        """
        result: Mapping[str, Any] = json.loads((folder / RESULT_NAME).read_bytes())
        with self._lock:
            name = self._find_name(f"improved-{folder.name}")
            self._listed[name] = ListedModel(name, folder / "run", result.get("sentence") or "trained here")
            return self._listed[name]

    def _find_name(self, source: str | Path) -> str:
        """The last part of a path, with a number where another model has it."""
        stem = Path(source).resolve().name if str(source) not in list_shipped() else str(source)
        names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(self._listed) + 2))
        return next(name for name in names if name not in self._listed)


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Keep what a finished training gave, beside its run."""
    write_json(folder / RESULT_NAME, dict(result))


def _describe(source: str | Path) -> str:
    card = read_cards().get(str(source))
    return f"shipped with manymask; {card.data}" if card else str(source)
