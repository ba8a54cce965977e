"""The rules of ``recipe=auto``: one pure function a setting, from what the data and the machine are like.

A rule sees the fingerprint, what was measured on the machine, and the settings that were decided before it, the user's
own among them: whoever sets ``scale`` gets anchors that fit it. Sources named "measured" are rows of
``benchmarks/RESULTS.md``, section "Rules". The file is long because it is one table of rules.
"""

import math
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from manymask.inspection import Fingerprint
from manymask.modeling.catalogue import Card
from manymask.plan import Plan

# Side of what a training step sees of each resized image, in pixels: a step's multiply-adds grow with its square.
INPUT_SIZE = {"cpu": 256, "cuda": 512}
# Side of a box below which objects are enlarged, to twice this size.
TINY_OBJECT = 12.0
# Side of a box that small objects (the 25 % quantile) are brought down to: a level of stride 4 still sees enough.
LARGE_OBJECT = 96.0
# How many times as large as the smallest 5 % of boxes the largest 5 % are, where scales are varied in training.
VARIED_SIZES = 5.0
# Steps of a run without a time budget, at least and at most, and its passes over the data between them.
MIN_STEPS, MAX_STEPS, NUM_PASSES = 1000, 20_000, 100
NUM_EPOCHS = 20
# Share of a time budget that validations may take.
VALIDATION_SHARE = 0.15


@dataclass(frozen=True)
class StepCost:
    """What a training step costs on a machine, measured with the densest image.

    Attributes:
        seconds_per_image: Seconds of a step for each image of its batch.
        seconds_per_validation: Seconds of a validation on all held-out images, estimated from a typical one.
        fixed_mib: Memory of the process without a step.
        mib_per_image: Memory that each image of a batch adds.
    """

    seconds_per_image: float
    seconds_per_validation: float
    fixed_mib: float
    mib_per_image: float


@dataclass(frozen=True)
class Machine:
    """Where training runs.

    Attributes:
        device: ``cpu`` or ``cuda``.
        num_cores: Cores that this process may use.
        memory_mib: Memory of the device, or of the machine.
    """

    device: str
    num_cores: int
    memory_mib: float


@dataclass(frozen=True)
class Facts:
    """What a rule knows.

    Attributes:
        data: The fingerprint of the training data.
        machine: Where training runs.
        values: The settings decided so far.
        cost: What a step costs with them; only the rules of the schedule know it.
        own: Names of the settings that the user set.
        start: The plan that the starting weights were trained with; None where there is none.
        shipped: The cards of the models that the package carries, by name.
    """

    data: Fingerprint
    machine: Machine
    values: Mapping[str, Any]
    cost: StepCost | None = None
    own: Container[str] = ()
    start: Plan | None = None
    shipped: Mapping[str, Card] = field(default_factory=dict[str, Card])

    def __getitem__(self, setting: str) -> Any:
        """A setting that is decided already; None for one that is not."""
        return self.values.get(setting)

    @property
    def factor(self) -> float:
        """What an image is resized by: ``scale``, or what ``min_size`` makes of the usual image."""
        if self["min_size"]:
            return self["min_size"] / max(min(self.data.heights.median, self.data.widths.median), 1)
        return self["scale"]

    @property
    def has_foreign_weights(self) -> bool:
        """Whether training starts from weights that these rules did not make: by SGD, with torchvision's habits."""
        if self.start is not None:
            return self.start.optimizer == "sgd"
        return self["weights"] != "none" and self["weights"] not in self.shipped

    @property
    def measured(self) -> StepCost:
        """The cost, for the rules that come after its measurement."""
        if self.cost is None:
            raise ValueError("the cost of a step is not measured yet")
        return self.cost


@dataclass(frozen=True)
class Rule:
    """A rule of a setting.

    Attributes:
        setting: The setting's name.
        choose: Gives the value, and what in the data or the machine led to it.
        source: Where the rule is from.
        needs_cost: Whether it needs the measured cost of a step.
    """

    setting: str
    choose: Callable[[Facts], tuple[Any, str]]
    source: str
    needs_cost: bool


RULES: list[Rule] = []
"""In the order in which they decide."""


