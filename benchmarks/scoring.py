"""Seconds and memory that all scores of crowded images take, and pycocotools' own evaluation beside it.

python benchmarks/scoring.py    # 100 images of 300 objects and about 300 predictions each, 1,000 bootstrap draws
"""

import contextlib
import io
import time

import cv2
import numpy as np
import psutil
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from manymask.core import Instances, encode_coco_rle, encode_crops
from manymask.evaluation import compute_precision, rank_images, score_image, summarize_scores
from manymask.synthetic import make_categories, make_sample

NUM_IMAGES, NUM_OBJECTS, CAP, DRAWS = 100, 300, 450, 1000


def main():
    """Score the same predictions with both and compare arrays, seconds and memory."""
    pairs = [make_pair(index) for index in range(NUM_IMAGES)]
    process = psutil.Process()
    before = process.memory_info().rss
    start = time.perf_counter()
    images = [
        score_image(index, truth, found, max_detections=CAP, score_threshold=0.5)
        for index, (truth, found) in enumerate(pairs, start=1)
    ]
    matched_seconds = time.perf_counter() - start
    summarize_scores(images, make_categories(3), CAP)
    scored_seconds = time.perf_counter() - start
    summarize_scores(images, make_categories(3), CAP, draws=DRAWS)
    seconds = time.perf_counter() - scored_seconds + matched_seconds - start
    print(
        f"{NUM_IMAGES} images, {sum(len(t) for t, _ in pairs)} objects, {sum(len(f) for _, f in pairs)} predictions: "
        f"matching {matched_seconds:.1f} s, with all scores {scored_seconds:.1f} s, with {DRAWS} draws {seconds:.1f} s, "
        f"{(process.memory_info().rss - before) / 2**20:.0f} MiB more at the end"
    )
    expected, their_seconds = run_pycocotools(pairs)
    found = np.nan_to_num(compute_precision(rank_images(images, 3, "mask")), nan=-1)
    print(
        f"pycocotools, masks alone, AP alone: {their_seconds:.1f} s; largest difference of precision "
        f"{np.abs(found - expected).max():.1e}"
    )


def make_pair(index: int) -> tuple[Instances, Instances]:
    """Ground truth, and predictions: most objects moved and grown or shrunk, some twice, some of another class."""
    _, truth = make_sample(index, size=(512, 512), num_instances=NUM_OBJECTS)
    rng = np.random.default_rng(index)
    rows = np.concatenate([np.flatnonzero(rng.random(len(truth)) < 0.9), rng.integers(0, len(truth), 60)])
    boxes = truth.runs.boxes[rows].astype(int)
    crops = []
    for x1, y1, x2, y2 in boxes.tolist():
        width, height = max(x2 - x1 + rng.integers(-2, 3), 2), max(y2 - y1 + rng.integers(-2, 3), 2)
        mask = np.zeros((height, width), np.uint8)
        cv2.ellipse(mask, (width // 2, height // 2), (width // 2, height // 2), 0, 0, 360, 1, -1)
        left, top = min(max(x1 + rng.integers(-2, 3), 0), 511), min(max(y1 + rng.integers(-2, 3), 0), 511)
        crops.append((int(left), int(top), mask[: 512 - top, : 512 - left].astype(bool)))
    labels = np.where(rng.random(len(rows)) < 0.1, rng.integers(1, 4, len(rows)), truth.labels[rows])
    scores = rng.random(len(rows)).astype(np.float32)
    return truth, Instances.from_runs(encode_crops(iter(crops), (512, 512)), labels, scores=scores)


def run_pycocotools(pairs: list[tuple[Instances, Instances]]) -> tuple[np.ndarray, float]:
    """Precision at all sizes, and the seconds that evaluation takes once the files are read."""
    annotations, results = [], []
    for image_id, (truth, found) in enumerate(pairs, start=1):
        for instances, rows in ((truth, annotations), (found, results)):
            for rle, label, score in zip(
                encode_coco_rle(instances.runs), instances.labels.tolist(), instances.scores.tolist(), strict=True
            ):
                row = {"image_id": image_id, "category_id": label, "segmentation": rle, "score": score, "iscrowd": 0}
                rows.append({**row, "area": float(coco_mask.area(rle)), "bbox": coco_mask.toBbox(rle).tolist()})
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO()
        oracle.dataset = {
            "images": [{"id": image_id, "height": 512, "width": 512} for image_id in range(1, len(pairs) + 1)],
            "annotations": [{"id": number, **row} for number, row in enumerate(annotations, start=1)],
            "categories": [{"id": number, "name": str(number)} for number in (1, 2, 3)],
        }
        oracle.createIndex()
        start = time.perf_counter()
        evaluator = COCOeval(oracle, oracle.loadRes(results), "segm")
        evaluator.params.maxDets = [CAP]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][:, :, :, 0, -1], time.perf_counter() - start


if __name__ == "__main__":
    main()
