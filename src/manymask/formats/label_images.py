"""Label images: one image of ids beside each image, for a single class."""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from jaxtyping import Int32, Int64

from manymask.core import Instances, RunLengths, paint_ids
from manymask.core.dataset import Category, Dataset, DatasetWriter, Format, Problem, Record, Sample
from manymask.core.files import replace_file
from manymask.core.label_painting import find_overlapped, paint_stripes, rank_instances
from manymask.core.layers import assign_layers
from manymask.core.outputs import drop_outputs
from manymask.errors import DatasetError
from manymask.formats.ids import check_size, read_label_image, split_shared_ids
from manymask.formats.label_names import find_labels_beside, match_labels, strip_label
from manymask.formats.label_samples import make_labelled_sample, paint_labels
from manymask.formats.records import Entry, copy_image, make_dataset, report_incomplete
from manymask.imaging.files import LABEL_FOLDERS, LABEL_STEM, check_unique_names, list_folders, list_images, name_images
from manymask.imaging.orientation import open_labelled_image
from manymask.plan import Labels
from manymask.wording import count_of

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "tissue images")
_FRAME = re.compile(r"(t|man_seg)(?P<number>\d+)")

# Label images with a longer side are written in tiles, of which viewers read those that they show.
_MAX_UNTILED = 2048
_TILE_SIZE = 256
# Of the 4 GB of a TIFF that is not a BigTIFF some are left for its tables, as tifffile does.
_MAX_CLASSIC = 2**32 - 2**25


def is_label_images(root: Path) -> bool:
    """Whether a folder holds folders of images and of label images, or label images beside their images.

    What ``predict`` wrote to ``labels`` and nobody has changed since is no ground truth.
    """
    folders = drop_outputs(find_folders(root, LABEL_FOLDERS)) if find_folders(root, IMAGE_FOLDERS) else []
    has_labels = any(_list_label_images(part) for folder in folders for part in (folder, *list_folders(folder)))
    has_folders = has_labels or any(not any(folder.iterdir()) for folder in folders)
    return bool(has_folders or _find_sequences(root) or _find_part(root) or _find_side_by_side(root).labels)


def read_label_images(root: str | Path, ignore_label: Labels = ()) -> Dataset:
    """Read label images of one class, ``object``.

    They lie in a folder ``labels`` or ``masks`` beside ``images``, or beside their images, and are called like these or
    with an affix such as ``_masks``, ``_label`` or ``_manual``; or they are laid out as those of the Cell Tracking
    Challenge. A folder ``images/train`` with ``labels/train`` is a data set too. Ids need not be dense; the pixels of
    one id are one instance, even in several pieces. Images without a label image, and the reverse, and label images of
    which it is not clear which image they are for, are left out and listed in the data set's ``problems``.

    Args:
        root: The folder.
        ignore_label: Values of pixels to ignore.

    Raises:
        DatasetError: There are no images with label images, or two of them have one name.
    """
    root = Path(root)
    if find_folders(root, IMAGE_FOLDERS):
        files = _find_in_folders(root)
    else:
        files = _find_sequences(root) or _find_part(root) or _find_side_by_side(root)
    names = dict(zip(files.images, name_images(list(files.images)), strict=True))
    check_unique_names((name, path) for path, name in names.items())
    matches = match_labels(files.images, files.labels)
    entries: list[Entry] = []
    problems: list[Problem] = []
    for path, name in names.items():
        if label := matches.labels.get(path):
            entries.append((name, path, None, (label,)))
        elif not files.is_sparse:
            message = f"{path} has no label image; add one named '{name}' (all zeros if it shows no object)"
            problems.append(report_incomplete(message, path, name))
    for path, name in matches.strangers.items():
        message = f"{path} labels an image '{name}' that is not there; add the image or remove the label"
        problems.append(report_incomplete(message, path, name))
    problems += [report_incomplete(message, path, path.stem) for path, message in matches.unclear.items()]
    if files.is_sparse and (num_left := len(names) - len(entries)):
        message = f"{root} has {count_of(num_left, 'frame')} without a segmentation, which are left out"
        problems.append(Problem("unusual-entries", "note", message, root))
    return make_dataset(root, FORMAT, _read_record, entries, problems, known=files.images, ignored=ignore_label)


class _Files(NamedTuple):
    """The images and label images of a folder, each by the name that tells which of them belong together.

    Attributes:
        images: The images.
        labels: The label images.
        is_sparse: Whether images without a label image are as they should be.
    """

    images: dict[Path, str]
    labels: dict[Path, str]
    is_sparse: bool = False


