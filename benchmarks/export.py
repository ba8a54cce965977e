"""What an exported model finds, and how long it takes, beside the model that it was made from.

python benchmarks/export.py DATA LIST MODEL OUTPUT [THREADS]: images of DATA whose names are lines of LIST; 20 of them,
evenly through the list, are predicted, and int8 is calibrated with others. Exports that OUTPUT holds already are taken.
"""

import shutil
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from manymask import compare, export, load_model, read_dataset
from manymask.core import Instances, intersect_runs
from manymask.imaging.normalization import Normalization, normalize_pixels
from manymask.outputs import CocoResults, ImageEntry, close_writers
from manymask.prediction import predict_tensor

NUM_IMAGES, NUM_CALIBRATION = 20, 20
EXPORTS = {
    "ONNX Runtime": {"to": "onnx"},
    "OpenVINO": {"to": "openvino"},
    "OpenVINO int8": {"to": "openvino", "int8": True},
}
METRICS = ("mask AP", "mask AP50", "F1")


def main():
    """Export what is not there yet, predict by turns, and print two tables."""
    data, names, source, output = (Path(argument) for argument in sys.argv[1:5])
    torch.set_num_threads(int(sys.argv[5]) if len(sys.argv) > 5 else torch.get_num_threads())
    dataset = read_dataset(data)
    listed = set(names.read_text().split())
    places = [place for place, record in enumerate(dataset.records) if record.name in listed]
    chosen = places[:: len(places) // NUM_IMAGES][:NUM_IMAGES]
    others = sorted(set(places) - set(chosen))
    models = {"PyTorch": load_model(source, "cpu")}
    for name, settings in EXPORTS.items():
        folder = output / name.replace(" ", "_")
        if not (folder / "model.json").is_file():
            if "int8" in settings:
                settings = settings | {"calibrate": copy_images(dataset, others, output / "calibration")}
            export(source, folder, **settings)
        models[name] = load_model(folder)
    subset = dataset.subset(chosen)
    found, seconds = predict_all(models, subset, output)
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, {len(subset)} images")
    print("| | s an image | CPU s an image | found | largest difference of boxes, px | of scores | smallest mask IoU |")
    print("| --- " * 7 + "|")
    for name in models:
        cells = []
        for own, base in zip(zip(*seconds[name], strict=True), zip(*seconds["PyTorch"], strict=True), strict=True):
            cells.append(f"{statistics.mean(own):.2f} ({statistics.mean(own) / statistics.mean(base):.2f})")
        print(f"| {name} | {' | '.join(cells)} | {describe_parity(found['PyTorch'], found[name])} |")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = compare({name: [output / f"{name.replace(' ', '_')}_found"] for name in models}, subset)
    print("| | " + " | ".join(METRICS) + " |\n" + "| --- " * (len(METRICS) + 1) + "|")
    for pair in result["comparisons"]:
        rows = {row["metric"]: row for row in pair["differences"]}
        cells = [
            f"{row['first']:.4f} to {row['second']:.4f}: {row['difference']:+.4f} "
            f"({row['interval'][0]:+.4f} to {row['interval'][1]:+.4f})"
            for row in (rows[metric] for metric in METRICS)
        ]
        print(f"| {pair['second']} | " + " | ".join(cells) + " |")


def copy_images(dataset, places, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for place in places[:: max(len(places) // NUM_CALIBRATION, 1)][:NUM_CALIBRATION]:
        shutil.copy(dataset.records[place].path, folder)
    return folder


def predict_all(models, dataset, output):
    """The instances, and the seconds by the clock and of the CPU, of each model for each image; they take turns.

    The first image goes through each once before.
    """
    found, seconds = ({name: [] for name in models} for _ in range(2))
    folders = {name: output / f"{name.replace(' ', '_')}_found" for name in models}
    names = [record.name for record in dataset.records]
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    writers = {name: CocoResults(folders[name], names, model.categories, 0.0) for name, model in models.items()}
    with close_writers(list(writers.values())):
        for index in range(len(dataset)):
            sample = dataset[index]
            entry = ImageEntry(sample.image_id, sample.name, sample.path.name, sample.image)
            for name, model in models.items():
                image = normalize_pixels(sample.pixels, sample.name, Normalization.of(model.plan))
                if index == 0:
                    predict_tensor(model, image)
                started, started_cpu = time.perf_counter(), time.process_time()
                instances = predict_tensor(model, image)
                seconds[name].append((time.perf_counter() - started, time.process_time() - started_cpu))
                found[name].append(instances)
                writers[name].write(entry, instances)
            print(f"{index + 1}/{len(dataset)}", file=sys.stderr)
    return found, seconds


def describe_parity(expected: list[Instances], found: list[Instances]) -> str:
    """Instances found, and the worst of those that both found: boxes of a class that meet by an IoU of 0.5 and more."""
    boxes = scores = 0.0
    overlap, num_lost = 1.0, 0
    for first, second in zip(expected, found, strict=True):
        pairs = intersect_runs(first.runs, second.runs)
        union = first.runs.areas[pairs.first] + second.runs.areas[pairs.second] - pairs.intersection
        iou = np.zeros((len(first), len(second)))
        iou[pairs.first, pairs.second] = pairs.intersection / union
        iou[first.labels[:, None] != second.labels[None]] = 0
        # Of two predictions of one object the nearer in score.
        nearness = iou - np.abs(first.scores[:, None] - second.scores[None])
        partner = nearness.argmax(axis=1)
        is_met = iou[np.arange(len(first)), partner] >= 0.5
        num_lost += int((~is_met).sum())
        mine, theirs = np.flatnonzero(is_met), partner[is_met]
        boxes = max(boxes, float(np.abs(first.boxes[mine] - second.boxes[theirs]).max(initial=0)))
        scores = max(scores, float(np.abs(first.scores[mine] - second.scores[theirs]).max(initial=0)))
        overlap = min(overlap, float(iou[mine, theirs].min(initial=1)))
    counts = f"{sum(map(len, found))} (PyTorch's lost: {num_lost})"
    return f"{counts} | {boxes:.4f} | {scores:.1e} | {overlap:.4f}"


if __name__ == "__main__":
    main()
