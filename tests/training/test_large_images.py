"""Images above the tile's size: training, validation and scores see the tiles that ``predict`` sees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from manymask.core import Instances, Window, encode_crops
from manymask.evaluation import evaluate
from manymask.formats import read_dataset, write_class_folder
from manymask.modeling.build import assemble_model
from manymask.modeling.checkpoint import CHECKPOINT_KEY, NETWORK_PREFIX, write_checkpoint
from manymask.plan import Plan
from manymask.prediction import predict_files, tiling
from manymask.prediction.tiling import Tiling
from manymask.synthetic import make_categories, make_sample
from manymask.training.diagnosis import _choose_window
from manymask.training.loading import TrainingImages, ValidationImages, collate
from manymask.training.module import TrainingModule
from tests.tiny_model import make_tiny_plan

SIZE = (96, 160)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiling, "TILE_SIDE", 96)
    monkeypatch.setattr(tiling, "CONTEXT", 12)


@pytest.fixture
def plan() -> Plan:
    plan = make_tiny_plan(detections_per_image=20, num_workers=0)
    return plan.model_copy(update={"data": plan.data.model_copy(update={"longest_object": 24.0})})


@pytest.fixture
def data(tmp_path) -> Path:
    """A large image and a small one."""
    for name, size in (("large", SIZE), ("small", (40, 48))):
        pixels, cells = make_sample(len(name), size=size, num_instances=8, num_classes=1, diameter=30.0)
        write_class_folder(tmp_path / "data", name, pixels, cells, make_categories(1))
    return tmp_path / "data"


@pytest.mark.filterwarnings("ignore:.*cap of 20")
def test_validation_gives_what_predict_and_evaluate_give(plan, data, tmp_path):
    dataset = read_dataset(data)
    plan = plan.model_copy(update={"data": plan.data.model_copy(update={"categories": ((1, "class1"),)})})
    torch.manual_seed(1)
    network = assemble_model(2, plan)
    network.roi_heads.box_predictor.cls_score.weight.data *= 30
    module = TrainingModule(network, plan, dataset.categories, dataset.categories, 1, 1)
    module.on_validation_epoch_start()
    images = ValidationImages(dataset, plan)
    assert [len(images[index][0].tiles) for index in range(2)] == [3, 1]
    with torch.inference_mode():
        for index in range(2):
            module.validation_step(collate([images[index]]), index)
    module.on_validation_epoch_end()

    state = {NETWORK_PREFIX + name: value for name, value in network.state_dict().items()}
    write_checkpoint({CHECKPOINT_KEY: {"plan": plan.model_dump(mode="json")}, "state_dict": state}, tmp_path / "a.ckpt")
    scores = evaluate(tmp_path / "a.ckpt", dataset, draws=0)
    predict_files(tmp_path / "a.ckpt", data, tmp_path / "out", formats=["coco"])
    stored = evaluate(tmp_path / "out", dataset, draws=0, settings={"score_threshold": 0.3})
    for path, value in module.scores.items():
        for found in (scores.model_dump(), stored.model_dump()):
            for part in path:
                found = found[part]
            assert found == pytest.approx(value, abs=1e-6), path
    assert module.scores["box", "AP50"] > 0


def test_training_takes_a_tile_of_a_large_image_in_place_of_the_whole(plan, data):
    images = TrainingImages(read_dataset(data), plan)
    assert [tuple(images[index, 0][0].shape[1:]) for index in range(2)] == [(96, 96), (40, 48)]
    cropped = TrainingImages(images.dataset, plan.model_copy(update={"crop_size": 32}))
    assert cropped[0, 0][0].shape[1:] == (32, 32)
    resized = plan.model_copy(update={"min_size": 64, "max_size": 200})
    assert TrainingImages(images.dataset, resized)[0, 0][0].shape[1:] == SIZE


def test_the_diagnosis_looks_at_the_tile_with_most_objects():
    crops = [(x, 5, np.ones((6, 6), dtype=bool)) for x in (5, 100, 120, 140)]
    truth = Instances.from_runs(encode_crops(crops, SIZE), np.array([1, 2, 1, 2]))
    tiles = Tiling(96, 24, 8)
    window, part = _choose_window(truth, tiles)
    assert (window, part.labels.tolist()) == (tiles.list_tiles(SIZE)[-1].window, [2, 1, 2])
    assert part.boxes[0].tolist() == [100 - window.left, 5, 106 - window.left, 11]
    assert _choose_window(truth, None) == (Window(0, 0, *SIZE), truth)


def test_digests_are_read_in_parts(data, tmp_path, monkeypatch):
    sample = read_dataset(data)[0]
    for name, values in {"color": sample.pixels, "grey": sample.pixels[..., :1].repeat(3, 2)}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", values, tile=(16, 16), photometric="rgb")
    from manymask.imaging import open_image

    samples = [replace(sample, image=open_image(tmp_path / f"{name}.tif")) for name in ("color", "grey")]
    expected = [each.digest for each in samples]
    assert expected[0] == sample.digest
    monkeypatch.setattr("manymask.core.dataset.PART_BYTES", 5000)
    for name, digest in zip(("color", "grey"), expected, strict=True):
        image = open_image(tmp_path / f"{name}.tif")
        again = replace(sample, image=image)
        again.load()
        assert again.digest == digest
        assert not image._wholes
