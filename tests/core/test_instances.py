import dataclasses
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manymask.core import (
    InstanceLayers,
    Instances,
    RunLengths,
    concatenate_instances,
    decode_coco_rle,
    encode_coco_rle,
    encode_crops,
    encode_layers,
    paint_layers,
)
from tests import dense, strategies

SIZE = (6, 5)
FIELDS = ("labels", "scores", "boxes", "iscrowd")


def make_instances(masks):
    """Instances whose every field tells its row."""
    rows = np.arange(len(masks))
    return Instances.from_runs(
        dense.encode_runs(masks),
        rows + 1,
        scores=(rows / 100).astype(np.float32),
        boxes=np.repeat(rows, 4).reshape(-1, 4).astype(np.float32),
        iscrowd=rows % 2 == 1,
    )


def assert_same_instances(found, expected):
    dense.assert_same_runs(found.runs, expected.runs)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name, strict=True)


class TestMaking:
    def test_none(self):
        instances = Instances.from_runs(RunLengths.empty(SIZE), np.zeros(0, dtype=np.int64))
        assert (len(instances), instances.size) == (0, SIZE)
        assert [getattr(instances, name).shape for name in FIELDS] == [(0,), (0,), (0, 4), (0,)]
        assert instances.to_masks().shape == (0, *SIZE)
        assert tuple(instances.to_layers().shape) == (1, *SIZE)

    def test_defaults(self):
        masks = np.zeros((2, *SIZE), dtype=bool)
        masks[0, 5, 4] = True
        instances = Instances.from_runs(dense.encode_runs(masks), np.array([3, 1], dtype=np.uint8))
        assert instances.labels.tolist() == [3, 1]
        assert instances.scores.tolist() == [1, 1]
        assert instances.boxes.tolist() == [[4, 5, 5, 6], [0, 0, 0, 0]]
        assert instances.iscrowd.tolist() == [False, False]
        dtypes = [getattr(instances, name).dtype for name in FIELDS]
        assert dtypes == [np.dtype(t) for t in (np.int64, np.float32, np.float32, bool)]

    def test_fields_of_different_lengths(self):
        fields = make_instances(np.ones((3, *SIZE), dtype=bool))
        with pytest.raises(ValueError, match="equal length"):
            Instances(RunLengths.empty(SIZE, 2), fields.labels, fields.scores, fields.boxes, fields.iscrowd)

    def test_from_layers_with_crowd_and_a_lost_id(self):
        layers = InstanceLayers(np.array([[[1, 1, 0, 3]]]))
        instances = Instances.from_layers(layers, np.array([1, 2, 1]), np.array([False, True, True]))
        assert instances.runs.areas.tolist() == [2, 0, 1]
        assert instances.iscrowd.tolist() == [False, True, True]

    def test_more_than_65535(self):
        ids = np.arange(1, 70_001).reshape(1, 250, 280)
        instances = Instances.from_layers(InstanceLayers(ids), np.ones(70_000, dtype=np.int64))
        assert len(instances) == 70_000
        np.testing.assert_array_equal(instances.to_layers().numpy(), ids)

    @given(strategies.stacks())
    def test_masks_round_trip(self, masks):
        instances = Instances.from_masks(masks, np.ones(len(masks), dtype=np.int64))
        dense.assert_same_runs(instances.runs, dense.encode_runs(masks))
        np.testing.assert_array_equal(instances.to_masks(), masks, strict=True)

    @pytest.mark.parametrize("scale", [1, 255, -0.5])
    def test_from_masks_of_other_types(self, scale):
        masks = np.stack([np.eye(6, 5, k=k, dtype=bool) for k in range(2)])
        instances = Instances.from_masks((masks * scale).tolist(), [3, 1])
        np.testing.assert_array_equal(instances.to_masks(), masks)
        assert instances.labels.tolist() == [3, 1]

    def test_from_masks_of_none(self):
        assert Instances.from_masks(np.zeros((0, *SIZE)), []).size == SIZE

    @pytest.mark.parametrize(
        ("shape", "labels", "message"),
        [
            (SIZE, [1], r"\(instances, height, width\), got \(6, 5\)"),
            ((2, *SIZE), [1, 0], "whole numbers from 1 .*0 is background"),
            ((2, *SIZE), [1.0, 2.0], "whole numbers from 1"),
            ((2, *SIZE), [[1], [2]], r"labels of shape \(2,\)"),
            ((2, *SIZE), [1], r"labels of shape \(2,\)"),
        ],
    )
    def test_bad_masks_or_labels_are_refused(self, shape, labels, message):
        with pytest.raises(ValueError, match=message):
            Instances.from_masks(np.ones(shape, dtype=bool), labels)

    @given(strategies.stacks())
    def test_layers_round_trip(self, masks):
        instances = Instances.from_masks(masks, np.ones(len(masks), dtype=np.int64))
        assert_same_instances(Instances.from_layers(instances.to_layers(), instances.labels), instances)


