from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from manymask.core import ArraySource, InstanceLayers, Sample
from manymask.training.augmentation import make_target
from manymask.training.contacts import draw_contact, paste_in_contact
from tests.training.test_loading import make_datamodule


def draw_scene(size=(120, 140), discs=((30, 30, 9), (30, 80, 12), (80, 50, 7), (90, 110, 10)), ground=0.2, light=0.8):
    """Discs (row, column, radius), blurred by a pixel; ids in the order of the discs."""
    y, x = np.mgrid[: size[0], : size[1]]
    image, ids = np.full(size, ground, dtype=np.float32), np.zeros(size, dtype=np.int32)
    for number, (row, column, radius) in enumerate(discs, start=1):
        distance = np.hypot(y - row, x - column)
        image += (light - ground) * np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)
        ids[distance <= radius] = number
    return torch.from_numpy(image).expand(3, -1, -1).contiguous(), InstanceLayers(torch.from_numpy(ids)[None])


def paste(image, layers, number, seed=0):
    can_be_copied = np.ones(number, dtype=bool)
    return paste_in_contact(image, layers, can_be_copied, torch.Generator().manual_seed(seed))


class TestDrawContact:
    def draw(self, layers, seed=0):
        return draw_contact(InstanceLayers(torch.tensor(layers)), torch.Generator().manual_seed(seed))

    @pytest.mark.parametrize(
        "layers",
        [
            [[[0, 0, 0], [0, 0, 0]]],
            [[[1, 1, 0], [1, 0, 2]]],  # a common corner
            [[[1, 0, 2], [1, 0, 2]]],
            [[[1]]],
        ],
    )
    def test_none(self, layers):
        assert self.draw(layers) is None

    def test_beside_below_and_overlapping(self):
        assert self.draw([[[0, 1, 2], [0, 0, 0]]]) == (0, 1)
        assert self.draw([[[0, 1], [0, 1], [0, 7]]]) == (1, 1)
        assert self.draw([[[1, 1, 1, 0]], [[0, 0, 2, 2]]]) == (0, 1)
        assert self.draw([[[1, 0]], [[0, 2]]]) == (0, 0)  # in two layers, side by side

    def test_each_pair_is_as_likely(self):
        layers = np.zeros((1, 30, 40), dtype=np.int32)
        layers[0, :, 0], layers[0, :, 1] = 1, 2  # 30 places
        layers[0, 5, 20], layers[0, 5, 21] = 70_000, 3  # one
        found = [self.draw(layers.tolist(), seed) for seed in range(200)]
        assert 70 < found.count((5, 20)) < 130
        assert found == [self.draw(layers.tolist(), seed) for seed in range(200)]


