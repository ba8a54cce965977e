"""Faults planted in data sets of every format: the doctor lists all, and its copy has none of them."""

import pytest

from manymask.formats import read_dataset
from manymask.formats.datasets import FORMATS
from manymask.inspection import inspect
from manymask.inspection.inspector import inspect_dataset
from tests.inspection.plants import NAMES, PLANTS, write_data

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


def test_every_format_is_there():
    assert PLANTS.keys() == {*FORMATS, "cellpose"}
