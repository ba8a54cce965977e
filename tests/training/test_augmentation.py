import numpy as np
import pytest
import torch

from manymask.core import InstanceLayers, Window
from manymask.plan import make_plan
from manymask.training.augmentation import Augmentation, apply_augmentation, draw_augmentation, make_target


def augment(image, layers, plan, generator):
    """What training makes of a whole image and its layers."""
    draw = draw_augmentation(Augmentation.of(plan), layers, generator)
    rows, columns = draw.window.slices
    part = InstanceLayers(layers.as_subclass(torch.Tensor)[:, rows, columns])
    return apply_augmentation(image[:, rows, columns], part, draw, generator)


def make(layers, labels, iscrowd=None):
    iscrowd = np.zeros(len(labels), dtype=bool) if iscrowd is None else np.array(iscrowd)
    return make_target(InstanceLayers(torch.tensor(layers)), np.array(labels, dtype=np.int64), iscrowd)


def turn(layers, seed=0, **settings):
    """Augment layers with an image that says where each pixel was: row, column and id, all exact in float32."""
    height, width = layers.shape[1:]
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([row, column, layers[0]]).float()
    generator = torch.Generator().manual_seed(seed)
    return augment(image, InstanceLayers(layers), make_plan(settings={"min_size": 0, **settings}), generator)


def make_layers(height=3, width=4):
    """Every pixel is an instance of its own."""
    return torch.arange(1, height * width + 1, dtype=torch.int32).reshape(1, height, width)


def list_turns(array):
    """The eight turned and mirrored copies."""
    return [side for times in range(4) for side in (np.rot90(array, times), np.rot90(array, times)[:, ::-1])]


