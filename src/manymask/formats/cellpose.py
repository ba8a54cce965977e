"""Cellpose's ``_seg.npy``: the masks of a pickled dictionary, without running what the pickle asks for."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from manymask.errors import FormatError

_MAX_BYTES = 1 << 32
_KINDS = "buif"
_REMEDY = "save the masks as PNG or TIFF in Cellpose (x_cp_masks) and remove it"


class _Type:
    """Stands for a type of numpy's: its code, and its order of bytes, which the pickle gives later."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Stands for an array of numpy's: the parts that it is made of."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state[1:]  # without the number of the version

    def to_array(self) -> Shaped[np.ndarray, "..."]:
        """The array of numbers.

        Raises:
            ValueError: It is of something else.
        """
        shape, kind, is_fortran, content = self.state
        dtype = np.dtype(kind.order.replace("=", "|") + kind.code)
        if dtype.kind not in _KINDS:
            raise ValueError(f"it is of {dtype}")
        return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")


def _from_buffer(content: Any, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    """What numpy's function of a like name makes of a buffer in pickles of protocol 5."""
    array = _Array()
    array.state = (shape, kind, order == "F", content)
    return array


def _ignore(*_: object) -> None:
    """Stands for a function whose result nobody looks at."""


# What numpy's arrays are pickled as, each by the only thing that a pickle is given for it.
_STAND_INS = {
    "_reconstruct": _Array,
    "_frombuffer": _from_buffer,
    "scalar": _ignore,
    "ndarray": _Array,
    "dtype": _Type,
}
_MODULES = ("numpy", *(f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "numeric")))


class _Unpickler(pickle.Unpickler):
    """Gives a pickle nothing but stand-ins, so that it can make plain containers, numbers and texts alone."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name in _MODULES and global_name in _STAND_INS:
            return _STAND_INS[global_name]
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")


def read_cellpose_masks(path: Path) -> Shaped[np.ndarray, "height width"]:
    """The ids of ``masks`` in the dictionary that Cellpose saves; a file of one plain array is taken as well.

    A pickle may run code. This one is given stand-ins for what arrays are made of and nothing else, so that it cannot.

    Raises:
        FormatError: The file is damaged, too large or of something else, or its pickle asks for more than arrays.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise FormatError(f"{path} is larger than {_MAX_BYTES >> 30} GB; {_REMEDY}")
    try:
        with open(path, "rb") as file:
            masks = _read_array(file)
    except Exception as error:  # of a damaged pickle, whatever comes of its parts
        raise FormatError(f"{path} cannot be read as Cellpose's masks ({error}); {_REMEDY}") from error
    masks = masks[0] if masks.ndim == 3 and len(masks) == 1 else masks
    if masks.ndim != 2:
        raise FormatError(f"{path} holds masks of shape {masks.shape}, expected height x width; {_REMEDY}")
    return masks


def _read_array(file: Any) -> Shaped[np.ndarray, "..."]:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = read_header(file)
    if not dtype.hasobject:
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    content = _Unpickler(file).load()
    if isinstance(content, _Array):  # an array of one dictionary, as numpy saves what is no array
        content = content.state[-1][0]
    if not isinstance(content, dict) or not isinstance(content.get("masks"), _Array):
        raise ValueError("it holds no dictionary with masks")
    return content["masks"].to_array()
