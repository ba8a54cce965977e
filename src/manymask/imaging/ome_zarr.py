"""Images of OME-Zarr (NGFF 0.4 and 0.5): folders of chunks, of which those that a window touches are read."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from manymask.core import ImageSource, Window
from manymask.errors import FormatError, ManymaskError
from manymask.imaging.pixel_size import UNITS, check_pixel_size
from manymask.imaging.planes import ONE_PLANE, PlaneChoice, Stack, choose_place, index_channels, list_places
from manymask.imaging.raster import check_declared_size, is_smaller_copy


class _Image(NamedTuple):
    """One image of a folder: its axes' names, and units where given, its levels, and the first one's scale."""

    axes: str
    units: tuple[str | None, ...]
    levels: tuple[Any, ...]
    scale: tuple[float, ...]


class ZarrSource(ImageSource):
    """An image of OME-Zarr.

    Args:
        path: The folder.
        choice: Which plane and which channels are taken of it.

    Raises:
        FormatError: It holds no image, or several planes and nothing says which.
        ManymaskError: ``zarr`` is not installed.
    """

    def __init__(self, path: Path, choice: PlaneChoice = ONE_PLANE) -> None:
        images = _open(path)
        self.path, self.choice = path, choice
        number, self._place = choose_place(_list_stacks(images), choice, path)
        self._image = axes, units, levels, scale = images[number]
        self._level_sizes = tuple((level.shape[axes.index("y")], level.shape[axes.index("x")]) for level in levels)
        self.size, self.dtype = self._level_sizes[0], levels[0].dtype.newbyteorder("=")
        num_channels = levels[0].shape[axes.index("c")] if "c" in axes else 1
        self._channels = index_channels(choice, num_channels, path)
        self.num_channels = len(self._channels)
        places = [axes.index(name) for name in "yx"]
        sides = [UNITS.get((units[place] or "").lower(), 0.0) * scale[place] for place in places]
        self.pixel_size = check_pixel_size((sides[0], sides[1]))

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each resolution."""
        return self._level_sizes

    def read(self, window: Window | None = None, level: int = 0) -> Shaped[np.ndarray, "height width channels"]:
        """The pixels of a part of the image; see ``ImageSource.read``."""
        window = self._locate(window, level)
        check_declared_size(self.path, (*window[2:], self.num_channels), self.dtype)
        axes, array, full = self._image.axes, self._image.levels[level], self._image.levels[0].shape
        parts: dict[str, Any] = dict(zip("yx", window.slices, strict=True))
        for name, place in zip(_name_stack(axes), self._place, strict=True):
            # Lower levels may have fewer planes along z.
            parts[name] = place * array.shape[axes.index(name)] // full[axes.index(name)]
        parts["c"] = self._channels
        try:
            values = array.oindex[tuple(parts[name] for name in axes)]
        except MemoryError:
            raise
        except Exception as error:  # codecs raise kinds of their own
            raise FormatError(
                f"{self.path} cannot be read at row {window.top}, column {window.left} of level {level}: a chunk is "
                f"damaged ({' '.join(str(error).split())}); copy or export it again"
            ) from error
        left = [name for name in axes if name in "cyx"]
        values = values if "c" in left else values[..., None]
        order = [left.index(name) for name in "yx"] + [left.index("c") if "c" in left else 2]
        return np.ascontiguousarray(values.transpose(order), self.dtype)


def is_zarr(path: Path) -> bool:
    """Whether a path is a folder of Zarr, by its name or by what each of its groups holds."""
    if not path.is_dir():
        return False
    return path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def count_zarr_planes(path: Path, choice: PlaneChoice) -> int:
    """How many 2-D images ``z`` and ``t`` leave."""
    return len(list_places(_list_stacks(_open(path)), choice, path))


