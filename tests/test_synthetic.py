import numpy as np
import pytest

from manymask.core import intersect_runs
from manymask.errors import PlanError
from manymask.synthetic import make_categories, make_sample


def find_pairs(instances):
    overlaps = intersect_runs(instances.runs, instances.runs)
    is_pair = overlaps.first < overlaps.second
    return overlaps.first[is_pair], overlaps.second[is_pair], overlaps.intersection[is_pair]


@pytest.fixture(scope="module")
def crowd():
    return make_sample(3, size=(384, 512), num_instances=300, num_classes=4)  # all four classes occur


def test_no_instances():
    pixels, instances = make_sample(0, size=(40, 50), num_instances=0)
    assert pixels.shape == (40, 50, 3)
    assert len(instances) == 0
    assert instances.size == (40, 50)
    assert pixels.std() > 1


def test_one_instance():
    _, instances = make_sample(0, size=(40, 50), num_instances=1)
    assert len(instances) == 1


def test_sizes_and_types(crowd):
    pixels, instances = crowd
    assert pixels.shape == (384, 512, 3)
    assert pixels.dtype == np.uint8
    assert instances.size == (384, 512)
    assert (instances.scores == 1).all()


def test_same_arguments_give_the_same_image():
    (first, a), (second, b) = (make_sample(3, seed=5, size=(64, 80), num_instances=10) for _ in range(2))
    assert (first == second).all()
    assert (a.runs.start == b.runs.start).all()
    assert (a.labels == b.labels).all()


def test_other_indices_and_seeds_give_other_images():
    images = [make_sample(i, seed=s, size=(64, 64))[0] for i, s in ((0, 0), (1, 0), (0, 1))]
    assert all((images[i] != images[j]).any() for i, j in ((0, 1), (0, 2), (1, 2)))


def test_number_of_instances_varies_around_what_is_asked():
    counts = [len(make_sample(i, size=(160, 160), num_instances=25)[1]) for i in range(20)]
    assert len(set(counts)) > 3
    assert min(counts) >= 18
    assert max(counts) <= 32
    assert 22 <= np.mean(counts) <= 28


def test_a_full_image_takes_fewer():
    _, instances = make_sample(0, size=(40, 40), num_instances=1000)
    assert 5 <= len(instances) < 100


def test_every_class_has_its_share():
    counts = np.zeros(4, dtype=int)
    num_without = 0
    for i in range(20):
        _, instances = make_sample(i, size=(160, 160), num_instances=25, num_classes=4)
        here = np.bincount(instances.labels, minlength=5)[1:]
        counts += here
        num_without += (here == 0).any()
    assert (counts / counts.sum() > 0.12).all()
    assert 0 < num_without < 20


def test_classes_differ_in_size(crowd):
    _, instances = crowd
    areas = [np.median(instances.runs.areas[instances.labels == label]) for label in (1, 2)]
    assert areas[0] > 2 * areas[1]


def test_diameter_sets_the_size_of_cells():
    for diameter in (8.0, 24.0):
        _, instances = make_sample(0, size=(300, 300), num_instances=60, diameter=diameter)
        median = np.median(np.sqrt(instances.runs.areas * 4 / np.pi))
        assert median == pytest.approx(diameter, rel=0.3)


def test_more_classes_than_looks():
    _, instances = make_sample(0, size=(300, 300), num_instances=200, num_classes=9)
    assert instances.labels.max() > 4
    assert instances.labels.min() >= 1


def test_cells_of_two_classes_overlap_a_little(crowd):
    _, instances = crowd
    first, second, shared = find_pairs(instances)
    areas = instances.runs.areas
    assert len(shared) > 10
    assert (shared / np.minimum(areas[first], areas[second])).max() <= 0.35


def test_cells_of_one_class_do_not_overlap(crowd):
    _, instances = crowd
    first, second, _ = find_pairs(instances)
    assert (instances.labels[first] != instances.labels[second]).all()


def test_many_cells_touch(crowd):
    _, instances = crowd
    mask = instances.to_layers()[0].numpy()
    pairs = np.stack([mask[:, :-1].ravel(), mask[:, 1:].ravel()])
    touching = np.unique(pairs[:, (pairs[0] != pairs[1]) & (pairs > 0).all(axis=0)])
    assert len(touching) > 0.2 * len(instances)


def test_few_layers_hold_them_all(crowd):
    assert crowd[1].to_layers().shape[0] <= 4


def test_masks_lie_in_the_image_and_none_is_empty(crowd):
    _, instances = crowd
    assert (instances.runs.areas >= 8).all()
    assert (instances.boxes[:, :2] >= 0).all()
    assert (instances.boxes[:, 2:] <= (512, 384)).all()


def test_cells_stand_out_from_the_background(crowd):
    pixels, instances = crowd
    is_cell = (instances.to_layers() > 0).any(dim=0).numpy()
    brightness = pixels.mean(axis=2)
    assert np.percentile(brightness[is_cell], 75) < np.percentile(brightness[~is_cell], 10)


def test_masks_are_where_cells_are_painted():
    for index in range(3):
        pixels, instances = make_sample(index, size=(120, 120), num_instances=12, num_classes=2)
        is_cell = (instances.to_layers() > 0).any(dim=0).numpy()
        is_dark = pixels[..., 0] < np.median(pixels[..., 0][~is_cell]) - 40
        assert (is_cell & is_dark).sum() / (is_cell | is_dark).sum() > 0.8


def test_two_thousand_cells():
    _, instances = make_sample(0, size=(1024, 1024), num_instances=2000)
    assert 1400 < len(instances) <= 2500


def test_categories():
    assert [(c.id, c.name) for c in make_categories(2)] == [(1, "class1"), (2, "class2")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (0, 9)},
        {"num_instances": -1},
        {"num_classes": 0},
        {"diameter": 2.0},
        {"diameter": 1e6},
        {"diameter": float("inf")},
    ],
    ids=str,
)
def test_settings_out_of_range(wrong):
    with pytest.raises(PlanError, match="expected a size"):
        make_sample(0, **wrong)
