"""Layers: the masks of all instances of an image as a stack of few integer images.

0 is background and a positive value is an instance id, 1..N. Each id lives in exactly one layer, and instances that
overlap live in different layers, so a plain label image is one layer.
"""

import numpy as np
import torch
from jaxtyping import Int, Int32, Int64, Integer
from torch import Tensor

from manymask.core.light_torchvision import tv_tensors  # pyright: ignore[reportMissingTypeStubs]
from manymask.core.overlap import find_sharing, intersect_runs
from manymask.core.runs import RunLengths


class InstanceLayers(tv_tensors.Mask):
    """A stack of instance ids, (layers, height, width), int32.

    As a subclass of torchvision's ``Mask`` it passes through ``torchvision.transforms.v2`` beside its image. Transforms
    carry ids through float32, which is exact below 2^24. Call ``compact_layers`` after them.
    """

    def __new__(cls, data: object, *, device: torch.device | str | None = None) -> "InstanceLayers":
        """Wrap a stack of ids.

        Raises:
            ValueError: The stack is not of three axes, or not of whole numbers.
        """
        tensor = torch.as_tensor(data, device=device)  # pyright: ignore[reportArgumentType]
        if tensor.ndim != 3 or tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(
                f"expected whole numbers of shape (layers, height, width), got {tensor.dtype} {tuple(tensor.shape)}"
            )
        return tensor.to(torch.int32).as_subclass(cls)


def encode_layers(layers: Integer[Tensor, "layers height width"], num_instances: int) -> RunLengths:
    """Turn layers into runs, in one pass over the pixels for all instances at once.

    Args:
        layers: Ids, 0 for background, at most ``num_instances``.
        num_instances: Number of instances; ids that no pixel holds get an empty mask.

    Raises:
        ValueError: An id is above ``num_instances``.
    """
    height, width = int(layers.shape[-2]), int(layers.shape[-1])
    parts: list[list[np.ndarray]] = []
    for layer in layers.as_subclass(Tensor).cpu().numpy():
        flat = layer.T.ravel()
        if flat.size == 0:
            continue
        begin = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
        end = np.append(begin[1:], flat.size)
        ids = flat[begin]
        is_mask = ids > 0
        parts.append([ids[is_mask].astype(np.int64) - 1, begin[is_mask], (end - begin)[is_mask]])
    if not parts:
        return RunLengths.empty((height, width), num_instances)
    owner, start, length = map(np.concatenate, zip(*parts, strict=True))
    if owner.max(initial=-1) >= num_instances:
        raise ValueError(f"expected ids up to {num_instances}, got {owner.max() + 1}")
    order = np.argsort(owner, kind="stable")  # starts already ascend within each id, which lives in one layer
    return RunLengths((height, width), num_instances, owner[order], start[order], length[order])


def paint_layers(runs: RunLengths) -> InstanceLayers:
    """Turn runs into as few layers as a greedy packing finds; row i becomes id i + 1.

    Instances go, in order, to the first layer in which they overlap nothing, so the number of layers is the depth of
    overlap that this packing finds; at least one. That is small for ground truth, which this is for. Predictions may
    pile up without limit: ``manymask.formats.write_label_image`` paints them as one label image.
    """
    layer_of = assign_layers(runs)
    height, width = runs.size
    num_layers = int(layer_of.max(initial=0)) + 1
    layers = np.empty((num_layers, height, width), dtype=np.int32)
    run_layer = layer_of[runs.owner]
    for layer in range(num_layers):
        here = run_layer == layer
        ids = (runs.owner[here] + 1).astype(np.int32)
        # Ids switched on at starts and off at ends; the running sum paints all runs of a layer at once.
        steps = np.zeros(height * width + 1, dtype=np.int32)
        steps[runs.start[here]] += ids
        steps[runs.start[here] + runs.length[here]] -= ids
        layers[layer] = np.cumsum(steps[:-1], dtype=np.int32).reshape(width, height).T
    return InstanceLayers(layers)


def assign_layers(
    runs: RunLengths, given: Integer[np.ndarray, " given"] | tuple[()] = ()
) -> Int64[np.ndarray, " instances"]:
    """The layer of each instance: the first one that no overlapping instance before it has taken.

    Args:
        runs: The masks.
        given: Layers of the first instances, which keep them.
    """
    layer_of = np.zeros(runs.num_instances, dtype=np.int64)
    layer_of[: len(given)] = given
    sharing = np.flatnonzero(find_sharing(runs))  # few do
    masks = runs.select(sharing)
    overlaps = intersect_runs(masks, masks)
    first, second = sharing[overlaps.first], sharing[overlaps.second]
    is_earlier = (second < first) & (first >= len(given))
    rows, earlier = first[is_earlier], second[is_earlier]
    unique_rows, begin = np.unique(rows, return_index=True)
    for row, begin_row, end_row in zip(unique_rows, begin, [*begin[1:], len(earlier)], strict=False):
        taken = set(layer_of[earlier[begin_row:end_row]].tolist())
        layer_of[row] = next(layer for layer in range(len(taken) + 1) if layer not in taken)
    return layer_of


def compact_layers(
    layers: Int32[Tensor, "layers height width"], num_instances: int, min_area: int = 1
) -> tuple[InstanceLayers, Int64[Tensor, " kept"]]:
    """Drop ids of fewer than ``min_area`` pixels and renumber the rest 1..K in the same order; drop empty layers.

    Returns:
        The new layers (at least one) and the old rows (0-based) that were kept, to index the instances' table with.
    """
    stack = layers.as_subclass(Tensor)
    areas = torch.zeros(num_instances + 1, dtype=torch.int64, device=stack.device)
    for layer in stack:
        areas += torch.bincount(layer.flatten(), minlength=num_instances + 1)
    areas[0] = 0
    kept = torch.nonzero(areas >= max(min_area, 1)).flatten()
    new_ids = torch.zeros(num_instances + 1, dtype=torch.int32, device=stack.device)
    new_ids[kept] = torch.arange(1, len(kept) + 1, dtype=torch.int32, device=stack.device)
    compacted = new_ids.index_select(0, stack.flatten()).view(stack.shape)
    is_used = compacted.flatten(1).any(dim=1)
    is_used[:1] |= ~is_used.any()
    return InstanceLayers(compacted[is_used]), kept - 1


def find_layers(layers: Int[Tensor, "layers height width"], num_instances: int) -> Int64[Tensor, " instances"]:
    """The layer that each instance lives in; 0 for an id that no pixel holds."""
    layer_of = torch.zeros(num_instances + 1, dtype=torch.int64, device=layers.device)
    for index, layer in enumerate(layers.as_subclass(Tensor)):
        if index > 0:
            layer_of[torch.bincount(layer.flatten(), minlength=num_instances + 1) > 0] = index
    return layer_of[1:]
