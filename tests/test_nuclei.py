"""The model that the package carries finds nuclei with no training, no network and no other file."""

import socket

import numpy as np
import pytest

from manymask import load_model, predict
from manymask.comparison.experimenting import check_settings
from manymask.modeling.catalogue import list_shipped, read_cards
from manymask.plan import Plan, make_plan
from manymask.training.setup import check_start, read_start

BYTES_AT_MOST = 25e6


@pytest.fixture(scope="module")
def nuclei():
    return load_model("nuclei")


def draw_nuclei(size=256, pitch=32, radius=9, strength=180):
    """Bright discs with soft borders on a dark, noisy ground, as in fluorescence, and their number."""
    centres = np.arange(pitch // 2, size, pitch)
    y, x = np.mgrid[:size, :size]
    nearest = np.hypot(x - centres[x // pitch], y - centres[y // pitch])
    light = strength / (1 + np.exp(nearest - radius))
    noise = np.random.default_rng(0).normal(12, 3, (size, size))
    return np.clip(light + noise, 0, 255).astype(np.uint8), len(centres) ** 2, nearest < radius


@pytest.mark.parametrize("settings", [{}, {"tta": True}])
def test_finds_nuclei_without_a_network(monkeypatch, settings):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the model asked for a network"))
    model = load_model("nuclei", settings=settings)
    pixels, count, _ = draw_nuclei()
    (found,) = predict(model, pixels)
    shown = found[found.scores >= model.plan.shown_score]
    assert abs(len(shown) - count) <= 0.05 * count


def test_masks_have_the_nuclei_s_borders(nuclei):
    pixels, _, truth = draw_nuclei()
    (found,) = predict(nuclei, pixels)
    mask = found[found.scores >= nuclei.plan.shown_score].to_layers().numpy().max(axis=0) > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.8


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float32"])
@pytest.mark.parametrize("deviation", [0, 1, 4, 12])
def test_nothing_in_an_empty_image(nuclei, deviation, dtype):
    noise = np.random.default_rng(0).normal(50, deviation, (128, 128)).clip(0, 255).astype(np.uint8)
    (found,) = predict(nuclei, noise.astype(dtype))
    assert (found.scores >= nuclei.plan.shown_score).sum() == 0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int64", "float32", "float64"])
def test_dim_images_in_any_type(nuclei, dtype):
    """Nuclei of about 60 counts, whatever the largest number of the type is."""
    pixels, count, _ = draw_nuclei(strength=60)
    (found,) = predict(nuclei, pixels.astype(dtype))
    assert abs((found.scores >= nuclei.plan.shown_score).sum() - count) <= 0.05 * count


def test_file_is_small_and_tells_where_it_is_from(nuclei):
    path = list_shipped()["nuclei"]
    assert path.stat().st_size < BYTES_AT_MOST
    assert sum(parameter.numel() for parameter in nuclei.detector.network.parameters()) < 12.5e6  # 25 MB in fp16
    card = read_cards()["nuclei"]
    assert (card.licence, card.classes, card.box_sizes) == ("CC0", ("nucleus",), (6, 90))
    assert nuclei.plan.data is not None
    assert (nuclei.plan.data.path, nuclei.plan.data.train_names) == ("train", ())


def test_training_starts_from_it():
    plan = make_plan("auto", settings := {"weights": "nuclei"})
    check_start(plan, settings)
    check_settings("auto", settings, {"a": {"epochs": "1"}, "b": {"epochs": "2"}}, [0])
    start = read_start("nuclei")
    assert isinstance(start, Plan)
    assert start.architecture == "maskrcnn_compact"