def _rule(setting: str, source: str, *, needs_cost: bool = False) -> Callable[[Any], Any]:
    def register(choose: Callable[[Facts], tuple[Any, str]]) -> Callable[[Facts], tuple[Any, str]]:
        RULES.append(Rule(setting, choose, source, needs_cost))
        return choose

    return register


@_rule("weights", "measured: fine-tuning on other images than it knows; weights of other data are a user's choice")
def choose_weights(facts: Facts) -> tuple[str, str]:
    """A shipped model that was trained for objects of these sizes, on machines without a GPU; else random weights."""
    if facts.machine.device == "cuda":
        return "none", "a GPU is there, which trains larger networks"
    if fixed := [
        name for name in ("architecture", "backbone", "convolutions", "aspect_ratios", "scale") if name in facts.own
    ]:
        return "none", f"you set {fixed[0]}"
    small, large = facts.data.box_size.p25, facts.data.box_size.p95
    known = {name: card.box_sizes for name, card in facts.shipped.items()}
    texts = [f"those that {name} knows {smallest:.0f} to {largest:.0f}" for name, (smallest, largest) in known.items()]
    because = ", ".join([f"most boxes are {small:.0f} to {large:.0f} pixels", *texts])
    fitting = [name for name, (smallest, largest) in known.items() if smallest <= small and large <= largest]
    return (fitting[0] if fitting and not facts["min_size"] else "none"), because


def find_channels(counts: Collection[int]) -> Literal["auto"] | tuple[int, ...]:
    """The setting ``channels`` for images of these numbers of channels: each is named if they are not grey or RGB."""
    if len(counts) > 1 or not {1, 3}.isdisjoint(counts):
        return "auto"
    return tuple(range(1, max(counts, default=0) + 1)) or "auto"


@_rule("channels", "each channel may show another stain, and says most with all others")
def choose_channels(facts: Facts) -> tuple[Literal["auto"] | tuple[int, ...], str]:
    """All of the data's."""
    counts = ", ".join(f"{number} images have {count}" for count, number in facts.data.channels.items())
    return find_channels(facts.data.channels), f"channels of the images: {counts}"


@_rule("architecture", "Mask R-CNN with FPN (arXiv 1703.06870, 1612.03144); measured: the compact architecture")
def choose_architecture(facts: Facts) -> tuple[str, str]:
    """The compact one; on a GPU or with a backbone of your own that with any; torchvision's for COCO weights."""
    if facts["weights"] == "coco":
        return "maskrcnn_resnet50_fpn_v2", "there are COCO weights of it"
    if facts["backbone"] or facts["weights"] == "imagenet":
        return "maskrcnn_fpn", "takes any backbone"
    if facts.machine.device == "cuda":
        return "maskrcnn_fpn", "a GPU is there"
    return "maskrcnn_compact", "no GPU: light heads, and a finest level of stride 2 for small objects"


@_rule("backbone", "multiply-adds; which is better at equal time was measured on no GPU yet")
def choose_backbone(facts: Facts) -> tuple[str | None, str]:
    """ResNet-50 where a GPU pays for it, else ResNet-18; the other architectures have their own."""
    if facts["architecture"] != "maskrcnn_fpn":
        return None, "the architecture has its own"
    if facts.machine.device == "cuda":
        return "resnet50", "a GPU is there"
    return "resnet18", "no GPU: it takes a third of ResNet-50's multiply-adds"


@_rule("convolutions", "depthwise separable ones (arXiv 1704.04861); measured at equal time")
def choose_convolutions(facts: Facts) -> tuple[str, str]:
    """Separable in the compact architecture; the others have none."""
    if facts["architecture"] == "maskrcnn_compact":
        return "separable", "a step takes three quarters of the time"
    return "full", "the architecture has no others"


@_rule("trainable_stages", "torchvision freezes the first stages of foreign weights")
def choose_trainable_stages(facts: Facts) -> tuple[int, str]:
    """All; with COCO, ImageNet or other foreign weights the last three."""
    if facts.has_foreign_weights:
        return 3, "the first stages of foreign weights stay as they are"
    return 5, "all parts are trained"


