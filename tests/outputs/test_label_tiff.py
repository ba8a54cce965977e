import numpy as np
import pytest
import tifffile

from manymask.core import ArraySource, RunLengths
from manymask.core.instances import Instances
from manymask.formats import label_images
from manymask.outputs import LabelTiffs
from tests.outputs.results import ROWS, make_image, make_instances, write


def read_exact(folder):
    """The mask of each id: the union of what all pages hold of it."""
    pages = [tifffile.imread(folder / "labels" / "a.tif")[None]]
    if (overlaps := folder / "overlaps" / "a.tif").exists():
        with tifffile.TiffFile(overlaps) as tiff:
            pages += [page.asarray()[None] for page in tiff.pages]
    stack = np.concatenate(pages)
    return [(stack == id_).any(axis=0) for id_ in range(1, stack.max() + 1)]


@pytest.mark.parametrize("is_tiled", [False, True])
def test_pages_together_are_the_masks(is_tiled, tmp_path, monkeypatch):
    if is_tiled:
        monkeypatch.setattr(label_images, "_MAX_UNTILED", 20)
        monkeypatch.setattr(label_images, "_TILE_SIZE", 16)
    write(LabelTiffs, tmp_path)
    np.testing.assert_array_equal(read_exact(tmp_path), make_instances().to_masks()[ROWS])
    with tifffile.TiffFile(tmp_path / "labels" / "a.tif") as tiff:
        (page,) = tiff.pages
        assert page.is_tiled == is_tiled
        assert (page.dtype, page.compression.name, tiff.is_bigtiff) == (np.uint16, "ADOBE_DEFLATE", False)
        np.testing.assert_array_equal(np.unique(page.asarray()), np.arange(6))  # one is hidden


def test_what_does_not_overlap_is_one_file(tmp_path):
    write(LabelTiffs, tmp_path, make_instances()[[0, 2]])
    assert not (tmp_path / "overlaps").exists()
    np.testing.assert_array_equal(read_exact(tmp_path), make_instances().to_masks()[[0, 2]])


def test_size_of_a_pixel_is_kept(tmp_path):
    write(LabelTiffs, tmp_path)
    with tifffile.TiffFile(tmp_path / "labels" / "a.tif") as tiff:
        tags = tiff.pages[0].tags
        assert tags["XResolution"].value == tags["YResolution"].value == (20_000, 1)
        assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
    write(LabelTiffs, tmp_path, image=ArraySource(make_image().pixels))
    with tifffile.TiffFile(tmp_path / "labels" / "a.tif") as tiff:
        assert tiff.pages[0].tags["ResolutionUnit"].value == tifffile.RESUNIT.NONE


def test_large_files_are_bigtiffs_with_wide_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(label_images, "_MAX_CLASSIC", 400 * 300 * 4 - 1)
    places = np.arange(70_000)
    runs = RunLengths((400, 300), len(places), places, places, np.ones_like(places))
    instances = Instances.from_runs(runs, np.ones_like(places))
    write(LabelTiffs, tmp_path, instances, make_image((400, 300), 1))
    with tifffile.TiffFile(tmp_path / "labels" / "a.tif") as tiff:
        assert tiff.is_bigtiff
        assert tiff.pages[0].dtype == np.uint32
        ids = tiff.asarray().T.ravel()
    np.testing.assert_array_equal(ids[:70_000], places + 1)
    assert not ids[70_000:].any()
