"""Faults planted in data sets of every format: the doctor lists all, and its copy has none of them."""

import pytest

from manymask.formats import read_dataset
from manymask.formats.datasets import FORMATS
from manymask.inspection import inspect
from manymask.inspection.inspector import inspect_dataset
from tests.formats.format_files import write_array
from tests.inspection.plants import NAMES, PLANTS, SIZE, write_data
from tests.inspection.samples import draw_pixels

# An image of which one object is bad stays with the other one.
OF_ONE_OBJECT = ("bad-annotation", "empty-mask-file")


@pytest.mark.parametrize("data_format", PLANTS)
def test_all_are_listed_and_left_out(tmp_path, data_format):
    names, plants = NAMES[data_format], PLANTS[data_format]
    data = write_data(tmp_path, data_format, names)
    for name, (_, plant) in plants.items():
        plant(data, name)
    found = inspect(data, fix=tmp_path / "fixed")
    listed = [(finding.kind, f"{finding.image} {finding.detail}") for finding in found.findings]
    for name, (kind, _) in plants.items():
        assert any(name in text for other, text in listed if other == kind), (name, kind, listed)
    copied = read_dataset(tmp_path / "fixed")
    again = inspect_dataset(copied)
    assert [finding.detail for finding in again.findings if finding.severity == "fault"] == []
    kept = {name: 1 for name, (kind, _) in plants.items() if kind in OF_ONE_OBJECT} | {names[-1]: 2}
    assert {image.name: image.num_instances for image in again.check.images} == kept


@pytest.mark.parametrize("data_format", ["coco", "cvat", "label_studio", "via"])
def test_images_that_no_entry_names_are_told(tmp_path, data_format):
    data = write_data(tmp_path, data_format, ["good"])
    write_array(data / "images" / "extra.png", draw_pixels(SIZE, 3, seed=9))
    assert [image.name for image in inspect(data, fix=tmp_path / "fixed").facts] == ["good"]
    (note,) = (problem for problem in read_dataset(data).problems if "says nothing of images" in problem.message)
    assert (note.severity, note.message.rpartition(": ")[2]) == ("note", "extra.png")
    assert not list((tmp_path / "fixed").rglob("extra*"))


def test_every_format_is_there():
    assert PLANTS.keys() == {*FORMATS, "cellpose"}