@_rule("min_size", "one factor for all images keeps one size of object one size")
def choose_min_size(facts: Facts) -> tuple[int, str]:
    """Images are resized by ``scale`` alone."""
    return 0, "all images are resized by the same factor, scale"


@_rule("max_size", "memory: features of a 4096 x 4096 image take 3 GB")
def choose_max_size(facts: Facts) -> tuple[int, str]:
    """4,096 pixels or the longest image; it acts only where images are resized to one size."""
    longest = max(facts.data.heights.max, facts.data.widths.max)
    return max(4096, math.ceil(longest)), f"the longest image side is {longest:.0f} pixels"


@_rule(
    "scale",
    "FPN's finest level has a stride of 4 (arXiv 1612.03144); measured: pays below 12 pixels, costs above; "
    "half of that where the finest stride is 2 (assumption)",
)
def choose_scale(facts: Facts) -> tuple[float, str]:
    """1; twice and more where most objects are tiny, less where even small ones are large."""
    if facts["min_size"]:
        return 1.0, "min_size resizes"
    small, usual = facts.data.box_size.p25, facts.data.box_size.median
    because = (
        f"a quarter of the boxes are smaller than {small:.0f} x {small:.0f} pixels, half than {usual:.0f} x {usual:.0f}"
    )
    if small > LARGE_OBJECT:
        return max(round(4 * LARGE_OBJECT / small) / 4, 0.25), because
    tiny = TINY_OBJECT / 2 if facts["architecture"] == "maskrcnn_compact" and not facts["backbone"] else TINY_OBJECT
    if usual < tiny:
        return max(min(round(4 * tiny / usual) / 2, 4.0), 1.0), because
    return 1.0, because


@_rule("crop_size", "equal work a step; large enough for two of the largest objects side by side")
def choose_crop_size(facts: Facts) -> tuple[int, str]:
    """Crops of equal work, that hold two of the largest 5 % of objects."""
    if facts["min_size"]:
        return 0, "min_size resizes whole images"
    wanted = max(INPUT_SIZE[facts.machine.device] / facts.factor, 2 * facts.data.box_size.p95)
    size = 32 * math.ceil(wanted / 32)
    longest = max(facts.data.heights.max, facts.data.widths.max)
    if size >= longest:
        return 0, f"no image is longer than {longest:.0f} pixels"
    pixels, largest = size * facts.factor, facts.data.box_size.p95
    return size, f"{pixels:.0f} pixels after resizing; 95 % of boxes are below {largest:.0f}"


@_rule("anchor_sizes", "an anchor must reach IoU 0.7 with a box (Faster R-CNN, section 3.1.2); measured")
def choose_anchor_sizes(facts: Facts) -> tuple[tuple[float, ...], str]:
    """Five sizes, each twice the last, from the smallest 5 % of boxes up, larger if the largest 1 % ask for it."""
    small, large = (facts.factor * size for size in (facts.data.box_size.p5, facts.data.box_size.p99))
    first = max(round(max(small, large / 16)), 4)
    sizes = tuple(float(first * 2**level) for level in range(5))
    return sizes, f"90 % of boxes, resized, are {small:.0f} to {facts.factor * facts.data.box_size.p95:.0f} pixels"


@_rule("aspect_ratios", "a ratio of 2 between neighbours leaves IoU 0.7 and more (Faster R-CNN, section 3.1.1)")
def choose_aspect_ratios(facts: Facts) -> tuple[tuple[float, ...], str]:
    """Square anchors for round objects; elongated ones as far as 95 % of boxes go; for COCO weights theirs."""
    if facts["weights"] == "coco":
        return (0.5, 1.0, 2.0), "the COCO weights have them"
    elongation = facts.data.elongation.p95
    because = f"95 % of boxes are at most {elongation:.1f} times as long as wide"
    if elongation <= 1.5:
        return (1.0,), because
    if elongation <= 3:
        return (0.5, 1.0, 2.0), because
    return (0.25, 0.5, 1.0, 2.0, 4.0), because


