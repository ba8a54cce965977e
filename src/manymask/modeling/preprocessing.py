"""What an image goes through before the network, and how detections come back to the image."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor
from torchvision.models.detection.transform import resize_boxes

from manymask.core import Window
from manymask.modeling.backbones import check_backbone
from manymask.modeling.detections import Detections
from manymask.plan import Plan

Size = tuple[int, int]
"""(height, width) in pixels."""

# What torchvision standardises images by.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what the network works on: standardised, then resized; can be written as JSON.

    Resizing is torchvision's, or with a ``min_size`` of 0 by the factor ``scale``, whatever ``max_size`` is.

    Attributes:
        mean: Mean of each channel in the images that the backbone was first trained on; where the network takes other
            channels, that of all for each.
        std: Their standard deviation.
        min_size: As the plan's.
        max_size: As the plan's.
        scale: As the plan's.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    min_size: int
    max_size: int
    scale: float

    @classmethod
    def of(cls, plan: Plan) -> "Preprocessing":
        """That of a plan.

        Raises:
            PlanError: timm has no such backbone.
        """
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        if plan.backbone is not None:
            check_backbone(plan.backbone)
            import timm  # here, because it takes a while to load

            if (config := timm.get_pretrained_cfg(plan.backbone)) is not None:
                mean, std = config.mean, config.std
        if plan.in_channels != len(mean):
            mean, std = ((sum(values) / len(values),) * plan.in_channels for values in (mean, std))
        return cls(mean, std, plan.min_size, plan.max_size, plan.scale)

    def choose_size(self, size: Size) -> Size:
        """The size at which the network works on an image of ``size``."""
        height, width = size
        if self.min_size:
            factor = min(self.min_size / min(size), self.max_size / max(size))
            return math.floor(height * factor), math.floor(width * factor)
        return max(round(height * self.scale), 1), max(round(width * self.scale), 1)

    def __call__(
        self, image: Float32[Tensor, "channels height width"]
    ) -> Float32[Tensor, "channels new_height new_width"]:
        """Standardise and resize an image in [0, 1]."""
        # In this order, in which models were trained: the other one gives other last digits.
        image = (image - image.new_tensor(self.mean)[:, None, None]) / image.new_tensor(self.std)[:, None, None]
        size = image.shape[-2:]
        new_size = self.choose_size((size[0], size[1]))
        if new_size == size:
            return image
        # torchvision's ``min_size`` makes images smaller without a filter, and its models are used to that.
        antialias = not self.min_size and (new_size[0] < size[0] or new_size[1] < size[1])
        return F.interpolate(image[None], list(new_size), mode="bilinear", align_corners=False, antialias=antialias)[0]

    def prepare(
        self, image: Float32[Tensor, "channels height width"], target: Mapping[str, Tensor]
    ) -> tuple[Float32[Tensor, "channels new_height new_width"], dict[str, Tensor]]:
        """A training image and its target, whose boxes are resized with it; layers keep the image's own resolution."""
        prepared = self(image)
        boxes = resize_boxes(target["boxes"], list(image.shape[-2:]), list(prepared.shape[-2:]))
        return prepared, {**target, "boxes": boxes}


@dataclass(frozen=True)
class View:
    """One look of the network at an image: at a window of it, flipped, resized and preprocessed.

    Attributes:
        window: The part of the image.
        preprocessing: What follows on the rest.
        flips: Whether left and right, and whether top and bottom are exchanged.
        factor: That the window is resized by before preprocessing.
    """

    window: Window
    preprocessing: Preprocessing
    flips: tuple[bool, bool] = (False, False)
    factor: float = 1.0

    @property
    def enlarged_size(self) -> Size:
        """Of the resized window before preprocessing."""
        return max(round(self.window.height * self.factor), 1), max(round(self.window.width * self.factor), 1)

    @property
    def size(self) -> Size:
        """At which the network works."""
        return self.preprocessing.choose_size(self.enlarged_size)

    def take(self, image: Float32[Tensor, "channels height width"]) -> Float32[Tensor, "channels new_height new_width"]:
        """What the network works on, of an image in [0, 1]."""
        view = image[:, *self.window.slices].flip(self._axes)
        if self.factor != 1:
            size = list(self.enlarged_size)
            view = F.interpolate(view[None], size, mode="bilinear", antialias=self.factor < 1)[0]
        return self.preprocessing(view)

    def map_back(self, detections: Detections) -> Detections:
        """What was found in the view, in pixels of the image."""
        top, left, height, width = self.window
        # One size after the other, as on the way there.
        boxes = resize_boxes(detections.boxes, list(self.size), list(self.enlarged_size))
        boxes = resize_boxes(boxes, list(self.enlarged_size), [height, width])
        for axis in self._axes:
            column = -1 - axis  # axis -1 of an image runs along x
            boxes[:, [column, column + 2]] = self.window[axis] - boxes[:, [column + 2, column]]
        boxes = boxes + boxes.new_tensor([left, top, left, top])
        masks = detections.mask_probabilities.flip(self._axes)
        return replace(detections, boxes=boxes, mask_probabilities=masks)

    @property
    def _axes(self) -> list[int]:
        """The axes of images and masks that are flipped."""
        return [axis for axis, is_flipped in zip((-1, -2), self.flips, strict=True) if is_flipped]
