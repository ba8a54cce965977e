"""Findings and repairs of whole data sets; those of COCO files are in test_inspecting_coco.py."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from manymask.cli.app import app
from manymask.errors import DatasetError, FormatError, ManymaskError, PlanError
from manymask.formats import check_dataset, read_dataset
from manymask.inspection import Fingerprint, group_images, inspect
from manymask.inspection.inspector import inspect_dataset
from manymask.inspection.tables import format_findings
from manymask.training import train
from tests.cells import write_cells
from tests.formats.format_files import cut_short, write_array
from tests.inspection.folders import (
    BOXES,
    assert_says,
    count_instances,
    draw_ids,
    find_one,
    fix,
    list_kinds,
    write_masks,
    write_pair,
)
from tests.inspection.samples import draw_masks, draw_pixels


def plant_reading_faults(root):
    """Label images of which every second one cannot be read; the kind by the name of the image."""
    write_pair(root, "good")
    write_pair(root, "cut")
    cut_short(root / "images" / "cut.tif", 0.5)
    write_pair(root, "empty")
    (root / "images" / "empty.tif").write_bytes(b"")
    write_pair(root, "size", draw_ids(*BOXES)[:50])
    write_pair(root, "binary", (draw_ids(*BOXES) > 0).astype(np.uint8) * 255)
    write_pair(root, "half", draw_ids(*BOXES, dtype="float32") / 2)
    write_pair(root, "negative", -draw_ids(*BOXES, dtype="int16"))
    write_pair(root, "jpeg", draw_ids(*BOXES, dtype="uint8"), suffix=".jpg")


READING = {
    "cut": ("unreadable-image", "cut.tif"),
    "empty": ("unreadable-image", "empty.tif is empty"),
    "size": ("size-mismatch", "size.tif is 50 x 80"),
    "binary": ("shared-ids", "binary.tif holds only 0 and 255"),
    "half": ("unreadable-labels", "half.tif holds 0.5"),
    "negative": ("unreadable-labels", "negative.tif holds -1"),
    "jpeg": ("unreadable-labels", "jpeg.jpg is a JPEG"),
}


PIECES = np.array([0, 1, 1, 1, 2], dtype=np.uint16)[
    draw_ids((4, 4, 9, 9), (40, 40, 49, 49), (20, 70, 21, 71), (50, 4, 55, 9))
]


def plant_other_faults(root):
    """Label images that can be read, each with something wrong; the kind by the name of the image."""
    write_pair(root, "dot", draw_ids(*BOXES, (40, 40, 41, 41)))
    write_pair(root, "pieces", PIECES)
    write_pair(root, "background", draw_ids((0, 0, 60, 80), (5, 5, 9, 9)))
    write_pair(root, "none", draw_ids())
    write_pair(root, "constant", pixels=np.full((60, 80), 9, dtype=np.uint8))
    write_pair(root, "nan", pixels=np.full((60, 80), np.nan, dtype=np.float32))
    write_pair(root, "two", pixels=draw_pixels(channels=2), ids=draw_ids(*BOXES))
    write_pair(root, "five")
    five = draw_pixels(channels=5, seed=8)
    write_array(root / "images" / "five.tif", five, photometric="minisblack", planarconfig="contig")
    write_pair(root, "copy1", draw_ids(*BOXES[:4]), draw_pixels(seed=5)[..., 0])
    write_pair(root, "copy2", draw_ids(*BOXES), draw_pixels(seed=5)[..., 0])
    write_pair(root, "copy3", draw_ids(*BOXES), draw_pixels(seed=5)[..., 0] + np.uint8(3))
    write_pair(root, "float", pixels=draw_pixels(seed=77)[..., 0].astype(np.float32))
    write_pair(root, "tiny", draw_ids(*BOXES)[:30, :30], draw_pixels((30, 30), seed=6)[..., 0])


OTHERS = {
    "dot": ("one-pixel-instance", "id 17 at x 40, y 40"),
    "pieces": ("fragmented-instance", "id 1 at x 4, y 4 (pieces of 81, 25, 1 pixels)"),
    "background": ("background-instance", "id 1 at x 0, y 0"),
    "none": ("empty-image", "no labelled instance"),
    "constant": ("constant-image", "everywhere"),
    "nan": ("not-finite", "NaN"),
    "two": ("unsupported-channels", "2 channels"),
    "five": ("unsupported-channels", "5 channels"),
    "copy2": ("same-image", "copy1.tif, and other labels"),
    "copy3": ("similar-image", "looks much like"),
    "float": ("value-range", "float32 values from 20 to 220"),
    "tiny": ("tiny-image", "30 x 30"),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder with all faults of label images, what the doctor finds, and the fixed copy."""
    root = tmp_path_factory.mktemp("planted")
    plant_reading_faults(root / "data")
    plant_other_faults(root / "data")
    return root, inspect(root / "data", output=root / "out", fix=root / "fixed")


