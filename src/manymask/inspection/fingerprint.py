"""The fingerprint: what a data set is like, in the numbers that the rules plan from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict

from manymask.core import Category
from manymask.errors import DatasetError
from manymask.inspection.measurement import ImageFacts
from manymask.wording import count_of

_QUANTILES = {"min": 0, "p1": 1, "p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "p99": 99, "max": 100}


class Distribution(BaseModel):
    """Quantiles of a measurement; all 0 where nothing was measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float = 0.0
    p1: float = 0.0
    p5: float = 0.0
    p25: float = 0.0
    median: float = 0.0
    p75: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, values: ArrayLike) -> "Distribution":
        """Quantiles of some values, interpolated between neighbours."""
        values = np.asarray(values, dtype=np.float64)
        if values.size == 0:
            return cls()
        found = np.percentile(values, list(_QUANTILES.values()))
        return cls(**dict(zip(_QUANTILES, found.tolist(), strict=True)))


class ClassFacts(BaseModel):
    """The instances of one class.

    Attributes:
        id: The class's number in the files.
        name: Its name.
        num_instances: Instances with pixels, crowd regions left out.
        num_images: Images that hold at least one.
        area: Pixels of an instance.
        elongation: Longer over shorter side of the box, at least 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: int
    name: str
    num_instances: int
    num_images: int
    area: Distribution
    elongation: Distribution


class Fingerprint(BaseModel):
    """What a data set is like; written as ``fingerprint.json``. Lengths are pixels of the files' own resolution.

    Attributes:
        version: Of this list of fields.
        num_images: Images that can be read.
        num_empty_images: Images without an instance.
        num_instances: Instances with pixels, crowd regions left out.
        num_crowd_regions: COCO's crowd regions; in label images one an image with pixels to ignore, for each class.
        ignored_fraction: Share of all pixels that lie in crowd regions of a class, at most.
        heights: Of the images.
        widths: Of the images.
        areas: Pixels of an image, over images.
        megapixels: Of all images together.
        channels: Images by their number of channels.
        pixel_types: Images by the type of their values, such as ``uint8``.
        channel_ranges: For each channel the 0.1 % and 99.9 % values of an image (medians over images), as shares of an
            integer type's maximum; floats as they are.
        contrast: 99.8 % less 1 % value of an image over all its channels, in the same unit, over images.
        brightness: 99.8 % value of an image over all its channels, in the same unit, over images.
        instances_per_image: Over images.
        instances_per_megapixel: Over images that hold any.
        box_size: Square root of the box's area, over instances.
        elongation: Longer over shorter side of the box, over instances.
        classes: By class, in the order of class indices.
        touching_fraction: Share of instances that touch another one (a common edge of two pixels) or overlap it.
        overlapping_fraction: Share of instances that share pixels with another one.
        neighbor_box_iou: Highest IoU of an instance's box with another one's of its class, over instances.
        neighbor_mask_iou: The same of masks.
        border_fraction: Share of instances whose box touches the image's border.
        vertical_trend: Lower less upper half's mean brightness in units of the image's deviation: mean over images, and
            that mean over its standard error; data with an up have both far from 0.
        horizontal_trend: The same of the right and the left half.
        group_by: The pattern that finds an image's group in its name.
        num_groups: Groups, where a pattern is given.
        densest_image: Name of the image with most instances.
        largest_image: Name of the image with most pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    num_images: int
    num_empty_images: int
    num_instances: int
    num_crowd_regions: int
    ignored_fraction: float
    heights: Distribution
    widths: Distribution
    areas: Distribution
    megapixels: float
    channels: dict[int, int]
    pixel_types: dict[str, int]
    channel_ranges: tuple[tuple[float, float], ...]
    contrast: Distribution
    brightness: Distribution
    instances_per_image: Distribution
    instances_per_megapixel: Distribution
    box_size: Distribution
    elongation: Distribution
    classes: tuple[ClassFacts, ...]
    touching_fraction: float
    overlapping_fraction: float
    neighbor_box_iou: Distribution
    neighbor_mask_iou: Distribution
    border_fraction: float
    vertical_trend: tuple[float, float]
    horizontal_trend: tuple[float, float]
    group_by: str | None = None
    num_groups: int | None = None
    densest_image: str
    largest_image: str


