"""Seconds of a training step and of a prediction with the compact architecture and with other choices, side by side.

python benchmarks/compact.py: networks of random weights, four crops of 256 x 256 pixels with 49 objects of 18 pixels.
"""

import statistics
import time

import torch

from manymask.core import InstanceLayers
from manymask.modeling.build import assemble_model
from manymask.modeling.device import choose_precision
from manymask.plan import make_plan

SIDE, DIAMETER, PITCH, NUM_ROUNDS = 256, 18, 36, 6
COMPACT = {"architecture": "maskrcnn_compact", "anchor_sizes": (8, 16, 32, 64, 128)}
VARIANTS = {
    "compact": COMPACT,
    "compact, separable convolutions": {**COMPACT, "convolutions": "separable"},
    "compact, ResNet-18 of stride 4": {**COMPACT, "backbone": "resnet18"},
    "compact, enlarged 1.5 times": {**COMPACT, "scale": 1.5},
    "compact, enlarged twice": {**COMPACT, "scale": 2, "anchor_sizes": (16, 32, 64, 128, 256)},
    "maskrcnn_fpn with ResNet-18": {**COMPACT, "architecture": "maskrcnn_fpn", "backbone": "resnet18"},
}


def make_batch(size):
    layers = torch.zeros(1, SIDE, SIDE, dtype=torch.int32)
    corners = [(x, y) for y in range(2, SIDE - DIAMETER, PITCH) for x in range(2, SIDE - DIAMETER, PITCH)]
    for index, (x, y) in enumerate(corners, start=1):
        layers[0, y : y + DIAMETER, x : x + DIAMETER] = index
    boxes = torch.tensor([[x, y, x + DIAMETER, y + DIAMETER] for x, y in corners], dtype=torch.float32)
    target = {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64), "layers": InstanceLayers(layers)}
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, SIDE, SIDE, generator=generator) for _ in range(size)], [target] * size


def time_step(network, optimizer):
    images, targets = make_batch(4)
    started = time.perf_counter()
    torch.stack(list(network(images, targets).values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


def time_prediction(network):
    network.eval()
    started = time.perf_counter()
    with torch.inference_mode():
        network(make_batch(1)[0])
    network.train()
    return time.perf_counter() - started


def main():
    precision = choose_precision("auto", torch.device("cpu"))
    networks = {}
    for name, settings in VARIANTS.items():
        plan = make_plan(
            "baseline", {"weights": "none", "min_size": 0, "mask_alignment": "exact", "roi_samples": 192} | settings
        )
        networks[name] = assemble_model(2, plan.resolve_detections(375)).train()
    optimizers = {name: torch.optim.AdamW(network.parameters(), 1e-6) for name, network in networks.items()}
    steps, predictions = {name: [] for name in networks}, {name: [] for name in networks}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for _ in range(NUM_ROUNDS):
            for name, network in networks.items():
                steps[name].append(time_step(network, optimizers[name]))
                predictions[name].append(time_prediction(network))
    first = statistics.median(steps["compact"][1:])
    print(f"{torch.get_num_threads()} threads, {precision}; median of {NUM_ROUNDS - 1} rounds, one of each in turn")
    for name, network in networks.items():
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        step, prediction = (statistics.median(own[name][1:]) for own in (steps, predictions))
        print(f"{name:32} {millions:5.1f} M  step {step:.2f} s ({step / first:.2f})  prediction {prediction:.2f} s")


if __name__ == "__main__":
    main()