@pytest.mark.parametrize("image", READING)
def test_files_that_cannot_be_read(planted, image):
    kind, part = READING[image]
    finding = find_one(planted[1], image, kind)
    assert_says(finding, image, part)
    assert (finding.severity, finding.is_fixable) == ("fault", True)


@pytest.mark.parametrize("image", OTHERS)
def test_other_faults_of_label_images(planted, image):
    kind, part = OTHERS[image]
    assert_says(find_one(planted[1], image, kind), image, part)


def test_nothing_else_is_found(planted):
    expected = {(image, kind) for image, (kind, _) in (READING | OTHERS).items()}
    assert list_kinds(planted[1]) - expected == set()
    severities = [finding.severity for finding in planted[1].findings]
    assert severities == sorted(severities, key=["fault", "warning", "note"].index)


def test_fixed_copy_has_no_fault(planted):
    root, _ = planted
    again = inspect_dataset(read_dataset(root / "fixed"))
    assert not again.has_faults
    assert not any(finding.is_fixable for finding in again.findings)
    counts = {"pieces": 3, "background": 1, "none": 0}
    names = {"good", "binary", "dot", "copy2", "copy3", "float", "tiny", *counts}
    assert count_instances(again) == {name: counts.get(name, 16) for name in names}


def test_repairs_are_written_and_images_copied_as_they_are(planted):
    root, found = planted
    written = {repair["image"]: repair for repair in json.loads((root / "fixed" / "repairs.json").read_text())}
    assert set(written) == {repair.image for repair in found.repairs}
    assert written["dot"] == {
        "image": "dot",
        "is_kept": True,
        "actions": ["removed 1 instance of up to 3 pixels: id 17"],
    }
    assert not written["copy1"]["is_kept"]
    assert "copy2.tif" in written["copy1"]["actions"][0]
    image = "images/good.tif"
    assert (root / "fixed" / image).read_bytes() == (root / "data" / image).read_bytes()


def test_files_that_inspect_writes(planted):
    root, found = planted
    findings = json.loads((root / "out" / "findings.json").read_text())
    assert [(one["image"], one["kind"]) for one in findings] == [(one.image, one.kind) for one in found.findings]
    written = (root / "out" / "fingerprint.json").read_bytes()
    assert Fingerprint.model_validate_json(written) == found.fingerprint


def test_mask_files(tmp_path):
    masks = draw_masks(*BOXES, (40, 40, 49, 49), (40, 40, 49, 50), (42, 46, 49, 59), (20, 50, 21, 51), (0, 0, 0, 0))
    write_masks(tmp_path / "data", "a", *masks)
    write_masks(tmp_path / "data", "b", *masks[:16])
    found = inspect(tmp_path / "data", output=tmp_path, fix=tmp_path / "fixed")
    kinds = [("a", f"{kind}") for kind in ("empty-mask-file", "one-pixel-instance", "duplicate-instance")]
    assert list_kinds(found) == set(kinds)
    assert "m20.png" in find_one(found, *kinds[0]).detail
    assert "m17.png at x 40, y 40 as m16.png" in find_one(found, *kinds[2]).detail
    again = inspect_dataset(read_dataset(tmp_path / "fixed"))
    assert list_kinds(again) == set()
    assert count_instances(again) == {"a": 18, "b": 16}


