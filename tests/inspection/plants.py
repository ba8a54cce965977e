"""Small data sets of every format, and faults to plant in them, each in an image of its own."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import roifile

from manymask import convert
from manymask.core import encode_coco_rle, write_json
from manymask.core.outlines import iterate_polygons
from manymask.formats import read_dataset
from manymask.formats.conversion import TARGETS
from tests.formats.format_files import cut_short, make_instances, write_array
from tests.inspection.samples import draw_masks, draw_pixels

SIZE = (40, 60)
# Of each image, so that one is left where the other is broken.
MASKS = draw_masks((4, 4, 12, 14), (20, 30, 31, 44), size=SIZE)

Plant = Callable[[Path, str], None]
"""Breaks what belongs to an image of a data set, given its folder and the image's name."""


def write_source(root, names):
    """COCO of images of two objects each."""
    images, annotations = [], []
    for number, name in enumerate(names, start=1):
        write_array(root / "images" / f"{name}.png", draw_pixels(SIZE, 3, seed=number))
        images.append({"id": number, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]})
        for rle in encode_coco_rle(make_instances(*MASKS).runs):
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "segmentation": rle}
            annotations.append(entry)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    write_json(root / "annotations.json", content)
    return root


def write_mask_files(root, dataset):
    for sample in dataset:
        write_array(root / sample.name / "images" / f"{sample.name}.png", sample.pixels)
        for number, mask in enumerate(sample.to_instances().to_masks()):
            write_array(root / sample.name / "masks" / f"{number}.png", mask.astype(np.uint8) * 255)


def write_aperio(root, dataset):
    for sample in dataset:
        write_array(root / f"{sample.name}.tif", sample.pixels)
        regions = ""
        for (ring, *_), *_ in iterate_polygons(sample.to_instances().runs):
            vertices = "".join(f'<Vertex X="{x:g}" Y="{y:g}"/>' for x, y in ring)
            regions += f"<Region><Vertices>{vertices}</Vertices></Region>"
        xml = f"<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>"
        (root / f"{sample.name}.xml").write_text(xml)


def write_npz(root, dataset):
    pixels, ids = [sample.pixels for sample in dataset], [paint(sample) for sample in dataset]
    np.savez(root / "data.npz", X=np.stack(pixels), y=np.stack(ids))


def write_ome_zarr(root, dataset):
    zarr = pytest.importorskip("zarr")
    for sample in dataset:
        for place, values, axes in (("", sample.pixels, "yxc"), ("labels/cell", paint(sample), "yx")):
            group = zarr.create_group(root / f"{sample.name}.zarr" / place)
            group.create_array("0", data=values)
            multiscales = [{"axes": [{"name": name} for name in axes], "datasets": [{"path": "0"}]}]
            group.attrs["ome"] = {"multiscales": multiscales}


def paint(sample):
    return sample.layers.numpy()[0].astype(np.int16)


WRITERS = {"mask_files": write_mask_files, "aperio": write_aperio, "npz": write_npz, "ome_zarr": write_ome_zarr}


def write_data(root, name, names):
    """A data set of good images in a format."""
    source = write_source(root / "source", names)
    if name in TARGETS:
        convert(source, to=name, output=root / "data")
    else:
        (root / "data").mkdir()
        WRITERS[name](root / "data", read_dataset(source))
    return root / "data"


def find_image(root, name):
    """The file of an image."""
    places = [f"{name}/image.tif", f"{name}/images/{name}.png", f"{name}.png", f"{name}.tif", f"images/{name}.png"]
    return next(root / place for place in places if (root / place).is_file())


def lose_image(root, name):
    find_image(root, name).unlink()


def break_image(root, name):
    cut_short(find_image(root, name), 0.5)


def resize_image(root, name):
    path = find_image(root, name)
    write_array(path, draw_pixels((SIZE[0] - 3, SIZE[1]), 3, seed=99))


def blank_image(root, name):
    write_array(find_image(root, name), np.full((*SIZE, 3), 9, dtype=np.uint8))


def lose(place):
    """Remove a file, in whose place ``*`` is the image's name."""
    return lambda root, name: (root / place.replace("*", name)).unlink()


