"""What the machine is like, and what a training step costs on it."""

import threading
import time

import psutil
import torch

from manymask.core import Dataset
from manymask.core.memory import find_full_memory
from manymask.errors import TrainingError
from manymask.inspection import Fingerprint
from manymask.modeling.build import assemble_model
from manymask.modeling.device import autocast, choose_device
from manymask.modeling.preprocessing import Preprocessing
from manymask.plan import Plan
from manymask.planning.rules import Machine, StepCost
from manymask.training.global_state import keep_global_state
from manymask.training.limits import count_cores, measure_memory
from manymask.training.loading import TrainingImages

# Images of a measured step, and steps: the first one, which sets up memory and kernels, is not counted.
BATCH_SIZE, NUM_STEPS = 2, 3
SECONDS_BETWEEN_LOOKS = 0.01
# Forward without gradients takes about a third of forward and backward; masks, pasting and scoring come on top.
VALIDATION_SHARE = 0.5


def find_machine(device: torch.device) -> Machine:
    """The device, and the cores and the memory that this process may use."""
    on_cuda = device.type == "cuda"
    num_bytes = torch.cuda.get_device_properties(device).total_memory if on_cuda else measure_memory()
    return Machine(device.type, count_cores(), num_bytes / 2**20)


@keep_global_state()
def measure_step(plan: Plan, dataset: Dataset, data: Fingerprint, val_megapixels: float) -> StepCost:
    """Train some steps of a throw-away network on the densest image.

    Args:
        plan: The settings, whose schedule is still open.
        dataset: The data set.
        data: Its fingerprint.
        val_megapixels: Size of all validation images together.

    Raises:
        TrainingError: Memory is full.
    """
    try:
        return _measure_step(plan, dataset, data, val_megapixels)
    except (MemoryError, RuntimeError) as error:
        if (memory := find_full_memory(error)) is None:
            raise
        raise TrainingError(
            f"{memory} is full with the {BATCH_SIZE} images of a training step by which batch_size is chosen; set a "
            "lower crop_size, scale or roi_samples, or a smaller backbone"
        ) from error


def _measure_step(plan: Plan, dataset: Dataset, data: Fingerprint, val_megapixels: float) -> StepCost:
    device = choose_device(plan.device)
    torch.manual_seed(0)
    plan = plan.resolve_detections(int(data.instances_per_image.max)).model_copy(update={"weights": "none"})
    network = assemble_model(len(dataset.categories) + 1, plan).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-6)
    names = [record.name for record in dataset.records]
    preprocessing = Preprocessing.of(plan)
    items = [TrainingImages(dataset, plan)[names.index(data.densest_image), place] for place in range(BATCH_SIZE)]
    images = [image.to(device) for image, _, _ in items]
    targets = [{name: value.to(device) for name, value in target.items()} for _, target, _ in items]
    seconds = []
    with _PeakMemory(device) as memory:
        for _ in range(NUM_STEPS):
            started = time.monotonic()
            with autocast(plan.precision, device):
                prepared = [preprocessing.prepare(*pair) for pair in zip(images, targets, strict=True)]
                losses = network([image for image, _ in prepared], [target for _, target in prepared])
                loss = torch.stack(list(losses.values())).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()  # waits for the device
            seconds.append(time.monotonic() - started)
    per_image = min(seconds[1:]) / BATCH_SIZE
    # Layers have the crops' own resolution, as the validation images have before they are resized.
    pixels = sum(target["layers"].shape[-2] * target["layers"].shape[-1] for target in targets) / BATCH_SIZE
    validation = val_megapixels * 1e6 / pixels * per_image * VALIDATION_SHARE
    return StepCost(per_image, validation, memory.before, (memory.peak - memory.before) / BATCH_SIZE)


class _PeakMemory:
    """The use of memory in MiB before a block and its highest within, of the device or of this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self.before = self.peak = 0.0

    def __enter__(self) -> "_PeakMemory":
        self.before = self.peak = _measure_memory(self._device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._watcher.join()
        if self._device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self._device) / 2**20

    def _watch(self) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN_LOOKS):
            self.peak = max(self.peak, _measure_memory(self._device))


def _measure_memory(device: torch.device) -> float:
    """The use of memory in MiB, of the device or of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    return psutil.Process().memory_info().rss / 2**20
