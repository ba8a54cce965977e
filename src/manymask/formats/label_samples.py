"""Samples of label images, and the reverse: of several classes, and with pixels to ignore."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int32

from manymask.core import (
    ImageSource,
    InstanceLayers,
    Instances,
    RunLengths,
    concatenate_runs,
    encode_layers,
    paint_ids,
    paint_layers,
)
from manymask.core.dataset import Doubt, Record, Sample
from manymask.formats.ids import LabelImage
from manymask.formats.records import make_sample

IGNORED = -1
"""The value of pixels to ignore in label images that are written; no number of objects makes it one of theirs."""


def make_labelled_sample(
    record: Record,
    image: ImageSource,
    parts: Sequence[LabelImage],
    classes: Sequence[int],
    num_classes: int,
    doubts: tuple[Doubt, ...] = (),
) -> Sample:
    """Put a sample together of label images.

    What any of them ignores becomes a crowd region of every class, so that no prediction there counts. Objects of other
    label images stay whole.

    Args:
        record: The image's record.
        image: The image.
        parts: Its label images.
        classes: The class index of each.
        num_classes: Classes of the data set.
        doubts: What its reader had to guess.
    """
    labels = [np.full(len(part.old_ids), index) for part, index in zip(parts, classes, strict=True)]
    joined, masks = np.concatenate(labels), [part.ignored for part in parts if part.ignored is not None]
    if not np.any(masks):
        return make_sample(record, image, _merge(parts), joined, doubts=doubts)
    region = _encode(np.any(masks, axis=0).astype(np.int32), 1)
    runs = concatenate_runs([*_encode_parts(parts), *[region] * num_classes])
    is_crowd = np.arange(len(runs)) >= len(joined)
    joined = np.append(joined, np.arange(1, num_classes + 1))
    return make_sample(record, image, paint_layers(runs), joined, is_crowd, doubts)


def paint_labels(instances: Instances) -> Int32[np.ndarray, "height width"]:
    """The ids of ``paint_ids``, and ``IGNORED`` where there are only crowd regions."""
    ids, crowds = paint_ids(instances)[0], instances[instances.iscrowd]
    is_ignored = paint_ids(Instances.from_runs(crowds.runs, crowds.labels))[0] > 0
    return np.where(is_ignored & (ids == 0), np.int32(IGNORED), ids)


def _merge(parts: Sequence[LabelImage]) -> InstanceLayers | Int32[np.ndarray, "height width"]:
    """One label image where the parts share no pixel, else layers; ids go on from part to part."""
    merged, offset = np.zeros_like(parts[0].ids), 0
    for part in parts:
        is_instance = part.ids > 0
        if merged[is_instance].any():
            return paint_layers(concatenate_runs(_encode_parts(parts)))
        merged[is_instance] = part.ids[is_instance] + offset
        offset += len(part.old_ids)
    return merged


def _encode_parts(parts: Sequence[LabelImage]) -> list[RunLengths]:
    return [_encode(part.ids, len(part.old_ids)) for part in parts]


def _encode(ids: Int32[np.ndarray, "height width"], num_ids: int) -> RunLengths:
    return encode_layers(torch.from_numpy(ids[None]), num_ids)
