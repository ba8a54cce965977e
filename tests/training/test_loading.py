import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st

from manymask.core import ArraySource, Category, Dataset, InstanceLayers, Record, Sample
from manymask.formats.datasets import FORMATS
from manymask.imaging import open_image, tiff_layout
from manymask.plan import make_plan
from manymask.training.loading import InstanceDataModule, collate, ignore_interrupt


def read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    """An image that is as high as its number, with one instance."""
    height = record.image_id
    pixels = np.full((height, 4, 3), record.image_id, dtype=np.uint8)
    layers = InstanceLayers(torch.ones(1, height, 4, dtype=torch.int32))
    none = np.zeros(1, dtype=bool)
    return Sample(record.image_id, record.name, record.path, ArraySource(pixels), layers, np.array([1]), none)


def make_datamodule(num_train=7, num_val=2, weights=None, **settings):
    records = tuple(Record(number, f"{number:03d}", Path(), None) for number in range(1, num_train + num_val + 1))
    dataset = Dataset(Path(), FORMATS["label_images"], (Category(1, "object"),), records, read_record)
    indices = range(len(dataset))
    plan = make_plan(settings={"num_workers": 0, "min_size": 0} | settings)
    train, val = dataset.subset(indices[:num_train]), dataset.subset(indices[num_train:])
    return InstanceDataModule(train, val, plan, weights=weights)


def list_all(datamodule):
    return [datamodule.list_batches(epoch) for epoch in range(datamodule.num_epochs)]


class TestSizes:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"batch_size": 2, "epochs": 3}, (4, 12, 3)),
            ({"batch_size": 7, "epochs": 3}, (1, 3, 3)),
            ({"batch_size": 1, "accumulate": 4, "epochs": 3}, (2, 6, 3)),
            ({"batch_size": 2, "epochs": 3, "max_steps": 5}, (4, 5, 2)),
            ({"batch_size": 2, "epochs": 3, "max_steps": 4}, (4, 4, 1)),
            ({"batch_size": 2, "epochs": 3, "max_steps": 99}, (4, 12, 3)),
            ({"epoch_steps": 5, "epochs": 3}, (5, 15, 3)),
            ({"epoch_steps": 5, "epochs": 3, "max_steps": 7}, (5, 7, 2)),
            ({"epoch_steps": 5, "epochs": 3, "max_steps": 99}, (5, 15, 3)),
        ],
    )
    def test_sizes(self, settings, expected):
        datamodule = make_datamodule(**settings)
        assert (datamodule.steps_per_epoch, datamodule.total_steps, datamodule.num_epochs) == expected


