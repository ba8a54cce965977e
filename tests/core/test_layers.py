import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from manymask.core import InstanceLayers, RunLengths, compact_layers, encode_layers, find_layers, paint_layers
from manymask.core.layers import assign_layers
from tests import dense, strategies

SIZE = (6, 5)


def make_layers(ids):
    """Layers of an array of ids."""
    return InstanceLayers(torch.as_tensor(np.asarray(ids, dtype=np.int32)))


def send(value):
    """A copy as another process gets it."""
    return pickle.loads(pickle.dumps(value))


def make_many(num_ids=70_000, size=(260, 280)):
    """One layer with an id in each of the first pixels."""
    ids = np.zeros(size[0] * size[1], dtype=np.int32)
    ids[:num_ids] = np.arange(1, num_ids + 1)
    return make_layers(ids.reshape(1, *size))


def assert_valid_packing(layers, masks):
    """Every id's pixels are in exactly one layer, and are its mask."""
    assert type(layers) is InstanceLayers
    assert layers.dtype == torch.int32
    stack = layers.numpy()
    assert len(stack) >= 1
    np.testing.assert_array_equal(dense.decode_layers(stack, len(masks)), masks)
    held = np.concatenate([np.unique(layer[layer != 0]) for layer in stack])
    assert sorted(held.tolist()) == (np.flatnonzero(dense.areas(masks)) + 1).tolist()


class TestInstanceLayers:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
    def test_whole_numbers_become_int32(self, dtype):
        layers = InstanceLayers(np.full((1, 2, 3), 200, dtype=dtype))
        assert (layers.dtype, tuple(layers.shape)) == (torch.int32, (1, 2, 3))
        assert (layers == 200).all()

    @pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 1, 2, 3)])
    def test_other_shapes(self, shape):
        with pytest.raises(ValueError, match="layers, height, width"):
            InstanceLayers(torch.zeros(shape, dtype=torch.int32))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool, torch.complex64])
    def test_other_types(self, dtype):
        with pytest.raises(ValueError, match=f"got {dtype}"):
            InstanceLayers(torch.zeros((1, 2, 3), dtype=dtype))

    @pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, send, InstanceLayers.clone])
    def test_copies(self, copied):
        layers = make_layers([[[0, 70_000, 2]]])
        other = copied(layers)
        assert type(other) is InstanceLayers
        assert torch.equal(other, layers)

    def test_can_be_printed(self):
        assert "70000" in repr(make_layers([[[0, 70_000, 2]]]))


class TestEncodeLayers:
    @pytest.mark.parametrize("num_layers", [0, 1, 3])
    def test_none(self, num_layers):
        dense.assert_same_runs(encode_layers(make_layers(np.zeros((num_layers, *SIZE))), 0), RunLengths.empty(SIZE))

    def test_ids_without_pixels(self):
        runs = encode_layers(make_layers([[[0, 2, 2]]]), 3)
        dense.assert_same_runs(runs, RunLengths((1, 3), 3, np.array([1]), np.array([1]), np.array([2])))

    def test_overlapping_and_at_the_border(self):
        masks = np.zeros((3, *SIZE), dtype=bool)
        masks[0, :, :3] = masks[1, :, 2:] = masks[2, 2:, :] = True
        dense.assert_same_runs(encode_layers(make_layers(dense.paint_layers(masks)), 3), dense.encode_runs(masks))

    def test_ids_that_touch_across_a_column_end(self):
        runs = encode_layers(make_layers([[[0, 2], [1, 0]]]), 2)
        dense.assert_same_runs(runs, RunLengths((2, 2), 2, np.array([0, 1]), np.array([1, 2]), np.array([1, 1])))

    def test_more_than_65535(self):
        runs = encode_layers(make_many(), 70_000)
        dense.assert_valid_runs(runs)
        x, y = runs.boxes[:, 0].astype(int), runs.boxes[:, 1].astype(int)
        np.testing.assert_array_equal(y * 280 + x, np.arange(70_000))

    def test_ids_above_the_number(self):
        with pytest.raises(ValueError, match="up to 2, got 3"):
            encode_layers(make_layers([[[3, 1, 0]]]), 2)

    def test_views_and_plain_tensors(self):
        ids = np.arange(24, dtype=np.int64).reshape(1, 4, 6)
        view = torch.from_numpy(ids)[:, ::2, 1::2].transpose(1, 2)
        expected = dense.encode_runs(dense.decode_layers(view.numpy(), 23))
        dense.assert_same_runs(encode_layers(view, 23), expected)

    @given(strategies.label_layers())
    def test_equals_dense(self, layers_and_number):
        layers, num_instances = layers_and_number
        expected = dense.encode_runs(dense.decode_layers(layers, num_instances))
        dense.assert_same_runs(encode_layers(make_layers(layers), num_instances), expected)


