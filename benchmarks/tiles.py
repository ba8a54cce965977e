"""Tiled prediction against one look at the whole: what is found, seconds and memory.

python benchmarks/tiles.py agree DATA [--side 1500] [--tile-size 800]: a mosaic of DATA's images (DATA/images/ID.png and
DATA/labels/ID.png; ``--names`` is a file of IDs) is predicted whole and in tiles; prints the share of objects that
match at IoU 0.95, by their distance from a seam, and the AP of both.
python benchmarks/tiles.py scale DATA --sides 1000 4000 16000: peak memory and megapixels a second of a TIFF in tiles of
each size, each in a process of its own; images up to a tile's size are seen whole.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

TILE = 512


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
    from manymask.evaluation import evaluate
    from manymask.imaging import open_image
    from manymask.outputs import OUTPUTS, ImageEntry
    from manymask.prediction import load_model
    from manymask.prediction.tiling import CONTEXT, Tiling, find_instances, load_image

    # By default no cap: it is a tile's in the one case and the whole image's in the other, on proposals too.
    model = load_model(
        arguments.model, device="cpu", settings={"detections_per_image": 5000, "precision": arguments.precision}
    )
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
    from manymask.core import compute_iou, intersect_runs

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
        for side in arguments.sides:
            file = Path(place) / f"{side}.tif"
            write_tiff(file, part, side)
            command = [sys.executable, __file__, "one", str(file), "--model", arguments.model]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            print(side, json.loads(answer.splitlines()[-1]), flush=True)


def write_tiff(file, part, side):
    """The part again and again, written tile by tile."""

    def list_tiles():
        for top in range(0, side, TILE):
            for left in range(0, side, TILE):
                rows, columns = np.arange(top, top + TILE) % len(part), np.arange(left, left + TILE) % len(part)
                yield part[np.ix_(rows, columns)]

    tifffile.imwrite(
        file, list_tiles(), shape=(side, side, 3), dtype="uint8", photometric="rgb", tile=(TILE, TILE),
        compression="zlib", bigtiff=side > 20000,
    )  # fmt: skip


def one(arguments):
    """Predict a file, and print what it takes."""
    from manymask.prediction import load_model, predict

    model = load_model(arguments.model, device="cpu")
    loaded = peak()
    started = time.perf_counter()
    (found,) = predict(model, [arguments.data])
    seconds = time.perf_counter() - started
    megapixels = found.size[0] * found.size[1] / 1e6
    runs = sum(getattr(found.runs, name).nbytes for name in ("owner", "start", "length")) / 1e6
    answer = {
        "objects": len(found),
        "seconds": round(seconds, 1),
        "megapixels_a_second": round(megapixels / seconds, 4),
    }
    print(json.dumps({**answer, "MB": round(peak()), "MB_loaded": round(loaded), "MB_of_runs": round(runs, 1)}))


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_names(arguments):
    if arguments.names:
        return arguments.names.read_text().split()
    return sorted(path.stem for path in (arguments.data / "images").glob("*.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["agree", "scale", "one"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--names", type=Path)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--side", type=int, default=1500)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tile-size", type=int, nargs="+")
    parser.add_argument("--sides", type=int, nargs="+", default=[1000, 4000, 8000, 16000])
    arguments = parser.parse_args()
    {"agree": agree, "scale": scale, "one": one}[arguments.what](arguments)


if __name__ == "__main__":
    main()