def test_masks_hidden_by_others_are_named(tmp_path):
    write_masks(tmp_path / "data", "a", *draw_masks((4, 4, 30, 30), (10, 10, 20, 20)))
    found = inspect(tmp_path / "data", output=tmp_path, fix=tmp_path / "fixed")
    assert found.repairs[0].actions == (
        "removed 1 instance hidden by others, as a label image holds one id a pixel: m1.png",
    )


@pytest.mark.parametrize(
    ("pieces", "action", "areas"),
    [
        ([(40, 9, 41, 10), (40, 30, 41, 31), (50, 9, 51, 11)], "removed 1 instance of which no piece has", [9]),
        ([(40, 9, 50, 19), (40, 30, 41, 31)], "removed pieces of up to 3 pixels of 1 instance: id 2", [9, 100]),
        ([(40, 9, 50, 19), (40, 30, 44, 34)], "gave each piece of 1 instance an id of its own", [9, 100, 16]),
    ],
)
def test_what_is_said_of_pieces(tmp_path, pieces, action, areas):
    ids = draw_ids((4, 4, 7, 7), *pieces)
    write_pair(tmp_path / "data", "a", np.minimum(ids, 2))
    repairs, found = fix(tmp_path)
    assert repairs[0].actions[0].startswith(action)
    assert found == areas


def test_what_lies_behind_another_one_is_not_split(tmp_path):
    write_pair(tmp_path / "data", "a", draw_ids((4, 4, 9, 40), (0, 10, 20, 20)))
    assert fix(tmp_path) == ((), [130, 200])
    overlapping = draw_masks((0, 10, 20, 20), (4, 4, 9, 40), (30, 4, 39, 9), (30, 4, 39, 9))
    write_masks(tmp_path / "masks" / "data", "a", *overlapping)
    repairs, areas = fix(tmp_path / "masks")
    assert (len(repairs[0].actions), areas) == (1, [200, 130, 45])  # nothing but the duplicate


def test_a_mask_that_cannot_be_read(tmp_path):
    for name in "ab":
        write_masks(tmp_path, name, *draw_masks(*BOXES))
    (tmp_path / "a" / "masks" / "m2.png").write_bytes(b"no image")
    finding = find_one(inspect_dataset(read_dataset(tmp_path)), "a", "unreadable-labels")
    assert str(finding.path).endswith("m2.png")


def test_images_that_lack_something_are_listed_and_left_out(tmp_path):
    for name in "abc":
        write_pair(tmp_path / "data", name)
    (tmp_path / "data" / "labels" / "a.tif").unlink()
    (tmp_path / "data" / "images" / "c.tif").unlink()
    found = inspect(tmp_path / "data", fix=tmp_path / "fixed")
    faults = [finding for finding in found.findings if finding.severity == "fault"]
    assert [(finding.kind, finding.image) for finding in faults] == [
        ("incomplete-image", "a"),
        ("incomplete-image", "c"),
    ]
    assert "a.tif has no label image" in faults[0].detail
    assert {(repair.image, repair.is_kept) for repair in found.repairs} == {("a", False), ("c", False)}
    assert [record.name for record in read_dataset(tmp_path / "fixed").records] == ["b"]
    with pytest.warns(UserWarning, match=r"left out 2 of 3 images, .* images/a\.tif has no label .*inspect .*data"):
        assert [record.name for record in read_dataset(tmp_path / "data").records] == ["b"]


def test_files_that_are_passed_over(tmp_path):
    write_pair(tmp_path / "data", "a")
    write_pair(tmp_path / "data", "plate2/b")
    (tmp_path / "data" / "images" / "z.tif").symlink_to("/nowhere")
    (finding,) = [one for one in inspect(tmp_path / "data", output=tmp_path).findings if one.kind == "skipped-files"]
    assert finding.detail.startswith("3 files or folders were passed over")
    for part in ("images/plate2/ (a subfolder)", "images/z.tif (a broken link)", "labels/plate2/"):
        assert part in finding.detail


