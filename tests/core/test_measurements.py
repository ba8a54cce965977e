import numpy as np
import pytest
from hypothesis import assume, given, settings
from skimage.measure import regionprops, regionprops_table

from manymask.core import ArraySource, RunLengths, measurements
from manymask.core.measurements import measure_intensities, measure_shapes, to_micrometres
from tests import dense
from tests.strategies import stacks

SHAPES = (
    "area", "centroid", "bbox", "perimeter", "eccentricity", "solidity", "orientation",
    "axis_major_length", "axis_minor_length",
)  # fmt: skip
INTENSITIES = ("intensity_mean", "intensity_min", "intensity_max", "intensity_std")


def measure_by_skimage(mask, pixels, names):
    """All columns of one mask, as regionprops_table names them."""
    table = regionprops_table(mask.astype(np.uint8), pixels, properties=names)
    return {name: values[0] for name, values in table.items()}


def make_disks(num=30, side=60):
    y, x = np.mgrid[:side, :side]
    generator = np.random.default_rng(0)
    masks = []
    for _ in range(num):
        (cy, cx), (ry, rx) = generator.uniform(0, side, 2), generator.uniform(1, 20, 2)
        angle = generator.uniform(0, 3)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        masks.append(((u / rx) ** 2 + (v / ry) ** 2 <= 1) & (generator.uniform(size=x.shape) < 0.97))
    return np.array([mask for mask in masks if mask.any()])


def assert_same_shapes(masks):
    found = measure_shapes(dense.encode_runs(masks))
    for row, mask in enumerate(masks):
        for name, expected in measure_by_skimage(mask, None, SHAPES).items():
            if name == "orientation":  # has no meaning where a mask has no direction
                continue
            np.testing.assert_allclose(found[name][row], expected, rtol=1e-9, atol=1e-6, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(stacks())
def test_shapes_are_those_of_skimage(masks):
    assert_same_shapes(masks[masks.any(axis=(1, 2))])


def test_shapes_of_ellipses_with_holes_are_those_of_skimage():
    masks = make_disks()
    assert_same_shapes(masks)
    found = measure_shapes(dense.encode_runs(masks))
    expected = np.array([regionprops(mask.astype(np.uint8))[0].orientation for mask in masks])
    has_direction = found["eccentricity"] > 0.3
    assert has_direction.sum() > 20
    turned = (found["orientation"] - expected + np.pi / 2) % np.pi - np.pi / 2
    np.testing.assert_allclose(turned[has_direction], 0, atol=1e-9)


def test_names_and_order_are_those_of_a_table_of_skimage():
    mask = np.ones((1, 3, 4), dtype=bool)
    assert list(measure_shapes(dense.encode_runs(mask))) == list(measure_by_skimage(mask[0], None, SHAPES))


def test_no_instances_and_an_empty_mask():
    assert all(len(column) == 0 for column in measure_shapes(RunLengths.empty((3, 4))).values())
    found = measure_shapes(RunLengths.empty((3, 4), 1))
    assert found["area"].tolist() == [0]
    assert np.isnan([found[name][0] for name in ("centroid-0", "perimeter", "solidity", "orientation")]).all()


@pytest.mark.parametrize("num_channels", [1, 3])
@settings(max_examples=25, deadline=None)
@given(masks=stacks(min_instances=1))
def test_intensities_are_those_of_skimage(num_channels, masks):
    assume(masks.any())
    pixels = np.random.default_rng(1).integers(0, 60_000, (*masks.shape[1:], num_channels)).astype(np.uint16)
    with pytest.MonkeyPatch.context() as patch:  # windows and groups of a few pixels
        patch.setattr(measurements, "WINDOW_SIZE", 4)
        patch.setattr(measurements, "GROUP_PIXELS", 5)
        found = measure_intensities(dense.encode_runs(masks), ArraySource(pixels))
    for row, mask in enumerate(masks):
        if not mask.any():
            assert np.isnan([column[row] for column in found.values()]).all()
            continue
        expected = measure_by_skimage(mask, pixels[..., 0] if num_channels == 1 else pixels, INTENSITIES)
        assert list(found) == list(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][row], value, rtol=1e-9, atol=1e-6, err_msg=name)


def test_masks_of_another_size_than_the_image_are_refused():
    with pytest.raises(ValueError, match="expected masks of the image's size"):
        measure_intensities(RunLengths.empty((3, 4)), ArraySource(np.zeros((4, 4, 1))))


def test_micrometres():
    shapes = measure_shapes(dense.encode_runs(np.ones((1, 4, 6), dtype=bool)))
    square, oblong = to_micrometres(shapes, (0.5, 0.5)), to_micrometres(shapes, (0.5, 0.25))
    assert square["area_um2"].tolist() == [6]
    assert square["perimeter_um"] == shapes["perimeter"] / 2
    assert (oblong["area_um2"], oblong["centroid-1_um"]) == ([3], [2.5 / 4])
    assert "perimeter_um" not in oblong