class TestPaintLayers:
    @pytest.mark.parametrize("num_instances", [0, 3])
    def test_none(self, num_instances):
        layers = paint_layers(RunLengths.empty(SIZE, num_instances))
        assert tuple(layers.shape) == (1, *SIZE)
        assert not layers.any()

    def test_one(self):
        assert_valid_packing(
            paint_layers(dense.encode_runs(np.eye(6, 5, dtype=bool)[None])), np.eye(6, 5, dtype=bool)[None]
        )

    def test_disjoint_masks_share_a_layer(self):
        masks = np.arange(30).reshape(1, 6, 5) == np.arange(30).reshape(30, 1, 1)
        layers = paint_layers(dense.encode_runs(masks))
        assert len(layers) == 1
        assert_valid_packing(layers, masks)

    def test_equal_masks_take_a_layer_each(self):
        layers = paint_layers(dense.encode_runs(np.ones((4, *SIZE), dtype=bool)))
        assert layers[:, 0, 0].tolist() == [1, 2, 3, 4]

    def test_first_free_layer_is_taken(self):
        masks = np.zeros((4, 1, 9), dtype=bool)
        masks[0, :, :3] = masks[1, :, 2:6] = masks[2, :, 5:] = masks[3, :, 7:] = True  # a chain, and one on its end
        layers = paint_layers(dense.encode_runs(masks))
        np.testing.assert_array_equal(layers.numpy(), dense.paint_layers(masks))
        assert len(layers) == 2

    def test_more_than_65535(self):
        layers = make_many()
        assert torch.equal(paint_layers(encode_layers(layers, 70_000)), layers)

    @given(strategies.stacks())
    def test_equals_dense(self, masks):
        runs = dense.encode_runs(masks)
        layers = paint_layers(runs)
        assert_valid_packing(layers, masks)
        np.testing.assert_array_equal(layers.numpy(), dense.paint_layers(masks))
        dense.assert_same_runs(encode_layers(layers, len(masks)), runs)


class TestCompactLayers:
    def test_none(self):
        layers, rows = compact_layers(make_layers(np.zeros((3, *SIZE))), 0)
        assert (tuple(layers.shape), rows.tolist()) == ((1, *SIZE), [])
        assert (type(layers), rows.dtype) == (InstanceLayers, torch.int64)

    def test_all_lost(self):
        layers, rows = compact_layers(make_layers(np.zeros((2, *SIZE))), 4)
        assert (tuple(layers.shape), rows.tolist()) == ((1, *SIZE), [])

    def test_gaps_close_and_order_stays(self):
        layers, rows = compact_layers(make_layers([[[5, 0, 2]], [[0, 0, 0]], [[0, 4, 0]]]), 6)
        assert layers.tolist() == [[[3, 0, 1]], [[0, 2, 0]]]
        assert rows.tolist() == [1, 3, 4]

    @pytest.mark.parametrize(
        ("min_area", "ids", "kept"),
        [
            (-1, [1, 2, 2, 2, 0], [0, 1]),
            (0, [1, 2, 2, 2, 0], [0, 1]),
            (1, [1, 2, 2, 2, 0], [0, 1]),
            (2, [0, 1, 1, 1, 0], [1]),
            (3, [0, 1, 1, 1, 0], [1]),
            (4, [0, 0, 0, 0, 0], []),
        ],
    )
    def test_min_area(self, min_area, ids, kept):
        layers, rows = compact_layers(make_layers([[[1, 2, 2, 2, 0]]]), 3, min_area)
        assert (layers.tolist(), rows.tolist()) == ([[ids]], kept)

    def test_more_than_65535(self):
        layers, rows = compact_layers(make_many(), 72_000)
        assert torch.equal(layers, make_many())
        assert rows.tolist() == list(range(70_000))

    def test_does_not_change_its_argument(self):
        layers = make_layers([[[3, 1, 1]]])
        compacted, _ = compact_layers(layers, 3)
        compacted[:] = 9
        full, _ = compact_layers(whole := make_layers([[[2, 1]]]), 2)
        full[:] = 9
        assert (layers.tolist(), whole.tolist()) == ([[[3, 1, 1]]], [[[2, 1]]])

    @given(strategies.label_layers(), st.integers(0, 6))
    def test_equals_dense(self, layers_and_number, min_area):
        layers, num_instances = layers_and_number
        masks = dense.decode_layers(layers, num_instances)
        expected_rows = np.flatnonzero(dense.areas(masks) >= max(min_area, 1))
        compacted, rows = compact_layers(make_layers(layers), num_instances, min_area)
        assert rows.tolist() == expected_rows.tolist()
        assert_valid_packing(compacted, masks[expected_rows])
        assert compacted.max() == len(rows)
        assert len(rows) == 0 or compacted.flatten(1).any(dim=1).all()