def write(place, content):
    """Put a file in place of another one."""

    def plant(root, name):
        path = root / place.replace("*", name)
        path.write_bytes(content) if isinstance(content, bytes) else write_array(path, content)

    return plant


def edit_json(place, find, **changes):
    """Change an object of a JSON file, which ``find`` picks for an image."""

    def plant(root, name):
        path = root / place.replace("*", name)
        content = json.loads(path.read_text())
        find(content, name).update(changes)
        path.write_text(json.dumps(content))

    return plant


def edit_text(place, pattern, replacement):
    """Change the first match of a pattern, in which ``*name*`` is the image's name."""

    def plant(root, name):
        path = root / place.replace("*", name)
        text, count = re.subn(pattern.replace("*name*", name), replacement, path.read_text(), count=1, flags=re.DOTALL)
        assert count == 1
        path.write_text(text)

    return plant


def find_coco(content, name):
    (image,) = (image for image in content["images"] if image["file_name"] == f"{name}.png")
    return next(entry for entry in content["annotations"] if entry["image_id"] == image["id"])


def find_task(content, name):
    return next(task for task in content if task["data"]["image"].endswith(f"/{name}.png"))


def find_region(content, name):
    return find_task(content, name)["annotations"][0]["result"][0]["value"]


def find_shape(content, name):
    (entry,) = (entry for entry in content.values() if entry["filename"] == f"{name}.png")
    return entry["regions"][0]["shape_attributes"]


def change_rois(*points):
    """Put a ROI in place of the first one."""

    def plant(root, name):
        path = root / f"{name}.zip"
        rois = roifile.roiread(path)
        path.unlink()
        with np.errstate(invalid="ignore"):
            roi = roifile.ImagejRoi.frompoints(np.array(points, dtype=np.float32), name="bad")
        roifile.roiwrite(path, [roi, *rois[1:]])

    return plant


def change_array(array, value):
    """Fill an image or its labels in an archive, where the name of an image is its place."""

    def plant(root, name):
        path = root / "data.npz"
        arrays = dict(np.load(path))
        arrays[array][int(name)] = value
        np.savez(path, **arrays)

    return plant


def change_zarr(values):
    """Put other labels in place of those of an image."""

    def plant(root, name):
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(root / f"{name}.zarr" / "labels" / "cell")
        del group["0"]
        group.create_array("0", data=values)

    return plant


NAN = float("nan")
NEGATIVE = np.full(SIZE, -1, dtype=np.int16)
SMALL = np.ones((SIZE[0] - 3, SIZE[1]), dtype=np.uint16)
BROKEN = {"broken": ("unreadable-image", break_image)}
SIZED = {"sized": ("size-mismatch", resize_image)}
PAIRS = BROKEN | SIZED | {"lost": ("incomplete-image", lose_image), "constant": ("constant-image", blank_image)}
LISTED = BROKEN | {"lost": ("bad-image-entry", lose_image)}


def break_labels(place):
    """What may happen to the one label image of an image."""
    return {
        "unlabelled": ("incomplete-image", lose(place)),
        "negative": ("unreadable-labels", write(place, NEGATIVE)),
        "damaged": ("unreadable-labels", write(place, b"II*\0no image")),
    }


def break_drawings(place):
    """What may happen to the one file of what was drawn on an image."""
    return {
        "unlabelled": ("incomplete-image", lose(place)),
        "damaged": ("bad-image-entry", write(place, b'{"shapes": [<')),
    }


def break_objects(few, nan, **others):
    """What may be wrong with an object: too few points, a coordinate that is no number, and more."""
    return {name: ("bad-annotation", plant) for name, plant in ({"few": few, "nan": nan} | others).items()}


def edit_coco(**changes):
    return edit_json("annotations.json", find_coco, **changes)


def edit_labelme(*points):
    return edit_json("*.json", lambda content, _: content["shapes"][0], points=points)


def edit_yolo(row):
    return edit_text("labels/*.txt", r"^[^\n]*", row)


