"""What a crowd costs: a training step and a prediction as the number of instances grows.

Each case runs in a process of its own, whose peak resident memory is what is reported. Run from the project's root:

    python benchmarks/crowd.py step          # ours at 2048 x 2048, 20 against 2,000 instances
    python benchmarks/crowd.py predict MODEL # a trained model, images of 20 and 2,000 cells, 2048 px
    python benchmarks/crowd.py curve         # ours and torchvision's at 1024 x 1024, 20 to 2,000 instances
    python benchmarks/crowd.py paste         # 1,000 detections in 2000 x 2000 to COCO RLE, torchvision beside
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

COUNTS = (20, 200, 1000, 2000)
MEMORY_LIMIT = 20 << 30  # bytes of address space above which a case is ended
NETWORK = ("backbone", "rpn.head", "roi_heads.box_roi_pool", "roi_heads.box_head", "roi_heads.box_predictor")
NETWORK += ("roi_heads.mask_roi_pool", "roi_heads.mask_head", "roi_heads.mask_predictor")


def run_case(*words):
    """Run one case in a process of its own; None where it ran out of memory or time."""
    command = [sys.executable, "-W", "ignore", __file__, "case", *map(str, words)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        print(*words, "-> more than 900 s", flush=True)
        return None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        print(*words, "->", reason[0][:150], flush=True)
        return None
    result = json.loads(done.stdout.splitlines()[-1])
    print(*words, "->", {k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}, flush=True)
    return result


def make_scene(num_instances, size):
    """Discs of about 24 pixels on a jittered grid: an image and its layers, boxes and labels."""
    import numpy as np
    import torch

    from manymask.core import encode_crops, paint_layers

    rng = np.random.default_rng(num_instances)
    y, x = np.ogrid[-1:1:24j, -1:1:24j]
    disc = x * x + y * y <= 1
    side = int(np.ceil(np.sqrt(num_instances)))
    centers = (
        np.stack(np.divmod(np.arange(num_instances), side), 1) + rng.uniform(0.2, 0.8, (num_instances, 2))
    ) / side
    corners = np.clip(centers * size - 12, 0, size - 24).astype(int)
    runs = encode_crops(((int(left), int(top), disc) for top, left in corners), (size, size))
    layers = paint_layers(runs)
    image = (layers[:1] > 0).float().repeat(3, 1, 1) * 0.5 + torch.from_numpy(
        rng.random((3, size, size), np.float32)
    ) / 2
    labels = torch.ones(num_instances, dtype=torch.int64)
    return image, {"boxes": torch.from_numpy(runs.boxes), "labels": labels, "layers": layers}, runs


def time_network(model):
    """A list that collects the seconds that the forward pass spends inside the network's own layers."""
    spent, started = [0.0], {}
    for name in NETWORK:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda m, _, n=name: started.__setitem__(n, time.perf_counter()))
        module.register_forward_hook(
            lambda m, _, __, n=name: spent.__setitem__(0, spent[0] + time.perf_counter() - started[n])
        )
    return spent


def peak_mib():
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def case_step(kind, num_instances, size, precision, num_steps):
    """Training steps of maskrcnn_resnet50_fpn_v2; the median is reported."""
    import statistics

    import torch

    image, target, runs = make_scene(int(num_instances), int(size))
    torch.manual_seed(0)
    size, cap = int(size), 3000
    if kind == "ours":
        from manymask import build_model
        from manymask.modeling.preprocessing import Preprocessing
        from manymask.plan import make_plan

        settings = {"weights": "none", "min_size": size, "max_size": size, "detections_per_image": cap}
        model = build_model(2, settings)
        prepare = Preprocessing.of(make_plan(settings=settings)).prepare
    else:
        from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

        from manymask.core import Instances

        model = maskrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=2, min_size=size, max_size=size,
            rpn_post_nms_top_n_train=cap, rpn_pre_nms_top_n_train=cap,
        )  # fmt: skip
        masks = Instances.from_runs(runs, target["labels"].numpy()).to_masks()
        target = {**target, "masks": torch.from_numpy(masks.astype("uint8"))}
        del target["layers"]

        def prepare(image, target):
            return image, target  # torchvision's network does that itself

    model.train()
    spent = time_network(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.001)
    times, outside = [], []
    for _ in range(int(num_steps)):
        spent[0], start = 0.0, time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            prepared, prepared_target = prepare(image, target)
            loss = sum(model([prepared], [prepared_target]).values())
        forward = time.perf_counter() - start
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
        outside.append(forward - spent[0])
    return {"seconds": statistics.median(times), "outside": statistics.median(outside), "peak_mib": peak_mib()}