class TestRows:
    @pytest.mark.parametrize(
        "rows", [slice(None), slice(1, None), slice(None, None, -1), slice(-2, None), slice(9, 12)]
    )
    def test_slices(self, rows):
        instances = make_instances(np.stack([np.eye(6, 5, k=k, dtype=bool) for k in range(4)]))
        assert_same_instances(instances[rows], instances[np.arange(4)[rows]])

    @pytest.mark.parametrize("row", [0, 3, -1, np.int64(2)])
    def test_an_index_gives_one_row(self, row):
        instances = make_instances(np.stack([np.eye(6, 5, k=k, dtype=bool) for k in range(4)]))
        assert_same_instances(instances[row], instances[np.array([row])])

    @pytest.mark.parametrize("row", [4, -5])
    def test_no_such_row(self, row):
        with pytest.raises(IndexError):
            make_instances(np.ones((4, *SIZE), dtype=bool))[row]

    @pytest.mark.parametrize("rows", [[], [2, 0, 0], [True, False, False, True]])
    def test_lists(self, rows):
        instances = make_instances(np.ones((4, *SIZE), dtype=bool))
        assert_same_instances(instances[rows], instances[np.arange(4)[rows]])

    def test_iteration_gives_rows(self):
        instances = make_instances(np.ones((3, *SIZE), dtype=bool))
        assert [row.labels.tolist() for row in instances] == [[1], [2], [3]]

    @pytest.mark.parametrize("flags", [np.array([True]), np.array([True] * 5)])
    def test_wrong_number_of_flags(self, flags):
        with pytest.raises(IndexError):
            make_instances(np.ones((4, *SIZE), dtype=bool))[flags]

    @given(strategies.stacks(min_instances=1), st.data())
    def test_equal_dense(self, masks, data):
        rows = np.array(data.draw(st.lists(st.integers(-len(masks), len(masks) - 1))), dtype=np.int64)
        instances = make_instances(masks)
        selected = instances[rows]
        np.testing.assert_array_equal(selected.to_masks(), dense.select(masks, rows))
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(selected, name), getattr(instances, name)[rows], strict=True)

    @given(strategies.stacks(), st.data())
    def test_flags(self, masks, data):
        flags = np.array(data.draw(st.lists(st.booleans(), min_size=len(masks), max_size=len(masks))), dtype=bool)
        instances = make_instances(masks)
        assert_same_instances(instances[flags], instances[np.flatnonzero(flags)])


class TestRelabel:
    def test_none(self):
        instances = make_instances(np.zeros((0, *SIZE), dtype=bool))
        assert_same_instances(instances.relabel(np.zeros(0, dtype=np.int64)), instances)

    def test_only_labels_change(self):
        instances = make_instances(np.ones((3, *SIZE), dtype=bool))
        relabelled = instances.relabel(np.array([0, 7, 7, 2]))
        assert relabelled.labels.tolist() == [7, 7, 2]
        assert instances.labels.tolist() == [1, 2, 3]
        assert_same_instances(dataclasses.replace(relabelled, labels=instances.labels), instances)


class TestConcatenate:
    def test_no_parts(self):
        with pytest.raises(ValueError, match="one size"):
            concatenate_instances([])

    def test_different_sizes(self):
        with pytest.raises(ValueError, match="one size"):
            concatenate_instances([make_instances(np.ones((1, 6, 5), bool)), make_instances(np.ones((1, 5, 6), bool))])

    @given(strategies.stacks(), st.data())
    def test_undoes_splitting(self, masks, data):
        instances = make_instances(masks)
        place = data.draw(st.integers(0, len(masks)))
        assert_same_instances(concatenate_instances([instances[:place], instances[place:]]), instances)


class TestCost:
    """2,000 instances in 2048 x 2048; a dense stack would take 8 GiB."""

    SIZE = (2048, 2048)
    MAX_MIB = 250
    MAX_SECONDS = 10  # about 0.5 on two cores; the limit leaves room for a busy machine

    @pytest.fixture(autouse=True)
    def limits(self):
        tracemalloc.start()
        begin = time.perf_counter()
        yield
        seconds = time.perf_counter() - begin
        peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        assert peak_mib < self.MAX_MIB
        assert seconds < self.MAX_SECONDS

    def test_label_image_to_rle_and_back(self):
        y, x = np.mgrid[:2048, :2048].astype(np.int32) // 45
        ids = np.where((y < 45) & (x < 45), y * 45 + x + 1, 0).astype(np.int32)[None]
        ids[:, ::45] = ids[:, :, ::45] = 0
        runs = encode_layers(InstanceLayers(ids), 2025)
        decoded = decode_coco_rle(encode_coco_rle(runs), self.SIZE)
        dense.assert_same_runs(decoded, runs)
        np.testing.assert_array_equal(paint_layers(decoded).numpy(), ids)

    def test_overlapping_discs(self):
        y, x = np.mgrid[:61, :61]
        disc = (y - 30) ** 2 + (x - 30) ** 2 <= 30**2
        runs = encode_crops(((44 * (i % 45), 44 * (i // 45), disc) for i in range(2000)), self.SIZE)
        layers = paint_layers(runs)
        assert 2 <= len(layers) <= 4
        dense.assert_same_runs(encode_layers(layers, 2000), runs)
        dense.assert_same_runs(decode_coco_rle(encode_coco_rle(runs), self.SIZE), runs)

    def test_large_crops(self):
        crop = np.eye(1024, dtype=bool)
        runs = encode_crops(((i, i, crop) for i in range(200)), self.SIZE)
        assert (runs.areas == 1024).all()


@given(strategies.stacks(), st.integers(1, 20))
def test_parts_together_are_the_whole(masks, num_runs):
    instances = make_instances(masks)
    assert_same_instances(concatenate_instances(list(instances.split(num_runs))), instances)
