"""The 2-D images of TIFF files."""

import re
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image

from manymask.core import Window
from manymask.errors import FormatError
from manymask.imaging.planes import ONE_PLANE, PlaneChoice
from manymask.imaging.raster import Raster, check_declared_size
from manymask.imaging.tiff_layout import JPEG, decode_whole, find_image

_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
# Codes of TIFF's Compression tag. Decoders of JPEG and WebP give RGB for YCbCr by themselves.
_JPEG_2000 = (33003, 33004, 33005, 34712)
_WEBP = (34927, 50001)
# TIFF 6.0, section 21: the defaults of YCbCrCoefficients and of ReferenceBlackWhite for YCbCr of 8 bits.
_LUMA = (0.299, 0.587, 0.114)
_BLACK_WHITE = (0, 255, 128, 255, 128, 255)


def read_tiff(
    path: Path,
    window: Window | None = None,
    is_decoded: bool = True,
    choice: PlaneChoice = ONE_PLANE,
    level: int = 0,
) -> Raster:
    """Decode a 2-D image of a TIFF, or a part of it; small copies of it beside it are ignored.

    Args:
        path: The file.
        window: The part that is wanted of the level; passed over where parts cannot be decoded without the others.
        is_decoded: Without it only the header is read, and the values are one made-up pixel.
        choice: Which image is wanted of a file that holds several.
        level: The resolution that is wanted of a pyramid.

    Raises:
        FormatError: It holds several images or planes and nothing says which is wanted, has colours that only a
            conversion makes RGB, is declared larger than the limit, ends before its data do, or a part is damaged.
    """
    image = find_image(path, choice)
    page, size, dtype = image.page, image.levels[level].size, image.levels[level].dtype
    if not is_decoded:
        values = np.zeros((1, 1, image.num_channels), dtype)
    elif image.is_cuttable:
        window = window or Window(0, 0, *size)
        check_declared_size(path, (*window[2:], image.num_channels), dtype)
        values = image.levels[level].read(path, window)
    else:
        values = decode_whole(path, choice, level)
    if image.is_unnamed:
        _check_equal_planes(values, path)
    values, alpha = _split_alpha(values, page)
    if page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression not in JPEG + _WEBP:
        values = _convert_ycbcr(values, page, path)
    colormap = page.colormap if page.photometric == tifffile.PHOTOMETRIC.PALETTE else None
    raster = Raster(
        values,
        size,
        palette=None if colormap is None else (colormap >> 8).astype(np.uint8).T,
        alpha=alpha,
        orientation=int(page.tags.valueof(274, default=1)),
        num_bits=page.bitspersample if page.bitspersample < 8 else None,
        is_inverted=page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
        lossy=_find_lossy_codec(page, path),
        is_cuttable=image.is_cuttable,
        level_sizes=tuple(each.size for each in image.levels),
        pixel_size=image.pixel_size,
    )
    return raster if image.is_picked else raster.pick_channels(choice, path)


def _check_equal_planes(planes: Shaped[np.ndarray, "height width planes"], path: Path) -> None:
    """Refuse planes that nothing calls channels, unless all are the same, as of grey that was stored as RGB."""
    if (planes != planes[..., :1]).any():
        number = planes.shape[2]
        raise FormatError(
            f"{path} holds {number} planes of which nothing says whether they are channels or a stack; save it as RGB "
            "(photometric RGB, or axes CYX), or each plane as one file, or choose what to predict: --channels "
            f"{'1,2,3' if number > 2 else '1'} or --page (1 to {number}, or all)"
        )


def _split_alpha(
    values: Shaped[np.ndarray, "height width channels"], page: tifffile.TiffPage
) -> tuple[Shaped[np.ndarray, "height width colors"], Shaped[np.ndarray, "height width"] | None]:
    """Colours, and the first channel that is declared as alpha; the fourth one of RGB is alpha even without that."""
    num_channels = values.shape[2]
    if page.photometric == tifffile.PHOTOMETRIC.RGB and num_channels == 4:
        return values[..., :3], values[..., 3]
    num_colors = num_channels - len(page.extrasamples)
    is_alpha = [num_colors >= 1 and sample in _ALPHA for sample in page.extrasamples]
    places = [num_colors + i for i, flag in enumerate(is_alpha) if flag]
    colors = values[..., [i for i in range(num_channels) if i not in places]]
    return colors, values[..., places[0]] if places else None


def _convert_ycbcr(
    values: Shaped[np.ndarray, "height width channels"], page: tifffile.TiffPage, path: Path
) -> Shaped[np.ndarray, "height width 3"]:
    """RGB of YCbCr with the usual coefficients."""
    luma = np.array(page.tags.valueof(529, default=_LUMA), dtype=float).ravel()
    black_white = np.array(page.tags.valueof(532, default=_BLACK_WHITE), dtype=float).ravel()
    # Tags hold fractions: numerators and denominators in turn.
    luma = luma[::2] / luma[1::2] if len(luma) == 6 else luma
    black_white = black_white[::2] / black_white[1::2] if len(black_white) == 12 else black_white
    is_usual = np.allclose(luma, _LUMA, atol=1e-3) and np.allclose(black_white, _BLACK_WHITE)
    if values.dtype != np.uint8 or values.shape[2] != 3 or not is_usual:
        raise FormatError(f"{path} holds YCbCr colours of an unusual kind; save it as RGB")
    return np.asarray(Image.frombytes("YCbCr", values.shape[1::-1], values.tobytes()).convert("RGB"))


def _find_lossy_codec(page: tifffile.TiffPage, path: Path) -> str | None:
    """The codec that may have changed the values when they were saved, by the head of the first strip or tile."""
    code = int(page.compression)
    if code not in JPEG + _JPEG_2000 + _WEBP:
        return None
    first = next(
        ((place, size) for place, size in zip(page.dataoffsets, page.databytecounts, strict=True) if size), None
    )
    if first is None:
        return None
    with open(path, "rb") as file:
        file.seek(first[0])
        head = file.read(min(first[1], 1 << 16))
    if code in JPEG:
        frame = re.search(rb"\xff([\xc0-\xc3\xc5-\xc7\xc9-\xcb])", head)  # the start of frame: C3 is lossless
        return None if frame and frame[1] == b"\xc3" else "JPEG"
    if code in _JPEG_2000:
        style = re.search(rb"\xff\x52.{11}(.)", head, re.DOTALL)  # COD, whose transformation is 1 if reversible
        return None if style and style[1] == b"\x01" else "JPEG 2000"
    return None if b"VP8L" in head else "WebP"