class TestAugment:
    def test_none(self):
        image, layers = turn(make_layers())
        assert torch.equal(layers.as_subclass(torch.Tensor), make_layers())
        assert torch.equal(image[2], make_layers()[0].float())

    @pytest.mark.parametrize(("augmentation", "num_turns"), [("none", 1), ("flip", 2), ("dihedral", 8)])
    def test_every_turn_occurs_and_layers_follow(self, augmentation, num_turns):
        allowed = {side.tobytes() + bytes(side.shape) for side in list_turns(make_layers()[0].numpy())}
        found = set()
        for seed in range(60):
            image, layers = turn(make_layers(), seed, augmentation=augmentation)
            assert torch.equal(image[2], layers[0].float())
            assert torch.equal(image[0] * 4 + image[1] + 1, image[2])
            found.add(np.ascontiguousarray(layers[0].numpy()).tobytes() + bytes(layers.shape[1:]))
        assert found <= allowed
        assert len(found) == num_turns

    def test_flips_are_left_to_right(self):
        rows = {tuple(turn(make_layers(1, 3), seed, augmentation="flip")[1][0, 0].tolist()) for seed in range(9)}
        assert rows == {(1, 2, 3), (3, 2, 1)}

    def test_every_crop_occurs(self):
        corners = set()
        for seed in range(200):
            image, layers = turn(make_layers(5, 4), seed, crop_size=3)
            assert image.shape[1:] == layers.shape[1:] == (3, 3)
            assert torch.equal(image[2], layers[0].float())
            top, left = int(image[0, 0, 0]), int(image[1, 0, 0])
            assert torch.equal(image[2], make_layers(5, 4)[0, top : top + 3, left : left + 3].float())
            corners.add((top, left))
        assert corners == {(top, left) for top in range(3) for left in range(2)}

    @pytest.mark.parametrize(("crop_size", "shape"), [(3, (3, 3)), (4, (3, 4)), (9, (3, 4))])
    def test_crop_of_a_small_image(self, crop_size, shape):
        assert {turn(make_layers(), seed, crop_size=crop_size)[0].shape[1:] for seed in range(9)} == {shape}

    def test_function_of_the_generator(self):
        settings = {"crop_size": 20, "augmentation": "dihedral"}
        first, again, other = (turn(make_layers(50, 50), seed, **settings)[0] for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_crop_without_objects(self):
        layers = torch.zeros(2, 40, 40, dtype=torch.int32)
        layers[1, 0, 0] = 1
        empty = [turn(layers, seed, crop_size=5)[1] for seed in range(20)]
        targets = [make_target(own, np.array([1]), np.array([False])) for own in empty]
        assert {len(target["boxes"]) for target in targets} == {0}
        assert targets[0]["layers"].shape[1:] == (5, 5)

    def test_contiguous(self):
        image, layers = turn(make_layers(6, 6), 3, crop_size=4, augmentation="dihedral")
        assert image.is_contiguous()
        assert layers.is_contiguous()
        assert isinstance(layers, InstanceLayers)


class TestMakeTarget:
    def test_none(self):
        target = make([[[0, 0], [0, 0]]], [])
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].shape == (0,)
        assert target["layers"].shape == (1, 2, 2)

    def test_boxes_are_those_of_the_pixels(self):
        target = make([[[0, 1, 1], [2, 1, 0]]], [3, 1])
        assert target["boxes"].tolist() == [[1, 0, 3, 2], [0, 1, 1, 2]]
        assert target["labels"].tolist() == [3, 1]
        assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)

    def test_overlapping(self):
        target = make([[[1, 1, 0]], [[0, 2, 2]]], [1, 2])
        assert target["boxes"].tolist() == [[0, 0, 2, 1], [1, 0, 3, 1]]
        assert target["layers"].tolist() == [[[1, 1, 0]], [[0, 2, 2]]]

    def test_crowd_regions_are_left_out(self):
        layers = InstanceLayers([[[1, 1, 3]], [[0, 2, 2]]])
        target = make_target(layers, np.array([1, 2, 3]), np.array([False, True, False]))
        assert target["labels"].tolist() == [1, 3]
        assert target["layers"].tolist() == [[[1, 1, 2]]]
        assert layers.tolist() == [[[1, 1, 3]], [[0, 2, 2]]]
        assert "ignored" not in target  # objects lie over all of it

    def test_crowd_regions_are_no_background(self):
        layers = InstanceLayers([[[1, 0, 3, 0]], [[0, 2, 2, 2]]])
        target = make_target(layers, np.array([1, 2, 3]), np.array([False, True, False]))
        assert target["ignored"].tolist() == [[False, True, False, True]]
        assert "ignored" not in make_target(layers, np.array([1, 2, 3]), np.zeros(3, dtype=bool))

    def test_crowd_regions_only(self):
        target = make([[[1, 1]]], [1], [True])
        assert (len(target["boxes"]), target["layers"].tolist()) == (0, [[[0, 0]]])

    def test_ids_without_pixels_are_left_out(self):
        target = make([[[0, 2, 4]]], [5, 6, 7, 8])
        assert target["labels"].tolist() == [6, 8]
        assert target["layers"].tolist() == [[[0, 1, 2]]]

    def test_more_than_65535_instances(self):
        num_instances = 70_000
        layers = np.arange(1, num_instances + 1, dtype=np.int32).reshape(1, 100, -1)
        target = make(layers.tolist(), [1] * num_instances)
        assert target["boxes"][-1].tolist() == [699, 99, 700, 100]
        assert int(target["layers"].max()) == num_instances


