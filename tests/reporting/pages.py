"""Made predictions with known errors, and an evaluation to go with them."""

from pathlib import Path

import numpy as np

from manymask.core import Category, Instances, RunLengths, compute_iou, concatenate_instances, intersect_runs
from manymask.metrics import Evaluation
from manymask.metrics.error_split import ImageErrors
from manymask.metrics.stages import SHARES, StageShares
from manymask.plan import DataRecord, Plan, make_plan
from manymask.reporting.images import ViewedImage
from manymask.reporting.page import write_report
from manymask.synthetic import make_categories, make_sample

CATEGORIES = make_categories(3)
ERRORS = ("missed", "spurious", "duplicate", "merged", "split", "wrong_class", "loose_border")


def make_viewed_image(
    index: int = 0, num_instances: int = 40, size: tuple[int, int] = (160, 200), name: str | None = None
) -> ViewedImage:
    """An image whose predictions are its instances, a few of them missed, moved, joined or of another class."""
    pixels, truth = make_sample(index, size=size, num_instances=num_instances)
    rng = np.random.default_rng(index)
    kinds = rng.choice(("found", "missed", "loose_border", "wrong_class"), len(truth), p=(0.7, 0.12, 0.1, 0.08))
    kept = kinds != "missed"
    predictions = truth[kept]
    labels = np.where(kinds[kept] == "wrong_class", predictions.labels % 3 + 1, predictions.labels)
    runs = predictions.runs
    steps = np.where(kinds[kept] == "loose_border", 5, 1)[runs.owner]
    num_pixels = size[0] * size[1]
    start = np.clip(runs.start + steps, 0, num_pixels - runs.length)
    runs = RunLengths.from_intervals(size, len(runs), runs.owner, start, runs.length)
    scores = rng.uniform(0.5, 1, len(runs)).astype(np.float32)
    predictions = Instances.from_runs(runs, labels, scores=scores)
    names = ["correct" if kind == "found" else str(kind) for kind in kinds[kept]]
    if len(predictions) > 5:  # the first two again, as one
        joined = RunLengths.from_intervals(
            size, 1, runs.owner[runs.owner < 2] * 0, *(a[runs.owner < 2] for a in (start, runs.length))
        )
        extra = Instances.from_runs(joined, predictions.labels[:1], scores=np.array([0.55], dtype=np.float32))
        predictions, names = concatenate_instances([predictions, extra]), [*names, "merged"]
    overlaps = intersect_runs(predictions.runs, truth.runs)
    iou = compute_iou(overlaps, predictions.runs.areas, truth.runs.areas, truth.iscrowd)
    prediction_ious, truth_ious = np.zeros(len(predictions)), np.zeros(len(truth))
    np.maximum.at(prediction_ious, overlaps.first, iou)
    np.maximum.at(truth_ious, overlaps.second, iou)
    return ViewedImage(
        name=name or f"sample_{index:02d}",
        pixels=pixels,
        truth=truth,
        predictions=predictions,
        errors=ImageErrors(np.array(names, dtype=str), kinds, prediction_ious, truth_ious),
        loss=float(np.mean(kinds != "found")) if len(truth) else 0.0,
    )


