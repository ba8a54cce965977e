import pytest

from manymask.formats import find_skipped, read_dataset
from manymask.formats.datasets import open_dataset
from tests.formats.format_files import make_ids, make_pixels, write_array


def make_side_by_side(root):
    """What Cellpose leaves beside an image."""
    write_array(root / "a.tif", make_pixels()[..., 0])
    write_array(root / "a_cp_masks.tif", make_ids((0, 0, 2, 2)))
    for name in ("a_flows.tif", "a_seg.npy", "notes.txt", "table.csv", ".hidden.gif", "LICENSE"):
        (root / name).write_bytes(b"x")


def make_in_folders(root):
    write_array(root / "images" / "a.tif", make_pixels()[..., 0])
    write_array(root / "labels" / "a.tif", make_ids((0, 0, 2, 2)))
    write_array(root / "overlays" / "a.png", make_pixels())
    (root / "labels" / "a.csv").write_text("id")


def make_class_folders(root):
    write_array(root / "a" / "image.tif", make_pixels()[..., 0])
    write_array(root / "a" / "class1.tif", make_ids((0, 0, 2, 2)))


def make_mask_files(root):
    write_array(root / "a" / "images" / "a.png", make_pixels())
    write_array(root / "a" / "masks" / "m.png", make_ids((0, 0, 2, 2)))


MAKERS = [make_side_by_side, make_in_folders, make_class_folders, make_mask_files]


@pytest.mark.parametrize("make", MAKERS)
def test_what_belongs_to_a_layout_is_not_mentioned(tmp_path, make):
    make(tmp_path)
    assert open_dataset(tmp_path).problems == ()


@pytest.mark.parametrize(
    ("make", "place"),
    list(zip(MAKERS, ["", "images", "a", "a/images"], strict=True)),
)
def test_what_is_passed_over_is_counted_and_named(tmp_path, make, place):
    make(tmp_path)
    folder = tmp_path / place
    for name in ("c.avif", "d.jxl", "e.heic", "f.npy"):
        (folder / name).write_bytes(b"x")
    (folder / "g.tif").symlink_to("/nowhere")
    write_array(folder / "plate2" / "b.tif", make_pixels())
    with pytest.warns(UserWarning, match=r"6 files or folders were passed over .*c\.avif.*f\.npy.* and 1 more"):
        read_dataset(tmp_path)


def test_a_loose_image_among_class_folders(tmp_path):
    make_class_folders(tmp_path)
    write_array(tmp_path / "b.tif", make_pixels())
    (problem,) = open_dataset(tmp_path).problems
    assert (problem.kind, problem.severity) == ("skipped-files", "warning")
    assert "1 file or folder was passed over" in problem.message
    assert "b.tif" in problem.message


def test_masks_of_no_image_that_was_read_are_named(tmp_path):
    image = write_array(tmp_path / "a.tif", make_pixels())
    for name in ("a_masks.png", "b_masks.png"):
        write_array(tmp_path / name, make_ids())
    assert f"passed over in {tmp_path}: b_masks.png; " in find_skipped([tmp_path], [image]).message