class TestJitter:
    """An image painted from its layers shows whether both went the same way."""

    def change(self, seed=0, size=(40, 56), **settings):
        layers = torch.zeros(2, *size, dtype=torch.int32)
        layers[0, 5:25, 8:20], layers[1, 12:36, 30:50] = 300, 70_000
        image = (layers.amax(0) > 0).float().expand(3, -1, -1).contiguous()
        plan = make_plan(settings={"min_size": 0, **settings})
        return augment(image, InstanceLayers(layers), plan, torch.Generator().manual_seed(seed))

    @pytest.mark.parametrize("seed", range(6))
    def test_layers_follow_the_image(self, seed):
        image, layers = self.change(seed, scale_jitter=0.5, augmentation="dihedral")
        assert image.shape[-2:] == layers.shape[-2:]
        is_object = layers.amax(0) > 0
        assert ((image[0] > 0.5) == is_object).float().mean() > 0.97
        assert set(layers.unique().tolist()) == {0, 300, 70_000}

    def test_sizes(self):
        """Whole images change their size by as much as was asked for; crops keep theirs, unless the image ends."""
        heights = [self.change(seed, scale_jitter=0.5)[0].shape[-2] for seed in range(40)]
        assert min(heights) >= round(40 / 1.5)
        assert max(heights) <= 60
        assert len(set(heights)) > 15
        shapes = [tuple(self.change(seed, scale_jitter=0.5, crop_size=24)[0].shape) for seed in range(40)]
        assert set(shapes) == {(3, 24, 24)}

    def test_off_by_default(self):
        image, layers = self.change()
        assert image.shape == (3, 40, 56)
        assert (image[0].bool() == (layers.amax(0) > 0)).all()

    def test_is_a_function_of_the_generator(self):
        settings = {"scale_jitter": 0.5, "intensity_jitter": 0.5, "crop_size": 24}
        assert torch.equal(self.change(3, **settings)[0], self.change(3, **settings)[0])
        assert not torch.equal(self.change(3, **settings)[0], self.change(4, **settings)[0])

    @pytest.mark.parametrize("seed", range(6))
    def test_light(self, seed):
        image, layers = self.change(seed, intensity_jitter=1)
        assert image.min() >= 0
        assert image.max() <= 1
        assert (image[0] == image).all()  # grey stays grey
        is_object = layers.amax(0) > 0
        assert image[0][is_object].mean() > image[0][~is_object].mean()

    def test_colours_change_apart(self):
        plan = make_plan(settings={"min_size": 0, "intensity_jitter": 0.5})
        image = torch.full((3, 8, 8), 0.5)
        image[1] = 0.25
        changed, _ = augment(
            image, InstanceLayers(torch.zeros(1, 8, 8, dtype=torch.int32)), plan, torch.Generator().manual_seed(0)
        )
        ratios = changed.mean(dim=(1, 2)) / image.mean(dim=(1, 2))
        assert len({round(ratio, 3) for ratio in ratios.tolist()}) == 3

    @pytest.mark.parametrize(
        ("seed", "expected"),
        [
            (0, (Window(6, 22, 28, 28), (24, 24), 0, True)),
            (1, (Window(4, 6, 35, 35), (24, 24), 1, False)),
            (2, (Window(12, 14, 20, 20), (24, 24), 2, True)),
        ],
    )
    def test_draws_are_those_of_earlier_versions(self, seed, expected):
        """Or a resumed run would see other crops."""
        settings = Augmentation(24, "dihedral", scale_jitter=0.5, intensity_jitter=0.2)
        layers = InstanceLayers(torch.ones(1, 40, 56, dtype=torch.int32))
        draw = draw_augmentation(settings, layers, torch.Generator().manual_seed(seed))
        assert (draw.window, draw.size, draw.num_turns, draw.is_mirrored) == expected

    def test_crops_of_half_and_twice_the_size(self):
        """Enlarging reads a smaller window; shrinking a larger one, which the image may end."""
        layers = InstanceLayers(torch.zeros(1, 100, 70, dtype=torch.int32))
        sides = []
        for seed in range(60):
            settings = Augmentation(40, scale_jitter=1.0)
            draw = draw_augmentation(settings, layers, torch.Generator().manual_seed(seed))
            factors = np.divide(draw.size, draw.window[2:])
            assert 0.5 <= factors.min() <= factors.max() <= 2
            assert factors.max() / factors.min() < 1.03
            assert draw.size == (40, 40) or (draw.window.width == 70 and draw.size[1] < 40)
            sides.append(draw.window.height)
        assert min(sides) < 25
        assert max(sides) > 75