def make_fingerprint(
    facts: Sequence[ImageFacts],
    categories: Sequence[Category],
    group_by: str | None = None,
    groups: Mapping[str, str] | None = None,
    root: Path | None = None,
) -> Fingerprint:
    """Sum up the facts of all images of a data set.

    Args:
        facts: Of each image, in a fixed order.
        categories: The data set's classes.
        group_by: The pattern that the groups were found with.
        groups: The group of each image, by its name.
        root: The data set's folder or file, for the message.

    Raises:
        DatasetError: There is no instance in any image.
    """
    counts = np.array([int(image.instances.is_object.sum()) for image in facts])
    if not counts.any():
        where = count_of(len(facts), "image") + (f" of {root}" if root else "")
        if num_crowd := sum(int(image.instances.iscrowd.sum()) for image in facts):
            raise DatasetError(
                f"expected at least one labelled instance, but all {num_crowd} in {where} are crowd regions (COCO's "
                "iscrowd 1, or pixels of ignore_label); if they are single objects, as CVAT writes brush strokes, set "
                "crowd_as_objects=true, or leave ignore_label out"
            )
        raise DatasetError(f"expected at least one labelled instance, found none in {where}; label some")
    usable = [image for image in facts if image.is_finite]
    pixels = np.array([image.size[0] * image.size[1] for image in facts])
    boxes, area, labels = (_gather(facts, name) for name in ("boxes", "areas", "labels"))
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    elongation = sides.max(axis=1) / sides.min(axis=1)
    return Fingerprint(
        num_images=len(facts),
        num_empty_images=int((counts == 0).sum()),
        num_instances=int(counts.sum()),
        num_crowd_regions=sum(int(image.instances.iscrowd.sum()) for image in facts),
        ignored_fraction=sum(map(_count_ignored, facts)) / int(pixels.sum()),
        heights=Distribution.of([image.size[0] for image in facts]),
        widths=Distribution.of([image.size[1] for image in facts]),
        areas=Distribution.of(pixels),
        megapixels=float(pixels.sum()) / 1e6,
        channels=dict(sorted(Counter(image.num_channels for image in facts).items())),
        pixel_types=dict(sorted(Counter(image.dtype for image in facts).items())),
        channel_ranges=_sum_up_channels(usable),
        contrast=Distribution.of([image.dark_and_bright[1] - image.dark_and_bright[0] for image in usable]),
        brightness=Distribution.of([image.dark_and_bright[1] for image in usable]),
        instances_per_image=Distribution.of(counts),
        instances_per_megapixel=Distribution.of((counts * 1e6 / pixels)[counts > 0]),
        box_size=Distribution.of(np.sqrt(sides.prod(axis=1))),
        elongation=Distribution.of(elongation),
        classes=_sum_up_classes(facts, categories, labels, area, elongation),
        touching_fraction=float(_gather(facts, "is_touching").mean()),
        overlapping_fraction=float(_gather(facts, "is_overlapping").mean()),
        neighbor_box_iou=Distribution.of(_gather(facts, "box_iou")),
        neighbor_mask_iou=Distribution.of(_gather(facts, "mask_iou")),
        border_fraction=float(np.concatenate([find_cut(image) for image in facts]).mean()),
        vertical_trend=_sum_up_trend([image.trends[0] for image in usable]),
        horizontal_trend=_sum_up_trend([image.trends[1] for image in usable]),
        group_by=group_by,
        num_groups=None if groups is None else len({groups[image.name] for image in facts}),
        densest_image=facts[int(counts.argmax())].name,
        largest_image=facts[int(pixels.argmax())].name,
    )


def _gather(facts: Sequence[ImageFacts], name: str) -> np.ndarray:
    """One measurement of the objects of all images."""
    return np.concatenate([getattr(image.instances, name)[image.instances.is_object] for image in facts])


def find_cut(image: ImageFacts) -> Bool[np.ndarray, " objects"]:
    """Whether each object's box touches the border of its image."""
    boxes = image.instances.boxes[image.instances.is_object]
    height, width = image.size
    return (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == [width, height]).any(axis=1)


def _count_ignored(image: ImageFacts) -> int:
    """Pixels of the crowd regions of a class, of the one that has most."""
    found = image.instances
    return int(np.bincount(found.labels[found.iscrowd], found.areas[found.iscrowd]).max(initial=0))


def _sum_up_channels(facts: Sequence[ImageFacts]) -> tuple[tuple[float, float], ...]:
    """Medians over the images that have a channel."""
    ranges: list[tuple[float, float]] = []
    for channel in range(max((image.num_channels for image in facts), default=0)):
        found = [image.channel_ranges[channel] for image in facts if channel < image.num_channels]
        low, high = np.median(found, axis=0).tolist()
        ranges.append((low, high))
    return tuple(ranges)


def _sum_up_classes(
    facts: Sequence[ImageFacts],
    categories: Sequence[Category],
    labels: np.ndarray,
    areas: np.ndarray,
    elongation: np.ndarray,
) -> tuple[ClassFacts, ...]:
    present = [set(image.instances.labels[image.instances.is_object].tolist()) for image in facts]
    return tuple(
        ClassFacts(
            id=category.id,
            name=category.name,
            num_instances=int((labels == index).sum()),
            num_images=sum(index in found for found in present),
            area=Distribution.of(areas[labels == index]),
            elongation=Distribution.of(elongation[labels == index]),
        )
        for index, category in enumerate(categories, start=1)
    )


def _sum_up_trend(trends: Sequence[float]) -> tuple[float, float]:
    """Mean, and mean over its standard error; 0 for the latter where one image or equal ones leave none."""
    if not trends:
        return 0.0, 0.0
    mean = float(np.mean(trends))
    error = float(np.std(trends, ddof=1)) / len(trends) ** 0.5 if len(trends) > 1 else 0.0
    return mean, mean / error if error > 0 else 0.0
