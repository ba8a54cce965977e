import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import roifile

from manymask.core.outputs import record_outputs
from manymask.errors import DatasetError, FormatError, PlanError
from manymask.formats import check_dataset, read_dataset
from manymask.formats.datasets import FORMATS, detect_format
from manymask.imaging import find_images
from manymask.imaging.files import IMAGE_SUFFIXES
from tests.formats.format_files import cut_short, make_coco, make_ids, make_pixels, write_array

TRIANGLE = {"segmentation": [[1, 1, 5, 1, 3, 4]]}


def make_class_folders(root):
    write_array(root / "a" / "image.tif", make_pixels())
    write_array(root / "a" / "class2.tif", make_ids((0, 0, 2, 2)))


def make_label_images(root, names=("a",)):
    for name in names:
        write_array(root / "images" / f"{name}.png", make_pixels())
        write_array(root / "labels" / f"{name}.png", make_ids((0, 0, 2, 2), (4, 4, 6, 6)))


def make_mask_files(root):
    write_array(root / "a" / "images" / "a.png", make_pixels())
    write_array(root / "a" / "masks" / "1.png", make_ids((0, 0, 2, 2)))


def make_labelme(root):
    write_array(root / "a.png", make_pixels())
    shape = {"label": "cell", "points": [[1, 1], [5, 1], [3, 4]], "shape_type": "polygon"}
    (root / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png"}))


def make_geojson(root):
    write_array(root / "a.png", make_pixels())
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[1, 1], [5, 1], [3, 4], [1, 1]]]}}
    (root / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


def make_imagej(root):
    write_array(root / "a.png", make_pixels())
    roifile.ImagejRoi.frompoints([[1, 1], [5, 1], [3, 4]]).tofile(root / "a.roi")


def make_npz(root):
    root.mkdir(exist_ok=True)
    np.savez(root / "a.npz", X=make_pixels()[None], y=make_ids((0, 0, 2, 2))[None])


def make_ome_zarr(root):
    zarr = pytest.importorskip("zarr")
    for place, values, axes in (
        ("a.zarr", make_pixels(), "yxc"),
        ("a.zarr/labels/cells", make_ids((0, 0, 2, 2)), "yx"),
    ):
        group = zarr.create_group(root / place)
        group.create_array("0", data=values)
        multiscales = [{"axes": [{"name": name} for name in axes], "datasets": [{"path": "0"}]}]
        group.attrs["ome"] = {"multiscales": multiscales}


def make_yolo(root):
    write_array(root / "images" / "a.png", make_pixels())
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("0 0.1 0.1 0.9 0.1 0.5 0.9\n")


def make_cvat(root):
    write_array(root / "images" / "a.png", make_pixels())
    shape = '<polygon label="cell" points="1,1;5,1;3,4"/>'
    image = f'<image id="0" name="a.png" width="8" height="6">{shape}</image>'
    (root / "annotations.xml").write_text(f"<annotations><version>1.1</version>{image}</annotations>")


def make_label_studio(root):
    write_array(root / "images" / "a.png", make_pixels())
    value = {"points": [[10, 10], [90, 10], [50, 90]], "polygonlabels": ["cell"]}
    region = {"id": "r", "type": "polygonlabels", "value": value, "original_width": 8, "original_height": 6}
    task = {"id": 1, "annotations": [{"result": [region]}], "data": {"image": "images/a.png"}}
    (root / "tasks.json").write_text(json.dumps([task]))


def make_via(root):
    write_array(root / "images" / "a.png", make_pixels())
    shape = {"name": "polygon", "all_points_x": [1, 5, 3], "all_points_y": [1, 1, 4]}
    entry = {"filename": "a.png", "size": 1, "regions": [{"shape_attributes": shape, "region_attributes": {}}]}
    (root / "via.json").write_text(json.dumps({"a.png1": entry | {"file_attributes": {}}}))


def make_aperio(root):
    write_array(root / "a.tif", make_pixels())
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in [(1, 1), (5, 1), (3, 4)])
    region = f"<Regions><Region><Vertices>{vertices}</Vertices></Region></Regions>"
    (root / "a.xml").write_text(f"<Annotations><Annotation>{region}</Annotation></Annotations>")


MAKERS = {
    "class_folders": make_class_folders,
    "label_images": make_label_images,
    "mask_files": make_mask_files,
    "coco": lambda root: make_coco(root, [TRIANGLE]),
    "labelme": make_labelme,
    "geojson": make_geojson,
    "imagej": make_imagej,
    "npz": make_npz,
    "ome_zarr": make_ome_zarr,
    "yolo": make_yolo,
    "cvat": make_cvat,
    "label_studio": make_label_studio,
    "via": make_via,
    "aperio": make_aperio,
}


