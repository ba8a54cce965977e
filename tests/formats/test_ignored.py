"""Pixels to ignore in label images are crowd regions."""

import json

import numpy as np
import pytest
import tifffile

from manymask.errors import DatasetError, FormatError, PlanError
from manymask.formats import check_dataset, convert, read_dataset
from manymask.formats.ids import read_label_image
from manymask.inspection import inspect
from manymask.inspection.tables import format_fingerprint
from tests.formats.format_files import make_ids, make_pixels, write_array, write_seg
from tests.formats.test_ids import DISCS

IDS = make_ids((1, 1, 4, 4), (1, 5, 3, 8)).astype("int32")
IS_IGNORED = np.zeros(IDS.shape, dtype=bool)
IS_IGNORED[4:, :3] = True  # beside an object


def spoil(value, ids=IDS):
    return np.where(IS_IGNORED, value, ids)


def write_label_images(root, labels):
    write_array(root / "images" / "a.tif", make_pixels())
    write_array(root / "labels" / "a.tif", labels)
    return root


def write_class_folder(root, **labels):
    write_array(root / "a" / "image.tif", make_pixels())
    for name, values in labels.items():
        write_array(root / "a" / f"{name}.tif", values)
    return root


def assert_ignored(sample, labels=(1, 1), num_classes=1):
    """The sample has objects of these labels, whose masks are returned, and for each class a region to ignore."""
    num_objects = len(labels)
    assert sample.labels.tolist() == [*labels, *range(1, num_classes + 1)]
    assert sample.iscrowd.tolist() == [False] * num_objects + [True] * num_classes
    masks = sample.to_instances().to_masks()
    for mask in masks[num_objects:]:
        np.testing.assert_array_equal(mask, IS_IGNORED)
    return masks[:num_objects]


@pytest.mark.parametrize(
    ("values", "given"),
    [
        (spoil(-1), -1),
        (spoil(-1).astype("float32"), "-1"),
        (spoil(255).astype("uint8"), [255]),
        (spoil(65535).astype("uint16"), "255,65535"),
        (spoil(np.nan).astype("float32"), float("nan")),
        (spoil(np.nan).astype("float32"), "NaN"),
        (np.where(IS_IGNORED[..., None], 255, np.dstack([IDS, 0 * IDS, 0 * IDS])).astype("uint8"), 0xFFFFFF),
        (np.where(np.eye(6, 8, 3, dtype=bool) & (IDS == 0), np.nan, spoil(-1)).astype("float32"), ("nan", -1, 7)),
    ],
)
def test_values(tmp_path, values, given):
    dataset = read_dataset(write_label_images(tmp_path, values), ignore_label=given)
    instances = dataset[0].to_instances()
    assert instances.iscrowd.tolist() == [False, False, True]
    np.testing.assert_array_equal(instances.to_masks()[:2], [IDS == 1, IDS == 2])
    assert instances.to_masks()[2][IS_IGNORED].all()
    assert not dataset[0].layers[0][0, 0]
    assert dataset.format.name_instances(dataset.records[0]) == ["id 1", "id 2"]
    assert check_dataset(dataset).images[0].num_instances == 2


def test_an_image_without_such_pixels_has_no_region(tmp_path):
    plain, given = (read_dataset(write_label_images(tmp_path, IDS), ignore_label=value) for value in ((), -1))
    assert not given[0].iscrowd.any()
    assert check_dataset(plain) == check_dataset(given)


@pytest.mark.parametrize("given", ["border", 0.5, [1, 0.5], float("inf")])
def test_other_values_are_refused(tmp_path, given):
    with pytest.raises(PlanError, match="ignore_label"):
        read_dataset(write_label_images(tmp_path, IDS), ignore_label=given)


