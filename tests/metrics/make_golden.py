"""Write golden.json: what StarDist 0.9.2 and Cellpose 4.2.1.1 say about the label images of label_cases.py.

python -m pip install stardist==0.9.2 cellpose==4.2.1.1    # no TensorFlow comes with them
python -m tests.metrics.make_golden                     # from the project's root
"""

import json
from pathlib import Path

import numpy as np

from tests.metrics.label_cases import LABEL_CASES, Pair, hash_pairs

GOLDEN = Path(__file__).with_name("golden.json")
THRESHOLDS = [round(0.5 + 0.05 * step, 2) for step in range(10)]
STARDIST_NAMES = {
    "pooled": ("tp", "fp", "fn", "precision", "recall", "f1", "accuracy", "panoptic_quality", "mean_matched_score"),
    "per_image": ("accuracy",),
}


def run_stardist(pairs: list[Pair]) -> dict[str, dict[str, list[float]]]:
    """Every number at each threshold, of all images together and as the mean over images."""
    from stardist.matching import matching_dataset  # pyright: ignore[reportMissingImports]

    truths, predictions = zip(*pairs, strict=True)
    result = {}
    for name, keys in STARDIST_NAMES.items():
        rows = matching_dataset(
            truths, predictions, thresh=THRESHOLDS, by_image=name == "per_image", show_progress=False
        )
        result[name] = {key: [float(getattr(row, key)) for row in rows] for key in keys}
    return result


def run_cellpose(pairs: list[Pair]) -> dict[str, list]:
    """Of each image AP at each threshold, and AJI; None where there is neither instance nor prediction."""
    from cellpose.metrics import (  # pyright: ignore[reportMissingImports]
        aggregated_jaccard_index,
        average_precision,
    )

    truths, predictions = (list(column) for column in zip(*pairs, strict=True))
    with np.errstate(invalid="ignore"):
        precision = average_precision(truths, predictions, threshold=THRESHOLDS)[0].astype(float)
        aji = aggregated_jaccard_index(truths, predictions)
    return {
        "ap": [None if np.isnan(row[0]) else row.tolist() for row in precision],
        "aji": [None if np.isnan(value) else float(value) for value in aji],
    }


def main() -> None:
    """Run both on every case."""
    rows = {
        name: {"hash": hash_pairs(pairs), "stardist": run_stardist(pairs), "cellpose": run_cellpose(pairs)}
        for name, pairs in LABEL_CASES.items()
    }
    rounded = json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 7))
    lines = (f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rounded.items())
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
