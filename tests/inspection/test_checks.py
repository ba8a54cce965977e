import numpy as np
import pytest
import torch

from manymask.core import Category
from manymask.inspection.checks import compare_sets, examine_dataset, examine_image
from manymask.inspection.findings import KINDS
from manymask.modeling.network import PadTransform
from tests.inspection.samples import draw_masks, draw_pixels, measure

CATEGORIES = (Category(1, "seed"),)
NONE = np.zeros((0, 60, 80), dtype=bool)
MANY = draw_masks(*((3 * row, 5, 3 * row + 2, 9) for row in range(12)))


def name_rows():
    return [f"id {number}" for number in range(1, 100)]


def examine(*args, cap=None, **options):
    findings = examine_image(measure(*args, **options), name_rows, cap)
    return {finding.kind: finding for finding in findings}


def examine_all(*facts, categories=CATEGORIES):
    return {finding.kind: finding for finding in examine_dataset(facts, categories)}


def test_nothing_is_wrong():
    assert examine_image(measure(), lambda: pytest.fail("names are looked up where nothing is wrong")) == []
    assert examine_all(measure(MANY), measure(MANY, draw_pixels(seed=1), name="b")) == {}


def test_all_kinds_say_what_to_do():
    assert {kind.severity for kind in KINDS.values()} == {"fault", "warning", "note"}
    assert all(kind.treatment and kind.remedy and name == name.lower() for name, kind in KINDS.items())


@pytest.mark.parametrize(
    ("masks", "kind", "detail"),
    [
        (draw_masks((0, 0, 0, 0)), "zero-area-instance", "has 1 instance without any pixel: id 1"),
        (draw_masks((4, 7, 5, 10)), "one-pixel-instance", "has 1 instance of 1 to 3 pixels: id 1 at x 7, y 4"),
        (draw_masks((4, 4, 24, 14), (4, 4, 23, 14)), "duplicate-instance", "id 2 at x 4, y 4 as id 1"),
        (draw_masks((0, 0, 60, 80)), "background-instance", "id 1 at x 0, y 0"),
        (draw_masks((4, 4, 9, 9), (4, 20, 9, 25)).any(axis=0)[None], "fragmented-instance", "pieces of 25, 25 pixels"),
        (NONE, "empty-image", "has no labelled instance"),
    ],
)
def test_instances(masks, kind, detail):
    found = examine(masks)
    assert list(found) == (["empty-image", kind] if kind == "zero-area-instance" else [kind])
    assert detail in found[kind].detail
    assert (found[kind].image, str(found[kind].path)) == ("a", "a.png")


def test_one_object_in_two_classes():
    masks = draw_masks((4, 4, 24, 14), (30, 4, 40, 14), (4, 4, 23, 14))
    found = examine(masks, labels=[1, 1, 2])
    assert list(found) == ["two-classes"]
    detail = "has 1 instance with the mask of one of another class: id 3 at x 4, y 4 as id 1"
    assert detail in found["two-classes"].detail
    assert examine(draw_masks((4, 4, 24, 14), (6, 6, 20, 12)), labels=[1, 2]) == {}  # a part is no twin


def test_pieces_behind_another_instance_are_no_fault_to_fix():
    bar = draw_masks((4, 4, 9, 30))[0]
    front = draw_masks((0, 10, 20, 20))[0]
    found = examine(np.stack([bar & ~front, front]))
    assert found["occluded-instance"].detail.endswith("between them: id 1 at x 4, y 4 (pieces of 50, 30 pixels)")
    assert (list(found), found["occluded-instance"].is_fixable) == (["occluded-instance"], False)


def test_equal_findings_are_one():
    masks = draw_masks(*((2 * row, 5, 2 * row + 1, 6) for row in range(8)))
    detail = examine(masks)["one-pixel-instance"].detail
    assert detail.startswith("has 8 instances of 1 to 3 pixels: id 1 at x 5, y 0, id 2")
    assert detail.endswith("and 3 more")


def test_instances_that_touch_two_borders_only_are_no_background():
    assert examine(draw_masks((0, 0, 60, 70))) == {}
    assert "background-instance" not in examine(draw_masks((0, 0, 60, 80)), iscrowd=[True])


def test_large_objects_of_full_images_are_no_background():
    cross = draw_masks((0, 35, 60, 45), (25, 0, 35, 80)).any(axis=0)
    overlapping = draw_masks((0, 0, 45, 60), (0, 20, 45, 80), (15, 0, 60, 60), (15, 20, 60, 80))
    grains = draw_masks((0, 0, 25, 35), (0, 45, 25, 80), (35, 0, 60, 35), (35, 45, 60, 80))
    for masks in (np.stack([cross, *overlapping]), np.stack([cross, *grains])):
        assert not {"background-instance", "likely-background"} & examine(masks).keys()