@_rule("mask_alignment", "measured: round trip of true masks, and training")
def choose_mask_alignment(facts: Facts) -> tuple[str, str]:
    """Exact, where no weights were trained with torchvision's half pixels."""
    if facts["weights"] == "coco":
        return "torchvision", "the COCO weights were trained so"
    return "exact", f"half of the boxes are smaller than {facts.data.box_size.median:.0f} pixels"


@_rule("mask_resolution", "measured: IoU of true masks after a round trip through so many bins, and training")
def choose_mask_resolution(facts: Facts) -> tuple[int, str]:
    """14 where a bin is two pixels of the resized image at most, 28 up to 400 pixels, else 56."""
    size = facts.factor * facts.data.box_size.p95
    return (14 if size <= 28 else 28 if size <= 400 else 56), f"95 % of boxes, resized, are below {size:.0f} pixels"


@_rule("normalization", "StarDist and Cellpose scale each image by percentiles; measured")
def choose_normalization(facts: Facts) -> tuple[str, str]:
    """Each image's own range, where images differ in brightness or use little of their type's range."""
    low, high = facts.data.brightness.p5, facts.data.brightness.p95
    because = f"the brightest 0.2 % of an image lie at {low:.2f} to {high:.2f} of the type's range"
    is_float = any("float" in name for name in facts.data.pixel_types)
    return ("image" if is_float or high > 1.25 * low or high < 0.7 else "type"), because


@_rule("augmentation", "flips and quarter turns give no new objects where there is no up; measured")
def choose_augmentation(facts: Facts) -> tuple[str, str]:
    """All flips and quarter turns, unless brightness shows that images have an up."""
    mean, error_ratio = facts.data.vertical_trend
    has_up = facts.data.num_images >= 8 and abs(error_ratio) > 5 and abs(mean) > 0.2
    because = f"lower and upper halves differ in brightness by {mean:+.2f} deviations on average"
    return ("flip" if has_up else "dihedral"), because


@_rule("scale_jitter", "measured from nuclei on micrographs of particles; that 5 times are much is an assumption")
def choose_scale_jitter(facts: Facts) -> tuple[float, str]:
    """A half where sizes of objects differ much, as magnifications then do."""
    if facts["min_size"]:
        return 0.0, "min_size resizes"
    small, large = facts.data.box_size.p5, facts.data.box_size.p95
    because = f"90 % of boxes are {small:.0f} to {large:.0f} pixels"
    return (0.5 if large > VARIED_SIZES * small else 0.0), because


@_rule(
    "sampling",
    "kinds by the cube root of their objects, images by the root of their area (assumptions; measured: by area is "
    "better than all alike); rare classes as LVIS (arXiv 1908.03195)",
)
def choose_sampling(facts: Facts) -> tuple[str, str]:
    """By kind, area and rarity, where images differ in area or classes in how many images they are in."""
    data = facts.data
    ratio = data.areas.max / max(data.areas.median, 1)
    # Classes that are only declared, as all of COCO's are by some tools, are not rare.
    num_images = [own.num_images for own in data.classes if own.num_images]
    rarest = min(num_images) / max(num_images)
    because = f"the largest image has {ratio:.1f} times the usual area"
    if len(num_images) > 1:
        because += f", the rarest class is in {rarest:.0%} as many images as the commonest"
    return ("balanced" if ratio > 1.5 or rarest < 0.5 else "uniform"), because


@_rule("rpn_samples", "Faster R-CNN, section 3.1.3")
def choose_rpn_samples(facts: Facts) -> tuple[int, str]:
    """The paper's."""
    return 256, "anchors cost little"


@_rule("roi_samples", "a quarter of the samples are objects (Fast R-CNN, section 2.3)")
def choose_roi_samples(facts: Facts) -> tuple[int, str]:
    """Four for each object of a crowded crop."""
    count = facts.data.instances_per_image.p95
    if facts["crop_size"]:
        count = facts.data.instances_per_megapixel.p95 * (facts["crop_size"] ** 2 / 1e6)
    return int(min(max(32 * math.ceil(4 * count / 32), 64), 512)), f"a crowded crop holds {count:.0f} instances"


