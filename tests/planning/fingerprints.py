"""Fingerprints of data that do not exist, machines, and costs of a step."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from manymask.inspection import Fingerprint
from manymask.inspection.fingerprint import ClassFacts, Distribution
from manymask.planning.rules import Machine, StepCost

CPU = Machine("cpu", 2, 8000.0)
CUDA = Machine("cuda", 16, 24_000.0)
COST = StepCost(seconds_per_image=0.5, seconds_per_validation=6.0, fixed_mib=800.0, mib_per_image=300.0)


def make_distribution(value: float = 0.0, **quantiles: float) -> Distribution:
    """One value at all quantiles but the given ones."""
    return Distribution(**{**dict.fromkeys(Distribution.model_fields, float(value)), **quantiles})


def make_class(number: int = 1, num_images: int = 60) -> ClassFacts:
    some = make_distribution(100)
    return ClassFacts(
        id=number, name=f"class{number}", num_instances=1, num_images=num_images, area=some, elongation=some
    )


def make_data(**changes: Any) -> Fingerprint:
    """60 images of 256 x 256 with about 50 round objects of about 20 pixels; numbers stand for whole distributions."""
    values: dict[str, Any] = {
        "num_images": 60,
        "num_empty_images": 0,
        "num_instances": 3000,
        "num_crowd_regions": 0,
        "ignored_fraction": 0.0,
        "heights": 256,
        "widths": 256,
        "areas": 65536,
        "megapixels": 60 * 0.065536,
        "channels": {1: 60},
        "pixel_types": {"uint8": 60},
        "channel_ranges": ((0.0, 1.0),),
        "contrast": 0.9,
        "brightness": 0.95,
        "instances_per_image": 50,
        "instances_per_megapixel": 760,
        "box_size": 20,
        "elongation": 1.2,
        "classes": (make_class(),),
        "touching_fraction": 0.1,
        "overlapping_fraction": 0.0,
        "neighbor_box_iou": 0.1,
        "neighbor_mask_iou": 0.0,
        "border_fraction": 0.1,
        "vertical_trend": (0.0, 0.0),
        "horizontal_trend": (0.0, 0.0),
        "densest_image": "a",
        "largest_image": "b",
    } | changes
    for name, value in values.items():
        if Fingerprint.model_fields[name].annotation is Distribution and not isinstance(value, Distribution):
            values[name] = make_distribution(value)
    return Fingerprint(**values)


def _distributions(low: float, high: float) -> st.SearchStrategy[Distribution]:
    return st.lists(st.floats(low, high), min_size=1, max_size=5).map(lambda values: Distribution.of(np.array(values)))


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    """Anything that images and labels can be like."""
    num_images = draw(st.integers(1, 10_000))
    sides, shares = _distributions(1, 20_000), _distributions(0, 1)
    classes = draw(st.lists(st.integers(0, num_images), max_size=3))
    trend = st.tuples(st.floats(-3, 3), st.floats(-50, 50))
    return make_data(
        num_images=num_images,
        heights=draw(sides),
        widths=draw(sides),
        areas=draw(_distributions(1, 4e8)),
        megapixels=draw(st.floats(1e-6, 1e5)),
        pixel_types={draw(st.sampled_from(["uint8", "uint16", "float32"])): num_images},
        contrast=draw(_distributions(0, 1e5)),
        brightness=draw(_distributions(-1e5, 1e5)),
        instances_per_image=draw(_distributions(0, 50_000)),
        instances_per_megapixel=draw(_distributions(0, 1e6)),
        box_size=draw(_distributions(1, 5000)),
        elongation=draw(_distributions(1, 1000)),
        classes=tuple(make_class(n, found) for n, found in enumerate([num_images, *classes], start=1)),
        neighbor_box_iou=draw(shares),
        neighbor_mask_iou=draw(shares),
        vertical_trend=draw(trend),
        horizontal_trend=draw(trend),
    )


machines = st.builds(Machine, st.sampled_from(["cpu", "cuda"]), st.integers(1, 256), st.floats(0, 1e6))
costs = st.builds(StepCost, st.floats(1e-4, 1e3), st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e5))