def case_predict(model_path, num_instances, size):
    """Predict one image of cells that the model knows, at a fixed cap, to COCO RLE."""
    import torch

    from manymask import load_model
    from manymask.core import encode_coco_rle
    from manymask.imaging.normalization import Normalization, normalize_pixels
    from manymask.prediction import predict_tensor
    from manymask.synthetic import make_sample

    model = load_model(model_path, settings={"detections_per_image": 3000, "min_score": 0.3})
    pixels, cells = make_sample(0, seed=5, size=(int(size),) * 2, num_instances=int(num_instances), diameter=16)
    image = normalize_pixels(pixels, "synthetic", Normalization("type"))
    del pixels
    spent = time_network(model.detector.network)
    torch.manual_seed(0)
    seconds, outside = [], []
    for _ in range(3):
        spent[0], start = 0.0, time.perf_counter()
        instances = predict_tensor(model, image)
        encode_coco_rle(instances.runs)
        seconds.append(time.perf_counter() - start)
        outside.append(seconds[-1] - spent[0])
    return {
        "cells": len(cells),
        "detections": len(instances),
        "seconds": min(seconds),
        "outside": min(outside),
        "peak_mib": peak_mib(),
    }


def case_paste(kind, num_instances, size):
    """28 x 28 masks in boxes of about 60 pixels to COCO RLE."""
    import numpy as np
    import torch

    torch.manual_seed(0)
    num_instances, size = int(num_instances), int(size)
    corners = torch.rand(num_instances, 2) * (size - 80)
    boxes = torch.cat([corners, corners + 50 + 20 * torch.rand(num_instances, 2)], 1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    masks = torch.sigmoid(8 * (1 - x * x - y * y) + torch.randn(num_instances, 28, 28) * 0.3)
    start = time.perf_counter()
    if kind == "ours":
        from manymask.core import encode_coco_rle
        from manymask.modeling.detections import paste_masks

        start = time.perf_counter()
        rles = encode_coco_rle(paste_masks(masks, boxes, (size, size)))
    else:
        from pycocotools import mask as coco_mask
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        start = time.perf_counter()
        pasted = paste_masks_in_image(masks[:, None], boxes, (size, size))
        rles = [coco_mask.encode(np.asfortranarray((m[0] > 0.5).numpy().astype(np.uint8))) for m in pasted]
    return {"seconds": time.perf_counter() - start, "peak_mib": peak_mib(), "rles": len(rles)}


def draw_curve(rows, path):
    """Seconds and memory of a training step against instances, ours and torchvision's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2), ("seconds", "peak_mib"), ("seconds a training step", "peak memory, GiB"), strict=True
    ):
        for kind, color in (("torchvision", "#d55e00"), ("ours", "#0072b2")):
            points = [(n, r[key]) for k, n, r in rows if k == kind and r]
            values = [v / 1024 if key == "peak_mib" else v for _, v in points]
            name = "manymask" if kind == "ours" else kind
            axes.plot([n for n, _ in points], values, "o-", color=color, label=name)
            if missing := [n for k, n, r in rows if k == kind and r is None]:
                axes.plot(
                    missing, [max(values)] * len(missing), "x", color=color, ms=10, label=f"{name}: out of memory"
                )
        axes.set(xscale="log", xlabel="instances in a 1024 x 1024 image", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.set_xticks(COUNTS, [f"{n:,}" for n in COUNTS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def main():
    """Run the cases of one benchmark."""
    mode, *words = sys.argv[1:]
    if mode == "case":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        case = {"step": case_step, "predict": case_predict, "paste": case_paste}[words[0]]
        print(json.dumps(case(*words[1:])))
    elif mode == "step":
        for count in (20, 2000):
            run_case("step", "ours", count, 2048, "bf16", 3)
    elif mode == "predict":
        for count in (20, 2000):
            run_case("predict", words[0], count, 2048)
    elif mode == "paste":
        for kind, count in (("ours", 100), ("torchvision", 100), ("ours", 1000), ("torchvision", 1000)):
            run_case("paste", kind, count, 2000)
    elif mode == "curve":
        kinds = [(kind, count) for count in COUNTS for kind in ("ours", "torchvision")]
        rows = [(kind, count, run_case("step", kind, count, 1024, "fp32", 3)) for kind, count in kinds]
        draw_curve(rows, Path(__file__).parent / "crowd.png")


if __name__ == "__main__":
    main()
