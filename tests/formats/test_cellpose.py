import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from manymask.errors import FormatError
from manymask.formats import cellpose as cellpose_module
from manymask.formats.cellpose import read_cellpose_masks
from tests.formats.format_files import cut_short, make_ids, write_seg

IDS = make_ids((0, 0, 2, 2), (3, 3, 6, 8))


def make_content(masks=IDS):
    """What Cellpose 3 and 4 save."""
    flows = [np.zeros((1, 6, 8, 3), "uint8"), np.zeros((1, 6, 8), "float32"), [], [np.zeros((3, 6, 8), "float32")]]
    return {
        "outlines": masks.astype("uint16"),
        "colors": np.full((2, 3), 255, "uint8"),
        "masks": masks,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(2, bool),
        "filename": "C:\\data\\a.tif",
        "flows": flows,
        "zdraw": [None, None],
        "diameter": np.float64(17.5),
        "normalize_params": {"percentile": [1.0, 99.0], "normalize": True},
        "model_path": 0,
    }


class Command:
    """Runs a command where it is unpickled without care."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("dtype", ["uint16", "<i4", ">u2", "uint32", "int64", "uint8"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_masks_are_read_as_cellpose_saves_them(tmp_path, dtype, protocol):
    path = tmp_path / "a_seg.npy"
    masks = np.asfortranarray(IDS.astype(dtype)) if protocol == 4 else IDS.astype(dtype)
    with open(path, "wb") as file:
        array = np.asanyarray(make_content(masks))
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        pickle.dump(array, file, protocol=protocol)
    np.testing.assert_array_equal(read_cellpose_masks(path), IDS)


def test_masks_of_one_plane_and_a_plain_array(tmp_path):
    for content in (make_content(IDS[None]), IDS):
        np.testing.assert_array_equal(read_cellpose_masks(write_seg(tmp_path / "a_seg.npy", content)), IDS)


@pytest.mark.parametrize("place", ["masks", "filename", "key"])
def test_code_is_refused_and_not_run(tmp_path, place):
    victim = tmp_path / "victim"
    content = make_content() | ({Command(victim): 1} if place == "key" else {place: Command(victim)})
    path = write_seg(tmp_path / "a_seg.npy", content)
    with pytest.raises(FormatError, match=r"a_seg\.npy .*asks for posix\.system.* as PNG or TIFF .*x_cp_masks"):
        read_cellpose_masks(path)
    assert not victim.exists()
    np.load(path, allow_pickle=True).item()
    assert victim.exists()  # the file is a real attack


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (make_content() | {"model_path": Path("x")}, "asks for pathlib.PosixPath"),
        (make_content() | {"extra": OrderedDict()}, "asks for collections.OrderedDict"),
        ({"outlines": IDS}, "no dictionary with masks"),
        ({"masks": [1, 2]}, "no dictionary with masks"),
        ({"masks": np.array([{}, None])}, "it is of object"),
        ({"masks": np.array([["a"]])}, "it is of <U"),
        ([1, 2, {}], "no dictionary with masks"),
        (make_content(np.stack([IDS, IDS])), r"shape \(2, 6, 8\), expected height x width"),
    ],
)
def test_anything_else_is_refused(tmp_path, content, message):
    path = write_seg(tmp_path / "a_seg.npy", np.array(content, dtype=object) if isinstance(content, list) else content)
    with pytest.raises(FormatError, match=message):
        read_cellpose_masks(path)


def test_damaged_or_large_files_are_refused(tmp_path, monkeypatch):
    path = write_seg(tmp_path / "a_seg.npy", make_content())
    for content in (b"", b"x" * 50, path.read_bytes()[:200]):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="cannot be read as Cellpose's masks"):
            read_cellpose_masks(path)
    cut_short(write_seg(path, make_content()), 0.5)
    with pytest.raises(FormatError, match="cannot be read as Cellpose's masks"):
        read_cellpose_masks(path)
    monkeypatch.setattr(cellpose_module, "_MAX_BYTES", 100)
    with pytest.raises(FormatError, match="is larger than"):
        read_cellpose_masks(path)
