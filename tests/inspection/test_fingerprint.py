from pathlib import Path

import numpy as np
import pytest

from manymask.core import Category
from manymask.errors import DatasetError
from manymask.inspection.fingerprint import Distribution, make_fingerprint
from tests.inspection.samples import draw_masks, draw_pixels, measure

CATEGORIES = (Category(2, "seed"), Category(5, "husk"))
NONE = np.zeros((0, 60, 80), dtype=bool)


def make_facts():
    first = draw_masks((0, 0, 10, 20), (10, 0, 20, 20), (30, 30, 40, 40), (30, 30, 40, 40))
    second = draw_masks((5, 5, 14, 14), size=(40, 50))
    return [
        measure(first, name="a_1", labels=[1, 1, 2, 2], iscrowd=[False, False, False, True]),
        measure(second, draw_pixels((40, 50), channels=3), name="b_1", labels=[1]),
        measure(NONE, name="b_2"),
    ]


def test_distribution():
    assert Distribution.of([]) == Distribution()
    found = Distribution.of(np.arange(101))
    assert (found.min, found.p1, found.p25, found.median, found.p99, found.max) == (0, 1, 25, 50, 99, 100)


def test_counts():
    found = make_fingerprint(make_facts(), CATEGORIES)
    assert (found.num_images, found.num_empty_images, found.num_instances, found.num_crowd_regions) == (3, 1, 4, 1)
    assert [(one.id, one.name, one.num_instances, one.num_images) for one in found.classes] == [
        (2, "seed", 3, 2),
        (5, "husk", 1, 1),
    ]
    assert (found.channels, found.pixel_types) == ({1: 2, 3: 1}, {"uint8": 3})
    assert (found.densest_image, found.largest_image) == ("a_1", "a_1")
    assert found.megapixels == pytest.approx((2 * 60 * 80 + 40 * 50) / 1e6)


def test_areas_are_those_of_images():
    wide, high = measure(draw_masks((0, 0, 9, 9), size=(40, 100))), measure(draw_masks((0, 0, 9, 9), size=(90, 50)))
    areas = make_fingerprint([wide, high], CATEGORIES).areas
    assert (areas.min, areas.max) == (4000, 4500)


def test_shapes_and_neighbours():
    found = make_fingerprint(make_facts(), CATEGORIES)
    assert (found.instances_per_image.max, found.instances_per_image.min) == (3, 0)
    assert found.instances_per_megapixel.max == pytest.approx(3e6 / 4800)
    assert (found.elongation.max, found.box_size.max) == (2, pytest.approx(200**0.5))
    assert (found.touching_fraction, found.overlapping_fraction, found.border_fraction) == (0.5, 0, 0.5)
    assert found.classes[0].area.max == 200


def test_channels_are_medians_over_the_images_that_have_them():
    found = make_fingerprint(make_facts(), CATEGORIES)
    assert len(found.channel_ranges) == 3
    assert found.channel_ranges[1] == make_facts()[1].channel_ranges[1]
    assert found.brightness.median == pytest.approx(make_facts()[0].dark_and_bright[1], rel=0.05)


def test_trend_has_its_error():
    ramp = np.repeat(np.arange(60, dtype=np.uint8)[:, None, None], 80, axis=1)
    facts = [measure(pixels=ramp), measure(pixels=draw_pixels()), measure(pixels=ramp)]
    mean, ratio = make_fingerprint(facts, CATEGORIES).vertical_trend
    trends = [image.trends[0] for image in facts]
    assert mean == pytest.approx(np.mean(trends))
    assert ratio == pytest.approx(np.mean(trends) / (np.std(trends, ddof=1) / 3**0.5))
    assert make_fingerprint(facts[:1], CATEGORIES).vertical_trend[1] == 0


def test_groups():
    groups = {"a_1": "a", "b_1": "b", "b_2": "b", "elsewhere": "c"}
    found = make_fingerprint(make_facts(), CATEGORIES, "^.", groups)
    assert (found.group_by, found.num_groups) == ("^.", 2)


def test_no_instances():
    with pytest.raises(DatasetError, match="at least one labelled instance, found none in 1 image"):
        make_fingerprint([measure(NONE)], CATEGORIES)
    with pytest.raises(DatasetError, match="found none in 1 image of some/folder; label some"):
        make_fingerprint([measure(NONE)], CATEGORIES, root=Path("some/folder"))
