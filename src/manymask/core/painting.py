"""Instances as one label image, where overlapping ones must give way."""

import numpy as np
from jaxtyping import Int32, Int64

from manymask.core.instances import Instances
from manymask.core.label_painting import paint_label_image, rank_instances


def paint_ids(instances: Instances) -> tuple[Int32[np.ndarray, "height width"], Int64[np.ndarray, " kept"]]:
    """Paint all instances into one image; an overlap goes to the higher score, to the earlier row at equal scores.

    Crowd regions are left out.

    Returns:
        Ids 1..K by falling score, 0 for background; and the row of each id.
    """
    rows, num_visible = rank_instances(instances.runs, instances.scores, instances.iscrowd)
    return paint_label_image(instances.runs.select(rows[:num_visible])), rows[:num_visible]
