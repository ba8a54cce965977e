"""Label images: reading their ids, and checks that their values are ids."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64, Shaped

from manymask.core import RunLengths, encode_layers, paint_layers
from manymask.core.components import FAR_GAP, are_scattered, count_pieces, find_pieces
from manymask.core.dataset import Record, Salvage
from manymask.errors import DatasetError, FormatError
from manymask.formats.cellpose import read_cellpose_masks
from manymask.imaging.decoding import read_raster
from manymask.imaging.orientation import check_labels_size, is_obeyed
from manymask.imaging.raster import Raster, turn

MAX_ID = 2**53  # the largest range in which float64 holds every whole number
# "White" of 8-bit, 16-bit and RGB-coded files.
_WHITE = (255, 65535, 0xFFFFFF)
# Label images with more values than a byte holds are not checked for shared values: programs that reuse colours give
# fewer.
_MAX_SHARED_VALUES = 255
# A label image counts as resampled above this share of pixels on rims. In those of dsb2018, emps and axons it is at
# most 0.001; after bilinear or cubic resizing, smoothing or JPEG of quality 50 to 95 it is 0.2 to 0.6. A few values may
# be classes, such as border and inside, and where nearly all pixels are on rims, objects may be one pixel wide.
_MAX_RIM_SHARE = 0.1
_MIN_RIM_VALUES = 10
_MIN_ROD = 10  # pixels of a thin object; interpolation makes smaller pieces of a value that no other has

# The largest value of a type is no object but a border where it touches this many others, and half of them.
_MIN_BORDERED = 3

_OWN_NUMBER = "every object needs its own number"
_NUMBER = "number the objects anew"
_SPLIT = f"{_NUMBER}, or let manymask inspect --fix give each separate piece a number"


@dataclass(frozen=True)
class LabelImage:
    """The instances of one label image.

    Attributes:
        ids: 1..N in the order of the file's ids, 0 for background.
        old_ids: The file's id of each instance.
        orientation: The orientation tag of the file, which has been obeyed.
        ignored: The pixels to ignore, which have no id; None where no values for them were named.
    """

    ids: Int32[np.ndarray, "height width"]
    old_ids: Int64[np.ndarray, " instances"]
    orientation: int = 1
    ignored: Bool[np.ndarray, "height width"] | None = None


def _get_values(raster: Raster, path: Path) -> Shaped[np.ndarray, "height width"]:
    """The values of a label image as they are stored: 0 for background, gaps and large ids kept, not turned.

    Palette images give their indices; images of three 8-bit channels give R + 256 G + 65536 B. What is transparent
    where other pixels are not is background. Ids stay as they are stored where the smallest value means white.
    """
    if raster.lossy:
        kind = "is a JPEG" if raster.lossy == "JPEG" else f"was saved as {raster.lossy}"
        raise FormatError(f"{path} {kind}, which changes ids when it is saved; save labels as PNG or lossless TIFF")
    values = raster.values
    if values.shape[2] == 3 and values.dtype == np.uint8:
        values = values.astype(np.int64) @ np.array([1, 256, 65536])
    elif values.shape[2] == 1:
        values = values[..., 0]
    else:
        raise FormatError(
            f"{path} has {values.shape[2]} channels of {values.dtype}, expected one channel of ids or 8-bit RGB; "
            "save it as a label image of one channel"
        )
    if raster.num_bits == 1:
        values = values * np.uint8(255)  # a mask by its type, whatever its one value is
    if raster.alpha is not None and raster.alpha.any():
        values = np.where(raster.alpha == 0, 0, values)
    return values


def _check_whole_numbers(values: Shaped[np.ndarray, "height width"], path: Path) -> Int64[np.ndarray, "height width"]:
    """The same values as int64."""
    with np.errstate(invalid="ignore"):
        ids = values.astype(np.int64)
    is_bad = (ids != values) | (ids < 0) | (ids > MAX_ID)
    if is_bad.any():
        row, column = np.argwhere(is_bad)[0]
        where = f"{path} holds {values[row, column]} at row {row}, column {column}"
        bad = values[is_bad]
        if np.isnan(bad).all() or (bad == -1).all():  # all else are ids
            raise FormatError(
                f"{where}, expected whole numbers from 0 (background); {_explain_ignoring(f'{bad[0]:g}')}"
            )
        raise FormatError(
            f"{where}, expected whole numbers from 0 (background) to 2^53; save ids, not probabilities or a signed code"
        )
    # Above this a float cannot hold every whole number, so that neighbouring ids become one.
    largest = 2 ** (np.finfo(values.dtype).nmant + 1) if values.dtype.kind == "f" else MAX_ID
    if ids.max(initial=0) > largest:
        raise FormatError(
            f"{path} holds the id {ids.max()} as {values.dtype}, which cannot tell ids above {largest} from each "
            "other; save it as uint32"
        )
    return ids


def _explain_ignoring(value: str) -> str:
    """What to do where a value seems to mean pixels to ignore."""
    return (
        f"give --ignore-label {value} (ignore_label in Python) if these are pixels to ignore in training and scores, "
        "else set them to 0 (background)"
    )


def _find_ignored(
    values: Shaped[np.ndarray, "height width"], ignored: Sequence[int | str]
) -> Bool[np.ndarray, "height width"]:
    is_ignored = np.isin(values, [value for value in ignored if value != "nan"])
    return is_ignored | np.isnan(values) if "nan" in ignored else is_ignored


def renumber_ids(
    ids: Int64[np.ndarray, "height width"],
) -> tuple[Int32[np.ndarray, "height width"], Int64[np.ndarray, " instances"]]:
    """Renumber ids densely, 1..N in ascending order; 0 stays background.

    Returns:
        The new ids, and the old id of each.
    """
    flat = ids.ravel()
    is_first = np.ones(flat.size, dtype=bool)
    is_first[1:] = flat[1:] != flat[:-1]
    begin = np.flatnonzero(is_first)
    old_ids, place = np.unique(np.append(flat[begin], 0), return_inverse=True)
    dense = np.repeat(place[:-1].astype(np.int32), np.diff(begin, append=flat.size))
    return dense.reshape(ids.shape), old_ids[1:]


def read_label_image(
    path: Path, *, is_split: bool = False, is_checked: bool = True, ignored: Sequence[int | str] = ()
) -> LabelImage:
    """Read a label image and number its instances 1..N in the order of their ids.

    Args:
        path: The file.
        is_split: Take every piece of a value for an instance of its own, as for masks of 0 and 1.
        is_checked: Refuse values that are no ids: one that is white, a few in many pieces far from each other, one that
            outlines the others, or many that mostly lie between others.
        ignored: Values of pixels to ignore; NaN as ``nan``.

    Raises:
        FormatError: The file cannot be read, was saved by a lossy codec, or does not hold ids: whole numbers from 0 to
            2^53 (to the last that its type of float holds with all before it). With ``is_split`` also where two values
            touch, since their pieces then need not be objects.
    """
    if path.suffix.lower() == ".npy":
        return number_ids(path, read_cellpose_masks(path), is_split=is_split, is_checked=is_checked, ignored=ignored)
    check_labels_size(path, read_raster(path, is_decoded=False).size)
    raster = read_raster(path)
    orientation = raster.orientation if is_obeyed() else 1
    values = turn(_get_values(raster, path), orientation)
    label = number_ids(path, values, is_split=is_split, is_checked=is_checked, ignored=ignored)
    return replace(label, orientation=orientation)


def number_ids(
    path: Path,
    values: Shaped[np.ndarray, "height width"],
    *,
    is_split: bool = False,
    is_checked: bool = True,
    ignored: Sequence[int | str] = (),
) -> LabelImage:
    """Number the instances of an array of ids; ``path`` is what messages call it.

    Raises:
        FormatError: It does not hold ids, as for ``read_label_image``.
    """
    is_ignored = None
    if ignored:
        is_ignored = _find_ignored(values, ignored)
        values = np.where(is_ignored, 0, values)
    ids, old_ids = renumber_ids(_check_whole_numbers(values, path))
    if is_checked:
        _check_not_resampled(path, ids, len(old_ids))
    if is_split:
        if _touch(ids, len(old_ids)):
            raise FormatError(f"{path} holds values that touch, so that their pieces need not be objects; {_NUMBER}")
        pieces, source = find_pieces(_encode(ids, len(old_ids)), 0)
        return LabelImage(paint_layers(pieces)[0].numpy(), old_ids[source], ignored=is_ignored)
    if is_checked:
        if len(old_ids) == 1 and old_ids[0] in _WHITE:
            raise FormatError(
                f"{path} holds only 0 and {old_ids[0]}: a binary mask, not instances, and {_OWN_NUMBER}; {_SPLIT}"
            )
        _check_no_border(path, ids, old_ids)
        _check_not_shared(path, ids, old_ids)
    return LabelImage(ids, old_ids, ignored=is_ignored)


def _check_not_resampled(path: Path, ids: Int32[np.ndarray, "height width"], num_ids: int) -> None:
    """Refuse a label image of which many pixels lie between a smaller and a larger value.

    Interpolation and lossy codecs make such rims around objects. A thin object between two others consists of rim only
    and does not count.
    """
    if num_ids <= _MIN_RIM_VALUES:
        return
    is_rim = np.zeros(ids.shape, dtype=bool)
    for values, rim in ((ids, is_rim), (ids.T, is_rim.T)):
        rises = values[:, 1:] > values[:, :-1]
        falls = values[:, 1:] < values[:, :-1]
        rim[:, 1:-1] |= (rises[:, 1:] & rises[:, :-1]) | (falls[:, 1:] & falls[:, :-1])
    areas = np.bincount(ids.ravel(), minlength=num_ids + 1)[1:]
    rim_areas = np.bincount(ids[is_rim], minlength=num_ids + 1)[1:]
    # Interpolated values come back all along a rim or are of a few pixels; a thin object is in one place.
    _, owner = find_pieces(_encode(ids, num_ids))
    rim_areas[(rim_areas == areas) & (areas >= _MIN_ROD) & (np.bincount(owner, minlength=num_ids) == 1)] = 0
    share = rim_areas.sum() / areas.sum()
    if share > _MAX_RIM_SHARE and areas[2 * rim_areas <= areas].sum() > _MAX_RIM_SHARE * areas.sum():
        raise FormatError(
            f"{path} holds {num_ids} values, and {share:.0%} of the pixels with one lie between a smaller and a larger "
            "one: it was resized with interpolation, smoothed or saved by a lossy codec, which makes ids that no "
            "object has; resize labels with nearest neighbours, and save them as PNG or lossless TIFF"
        )


def _check_no_border(
    path: Path, ids: Int32[np.ndarray, "height width"], old_ids: Int64[np.ndarray, " instances"]
) -> None:
    """Refuse a label image where the largest value of a type outlines the objects, as in PASCAL VOC."""
    num_others = len(old_ids) - 1
    if num_others < _MIN_BORDERED or old_ids[-1] not in _WHITE or old_ids[-1] == old_ids[-2] + 1:
        return
    is_border = ids == len(old_ids)
    sides = [(slice(None), slice(1, None)), (slice(None), slice(None, -1))]
    sides += [(rows, columns) for columns, rows in sides]
    pairs = [(sides[0], sides[1]), (sides[1], sides[0]), (sides[2], sides[3]), (sides[3], sides[2])]
    touched = np.unique(np.concatenate([ids[one][is_border[other]] for one, other in pairs]))
    num_touched = int(((touched > 0) & (touched < len(old_ids))).sum())
    if num_touched >= max(_MIN_BORDERED, num_others / 2):
        raise FormatError(
            f"{path} holds {old_ids[-1]} along {num_touched} of {num_others} objects: borders, or pixels to ignore; "
            + _explain_ignoring(str(old_ids[-1]))
        )


def _check_not_shared(
    path: Path, ids: Int32[np.ndarray, "height width"], old_ids: Int64[np.ndarray, " instances"]
) -> None:
    """Refuse a few values that each cover several objects: 0 and 1, inside and border, or a few colours in turn."""
    if len(old_ids) > _MAX_SHARED_VALUES:
        return
    # One or two values are a mask, or inside and border, of objects that may lie close together; more of them may be
    # the ids of objects that thin lines cross.
    gap = 0 if len(old_ids) <= 2 else FAR_GAP
    counts = count_pieces(_encode(ids, len(old_ids)), gap)
    if are_scattered(counts, 3.0):
        values = ", ".join(map(str, old_ids[:5].tolist())) + (", .." if len(old_ids) > 5 else "")
        what = "the value" if len(old_ids) == 1 else f"{len(old_ids)} values"
        remedy = _NUMBER if _touch(ids, len(old_ids)) else _SPLIT
        raise FormatError(
            f"{path} holds {what} {values} in about {counts.sum():.0f} separate pieces: a mask or classes, "
            f"not instances, and {_OWN_NUMBER}; {remedy}"
        )


def _touch(ids: Int32[np.ndarray, "height width"], num_ids: int) -> bool:
    """Whether instances touch others, so that pieces of a value need not be whole objects."""
    islands, _ = find_pieces(_encode((ids > 0).astype(np.int32), 1), 0)
    return len(islands) != len(find_pieces(_encode(ids, num_ids), 0)[0])


def _encode(ids: Int32[np.ndarray, "height width"], num_ids: int) -> RunLengths:
    return encode_layers(torch.from_numpy(np.ascontiguousarray(ids)[None]), num_ids)


def check_size(path: Path, size: tuple[int, int], image_path: Path, image_size: tuple[int, int]) -> None:
    """Refuse a label of another size than its image.

    Raises:
        DatasetError: The two (height, width) differ.
    """
    if size != image_size:
        raise DatasetError(
            f"{path} is {size[0]} x {size[1]} (height x width), but its image {image_path} is "
            f"{image_size[0]} x {image_size[1]}; label and image must have the same size"
        )


def split_shared_ids(record: Record) -> Salvage | None:
    """Take each separate piece of a value for an object; None where that makes no unreadable label image readable."""
    faults: dict[Path, str] = {}
    for path in record.label_files:
        try:
            read_label_image(path, ignored=record.ignored)
        except FormatError as error:
            faults[path] = str(error)
    if record.is_split or not faults:
        return None
    try:
        for path in faults:
            read_label_image(path, is_split=True, ignored=record.ignored)
    except FormatError:
        return None
    path, message = next(iter(faults.items()))
    action = "gave each separate piece of a value an id of its own; objects that touch are still one"
    return Salvage(replace(record, is_split=True), "shared-ids", path, message.rpartition("; ")[0], action)
