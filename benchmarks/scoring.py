"""Seconds and memory that scoring crowded predictions takes, and pycocotools' own evaluation of the same files.

python benchmarks/scoring.py    # 100 images of 300 objects and about 330 predictions each, 1,000 bootstrap draws
"""

import contextlib
import io
import json
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from manymask.core import Instances, encode_coco_rle, encode_crops, write_json
from manymask.evaluation import evaluate
from manymask.formats import encode_coco_results
from manymask.synthetic import make_categories, make_sample

NUM_IMAGES, NUM_OBJECTS, SIDE, CAP = 100, 300, 512, 450


def main():
    """Score the same files with both, and compare scores, seconds and memory."""
    at_import = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        data, predictions = write_files(Path(folder))
        start = time.perf_counter()
        evaluate(predictions, data, draws=0, settings={"detections_per_image": CAP})
        seconds = time.perf_counter() - start
        print(f"manymask: all scores {seconds:.1f} s", end="")
        start = time.perf_counter()
        scores = evaluate(predictions, data, draws=1000, settings={"detections_per_image": CAP})
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f", with 1,000 draws {seconds:.1f} s; at most {(peak - at_import) / 2**20:.0f} MiB above the imports")
        start = time.perf_counter()
        expected = [run_pycocotools(data / "annotations.json", predictions, kind) for kind in ("segm", "bbox")]
        theirs = time.perf_counter() - start
    found = [scores.mask.AP, scores.box.AP]
    print(f"pycocotools, AP of masks and boxes alone: {theirs:.1f} s, {theirs / seconds:.1f} times as long")
    print(f"AP of masks and boxes: {found}, differences {np.abs(np.subtract(found, expected)).tolist()}")


def write_files(folder: Path) -> tuple[Path, Path]:
    """A COCO data set and COCO results."""
    categories, results = make_categories(3), []
    content = {"images": [], "annotations": [], "categories": [c.__dict__ for c in categories]}
    (folder / "images").mkdir()
    for index in range(NUM_IMAGES):
        pixels, truth = make_sample(index, size=(SIDE, SIDE), num_instances=NUM_OBJECTS)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), pixels)
        content["images"].append({"id": index + 1, "file_name": f"{index}.png", "height": SIDE, "width": SIDE})
        results += encode_coco_results(make_predictions(truth, index), index + 1, categories)
        boxes_xywh = np.concatenate([truth.boxes[:, :2], truth.boxes[:, 2:] - truth.boxes[:, :2]], axis=1).tolist()
        for row, rle in enumerate(encode_coco_rle(truth.runs)):
            entry = {"id": len(content["annotations"]) + 1, "image_id": index + 1, "iscrowd": 0, "segmentation": rle}
            entry |= {"category_id": int(truth.labels[row]), "bbox": boxes_xywh[row]}
            content["annotations"].append({**entry, "area": int(truth.runs.areas[row])})
    print(f"{NUM_IMAGES} images, {len(content['annotations'])} objects, {len(results)} predictions")
    (folder / "annotations.json").write_text(json.dumps(content))
    write_json(folder / "results" / "predictions.json", results)
    return folder, folder / "results" / "predictions.json"


def make_predictions(truth: Instances, seed: int) -> Instances:
    """Most objects moved and grown or shrunk, some twice, some of another class."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([np.flatnonzero(rng.random(len(truth)) < 0.9), rng.integers(0, len(truth), 60)])
    crops = []
    for x1, y1, x2, y2 in truth.runs.boxes[rows].astype(int).tolist():
        width, height = max(x2 - x1 + rng.integers(-2, 3), 2), max(y2 - y1 + rng.integers(-2, 3), 2)
        mask = np.zeros((height, width), np.uint8)
        cv2.ellipse(mask, (width // 2, height // 2), (width // 2, height // 2), 0, 0, 360, 1, -1)
        left, top = np.clip([x1 + rng.integers(-2, 3), y1 + rng.integers(-2, 3)], 0, SIDE - 1).tolist()
        crops.append((left, top, mask[: SIDE - top, : SIDE - left].astype(bool)))
    labels = np.where(rng.random(len(rows)) < 0.1, rng.integers(1, 4, len(rows)), truth.labels[rows])
    scores = rng.random(len(rows)).astype(np.float32)
    return Instances.from_runs(encode_crops(iter(crops), (SIDE, SIDE)), labels, scores=scores)


def run_pycocotools(data: Path, predictions: Path, kind: str) -> float:
    """AP, from the files on."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data))
        evaluator = COCOeval(truth, truth.loadRes(str(predictions)), kind)
        evaluator.params.maxDets = [1, 10, CAP]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


if __name__ == "__main__":
    main()
