"""A trained model, loaded to predict."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from manymask.core import Category, Instances
from manymask.core.files import explain_reading
from manymask.errors import CheckpointError, PlanError
from manymask.imaging import ONE_PLANE, Pixels, PlaneChoice
from manymask.imaging.files import IMAGE_SUFFIXES
from manymask.modeling.build import assemble_model
from manymask.modeling.catalogue import EXPORT_FILE, find_model, list_shipped, read_cards
from manymask.modeling.checkpoint import CHECKPOINT_KEY, read_checkpoint, read_exported, strip_prefix
from manymask.modeling.detections import Postprocessing
from manymask.modeling.device import choose_device
from manymask.modeling.preprocessing import Preprocessing
from manymask.modeling.weights import load_weights
from manymask.plan import INFERENCE, SETTINGS, ObjectSizes, Plan, change_plan, list_marked, load_plan
from manymask.prediction.detectors import Detector, GraphDetector, TorchDetector, split_network
from manymask.prediction.runtimes import open_graphs


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model, ready to predict.

    Attributes:
        detector: What finds the objects.
        plan: The settings that it was trained with, apart from those that were given other values on loading.
        categories: Its classes; label i + 1 is the i-th.
        source: The file that it was read from.
        is_threshold_chosen: Whether the validation images chose the score threshold.
        is_epoch_chosen: Whether they chose the epoch.
    """

    detector: Detector
    plan: Plan
    categories: tuple[Category, ...]
    source: Path
    is_threshold_chosen: bool = False
    is_epoch_chosen: bool = False

    @cached_property
    def trained_sizes(self) -> ObjectSizes:
        """Sizes of its training objects.

        Raises:
            PlanError: It was trained before they were kept, or on no objects.
        """
        if self.plan.data is None or self.plan.data.object_sizes is None:
            raise PlanError(
                f"{self.source} does not say how large its training objects were, as models of before did not, so "
                "object_size cannot act; set object_size=none, or train the model anew"
            )
        return self.plan.data.object_sizes

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What images go through before the detector."""
        return Preprocessing.of(self.plan)

    @cached_property
    def postprocessing(self) -> Postprocessing:
        """What detections go through after it."""
        return Postprocessing.of(self.plan)

    def predict(
        self,
        images: str | Path | Pixels | Iterable[str | Path | Pixels],
        *,
        min_score: float | None = None,
        batch_size: int = 1,
        planes: PlaneChoice = ONE_PLANE,
        tile_size: int | None = None,
    ) -> Iterator[Instances]:
        """Find the instances of images, one image after the other; see ``manymask.predict``."""
        from manymask.prediction.predicting import predict  # here, because it needs this module

        return predict(self, images, min_score=min_score, batch_size=batch_size, planes=planes, tile_size=tile_size)


@explain_reading()
def load_model(
    source: str | Path, device: str | torch.device = "auto", settings: Mapping[str, Any] | None = None
) -> Model:
    """Load a trained model.

    Args:
        source: A run folder, whose best checkpoint is taken, else its last; a checkpoint; a shipped model's name; or a
            folder that ``export`` wrote.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; an exported model runs on the CPU only.
        settings: Other values by name for settings that act at prediction, such as ``min_score``.

    Raises:
        CheckpointError: There is no checkpoint, or it cannot be read.
        PlanError: A setting does not exist, does not act at prediction or is out of range, or there is no such device.
    """
    settings = settings or {}
    changeable = ("device", *sorted(list_marked(INFERENCE)))
    if wrong := sorted(settings.keys() & set(SETTINGS) - {*changeable}):
        raise PlanError(f"{wrong[0]} is fixed by training; at prediction one can set {', '.join(changeable)}")
    path = find_checkpoint(Path(source))
    card = read_cards().get(path.stem) if path == list_shipped().get(path.stem) else None
    is_exported = path.name == EXPORT_FILE
    checkpoint = read_exported(path) if is_exported else read_checkpoint(path)
    plan = load_plan(checkpoint[CHECKPOINT_KEY]["plan"], str(path))
    record = plan.data
    if record is None:
        raise CheckpointError(f"{path} does not say which classes it was trained on; train the model anew")
    if record.object_sizes is None and card is not None:  # a model of before plans held them
        record = record.model_copy(update={"object_sizes": card.object_sizes})
        plan = plan.model_copy(update={"data": record})
    if plan.min_size and settings.get("object_size") not in (None, "none"):
        # Whatever min_size is now: the network knows objects as large as that one made them.
        raise PlanError(
            f"{path} was trained with min_size={plan.min_size}, so that the size of objects in the file does not say "
            "how large they looked; leave object_size out, or train a model with min_size=0"
        )
    plan = change_plan(plan, {"device": str(device), **settings}).resolve_detections(record.max_instances)
    is_threshold_chosen = plan.score_threshold == "auto"
    if is_threshold_chosen:
        if "score_threshold" not in checkpoint[CHECKPOINT_KEY]:
            raise PlanError(f"{path} holds no score threshold that validation chose; set score_threshold to a number")
        plan = change_plan(plan, {"score_threshold": checkpoint[CHECKPOINT_KEY]["score_threshold"]})
    categories = tuple(Category(*entry) for entry in record.categories)
    if is_exported and plan.device not in ("auto", "cpu"):
        raise PlanError(
            f"device is {plan.device}, but {source} is an exported model, which runs on the CPU only; leave device "
            "out, or give the run or checkpoint that it was made from"
        )
    network = assemble_model(len(categories) + 1, plan.model_copy(update={"dense_loss": 0.0}))  # for training alone
    if is_exported:
        graphs = open_graphs(path.parent, checkpoint.get("engine", ""), split_network(network), plan.precision)
        detector = GraphDetector(network, graphs)
    else:
        load_weights(network, strip_prefix(checkpoint.get("state_dict", {})), str(path))
        detector = TorchDetector(network, choose_device(plan.device), plan.precision)
    is_epoch_chosen = checkpoint.get("is_epoch_chosen", path.name == "best.ckpt")
    model = Model(detector, plan, categories, path, is_threshold_chosen, is_epoch_chosen)
    if plan.object_size is not None:
        _ = model.trained_sizes  # refused before the first image
    return model


def find_checkpoint(source: Path) -> Path:
    """The file of a model: the checkpoint of a run folder or a shipped model's name, or what says what was exported.

    Raises:
        CheckpointError: There is none.
    """
    if source.suffix.lower() in IMAGE_SUFFIXES and source.is_file():
        raise CheckpointError(
            f"{source} is an image, not a model; the model comes first: manymask predict nuclei {source}"
        )
    if (model := find_model(source)) is not None:
        return model.file
    found = "a .json file" if source.is_file() else "nothing"
    if source.is_dir():
        found = f"a folder without best.ckpt, last.ckpt and {EXPORT_FILE}"
    near = difflib.get_close_matches(str(source), list_shipped(), n=1)
    remedy = f"did you mean {near[0]!r}?" if near else "train a model first"
    raise CheckpointError(
        f"expected the name of a shipped model ({', '.join(list_shipped())}), a run folder, a checkpoint or an "
        f"exported model at {source}, found {found}; {remedy}"
    )
