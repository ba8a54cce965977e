import numpy as np
import pytest

from manymask.errors import DatasetError, FormatError
from manymask.formats import read_dataset
from manymask.formats.datasets import FORMATS, open_dataset
from manymask.formats.ome_zarr import read_ome_zarr
from tests.formats.format_files import make_ids, make_pixels, write_array

zarr = pytest.importorskip("zarr")

from tests.imaging.test_ome_zarr import write_group, write_image  # noqa: E402 - needs zarr

PIXELS = make_pixels(60, 80)
IDS = make_ids((0, 0, 20, 20), (30, 30, 60, 80), size=(60, 80))
NUCLEI = make_ids((5, 5, 9, 9), size=(60, 80))


def write_labelled(path, version="0.5", **labels):
    write_image(path, PIXELS.transpose(2, 0, 1), "cyx", version)
    group = zarr.open_group(path, mode="a")
    parent = group.create_group("labels")
    content = {"labels": list(labels)}
    parent.attrs.update({"ome": content} if version == "0.5" else content)
    for name, ids in labels.items():
        write_group(parent.create_group(name), ids.astype("uint32"), "yx", version)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(("name", "category"), [("nuclei", "nuclei"), ("0", "object")])
def test_one_class(tmp_path, version, name, category):
    for stem in "ab":
        write_labelled(tmp_path / f"{stem}.zarr", version, **{name: IDS})
    dataset = read_dataset(tmp_path)
    assert (dataset.format.name, dataset.problems) == ("ome_zarr", ())
    assert [record.name for record in dataset.records] == ["a", "b"]
    assert [each.name for each in dataset.categories] == [category]
    np.testing.assert_array_equal(dataset[0].pixels, PIXELS)
    np.testing.assert_array_equal(dataset[0].layers[0], IDS)
    assert dataset.format.name_instances(dataset.records[1]) == [f"id 1 of {name}", f"id 2 of {name}"]
    assert len(read_dataset(tmp_path / "a.zarr")) == 1


def test_names_of_labels_are_classes_that_may_overlap(tmp_path):
    write_labelled(tmp_path / "a.zarr", cells=IDS, nuclei=NUCLEI)
    write_labelled(tmp_path / "b.zarr", nuclei=NUCLEI)
    dataset = read_ome_zarr(str(tmp_path))
    assert [each.name for each in dataset.categories] == ["cells", "nuclei"]
    first, second = dataset
    assert first.to_instances().labels.tolist() == [1, 1, 2]
    assert first.to_instances().runs.areas.tolist() == [400, 1500, 16]
    assert second.to_instances().labels.tolist() == [2]


def test_what_cannot_be_read_is_named(tmp_path):
    write_labelled(tmp_path / "a.zarr", cells=IDS)
    write_labelled(tmp_path / "b.zarr", cells=IDS[:30, :40])
    write_labelled(tmp_path / "c.zarr", cells=np.full((60, 80), 0.5))
    write_image(tmp_path / "d.zarr", PIXELS.transpose(2, 0, 1), "cyx")
    dataset = open_dataset(tmp_path)
    (problem,) = dataset.problems
    assert (problem.kind, problem.image) == ("incomplete-image", "d")
    assert "d.zarr has no labels" in problem.message
    with pytest.raises(DatasetError, match="cells is 30 x 40 .* is 60 x 80"):
        dataset[1]
    group = zarr.open_group(tmp_path / "c.zarr" / "labels" / "cells", mode="w")
    write_group(group, np.full((60, 80), 0.5, "float32"), "yx")
    with pytest.raises(FormatError, match=r"c\.zarr.labels.cells holds 0\.5 at row 0"):
        dataset[2]


def test_nothing_to_read(tmp_path):
    with pytest.raises(DatasetError, match="holds no OME-Zarr images"):
        read_ome_zarr(tmp_path)
    write_image(tmp_path / "d.zarr", PIXELS.transpose(2, 0, 1), "cyx")
    with pytest.raises(DatasetError, match=r"d\.zarr has no labels"):
        read_ome_zarr(tmp_path)
    write_array(tmp_path / "x.png", PIXELS)
    with pytest.raises(DatasetError, match="fits no layout"):
        read_dataset(tmp_path)


def test_a_copy_is_class_folders(tmp_path):
    write_labelled(tmp_path / "a.zarr", cells=IDS, nuclei=NUCLEI)
    dataset = read_ome_zarr(tmp_path)
    writer = FORMATS["ome_zarr"].open_writer(tmp_path / "copy", dataset)
    writer.write(dataset.records[0], dataset[0].to_instances(), np.arange(3))
    writer.close()
    copy = read_dataset(tmp_path / "copy")
    assert copy.format.name == "class_folders"
    np.testing.assert_array_equal(copy[0].pixels, PIXELS)
    np.testing.assert_array_equal(copy[0].to_instances().to_masks(), dataset[0].to_instances().to_masks())