def make_evaluation(images: list[ViewedImage], names: list[str]) -> Evaluation:
    """An evaluation with every part; the numbers are made up."""
    thresholds = [f"{0.5 + 0.05 * step:.2f}" for step in range(10)]
    scores = {"AP": 0.342, "AP50": 0.613, "AP75": 0.331}
    found = {"precision": 0.81, "recall": 0.745, "F1": 0.776, "TP": 700, "FP": 160, "FN": 230}
    sizes = (
        ("small", 0, 1024),
        ("medium", 1024, 9216),
        ("large", 9216, None),
        ("lower_tercile", 0, 130),
        ("middle_tercile", 130, 210),
        ("upper_tercile", 210, None),
    )
    per_class = {n: {**scores, "AP50": 0.7 - 0.12 * i, "num_instances": 1240 // (i + 1)} for i, n in enumerate(names)}
    by_size = {
        key: {"AP": None, "AP50": None, "AP75": None, "num_instances": 0, "min_area": low, "max_area": high}
        if key == "large"
        else {**scores, "num_instances": 730, "min_area": low, "max_area": high}
        for key, low, high in sizes
    }
    masks = {**scores, "per_class": per_class, "by_size": by_size}
    pooled = {t: max(0.62 - 0.06 * i * (1 + i / 10), 0) for i, t in enumerate(thresholds)}
    matrix = np.full((len(names) + 1, len(names) + 1), 7)
    np.fill_diagonal(matrix, 310)
    matrix[-1] = matrix[:, -1] = 41
    matrix[-1, -1] = 0
    curve = [round(max(0.0, 1 - 0.3 * (r / 100) ** 3 - (r > 84)), 3) for r in range(101)]
    curves = {
        "0.50": curve,
        "0.75": [v * 0.8 if r < 62 else 0.0 for r, v in enumerate(curve)],
        "0.90": [v * 0.4 if r < 30 else 0.0 for r, v in enumerate(curve)],
    }
    intervals = {f"ap_t.pooled.{t}": [v - 0.03, v + 0.03] for t, v in pooled.items()}
    intervals |= {f"mask.per_class.{n}.AP50": [per_class[n]["AP50"] - 0.07, per_class[n]["AP50"] + 0.05] for n in names}
    for path, value in {
        "mask.AP": 0.342,
        "mask.AP50": 0.613,
        "mask.AP75": 0.331,
        "box.AP": 0.36,
        "detection.F1": 0.776,
        "detection.precision": 0.81,
        "detection.recall": 0.745,
        "panoptic.PQ": 0.52,
        "panoptic.SQ": 0.71,
        "panoptic.RQ": 0.73,
        "aji.AJI": 0.55,
    }.items():
        intervals[path] = [value - 0.041, value + 0.052]
    content = {
        "mask": masks,
        "box": {**masks, "AP": 0.36},
        "ap_t": {"pooled": pooled, "per_image": {t: v * 0.94 for t, v in pooled.items()}},
        "detection": {**found, "per_class": dict.fromkeys(names, found)},
        "panoptic": {
            "PQ": 0.52,
            "SQ": 0.71,
            "RQ": 0.73,
            "mPQ_plus": 0.48,
            "per_class": {n: {"PQ": 0.5, "SQ": 0.7, "RQ": 0.71} for n in names},
        },
        "aji": {"AJI": 0.55, "AJI_plus": 0.57, "AJI_foreground": 0.6},
        "counts": {
            "mean_error": -3.2,
            "mean_absolute_error": 5.4,
            "per_class": {n: {"mean_error": 1.1, "mean_absolute_error": 2.0} for n in names},
        },
        "confusion": {"names": names, "matrix": matrix.tolist()},
        "reliability": {
            "expected_calibration_error": 0.083,
            "bins": [
                {
                    "low": b / 10,
                    "high": (b + 1) / 10,
                    "num_predictions": 40 + b * b * 9,
                    "mean_score": b / 10 + 0.055,
                    "precision": min(1.0, 0.12 + b / 11),
                }
                for b in range(10)
            ],
        },
        "errors": {
            kind: {
                "predictions": 0 if kind == "missed" else 14 + 31 * i,
                "instances": 0 if kind in ("spurious", "duplicate") else 260 - 33 * i,
                "AP50_cost": 0.09 / (i + 1),
            }
            for i, kind in enumerate(ERRORS)
        },
        "intervals": {
            "level": 0.95,
            "draws": 1000,
            "unit": "image",
            "num_units": max(len(images), 2),
            "values": intervals,
        },
        "precision_recall": {"all": curves, "per_class": dict.fromkeys(names, curves)},
        "per_image": [
            {
                "name": image.name,
                "image_id": i,
                "num_instances": len(image.truth),
                "num_predictions": len(image.predictions),
                "TP": 30,
                "FP": 7,
                "FN": 9,
                "F1": 1 - image.loss,
            }
            for i, image in enumerate(sorted(images, key=lambda image: -image.loss))
        ],
        "worst_instances": [
            {
                "image": image.name,
                "what": "prediction",
                "kind": str(image.errors.predictions[0]),
                "category": names[0],
                "score": 0.91,
                "iou": 0.2,
                "box": image.predictions.boxes[0].tolist(),
            }
            for image in images
            if len(image.predictions)
        ],
        "notes": ["The validation set is small: 6 images, so the intervals are wide.", "Class class3 has a low AP50."],
        "num_images": len(images),
        "num_predictions": 860,
        "detections_per_image": 150,
        "score_threshold": 0.5,
        "min_score": 0.05,
        "model": "runs/base/best.ckpt",
        "data": "data/train",
    }
    return Evaluation.model_validate(content)


def make_run_plan() -> Plan:
    """A plan with its record of the data."""
    plan = make_plan("baseline", {"epochs": 30, "scheduler": "cosine", "learning_rate": 0.002})
    data = DataRecord(
        path="data/train",
        val_path=None,
        data_format="class_folders",
        fingerprint="9f2c" * 16,
        categories=tuple((category.id, category.name) for category in CATEGORIES),
        train_names=tuple(f"sample_{i:03d}" for i in range(47)),
        val_names=("sample_047", "sample_048"),
        max_instances=75,
    )
    return plan.model_copy(update={"data": data})


def make_rows(num_epochs: int) -> list[dict]:
    """Rows of ``metrics.csv``."""
    losses = {
        "loss_classifier": 0.5,
        "loss_box_reg": 0.7,
        "loss_mask": 0.6,
        "loss_objectness": 0.2,
        "loss_rpn_box_reg": 0.1,
    }
    rows = []
    for epoch in range(1, num_epochs + 1):
        parts = {name: 0.2 * value + value / epoch for name, value in losses.items()}
        scores = {"val_mask_AP": 0.35, "val_mask_AP50": 0.62, "val_mask_AP75": 0.33, "val_box_AP": 0.36}
        scores = {name: value * (1 - 0.8 / epoch) for name, value in scores.items()}
        rows.append({"epoch": epoch, "step": epoch * 24, "loss": sum(parts.values()), **parts, **scores})
    return rows


def make_shares(value: float | None) -> StageShares:
    return StageShares(num_images=12, num_objects=3400, **dict.fromkeys(SHARES, value))


def write_page(
    path: Path, images: list[ViewedImage], categories: tuple[Category, ...] = CATEGORIES, **changes: object
) -> str:
    """Write a report with all parts, or with those given in their place, and return its text."""
    evaluation = make_evaluation(images, [category.name for category in categories])
    arguments = {
        "title": "runs/base",
        "plan": make_run_plan(),
        "rows": make_rows(30),
        "diagnosis": {"training": make_shares(0.9), "validation": make_shares(None)},
        "evaluation": evaluation,
        "categories": categories,
        "images": images,
    } | changes
    return write_report(path, **arguments).read_text(encoding="utf-8")
