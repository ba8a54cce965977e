from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from manymask.modeling.detections import make_instances
from manymask.prediction import (
    TTA_FACTORS,
    Model,
    load_model,
    predict,
    predict_tensor,
)
from manymask.prediction.views import detect_views, list_views
from tests.prediction.scenes import make_pixels
from tests.tiny_model import LARGER, write_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*cap of 12")  # the tiny model finds something everywhere


class TestTta:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory) -> Path:
        """Of the network that the bounds below were found with."""
        folder = tmp_path_factory.mktemp("larger")
        write_tiny_model(folder / "best.ckpt", **LARGER)
        return folder

    @pytest.fixture(scope="class")
    def model(self, run) -> Model:
        return load_model(run)

    def predict_view(self, model, image, **changes):
        (view,) = list_views(size := (image.shape[-2], image.shape[-1]), model.preprocessing)
        (detections,) = detect_views(model.detector, image, [replace(view, **changes)])
        return make_instances(detections, size, model.postprocessing)

    @pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)])
    def test_a_view_of_a_flipped_image_is_the_image_s(self, model, flips):
        """The network sees the same pixels, so what it finds lies at the mirrored places."""
        image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
        axes = [axis for axis, is_flipped in ((2, flips[0]), (1, flips[1])) if is_flipped]
        plain = self.predict_view(model, image)
        view = self.predict_view(model, image.flip(axes), flips=flips)
        assert len(plain) > 0
        np.testing.assert_allclose(view.scores, plain.scores)
        expected = plain.to_masks()[:, :: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
        assert (view.to_masks() == expected).mean() > 0.999

    @pytest.mark.parametrize("axis", [1, 2])
    def test_a_flipped_image_gives_the_flipped_masks(self, run, axis):
        """Its views are the image's own in another order."""
        model, image = (
            load_model(run, settings={"tta": True}),
            torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0)),
        )
        plain, flipped = predict_tensor(model, image), predict_tensor(model, image.flip(axis))
        np.testing.assert_allclose(flipped.scores, plain.scores, atol=1e-4)
        assert (np.flip(flipped.to_masks(), axis) == plain.to_masks()).mean() > 0.99

    def test_an_enlarged_view_has_the_image_s_size(self, model):
        image = torch.rand(3, 41, 53, generator=torch.Generator().manual_seed(0))
        found = self.predict_view(model, image, factor=1.25)
        assert found.size == (41, 53)
        assert (found.boxes[:, 2:].max(axis=0) <= (53, 41)).all()
        assert found.boxes[:, 2:].max() > 45  # boxes over the whole of it, not the view's part

    def test_merged(self, run):
        model = load_model(run, settings={"tta": True})
        (found,) = predict(model, make_pixels(), min_score=0.0)
        assert model.plan.tta
        assert 0 < len(found) <= model.plan.max_detections
        assert (np.diff(found.scores) <= 0).all()
        assert found.scores.min() >= model.plan.min_score
        assert found.size == (40, 52)


def test_views_are_enlarged_where_images_are_not_resized_to_one_size(run):
    def count(**settings):
        preprocessing = load_model(run, settings=settings).preprocessing
        return len({view.factor for view in list_views((40, 52), preprocessing, tta=True)})

    assert count() == count(max_size=60) == len(TTA_FACTORS)
    assert count(min_size=64) == 1


def test_cap_in_a_view_is_told(run):
    with pytest.warns(UserWarning, match=r"a view of the image reached the cap of 3 detections"):
        list(
            predict(
                load_model(run, settings={"tta": True, "detections_per_image": 3, "score_threshold": 0.05}),
                make_pixels(),
            )
        )
