"""Seconds of prediction with two source trees and the same weights, image by image in turn, and what both find.

python benchmarks/prediction.py BEFORE AFTER DATA [--model nuclei] [--threads 1] [--images 10]: BEFORE and AFTER are
clones; DATA holds images/ID.png and labels/ID.png, of which those with 100 to 300 instances are taken. ``--train``
compares training steps of the unchanged network instead. Each tree runs in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

LEAST, MOST, SIDE = 100, 300, 256


def work(model_name, threads):
    """Answer for each path that is read with the seconds and what was found; for ``train`` with those of a step."""
    import torch

    torch.set_num_threads(threads)
    from manymask.prediction import load_model, predict

    model = load_model(model_name, device="cpu")
    step = None
    for line in sys.stdin:
        if line.strip() == "train":
            step = step or make_step(model)
            started, processor = time.perf_counter(), time.process_time()
            step()
            answer = {}
        else:
            started, processor = time.perf_counter(), time.process_time()
            try:
                (found,) = predict(model, [Path(line.strip())], min_score=0.0)
            except TypeError:  # before there was a threshold
                (found,) = predict(model, [Path(line.strip())])
            fields = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, "owner": found.runs.owner}
            fields |= {"start": found.runs.start, "length": found.runs.length}
            answer = {"size": found.size, **{name: value.tolist() for name, value in fields.items()}}
        answer |= {"seconds": time.perf_counter() - started, "processor": time.process_time() - processor}
        print(json.dumps(answer), flush=True)


def make_step(model):
    """A training step of a new network of the model's plan on four crops with 49 objects of 18 pixels."""
    import torch

    from manymask.core import InstanceLayers

    try:
        from manymask.modeling.build import assemble_model
    except ImportError:  # its place before
        from manymask.modeling.architectures import assemble_model
    torch.manual_seed(0)
    network = assemble_model(2, model.plan).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-6)
    layers = torch.zeros(1, SIDE, SIDE, dtype=torch.int32)
    corners = [(x, y) for y in range(2, SIDE - 18, 36) for x in range(2, SIDE - 18, 36)]
    for index, (x, y) in enumerate(corners, start=1):
        layers[0, y : y + 18, x : x + 18] = index
    boxes = torch.tensor([[x, y, x + 18, y + 18] for x, y in corners], dtype=torch.float32)
    target = {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64), "layers": InstanceLayers(layers)}

    def step():
        losses = network([torch.rand(3, SIDE, SIDE) for _ in range(4)], [dict(target) for _ in range(4)])
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def start(tree, model, arguments):
    command = [sys.executable, __file__, "--work", "--model", model, "--threads", str(arguments.threads)]
    environment = os.environ | {"PYTHONPATH": str(Path(tree, "src").resolve())}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def ask(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def describe(name, before, after):
    for kind in ("seconds", "processor"):
        first, second = (sum(answer[kind] for answer in answers) for answers in (before, after))
        print(f"{name}: {kind} before {first:.2f}, after {second:.2f}: {first / second:.2f} times as fast")


def read_truth(path):
    """The instances of a label image."""
    import cv2

    from manymask.core import Instances

    ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    masks = np.stack([ids == value for value in np.unique(ids) if value])
    return Instances.from_masks(masks, np.ones(len(masks), dtype=np.int64))


def to_instances(answer):
    from manymask.core import Instances, RunLengths

    runs = [np.array(answer[name], dtype=np.int64) for name in ("owner", "start", "length")]
    boxes, scores = (np.array(answer[name], dtype=np.float32) for name in ("boxes", "scores"))
    runs = RunLengths(tuple(answer["size"]), len(scores), *runs)
    return Instances.from_runs(runs, np.array(answer["labels"], dtype=np.int64), scores=scores, boxes=boxes)


def match(before, after):
    """The IoU of the mask of each detection before with the most similar one after."""
    from manymask.core import intersect_runs

    pairs = intersect_runs(before.runs, after.runs)
    union = before.runs.areas[pairs.first] + after.runs.areas[pairs.second] - pairs.intersection
    best = np.zeros(len(before))
    np.maximum.at(best, pairs.first, pairs.intersection / union)
    return best


def compare(arguments):
    from manymask.core import Category
    from manymask.metrics import score_image, summarize_headline

    models = arguments.model, arguments.after_model or arguments.model
    processes = [start(*pair, arguments) for pair in zip((arguments.before, arguments.after), models, strict=True)]
    if arguments.train:
        rounds = [[ask(process, "train") for process in processes] for _ in range(arguments.images + 1)][1:]
        middle = [{kind: statistics.median(r[i][kind] for r in rounds) for kind in rounds[0][0]} for i in (0, 1)]
        describe("a training step (median)", middle[:1], middle[1:])
        return
    truths = {}
    for path in sorted((arguments.data / "labels").glob("*.png")):
        if len(truths) < arguments.images and LEAST <= len(truth := read_truth(path)) <= MOST:
            truths[arguments.data / "images" / path.name] = truth
    for process in processes:
        ask(process, next(iter(truths)))  # the first one is slower
    answers, scored, ious = [], ([], []), []
    for number, (path, truth) in enumerate(truths.items()):
        pair = [ask(process, path) for process in processes]
        answers.append(pair)
        found = [to_instances(answer) for answer in pair]
        print(f"  {len(truth)} labelled, found before {len(found[0])}, after {len(found[1])}", end="")
        print(f"; seconds {pair[0]['seconds']:.2f}, {pair[1]['seconds']:.2f}", flush=True)
        ious.append(match(*found))
        for images, instances in zip(scored, found, strict=True):
            images.append(score_image(number, truth, instances, max_detections=1000, score_threshold=0.5))
    describe(f"{len(truths)} images, {arguments.threads} threads", *zip(*answers, strict=True))
    ious = np.concatenate(ious)
    print(f"masks with IoU of 0.98 or more with one after: {(ious >= 0.98).mean():.2%} of {len(ious)}")
    for name, images in zip(("before", "after"), scored, strict=True):
        scores = summarize_headline(images, (Category(1, "object"),))
        print(name, {path: round(value, 5) for path, value in scores.items() if path[1:] in (("AP",), ("AP50",))})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("before", nargs="?")
    parser.add_argument("after", nargs="?")
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--after-model", help="another for the second tree, such as an exported folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--work", action="store_true", help="what the script starts in each tree")
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.model, arguments.threads)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
