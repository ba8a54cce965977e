"""Findings and repairs of COCO files."""

import json

import pytest

from manymask.errors import DatasetError, PlanError
from manymask.formats import read_dataset
from manymask.inspection import inspect
from manymask.inspection.inspector import inspect_dataset
from manymask.inspection.tables import describe_copy
from tests.inspection.folders import (
    BOXES,
    count_instances,
    find_one,
    list_kinds,
    rectangle,
    write_coco,
)

COCO = {
    "out-of-frame": [rectangle(40, 70, 50, 95)],
    "zero-area-instance": [rectangle(80, 90, 85, 95)],
    "self-crossing": [[10, 40, 30, 50, 30, 40, 10, 50]],
    "duplicate-instance": [rectangle(*BOXES[0])],
    "fragmented-instance": [rectangle(40, 4, 45, 9), rectangle(40, 30, 45, 37)],
}


def test_coco(tmp_path):
    good = [[rectangle(*box)] for box in BOXES]
    write_coco(tmp_path / "data", a=good + list(COCO.values()), b=good)
    found = inspect(tmp_path / "data", output=tmp_path, fix=tmp_path / "fixed")
    assert list_kinds(found) == {("a", kind) for kind in COCO}
    for number, kind in enumerate(COCO):
        numbers = "annotation 116, 117" if kind == "out-of-frame" else f"annotation {116 + number}"
        assert numbers in find_one(found, "a", kind).detail
    again = inspect_dataset(read_dataset(tmp_path / "fixed"))
    assert list_kinds(again) == set()
    assert count_instances(again) == {"a": 20, "b": 16}


@pytest.mark.parametrize(
    "outline",
    [
        [4, 4, 20, 4, 30, 4, 20, 4, 20, 20, 4, 20],  # a spur that goes back over itself
        [4, 4, 20, 4, 20, 20, 20, 4.0, 4, 20],  # touches one of its own corners
        [-0.5, 4, 80.5, 4, 80.5, 20, -0.5, 20],  # rounded outwards
    ],
)
def test_outlines_that_are_no_fault(tmp_path, outline):
    write_coco(tmp_path, a=[[outline]])
    assert list_kinds(inspect_dataset(read_dataset(tmp_path))) == set()


def test_coco_keeps_ids_and_crowd_regions(tmp_path):
    write_coco(tmp_path / "data", a=[[rectangle(0, 0, 60, 80)], COCO["fragmented-instance"]])
    path = tmp_path / "data" / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    inspect(path, output=tmp_path, fix=tmp_path / "fixed")
    written = json.loads((tmp_path / "fixed" / "annotations.json").read_text())["annotations"]
    rows = [(entry["id"], entry["area"], entry["iscrowd"], entry["category_id"]) for entry in written]
    assert rows == [(100, 4800, 1, 3), (101, 35, 0, 3), (102, 25, 0, 3)]


def test_coco_keeps_all_but_annotations(tmp_path):
    write_coco(tmp_path / "data", a=[[rectangle(4, 4, 20, 20)]])
    path = tmp_path / "data" / "annotations.json"
    content = json.loads(path.read_text()) | {"info": {"year": 2024}, "licenses": [{"id": 7, "name": "CC0"}]}
    content["categories"][0]["supercategory"] = "plant"
    content["images"][0]["license"] = 7
    path.write_text(json.dumps(content))
    line = describe_copy(inspect(path, output=tmp_path, fix=tmp_path / "fixed"), tmp_path / "fixed")
    written = json.loads((tmp_path / "fixed" / "annotations.json").read_text())
    assert {key: value for key, value in written.items() if key != "annotations"} == {
        key: value for key, value in content.items() if key != "annotations"
    }
    assert line.endswith("repairs.json; polygons became RLE, and annotations keep no fields but COCO's own")
    assert len(written["annotations"]) == 1


def test_coco_with_entries_that_cannot_be_used(tmp_path):
    good = [[rectangle(*box)] for box in BOXES]
    write_coco(tmp_path / "data", a=[*good, [], [[5.0, 5.0, 6.0, 6.0]]], b=good, c=good)
    path = tmp_path / "data" / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 900, "image_id": 77})
    path.write_text(json.dumps(content))
    (tmp_path / "data" / "images" / "c.png").unlink()
    found = inspect(path, output=tmp_path, fix=tmp_path / "fixed")
    details = [finding.detail for finding in found.findings if finding.severity == "fault"]
    for part in (
        "annotation 116 has no segm",
        "117 has a polygon of 4",
        "900 has image_id 77",
        "image c.png, which is not",
    ):
        assert sum(part in detail for detail in details) == 1
    assert len(details) == 4
    assert all(finding.is_fixable for finding in found.findings if finding.severity == "fault")
    assert {(repair.image, repair.is_kept) for repair in found.repairs} == {
        ("a", True),
        ("(no image)", False),
        ("c.png", False),
    }
    again = inspect_dataset(read_dataset(tmp_path / "fixed"))
    assert not again.has_faults
    assert count_instances(again) == {"a": 16, "b": 16}


def test_an_image_of_which_no_object_can_be_used_is_not_copied(tmp_path):
    write_coco(tmp_path / "data", a=[[rectangle(*box)] for box in BOXES], b=[[], []])
    found = inspect(tmp_path / "data", fix=tmp_path / "fixed")
    assert find_one(found, "b", "incomplete-image").treatment.startswith("training and scores leave it out")
    assert {(repair.image, repair.is_kept) for repair in found.repairs} == {("b", False)}
    assert [record.name for record in read_dataset(tmp_path / "fixed").records] == ["a"]


def test_crowd_regions(tmp_path):
    write_coco(tmp_path / "data", a=[[rectangle(*box)] for box in BOXES])
    path = tmp_path / "data" / "annotations.json"
    content = json.loads(path.read_text())
    for number, entry in enumerate(content["annotations"]):
        entry["iscrowd"] = number % 2
    path.write_text(json.dumps(content))
    finding = next(one for one in inspect(path, output=tmp_path).findings if one.kind == "crowd-regions")
    assert "8 of 16 annotations are crowd regions" in finding.detail
    assert (finding.severity, "crowd_as_objects=true" in finding.remedy) == ("warning", True)
    found = inspect(path, output=tmp_path, fix=tmp_path / "fixed", crowd_as_objects=True)
    assert count_instances(found) == {"a": 16}
    assert count_instances(inspect_dataset(read_dataset(tmp_path / "fixed"))) == {"a": 16}
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="all 16 in 1 image .* are crowd regions .*crowd_as_objects=true"):
        inspect(path, output=tmp_path)


def test_fix_beside_a_coco_file_is_refused(tmp_path):
    write_coco(tmp_path / "data", a=[[rectangle(4, 4, 20, 20)]])
    with pytest.raises(PlanError, match="lies inside the data .*data; choose a folder outside"):
        inspect(tmp_path / "data" / "annotations.json", output=tmp_path, fix=tmp_path / "data" / "new")
