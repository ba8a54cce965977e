"""Which proposals the RPN of ``maskrcnn_compact`` takes; test_network.py compares other RPNs with torchvision's."""

import torch
from torchvision.models.detection.image_list import ImageList

from manymask.modeling.build import build_model

SETTINGS = {"architecture": "maskrcnn_compact", "anchor_sizes": (8, 16, 32, 64, 128), "weights": "none"}
STRIDES = (2, 4, 8, 16, 32)


def propose(logits_of, side, monkeypatch, training=False):
    """The proposals of an image whose features have a logit at each place; boxes are the anchors."""
    rpn = build_model(2, SETTINGS).train(training).rpn
    logits = [logits_of(3, -(-side // stride)) for stride in STRIDES]
    deltas = [torch.zeros(1, 12, *logit.shape[-2:]) for logit in logits]
    monkeypatch.setattr(rpn.head, "forward", lambda maps: (logits, deltas))
    features = {str(level): logit for level, logit in enumerate(logits)}
    if training:
        target = {"boxes": torch.tensor([[8.0, 8.0, 16.0, 16.0]])}
        return rpn(ImageList(torch.zeros(1, 3, side, side), [(side, side)]), features, [target])[0][0]
    return rpn(ImageList(torch.zeros(1, 3, side, side), [(side, side)]), features)[0][0]


def test_a_place_gets_the_same_whatever_is_beside_it(monkeypatch):
    """A fixed number of proposals would go to the better ones there."""
    generator = torch.Generator().manual_seed(0)
    corner = {cells: torch.randn(1, 3, cells, cells, generator=generator) - 1.5 for cells in (4, 8, 16, 32, 64)}

    def draw(beside):
        def logits_of(shapes, cells):
            logits = torch.full((1, shapes, cells, cells), -9.0)
            logits[..., ::16, ::16] = beside
            part = corner[max(cells // 6, 4)]
            logits[..., : part.shape[2], : part.shape[3]] = part
            return logits

        return logits_of

    alone = propose(draw(-9.0), 768, monkeypatch)
    among = propose(draw(9.0), 768, monkeypatch)
    assert len(among) > len(alone) + 1000
    # What lies beside is further away than these.
    alone, among = (boxes[(boxes[:, 2:] < 64).all(dim=1)] for boxes in (alone, among))
    assert len(alone) > 10
    assert sorted(alone.tolist()) == sorted(among.tolist())


def draw_noise(mean):
    def logits_of(shapes, cells):
        return mean + torch.rand(1, shapes, cells, cells, generator=torch.Generator().manual_seed(cells))

    return logits_of


def test_what_is_unlikely_is_proposed_in_training_only(monkeypatch):
    def logits_of(shapes, cells):
        logits = draw_noise(-2.0)(shapes, cells)
        logits[..., 0, 0] = 1.0
        return logits

    assert 1 <= len(propose(logits_of, 128, monkeypatch)) <= 3 * len(STRIDES)
    assert len(propose(logits_of, 128, monkeypatch, training=True)) == 500


def test_where_all_is_unlikely_the_best_few_are_proposed(monkeypatch):
    assert 10 < len(propose(draw_noise(-2.0), 128, monkeypatch)) <= 100


def test_larger_images_have_more_proposals(monkeypatch):
    def logits_of(shapes, cells):
        return torch.rand(1, shapes, cells, cells, generator=torch.Generator().manual_seed(0))

    assert len(propose(logits_of, 256, monkeypatch)) == 4000
    assert len(propose(logits_of, 1024, monkeypatch)) == 1024 * 1024 // 128


def test_an_image_in_a_batch_gets_what_it_gets_alone():
    """Also one in which nothing is likely to be an object, beside one in which something is."""
    rpn = build_model(2, SETTINGS).eval().rpn
    rpn._input_size = (64, 64)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 300, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 8], dim=2)
    logits = torch.rand(2, 300, generator=generator) * 4 + torch.tensor([[-12.0], [-3.0]])
    together = rpn.filter_proposals(boxes, logits, [(64, 64)] * 2, [300])[0]
    for index, found in enumerate(together):
        (alone,) = rpn.filter_proposals(boxes[[index]], logits[[index]], [(64, 64)], [300])[0]
        assert len(alone) > 10
        torch.testing.assert_close(found, alone, rtol=0, atol=0)
