import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from manymask.core import Instances, RunLengths, encode_crops
from manymask.errors import DatasetError, ManymaskError, PlanError
from manymask.formats import read_dataset
from manymask.imaging import PlaneChoice, read_pixels
from manymask.modeling.detections import Postprocessing
from manymask.plan import make_plan
from manymask.prediction import (
    load_model,
    predict,
    predict_tensor,
    predicting,
)
from manymask.prediction.views import warn_of_cap
from tests import dense
from tests.prediction.scenes import assert_same_instances, make_pixels, predict_one, write_images
from tests.tiny_model import SETTINGS

pytestmark = pytest.mark.filterwarnings("ignore:.*cap of 12")  # the tiny model finds something everywhere


@pytest.mark.parametrize("size", [(33, 33), (34, 97), (70, 41)])
def test_instances_lie_in_an_image_of_any_size(model, size):
    instances = predict_one(model, make_pixels(*size))
    assert instances.size == size
    assert 2 < len(instances) <= SETTINGS["detections_per_image"]
    assert (np.diff(instances.scores) <= 0).all()
    assert instances.scores.min() > SETTINGS["min_score"]
    assert set(instances.labels.tolist()) <= {1, 2}
    assert (instances.boxes >= 0).all()
    assert (instances.boxes <= [size[1], size[0]] * 2).all()
    dense.assert_valid_runs(instances.runs)


def test_grey_of_any_shape_and_depth_is_the_same(model):
    grey = make_pixels(channels=1)
    expected = predict_one(model, grey)
    for pixels in (grey[..., 0], grey.repeat(3, axis=2), grey.astype(np.uint16) * 257, (grey / 255).astype(np.float64)):
        assert_same_instances(predict_one(model, pixels), expected)


def test_files_and_arrays_are_the_same(model, tmp_path):
    folder = write_images(tmp_path / "in", "a.png", "b.tif")
    paths = [str(folder / "a.png"), folder / "b.tif"]
    for found, path in zip(predict(model, paths, min_score=0.0), paths, strict=True):
        assert_same_instances(found, predict_one(model, read_pixels(Path(path))))


def test_an_image_alone_is_the_same_as_among_others(model):
    images = [make_pixels(60, 40, seed=1), make_pixels(seed=2), make_pixels(33, 80, seed=3)]
    for together, image in zip(list(predict(model, images, min_score=0.0)), images, strict=True):
        assert_same_instances(together, predict_one(model, image))


def test_images_are_taken_one_ahead_only(model):
    taken = []

    def give():
        for index in range(5):
            taken.append(index)
            yield make_pixels(33, 33)

    results = predict(model, give())
    assert taken == []
    next(results)
    assert taken == [0, 1]
    results.close()


def test_no_images(model):
    assert list(predict(model, [])) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((40, 40, 4), dtype=np.uint8), "expected 1 or 3 channels, found 4 in an array"),
        (np.full((40, 40), 2.0), r"expected intensities in \[0, 1\], found 2 to 2 in an array"),
        (np.zeros((0, 40), dtype=np.uint8), r"expected pixels of shape .* found an array of shape \(0, 40\)"),
        (Path("nowhere.png"), "nowhere.png does not exist"),
    ],
)
def test_images_that_cannot_be_used(model, image, message):
    with pytest.raises(DatasetError, match=message):
        predict_one(model, image)


def test_an_image_in_memory_of_any_kind_is_the_same(model):
    pixels = make_pixels(40, 60)
    expected = predict_one(model, pixels)
    first = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (Image.fromarray(pixels), first, np.moveaxis(pixels, 2, 0), first.to(torch.int64).to(torch.uint8)):
        assert_same_instances(predict_one(model, image), expected)
    mask = pixels[..., 0] > 90
    assert_same_instances(predict_one(model, mask), predict_one(model, mask * np.uint8(255)))
    with pytest.raises(DatasetError, match=r"expected pixels of shape \(height, width, channels\).*\(1, 3, 40, 60\)"):
        predict_one(model, first[None])


