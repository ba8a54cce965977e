"""Tiled prediction against one look at the whole: what is found, seconds and memory.

python benchmarks/tiles.py agree DATA [--side 1500] [--tile-size 800]: a mosaic of DATA's images (DATA/images/ID.png and
DATA/labels/ID.png; ``--names`` is a file of IDs) is predicted whole and in tiles; prints the share of objects that
match at IoU 0.95, by their distance from a seam, and the AP of both.
python benchmarks/tiles.py scale DATA --sizes 1000x1000 4000x4000 16000x2000: peak memory and megapixels a processor
second of TIFFs of these widths and heights, each in a process of its own; images up to a tile's size are seen whole.
python benchmarks/tiles.py rate DATA [--side 4000]: processor seconds of an image in tiles, and of one of 1,000 pixels
that is seen whole after each tile.
python benchmarks/tiles.py resume DATA [--side 8000]: ``predict`` killed (SIGKILL) when half of the tiles are done and
run again; whether it ends with the same bytes as an undisturbed run.
``--model threshold`` is a stand-in for a network, which finds what is brighter than its surroundings in no time.
"""

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch
from PIL import Image

from manymask.core import compute_iou, intersect_runs
from manymask.evaluation import evaluate
from manymask.imaging import open_image
from manymask.modeling.detections import Detections
from manymask.outputs import OUTPUTS, ImageEntry
from manymask.prediction import load_model, predict, predict_files
from manymask.prediction.partial import PARTIAL_NAME
from manymask.prediction.tiling import CONTEXT, Tiling, find_instances, load_image

TILE = 512


class Threshold:
    """A detector that finds the pieces of what is brighter than its surroundings."""

    device = torch.device("cpu")

    def __call__(self, images):
        return [self.detect((image.mean(0).clamp(0, 1) * 255).byte().numpy()) for image in images]

    def detect(self, grey):
        is_bright = (grey > cv2.blur(grey, (65, 65)).astype(int) + 5).astype(np.uint8)
        _, pieces, table, _ = cv2.connectedComponentsWithStats(is_bright)
        rows = np.flatnonzero(table[:, cv2.CC_STAT_AREA] > 40)[1:]
        left, top, width, height = table[rows, :4].T
        masks = [
            cv2.resize((pieces[y : y + h, x : x + w] == row).astype(np.float32), (28, 28), interpolation=cv2.INTER_AREA)
            for row, x, y, w, h in zip(rows, left, top, width, height, strict=True)
        ]
        boxes = torch.tensor(np.stack([left, top, left + width, top + height], axis=1), dtype=torch.float32)
        scores = torch.tensor(1 - 1 / np.sqrt(table[rows, cv2.CC_STAT_AREA]), dtype=torch.float32)
        order = scores.argsort(descending=True, stable=True)
        probabilities = torch.tensor(np.stack(masks)) if masks else torch.zeros(0, 28, 28)
        return Detections(boxes[order], torch.ones(len(rows), dtype=torch.int64), scores[order], probabilities[order])


def load(name, settings=None):
    """A model on the CPU, or the stand-in with the settings of ``nuclei``."""
    if name == "threshold":
        return replace(load_model("nuclei", "cpu", settings), detector=Threshold())
    return load_model(name, "cpu", settings)


def make_mosaic(folder, names, side):
    """Images of the data set beside each other, with their labels; the objects at their borders are cut off there."""
    pixels, labels = np.zeros((side, side, 3), dtype=np.uint8), np.zeros((side, side), dtype=np.int32)
    top, left, row_height, num_ids, turn = 0, 0, 0, 0, 0
    while top < side:
        name = names[turn % len(names)]
        image = np.asarray(Image.open(folder / "images" / f"{name}.png").convert("RGB"))
        ids = np.asarray(Image.open(folder / "labels" / f"{name}.png")).astype(np.int32)
        height, width = min(image.shape[0], side - top), min(image.shape[1], side - left)
        part = ids[:height, :width]
        pixels[top : top + height, left : left + width] = image[:height, :width]
        labels[top : top + height, left : left + width] = np.where(part > 0, part + num_ids, 0)
        left, row_height = left + width, max(row_height, height)
        if left == side:
            top, left, row_height = top + row_height, 0, 0
        num_ids, turn = num_ids + int(ids.max()), turn + 1
    return pixels, labels