def _list_stacks(images: tuple[_Image, ...]) -> list[Stack]:
    return [
        Stack(
            _name_stack(image.axes).upper(),
            tuple(image.levels[0].shape[image.axes.index(name)] for name in _name_stack(image.axes)),
            f"shape {image.levels[0].shape} (axes {image.axes.upper()})",
        )
        for image in images
    ]


def _name_stack(axes: str) -> str:
    """The axes along which 2-D images lie."""
    return "".join(name for name in axes if name not in "cyx")


def _open(path: Path) -> tuple[_Image, ...]:
    """The images of a folder: one, or those of a converter's numbered groups."""
    try:
        import zarr
    except ImportError as error:
        raise ManymaskError(
            f"{error.name} is not installed, which reads {path}; run pip install 'manymask[zarr]'"
        ) from error
    try:
        group = zarr.open_group(path, mode="r")
        found = _read_metadata(group)
        if "plate" in found or "well" in found:
            raise FormatError(f"{path} is a plate of many images; give the folder of one, such as {path.name}/A/1/0")
        # Bio-Formats writes each image of a file into a group of its own, named 0, 1, ..
        groups = [group]
        if "multiscales" not in found and "bioformats2raw.layout" in found:
            names = sorted((name for name in group.group_keys() if name.isdecimal()), key=int)
            groups = [zarr.open_group(path / name, mode="r") for name in names]
        images = tuple(_read_image(each, path) for each in groups)
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # of damaged JSON, of lacking keys, of groups that are none
        raise FormatError(
            f"{path} cannot be read as OME-Zarr image ({' '.join(str(error).split())}); expected the folder of an "
            "image with its multiscales: copy or export it again"
        ) from error
    if not images:
        raise FormatError(f"{path} holds no images; copy or export it again")
    return images


def _read_metadata(group: Any) -> dict[str, Any]:
    """NGFF 0.5 has an object ``ome`` around what 0.4 has without."""
    attributes = dict(group.attrs)
    return attributes.get("ome", attributes)


def _read_image(group: Any, path: Path) -> _Image:
    """Axes and levels of an image.

    Raises:
        FormatError: It has other axes than t, c, z, y and x, or a level is no smaller copy of the first.
    """
    (multiscale, *_) = _read_metadata(group)["multiscales"]
    levels = tuple(group[dataset["path"]] for dataset in multiscale["datasets"])
    # Before 0.4 axes were names, and before 0.3 always these five.
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in multiscale.get("axes", "tczyx")]
    names = "".join(axis["name"] for axis in axes)
    first = levels[0].shape
    if not set("yx") <= set(names) <= set("tczyx") or len(set(names)) != len(axes) or len(first) != len(axes):
        raise FormatError(f"{path} has the axes {names} of shape {first}, expected t, c, z, y and x, each once")
    rows, columns = names.index("y"), names.index("x")
    for level in levels:
        check_declared_size(path, level.chunks, level.dtype)  # a chunk is decoded as a whole
    for number, level in enumerate(levels[1:], start=1):
        is_alike = len(level.shape) == len(first) and level.dtype == levels[0].dtype
        is_alike = is_alike and all(
            level.shape[axis] == length for axis, length in enumerate(first) if names[axis] in "tc"
        )
        is_alike = is_alike and ("z" not in names or level.shape[names.index("z")] <= first[names.index("z")])
        sizes = (first[rows], first[columns]), (level.shape[rows], level.shape[columns])
        if not (is_alike and is_smaller_copy(*sizes)):
            raise FormatError(
                f"{path} is no pyramid: its level {number} is {' x '.join(map(str, level.shape))} of {level.dtype}, "
                f"which is no smaller copy of {' x '.join(map(str, first))} of {levels[0].dtype}; export it again"
            )
    transformations = multiscale["datasets"][0].get("coordinateTransformations", [])
    scale = next((each["scale"] for each in transformations if each.get("type") == "scale"), [0.0] * len(axes))
    units = tuple(axis.get("unit") for axis in axes)
    return _Image(names, units, levels, tuple(map(float, scale)))