class TestListBatches:
    def test_function_of_seed_and_epoch(self):
        settings = {"epochs": 3, "num_workers": 2}
        assert list_all(make_datamodule(**settings)) == list_all(make_datamodule(epochs=3))
        first, second, third = list_all(make_datamodule(epochs=3))
        assert first != second != third
        assert list_all(make_datamodule(epochs=3, seed=1))[0] != first

    def test_does_not_touch_the_global_generator(self):
        state = torch.get_rng_state()
        make_datamodule().list_batches(0)
        assert torch.equal(torch.get_rng_state(), state)

    def test_last_epoch_ends_where_the_steps_do(self):
        datamodule = make_datamodule(batch_size=1, accumulate=2, max_steps=5)
        assert [len(datamodule.list_batches(epoch)) for epoch in range(4)] == [7, 2, 0, 0]
        assert datamodule.list_batches(1) == make_datamodule(batch_size=1).list_batches(1)[:2]

    @given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 5), st.integers(0, 5), st.none() | st.integers(1, 40))
    def test_properties(self, num_train, batch_size, accumulate, seed, max_steps):
        datamodule = make_datamodule(
            num_train, batch_size=batch_size, accumulate=accumulate, seed=seed, max_steps=max_steps, epochs=3
        )
        *epochs, last = list_all(datamodule)
        for batches in epochs:
            assert sorted(index for batch in batches for index, _ in batch) == list(range(num_train))
        assert all(0 < len(batch) <= batch_size for batches in [*epochs, last] for batch in batches)
        num_steps = sum(-(-len(batches) // accumulate) for batches in [*epochs, last])
        assert num_steps == datamodule.total_steps


def list_draws(batches):
    return [draw for batch in batches for draw in batch]


class TestEpochSteps:
    @given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(0, 3))
    def test_epochs_are_one_stream_of_whole_passes(self, num_train, batch_size, accumulate, epoch_steps, seed):
        settings = {"batch_size": batch_size, "accumulate": accumulate, "epoch_steps": epoch_steps, "seed": seed}
        epochs = list_all(make_datamodule(num_train, epochs=4, **settings))
        assert all(len(batches) == epoch_steps * accumulate for batches in epochs)
        assert {len(batch) for batches in epochs for batch in batches} == {batch_size}
        draws = [draw for batches in epochs for draw in list_draws(batches)]
        assert [place for _, place in draws] == list(range(4 * epoch_steps * accumulate * batch_size))
        for first in range(0, len(draws), num_train):
            indices = [index for index, _ in draws[first : first + num_train]]
            assert len(set(indices)) == len(indices)
            assert set(indices) <= set(range(num_train))

    def test_max_steps_ends_inside_an_epoch(self):
        datamodule = make_datamodule(epoch_steps=5, epochs=9, max_steps=7)
        assert [len(batches) for batches in list_all(datamodule)] == [5, 2]
        assert datamodule.list_batches(1) == make_datamodule(epoch_steps=5).list_batches(1)[:2]
        assert datamodule.list_batches(2) == []

    def test_steps_are_the_same_whatever_the_epochs(self):
        """With a time budget the epochs have other lengths, but the run sees the same images."""
        datamodule = make_datamodule(epoch_steps=4, epochs=3)
        expected = [batch for batches in list_all(datamodule) for batch in batches]
        assert datamodule.list_steps(0, 12) == expected
        assert [*datamodule.list_steps(0, 5), *datamodule.list_steps(5, 6), *datamodule.list_steps(6, 12)] == expected

    def test_steps_of_whole_passes_are_those_of_epochs(self):
        datamodule = make_datamodule(num_train=6, epochs=3)
        assert datamodule.list_steps(3, 6) == datamodule.list_batches(1)

    def test_first_pass_is_the_first_epoch(self):
        """What a recipe with and without ``epoch_steps`` sees."""
        assert make_datamodule(6, epoch_steps=3).list_batches(0) == make_datamodule(6).list_batches(0)


class TestWeights:
    def count(self, datamodule, num_passes):
        """How often each image is drawn in each pass."""
        num_train = len(datamodule.train_images)
        draws = [index for index, _ in list_draws(datamodule.list_steps(0, num_passes * num_train))]
        passes = np.array(draws).reshape(num_passes, num_train)
        return np.stack([np.bincount(own, minlength=num_train) for own in passes])

    def test_every_pass_is_as_near_as_whole_numbers_are(self):
        weights = np.array([1, 1, 2, 4, 0.5, 1, 0.5])
        counts = self.count(make_datamodule(weights=weights.tolist(), batch_size=1), 300)
        expected = 7 * weights / weights.sum()
        assert (counts >= np.floor(expected)).all()
        assert (counts <= np.ceil(expected)).all()
        np.testing.assert_allclose(counts.mean(axis=0), expected, atol=0.1)

    def test_equal_weights_draw_each_image_once(self):
        assert (self.count(make_datamodule(weights=[3.0] * 7, batch_size=1), 20) == 1).all()

    def test_draws_of_an_image_are_not_beside_each_other(self):
        datamodule = make_datamodule(20, weights=[10.0] + [1.0] * 19, batch_size=1)
        orders = [[index for index, _ in list_draws(datamodule.list_steps(20 * n, 20 * n + 20))] for n in range(30)]
        places = [[place for place, index in enumerate(order) if index == 0] for order in orders]
        assert any(own[-1] - own[0] >= len(own) for own in places)
        assert len({tuple(own) for own in places}) > 20

    def test_function_of_seed_and_place(self):
        settings = {"weights": [1.0, 2.0, 3.0], "num_train": 3, "epoch_steps": 5, "epochs": 2}
        first = list_all(make_datamodule(**settings))
        assert list_all(make_datamodule(num_workers=2, **settings)) == first
        assert make_datamodule(**settings).list_batches(1) == first[1]
        assert list_all(make_datamodule(seed=1, **settings)) != first


class TestLoaders:
    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_crops_and_turns_do_not_hang_on_the_workers(self, num_workers):
        settings = {"crop_size": 2, "augmentation": "dihedral", "epoch_steps": 6, "normalization": "type"}
        batches = [list(make_datamodule(num_workers=n, **settings).train_dataloader()) for n in (0, num_workers)]
        for (images, targets, names), (other_images, other_targets, other_names) in zip(*batches, strict=True):
            assert names == other_names
            assert all(torch.equal(a, b) for a, b in zip(images, other_images, strict=True))
            assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(targets, other_targets, strict=True))

    def test_an_image_is_turned_in_another_way_at_each_draw(self):
        datamodule = make_datamodule(num_train=1, augmentation="dihedral")
        image = ArraySource(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
        sample = replace(datamodule.train_images.dataset[0], image=image)
        sample = replace(sample, layers=InstanceLayers(torch.ones(1, 2, 2, dtype=torch.int32)))
        datamodule.train_images.dataset = [sample]
        images = [datamodule.train_images[0, place][0] for place in range(40)]
        assert len({tuple(image.flatten().tolist()) for image in images}) == 8
        assert torch.equal(datamodule.train_images[0, 7][0], images[7])

    def test_of_a_tiled_file_only_the_crop_is_decoded(self, tmp_path, monkeypatch):
        pixels = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3)).astype(np.uint8)
        tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), compression="zlib")
        datamodule = make_datamodule(num_train=1, normalization="type", crop_size=64, augmentation="none")
        layers = InstanceLayers(torch.ones(1, 1024, 1024, dtype=torch.int32))
        sample = replace(datamodule.train_images.dataset[0], image=open_image(tmp_path / "a.tif"), layers=layers)
        datamodule.train_images.dataset = [sample]
        num_read = []
        read = tiff_layout._read_part
        monkeypatch.setattr(tiff_layout, "_read_part", lambda *args: num_read.append(1) or read(*args))
        image, target, _ = datamodule.train_images[0, 3]
        assert (image.shape, target["boxes"].tolist()) == ((3, 64, 64), [[0, 0, 64, 64]])
        assert len(num_read) <= 4  # of 256 tiles
        windows = np.lib.stride_tricks.sliding_window_view(pixels[..., 0], (64, 64))
        corner = np.round(image[0, :4, :4].numpy() * 255).astype(np.uint8)
        places = np.argwhere((windows[:, :, :4, :4] == corner).all(axis=(2, 3)))
        assert len(places) == 1

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_train(self, num_workers):
        datamodule = make_datamodule(num_workers=num_workers)
        batches = list(datamodule.train_dataloader())
        for (images, targets, names), draws in zip(batches, datamodule.list_batches(0), strict=True):
            indices = [index for index, _ in draws]
            assert names == [f"{index + 1:03d}" for index in indices]
            assert [tuple(image.shape) for image in images] == [(3, index + 1, 4) for index in indices]
            assert [target["boxes"].tolist() for target in targets] == [[[0, 0, 4, index + 1]] for index in indices]

    @pytest.mark.parametrize("pin_memory", [True, False])
    def test_pin_memory_follows_the_device_of_the_run(self, pin_memory):
        made = make_datamodule()
        datamodule = InstanceDataModule(
            made.train_images.dataset, made.val_images.dataset, made.plan, pin_memory=pin_memory
        )
        assert datamodule.train_dataloader().pin_memory == datamodule.val_dataloader().pin_memory == pin_memory

    def test_val_goes_one_by_one_in_order(self):
        batches = list(make_datamodule(num_train=3, num_val=3).val_dataloader())
        assert [image_ids for _, _, image_ids in batches] == [[4], [5], [6]]
        assert [truth[0].size for _, truth, _ in batches] == [(4, 4), (5, 4), (6, 4)]


def test_collate_keeps_lists():
    assert collate([(1, "a"), (2, "b")]) == ([1, 2], ["a", "b"])


def test_loaders_ignore_interrupts_but_can_be_ended():
    interrupt, terminate = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        ignore_interrupt(0)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == terminate  # a loader that ignored it would be waited for for ever
    finally:
        signal.signal(signal.SIGINT, interrupt)
