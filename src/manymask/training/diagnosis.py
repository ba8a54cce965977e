"""What a trained network gets right at each stage, on images that it was trained on and on others.

Where objects are lost on both kinds of images, it has not learnt enough; where only on the others, it has learnt by
heart. Where true boxes themselves are taken for background, better boxes would not help.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes

from manymask.core import Dataset, Instances, RunLengths, Window, compute_iou, crop_runs, intersect_runs
from manymask.core.components import find_touching
from manymask.errors import CheckpointError
from manymask.imaging.normalization import Scales
from manymask.metrics import ScoredImage, score_image
from manymask.metrics.matching import match_shown, pair_boxes
from manymask.metrics.stages import Counts, StageShares, format_shares, pool_counts
from manymask.modeling.build import assemble_model
from manymask.modeling.checkpoint import CHECKPOINT_KEY, read_checkpoint, strip_prefix
from manymask.modeling.detections import Postprocessing, make_instances, paste_masks
from manymask.modeling.device import autocast
from manymask.modeling.fast import speed_up
from manymask.modeling.network import MaskRCNN
from manymask.modeling.preprocessing import Preprocessing, View
from manymask.modeling.roi_heads import DETECTIONS_AT_ONCE
from manymask.modeling.weights import load_weights
from manymask.plan import load_plan
from manymask.prediction.tiling import Tiling
from manymask.run_folder import RunFolder
from manymask.training.loading import ValidationImages
from manymask.training.module import TrainingModule
from manymask.training.setup import TrainingData

logger = logging.getLogger(__name__)

MAX_IMAGES = 60
"""Images of a set, at most."""
SMALL_AREA = 60
"""Objects of fewer square pixels are small."""
FOUND_IOU, PROPOSAL_IOU, BOX_IOU, MASK_IOU = 0.5, 0.7, 0.9, 0.9
"""From which a found mask, a proposal, a predicted box and a true box's mask count."""
TIME_SHARE = 0.03
"""Share of a run's time that its diagnosis may take."""
LEAST_SECONDS = 2.0
"""Less does not pay, for to load the network takes as long; a run with a time budget always keeps as much back."""
# How much longer an image takes than in validation, at most: the heads run on the true boxes too.
COST = 2.0


def diagnose_run(folder: RunFolder, data: TrainingData, module: TrainingModule, seconds: float) -> None:
    """Diagnose the model that a finished run keeps; write ``diagnosis.json`` and tell it, or why there is none.

    Whatever goes wrong is a warning, since the run itself is done and kept.

    Args:
        folder: The run's.
        data: Its images; training images larger than all of validation are left out, for they may not fit into memory.
        module: What the last validation took of time and memory.
        seconds: Time that it may take; where it is not enough for one image of each set, there is no diagnosis.
    """
    datasets, seconds_per_image = {"training": data.train, "validation": data.val}, COST * module.seconds_per_image
    if seconds < (needed := max(len(datasets) * seconds_per_image, LEAST_SECONDS)):
        logger.info(f"no diagnosis: the run has {seconds:.1f} s for it, and it takes at least {needed:.1f} s")
        return
    try:
        checkpoint = folder.best if folder.best.exists() else folder.last
        diagnosis = diagnose_model(
            checkpoint,
            datasets,
            module.device,
            scales=data.scales,
            seconds=seconds,
            seconds_per_image=seconds_per_image,
            max_pixels=module.most_pixels,
        )
        if all(shares.num_images for shares in diagnosis.values()):
            folder.write_diagnosis(diagnosis)
            logger.info(f"what {checkpoint.name} gets right at each stage:\n{format_shares(diagnosis)}")
        else:
            unseen = " and ".join(name for name, shares in diagnosis.items() if not shares.num_images)
            logger.info(
                f"no diagnosis: none of the {unseen} images fits into its {seconds:.1f} s and the memory of validation"
            )
    except Exception as error:  # of any kind: nothing may make a run that is done look failed
        logger.warning(f"the run is done, but its diagnosis failed ({type(error).__name__}: {error})")


