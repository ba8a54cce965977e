"""One mask file for each object, as in the Data Science Bowl 2018: ``<name>/images/*.png``, ``<name>/masks/*.png``."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Shaped

from manymask.core import encode_crops, encode_layers, paint_layers
from manymask.core.components import find_pieces
from manymask.core.dataset import Category, Dataset, Format, Record, Salvage, Sample
from manymask.core.runs import expand_ranges
from manymask.errors import DatasetError, FormatError
from manymask.formats.ids import check_size
from manymask.formats.label_images import LabelImageWriter
from manymask.formats.records import Entry, find_entries, make_dataset, make_sample
from manymask.imaging.decoding import read_raster
from manymask.imaging.files import IMAGE_SUFFIXES, list_folders, list_images
from manymask.imaging.orientation import is_obeyed, open_labelled_image
from manymask.imaging.raster import Raster, turn
from manymask.wording import list_some

# Other kinds of image are listed as well, so that a mask that cannot be read is named and not missing.
_MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".jxl", ".avif", ".heic", ".pgm", ".ppm", ".tga", ".npy")
_MAX_FLAT_VALUES = 10  # masks with more values than this are smoothed or were saved by a lossy codec
_MIN_SHARE = 10  # objects down to a tenth of the largest one are compared; what is smaller may be noise


def is_mask_files(root: Path) -> bool:
    """Whether one of the folders in a folder holds ``images``, of one image at most, and ``masks``."""
    folders = [path for path in list_folders(root) if (path / "images").is_dir() and (path / "masks").is_dir()]
    return any(len(list_images(folder / "images")) <= 1 for folder in folders)


def read_mask_files(root: str | Path) -> Dataset:
    """Read folders of an image and the masks of its objects, all of one class, ``object``.

    Every pixel of a mask that is not 0 belongs to its object; of a grey mask, as JPEG and smoothing make it, those
    above half of its largest value. An empty folder ``masks`` means that there is no object. Folders that lack their
    masks or have not exactly one image are left out and listed in the data set's ``problems``.

    Raises:
        DatasetError: There are no folders with an image and masks.
    """
    root = Path(root)
    entries, problems = find_entries(list_folders(root), _find_entry)
    return make_dataset(root, FORMAT, _read_record, entries, problems, folders=[root])


def _find_entry(folder: Path) -> Entry:
    images = list_images(folder / "images") if (folder / "images").is_dir() else []
    if len(images) != 1:
        raise DatasetError(
            f"{folder / 'images'} holds {len(images)} images, expected one for each folder of masks; keep one"
        )
    if not (folder / "masks").is_dir():
        raise DatasetError(f"{folder} holds no folder 'masks'; add one (empty if the image shows no object)")
    return folder.name, images[0], None, tuple(list_images(folder / "masks", _MASK_SUFFIXES))


def _read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    size, orientation = None, 1
    if record.label_files:
        mask, orientation = _read_mask(record.label_files[0])
        size = mask.shape
    image, doubts = open_labelled_image(record.path, size, orientation)
    runs = encode_crops(_read_crops(record, image.size), image.size)
    return make_sample(record, image, paint_layers(runs), np.ones(len(runs), dtype=np.int64), doubts=doubts)


def _read_crops(
    record: Record, size: tuple[int, int]
) -> Iterator[tuple[int, int, Bool[np.ndarray, "crop_height crop_width"]]]:
    """Each mask inside its own box; only the box stays in memory."""
    for path in record.label_files:
        mask, _ = _read_mask(path)
        check_size(path, mask.shape, record.path, size)
        rows, columns = np.flatnonzero(np.any(mask, axis=1)), np.flatnonzero(np.any(mask, axis=0))
        if len(rows) == 0:
            raise FormatError(f"{path} is a mask without any pixel, expected one object in each file; remove the file")
        top, left = int(rows[0]), int(columns[0])
        yield left, top, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()


def _read_mask(path: Path) -> tuple[Bool[np.ndarray, "height width"], int]:
    """The pixels of one object, and the orientation tag that was obeyed."""
    raster = read_raster(path)
    # ImageJ's inverted look-up table and tifffile's files of bool show an object as black on white: it is what they
    # store. Other files of that kind store the background.
    mask = _find_object(raster, raster.values if raster.is_inverted else raster.show(), path)
    if raster.is_inverted and _is_background(mask):
        mask = _find_object(raster, raster.show(), path)
    is_white_first = raster.palette is not None and raster.palette[0].any()
    if is_white_first and _is_background(mask) and not mask.all():
        mask = ~mask
    orientation = raster.orientation if is_obeyed() else 1
    return turn(mask, orientation), orientation


def _find_object(
    raster: Raster, shown: Shaped[np.ndarray, "height width channels"], path: Path
) -> Bool[np.ndarray, "height width"]:
    if raster.alpha is not None and (shown == shown[0, 0]).all():
        shown = raster.alpha[..., None]  # one colour everywhere, cut out by its opacity
    mask = np.asarray(shown.any(axis=2))
    values = shown[mask]
    if (values == values[:1]).all():
        return mask
    grey = shown.max(axis=2)
    if raster.lossy in (None, "GIF"):  # GIF keeps the values of flat areas apart
        _check_one_object(grey, path)
    is_smooth = raster.lossy is not None or len(np.unique(grey)) > _MAX_FLAT_VALUES
    return np.asarray(grey > grey.max() / 2) if is_smooth else mask


def _check_one_object(grey: Shaped[np.ndarray, "height width"], path: Path) -> None:
    """Refuse a label image: separate objects of like size, each mostly of one value of its own.

    A thin piece of a smoothed mask has a lower maximum than the others, but few pixels that reach it.
    """
    islands, _ = find_pieces(encode_layers(torch.from_numpy((grey != 0).astype(np.int32)[None]), 1), 0)
    large = islands.select(np.flatnonzero(islands.areas * _MIN_SHARE >= islands.areas.max()))
    run, position = expand_ranges(large.start, large.length)
    owner, values = large.owner[run], grey.T.ravel()[position]  # runs are in column order
    highest = np.zeros(len(large), dtype=grey.dtype)
    np.maximum.at(highest, owner, values)
    is_flat = 2 * np.bincount(owner, values == highest[owner], len(large)) > large.areas
    if len(found := np.unique(highest[is_flat])) > 1:
        raise FormatError(
            f"{path} holds {len(large)} separate objects with {len(found)} values: a label image, where one file for "
            "each object was expected; put label images into 'labels' beside 'images', named like the images"
        )


def _is_background(mask: Bool[np.ndarray, "height width"]) -> bool:
    """Whether a mask covers most of the image, up to all of its borders."""
    return bool(mask.mean() > 0.5 and mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any())


def _name_instances(record: Record) -> list[str]:
    return [path.name for path in record.label_files]


def _drop_empty_masks(record: Record) -> Salvage | None:
    try:
        empty = [path for path in record.label_files if not _read_mask(path)[0].any()]
    except FormatError:  # one cannot be read at all, which then is the finding
        return None
    if not empty:
        return None
    kept = tuple(path for path in record.label_files if path not in empty)
    what = f"masks without any pixel: {list_some(path.name for path in empty)}"
    return Salvage(replace(record, label_files=kept), "empty-mask-file", empty[0], f"has {what}", f"removed {what}")


FORMAT = Format(
    "mask_files",
    layout="<name>/images/ with <name>/masks/",
    detect=is_mask_files,
    read=read_mask_files,
    name_instances=_name_instances,
    open_writer=LabelImageWriter,
    changes="mask files became label images, so an overlap belongs to the first mask",
    holds=frozenset({"holes", "parts", "crowd"}),
    copy_format="label_images",
    salvage=_drop_empty_masks,
)