@pytest.mark.parametrize("data_format", FORMATS)
def test_each_format_is_detected_and_goes_to_other_processes(tmp_path, data_format):
    MAKERS[data_format](tmp_path)
    assert detect_format(tmp_path) == data_format
    dataset = pickle.loads(pickle.dumps(read_dataset(tmp_path)))
    assert dataset.format.name == data_format
    np.testing.assert_array_equal(dataset[0].pixels, make_pixels())


@pytest.mark.parametrize("data_format", FORMATS)
def test_no_image_is_opened_to_tell_the_format(tmp_path, monkeypatch, data_format):
    MAKERS[data_format](tmp_path)
    opened, really_open = [], open

    def note(file, *args, **options):
        opened.append(Path(str(file)))
        return really_open(file, *args, **options)

    monkeypatch.setattr("builtins.open", note)
    monkeypatch.setattr("io.open", note)
    assert detect_format(tmp_path) == data_format
    assert [path.name for path in opened if path.suffix in IMAGE_SUFFIXES or path.parent.name == "0"] == []
    if data_format not in ("npz", "ome_zarr"):  # which are not opened by name
        assert read_dataset(tmp_path)[0].pixels.any()
        assert [path for path in opened if path.suffix in IMAGE_SUFFIXES]


@pytest.mark.parametrize("data_format", FORMATS)
def test_path_as_text(tmp_path, data_format):
    MAKERS[data_format](tmp_path)
    assert detect_format(str(tmp_path)) == data_format
    for dataset in (FORMATS[data_format].read(str(tmp_path)), read_dataset(str(tmp_path))):
        assert [record.path for record in dataset.records] == [record.path for record in read_dataset(tmp_path).records]


def test_other_layouts_are_detected(tmp_path):
    make_class_folders(tmp_path)
    (tmp_path / "ids.json").write_text("[]")
    assert detect_format(tmp_path) == "class_folders"
    assert detect_format(tmp_path / "a") == "class_folders"
    assert detect_format(tmp_path / "ids.json") == "coco"
    write_array(tmp_path / "pairs" / "x_masks.tif", make_ids())
    assert detect_format(tmp_path / "pairs") == "label_images"


@pytest.mark.parametrize(
    ("data_format", "name"),
    [
        *[("cvat", "annotations.xml"), ("label_studio", "tasks.json"), ("via", "via.json"), ("aperio", "a.xml")],
        *[("geojson", "a.geojson"), ("imagej", "a.roi")],
    ],
)
def test_a_file_of_a_tool_whose_data_are_folders(tmp_path, data_format, name):
    MAKERS[data_format](tmp_path)
    with pytest.raises(DatasetError, match=f"is a file of data format '{data_format}'; give its folder"):
        detect_format(tmp_path / name)