def diagnose_model(
    checkpoint: Path,
    datasets: Mapping[str, Dataset],
    device: torch.device,
    *,
    scales: Scales | None = None,
    seconds: float = math.inf,
    seconds_per_image: float = 0.0,
    max_pixels: int | None = None,
) -> dict[str, StageShares]:
    """Diagnose the network of a checkpoint on some labelled images.

    Args:
        checkpoint: Which ``train`` wrote.
        datasets: Images by what they are called; at most 60 of each are looked at, in an order that ``split_seed``
            draws.
        device: Where the network runs.
        scales: What was measured of the images before.
        seconds: Time that it may take.
        seconds_per_image: What one image takes at most, as far as is known.
        max_pixels: Images of which more pixels are looked at are left out; of large ones that is a tile.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        DatasetError: An image cannot be read.
    """
    until = time.monotonic() + seconds
    content = read_checkpoint(checkpoint)
    plan = load_plan(content[CHECKPOINT_KEY]["plan"], str(checkpoint))
    if plan.data is None:
        raise CheckpointError(f"{checkpoint} does not say which classes it was trained on; train the model anew")
    network = assemble_model(len(plan.data.categories) + 1, plan)
    load_weights(network, strip_prefix(content["state_dict"]), str(checkpoint))
    network = speed_up(network, device, plan.precision)
    preprocessing = Preprocessing.of(plan)
    postprocessing = replace(Postprocessing.of(plan), shown_score=content[CHECKPOINT_KEY]["score_threshold"])
    images = {name: ValidationImages(dataset, plan, scales) for name, dataset in datasets.items()}
    counts: dict[str, list[Counts]] = {name: [] for name in images}
    orders = [_draw_order(len(own), plan.split_seed) for own in images.values()]
    # In turns, so that the time allows as many of each set.
    for indices in zip_longest(*orders):
        for (name, own), index in zip(images.items(), indices, strict=True):
            if index is None or time.monotonic() + seconds_per_image > until:
                continue
            sample = own.dataset[index]
            window, truth = _choose_window(sample.to_instances(), own.tiling)
            if max_pixels is not None and window.height * window.width > max_pixels:
                continue  # before its pixels are read
            image = own.normalize(sample, window)
            with torch.inference_mode(), autocast(plan.precision, device):
                counts[name].append(diagnose_image(network, image.to(device), truth, preprocessing, postprocessing))
    return {name: pool_counts(own) for name, own in counts.items()}


def _choose_window(truth: Instances, tiling: Tiling | None) -> tuple[Window, Instances]:
    """The whole of an image, or of a large one the tile with most objects; with the instances there."""
    tiles = tiling.list_tiles(truth.size) if tiling else []
    if len(tiles) < 2:
        return Window(0, 0, *truth.size), truth
    parts = [crop_runs(truth.runs, tile.window) for tile in tiles]
    counts = [int((part.areas > 0).sum()) for part in parts]
    place = counts.index(max(counts))
    part = Instances.from_runs(parts[place], truth.labels, iscrowd=truth.iscrowd)
    return tiles[place].window, part[part.runs.areas > 0]


def _draw_order(num_images: int, seed: int) -> list[int]:
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[:MAX_IMAGES]


