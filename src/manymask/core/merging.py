"""Merge what was found in several views of one image (flipped, resized), on runs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from manymask.core.instances import Instances, concatenate_instances
from manymask.core.overlap import compute_iou, intersect_runs
from manymask.core.runs import RunLengths

# Mask IoU above which instances of two views are one: above it, each has at most one such partner in a label image.
MATCH_IOU = 0.5


def merge_views(views: Sequence[Instances]) -> Instances:
    """Merge the instances that views agree on into one each, by falling score.

    In turn the best instance that is left is matched with the best one of its class from each other view (mask IoU
    above 0.5). A pixel belongs to the merged mask if the instances that hold it have more than half of the group's sum
    of scores. The merged score is that sum over the number of views, so that what few views see counts little.

    Args:
        views: The instances that each view found, all in the image's own coordinates; at least one view.

    Returns:
        The merged instances with the boxes of their masks; those whose mask became empty are left out.
    """
    view_of = np.repeat(np.arange(len(views)), [len(view) for view in views])
    instances = concatenate_instances(views)
    order = np.argsort(-instances.scores, kind="stable")
    instances, view_of = instances[order], view_of[order]
    leaders, cluster = _match_views(instances, view_of)
    scores = instances.scores.astype(np.float64)
    sums = np.bincount(cluster, weights=scores, minlength=len(leaders))
    runs = vote_runs(instances.runs, cluster, len(leaders), scores)
    merged = Instances.from_runs(runs, instances.labels[leaders], scores=(sums / len(views)).astype(np.float32))
    rows = np.argsort(-merged.scores, kind="stable")
    return merged[rows[runs.areas[rows] > 0]]


def merge_scales(passes: Sequence[Instances], limits: Sequence[float]) -> Instances:
    """Merge what passes over one image at different scales found, each for objects of its own sizes; by falling score.

    Of two instances of a class from different passes, one of which lies more than half in the other, the better one
    stays: a part of a large object that a fine pass took for an object, or a cluster that a coarse one took for one.

    Args:
        passes: The instances of each pass, the finest first, all in the image's own coordinates; at least one pass.
        limits: Between each two passes the size, as square root of the area in pixels, from which an object is the
            next, coarser pass's.
    """
    pass_of_size = [np.searchsorted(limits, np.sqrt(found.runs.areas), "right") for found in passes]
    own = [found[sizes == place] for place, (found, sizes) in enumerate(zip(passes, pass_of_size, strict=True))]
    pass_of = np.repeat(np.arange(len(own)), [len(found) for found in own])
    instances = concatenate_instances(own)
    order = np.argsort(-instances.scores, kind="stable")
    instances, pass_of = instances[order], pass_of[order]
    pairs, areas = intersect_runs(instances.runs, instances.runs), instances.runs.areas
    is_rival = 2 * pairs.intersection > np.minimum(areas[pairs.first], areas[pairs.second])
    is_rival &= (pairs.first < pairs.second) & (pass_of[pairs.first] != pass_of[pairs.second])
    is_rival &= instances.labels[pairs.first] == instances.labels[pairs.second]
    return instances[keep_better(pairs.first[is_rival], pairs.second[is_rival], len(instances))]


def keep_better(
    better: Int64[np.ndarray, " rivals"], worse: Int64[np.ndarray, " rivals"], num_instances: int
) -> Int64[np.ndarray, " kept"]:
    """The rows that are left when of two rivals the worse one goes, unless the better one is gone before.

    Args:
        better: A row of each pair of rivals.
        worse: The other one, which comes after it.
        num_instances: Number of rows, best first.
    """
    is_kept = np.ones(num_instances, dtype=bool)
    order = np.argsort(better, kind="stable")
    for first, second in zip(better[order], worse[order], strict=True):
        if is_kept[first]:
            is_kept[second] = False
    return np.flatnonzero(is_kept)


def _match_views(instances: Instances, view_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each group of matching instances, at most one of each view, and the group of each row."""
    pairs = intersect_runs(instances.runs, instances.runs)
    iou = compute_iou(pairs, instances.runs.areas, instances.runs.areas)
    first, second = pairs.first, pairs.second
    is_match = (first < second) & (iou > MATCH_IOU) & (view_of[first] != view_of[second])
    is_match &= instances.labels[first] == instances.labels[second]
    first, second, iou = first[is_match], second[is_match], iou[is_match]
    order = np.lexsort((-iou, first))
    partners = second[order].tolist()
    splits = np.searchsorted(first[order], np.arange(len(instances) + 1)).tolist()
    cluster = np.full(len(instances), -1, dtype=np.int64)
    leaders: list[int] = []
    for row in range(len(instances)):
        if cluster[row] >= 0:
            continue
        cluster[row], taken = len(leaders), {view_of[row]}
        for partner in partners[splits[row] : splits[row + 1]]:
            if cluster[partner] < 0 and view_of[partner] not in taken:
                cluster[partner] = len(leaders)
                taken.add(view_of[partner])
        leaders.append(row)
    return np.array(leaders, dtype=np.int64), cluster


def vote_runs(
    runs: RunLengths,
    cluster: Int64[np.ndarray, " instances"],
    num_clusters: int,
    weights: Float64[np.ndarray, " instances"],
) -> RunLengths:
    """For each cluster of masks the pixels on which the masks have more than half of the cluster's weight.

    Args:
        runs: The masks.
        cluster: The cluster of each, 0-based.
        num_clusters: Their number.
        weights: The vote of each mask.
    """
    stride = runs.size[0] * runs.size[1] + 1  # one more than the image, so that no run ends where a cluster begins
    owner = cluster[runs.owner]
    begin = owner * stride + runs.start
    places = np.concatenate([begin, begin + runs.length])
    votes = np.concatenate([weights[runs.owner], -weights[runs.owner]])
    order = np.argsort(places, kind="stable")
    places, held = places[order], np.cumsum(votes[order])[:-1]
    if len(places) == 0:
        return RunLengths.empty(runs.size, num_clusters)
    of_place, start = np.divmod(places[:-1], stride)
    half = np.bincount(cluster, weights=weights, minlength=num_clusters)[of_place] / 2
    is_kept = held > half + 1e-9  # what rounding leaves of votes that cancel is no majority
    length = np.where(is_kept, np.diff(places), 0)
    return RunLengths.from_intervals(runs.size, num_clusters, of_place, start, length)