class TestFindLayers:
    def test_none(self):
        assert find_layers(make_layers(np.zeros((2, *SIZE))), 0).tolist() == []

    def test_ids_in_many_layers(self):
        found = find_layers(make_layers([[[1, 0, 0]], [[4, 0, 0]], [[0, 2, 5]]]), 6)
        assert (found.tolist(), found.dtype) == ([0, 2, 0, 1, 2, 0], torch.int64)

    def test_more_than_65535(self):
        layers = torch.cat([torch.zeros(1, 260, 280, dtype=torch.int32), make_many().as_subclass(torch.Tensor)])
        assert (find_layers(InstanceLayers(layers), 70_000) == 1).all()

    @given(strategies.label_layers())
    def test_equals_dense(self, layers_and_number):
        layers, num_instances = layers_and_number
        has_id = np.stack([(layers == id_).any(axis=(1, 2)) for id_ in range(1, num_instances + 2)])[:-1]
        assert find_layers(make_layers(layers), num_instances).tolist() == has_id.argmax(axis=1).tolist()


TRANSFORMS = [
    v2.RandomHorizontalFlip(p=1),
    v2.RandomVerticalFlip(p=1),
    v2.RandomRotation([-30, 30]),
    v2.RandomRotation((90, 90), expand=True),
    v2.RandomAffine([-20, 20], translate=(0.1, 0.1), scale=(0.8, 1.3), shear=10),
    v2.RandomCrop((15, 20)),
    v2.CenterCrop((40, 50)),
    v2.Pad(3),
    v2.RandomResizedCrop((25, 25), interpolation=v2.InterpolationMode.NEAREST_EXACT),
    v2.Resize((17, 60), interpolation=v2.InterpolationMode.NEAREST_EXACT),
    v2.RandomPerspective(p=1),
    v2.ElasticTransform(),
]


class TestTransforms:
    IDS = (1, 255, 256, 257, 65_535, 65_536, 65_537, 2**24 - 1)

    def make_pair(self):
        """An image whose pixels tell which id they hold, and two layers of large ids in wide blocks."""
        ids = np.zeros((2, 32, 40), dtype=np.int32)
        ids[0] = np.repeat(np.repeat(np.array(self.IDS).reshape(2, 4), 16, axis=0), 10, axis=1)
        ids[1, 10:20, 10:30] = 3
        return tv_tensors.Image(torch.zeros(3, 32, 40)), make_layers(ids)

    @pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
    def test_ids_survive_beside_an_image(self, transform):
        torch.manual_seed(0)
        image, layers = self.make_pair()
        target = {"layers": layers, "labels": torch.ones(3)}
        new_image, new_target = transform(image, target)
        new_layers = new_target["layers"]
        assert (type(new_layers), new_layers.dtype) == (InstanceLayers, torch.int32)
        assert new_layers.shape[1:] == new_image.shape[1:]
        assert set(new_layers[0].unique().tolist()) <= {0, *self.IDS}
        assert set(new_layers[1].unique().tolist()) <= {0, 3}
        assert len(new_layers[0].unique()) >= 3

    def test_flip_equals_dense(self):
        layers = make_many()
        flipped = v2.functional.horizontal_flip(layers)
        assert torch.equal(flipped.as_subclass(torch.Tensor), layers.as_subclass(torch.Tensor).flip(2))

    def test_flip_keeps_more_than_65535_ids(self):
        flipped, rows = compact_layers(v2.RandomVerticalFlip(p=1)(make_many()), 70_000)
        assert len(rows) == 70_000
        assert (encode_layers(flipped, 70_000).areas == 1).all()

    @pytest.mark.parametrize(
        ("old", "new"), [((4, 6), (8, 18)), ((9, 8), (3, 2)), ((5, 7), (3, 11)), ((33, 40), (50, 20))]
    )
    def test_resize_is_on_the_grid_of_the_image(self, old, new):
        layers = make_many(old[0] * old[1], old)
        resized = v2.functional.resize(layers, list(new), interpolation=v2.InterpolationMode.NEAREST_EXACT)
        rows, columns = ((2 * np.arange(n) + 1) * o // (2 * n) for o, n in zip(old, new, strict=True))
        np.testing.assert_array_equal(resized.numpy(), layers.numpy()[:, rows][:, :, columns])

    @given(strategies.label_layers(), strategies.sizes(25))
    def test_resize_equals_dense(self, layers_and_number, size):
        layers, num_instances = layers_and_number
        resized = v2.functional.resize(make_layers(layers), list(size), v2.InterpolationMode.NEAREST_EXACT)
        masks = torch.from_numpy(dense.decode_layers(layers, num_instances)).float()[None]
        expected = torch.nn.functional.interpolate(masks, size, mode="nearest-exact")[0] if num_instances else masks[0]
        found = dense.decode_layers(resized.numpy(), num_instances)
        np.testing.assert_array_equal(found, expected.bool().numpy().reshape(found.shape))


@given(strategies.stacks(max_instances=8), st.data())
def test_given_layers_stay_and_others_find_room(masks, data):
    runs = dense.encode_runs(masks)
    num_given = data.draw(st.integers(0, len(masks)))
    alone = assign_layers(runs.select(np.arange(num_given)))
    layers = assign_layers(runs, alone + 2)
    assert layers[:num_given].tolist() == (alone + 2).tolist()
    for layer in np.unique(layers):
        assert (masks[layers == layer].sum(axis=0) <= 1).all()