def edit_cvat(points):
    return edit_text("annotations.xml", r'(name="*name*.png".*?points=)"[^"]*"', rf'\1"{points}"')


def edit_region(*points):
    return edit_json("tasks.json", find_region, points=points)


def edit_via(x, y):
    return edit_json("via_regions.json", find_shape, all_points_x=x, all_points_y=y)


def edit_geojson(*points):
    return edit_json("*.geojson", lambda content, _: content["features"][0]["geometry"], coordinates=[points])


def edit_aperio(vertices):
    return edit_text("*.xml", "<Vertices>.*?</Vertices>", f"<Vertices>{vertices}</Vertices>")


FEW = ([1, 1], [5, 1])

PLANTS: dict[str, dict[str, tuple[str, Plant]]] = {
    "label_images": PAIRS | break_labels("labels/*.tif"),
    "cellpose": PAIRS | break_labels("*_masks.tif"),
    "class_folders": PAIRS | break_labels("*/class1.tif"),
    "mask_files": PAIRS
    | {
        "empty": ("empty-mask-file", write("*/masks/0.png", np.zeros(SIZE, dtype=np.uint8))),
        "damaged": ("unreadable-labels", write("*/masks/0.png", b"no image")),
    },
    "npz": {"0": ("constant-image", change_array("X", 7)), "1": ("unreadable-labels", change_array("y", -1))},
    "ome_zarr": {
        "broken": ("unreadable-image", write("*.zarr/0/c/0/0/0", b"no chunk")),
        "negative": ("unreadable-labels", change_zarr(NEGATIVE)),
        "sized": ("size-mismatch", change_zarr(SMALL)),
    },
    "coco": LISTED
    | SIZED
    | break_objects(
        edit_coco(segmentation=[[1, 1, 5, 1]]),
        edit_coco(segmentation=[[1, 1, 5, 1, NAN, 4]]),
        box=edit_coco(segmentation=[]),
        unknown=edit_coco(category_id=77),
    ),
    "labelme": LISTED
    | SIZED
    | break_drawings("*.json")
    | break_objects(edit_labelme(*FEW), edit_labelme(*FEW, [NAN, 4])),
    "yolo": {
        "broken": ("bad-image-entry", break_image),
        "lost": ("incomplete-image", lose_image),
        "damaged": ("bad-image-entry", write("labels/*.txt", b"\xff\xfe0 0.1")),
    }
    | break_objects(
        edit_yolo("0 0.1 0.1 0.2"),
        edit_yolo("0 0.1 0.1 0.2 0.1 nan 0.4"),
        box=edit_yolo("0 0.1 0.1 0.2 0.2"),
        unknown=edit_yolo("8 0.1 0.1 0.2 0.1 0.2 0.4"),
    ),
    "cvat": LISTED | SIZED | break_objects(edit_cvat("1,1;5,1"), edit_cvat("1,1;5,1;nan,4")),
    "label_studio": LISTED
    | SIZED
    | {"unlabelled": ("incomplete-image", edit_json("tasks.json", find_task, annotations=[]))}
    | break_objects(edit_region(*FEW), edit_region(*FEW, [NAN, 4])),
    "via": LISTED
    | break_objects(edit_via([1, 5], [1, 1]), edit_via([1, 5, NAN], [1, 1, 4]), odd=edit_via([1, 5, 3], [1])),
    "geojson": LISTED | break_drawings("*.geojson") | break_objects(edit_geojson(*FEW), edit_geojson(*FEW, [NAN, 4])),
    "imagej": LISTED
    | break_drawings("*.zip")
    | break_objects(change_rois(*FEW), change_rois([1, 1], [5.5, 1], [NAN, 4])),
    "aperio": LISTED
    | break_drawings("*.xml")
    | break_objects(edit_aperio('<Vertex X="1" Y="1"/>'), edit_aperio('<Vertex X="nan" Y="1"/>' * 3)),
}
"""For each format the image of each fault, the kind of finding that it is, and how it is planted."""

NAMES = {name: [*plants, "good"] for name, plants in PLANTS.items()} | {"npz": ["0", "1", "2"]}
"""The images of each format; in the last one there is no fault."""