@pytest.mark.parametrize(("cap", "is_warned"), [(3, True), (4, False)])
def test_warns_where_the_cap_cuts_off_sure_instances(cap, is_warned):
    runs = encode_crops(((10 * i, 0, np.ones((5, 5), dtype=bool)) for i in range(3)), (40, 40))
    instances = Instances.from_runs(runs, np.ones(3, dtype=np.int64))
    plan = make_plan("baseline", {"detections_per_image": cap})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_cap(instances, Postprocessing.of(plan), Path("crowd.tif"))
    assert [f"cap of {cap}" in str(warning.message) for warning in caught] == [True] * is_warned


def test_gives_what_is_shown_unless_more_is_asked_for(run):
    pixels = make_pixels()
    scores = predict_one(load_model(run), pixels).scores
    threshold = float(np.median(scores))
    model = load_model(run, settings={"score_threshold": threshold})
    (shown,) = predict(model, pixels)
    assert 0 < len(shown) == (scores >= threshold).sum() < len(scores)
    (everything,) = predict(model, pixels, min_score=0.0)
    assert everything.scores.tolist() == scores.tolist()
    with pytest.raises(PlanError, match="min_score is 2.0, expected a number from 0 to 1"):
        predict(model, pixels, min_score=2.0)


def test_says_where_the_cap_may_have_cut_off(run, cells):
    model = load_model(run, settings={"detections_per_image": 3, "score_threshold": 0.05})
    with pytest.warns(UserWarning, match=r"^image 2: the cap of 3 detections is reached, and more instances may be"):
        list(predict(model, [make_pixels(), make_pixels()]))
    with pytest.warns(UserWarning, match=r"image\.tif: the cap of 3 detections is reached"):
        list(predict(model, cells / "0000" / "image.tif"))


class TestOneImage:
    """A single file, folder or array is one call away, without a list around it."""

    def test_array(self, model):
        pixels = np.full((40, 48, 3), 128, dtype=np.uint8)
        assert [found.size for found in predict(model, pixels)] == [(40, 48)]

    @pytest.mark.parametrize("num_channels", [1, 3])
    def test_in_memory_in_any_form(self, model, num_channels):
        pixels = make_pixels()[..., :num_channels]
        first = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
        image = Image.fromarray(pixels.squeeze())
        forms = [image, torch.from_numpy(pixels), torch.from_numpy(first), first]
        expected = predict_one(model, pixels)
        for form in forms:
            assert_same_instances(predict_one(model, form), expected)
            assert [found.size for found in predict(model, form)] == [expected.size]

    def test_two_values_are_black_and_white(self, model):
        is_light = make_pixels()[..., 0] > 100
        expected = predict_one(model, is_light * np.uint8(255))
        for form in (is_light, torch.from_numpy(is_light), Image.fromarray(is_light * np.uint8(255)).convert("1")):
            assert_same_instances(predict_one(model, form), expected)

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (lambda: iter([[[1, 2], [3, 4]]]), "a torch tensor or a Pillow image, found list; make an array of it"),
            (lambda: torch.zeros(2, 3, 40, 48), r"found an array of shape \(2, 3, 40, 48\) .* each image by itself"),
            (lambda: np.full((40, 48), "a"), "expected pixels of shape"),
        ],
    )
    def test_what_is_no_image_is_refused_in_a_sentence(self, model, images, message):
        with pytest.raises(DatasetError, match=message):
            list(predict(model, images()))

    def test_file_and_folder(self, model, cells):
        image = cells / "0000" / "image.tif"
        assert len(list(predict(model, image))) == 1
        assert len(list(predict(model, str(image)))) == 1
        assert len(list(predict(model, str(cells)))) == len(read_dataset(cells))

    def test_missing_file_is_said_at_the_call(self, model, tmp_path):
        with pytest.raises(DatasetError, match="does not exist"):
            predict(model, tmp_path / "nothing.png")

    def test_model_by_its_path(self, model, cells):
        assert len(list(predict(model.source, cells / "0000" / "image.tif"))) == 1


