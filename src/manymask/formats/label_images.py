"""Label images: one image of ids beside each image, for a single class."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import Int32, Int64

from manymask.core import Instances, RunLengths, paint_ids
from manymask.core.dataset import Category, Dataset, DatasetWriter, Format, Problem, Record, Sample
from manymask.core.files import copy_file, replace_file
from manymask.core.label_painting import find_overlapped, paint_stripes, rank_instances
from manymask.core.layers import assign_layers
from manymask.core.outputs import drop_outputs
from manymask.errors import DatasetError
from manymask.formats.ids import check_size, read_label_image, split_shared_ids
from manymask.formats.records import Entry, make_dataset, make_sample, report_incomplete
from manymask.imaging.files import IMAGE_SUFFIXES, LABEL_STEM, check_unique_names, is_hidden, list_images, make_key
from manymask.imaging.orientation import open_labelled_image

LABEL_FOLDERS = ("labels", "masks")

# Label images with a longer side are written in tiles, of which viewers read those that they show.
_MAX_UNTILED = 2048
_TILE_SIZE = 256
# Of the 4 GB of a TIFF that is not a BigTIFF some are left for its tables, as tifffile does.
_MAX_CLASSIC = 2**32 - 2**25


def is_label_images(root: Path) -> bool:
    """Whether a folder holds ``images`` with ``labels`` or ``masks``, or Cellpose's ``*_masks`` files.

    What ``predict`` wrote to ``labels`` and nobody has changed since is no ground truth.
    """
    has_folders = (root / "images").is_dir() and drop_outputs(_find_label_folders(root))
    return bool((has_folders and not _is_text(has_folders)) or _find_side_by_side(root)[1])


def read_label_images(root: str | Path) -> Dataset:
    """Read label images of one class, ``object``.

    They lie in ``labels`` or ``masks`` beside ``images``, under the same stems, or beside each image as
    ``<stem>_masks.tif`` or ``.png`` (Cellpose). Ids need not be dense; the pixels of one id are one instance, even in
    several pieces. Images without a label image, and the reverse, are left out and listed in the data set's
    ``problems``.

    Raises:
        DatasetError: There are no images with label images, or two of them have one name.
    """
    root = Path(root)
    find = _find_in_folders if (root / "images").is_dir() else _find_side_by_side
    images, label_images = find(root)
    check_unique_names(images)
    check_unique_names(label_images)
    labels = {make_key(name): path for name, path in label_images}
    image_keys = {make_key(name) for name, _ in images}
    entries: list[Entry] = []
    problems: list[Problem] = []
    for name, path in images:
        if label := labels.get(make_key(name)):
            entries.append((name, path, None, (label,)))
            continue
        message = f"{path} has no label image; add one named '{name}' (all zeros if it shows no object)"
        problems.append(report_incomplete(message, path, name))
    for name, path in label_images:
        if make_key(name) not in image_keys:
            message = f"{path} labels an image '{name}' that is not there; add the image or remove the label"
            problems.append(report_incomplete(message, path, name))
    return make_dataset(root, FORMAT, _read_record, entries, problems)


def _find_in_folders(root: Path) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    # Unchanged outputs of predict are labels only where they are asked for, by the name of the format.
    folders = drop_outputs(_find_label_folders(root)) or _find_label_folders(root)
    if len(folders) != 1:
        raise DatasetError(
            f"{root} holds {len(folders)} folders of labels beside 'images', expected 'labels' or 'masks'"
        )
    images, label_images = list_images(root / "images"), list_images(folders[0])
    return [(path.stem, path) for path in images], [(path.stem, path) for path in label_images]


def _find_label_folders(root: Path) -> list[Path]:
    return [root / name for name in LABEL_FOLDERS if (root / name).is_dir()]


def _is_text(folders: list[Path]) -> bool:
    """Whether folders of labels hold no images, but what YOLO and labelme put there, or folders of splits."""
    entries = [path for folder in folders for path in folder.iterdir() if not is_hidden(path)]
    is_image = any(path.suffix.lower() in IMAGE_SUFFIXES for path in entries)
    return not is_image and any(path.suffix.lower() in (".txt", ".json") or path.is_dir() for path in entries)


def _find_side_by_side(root: Path) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Name and file of the images and of Cellpose's masks in one folder; its flows are passed over."""
    images, label_images = [], []
    for path in list_images(root):
        match = LABEL_STEM.fullmatch(path.stem)
        if match is None:
            images.append((path.stem, path))
        elif match["kind"].lower() == "masks":
            label_images.append((match["stem"], path))
    return images, label_images


def _read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    (path,) = record.label_files
    label = read_label_image(path, is_split=record.is_split)
    image, doubts = open_labelled_image(record.path, label.ids.shape, label.orientation)
    check_size(path, label.ids.shape, record.path, image.size)
    return make_sample(record, image, label.ids, np.ones(len(label.old_ids), dtype=np.int64), doubts=doubts)