def diagnose_image(
    network: MaskRCNN,
    image: Float32[Tensor, "channels height width"],
    truth: Instances,
    preprocessing: Preprocessing,
    postprocessing: Postprocessing,
) -> Counts:
    """Count what each stage of a network gets right of one image; memory grows with instances and with pixels alone.

    Args:
        network: In evaluation mode, on the image's device.
        image: In [0, 1].
        truth: Its instances, whose classes do not count.
        preprocessing: The model's.
        postprocessing: The model's; predictions from ``shown_score`` on are found.
    """
    parts: Any = network
    size = truth.size
    view = View(Window(0, 0, *size), preprocessing)
    batch, _ = parts.transform([view.take(image)])
    features = parts.backbone(batch.tensors)
    proposals, _ = parts.rpn(batch, features)
    (found,), _ = parts.roi_heads(features, proposals, batch.image_sizes)

    is_object = ~truth.iscrowd & (truth.runs.areas > 0)
    objects = truth[is_object]
    scored = _score(truth, make_instances(view.map_back(found), size, postprocessing), postprocessing)
    is_found = np.isin(np.flatnonzero(is_object), match_shown(scored, FOUND_IOU)[0].instance)
    is_touching = find_touching(objects.runs, by_corners=True)
    proposed = resize_boxes(proposals[0].float(), list(view.size), list(size)).cpu().numpy()

    true_boxes = torch.from_numpy(objects.boxes).to(image.device)
    scores, probabilities = _run_heads(parts, features, resize_boxes(true_boxes, list(size), list(view.size)), batch)
    is_exact = postprocessing.mask_alignment == "exact"
    masks = paste_masks(probabilities, true_boxes, size, postprocessing.mask_threshold, is_exact=is_exact)
    return {
        "AP50": _count_matches(scored, 0.5),
        "AP75": _count_matches(scored, 0.75),
        "AP90": _count_matches(scored, 0.9),
        "touching_found": _count(is_found[is_touching]),
        "lone_found": _count(is_found[~is_touching]),
        "small_found": _count(is_found[objects.runs.areas < SMALL_AREA]),
        "true_boxes_scored": _count(scores >= postprocessing.shown_score),
        "proposed": _count(_are_met(objects, proposed, PROPOSAL_IOU)),
        "refined": _count(_are_met(objects, scored.predictions.boxes, BOX_IOU)),
        "true_boxes_masked": _count(_measure_own_iou(masks, objects.runs) >= MASK_IOU),
    }


def _run_heads(
    network: Any, features: dict[str, Tensor], boxes: Float32[Tensor, "boxes 4"], batch: ImageList
) -> tuple[Float32[np.ndarray, " boxes"], Float32[Tensor, "boxes bins bins"]]:
    """The score of each box for the object class that fits best, and that class's mask."""
    heads, scores, masks = network.roi_heads, [boxes.new_zeros(0)], []
    stages = [heads] if heads.second is None else [heads, heads.second]
    for chunk in boxes.split(DETECTIONS_AT_ONCE):
        logits = [stage._run_box_head(features, [chunk], batch.image_sizes)[0] for stage in stages]
        best = torch.stack(logits).softmax(dim=2).mean(dim=0)[:, 1:].max(dim=1)  # of two stages the mean, as detections
        logits = heads._run_mask_head(features, [chunk], batch.image_sizes)
        scores.append(best.values)
        masks.append(logits[torch.arange(len(chunk)), best.indices + 1].float().sigmoid())
    return torch.cat(scores).cpu().numpy(), torch.cat(masks)


def _score(truth: Instances, predictions: Instances, postprocessing: Postprocessing) -> ScoredImage:
    """All as of one class."""
    truth, predictions = (i.relabel(np.ones(i.labels.max(initial=0) + 1, dtype=np.int64)) for i in (truth, predictions))
    limits = {"max_detections": postprocessing.max_detections, "score_threshold": postprocessing.shown_score}
    return score_image(0, truth, predictions, **limits)


def _count(flags: Bool[np.ndarray, " objects"]) -> tuple[int, int]:
    return int(flags.sum()), len(flags)


def _count_matches(scored: ScoredImage, threshold: float) -> tuple[int, int]:
    """True positives, and with these false ones and missed objects: AP(t) is the first over the second."""
    matched, is_counted = match_shown(scored, threshold)
    num_objects = int((~scored.truth.iscrowd).sum())
    return len(matched.iou), int(is_counted.sum()) + num_objects - len(matched.iou)


def _are_met(
    objects: Instances, boxes: Float32[np.ndarray, "boxes 4"], threshold: float
) -> Bool[np.ndarray, " objects"]:
    """Whether any of the boxes has an IoU of ``threshold``, at least 0.5, with each object's."""
    pairs = pair_boxes(boxes, objects.boxes, objects.iscrowd)
    return np.isin(np.arange(len(objects)), pairs.instance[pairs.iou >= threshold])


def _measure_own_iou(masks: RunLengths, truth: RunLengths) -> Float64[np.ndarray, " objects"]:
    """IoU of each mask with the true one of the same row."""
    overlaps = intersect_runs(masks, truth)
    is_own = overlaps.first == overlaps.second
    iou = np.zeros(len(truth))
    iou[overlaps.first[is_own]] = compute_iou(overlaps, masks.areas, truth.areas)[is_own]
    return iou