@pytest.mark.parametrize(
    ("pixels", "kind", "detail"),
    [
        (np.full((60, 80, 3), 9, dtype=np.uint8), "constant-image", "has the value 0.0352941 everywhere"),
        (np.full((60, 80, 1), np.nan), "not-finite", "NaN"),
        (draw_pixels().astype(np.float32), "value-range", "float32 values from 20 to 220"),
        (draw_pixels().astype(np.int16) - 100, "value-range", "int16 values from -0.0"),
    ],
)
def test_pixels(pixels, kind, detail):
    found = examine(pixels=pixels)
    assert list(found) == [kind]
    assert detail in found[kind].detail


def test_tiny_and_crowded_images():
    found = examine(draw_masks((2, 2, 9, 9), (2, 12, 9, 19), size=(32, 99)), cap=1)
    assert found["tiny-image"].detail == "is 32 x 99 pixels (height x width)"
    assert found["many-instances"].detail == "has 2 instances, more than the cap of 1"


def test_tiny_images_are_said_to_be_padded():
    batch, _ = PadTransform()([torch.zeros(3, 20, 20)])
    assert (batch.image_sizes, tuple(batch.tensors.shape[2:])) == ([(20, 20)], (32, 64))
    treatment = examine(draw_masks((2, 2, 9, 9), size=(20, 20)))["tiny-image"].treatment
    assert "padded, and enlarged only where min_size or a scale above 1 asks for it" in treatment


def test_same_and_similar_images():
    facts = [
        measure(MANY, name="a"),
        measure(MANY, name="b"),
        measure(MANY[:3], name="c"),
        measure(MANY, draw_pixels() + np.uint8(2), name="d"),
        measure(MANY, draw_pixels(seed=1), name="e"),
        measure(MANY, np.full((60, 80, 1), 9, dtype=np.uint8), name="f"),
        measure(MANY, np.full((60, 80, 1), 8, dtype=np.uint8), name="g"),
    ]
    found = [(one.image, one.kind, one.detail) for one in examine_dataset(facts, CATEGORIES) if one.image]
    assert found == [
        ("b", "same-image", "has the same pixels as a.png, and the same labels"),
        ("c", "same-image", "has the same pixels as a.png, and other labels"),
        ("d", "similar-image", "looks much like a.png"),
    ]


def test_the_same_in_train_and_val():
    facts = [
        measure(name="a"),
        measure(pixels=draw_pixels(seed=1), name="b"),
        measure(pixels=draw_pixels() * 2, name="c"),
    ]
    val = [measure(name="v"), measure(pixels=draw_pixels(seed=1) + np.uint8(1), name="w")]
    found = [(one.image, one.kind, one.severity) for one in compare_sets(facts, val)]
    assert found == [("a", "same-image-in-val", "fault"), ("b", "similar-image-in-val", "warning")]
    assert compare_sets(facts, []) == compare_sets([], val) == []


def test_similar_images_are_found_in_blocks(monkeypatch):
    monkeypatch.setattr("manymask.inspection.checks._HASH_BLOCK", 2)
    facts = [
        measure(MANY, draw_pixels(seed=seed) + np.uint8(row), name=str(row)) for row, seed in enumerate([0, 1, 2, 1, 0])
    ]
    similar = [(one.image, one.detail) for one in examine_dataset(facts, CATEGORIES) if one.kind == "similar-image"]
    assert similar == [("3", "looks much like 1.png"), ("4", "looks much like 0.png")]


def test_other_channels_than_most():
    images = [measure(pixels=draw_pixels(channels=count, seed=count), name=str(count)) for count in (1, 2, 3, 5)]
    found = [(one.image, one.detail) for one in examine_dataset(images, CATEGORIES) if "unsupported" in one.kind]
    assert found == [
        ("2", "has 2 channels, while most images have 1 or 3"),
        ("5", "has 5 channels, while most images have 1 or 3"),
    ]
    assert not any("channels" in one.kind for one in examine_dataset([images[1]], CATEGORIES))


def test_mixtures():
    large = np.zeros((1, 300, 400), dtype=bool)
    found = examine_all(
        measure(MANY),
        measure(large, draw_pixels((300, 400), channels=3), name="b"),
        measure(pixels=draw_pixels(seed=3).astype(np.uint16), name="c"),
    )
    assert found["mixed-sizes"].detail == "images from 60 x 80 to 300 x 400 pixels"
    assert found["mixed-types"].detail == "2 uint8 images, 1 uint16 image"
    assert found["mixed-channels"].detail == "2 1-channel images, 1 3-channel image"
    assert "lie between 0.0" in found["mixed-brightness"].detail
    assert [found[f"mixed-{what}"].severity for what in ("sizes", "types", "channels")] == ["note", "warning", "note"]


def test_classes_and_rates():
    cut = draw_masks(*((4 * row, 0, 4 * row + 3, 9) for row in range(8)), (0, 1, 3, 9))
    found = examine_all(
        measure(cut, labels=[1] * 7 + [2] + [1]),
        measure(NONE, name="b"),
        categories=(Category(1, "x"), Category(2, "y")),
    )
    assert found["rare-class"].detail == "class 'y' has 1 instance in 1 image"
    assert found["border-cut"].detail == "9 of 9 instances touch the border of their image"
    assert found["overlapping-instances"].detail.startswith("2 of 9 instances share pixels")
