"""The size of a pixel in micrometres, as the tags of TIFF files give it."""

import math
import re

import tifffile

# Micrometres of a unit, as OME, NGFF and ImageJ write it. ImageJ writes the sign as an escape.
UNITS = {
    **dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("in", "inch"), 25400.0),
}
# Coarser resolution tags speak of paper or of a screen: 1,200 dots an inch are 21 micrometres, 72 are 353.
_COARSEST = 20.0


def read_pixel_size(tiff: tifffile.TiffFile, page: tifffile.TiffPage, number: int) -> tuple[float, float] | None:
    """(height, width) of a pixel in micrometres by the metadata of OME, Aperio or ImageJ, or by the resolution tags.

    Args:
        tiff: The file.
        page: The image's first page.
        number: The image's place among all images of the file, for OME.
    """
    if tiff.ome_metadata:
        size = _read_ome(tiff.ome_metadata, number)
    elif aperio := re.search(r"\bMPP\s*=\s*([\d.]+)", page.description if tiff.is_svs else ""):
        size = (float(aperio[1]), float(aperio[1]))
    else:
        size = _read_resolution(tiff, page)
    return check_pixel_size(size)


def check_pixel_size(size: tuple[float, float] | None) -> tuple[float, float] | None:
    """The size, unless it is none: tools write 0 and infinity for what they do not know."""
    return size if size and all(math.isfinite(side) and side > 0 for side in size) else None


def _read_ome(metadata: str, number: int) -> tuple[float, float] | None:
    """PhysicalSizeY and PhysicalSizeX of an image in OME-XML, in micrometres unless a unit is given."""
    images = re.findall(r"<(?:\w+:)?Pixels\b([^>]*)>", metadata)
    if not number < len(images):
        return None
    attributes = dict(re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", images[number]))
    try:
        height, width = (
            float(attributes[f"PhysicalSize{axis}"]) * UNITS[attributes.get(f"PhysicalSize{axis}Unit", "um").lower()]
            for axis in "YX"
        )
    except (KeyError, ValueError):  # not given, or in pixels
        return None
    return height, width


def _read_resolution(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[float, float] | None:
    """By the resolution tags: pixels in a unit, which ImageJ names in its own metadata."""
    unit = str((tiff.imagej_metadata or {}).get("unit", "")).strip('"').lower()
    code = {2: "inch", 3: "cm"}.get(int(page.tags.valueof(296, default=2)), "")
    micrometres = UNITS.get(unit or code)
    fractions = [page.tags.valueof(tag, default=None) for tag in (283, 282)]  # YResolution, XResolution
    if micrometres is None or any(not fraction or 0 in fraction for fraction in fractions):
        return None
    height, width = (micrometres * fraction[1] / fraction[0] for fraction in fractions)
    return (height, width) if unit or max(height, width) < _COARSEST else None
