"""What a crowd costs: a training step and a prediction as the number of instances grows.

Each case runs in a process of its own, whose peak resident memory is what is reported. Run from the project's root:

    python benchmarks/crowd.py step                # ours at 2048 x 2048, 20 against 2,000 instances
    python benchmarks/crowd.py predict MODEL       # a trained model, images of 20 and 2,000 cells, 2048 px
    python benchmarks/crowd.py paste               # 1,000 detections in 2000 x 2000 to COCO RLE, torchvision beside
    python benchmarks/crowd.py curve step          # ours and torchvision's in turns at 512 x 512, 20 to 2,000 instances
    python benchmarks/crowd.py curve found         # the same for a prediction to COCO RLE; --help lists the options
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from turns import Worker

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

COUNTS = (20, 200, 1000, 2000)
MEMORY_LIMIT = 20 << 30  # bytes of address space above which a case is ended
KINDS = {  # name, colour
    "ours": ("manymask", "#0072b2"),
    "T1": ("torchvision, our size and caps (T1)", "#e69f00"),
    "T0": ("torchvision as shipped, finds 100 at most (T0)", "#d55e00"),
    "T0 raised": ("T0, caps raised to the objects", "#cc79a7"),
}
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
    """Discs of 24 pixels, 10 in an image of 512, on a jittered grid: an image and its layers, boxes and labels."""
    import numpy as np
    import torch

    from manymask.core import encode_crops, paint_layers

    rng = np.random.default_rng(num_instances)
    diameter = min(24, size // 48)
    y, x = np.ogrid[-1 : 1 : diameter * 1j, -1 : 1 : diameter * 1j]
    disc = x * x + y * y <= 1
    side = int(np.ceil(np.sqrt(num_instances)))
    centers = (
        np.stack(np.divmod(np.arange(num_instances), side), 1) + rng.uniform(0.2, 0.8, (num_instances, 2))
    ) / side
    corners = np.clip(centers * size - diameter / 2, 0, size - diameter).astype(int)
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


def resident_mib():
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def build_network(kind, num_instances, size, architecture="maskrcnn_resnet50_fpn"):
    """The network of a kind, with the same weights in all, and our plan for it."""
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    from manymask import build_model
    from manymask.plan import make_plan

    cap = max(100, 3 * num_instances // 2)  # what manymask takes from data of so many objects
    settings = {"architecture": architecture, "weights": "none", "min_size": 0, "detections_per_image": cap}
    torch.manual_seed(0)
    network = build_model(2, settings)
    if kind != "ours":
        stages = {"train": 2000, "test": 1000}
        caps = {f"rpn_{when}_nms_top_n_{stage}": max(cap, n) for stage, n in stages.items() for when in ("pre", "post")}
        options = {} if kind == "T0" else {**caps, "box_detections_per_img": cap}
        options |= {"min_size": size, "max_size": size} if kind == "T1" else {}
        weights = network.state_dict()
        network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, **options)
        network.load_state_dict(weights)
    return network, make_plan(settings=settings)


def make_step(kind, num_instances, size, architecture="maskrcnn_resnet50_fpn"):
    """A function that does one training step and tells its seconds."""
    import torch

    from manymask.core import Instances
    from manymask.modeling.device import autocast
    from manymask.modeling.preprocessing import Preprocessing

    network, plan = build_network(kind, num_instances, size, architecture)
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.001)
    spent, before = time_network(network), resident_mib()
    image, target, runs = make_scene(num_instances, size)
    is_ours = kind == "ours"
    prepare = Preprocessing.of(plan).prepare
    if not is_ours:
        masks = Instances.from_runs(runs, target["labels"].numpy()).to_masks()
        target = {"boxes": target["boxes"], "labels": target["labels"], "masks": torch.from_numpy(masks.view("uint8"))}

    def step():
        spent[0], start, on_processor = 0.0, time.perf_counter(), time.process_time()
        with autocast("fp32" if kind == "T0" else "auto", torch.device("cpu")):
            prepared = prepare(image, target) if is_ours else (image, target)  # torchvision's network does that itself
            loss = sum(network(*([part] for part in prepared)).values())
        forward = time.perf_counter() - start
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
        times = {"seconds": seconds, "processor": time.process_time() - on_processor, "outside": forward - spent[0]}
        return {**times, "growth_mib": peak_mib() - before, "loss": loss.item()}

    return step


def plant_objects(network, boxes, size):
    """Make a network of random weights find discs in the scene's boxes; all of its parts compute as before.

    The boxes go before the RPN's own proposals, the box head calls these objects and all others background, and the
    mask head sees a disc.
    """
    import torch

    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")

    def propose(rpn, arguments, output):
        height, width = arguments[0].image_sizes[0]
        own = boxes * torch.tensor([width, height, width, height]) / size
        return [torch.cat([own, output[0][0]])[: rpn.post_nms_top_n()]], output[1]

    def classify(_, __, output):
        margin = torch.where(torch.arange(len(output[0])) < len(boxes), 5.0, -5.0)
        return torch.stack([-margin, margin], dim=1), torch.zeros_like(output[1])

    network.rpn.register_forward_hook(propose)
    network.roi_heads.box_predictor.register_forward_hook(classify)
    network.roi_heads.mask_predictor.register_forward_hook(
        lambda _, __, output: (9 - 9 * (x * x + y * y)).expand(output.shape)
    )


def make_finding(kind, num_instances, size):
    """A function that predicts an image to COCO RLE and tells its seconds."""
    import numpy as np
    import torch
    from pycocotools import mask as coco_mask

    from manymask.core import Category, encode_coco_rle
    from manymask.modeling.device import autocast
    from manymask.prediction import Model, predict_tensor
    from manymask.prediction.detectors import TorchDetector

    network, plan = build_network(kind, num_instances, size)
    image, target, _ = make_scene(num_instances, size)
    network.eval()
    plant_objects(network, target["boxes"], size)
    spent, before = time_network(network), resident_mib()
    model = None
    if kind == "ours":
        detector = TorchDetector(network, torch.device("cpu"), "auto")
        model = Model(detector, plan, (Category(1, "object"),), Path("planted"))

    def find_ours():
        return encode_coco_rle(predict_tensor(model, image).runs)

    def find_torchvision():
        with torch.inference_mode(), autocast("fp32" if kind.startswith("T0") else "auto", torch.device("cpu")):
            masks = network([image])[0]["masks"]
        # As torchvision's reference scripts do.
        return [coco_mask.encode(np.array(m[0, :, :, None] > 0.5, dtype=np.uint8, order="F"))[0] for m in masks]

    find = find_torchvision if model is None else find_ours

    def find_timed():
        spent[0], start, on_processor = 0.0, time.perf_counter(), time.process_time()
        found = find()
        seconds = time.perf_counter() - start
        times = {"seconds": seconds, "processor": time.process_time() - on_processor, "outside": seconds - spent[0]}
        return {**times, "growth_mib": peak_mib() - before, "found": len(found)}

    return find_timed


def case_step(num_instances):
    """Training steps of maskrcnn_resnet50_fpn_v2 at 2048 x 2048; the median is reported."""
    step = make_step("ours", int(num_instances), 2048, "maskrcnn_resnet50_fpn_v2")
    rows = [step() for _ in range(3)]
    times = {key: statistics.median(row[key] for row in rows) for key in ("seconds", "outside")}
    return {**times, "peak_mib": peak_mib()}


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


def measure_curve(options, path):
    """Each kind's seconds and memory by number of instances, measured in turns; where one failed, why.

    What is measured is kept in a file, from which a later call goes on if asked to.
    """
    kinds = [kind for kind in KINDS if options.what == "found" or kind != "T0 raised"]  # training has no such caps
    rows = json.loads(path.read_text()) if options.resume and path.exists() else []
    for count in sorted({*options.counts} - {row["count"] for row in rows}):
        words = [sys.executable, "-W", "ignore", __file__, "turn", options.what]
        workers = {kind: Worker([*words, kind, str(count), str(options.size)]) for kind in kinds}
        answers = {kind: [worker.ask("", options.limit + 60)] for kind, worker in workers.items()}  # warms up
        for _ in range(options.turns):
            for kind, worker in workers.items():
                answers[kind].append(worker.ask("", options.limit))
        for kind, worker in workers.items():
            worker.close()
            row = {"kind": kind, "count": count, "size": options.size, "failure": worker.failure}
            if worker.failure is None:
                values = {
                    key: [answer[key] for answer in answers[kind][-max(options.turns, 1) :]] for key in answers[kind][0]
                }
                row |= {key: statistics.median(own) for key, own in values.items()}
                row |= {"fastest": min(values["seconds"]), "slowest": max(values["seconds"])}
            print(row, flush=True)
            rows.append(row)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows, indent=1))
    return rows


def print_table(rows):
    """The rows as Markdown, with how many times as long as ours each takes by the clock and on the processor."""
    ours = {row["count"]: row for row in rows if row["kind"] == "ours"}
    print("\n| instances | | seconds (fastest to slowest) | times ours | on the processor, s | times ours ", end="")
    print("| outside, s | memory, MiB | found |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        first = ours[row["count"]]
        cells = [f"{row['count']:,}", KINDS[row["kind"]][0]]
        if failure := row["failure"] or first["failure"]:
            print("|", " | ".join([*cells, failure, *[""] * 6]), "|")
            continue
        cells += [f"{row['seconds']:.2f} ({row['fastest']:.2f} to {row['slowest']:.2f})"]
        cells += [f"{row['seconds'] / first['seconds']:.2f}", f"{row['processor']:.2f}"]
        cells += [f"{row['processor'] / first['processor']:.2f}", f"{row['outside']:.2f}", f"{row['growth_mib']:,.0f}"]
        print("|", " | ".join([*cells, str(row.get("found", "-"))]), "|")


def draw_curves(folder, path):
    """Seconds and memory against instances of all that was measured, in log-log axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    stored = {mode: folder / f"curve-{mode}.json" for mode in ("step", "found")}
    curves = {mode: json.loads(own.read_text()) for mode, own in stored.items() if own.exists()}
    figure = Figure(figsize=(10, 4 * len(curves)), layout="constrained")
    grid = figure.subplots(len(curves), 2, squeeze=False)
    for (mode, rows), line in zip(curves.items(), grid, strict=True):
        size = rows[0]["size"]
        what = "a training step" if mode == "step" else "a prediction to COCO RLE"
        for axes, key, label in zip(
            line,
            ("processor", "growth_mib"),
            (f"processor seconds of {what}", f"memory of {what}, MiB"),
            strict=True,
        ):
            top = 1.6 * max(row[key] for row in rows if not row["failure"])
            for kind, (name, color) in KINDS.items():
                own = [row for row in rows if row["kind"] == kind]
                done = [row for row in own if not row["failure"]]
                axes.plot([row["count"] for row in done], [row[key] for row in done], "o-", color=color, label=name)
                for row in (row for row in own if row["failure"]):
                    axes.plot(row["count"], top, "x", color=color, ms=9, mew=2)
                    axes.annotate(
                        row["failure"], (row["count"], top), (-8, -3), textcoords="offset points", ha="right",
                        color=color, fontsize=8,
                    )  # fmt: skip
            axes.set(xscale="log", yscale="log", xlabel=f"instances in an image of {size} x {size}", ylabel=label)
            axes.set_xticks(COUNTS, [f"{n:,}" for n in COUNTS])
            axes.set_xlim(COUNTS[0] / 1.3, COUNTS[-1] * 1.3)
            axes.minorticks_off()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axes.grid(alpha=0.3)
    figure.legend(*grid[-1][0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)


def read_options(words):
    """The options of a curve."""
    parser = argparse.ArgumentParser(prog="crowd.py curve")
    parser.add_argument("what", choices=("step", "found"))
    parser.add_argument("--size", type=int, default=512, help="side of the image, in pixels")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="of instances")
    parser.add_argument("--turns", type=int, default=2, help="of each after one that warms up, which 0 takes instead")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a step or prediction is given up")
    parser.add_argument("--resume", action="store_true", help="keep the counts that are measured already")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="for what is measured")
    parser.add_argument("--picture", type=Path, default=Path(__file__).parent / "curves.png")
    return parser.parse_args(words)


def main():
    """Run the cases of one benchmark."""
    mode, *words = sys.argv[1:]
    if mode in ("case", "turn"):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    if mode == "case":
        case = {"step": case_step, "predict": case_predict, "paste": case_paste}[words[0]]
        print(json.dumps(case(*words[1:])))
    elif mode == "turn":
        work = {"step": make_step, "found": make_finding}[words[0]](words[1], *map(int, words[2:]))
        for _ in sys.stdin:
            print(json.dumps(work()), flush=True)
    elif mode == "step":
        for count in (20, 2000):
            run_case("step", count)
    elif mode == "predict":
        for count in (20, 2000):
            run_case("predict", words[0], count, 2048)
    elif mode == "paste":
        for kind, count in (("ours", 100), ("torchvision", 100), ("ours", 1000), ("torchvision", 1000)):
            run_case("paste", kind, count, 2000)
    elif mode == "curve":
        options = read_options(words)
        print_table(measure_curve(options, options.folder / f"curve-{options.what}.json"))
        draw_curves(options.folder, options.picture)


if __name__ == "__main__":
    main()