def agree(arguments):
    """Compare both ways on one mosaic."""
    # By default no cap: it is a tile's in the one case and the whole image's in the other, on proposals too.
    model = load(arguments.model, {"detections_per_image": 5000, "precision": arguments.precision})
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        pixels, labels = make_mosaic(arguments.data, read_names(arguments), arguments.side)
        data.mkdir()
        file = data / "mosaic.tif"
        tifffile.imwrite(file, pixels, photometric="rgb", tile=(256, 256), compression="zlib")
        tifffile.imwrite(data / "mosaic_masks.tif", labels.astype(np.uint16))

        def find(tiling):
            started = time.perf_counter()
            found = find_instances(model, load_image(open_image(file), "mosaic", model.plan, tiling), tiling)
            seconds = time.perf_counter() - started
            folder = Path(place) / f"{tiling}"
            writer = OUTPUTS["coco"](folder, ["mosaic"], model.categories, model.plan.shown_score)
            writer.write(ImageEntry(1, "mosaic", "mosaic.tif", open_image(file)), found)
            writer.close()
            score = evaluate(folder / "predictions.json", data, output=folder / "evaluation").mask.AP
            shown = found[found.scores >= model.plan.shown_score]
            print(f"{len(shown)} objects, {seconds:.1f} s, mask AP {score:.4f}", flush=True)
            return shown

        print(f"{arguments.side} pixels, whole:", flush=True)
        whole = find(None)
        for tile_size in arguments.tile_size or [None]:
            tiling = Tiling.of(model.plan, tile_size)
            tiles = tiling.list_tiles(whole.size)
            print(f"{len(tiles)} tiles of up to {tiling.tile_size}, overlap {tiling.overlap}:", flush=True)
            compare(whole, find(tiling), tiles, CONTEXT / model.plan.scale)


def compare(whole, tiled, tiles, context):
    """Print how many objects of the whole are found in tiles with IoU 0.95."""
    pairs = intersect_runs(whole.runs, tiled.runs)
    best = np.zeros(len(whole))
    np.maximum.at(best, pairs.first, compute_iou(pairs, whole.runs.areas, tiled.runs.areas))
    seams = [sorted({tile.core[axis] for tile in tiles} - {0}) for axis in (0, 1)]
    distance = measure_distance(whole.boxes, seams)
    for what, is_in in (
        ("all", distance >= 0),
        (f"further than {context:.0f} pixels from a seam", distance > context),
        (f"within {context:.0f} pixels of a seam", distance <= context),
        ("on a seam", distance == 0),
    ):
        print(f"  {what}: {is_in.sum()}, of which {(best[is_in] >= 0.95).mean():.2%} match at IoU 0.95")
    missed = best < 0.95
    print("  the others' IoU, size and score:", [
        (round(float(iou), 2), *(whole.boxes[row, 2:] - whole.boxes[row, :2]).round().astype(int).tolist(),
         round(float(whole.scores[row]), 2), round(float(distance[row])))
        for row, iou in zip(np.flatnonzero(missed), best[missed], strict=True)
    ][:20])  # fmt: skip


def measure_distance(boxes, seams):
    """Pixels between each box and the nearest seam; 0 where the seam goes through it."""
    distance = np.full(len(boxes), np.inf)
    for axis, places in enumerate(seams):
        low, high = boxes[:, 1 - axis], boxes[:, 3 - axis]
        for place in places:
            distance = np.minimum(distance, np.maximum(np.maximum(low - place, place - high), 0))
    return distance


def scale(arguments):
    """Predict images of each size in processes of their own."""
    with tempfile.TemporaryDirectory() as place:
        part, _ = make_mosaic(arguments.data, read_names(arguments), 1024)
        for size in arguments.sizes:
            file = Path(place) / f"{size}.tif"
            write_tiff(file, part, *map(int, size.split("x")))
            command = [sys.executable, __file__, "one", str(file), "--model", arguments.model]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            print(size, json.loads(answer.splitlines()[-1]), flush=True)


def write_tiff(file, part, width, height):
    """The part again and again, written tile by tile."""

    def list_tiles():
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                rows, columns = np.arange(top, top + TILE) % len(part), np.arange(left, left + TILE) % len(part)
                yield part[np.ix_(rows, columns)]

    tifffile.imwrite(
        file, list_tiles(), shape=(height, width, 3), dtype="uint8", photometric="rgb", tile=(TILE, TILE),
        compression="zlib", bigtiff=width * height > 4e8,
    )  # fmt: skip