@pytest.mark.parametrize(("value", "name"), [(-1, "-1"), (np.nan, "nan")])
def test_the_option_is_named_where_it_lacks(tmp_path, value, name):
    labels = spoil(value).astype("float32")
    dataset = read_dataset(write_label_images(tmp_path, labels))
    with pytest.raises(FormatError, match=f"holds {name}.* at row 4, column 0, .*; give --ignore-label {name} "):
        dataset[0]
    with pytest.raises(DatasetError, match=f"give --ignore-label {name} "):
        inspect(tmp_path)
    other = read_dataset(tmp_path, ignore_label=7)
    with pytest.raises(FormatError, match=f"give --ignore-label {name} "):
        other[0]


def test_borders_along_objects(tmp_path):
    boxes = [(1, 1, 4, 4), (1, 5, 4, 9), (6, 1, 9, 4), (6, 6, 9, 9)]
    ids = make_ids(*boxes, size=(12, 12), dtype="uint8")
    for top, left, bottom, right in boxes:
        around = ids[top - 1 : bottom + 1, left - 1 : right + 1]
        around[around == 0] = 255
    path = write_array(tmp_path / "a.tif", ids)
    label = read_label_image(path, ignored=(255,))
    assert label.old_ids.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(label.ignored, ids == 255)


def test_the_region_turns_with_its_file(tmp_path):
    labels = np.rot90(spoil(255)).astype("uint8")
    path = write_array(tmp_path / "a.tif", labels, extratags=[(274, "H", 1, 6, True)])
    label = read_label_image(path, ignored=(255,))
    np.testing.assert_array_equal(label.ignored, IS_IGNORED)


def test_shared_values_are_split_beside_ignored_pixels(tmp_path):
    labels = (DISCS > 0).astype("int16")
    labels[0] = -1
    write_array(tmp_path / "data" / "images" / "a.tif", make_pixels(96, 96))
    write_array(tmp_path / "data" / "labels" / "a.tif", labels)
    found = inspect(tmp_path / "data", fix=tmp_path / "fixed", ignore_label=-1)
    assert [finding.kind for finding in found.findings if finding.severity == "fault"] == ["shared-ids"]
    copy = read_dataset(tmp_path / "fixed", ignore_label=-1)[0]
    assert copy.iscrowd.tolist() == [False] * 25 + [True]
    assert copy.to_instances().runs.areas[-1] == 96


