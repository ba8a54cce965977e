"""Images of other channels than grey and RGB, from training to the files of predictions."""

import numpy as np
import pytest
import tifffile
import torch

from manymask.errors import DatasetError, PlanError
from manymask.evaluation import evaluate
from manymask.imaging import PlaneChoice, open_image
from manymask.modeling.build import build_model
from manymask.modeling.checkpoint import read_state_dict
from manymask.plan import read_plan
from manymask.prediction import export, load_model, predict, predict_files
from manymask.synthetic import make_sample
from manymask.training import train

SMALL = {
    "architecture": "maskrcnn_compact",
    "backbone": "test_resnet",
    "anchor_sizes": (8, 16, 32, 64, 128),
    "weights": "none",
    "min_size": 0,
    "roi_samples": 16,
    "num_workers": 0,
    "epochs": 2,
    "precision": "fp32",
    "detections_per_image": 12,
    "normalization": "image",
}
# Random weights find more than the small cap lets through.
pytestmark = pytest.mark.filterwarnings("default:.*the cap of 12 detections:UserWarning:manymask")


def count_inputs(run):
    """Channels of the first convolution."""
    state = read_state_dict(run / "last.ckpt")
    return next(value.shape[1] for name, value in state.items() if name.startswith("backbone.body."))


def write_channels(folder, num_channels, num_images=2):
    """OME-TIFFs of 16 bits with their label images; the channels differ by far in brightness."""
    for index in range(num_images):
        pixels, cells = make_sample(index, size=(48, 56), num_instances=6, num_classes=1)
        planes = np.stack([pixels[..., channel % 3] * np.uint16(1 + 7 * channel) for channel in range(num_channels)])
        path = folder / "images" / f"{index}.ome.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "CYX"})
        (folder / "labels").mkdir(exist_ok=True)
        tifffile.imwrite(folder / "labels" / f"{index}.ome.tif", cells.to_labels())
    return folder


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    return write_channels(tmp_path_factory.mktemp("five"), 5)


@pytest.fixture(scope="module")
def run(five, tmp_path_factory):
    return train(five, output=tmp_path_factory.mktemp("run") / "a", recipe="baseline", settings=SMALL)


def test_five_channels_train_evaluate_and_resume(five, run):
    assert read_plan(run / "plan.json").channels == (1, 2, 3, 4, 5)
    assert count_inputs(run) == 5
    assert evaluate(run, five).num_images == 2
    last = read_state_dict(run / "last.ckpt")
    train(resume=run / "checkpoints" / "epoch_001.ckpt")
    resumed = read_state_dict(run / "last.ckpt")
    assert all(torch.equal(resumed[name], last[name]) for name in last)


def test_five_channels_are_predicted_and_drawn(five, run, tmp_path):
    model = load_model(run, settings={"score_threshold": 0.0})
    predict_files(model, five / "images", tmp_path / "out", formats=["labels", "overlay", "csv"])
    assert {path.name for path in (tmp_path / "out" / "overlays").iterdir()} == {"0.ome.png", "1.ome.png"}
    path = five / "images" / "0.ome.tif"
    (found,) = predict(run, path, min_score=0.0)
    pixels = open_image(path).read()
    for image in (pixels, torch.from_numpy(pixels.astype(np.int32)).permute(2, 0, 1)):
        (again,) = predict(run, image, min_score=0.0)
        np.testing.assert_allclose(again.scores, found.scores, rtol=1e-5)


def test_brightness_of_a_channel_does_not_matter(five, run):
    pixels = open_image(five / "images" / "0.ome.tif").read()
    (found,), (again,) = (
        predict(run, image, min_score=0.0) for image in (pixels, pixels * np.array([1, 1, 1, 2, 1], np.uint16))
    )
    np.testing.assert_allclose(again.scores, found.scores, atol=1e-4)