def one(arguments):
    """Predict a file, and print what it takes."""
    model = load(arguments.model)
    loaded = peak()
    started, used = time.perf_counter(), time.process_time()
    (found,) = predict(model, [arguments.data])
    seconds, used = time.perf_counter() - started, time.process_time() - used
    megapixels = found.size[0] * found.size[1] / 1e6
    runs = sum(getattr(found.runs, name).nbytes for name in ("owner", "start", "length")) / 1e6
    answer = {
        "objects": len(found),
        "seconds": round(seconds, 1),
        "processor_seconds": round(used, 1),
        "megapixels_a_processor_second": round(megapixels / used, 4),
    }
    print(json.dumps({**answer, "MB": round(peak()), "MB_loaded": round(loaded), "MB_of_runs": round(runs, 1)}))


def rate(arguments):
    """Predict one image in tiles, and after each of them another one whole."""
    model = load(arguments.model)
    tiling = Tiling.of(model.plan)
    with tempfile.TemporaryDirectory() as place:
        part, _ = make_mosaic(arguments.data, read_names(arguments), 1024)
        large, small = Path(place) / "large.tif", Path(place) / "small.tif"
        write_tiff(large, part, arguments.side, arguments.side)
        write_tiff(small, part, 1000, 1000)

        def find(file, tell=None):
            started = time.process_time()
            loaded = load_image(open_image(file), file.name, model.plan, tiling)
            found = find_instances(model, loaded, tiling, tell=tell)
            return time.process_time() - started, len(found), loaded.tiles

        find(small)
        whole = []
        seconds, num_found, tiles = find(large, lambda *_: whole.append(find(small)[0]))
        seconds -= sum(whole)
        seen = sum(tile.window.height * tile.window.width for tile in tiles) / arguments.side**2
        rates = arguments.side**2 / seconds / 1e6, len(whole) / sum(whole)
        print(f"{arguments.side} pixels in {len(tiles)} tiles: {num_found} objects, {seconds:.1f} processor seconds, "
              f"{rates[0]:.4f} megapixels a second; {len(whole)} images of 1,000 pixels: {rates[1]:.4f}; ratio "
              f"{rates[0] / rates[1]:.3f}; {seen:.3f} times the pixels are looked at")  # fmt: skip


def resume(arguments):
    """Kill ``predict`` and run it again."""
    with tempfile.TemporaryDirectory() as place:
        part, _ = make_mosaic(arguments.data, read_names(arguments), 1024)
        file = Path(place) / "large.tif"
        write_tiff(file, part, arguments.side, arguments.side)
        tiles = Tiling.of(load(arguments.model).plan).list_tiles((arguments.side, arguments.side))

        def start(output):
            command = [
                sys.executable,
                __file__,
                "write",
                str(file),
                "--output",
                str(output),
                "--model",
                arguments.model,
            ]
            return subprocess.Popen(command)

        whole, out = Path(place) / "whole", Path(place) / "out"
        if start(whole).wait() != 0:
            sys.exit("the undisturbed run failed")
        process, done = start(out), 0
        while done < len(tiles) // 2 and process.poll() is None:
            time.sleep(0.02)
            done = len(list((out / PARTIAL_NAME).glob("large/*.npz")))
        process.send_signal(signal.SIGKILL)
        print(f"killed ({process.wait()}) when {done} of {len(tiles)} tiles were done", flush=True)
        if start(out).wait() != 0:
            sys.exit("the second run failed")
        contents = [{path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
                    for folder in (whole, out)]  # fmt: skip
        sizes = {name: len(content) for name, content in contents[0].items()}
        print("the same bytes" if contents[0] == contents[1] else "DIFFERENT", sizes)


def write(arguments):
    """Write the predictions of a file, as ``manymask predict`` does."""
    predict_files(load(arguments.model), arguments.data, arguments.output, formats=["coco", "labels", "geojson"])


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_names(arguments):
    if arguments.names:
        return arguments.names.read_text().split()
    return sorted(path.stem for path in (arguments.data / "images").glob("*.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["agree", "scale", "one", "rate", "resume", "write"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--names", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--side", type=int)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tile-size", type=int, nargs="+")
    parser.add_argument("--sizes", nargs="+", default=["1000x1000", "4000x4000", "8000x8000", "16000x16000"])
    arguments = parser.parse_args()
    arguments.side = arguments.side or {"agree": 1500, "rate": 4000}.get(arguments.what, 8000)
    commands = {"agree": agree, "scale": scale, "one": one, "rate": rate, "resume": resume, "write": write}
    commands[arguments.what](arguments)


if __name__ == "__main__":
    main()
