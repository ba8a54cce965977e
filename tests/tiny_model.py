"""A small network with random weights, written as training writes its checkpoints."""

from pathlib import Path
from typing import Any

import torch

from manymask.core import Category
from manymask.modeling.build import assemble_model
from manymask.modeling.catalogue import Card
from manymask.modeling.checkpoint import CHECKPOINT_KEY, NETWORK_PREFIX, read_checkpoint, write_checkpoint, write_model
from manymask.plan import DataRecord, Plan, make_plan

CATEGORIES = (Category(2, "round"), Category(5, "long"))
# Mask probabilities of random weights are all near 1/2, so that this threshold fills the whole box.
SETTINGS: dict[str, Any] = {
    "architecture": "maskrcnn_compact",
    "backbone": "test_resnet",
    "weights": "none",
    "min_size": 0,
    "min_score": 0.05,
    "score_threshold": 0.3,
    "mask_threshold": 0.01,
    "detections_per_image": 12,
    "precision": "fp32",
}


# Torchvision's heads: larger, and their random weights find objects of both classes.
LARGER: dict[str, Any] = {"architecture": "maskrcnn_fpn", "backbone": "resnet10t"}


def make_tiny_plan(categories: tuple[Category, ...] = CATEGORIES, **settings: Any) -> Plan:
    record = DataRecord(
        path="data",
        val_path=None,
        data_format="class_folders",
        fingerprint="0",
        categories=tuple((category.id, category.name) for category in categories),
        train_names=("a",),
        val_names=("b",),
        max_instances=90,
    )
    return make_plan("baseline", SETTINGS | settings).model_copy(update={"data": record})


def write_tiny_model(
    path: Path,
    categories: tuple[Category, ...] = CATEGORIES,
    seed: int = 1,
    record: DataRecord | None = None,
    **settings: Any,
) -> Path:
    """Write a checkpoint; the same arguments give the same weights."""
    plan = make_tiny_plan(categories, **settings)
    plan = plan.model_copy(update={"data": record}) if record else plan
    torch.manual_seed(seed)
    network = assemble_model(len(categories) + 1, plan.resolve_detections(90))
    network.roi_heads.box_predictor.cls_score.weight.data *= 30  # else all scores are near 1/3 and of one class
    state = {NETWORK_PREFIX + name: value for name, value in network.state_dict().items()}
    write_checkpoint({CHECKPOINT_KEY: {"plan": plan.model_dump(mode="json")}, "state_dict": state, "epoch": 0}, path)
    return path


def ship(checkpoint: Path, folder: Path, name: str) -> Card:
    """Put a checkpoint and a card into a folder as a model of the package's."""
    card = Card(
        classes=("round", "[long]"),
        box_sizes=(6, 90),
        object_sizes=(6, 11, 17, 24, 42),
        data="drawn cells",
        licence="CC0",
        scores="F1 0.1",
        parameters="5 M",
    )
    folder.mkdir(exist_ok=True)
    write_model(read_checkpoint(checkpoint), folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(card.model_dump_json())
    return card