class TestFormats:
    def test_class_folders(self, tmp_path):
        """What one class's file ignores counts for no class; an object of another class that lies there stays."""
        other = np.where(IS_IGNORED, 3, 0)
        dataset = read_dataset(write_class_folder(tmp_path, class1=spoil(-1), class4=other), ignore_label=-1)
        masks = assert_ignored(dataset[0], labels=(1, 1, 2), num_classes=2)
        np.testing.assert_array_equal(masks, [IDS == 1, IDS == 2, IS_IGNORED])
        assert len(dataset.format.name_instances(dataset.records[0])) == 3

    def test_a_class_without_a_file(self, tmp_path):
        data = write_class_folder(tmp_path, class1=spoil(-1))
        write_array(data / "b" / "image.tif", make_pixels() // 2)
        write_array(data / "b" / "class2.tif", IDS)
        first, second = read_dataset(data, ignore_label=-1)
        assert_ignored(first, num_classes=2)
        assert second.labels.tolist() == [2, 2]

    def test_npz(self, tmp_path):
        labels = np.stack([spoil(-1), IDS])[None].transpose(0, 2, 3, 1)
        np.savez(tmp_path / "a.npz", X=make_pixels()[None], y=labels)
        assert_ignored(read_dataset(tmp_path, ignore_label=-1)[0], labels=(1, 1, 2, 2), num_classes=2)

    def test_cellpose(self, tmp_path):
        write_array(tmp_path / "a.tif", make_pixels())
        write_seg(tmp_path / "a_seg.npy", {"masks": spoil(-1)})
        assert_ignored(read_dataset(tmp_path, ignore_label=-1)[0])

    def test_ome_zarr(self, tmp_path):
        pytest.importorskip("zarr")
        from tests.formats.test_ome_zarr import IDS as LARGE
        from tests.formats.test_ome_zarr import write_labelled

        write_labelled(tmp_path / "a.zarr", cells=np.where(LARGE == 2, 255, LARGE))
        sample = read_dataset(tmp_path, ignore_label=255)[0]
        assert (sample.labels.tolist(), sample.iscrowd.tolist()) == ([1, 1], [False, True])
        assert sample.to_instances().runs.areas.tolist() == [400, 1500]


class TestCopies:
    @pytest.mark.parametrize("value", [255, -1])
    def test_label_images(self, tmp_path, value):
        labels = np.where(np.eye(6, 8, 4, dtype=bool) & (IDS == 0), 9, spoil(value))  # 2 pixels that are removed
        data = write_label_images(tmp_path / "data", labels.astype("int16"))
        found = inspect(data, fix=tmp_path / "fixed", ignore_label=value)
        (repair,) = found.repairs
        assert [action.partition(" ")[0] for action in repair.actions] == ["wrote", "removed"][value < 0 :]
        assert "--ignore-label -1" in repair.actions[0] or value < 0
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "fixed" / "labels" / "a.tif"), spoil(-1))
        assert_ignored(read_dataset(tmp_path / "fixed", ignore_label=-1)[0])

    def test_class_folders(self, tmp_path):
        data = write_class_folder(tmp_path / "data", class1=spoil(99), class2=IDS * 3)
        inspect(data, fix=tmp_path / "fixed", ignore_label=99)
        folder = tmp_path / "fixed" / "a"
        np.testing.assert_array_equal(tifffile.imread(folder / "class1.tif"), spoil(-1))
        np.testing.assert_array_equal(tifffile.imread(folder / "class2.tif"), spoil(-1))
        assert_ignored(read_dataset(tmp_path / "fixed", ignore_label=-1)[0], labels=(1, 1, 2, 2), num_classes=2)

    def test_coco_and_back(self, tmp_path):
        data = write_label_images(tmp_path / "data", spoil(-1))
        done = convert(data, to="coco", output=tmp_path / "coco", ignore_label=-1)
        assert (done.num_objects, done.lost) == (3, ())
        with pytest.warns(UserWarning, match="1 of 3 annotations are crowd regions"):
            assert_ignored(read_dataset(tmp_path / "coco")[0])
        again = convert(tmp_path / "coco", to="label_images", output=tmp_path / "again")
        assert again.lost[0].startswith("crowd regions: those of 1 image are pixels of -1 now")
        assert_ignored(read_dataset(tmp_path / "again", ignore_label=-1)[0])

    @pytest.mark.parametrize("target", ["yolo", "cellpose", "geojson"])
    def test_others_say_that_it_is_lost(self, tmp_path, target):
        data = write_label_images(tmp_path / "data", spoil(-1))
        done = convert(data, to=target, output=tmp_path / "out", ignore_label="-1")
        assert done.num_objects == 2
        assert "pixels to ignore: left out 1 region" in done.lost
        assert not any(line.startswith(("overlaps", "crowd")) for line in done.lost)

    def test_nothing_is_said_where_nothing_is_lost(self, tmp_path):
        data = write_label_images(tmp_path / "data", spoil(-1))
        assert convert(data, to="label_images", output=tmp_path / "out", ignore_label=-1).lost == ()


def test_inspect_counts_them(tmp_path):
    found = inspect(write_label_images(tmp_path, spoil(255).astype("uint8")), output=tmp_path / "out", ignore_label=255)
    content = json.loads((tmp_path / "out" / "fingerprint.json").read_text())
    assert (content["num_crowd_regions"], content["ignored_fraction"]) == (1, 6 / 48)
    assert ("ignored, in crowd regions", "12.5% of the pixels") in format_fingerprint(found.fingerprint)[2]
    assert found.fingerprint.num_instances == 2
