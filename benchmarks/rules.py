"""What each rule of ``recipe=auto`` is worth, on images that training never saw, with intervals of the differences.

Training rules: ``python benchmarks/rules.py training DATA OUTPUT RUN [RUN ...]`` compares runs, each with the first.
Prediction rules: ``python benchmarks/rules.py prediction DATA OUTPUT RUN`` compares settings of one run's predictions.
"""

import json
import sys
import warnings
from pathlib import Path

from manymask.comparison import compare
from manymask.evaluation import evaluate
from manymask.prediction import load_model

# Settings that act at prediction, each against the first: torchvision's box suppression at 0.5 with no cap that bites.
PREDICTION = {
    "box 0.5": {"suppression": "box", "nms": 0.5},
    "box 0.3": {"suppression": "box", "nms": 0.3},
    "box 0.4": {"suppression": "box", "nms": 0.4},
    "box 0.6": {"suppression": "box", "nms": 0.6},
    "mask 0.3": {"suppression": "mask", "nms": 0.3},
    "mask 0.5": {"suppression": "mask", "nms": 0.5},
    "cap 100": {"suppression": "box", "nms": 0.5, "detections_per_image": 100},
}
METRICS = ("mask AP", "mask AP50", "mask AP75", "F1")


def main():
    """Predict what is not there yet, compare, and print a table."""
    kind, data, output, *runs = sys.argv[1:]
    if kind == "training":
        jobs = {Path(run).name: (run, {}) for run in runs}
    else:
        jobs = {name: (runs[0], settings) for name, settings in PREDICTION.items()}
    folders = {name: Path(output) / name.replace(" ", "_") for name in jobs}
    for name, (run, settings) in jobs.items():
        if not (folders[name] / "evaluation.json").is_file():
            evaluate(load_model(Path(run) / "last.ckpt", settings=settings), data, output=folders[name], draws=0)
            print(f"predicted: {name}", file=sys.stderr)
    if kind == "prediction":
        folders |= _cut_scores(Path(output), folders["box 0.5"], runs[0])
    files = {name: [folder / "predictions.json"] for name, folder in folders.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = compare(files, data, output=Path(output) / "comparison", settings={"score_threshold": 0.5})
        _print(result, METRICS)
        if kind == "prediction":
            shown = {name: files[name] for name in files if name.startswith("score")}
            _print(compare(shown, data, settings={"score_threshold": 0.0}), ("F1",))


def _cut_scores(output: Path, folder: Path, run: str) -> dict[str, Path]:
    """The same predictions from a score of 0.5, and from the one that validation chose."""
    results = json.loads((folder / "predictions.json").read_text())
    chosen = load_model(Path(run) / "last.ckpt").plan.shown_score
    folders = {}
    for threshold in (0.5, chosen):
        name = f"score {threshold:.2f}"
        folders[name] = target = output / name.replace(" ", "_")
        target.mkdir(parents=True, exist_ok=True)
        kept = [result for result in results if result["score"] >= threshold]
        (target / "predictions.json").write_text(json.dumps(kept))
        (target / "images.json").write_text((folder / "images.json").read_text())
    return folders


def _print(result: dict, metrics: tuple[str, ...]) -> None:
    print("| variant | " + " | ".join(metrics) + " |")
    print("| --- " * (len(metrics) + 1) + "|")
    for pair in result["comparisons"]:
        rows = {row["metric"]: row for row in pair["differences"]}
        cells = []
        for metric in metrics:
            row = rows[metric]
            low, high = row["interval"] or (float("nan"), float("nan"))
            cells.append(
                f"{row['first']:.3f} to {row['second']:.3f}: {row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
            )
        print(f"| {pair['second']} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
