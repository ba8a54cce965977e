"""What the machine is like, and what a training step costs on it."""

import os
import resource
import sys
import time
from contextlib import nullcontext

import torch

from manymask.core import Dataset
from manymask.data.datamodule import TrainingImages
from manymask.modeling.architectures import assemble_model
from manymask.modeling.device import choose_device, choose_precision
from manymask.planning import Fingerprint, Machine, Plan, StepCost

# Images of a measured step, and steps: the first one, which sets up memory and kernels, is not counted.
BATCH_SIZE, NUM_STEPS = 2, 3
# Forward without gradients takes about a third of forward and backward; masks, pasting and scoring come on top.
VALIDATION_SHARE = 0.5


def find_machine(device: torch.device) -> Machine:
    """The device, cores and memory of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cuda":
        num_bytes = torch.cuda.get_device_properties(device).total_memory
    else:
        num_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(device.type, cores, num_bytes / 2**20)


def measure_step(plan: Plan, dataset: Dataset, data: Fingerprint) -> StepCost:
    """Train some steps of a throw-away network on the densest image.

    Args:
        plan: The settings, whose schedule is still open.
        dataset: The data set.
        data: Its fingerprint.
    """
    device = choose_device(plan.device)
    precision = choose_precision(plan.precision, device)
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    cast = torch.autocast(device.type, types[precision]) if precision in types else nullcontext()
    torch.manual_seed(0)
    plan = plan.resolve_detections(int(data.instances_per_image.max)).model_copy(update={"weights": "none"})
    fixed = _measure_memory(device)
    network = assemble_model(len(dataset.categories) + 1, plan).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-6)
    names = [record.name for record in dataset.records]
    items = [TrainingImages(dataset, plan)[names.index(data.densest_image), place] for place in range(BATCH_SIZE)]
    images = [image.to(device) for image, _, _ in items]
    targets = [{name: value.to(device) for name, value in target.items()} for _, target, _ in items]
    seconds = []
    for _ in range(NUM_STEPS):
        started = time.monotonic()
        with cast:
            loss = torch.stack(list(network(images, targets).values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        seconds.append(time.monotonic() - started)
    per_image = min(seconds[1:]) / BATCH_SIZE
    pixels = sum(image.shape[-2] * image.shape[-1] for image in images) / BATCH_SIZE
    validation = plan.val_fraction * data.megapixels * 1e6 / pixels * per_image * VALIDATION_SHARE
    return StepCost(per_image, validation, fixed, max(_measure_memory(device) - fixed, 0.0) / BATCH_SIZE)


def _measure_memory(device: torch.device) -> float:
    """The highest use of memory so far in MiB: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS gives bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