class TestTouchingShare:
    def make_layers(self):
        """Two instances touch at row 60, column 91; a third is alone."""
        layers = torch.zeros(1, 100, 120, dtype=torch.int32)
        layers[0, 60, 90], layers[0, 60, 91], layers[0, 5, 5] = 3, 1, 2
        return InstanceLayers(layers)

    def list_windows(self, layers, share, number=200):
        settings = Augmentation(24, touching_share=share)
        return [
            draw_augmentation(settings, layers, torch.Generator().manual_seed(seed)).window for seed in range(number)
        ]

    def test_every_crop_holds_the_place(self):
        windows = self.list_windows(self.make_layers(), 1.0)
        places = [(60 - window.top, 91 - window.left) for window in windows]
        assert {window[2:] for window in windows} == {(24, 24)}
        assert 0 <= np.min(places) <= np.max(places) < 24 + 1
        rows, columns = ({place[axis] for place in places} for axis in (0, 1))
        assert len(rows) > 20
        assert len(columns) > 20

    def test_share(self):
        windows = self.list_windows(self.make_layers(), 0.5, 400)
        held = np.mean([60 in range(w.top, w.top + 24) and 90 in range(w.left, w.left + 25) for w in windows])
        assert 0.45 < held < 0.65

    def test_others_are_drawn_as_before(self):
        """So are all where no instances touch, or where the image is no larger than the crop."""
        alone = torch.zeros(1, 100, 120, dtype=torch.int32)
        alone[0, 60, 90] = alone[0, 70, 91] = 1
        assert self.list_windows(InstanceLayers(alone), 1.0) == self.list_windows(InstanceLayers(alone), 0.0)
        small = InstanceLayers(self.make_layers()[:, 50:70, 80:100])
        assert self.list_windows(small, 1.0) == self.list_windows(small, 0.0)

    def test_at_the_border(self):
        layers = torch.zeros(1, 100, 120, dtype=torch.int32)
        layers[0, 98], layers[0, 99] = 1, 2
        assert {window.top for window in self.list_windows(InstanceLayers(layers), 1.0)} <= set(range(75, 77))


class TestStainJitter:
    def change(self, image, is_object=None, strength=0.25, seed=0):
        layers = torch.zeros(1, *image.shape[1:], dtype=torch.int32)
        if is_object is not None:
            layers[0, is_object] = 1
        plan = make_plan(settings={"min_size": 0, "stain_jitter": strength})
        return augment(image, InstanceLayers(layers), plan, torch.Generator().manual_seed(seed))[0]

    def make_tissue(self, ground=(0.95, 0.85, 0.95), nucleus=(0.4, 0.2, 0.6)):
        image = torch.tensor(ground)[:, None, None].repeat(1, 20, 20)
        image[:, 5:15, 5:15] = torch.tensor(nucleus)[:, None, None]
        return image

    def test_stains_change_within_the_strength(self):
        image, found = self.make_tissue(), []
        for seed in range(30):
            changed = self.change(image, seed=seed)
            assert 0 <= changed.min() <= changed.max() <= 1
            assert torch.equal(changed, self.change(image, seed=seed))
            assert changed[:, 10, 10].mean() < changed[:, 0, 0].mean()  # nuclei stay the darker ones
            found.append((changed[:, 10, 10].log() / image[:, 10, 10].log()).tolist())
        ratios = np.array(found)
        assert 0.5 < ratios.min() < 0.9
        assert 1.1 < ratios.max() < 1.6
        assert np.ptp(ratios, axis=1).mean() > 0.05  # the colour changes, not the brightness alone

    def test_other_images_stay(self):
        grey = self.make_tissue((0.9, 0.9, 0.9), (0.2, 0.2, 0.2))
        dark = self.make_tissue((0.05, 0.02, 0.1), (0.9, 0.1, 0.6))
        assert torch.equal(self.change(grey), grey)
        assert torch.equal(self.change(dark), dark)
        assert torch.equal(self.change(self.make_tissue(), strength=0), self.make_tissue())

    def test_ground_is_what_no_instance_covers(self):
        image = self.make_tissue()
        everywhere = torch.ones(20, 20, dtype=torch.bool)
        assert torch.equal(self.change(image, everywhere), image)
        nucleus = image[0] < 0.5
        mostly = self.make_tissue((0.1, 0.05, 0.2), (0.95, 0.85, 0.95))
        assert not torch.equal(self.change(mostly, ~nucleus), mostly)