def test_nothing_fits_or_more_than_one(tmp_path):
    with pytest.raises(DatasetError, match="holds nothing; give"):
        detect_format(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match=r"fits no layout .*class_folders, .*coco"):
        detect_format(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        detect_format(tmp_path / "x")
    make_label_images(tmp_path)
    make_coco(tmp_path, [])
    with pytest.raises(DatasetError, match="fits label_images and coco"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, "label_images").format.name == "label_images"


def test_images_alone_are_named_with_the_folder_to_give(tmp_path):
    make_label_images(tmp_path / "data")
    with pytest.raises(DatasetError, match=r"images holds 1 image and no labels; give .*data$"):
        detect_format(tmp_path / "data" / "images")
    with pytest.raises(DatasetError, match=r"a.png is an image; give the folder"):
        detect_format(tmp_path / "data" / "images" / "a.png")


@pytest.mark.parametrize("data_format", FORMATS)
def test_empty_or_missing_data_set_is_refused(tmp_path, data_format):
    with pytest.raises(DatasetError):
        read_dataset(tmp_path, data_format)
    with pytest.raises(DatasetError):
        read_dataset(tmp_path / "x", data_format)


def write_outputs(root):
    """A run and predictions of an image a, as manymask leaves them in a folder of data."""
    (root / "runs" / "data" / "curves").mkdir(parents=True)
    write_array(root / "runs" / "data" / "curves" / "loss.png", make_pixels())
    (root / "runs" / "data" / "plan.json").write_text('{"data": {"path": "."}}')
    names = ["labels/a.tif", "overlays/a.png", "predictions.json"]
    with record_outputs(root, "predict", names):
        write_array(root / "labels" / "a.tif", make_ids((1, 1, 5, 5)))
        write_array(root / "overlays" / "a.png", make_pixels())
        (root / "predictions.json").write_text("[]")


@pytest.mark.parametrize("data_format", ["class_folders", "mask_files", "coco"])
def test_outputs_of_manymask_are_no_data(tmp_path, data_format):
    MAKERS[data_format](tmp_path)
    before = check_dataset(read_dataset(tmp_path))
    write_outputs(tmp_path)
    assert check_dataset(read_dataset(tmp_path)) == before
    if data_format != "mask_files":  # predict does not take these
        assert [name for name, _ in find_images(tmp_path)] == ["a"]


@pytest.mark.parametrize("folder", ["images", "."])
def test_predictions_are_no_ground_truth_until_somebody_changes_them(tmp_path, folder):
    write_array(tmp_path / folder / "a.png", make_pixels())
    write_outputs(tmp_path)
    assert [name for name, _ in find_images(tmp_path)] == ["a"]
    with pytest.raises(DatasetError, match="fits no layout"):
        read_dataset(tmp_path)
    if folder == "images":
        assert [image.num_instances for image in check_dataset(read_dataset(tmp_path, "label_images")).images] == [1]
        write_array(tmp_path / "labels" / "a.tif", make_ids((1, 1, 5, 5), (5, 6, 6, 8)))
        assert [image.num_instances for image in check_dataset(read_dataset(tmp_path)).images] == [2]


def test_masks_beside_predictions_are_the_labels(tmp_path):
    make_label_images(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "masks")
    write_outputs(tmp_path)
    assert [image.num_instances for image in check_dataset(read_dataset(tmp_path)).images] == [2]


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(PlanError, match="'voc' does not exist; choose one of class_folders, label_images"):
        read_dataset(tmp_path, "voc")


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_check(tmp_path, num_workers):
    make_label_images(tmp_path, "abc")
    write_array(tmp_path / "labels" / "b.png", make_ids())
    done = []
    check = check_dataset(read_dataset(tmp_path), lambda *step: done.append(step), num_workers)
    assert [(image.name, image.size, image.num_instances) for image in check.images] == [
        ("a", (6, 8), 2),
        ("b", (6, 8), 0),
        ("c", (6, 8), 2),
    ]
    assert done == [(number, 3, f"looking at {tmp_path}") for number in (1, 2, 3)]


def test_crowd_and_empty_rows_are_not_counted(tmp_path):
    outside = {"segmentation": [[-9, -9, -8, -9, -8, -8]]}
    path = make_coco(tmp_path, [TRIANGLE, TRIANGLE | {"iscrowd": 1}, outside])
    with pytest.warns(UserWarning, match="1 of 3 annotations are crowd regions"):
        dataset = read_dataset(path)
    assert [image.num_instances for image in check_dataset(dataset).images] == [1]


def test_fingerprint_follows_content_only(tmp_path):
    for name in ("first", "second"):
        make_label_images(tmp_path / name, "abc")
    dataset = read_dataset(tmp_path / "first")
    fingerprint = check_dataset(dataset).fingerprint
    assert check_dataset(read_dataset(tmp_path / "second")).fingerprint == fingerprint
    assert check_dataset(dataset.subset([2, 0, 1])).fingerprint == fingerprint
    assert check_dataset(dataset.subset([0, 1])).fingerprint != fingerprint
    write_array(tmp_path / "first" / "labels" / "c.png", make_ids((0, 0, 2, 2), (4, 4, 6, 7)))
    assert check_dataset(dataset).fingerprint != fingerprint


def test_check_raises_the_first_error_in_order(tmp_path):
    make_label_images(tmp_path, "abcd")
    for name in ("b", "d"):
        cut_short(tmp_path / "images" / f"{name}.png", 0.8)
    with pytest.raises(FormatError, match=r"b\.png"):
        check_dataset(read_dataset(tmp_path), num_workers=4)


@pytest.mark.parametrize(("folder", "data_format"), [("dsb2018", "label_images"), ("powder", "coco")])
def test_real_data(shared_data, folder, data_format):
    dataset = read_dataset(shared_data / folder)
    assert dataset.format.name == data_format
    assert all(image.num_instances for image in check_dataset(dataset.subset([0, 1]), num_workers=2).images)
