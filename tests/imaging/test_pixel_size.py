import numpy as np
import pytest
import tifffile

from manymask.imaging import open_image
from tests.imaging.image_files import make_smooth, write_svs

PIXELS = np.zeros((20, 30), np.uint8)
OME = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 2.0}
CASES = {
    "ome": ({"ome": True, "metadata": OME}, (2.0, 0.5)),
    "ome with unit": (
        {"ome": True, "metadata": OME | {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "mm"}},
        (2000.0, 0.0005),
    ),
    "ome in pixels": ({"ome": True, "metadata": OME | {"PhysicalSizeXUnit": "pixel"}}, None),
    "ome without": ({"ome": True}, None),
    "ome of nothing": ({"ome": True, "metadata": OME | {"PhysicalSizeX": 0.0}}, None),
    "imagej": ({"imagej": True, "metadata": {"unit": "um"}, "resolution": (4, 2)}, (0.5, 0.25)),
    "imagej escape": ({"imagej": True, "metadata": {"unit": "\\u00B5m"}, "resolution": (4, 2)}, (0.5, 0.25)),
    "imagej large": ({"imagej": True, "metadata": {"unit": "mm"}, "resolution": (4, 2)}, (500.0, 250.0)),
    "imagej without": ({"imagej": True, "resolution": (4, 2), "resolutionunit": "none"}, None),
    "centimetres": ({"resolution": (40_000, 20_000), "resolutionunit": "centimeter"}, (0.5, 0.25)),
    "inches": ({"resolution": (25_400, 25_400), "resolutionunit": "inch"}, (1.0, 1.0)),
    "screen": ({"resolution": (72, 72), "resolutionunit": "inch"}, None),
    "scanner": ({"resolution": (1200, 1200), "resolutionunit": "inch"}, None),
    "none": ({"resolution": (1, 1), "resolutionunit": "none"}, None),
}


@pytest.mark.parametrize("kind", CASES)
def test_pixel_size(tmp_path, kind):
    options, expected = CASES[kind]
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, **options)
    found = open_image(tmp_path / "a.tif").pixel_size
    assert found == (expected and pytest.approx(expected, rel=1e-6))


def test_pixel_size_of_aperio(tmp_path):
    assert open_image(write_svs(tmp_path / "a.svs", make_smooth())).pixel_size == (0.499, 0.499)


def test_pixel_size_is_turned_with_the_image(tmp_path):
    options = {"resolution": (40_000, 20_000), "resolutionunit": "centimeter"}
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, extratags=[(274, 3, 1, 6, True)], **options)
    assert open_image(tmp_path / "a.tif").pixel_size == pytest.approx((0.25, 0.5))
