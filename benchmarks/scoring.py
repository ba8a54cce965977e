"""Seconds that COCO scores of crowded images take, with hotcoco (ours) and with pycocotools.

python benchmarks/scoring.py    # 20 images of 300 objects and 300 predictions each
"""

import contextlib
import io
import time

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from manymask.core import Category
from manymask.evaluation import _make_ground_truth, compute_precision, score_image
from manymask.synthetic import make_sample

NUM_IMAGES, NUM_OBJECTS, CAP = 20, 300, 450


def main():
    """Score the same predictions with both and compare arrays and seconds."""
    categories = tuple(Category(i + 1, f"class{i + 1}") for i in range(3))
    scored = []
    for index in range(NUM_IMAGES):
        _, truth = make_sample(index, size=(512, 512), num_instances=NUM_OBJECTS)
        rng = np.random.default_rng(index)
        order = rng.permutation(len(truth))
        predictions = type(truth).from_runs(
            truth.runs, truth.labels[order], scores=rng.random(len(truth)).astype(np.float32)
        )
        scored.append(score_image(index + 1, truth, predictions, max_detections=CAP, score_threshold=0.5))
    results = [result for image in scored for result in image.predictions]
    truth = _make_ground_truth(scored, categories)
    start = time.perf_counter()
    ours = compute_precision(truth, results, "segm", CAP)
    ours_seconds = time.perf_counter() - start
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO()
        oracle.dataset = truth.dataset
        oracle.createIndex()
        start = time.perf_counter()
        evaluator = COCOeval(oracle, oracle.loadRes(results), "segm")
        evaluator.params.maxDets = [CAP]
        evaluator.evaluate()
        evaluator.accumulate()
    theirs_seconds = time.perf_counter() - start
    difference = np.abs(ours - evaluator.eval["precision"][:, :, :, 0, -1]).max()
    print(f"{len(results)} predictions: hotcoco {ours_seconds:.3f} s, pycocotools {theirs_seconds:.3f} s, ", end="")
    print(f"ratio {theirs_seconds / ours_seconds:.1f}, largest difference of precision {difference:.1e}")


if __name__ == "__main__":
    main()