class TestModelPredict:
    def test_is_the_one_implementation(self, model, cells):
        for given in (make_pixels(), cells / "0000" / "image.tif", [make_pixels(), cells / "0001" / "image.tif"]):
            pairs = list(zip(model.predict(given, min_score=0.0), predict(model, given, min_score=0.0), strict=True))
            assert pairs
            for found, expected in pairs:
                assert_same_instances(found, expected)

    @pytest.mark.parametrize("content", [None, b"no image"])
    def test_images_before_one_that_cannot_be_read_come_first(self, model, tmp_path, content):
        if content is not None:
            (tmp_path / "a.tif").write_bytes(content)
        found = model.predict([make_pixels(), make_pixels(), tmp_path / "a.tif", make_pixels()], min_score=0.0)
        assert [instances.size for instances in (next(found), next(found))] == [(40, 52)] * 2
        with pytest.raises(DatasetError, match=r"a\.tif"):
            next(found)

    def test_batches_are_of_images_of_one_size(self, model, monkeypatch):
        sizes = [(40, 48), (40, 48), (40, 48), (36, 40), (40, 48)]
        images = [make_pixels(*size, seed=place) for place, size in enumerate(sizes)]
        seen, forward = [], model.detector.network.forward
        monkeypatch.setattr(model.detector.network, "forward", lambda batch: seen.append(len(batch)) or forward(batch))
        found = list(model.predict(iter(images), batch_size=2, min_score=0.0))
        assert seen == [2, 1, 1, 1]
        for instances, image in zip(found, images, strict=True):
            (expected,) = model.predict(image, min_score=0.0)
            assert instances.size == image.shape[:2]
            np.testing.assert_allclose(instances.scores, expected.scores, atol=1e-5)
            np.testing.assert_allclose(instances.boxes, expected.boxes, atol=1e-2)

    @pytest.mark.parametrize("batch_size", [1, 8])
    def test_memory_is_flat(self, model, monkeypatch, batch_size):
        """Of a thousand images only those of a batch and the ones read ahead are alive."""

        class Counted(np.ndarray):
            alive = most = 0

            def __del__(self):
                type(self).alive -= self.is_first

        def make_images():
            for _ in range(1000):
                image = np.zeros((8, 8, 3), dtype=np.uint8).view(Counted)
                Counted.alive += 1
                image.is_first = True
                Counted.most = max(Counted.most, Counted.alive)
                yield image

        Counted.is_first = False
        nothing = Instances.from_runs(RunLengths.empty((8, 8)), np.zeros(0, dtype=np.int64))
        monkeypatch.setattr(predicting, "find_instances", lambda *_: nothing)
        monkeypatch.setattr(predicting, "predict_alike", lambda _, images, __: [nothing] * len(images))
        assert sum(1 for _ in model.predict(make_images(), batch_size=batch_size)) == 1000
        assert Counted.most <= batch_size + 4

    def test_pages_and_channels(self, model, tmp_path):
        pages = np.stack([make_pixels()[..., 0], make_pixels()[..., 1]])
        tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", metadata={"axes": "ZYX"})
        found = list(model.predict(tmp_path / "a.tif", planes=PlaneChoice(page="all"), min_score=0.0))
        for instances, page in zip(found, pages, strict=True):
            assert_same_instances(instances, predict_one(model, page))

    def test_tile_size(self, model, monkeypatch):
        with pytest.raises(PlanError, match="tile_size is 8, but tiles of this model overlap"):
            model.predict(make_pixels(), tile_size=8)

    def test_no_batch_is_refused(self, model):
        with pytest.raises(PlanError, match="batch_size is 0, expected 1 or more"):
            model.predict(make_pixels(), batch_size=0)


def test_full_device_is_one_line(model, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.detector.network, "forward", fail)
    with pytest.raises(ManymaskError, match="40 x 48; lower detections_per_image"):
        list(predict(model, np.zeros((40, 48), dtype=np.uint8)))


def test_full_memory_is_one_line(model):
    """Fifty terabytes, which torch's allocator refuses as it does a few gigabytes too many."""
    image = torch.zeros(3, 1, 1).expand(3, 1 << 21, 1 << 21)
    with pytest.raises(
        ManymaskError, match=r"^memory is full at a\.png of 2097152 x 2097152; lower detections_per_image .* predict$"
    ):
        predict_tensor(model, image, "a.png")
