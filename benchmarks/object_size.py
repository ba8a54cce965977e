"""AP(0.5) and processor seconds of enlarged and shrunk images with ``object_size=auto`` and without.

python benchmarks/object_size.py VAL [--model nuclei] [--factors 0.5 1 2 4] [--settings none auto]: VAL is the second
part that scripts/split_dsb2018 makes. Images are resized bilinearly (to smaller ones with a filter), labels to nearest
pixels. AP(0.5) is TP / (TP + FP + FN) over all images. Image by image, one thread; ``--most-pixels`` leaves out images
that have more as they are, so that 8 times takes minutes, not hours.
"""

import argparse
import logging
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch

from manymask import load_model, predict, read_dataset
from manymask.core import compute_iou, encode_layers, intersect_runs


def choose(records, num_fluorescence, num_histology):
    """Evenly from all images of each kind, in the order of their names."""
    chosen = []
    for kind, count in (("fluorescence", num_fluorescence), ("histology", num_histology)):
        rows = [row for row, record in enumerate(records) if record.name.startswith(kind)]
        chosen += [rows[place * len(rows) // count] for place in range(min(count, len(rows)))]
    return chosen


def resize(pixels, factor):
    size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
    if factor < 1:
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)


def resize_truth(layers, factor):
    """The objects by nearest pixels; those that are lost are left out."""
    size = round(layers.shape[2] * factor), round(layers.shape[1] * factor)
    resized = np.stack([cv2.resize(layer, size, interpolation=cv2.INTER_NEAREST_EXACT) for layer in layers])
    runs = encode_layers(torch.from_numpy(resized), int(layers.max()))
    return runs.select(np.flatnonzero(runs.areas))


def count(found, truth):
    """TP, FP and FN at IoU 0.5."""
    pairs = intersect_runs(found.runs, truth)
    is_hit = compute_iou(pairs, found.runs.areas, truth.areas) > 0.5
    num_hits = len(np.unique(pairs.second[is_hit]))
    return np.array([num_hits, len(found) - num_hits, len(truth) - num_hits])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.5, 1, 2, 4])
    parser.add_argument("--settings", nargs="+", default=["none", "auto"])
    parser.add_argument("--images", type=int, nargs=2, default=(20, 5), help="of fluorescence and of histology")
    parser.add_argument("--most-pixels", type=float, default=1e9)
    parser.add_argument("--verbose", action="store_true", help="a line for each image, with the choice")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.verbose:
        logging.basicConfig(format="    %(message)s")
        logging.getLogger("manymask").setLevel(logging.INFO)
    models = {text: load_model(arguments.model, "cpu", {"object_size": text}) for text in arguments.settings}
    dataset = read_dataset(arguments.data)
    for factor in arguments.factors:
        counts, seconds = defaultdict(lambda: np.zeros(3, dtype=int)), defaultdict(float)
        num_images = 0
        for row in choose(dataset.records, *arguments.images):
            sample = dataset[row]
            pixels = sample.pixels if factor == 1 else resize(sample.pixels, factor)
            if sample.image.size[0] * sample.image.size[1] > arguments.most_pixels:
                continue
            num_images += 1
            truth = resize_truth(sample.layers.as_subclass(torch.Tensor).numpy(), factor)
            for text, model in models.items():
                started = time.process_time()
                (found,) = predict(model, pixels)
                taken = time.process_time() - started
                result = count(found, truth)
                for kind in ("all", sample.name.partition("-")[0]):
                    counts[text, kind] += result
                    seconds[text, kind] += taken
                if arguments.verbose:
                    print(f"  {factor:g} {sample.name[:30]} {text}: {result.tolist()} {taken:.2f} s", flush=True)
        for (text, kind), (hits, spurious, missed) in counts.items():
            print(
                f"x {factor:g}, object_size={text}, {kind}: AP(0.5) {hits / (hits + spurious + missed):.3f} ({hits}, "
                f"{spurious}, {missed}), {seconds[text, kind]:.1f} s; {num_images} images in all",
                flush=True,
            )


if __name__ == "__main__":
    main()
