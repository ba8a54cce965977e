"""Images that are too long for the factor that a model was trained with."""

import math
from collections.abc import Mapping

from manymask.plan import Plan
from manymask.wording import list_some


def describe_lost_scale(sizes: Mapping[str, tuple[int, int]], plan: Plan) -> str | None:
    """One sentence on images that ``max_size`` keeps from being enlarged by the whole of ``scale``.

    Their objects look smaller to the network than all that it was trained on, and small ones are not found.

    Args:
        sizes: (height, width) of each image by its name.
        plan: The settings ``min_size``, ``scale`` and ``max_size``.

    Returns:
        The images, and what to do; None where all get the whole factor.
    """
    if plan.min_size or plan.scale <= 1:
        return None
    long = {name: size for name, size in sizes.items() if max(size) * plan.scale > plan.max_size}
    if not long:
        return None
    longest = max(max(size) for size in long.values())
    names = [f"{name} ({height} x {width})" for name, (height, width) in long.items()]
    return (
        f"{list_some(names)}: images longer than {plan.max_size / plan.scale:.0f} pixels are enlarged by less than "
        f"scale={plan.scale:g}, so that small objects may be lost; set max_size to {math.ceil(longest * plan.scale)}, "
        "which takes more memory, or cut the images into parts"
    )
