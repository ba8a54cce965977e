import numpy as np
import pytest

from manymask.planning.sampling import weigh_images
from tests.inspection.samples import draw_masks, measure

BOX = (2, 2, 8, 8)


def look(size=(40, 40), labels=(1,)):
    return measure(draw_masks(*[BOX] * len(labels), size=size), labels=list(labels))


def test_by_crops():
    facts = [look((40, 40)), look((80, 40)), look((80, 120)), look((20, 30))]
    assert weigh_images(facts, 40, 1).tolist() == [1, 2, 6, 1]
    assert weigh_images(facts, 0, 1).tolist() == [1, 1, 1, 1]


def test_by_the_rarest_class():
    facts = [look(labels=labels) for labels in [(1,), (1, 1), (1, 2), (1,), (1, 2, 3), (1,), (1,), (1,)]]
    assert weigh_images(facts, 0, 3).tolist() == pytest.approx([1, 1, 2, 1, 8**0.5, 1, 1, 1])


def test_image_without_objects():
    facts = [look(), look(labels=()), look(labels=(2,)), look()]
    assert weigh_images(facts, 0, 2).tolist() == pytest.approx([1, 1, 2**0.5, 1])


def test_class_that_is_in_no_image():
    assert weigh_images([look(), look()], 0, 5).tolist() == [1, 1]


def test_crowd_regions_do_not_count():
    crowd = measure(draw_masks(BOX, BOX, size=(40, 40)), labels=[1, 2], iscrowd=[False, True])
    weights = weigh_images([crowd, look(labels=(1, 2)), look(), look()], 0, 2)
    np.testing.assert_allclose(weights, [1, 2, 1, 1])
