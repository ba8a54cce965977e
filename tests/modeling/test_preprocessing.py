import json
from dataclasses import asdict, replace

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from manymask.core import Window
from manymask.modeling.build import build_model
from manymask.modeling.detections import Detections
from manymask.modeling.preprocessing import Preprocessing, View
from manymask.plan import make_plan

PLAIN = Preprocessing((0.0,) * 3, (1.0,) * 3, min_size=0, max_size=1333, scale=1.0)


def draw_image(height, width):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


class TestPreprocessing:
    @pytest.mark.parametrize(("min_size", "max_size"), [(96, 200), (50, 60), (31, 100)])
    @pytest.mark.parametrize("size", [(48, 60), (77, 31), (40, 130)])
    def test_min_size_is_torchvision_s(self, min_size, max_size, size):
        """To the last digit, boxes too."""
        preprocessing = Preprocessing.of(make_plan(settings={"min_size": min_size, "max_size": max_size}))
        transform = GeneralizedRCNNTransform(min_size, max_size, [*preprocessing.mean], [*preprocessing.std])
        image, boxes = draw_image(*size), torch.tensor([[3.0, 4.0, 30.0, 31.0]])
        batch, targets = transform([image], [{"boxes": boxes}])
        found, target = preprocessing.prepare(image, {"boxes": boxes})
        assert batch.image_sizes == [tuple(found.shape[-2:])] == [preprocessing.choose_size(size)]
        assert torch.equal(found, batch.tensors[0, :, : found.shape[-2], : found.shape[-1]])
        assert torch.equal(target["boxes"], targets[0]["boxes"])

    @pytest.mark.parametrize(
        ("settings", "size"),
        [
            ({"scale": 2.0}, (96, 120)),
            ({"scale": 1.3}, (62, 78)),
            ({"scale": 2.0, "max_size": 50}, (96, 120)),
            ({"scale": 0.5}, (24, 30)),
            ({"scale": 0.5, "max_size": 10}, (24, 30)),
        ],
    )
    def test_scale(self, settings, size):
        boxes = torch.tensor([[3.0, 4.0, 30.0, 48.0]])
        image, target = replace(PLAIN, **settings).prepare(draw_image(48, 60), {"boxes": boxes})
        assert image.shape == (3, *size)
        torch.testing.assert_close(target["boxes"], boxes * torch.tensor([size[1] / 60, size[0] / 48]).repeat(2))

    def test_pixels_lie_where_boxes_lie(self):
        """A ramp stays one: the value at a place is that of the same place before."""
        ramp = ((torch.arange(32) + 0.5) / 32).expand(3, 16, 32)
        expected = (torch.arange(64) + 0.5) / 64
        torch.testing.assert_close(replace(PLAIN, scale=2.0)(ramp)[0, 0, 1:63], expected[1:63])

    @pytest.mark.parametrize("name", ["resnet18", "test_resnet", "swin_tiny_patch4_window7_224", "resnet18.a1_in1k"])
    def test_statistics_are_those_of_the_backbone(self, name):
        settings = {"architecture": "maskrcnn_fpn", "backbone": name, "weights": "none", "min_size": 0}
        config = build_model(2, settings=settings).backbone.body.pretrained_cfg
        found = Preprocessing.of(make_plan(settings=settings))
        assert (found.mean, found.std) == (config["mean"], config["std"])

    def test_is_json(self):
        found = json.loads(json.dumps(asdict(PLAIN)))
        assert Preprocessing(**{name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}) == PLAIN


class TestView:
    def map_back(self, view, box):
        detections = Detections(torch.tensor([box]), torch.ones(1).long(), torch.ones(1), torch.rand(1, 4, 4))
        return view.map_back(detections).boxes.tolist()

    @pytest.mark.parametrize(
        ("flips", "expected"),
        [
            ((False, False), [4, 8, 12, 16]),
            ((True, False), [12, 8, 20, 16]),
            ((False, True), [4, 0, 12, 8]),
            ((True, True), [12, 0, 20, 8]),
        ],
    )
    def test_boxes_come_back(self, flips, expected):
        """A box of a 20 x 30 view that is enlarged 1.25 times, of a 16 x 24 image or of a window of one."""
        box = [5.0, 10.0, 15.0, 20.0]
        assert self.map_back(View(Window(0, 0, 16, 24), PLAIN, flips, 1.25), box) == [expected]
        moved = [expected[0] + 7, expected[1] + 3, expected[2] + 7, expected[3] + 3]
        assert self.map_back(View(Window(3, 7, 16, 24), PLAIN, flips, 1.25), box) == [moved]
        assert self.map_back(View(Window(3, 7, 16, 24), replace(PLAIN, scale=2.5), flips), [2 * x for x in box]) == [
            moved
        ]

    def test_takes_a_window(self):
        image = draw_image(20, 30)
        assert torch.equal(View(Window(0, 0, 20, 30), PLAIN).take(image), image)
        assert torch.equal(View(Window(2, 3, 10, 12), PLAIN, (True, False)).take(image), image[:, 2:12, 3:15].flip(2))
        view = View(Window(2, 3, 10, 12), replace(PLAIN, scale=2.0), (False, True), 1.5)
        assert (view.size, view.take(image).shape) == ((30, 36), (3, 30, 36))

    def test_masks_are_flipped_with_their_boxes(self):
        masks = torch.rand(2, 4, 4)
        detections = Detections(torch.ones(2, 4), torch.ones(2).long(), torch.ones(2), masks)
        found = View(Window(0, 0, 9, 9), PLAIN, (True, True)).map_back(detections)
        assert torch.equal(found.mask_probabilities, masks.flip(1, 2))