def test_class_folders(tmp_path):
    for name in "ab":
        write_array(tmp_path / "data" / name / "image.tif", draw_pixels(seed=ord(name))[..., 0])
        write_array(tmp_path / "data" / name / "class2.tif", draw_ids(*BOXES, (40, 40, 41, 42)).astype(float))
        write_array(tmp_path / "data" / name / "class5.tif", draw_ids(*BOXES, (30, 30, 40, 60)).astype(float) * 7)
    found = inspect(tmp_path / "data", output=tmp_path, fix=tmp_path / "fixed")
    assert "id 17 of class2.tif at x 40, y 40" in find_one(found, "a", "one-pixel-instance").detail
    fixed = read_dataset(tmp_path / "fixed")
    again = inspect_dataset(fixed)
    # Which class an object is of, a person must tell.
    assert (fixed.format.name, list_kinds(again)) == ("class_folders", {(name, "two-classes") for name in "ab"})
    assert [one.num_instances for one in again.fingerprint.classes] == [32, 34]
    image = "a/image.tif"
    assert (tmp_path / "fixed" / image).read_bytes() == (tmp_path / "data" / image).read_bytes()


def test_the_same_images_in_train_and_val(tmp_path):
    for name, root in (("a", "train"), ("b", "train"), ("x", "val")):
        write_pair(tmp_path / root, name)
    write_pair(tmp_path / "val", "b", pixels=draw_pixels(seed=ord("a"))[..., 0])
    options = {"val": tmp_path / "val", "output": tmp_path, "fix": tmp_path / "fixed"}
    found = inspect(tmp_path / "train", **options)
    finding = find_one(found, "a", "same-image-in-val")
    assert_says(finding, "a.tif", "val/images/b.tif, and the same labels")
    assert finding.severity == "fault"
    assert [image.name for image in inspect_dataset(read_dataset(tmp_path / "fixed")).facts] == ["b"]


def test_findings_of_val_are_not_fixed(tmp_path):
    write_pair(tmp_path / "train", "a")
    write_pair(tmp_path / "val", "a", draw_ids((4, 4, 5, 5), (9, 9, 20, 20)), draw_pixels(seed=1)[..., 0])
    found = inspect(tmp_path / "train", val=tmp_path / "val", output=tmp_path, fix=tmp_path / "fixed")
    assert not find_one(found, "a", "one-pixel-instance").is_fixable
    assert found.repairs == ()


def test_val_may_have_no_instances(tmp_path):
    write_pair(tmp_path / "train", "a")
    write_pair(tmp_path / "val", "x", draw_ids(), draw_pixels(seed=1)[..., 0])
    found = inspect(tmp_path / "train", val=tmp_path / "val")
    assert {(one.part, one.kind) for one in found.findings if one.image == "x"} == {("val", "empty-image")}


def test_check_is_that_of_check_dataset(tmp_path):
    dataset, done = write_cells(tmp_path), []
    found = inspect_dataset(dataset, progress=lambda *numbers: done.append(numbers), num_workers=3)
    assert found.check == check_dataset(dataset)
    assert [(number, total) for number, total, _ in done] == [(1, 3), (2, 3), (3, 3)]
    assert [image.name for image in found.facts] == ["0000", "0001", "0002"]


def test_strict_raises_the_first_error_in_order(tmp_path):
    for name in "abcd":
        write_pair(tmp_path, name)
    for name in "bd":
        cut_short(tmp_path / "images" / f"{name}.tif", 0.5)
    with pytest.raises(FormatError, match=r"b\.tif"):
        inspect_dataset(read_dataset(tmp_path), is_strict=True)


def test_nothing_can_be_read_or_nothing_is_labelled(tmp_path):
    write_pair(tmp_path, "a", draw_ids())
    with pytest.raises(DatasetError, match=f"at least one labelled instance, found none in 1 image of {tmp_path}"):
        inspect_dataset(read_dataset(tmp_path))
    (tmp_path / "images" / "a.tif").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"no image of .* can be used; the first: .*a\.tif is empty"):
        inspect_dataset(read_dataset(tmp_path))


def test_groups_and_cap(tmp_path):
    dataset = write_cells(tmp_path)
    found = inspect_dataset(dataset, group_by=r"(\d)$", cap=2)
    assert (found.fingerprint.group_by, found.fingerprint.num_groups) == (r"(\d)$", 3)
    assert ("0000", "many-instances") in list_kinds(found)
    assert group_images(dataset, None) is None
    with pytest.raises(PlanError, match="not a regular expression"):
        group_images(dataset, "(")
    with pytest.raises(DatasetError, match="finds nothing in the image name '0000'"):
        group_images(dataset, "x")


