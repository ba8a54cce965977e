"""Instances as one label image, where overlapping ones must give way."""

import numpy as np
from jaxtyping import Int32, Int64

from manymask.core.instances import Instances


def paint_ids(instances: Instances) -> tuple[Int32[np.ndarray, "height width"], Int64[np.ndarray, " kept"]]:
    """Paint all instances into one image; an overlap goes to the higher score, to the earlier row at equal scores.

    Crowd regions are left out.

    Returns:
        Ids 1..K by falling score, 0 for background; and the row of each id.
    """
    height, width = instances.size
    rows = np.flatnonzero(~instances.iscrowd)
    rows = rows[np.argsort(-instances.scores[rows], kind="stable")]
    runs = instances.runs.select(rows)
    flat = np.zeros(height * width, dtype=np.int32)
    # Runs ascend by owner: from last to first paints the highest score last, on top.
    for owner, start, length in zip(runs.owner[::-1], runs.start[::-1], runs.length[::-1], strict=True):
        flat[start : start + length] = owner + 1
    is_kept = np.bincount(flat, minlength=len(rows) + 1)[1:] > 0
    new_ids = np.concatenate([[0], np.cumsum(is_kept)]).astype(np.int32)
    return new_ids[flat].reshape(width, height).T, rows[is_kept]