class TestPaste:
    @pytest.mark.parametrize("seed", range(12))
    def test_copies_touch_and_own_their_pixels(self, seed):
        image, layers = draw_scene()
        pasted, new_layers, copied = paste(image, layers, 4, seed)
        assert 1 <= len(copied) <= 6
        assert set(new_layers.unique().tolist()) == set(range(5 + len(copied)))
        ids, old_ids = new_layers[0].numpy(), layers[0].numpy()
        for number, row in enumerate(copied, start=5):
            own, others = ids == number, (ids > 0) & (ids != number)
            assert distance_transform_edt(~others)[own].min() <= 2.5
            assert (own & (ids != old_ids)).sum() == own.sum()
            # Scaled to 0.8 to 1.25 of its width, and perhaps covered by a later copy.
            assert 0.3 < own.sum() / (old_ids == row + 1).sum() < 1.7
        assert (np.bincount(ids.ravel())[1:5] >= np.bincount(old_ids.ravel())[1:] / 2).all()
        assert pasted.shape == image.shape
        assert 0 <= pasted.min() <= pasted.max() <= 1

    @pytest.mark.parametrize(("ground", "light"), [(0.2, 0.6), (0.8, 0.3)])
    def test_pixels_follow_the_layers(self, ground, light):
        for seed in range(8):
            image, layers = draw_scene(ground=ground, light=light)
            pasted, new_layers, copied = paste(image, layers, 4, seed)
            ids = new_layers[0].numpy()
            away = distance_transform_edt(~((ids > 4) | (layers[0].numpy() > 0))) > 6
            assert torch.equal(pasted[:, away], image[:, away])
            for number in range(5, 5 + len(copied)):
                inside = distance_transform_edt(ids == number) > 3
                if inside.any():
                    strength = (pasted[0].numpy()[inside] - ground) / (light - ground)
                    assert 0.55 < strength.min() <= strength.max() < 1.45

    def test_function_of_the_generator(self):
        scene = draw_scene()
        (first, _, _), (again, _, _), (other, _, _) = (paste(*scene, 4, seed) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_does_not_write_to_what_it_is_given(self):
        image, layers = draw_scene()
        copies = image.clone(), layers.clone()
        paste(image, layers, 4)
        assert torch.equal(image, copies[0])
        assert torch.equal(layers, copies[1])

    def test_cut_and_forbidden_instances_are_no_sources(self):
        discs = ((2, 30, 9), (60, 60, 8), (60, 110, 9))
        for seed in range(10):
            image, layers = draw_scene(discs=discs)
            is_allowed = np.array([True, False, True])
            _, _, copied = paste_in_contact(image, layers, is_allowed, torch.Generator().manual_seed(seed))
            assert set(copied.tolist()) <= {2}

    def test_instances_among_others_are_no_sources(self):
        image, layers = draw_scene(discs=((60, 60, 9), (60, 75, 9), (60, 45, 9), (20, 110, 8)))
        found = {row for seed in range(20) for row in paste(image, layers, 4, seed)[2].tolist()}
        assert 0 not in found
        assert 3 in found

    @pytest.mark.parametrize(
        "layers",
        [
            torch.zeros(1, 20, 20),
            torch.ones(1, 20, 20),
            torch.ones(1, 20, 20) * (torch.arange(20) < 9),
            torch.nn.functional.pad(torch.ones(1, 18, 18), (1, 1, 1, 1)),  # nothing but its rim lies around it
        ],
    )
    @pytest.mark.filterwarnings("error")
    def test_nothing_to_copy(self, layers):
        image = torch.rand(3, 20, 20)
        pasted, new_layers, copied = paste(image, InstanceLayers(layers.int()), 1)
        assert len(copied) == 0
        assert torch.equal(pasted, image)
        assert torch.equal(new_layers.as_subclass(torch.Tensor), layers.int())

    def test_no_room(self):
        image, layers = draw_scene((31, 31), ((15, 15, 12),))
        assert all(len(paste(image, layers, 1, seed)[2]) == 0 for seed in range(5))

    def test_in_several_layers(self):
        image, layers = draw_scene()
        stack = torch.zeros(2, *layers.shape[1:], dtype=torch.int32)
        stack[0], stack[1, 20:40, 25:30] = layers[0], 5
        for seed in range(6):
            _, new_layers, copied = paste(image, InstanceLayers(stack), 5, seed)
            own = new_layers[0] > 5
            assert own.any() or len(copied) == 0
            assert (new_layers[1][own] == 0).all()
            target = make_target(new_layers, np.arange(5 + len(copied)), np.zeros(5 + len(copied), dtype=bool))
            assert len(target["boxes"]) == 5 + len(copied)


class TestDraws:
    """Crops of training images, by (image, place of the draw)."""

    def make_images(self, **settings):
        image, layers = draw_scene()
        images = make_datamodule(num_train=1, **settings).train_images
        pixels = (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        sample = replace(images.dataset[0], image=ArraySource(pixels), layers=layers)
        images.dataset = [replace(sample, labels=np.array([4, 5, 6, 7]), iscrowd=np.array([False] * 3 + [True]))]
        assert isinstance(images.dataset[0], Sample)
        return images

    def test_labels_and_boxes_follow_the_copies(self):
        images = self.make_images(contact_paste=1.0)
        for place in range(10):
            image, target, _ = images[0, place]
            again = images[0, place]
            assert torch.equal(image, again[0])
            assert torch.equal(target["layers"], again[1]["layers"])
            labels, layers = target["labels"].tolist(), target["layers"].amax(0)
            assert labels[:3] == [4, 5, 6]
            assert len(labels) > 3
            assert set(labels[3:]) <= {4, 5, 6}  # no copy of the crowd region
            for number, (x1, y1, x2, y2) in enumerate(target["boxes"].tolist(), start=1):
                rows, columns = torch.nonzero(layers == number, as_tuple=True)
                assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [x1, y1, x2, y2]

    def test_places_at_crowd_regions_are_no_contacts(self):
        crops = []
        for share in (0.0, 1.0):
            images = self.make_images(crop_size=40, touching_share=share)
            layers = images.dataset[0].layers.clone()
            layers[0, 90, 99] = 3  # beside the crowd region
            images.dataset[0] = replace(images.dataset[0], layers=InstanceLayers(layers))
            crops.append(torch.stack([images[0, place][0] for place in range(10)]))
        assert torch.equal(*crops)

    def test_share_of_crops(self):
        counts = [len(self.make_images(contact_paste=0.3)[0, place][1]["labels"]) for place in range(100)]
        assert 15 < sum(count > 3 for count in counts) < 45

    def test_copies_come_after_all_else_is_drawn(self):
        settings = {"crop_size": 60, "augmentation": "dihedral", "scale_jitter": 0.5}
        plain, pasting = self.make_images(**settings), self.make_images(contact_paste=0.5, **settings)
        is_same = [torch.equal(plain[0, place][0], pasting[0, place][0]) for place in range(40)]
        assert 10 < sum(is_same) < 40