@_rule("detections_per_image", "measured: on crowded images a cap of 100 costs 0.15 AP50")
def choose_detections_per_image(facts: Facts) -> tuple[int, str]:
    """1.5 times the largest count, at least 100."""
    count = facts.data.instances_per_image.max
    return max(100, math.ceil(1.5 * count)), f"the fullest image, {facts.data.densest_image}, holds {count:.0f}"


@_rule("suppression", "two true neighbours whose boxes overlap much are one to box NMS (tested, no data here show it)")
def choose_suppression(facts: Facts) -> tuple[str, str]:
    """By masks, where boxes of true neighbours overlap nearly as much as box NMS allows."""
    overlap = facts.data.neighbor_box_iou.p99
    because = f"1 % of boxes overlap a neighbour's by an IoU of {overlap:.2f} or more"
    return ("mask" if overlap > 0.4 else "box"), because


@_rule("nms", "measured: where no neighbours overlap, 0.3 against 0.5 gains F1 and AP(t), and costs a little AP")
def choose_nms(facts: Facts) -> tuple[float, str]:
    """What true neighbours overlap and 0.05 more, from 0.3 to 0.6."""
    by_masks = facts["suppression"] == "mask"
    overlap = (facts.data.neighbor_mask_iou if by_masks else facts.data.neighbor_box_iou).p99
    because = f"1 % of {'masks' if by_masks else 'boxes'} overlap a neighbour's by an IoU of {overlap:.2f} or more"
    return round(min(max(overlap + 0.05, 0.3), 0.6), 2), because


@_rule("score_threshold", "StarDist's optimize_thresholds does so; measured")
def choose_score_threshold(facts: Facts) -> tuple[str, str]:
    """What gives the highest F1 on the held-out images, chosen after each epoch."""
    return "auto", "chosen on the held-out images after each epoch"


@_rule("val_fraction", "with few images 10 % are too few to choose the best epoch by")
def choose_val_fraction(facts: Facts) -> tuple[float, str]:
    """A fifth of a small set, a tenth of a larger one."""
    return (0.2 if facts.data.num_images < 50 else 0.1), f"{facts.data.num_images} images in all"


@_rule("num_workers", "reading an image takes a hundredth of a step")
def choose_num_workers(facts: Facts) -> tuple[int, str]:
    """As many as there are cores, at most 2 (on a GPU 8)."""
    limit = 8 if facts.machine.device == "cuda" else 2
    return min(facts.machine.num_cores, limit), f"{facts.machine.num_cores} cores"


@_rule("optimizer", "from random weights SGD learns nothing in ten minutes (docs/experiments/scheduler.md)")
def choose_optimizer(facts: Facts) -> tuple[str, str]:
    """SGD from COCO, ImageNet or other foreign weights, as torchvision's recipes; else AdamW."""
    if facts.has_foreign_weights:
        return "sgd", "training starts from foreign weights"
    return "adamw", "training starts from random weights, or from weights that AdamW made"


@_rule("gradient_clip", "assumption, in all measured runs")
def choose_gradient_clip(facts: Facts) -> tuple[float, str]:
    """A norm of 5."""
    return 5.0, "a batch of unlucky crops cannot undo the steps before it"


@_rule("scheduler", "one budget, no milestones to set (arXiv 1608.03983)")
def choose_scheduler(facts: Facts) -> tuple[str, str]:
    """Half a cosine: it ends at zero whenever the run ends."""
    return "cosine", "ends at zero whenever the run ends"


@_rule("keep_checkpoints", "checkpoints of all epochs take 150 MB each")
def choose_keep_checkpoints(facts: Facts) -> tuple[str, str]:
    """The best and the last."""
    return "best", "saves disk"


@_rule("batch_size", "memory of a step with the densest image, measured on this machine", needs_cost=True)
def choose_batch_size(facts: Facts) -> tuple[int, str]:
    """4, on a GPU 8, or what fits into 60 % of the memory."""
    cost, memory = facts.measured, facts.machine.memory_mib
    wanted = 8 if facts.machine.device == "cuda" else 4
    room = (0.6 * memory - cost.fixed_mib) / max(cost.mib_per_image, 1.0)
    size = next((size for size in (8, 4, 2) if size <= min(wanted, room)), 1)
    return size, f"an image takes {cost.mib_per_image:.0f} MiB of {memory:.0f}"


