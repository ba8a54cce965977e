import numpy as np
import pytest

from manymask.planning.sampling import weigh_images
from tests.inspection.samples import draw_masks, measure

BOX = (2, 2, 8, 8)


def look(size=(40, 40), labels=(1,)):
    masks = draw_masks(*[BOX] * len(labels), size=size)
    return measure(
        masks, np.where(draw_masks(BOX, size=size)[0, ..., None], 200, 20).astype(np.uint8), labels=list(labels)
    )


def look_at_kind(ground, light, num_objects=1, size=(40, 40)):
    """The facts of an image of two values or colours."""
    masks = draw_masks(*[(4 * n, 4, 4 * n + 3, 20) for n in range(num_objects)], size=size)
    pixels = np.empty((*size, len(np.atleast_1d(ground))), dtype=np.uint8)
    pixels[:] = ground
    pixels[masks.any(axis=0)] = light
    return measure(masks, pixels)


BRIGHT, DARK, STAINED = ([20], [200]), ([200], [20]), ([220, 190, 220], [90, 40, 130])


def test_by_the_root_of_crops():
    facts = [look((40, 40)), look((80, 40)), look((80, 120)), look((20, 30))]
    weights = weigh_images(facts, 40, 1)
    np.testing.assert_allclose(weights / weights[0], [1, 2**0.5, 6**0.5, 1])
    assert weights.mean() == pytest.approx(1)
    assert weigh_images(facts, 0, 1).tolist() == [1, 1, 1, 1]


def test_kinds_share_by_the_cube_root_of_their_objects():
    facts = [look_at_kind(*BRIGHT, 8)] * 8 + [look_at_kind(*STAINED)] * 4 + [look_at_kind(*STAINED, 2)] * 2
    weights = weigh_images(facts, 0, 1)
    np.testing.assert_allclose(weights[:8].sum() / weights[8:].sum(), (64 / 8) ** (1 / 3))
    assert np.ptp(weights[:8]) == np.ptp(weights[8:]) == 0


def test_small_kinds_are_not_learnt_by_heart():
    """What a kind of few images may not have goes to the others in proportion."""
    facts = [look_at_kind(*BRIGHT)] * 64 + [look_at_kind(*STAINED)] * 27 + [look_at_kind(*DARK)] * 9
    facts += [look_at_kind(*DARK, size=(80, 40))]
    weights = weigh_images(facts, 40, 1)
    assert weights.mean() == pytest.approx(1)
    assert weights[91:].mean() == pytest.approx(10 ** (1 / 3) / (4 + 3 + 10 ** (1 / 3)) * 101 / 10)
    few = weigh_images(facts[:92], 40, 1)
    assert few[91] == pytest.approx(2.5)
    assert few[:64].sum() / few[64:91].sum() == pytest.approx(4 / 3)
    assert few.mean() == pytest.approx(1)


def test_image_without_objects_is_of_the_commonest_kind():
    facts = [look_at_kind(*BRIGHT, 3)] * 2 + [look_at_kind(*DARK, 8), look_at_kind(*DARK, 0)]
    np.testing.assert_allclose(weigh_images(facts, 0, 1)[:2], weigh_images(facts, 0, 1)[3])
    assert weigh_images(facts[3:], 0, 1).tolist() == [1]


def test_size_counts_within_a_kind():
    facts = [look_at_kind(*BRIGHT), look_at_kind(*BRIGHT, size=(80, 80)), look_at_kind(*DARK), look_at_kind(*DARK)]
    weights = weigh_images(facts, 40, 1)
    np.testing.assert_allclose(weights, [2 / 3, 4 / 3, 1, 1])


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
