import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manymask.core import ArraySource, Category, Dataset, InstanceLayers, Record, Sample
from manymask.core.dataset import DatasetWriter, Format

CATEGORIES = (Category(1, "round"), Category(4, "long"))
FORMAT = Format("test", "<name>.png", detect=list, read=list, name_instances=list, open_writer=DatasetWriter)


def read_record(record, categories):
    """A sample of as many one-pixel instances as the annotation says, labels taking turns."""
    ids = np.arange(1, record.annotation + 1).reshape(1, 1, -1)
    labels = np.arange(record.annotation, dtype=np.int64) % len(categories) + 1
    pixels = np.zeros((1, record.annotation, 3), dtype=np.uint8)
    layers, iscrowd = InstanceLayers(ids), labels == 2
    return Sample(record.image_id, record.name, record.path, ArraySource(pixels), layers, labels, iscrowd)


def make_dataset(*counts):
    records = tuple(Record(10 + i, f"image{i}", Path(f"image{i}.png"), count) for i, count in enumerate(counts))
    return Dataset(Path("root"), FORMAT, CATEGORIES, records, read_record)


def test_no_images():
    dataset = make_dataset()
    assert (len(dataset), list(dataset), len(dataset.subset([]))) == (0, [], 0)


@pytest.mark.parametrize("count", [0, 1, 300, 70_000])
def test_sample_to_instances(count):
    sample = make_dataset(count)[0]
    instances = sample.to_instances()
    assert len(instances) == count
    assert instances.size == (1, count)
    assert (instances.runs.areas == 1).all()
    np.testing.assert_array_equal(instances.labels, sample.labels)
    np.testing.assert_array_equal(instances.iscrowd, sample.iscrowd)


def test_sample_to_instances_drops_rows_without_pixels():
    layers = InstanceLayers(np.array([[[1, 3]]]))
    labels, iscrowd = np.array([2, 1, 1]), np.array([False, False, True])
    sample = Sample(1, "a", Path("a.png"), ArraySource(np.zeros((1, 2, 3), dtype=np.uint8)), layers, labels, iscrowd)
    instances = sample.to_instances()
    assert instances.runs.areas.tolist() == [1, 1]
    assert (instances.labels.tolist(), instances.iscrowd.tolist()) == ([2, 1], [False, True])


def test_slices_are_data_sets_and_indices_count_from_the_end_too():
    dataset = make_dataset(1, 2, 3, 4)
    assert isinstance(dataset[:2], Dataset)
    assert [sample.name for sample in dataset[1::2]] == ["image1", "image3"]
    assert dataset[-1].name == dataset[np.int64(3)].name == "image3"
    assert len(dataset[7:]) == 0
    with pytest.raises(IndexError):
        dataset[4]


def test_a_digest_knows_pixels_in_any_kind_of_file():
    sample = make_dataset(3)[0]
    grey = np.arange(12, dtype=np.uint16).reshape(3, 4, 1)

    def digest(pixels: np.ndarray) -> str:
        return replace(sample, name="x", image=ArraySource(pixels)).digest

    forms = [grey, grey.astype(">u2"), np.asfortranarray(grey), np.repeat(grey, 3, axis=2)]
    assert len({digest(form) for form in forms}) == 1
    assert len({digest(form) for form in (grey, grey + 1, grey.reshape(4, 3, 1), grey.astype(np.uint8))}) == 4


def test_iteration_reads_each_image_each_time():
    reads = []

    def read(record, categories):
        reads.append(record.name)
        return read_record(record, categories)

    dataset = Dataset(Path("root"), FORMAT, CATEGORIES, make_dataset(1, 2).records, read)
    assert reads == []
    assert [sample.name for sample in dataset] == [sample.name for sample in dataset] == ["image0", "image1"]
    assert reads == ["image0", "image1"] * 2


def test_indices():
    dataset = make_dataset(1, 2, 3)
    assert dataset[-1].name == "image2"
    with pytest.raises(IndexError):
        dataset[3]


def test_subset_keeps_order_and_everything_else():
    dataset = make_dataset(1, 2, 3)
    subset = dataset.subset([2, 0])
    assert [sample.image_id for sample in subset] == [12, 10]
    assert (subset.root, subset.format, subset.categories) == (dataset.root, FORMAT, CATEGORIES)
    assert len(dataset) == 3


def test_subset_of_images_that_do_not_exist():
    with pytest.raises(IndexError):
        make_dataset(1).subset([1])


def test_pickles():
    dataset = make_dataset(1, 2)
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_samples_pickle():
    sample = make_dataset(3)[0]
    other = pickle.loads(pickle.dumps(sample))
    assert type(other.layers) is InstanceLayers
    assert torch.equal(other.layers, sample.layers)
    np.testing.assert_array_equal(other.labels, sample.labels)


def test_loader_process_gives_samples():
    dataset: Any = make_dataset(2, 3)
    loader = torch.utils.data.DataLoader(dataset, num_workers=1, batch_size=None, timeout=20)
    assert [(sample.name, sample.layers.tolist()) for sample in loader] == [
        ("image0", [[[1, 2]]]),
        ("image1", [[[1, 2, 3]]]),
    ]