def test_channels_of_other_files_are_chosen(five, run):
    path = five / "images" / "0.ome.tif"
    (found,) = predict(run, path, min_score=0.0, planes=PlaneChoice(channels=(1, 2, 3, 4, 5)))
    (other,) = predict(run, path, min_score=0.0, planes=PlaneChoice(channels=(5, 4, 3, 2, 1)))
    (plain,) = predict(run, path, min_score=0.0)
    np.testing.assert_array_equal(plain.scores, found.scores)
    assert not np.array_equal(found.scores, other.scores)
    with pytest.raises(PlanError, match=r"takes 5 channels, but --channels chooses 2"):
        predict(run, path, planes=PlaneChoice(channels=(1, 2)))


def test_an_image_of_other_channels_is_refused(five, run, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 40, 3), np.uint8), photometric="rgb")
    with pytest.raises(DatasetError, match=r"expected 5 channels or more, found 3 in .*a\.tif"):
        predict_files(run, tmp_path / "a.tif", tmp_path / "out")
    with pytest.raises(DatasetError, match=r"expected 1 or 3 channels, found 5 in .*0\.ome\.tif"):
        predict_files("nuclei", five / "images" / "0.ome.tif", tmp_path / "out")


def test_export_of_five_channels(five, run, tmp_path):
    exported = load_model(export(run, tmp_path / "exported", to="onnx"))
    (ours,), (theirs,) = (predict(m, five / "images" / "0.ome.tif", min_score=0.0) for m in (run, exported))
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-3)


def test_two_channels_are_trained_on_from_nuclei(tmp_path):
    data = write_channels(tmp_path / "data", 2)
    run = train(data, output=tmp_path / "run", settings={"weights": "nuclei", "max_steps": 1, "num_workers": 0})
    plan = read_plan(run / "plan.json")
    assert (plan.channels, plan.weights) == ((1, 2), "nuclei")
    assert count_inputs(run) == 2


@pytest.mark.parametrize(("channels", "num_inputs"), [((4,), 3), ((5, 2, 1), 3), ((2, 4), 2)])
def test_some_of_the_channels(five, tmp_path, channels, num_inputs):
    run = train(five, output=tmp_path / "run", recipe="baseline", settings={**SMALL, "channels": channels, "epochs": 1})
    assert count_inputs(run) == num_inputs
    picked = open_image(five / "images" / "0.ome.tif", PlaneChoice(channels=channels)).read()
    (whole,) = predict(run, five / "images" / "0.ome.tif", min_score=0.0)
    (part,) = predict(run, picked, min_score=0.0, planes=PlaneChoice(channels=tuple(range(1, len(channels) + 1))))
    np.testing.assert_array_equal(part.scores, whole.scores)


def test_mixed_channels_stop_before_the_first_step(tmp_path):
    data = write_channels(tmp_path / "data", 5)
    tifffile.imwrite(data / "images" / "1.ome.tif", np.ones((48, 56, 3), np.uint8), photometric="rgb")
    with pytest.raises(DatasetError, match=r"expected 5 channels or more, found 3 in .*1\.ome\.tif"):
        train(data, output=tmp_path / "run", recipe="baseline", settings=SMALL)


@pytest.mark.parametrize("num_channels", [1, 2, 7])
def test_equal_channels_give_what_rgb_gave(num_channels, tmp_path):
    settings = {name: SMALL[name] for name in ("architecture", "backbone", "weights", "min_size")}
    network = build_model(2, settings).eval()
    torch.save(network.state_dict(), tmp_path / "a.pt")
    wider = build_model(
        2, {**settings, "weights": str(tmp_path / "a.pt"), "channels": tuple(range(1, num_channels + 1))}
    ).eval()
    grey = torch.rand(1, 1, 64, 64)
    num_inputs = 3 if num_channels == 1 else num_channels
    with torch.no_grad():
        expected = network.backbone(grey.repeat(1, 3, 1, 1))["0"]
        torch.testing.assert_close(wider.backbone(grey.repeat(1, num_inputs, 1, 1))["0"], expected)
