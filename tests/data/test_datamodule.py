import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manymask.core import Category, Dataset, InstanceLayers, Record, Sample
from manymask.data.datamodule import InstanceDataModule, collate, ignore_interrupt
from manymask.planning import make_plan


def read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    """An image that is as high as its number, with one instance."""
    height = record.image_id
    pixels = np.full((height, 4, 3), record.image_id, dtype=np.uint8)
    layers = InstanceLayers(torch.ones(1, height, 4, dtype=torch.int32))
    none = np.zeros(1, dtype=bool)
    return Sample(record.image_id, record.name, record.path, pixels, layers, np.array([1]), none)


def make_datamodule(num_train=7, num_val=2, **settings):
    records = tuple(Record(number, f"{number:03d}", Path(), None) for number in range(1, num_train + num_val + 1))
    dataset = Dataset(Path(), "test", (Category(1, "object"),), records, read_record)
    indices = range(len(dataset))
    plan = make_plan(settings={"num_workers": 0} | settings)
    return InstanceDataModule(dataset.subset(indices[:num_train]), dataset.subset(indices[num_train:]), plan)


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


class TestLoaders:
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
