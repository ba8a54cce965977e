"""The doctor: what is wrong or unusual in a data set, from the facts of its images."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import starmap

import numpy as np
from jaxtyping import Float32, Int64

from manymask.core import Category
from manymask.core.components import are_scattered
from manymask.inspection.findings import MIN_SIDE, Finding, make_finding
from manymask.inspection.fingerprint import find_cut
from manymask.inspection.measurement import ImageFacts, InstanceFacts, find_background, find_likely_background
from manymask.plan import count_inputs
from manymask.wording import NUM_NAMED, count_of, list_some

MAX_TINY_AREA = 3
"""Instances of up to this many pixels are called one-pixel instances: slips of a pen, not objects."""
_MAX_SIZE_RATIO = 16
_MAX_BRIGHTNESS_RATIO = 4
_MIN_CLASS_INSTANCES = 10
_MAX_BORDER_FRACTION = 0.25
# Images whose hashes differ in at most this many of 64 bits look alike. Of the 591 images of the Data Science Bowl 2018
# two slices of one embryo differ in 4 bits, and every other pair in 12 or more.
_MAX_HASH_DISTANCE = 6
_HASH_BLOCK = 1024
MIN_MEDIAN_PIECES = 1.5
"""Where more than half of all instances are in two pieces of like size, objects in front of others are no explanation:
none of the images of emps, whose particles cover each other, has a median above 1."""


def examine_image(image: ImageFacts, name_rows: Callable[[], Sequence[str]], cap: int | None = None) -> list[Finding]:
    """Examine one image by itself.

    Args:
        image: Its facts.
        name_rows: Gives the name of each instance in the files; called only where it is needed.
        cap: Number of instances above which an image is said to have many.
    """
    found = [*_examine_pixels(image), *_examine_count(image, cap)]
    rows_of = find_rows(image.instances, image.size)
    if any(len(rows) for rows in rows_of.values()):
        names = name_rows()
        found += [(kind, _list_rows(kind, rows, image.instances, names)) for kind, rows in rows_of.items() if len(rows)]
    return [make_finding(kind, detail, image.name, image.path) for kind, detail in found]


def _examine_pixels(image: ImageFacts) -> Iterator[tuple[str, str]]:
    low, high = image.value_range
    if not image.is_finite:
        yield "not-finite", "holds values that are NaN or infinite"
    elif image.is_constant:
        yield "constant-image", f"has the value {low:g} everywhere"
    elif low < 0 or high > 1:
        yield "value-range", f"holds {image.dtype} values from {low:g} to {high:g}, outside [0, 1]"
    if min(image.size) < MIN_SIDE:
        yield "tiny-image", f"is {image.size[0]} x {image.size[1]} pixels (height x width)"


def _examine_count(image: ImageFacts, cap: int | None) -> Iterator[tuple[str, str]]:
    count = int(image.instances.is_object.sum())
    if count == 0:
        yield "empty-image", "has no labelled instance"
    elif cap is not None and count > cap:
        yield "many-instances", f"has {count} instances, more than the cap of {cap}"


def find_rows(instances: InstanceFacts, size: tuple[int, int]) -> dict[str, Int64[np.ndarray, " rows"]]:
    """Rows of the instances of each kind of finding.

    Args:
        instances: The instances of an image.
        size: (height, width) of the image.
    """
    is_background = instances.is_object & find_background(instances.areas, instances.boxes, size)
    is_likely = find_likely_background(instances.areas, instances.boxes, size)
    is_likely &= not (instances.iscrowd | instances.is_overlapping).any()
    is_scattered = np.isin(np.arange(len(instances.areas)), list(instances.pieces))
    is_scattered &= ~is_background & ~is_likely & (instances.areas > MAX_TINY_AREA)
    flags = {
        "zero-area-instance": instances.areas == 0,
        "one-pixel-instance": instances.is_object & (instances.areas <= MAX_TINY_AREA),
        "duplicate-instance": instances.duplicate_of >= 0,
        "two-classes": instances.class_twin_of >= 0,
        "fragmented-instance": is_scattered & ~instances.is_occluded,
        "occluded-instance": is_scattered & instances.is_occluded,
        "background-instance": is_background,
        "likely-background": is_likely,
    }
    return {kind: np.flatnonzero(flag) for kind, flag in flags.items()}


def _list_rows(kind: str, rows: np.ndarray, instances: InstanceFacts, names: Sequence[str]) -> str:
    what = {
        "zero-area-instance": "without any pixel",
        "one-pixel-instance": f"of 1 to {MAX_TINY_AREA} pixels",
        "duplicate-instance": "with the mask of another one",
        "two-classes": "with the mask of one of another class",
        "fragmented-instance": "in pieces far from each other",
        "occluded-instance": "in pieces far from each other, with other instances between them",
        "background-instance": "over most of the image, up to all of its borders",
        "likely-background": "up to all borders, by far the largest of an image without any pixel of background",
    }[kind]
    named = [_describe_row(kind, row, instances, names) for row in rows[:NUM_NAMED].tolist()]
    return f"has {count_of(len(rows), 'instance')} {what}: {list_some(named, len(rows))}"


def _describe_row(kind: str, row: int, instances: InstanceFacts, names: Sequence[str]) -> str:
    if instances.areas[row] == 0:
        return names[row]
    x, y = instances.boxes[row, :2].astype(int).tolist()
    place = f"{names[row]} at x {x}, y {y}"
    twins = {"duplicate-instance": instances.duplicate_of, "two-classes": instances.class_twin_of}
    if kind in twins:
        return f"{place} as {names[int(twins[kind][row])]}"
    if kind in ("fragmented-instance", "occluded-instance"):
        return f"{place} (pieces of {list_some(instances.pieces[row])} pixels)"
    return place


def examine_dataset(facts: Sequence[ImageFacts], categories: Sequence[Category]) -> list[Finding]:
    """Examine the images of a data set against each other, and the data set as a whole."""
    return [
        *_find_other_channels(facts),
        *_find_copies(facts, facts),
        *starmap(make_finding, _examine_mixture(facts)),
        *starmap(make_finding, _find_rare_classes(facts, categories)),
        *starmap(make_finding, _examine_instances(facts)),
    ]


def _find_other_channels(facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    """Images with another number of channels than most; grey counts as RGB, as the network sees it."""
    counts = Counter(count_inputs(image.num_channels) for image in facts)
    expected = max(counts, key=counts.__getitem__, default=0)
    for image in facts:
        if count_inputs(image.num_channels) != expected:
            usual = "1 or 3" if expected == 3 else expected
            detail = f"has {count_of(image.num_channels, 'channel')}, while most images have {usual}"
            yield make_finding("unsupported-channels", detail, image.name, image.path)


def compare_sets(facts: Sequence[ImageFacts], val_facts: Sequence[ImageFacts]) -> list[Finding]:
    """Find the training images that are in the validation set too; each finding names a training image."""
    return list(_find_copies(facts, val_facts, "-in-val"))


def _find_copies(facts: Sequence[ImageFacts], others: Sequence[ImageFacts], where: str = "") -> Iterator[Finding]:
    """Images that are the same as, or like, one of the others; of the same images, one before it."""
    first_of = {image.pixels_digest: image for image in reversed(others)}
    for image, place in zip(facts, _find_alike(facts, others, is_earlier=facts is others), strict=True):
        first = first_of.get(image.pixels_digest, image)
        if first is not image:
            yield _describe_copy(f"same-image{where}", image, first)
        elif place >= 0:
            yield _describe_copy(f"similar-image{where}", image, others[place])


def _describe_copy(kind: str, image: ImageFacts, other: ImageFacts) -> Finding:
    if kind.startswith("similar"):
        return make_finding(kind, f"looks much like {other.path}", image.name, image.path)
    labels = "the same labels" if image.labels_digest == other.labels_digest else "other labels"
    return make_finding(kind, f"has the same pixels as {other.path}, and {labels}", image.name, image.path)


def _find_alike(facts: Sequence[ImageFacts], others: Sequence[ImageFacts], *, is_earlier: bool) -> list[int]:
    """For each image the place of the first other one (before it, if ``is_earlier``) that looks like it, or -1."""
    alike: list[int] = []
    if not facts or not others:
        return [-1] * len(facts)
    bits, other_bits = _unpack_hashes(facts), _unpack_hashes(others)
    for begin in range(0, len(facts), _HASH_BLOCK):
        block = bits[begin : begin + _HASH_BLOCK]
        is_alike = 64 - block @ other_bits.T <= 2 * _MAX_HASH_DISTANCE
        if is_earlier:
            is_alike &= np.arange(len(others)) < np.arange(begin, begin + len(block))[:, None]
        alike += np.where(is_alike.any(axis=1), is_alike.argmax(axis=1), -1).tolist()
    return alike


def _unpack_hashes(facts: Sequence[ImageFacts]) -> Float32[np.ndarray, "images 64"]:
    """Bits as -1 and 1, so that a product counts equal bits minus unequal ones; zeros for an image without a hash."""
    packed = np.array([list((image.hash or 0).to_bytes(8, "big")) for image in facts], dtype=np.uint8)
    bits = 2 * np.unpackbits(packed, axis=1).astype(np.float32) - 1
    return bits * np.array([[image.hash is not None] for image in facts], dtype=np.float32)


def _examine_mixture(facts: Sequence[ImageFacts]) -> Iterator[tuple[str, str]]:
    if not facts:
        return
    sizes = sorted((image.size for image in facts), key=lambda size: size[0] * size[1])
    small, large = sizes[0], sizes[-1]
    if large[0] * large[1] > _MAX_SIZE_RATIO * small[0] * small[1]:
        yield "mixed-sizes", f"images from {small[0]} x {small[1]} to {large[0]} x {large[1]} pixels"
    channels = [f"{i.num_channels}-channel" for i in facts if i.num_channels in (1, 3)]
    kinds = {"types": [i.dtype for i in facts], "channels": channels}
    for what, of_images in kinds.items():
        if len(counts := Counter(of_images)) > 1:
            yield f"mixed-{what}", ", ".join(count_of(n, f"{kind} image") for kind, n in counts.most_common())
    usable = [image for image in facts if 0 <= image.value_range[0] < image.value_range[1] <= 1]
    bright = [image.dark_and_bright[1] for image in usable] or [0.0]
    low, high = np.percentile(bright, [5, 95]).tolist()
    if high > _MAX_BRIGHTNESS_RATIO * low:
        yield "mixed-brightness", f"the brightest pixels of most images lie between {low:.3g} and {high:.3g}"


def _find_rare_classes(facts: Sequence[ImageFacts], categories: Sequence[Category]) -> Iterator[tuple[str, str]]:
    """Classes of few instances, or in a single one of several images."""
    for index, category in enumerate(categories, start=1):
        counts = [int((image.instances.labels[image.instances.is_object] == index).sum()) for image in facts]
        num_images = sum(count > 0 for count in counts)
        if sum(counts) < _MIN_CLASS_INSTANCES or num_images == 1 < len(facts):
            amount = f"{count_of(sum(counts), 'instance')} in {count_of(num_images, 'image')}"
            yield "rare-class", f"class {category.name!r} has {amount}"


def _examine_instances(facts: Sequence[ImageFacts]) -> Iterator[tuple[str, str]]:
    num_instances = sum(int(image.instances.is_object.sum()) for image in facts)
    counts = [image.instances.piece_counts[image.instances.is_object] for image in facts]
    num_pieces = np.concatenate([*counts, np.zeros(0)])
    if are_scattered(num_pieces, MIN_MEDIAN_PIECES):
        yield (
            "scattered-instances",
            f"most of the {num_instances} instances are in several pieces far from each other, about "
            f"{num_pieces.sum():.0f} in all: values seem to be shared by several objects",
        )
    num_cut = sum(int(find_cut(image).sum()) for image in facts)
    if num_cut > _MAX_BORDER_FRACTION * num_instances:
        yield "border-cut", f"{num_cut} of {num_instances} instances touch the border of their image"
    if num_overlapping := sum(int((image.instances.mask_iou > 0).sum()) for image in facts):
        what = f"{num_overlapping} of {num_instances} instances"
        yield "overlapping-instances", f"{what} share pixels with another one of their class"