def _name_instances(record: Record) -> list[str]:
    return [f"id {i}" for i in read_label_image(record.label_files[0], is_split=record.is_split).old_ids]


def write_label_image(
    path: Path,
    instances: Instances,
    categories: Sequence[Category],
    *,
    min_score: float = 0.0,
    pixel_size: tuple[float, float] | None = None,
    overlaps: Path | None = None,
) -> None:
    """Write a TIFF of ids by falling score, and beside it ``<stem>.csv`` with ``id,class,score`` of each.

    An overlap goes to the higher score, to the earlier row at equal scores; crowd regions are left out. Ids are uint16,
    above 65,535 instances uint32. The file is compressed, above 2,048 pixels a side in tiles, and a BigTIFF where it
    may exceed 4 GB.

    Args:
        path: The TIFF.
        instances: The masks.
        categories: The classes; label i + 1 is ``categories[i]``.
        min_score: Instances of a lower score are left out.
        pixel_size: Height and width of a pixel in micrometres, which the file then keeps.
        overlaps: Where to write the instances that lose pixels to others, whole and under the same ids, so that nothing
            is lost: in the first page, or in more where they overlap each other. Those that are hidden by others have
            the ids that follow. Nothing is written where no instances overlap.
    """
    runs = instances.runs
    rows, num_visible = rank_instances(runs, instances.scores, instances.iscrowd, min_score)
    with replace_file(path.with_suffix(".csv"), "w") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "class", "score"])
        for new_id, row in enumerate(rows[:num_visible].tolist(), start=1):
            table.writerow([new_id, categories[int(instances.labels[row]) - 1].name, instances.scores[row]])
    ids = np.arange(len(rows)) + 1
    _write_pages(path, runs, [(rows[:num_visible], ids[:num_visible])], pixel_size)
    if overlaps is None:
        return
    overlapped = find_overlapped(runs, rows)
    if len(overlapped):
        layer_of = assign_layers(runs.select(rows[overlapped]))
        layers = [overlapped[layer_of == layer] for layer in range(int(layer_of.max()) + 1)]
        _write_pages(overlaps, runs, [(rows[layer], ids[layer]) for layer in layers], pixel_size)


def write_ids(path: Path, ids: Int32[np.ndarray, "height width"]) -> None:
    """Write a TIFF of ids, uint16 or, above 65,535, uint32."""
    dtype = np.uint16 if ids.max(initial=0) <= np.iinfo(np.uint16).max else np.uint32
    with replace_file(path) as file:
        tifffile.imwrite(file, ids.astype(dtype), compression="zlib", photometric="minisblack")


def _write_pages(
    path: Path,
    runs: RunLengths,
    pages: Sequence[tuple[np.ndarray, np.ndarray]],
    pixel_size: tuple[float, float] | None,
) -> None:
    """Write a TIFF of a page for each set of rows, the masks of earlier ones on top, with their ids."""
    height, width = runs.size
    largest = max(int(ids.max(initial=0)) for _, ids in pages)
    dtype = np.dtype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32)
    options: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack"}
    if pixel_size is not None:
        options |= {"resolution": (1e4 / pixel_size[1], 1e4 / pixel_size[0]), "resolutionunit": "CENTIMETER"}
    is_tiled = max(height, width) > _MAX_UNTILED
    # How well ids compress is not known before, and 32 bits cannot address what lies above 4 GB.
    is_big = len(pages) * height * width * dtype.itemsize > _MAX_CLASSIC
    with replace_file(path) as file, tifffile.TiffWriter(file, bigtiff=is_big) as tiff:
        for rows, ids in pages:
            if is_tiled:
                tiles = _cut_tiles(paint_stripes(runs, rows, ids, _TILE_SIZE), dtype)
                tiff.write(tiles, shape=(height, width), dtype=dtype, tile=(_TILE_SIZE, _TILE_SIZE), **options)
            else:
                (painted,) = paint_stripes(runs, rows, ids, height)
                tiff.write(painted.astype(dtype), **options)


def _cut_tiles(stripes: Iterable[np.ndarray], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The tiles of stripes from left to right, the last ones filled up with background."""
    for stripe in stripes:
        for left in range(0, stripe.shape[1], _TILE_SIZE):
            part = stripe[:, left : left + _TILE_SIZE]
            tile = np.zeros((_TILE_SIZE, _TILE_SIZE), dtype=dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


class LabelImageWriter(DatasetWriter):
    """Writes ``images`` and ``labels``; pixels of several instances go to the first."""

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and write its ids."""
        copy_image(self.dataset, record, self.folder / "images")
        write_ids(self.folder / "labels" / f"{record.name}.tif", paint_ids(instances)[0])


FORMAT = Format(
    "label_images",
    layout="images/ with labels/ or masks/, or x.tif with x_masks.tif",
    detect=is_label_images,
    read=read_label_images,
    name_instances=_name_instances,
    open_writer=LabelImageWriter,
    holds=frozenset({"holes", "parts"}),
    salvage=split_shared_ids,
)