def test_fix_of_nothing_wrong_and_of_folders_that_are_refused(tmp_path):
    write_cells(tmp_path / "data")
    assert inspect(tmp_path / "data", output=tmp_path, fix=tmp_path / "fixed").repairs == ()
    assert all(image.num_instances for image in check_dataset(read_dataset(tmp_path / "fixed")).images)
    with pytest.raises(PlanError, match="is not an empty folder; choose another"):
        inspect(tmp_path / "data", output=tmp_path, fix=tmp_path / "fixed")
    with pytest.raises(PlanError, match="lies inside the data"):
        inspect(tmp_path / "data", output=tmp_path, fix=tmp_path / "data" / "new")


def test_cap_of_the_command(tmp_path):
    write_pair(tmp_path / "data", "a")
    arguments = ["inspect", str(tmp_path / "data"), "--output", str(tmp_path)]
    assert "many-instances" not in CliRunner().invoke(app, [*arguments, "--cap", "16"]).stdout
    assert "more than the cap of 15" in CliRunner().invoke(app, [*arguments, "--cap", "15"]).stdout


def test_command(planted, tmp_path):
    write_cells(tmp_path / "data")
    arguments = ["inspect", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--fix", str(tmp_path / "fixed")]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0
    assert "instances an image" in found.stdout
    assert f"copy written to {tmp_path / 'fixed'}: nothing to repair" in found.stdout.replace("\n", "")
    arguments = ["inspect", str(planted[0] / "data"), "--output", str(tmp_path / "bad"), "--cap", "1"]
    bad = CliRunner().invoke(app, arguments)
    assert bad.exit_code == 1
    assert "binary.tif" in bad.stdout
    assert "more in" in bad.stdout


@pytest.mark.parametrize("folder", ["powder", "homework_sample/train"])
def test_real_data(shared_data, folder):
    found = inspect_dataset(read_dataset(shared_data / folder).subset([0]))
    assert not found.has_faults
    assert found.fingerprint.num_instances > 100


def test_training_on_what_is_broken_and_on_the_fixed_copy(planted, tmp_path):
    network = {"architecture": "maskrcnn_compact", "backbone": "test_resnet"}
    settings = {**network, "max_steps": 2, "batch_size": 2, "crop_size": 32, "num_workers": 0}
    with pytest.raises(FormatError, match=r"labels/binary\.tif holds only 0 and 255"):
        train(planted[0] / "data", output=tmp_path / "refused", settings=settings)
    assert not (tmp_path / "refused").exists()
    root = tmp_path / "odd"
    plant_other_faults(root)
    for name in ("nan", "two", "five"):
        for folder in ("images", "labels"):
            (root / folder / f"{name}.tif").unlink()
    for data in (root, planted[0] / "fixed"):
        assert (train(data, output=tmp_path / "runs" / data.name, settings=settings) / "last.ckpt").is_file()
    shutil.rmtree(tmp_path)


def test_nothing_is_written_unless_asked_for(planted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inspect(planted[0] / "data")
    assert CliRunner().invoke(app, ["inspect", str(planted[0] / "data")]).exit_code == 1
    assert not any(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_found_first(planted, tmp_path):
    (tmp_path / "file").touch()
    for option in ("output", "fix"):
        with pytest.raises(ManymaskError, match="a file is where a folder is needed"):
            inspect(planted[0] / "data", progress=lambda *_: pytest.fail("read"), **{option: tmp_path / "file" / "out"})


def test_masks_of_one_value_are_split_by_fix(tmp_path):
    values = (draw_ids(*BOXES) > 0).astype(np.uint8)
    write_pair(tmp_path / "data", "a", values)
    write_pair(tmp_path / "data", "b", values * np.uint8(128))
    found = inspect(tmp_path / "data", output=tmp_path, fix=tmp_path / "fixed")
    finding = find_one(found, "a", "shared-ids")
    assert_says(finding, "a.tif", "holds the value 1 in about 16 separate pieces")
    assert (finding.severity, finding.is_fixable) == ("fault", True)
    assert count_instances(found) == {"a": 16, "b": 16}
    again = inspect_dataset(read_dataset(tmp_path / "fixed"))
    assert count_instances(again) == {"a": 16, "b": 16}
    assert not again.has_faults
    assert "gave each separate piece" in found.repairs[0].actions[0]


def test_classes_that_touch_are_not_split(tmp_path):
    write_pair(tmp_path / "data", "good")
    inside = draw_ids(*BOXES) > 0
    write_pair(tmp_path / "data", "half", (inside * (1 + (np.arange(80) % 4 == 1))).astype(np.uint8))
    found = inspect(tmp_path / "data", output=tmp_path)
    finding = find_one(found, "half", "unreadable-labels")
    assert_says(finding, "half.tif", "holds 2 values 1, 2 in about")
    assert finding.remedy == "number the objects anew"


def test_few_pieces_in_each_of_many_images_are_a_fault_of_the_data_set(tmp_path):
    ids = draw_ids((4, 4, 14, 14), (4, 30, 14, 40), (30, 30, 40, 40)) > 0
    for name in "abcde":
        write_pair(tmp_path, name, ids.astype(np.uint8))
    finding = find_one(inspect_dataset(read_dataset(tmp_path)), None, "scattered-instances")
    assert finding.severity == "fault"
    assert "most of the 5 instances are in several pieces" in finding.detail


def test_background_of_a_crowded_image_is_found(tmp_path):
    ids = draw_ids(*((row, column, row + 9, column + 9) for row in range(1, 60, 10) for column in range(1, 80, 10)))
    write_pair(tmp_path, "a", ids + np.uint16(1))
    assert (ids == 0).mean() < 0.5
    found = inspect_dataset(read_dataset(tmp_path))
    finding = find_one(found, "a", "likely-background")
    assert "id 1 at x 0, y 0" in finding.detail
    assert (finding.severity, finding.is_fixable) == ("warning", False)


def test_orientation_tags_are_named(tmp_path):
    write_pair(tmp_path, "a")
    pixels = draw_pixels(seed=3)[..., 0]
    write_pair(tmp_path, "b", pixels=pixels)
    write_array(tmp_path / "images" / "b.tif", pixels, extratags=[(274, 3, 1, 3, True)])
    write_pair(tmp_path, "c", pixels=pixels)
    write_array(tmp_path / "images" / "c.tif", pixels, extratags=[(274, 3, 1, 6, True)])
    found = inspect_dataset(read_dataset(tmp_path))
    assert_says(find_one(found, "b", "orientation-in-doubt"), "b.tif", "has orientation tag 3")
    assert "MANYMASK_ORIENTATION" in find_one(found, "b", "orientation-in-doubt").remedy
    assert find_one(found, "c", "orientation-as-stored").severity == "warning"


def test_findings_name_their_part(tmp_path):
    for name in ("train", "val", "test"):
        for stem in "ab":
            write_pair(tmp_path / name, f"{stem} of {name}")
        write_pair(tmp_path / name, f"colour of {name}", pixels=draw_pixels(channels=3, seed=len(name)))
    write_pair(tmp_path / "train", "empty", draw_ids())
    write_pair(tmp_path / "val", "hollow", draw_ids())
    pixels = draw_pixels(seed=1)[..., 0]
    write_pair(tmp_path / "val", "twin", pixels=pixels)
    write_pair(tmp_path / "test", "twin", pixels=pixels)
    found = inspect(tmp_path, output=tmp_path / "out")
    parts = {(finding.part, finding.kind) for finding in found.findings if finding.image in ("empty", "hollow", "twin")}
    assert parts == {("train", "empty-image"), ("val", "empty-image"), ("val", "same-image-in-val")}
    assert {finding.part for finding in found.findings if finding.path is None} == {"train", "val", "test"}
    written = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert {finding["part"] for finding in written} == {"train", "val", "test"}
    places = [row[1] for row in format_findings(found.findings, tmp_path)[2]]
    assert {"train: whole data set", "val: whole data set", "test: whole data set"} <= set(places)
    alone = inspect(tmp_path / "train")
    assert {finding.part for finding in alone.findings} == {None}
    assert "whole data set" in [row[1] for row in format_findings(alone.findings, tmp_path)[2]]