def find_folders(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders in a folder that have one of some names, in any case."""
    return [path for path in sorted(root.iterdir()) if path.name.lower() in names and path.is_dir()]


def _find_in_folders(root: Path) -> _Files:
    folders, image_folders = find_folders(root, LABEL_FOLDERS), find_folders(root, IMAGE_FOLDERS)
    # Unchanged outputs of predict are labels only where they are asked for, by the name of the format.
    folders = drop_outputs(folders) or folders
    if len(folders) != 1 or len(image_folders) != 1:
        raise DatasetError(
            f"{root} holds {len(folders)} folders of labels and {len(image_folders)} of images, expected one such as "
            f"'labels' or 'masks' beside 'images'; {'keep one of each' if folders else 'add one'}"
        )
    return _Files(_name_below(image_folders[0], list_images), _name_below(folders[0], _list_label_images))


def _find_part(root: Path) -> _Files | None:
    """The files of a folder such as ``images/train`` and of ``labels/train``; None where it is not of such a pair."""
    place = Path(os.path.abspath(root))
    if place.parent.name.lower() not in IMAGE_FOLDERS:
        return None
    folders = [folder / place.name for folder in find_folders(place.parent.parent, LABEL_FOLDERS)]
    folders = drop_outputs([folder for folder in folders if folder.is_dir() and _list_label_images(folder)])
    if len(folders) != 1:
        return None
    return _Files(_name_below(root, list_images), _name_below(folders[0], _list_label_images))


def _name_below(folder: Path, list_files: Callable[[Path], list[Path]]) -> dict[Path, str]:
    """The files in a folder, or in its folders where it holds none itself, each by its place without its ending."""
    paths = list_files(folder) or [path for part in list_folders(folder) for path in list_files(part)]
    return {path: path.relative_to(folder).with_name(get_label_stem(path)).as_posix() for path in paths}


def _list_label_images(folder: Path) -> list[Path]:
    """The label images in a folder: image files, and Cellpose's files of those that have no other."""
    images, others = list_images(folder), list_images(folder, (".npy",))
    if not others:
        return images
    stems = {strip_label(path.stem) for path in images} - {path.stem for path in images}
    return images + [path for path in others if strip_label(get_label_stem(path)) not in stems]


def get_label_stem(path: Path) -> str:
    """The stem of a label image, without what Cellpose adds to that of its own file."""
    return path.stem.removesuffix("_seg") if path.suffix.lower() == ".npy" else path.stem


def _find_side_by_side(root: Path) -> _Files:
    """Images and label images in one folder; Cellpose's flows are passed over."""
    arrays = [path for path in list_images(root, (".npy",)) if path.stem.lower().endswith("_seg")]
    names = {path: path.stem for path in list_images(root) if not _is_cellpose(path, "flows")}
    labels = find_labels_beside(names) | {path for path in names if _is_cellpose(path, "masks")}
    images = {path: name for path, name in names.items() if path not in labels}
    labelled = match_labels(images, {path: names[path] for path in labels}).labels
    # Cellpose's own file is what it is without a label image of the same name.
    lone = {path.stem for path in images if path not in labelled}
    labels |= {path for path in arrays if get_label_stem(path) in lone}
    return _Files(images, {path: get_label_stem(path) for path in sorted(labels)})


def _is_cellpose(path: Path, kind: str) -> bool:
    match = LABEL_STEM.fullmatch(path.stem)
    return match is not None and match["kind"].lower() == kind


def _find_sequences(root: Path) -> _Files | None:
    """Frames of the Cell Tracking Challenge: ``01/t000.tif`` with ``01_GT/SEG/man_seg000.tif`` of some of them."""
    files = _Files({}, {}, is_sparse=True)
    for folder in list_folders(root):
        truths = [root / f"{folder.name}_{kind}" / "SEG" for kind in ("GT", "ST")]
        truth = next((truth for truth in truths if truth.is_dir()), None)
        if not folder.name.isdigit() or truth is None:
            continue
        for paths, names in ((list_images(folder), files.images), (list_images(truth), files.labels)):
            numbers = ((path, _FRAME.fullmatch(path.stem)) for path in paths)
            names |= {path: f"{folder.name}/{match['number']}" for path, match in numbers if match}
    return files if files.labels else None


def _read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    (path,) = record.label_files
    label = read_label_image(path, is_split=record.is_split, ignored=record.ignored)
    image, doubts = open_labelled_image(record.path, label.ids.shape, label.orientation)
    check_size(path, label.ids.shape, record.path, image.size)
    return make_labelled_sample(record, image, [label], [1], 1, doubts)


def _name_instances(record: Record) -> list[str]:
    label = read_label_image(record.label_files[0], is_split=record.is_split, ignored=record.ignored)
    return [f"id {i}" for i in label.old_ids]


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
    """Write a TIFF of ids, uint16, above 65,535 uint32, or with pixels to ignore int32."""
    dtype = np.uint16 if ids.max(initial=0) <= np.iinfo(np.uint16).max else np.uint32
    dtype = np.int32 if ids.min(initial=0) < 0 else dtype
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
    """Writes ``images`` and ``labels``; pixels of several instances go to the first, those to ignore are -1."""

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and write its ids."""
        copy_image(self.dataset, record, self.folder / "images", is_turned=True)
        write_ids(self.folder / "labels" / f"{record.name}.tif", paint_labels(instances))


class CellposeWriter(DatasetWriter):
    """Writes each image with its ids beside it; pixels of several instances go to the first, none are to ignore."""

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and write its ids."""
        copy_image(self.dataset, record, self.folder, is_turned=True)
        write_ids(self.folder / f"{record.name}_masks.tif", paint_ids(instances)[0])


FORMAT = Format(
    "label_images",
    layout="images/ with labels/ or masks/, or x.tif with x_masks.tif, x_label.tif or x_seg.npy",
    detect=is_label_images,
    read=read_label_images,
    name_instances=_name_instances,
    open_writer=LabelImageWriter,
    holds=frozenset({"holes", "parts", "crowd"}),
    options=frozenset({"ignore_label"}),
    salvage=split_shared_ids,
)

CELLPOSE = replace(
    FORMAT,
    name="cellpose",
    layout="x.tif with x_masks.tif",
    open_writer=CellposeWriter,
    holds=FORMAT.holds - {"crowd"},
)
"""Label images as Cellpose takes them; they are read like all others."""