@_rule("accumulate", "keeps the images of a step", needs_cost=True)
def choose_accumulate(facts: Facts) -> tuple[int, str]:
    """As many batches as give 4 images a step."""
    return max(4 // facts["batch_size"], 1), f"{facts['batch_size']} images a batch"


@_rule(
    "learning_rate",
    "AdamW: by the root of the batch (arXiv 2205.10287), less from weights (assumption); SGD: 0.00125 an image "
    "(MLPerf)",
    needs_cost=True,
)
def choose_learning_rate(facts: Facts) -> tuple[float, str]:
    """5e-4 for 4 images a step, 3e-4 from weights, by the square root for more; with SGD in proportion."""
    num_images = facts["batch_size"] * facts["accumulate"]
    because = f"{num_images} images a step with {facts['optimizer']}"
    if facts["optimizer"] == "sgd":
        return round(0.00125 * num_images, 6), because
    highest = 5e-4 if facts["weights"] == "none" else 3e-4
    return round(highest * math.sqrt(num_images / 4), 6), because


@_rule("epochs", "a validation after each; they take at most 15 % of a time budget", needs_cost=True)
def choose_epochs(facts: Facts) -> tuple[int, str]:
    """20, with a time budget down to 3 where validations seem to take long, and fewer where they do."""
    if facts["max_steps"] and "epoch_steps" in facts.own:
        # How many steps a pass has is known when images are held out: 1 at least, and max_steps end the run anyway.
        return math.ceil(facts["max_steps"] / (facts["epoch_steps"] or 1)), f"max_steps is {facts['max_steps']}"
    if facts["max_steps"]:
        return min(max(facts["max_steps"] // 50, 1), NUM_EPOCHS), f"max_steps is {facts['max_steps']}"
    if facts["minutes"] is None:
        return NUM_EPOCHS, "one validation and checkpoint each"
    seconds = facts.measured.seconds_per_validation
    number = int(VALIDATION_SHARE * facts["minutes"] * 60 / max(seconds, 1e-3))
    return min(max(number, 3), NUM_EPOCHS), f"a validation takes about {seconds:.0f} s"


@_rule("epoch_steps", "100 passes, as the course report's 100 epochs; at least 1,000 steps", needs_cost=True)
def choose_epoch_steps(facts: Facts) -> tuple[int | None, str]:
    """What the time budget holds; a pass where you set ``epochs``; else 100 passes, of 1,000 to 20,000 steps in all."""
    num_images = facts["batch_size"] * facts["accumulate"]
    seconds = facts.measured.seconds_per_image * num_images
    if facts["max_steps"]:
        return math.ceil(facts["max_steps"] / facts["epochs"]), f"max_steps is {facts['max_steps']}"
    if facts["minutes"] is not None:
        left = facts["minutes"] * 60 - facts["epochs"] * facts.measured.seconds_per_validation
        steps = max(left / seconds, facts["epochs"])
        return max(int(steps / facts["epochs"]), 1), f"a step takes {seconds:.2f} s; the clock ends each epoch"
    if "epochs" in facts.own:
        return None, "one pass over the images, since you set epochs"
    area = (facts["crop_size"] or math.inf) ** 2 / 1e6
    crops = max(facts.data.megapixels / area, facts.data.num_images)
    steps = min(max(NUM_PASSES * crops / num_images, MIN_STEPS), MAX_STEPS)
    return math.ceil(steps / facts["epochs"]), f"{steps:.0f} steps in all, about {steps * seconds / 60:.0f} min"


@_rule("warmup_steps", "statistics of AdamW and BatchNorm settle first (arXiv 1910.04209)", needs_cost=True)
def choose_warmup_steps(facts: Facts) -> tuple[int, str]:
    """5 % of the steps, at most 200."""
    steps_a_pass = math.ceil(facts.data.num_images / (facts["batch_size"] * facts["accumulate"]))
    steps = facts["epochs"] * (facts["epoch_steps"] or steps_a_pass)
    steps = min(steps, facts["max_steps"] or steps)
    return min(max(round(0.05 * steps), 1), 200), f"{steps} steps in all"
