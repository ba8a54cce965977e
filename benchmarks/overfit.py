"""Whether the network can learn a few crowded images by heart; where not, which part of it stands in the way.

``python benchmarks/overfit.py DATA OUTPUT [--weights nuclei] [--steps 400] [--set NAME=VALUE ...]``: DATA holds
images/ID.png, labels/ID.png and fluorescence.txt, histology.txt, as for ``scripts/split_dsb2018``. Of both kinds the
four images with the most nuclei are trained on, as in the second run of ``scripts/make_nuclei`` but unchanged.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from manymask.formats import read_dataset
from manymask.metrics.stages import StageShares, format_shares
from manymask.modeling.device import choose_device
from manymask.training import train
from manymask.training.diagnosis import diagnose_model

KINDS, IMAGES_OF_A_KIND, LONGEST_SIDE = ("fluorescence", "histology"), 4, 400
VALIDATIONS = 4
# What a network that can learn the images by heart reaches on all of them.
GOALS = {"true_boxes_scored": 0.98, "AP50": 0.95}
SETTINGS = {
    "architecture": "maskrcnn_compact",
    "anchor_sizes": "8,16,32,64,128",
    "roi_samples": 192,
    "scale": 1.5,
    "crop_size": 192,
    "batch_size": 4,
    "learning_rate": 0.0004,
    "sampling": "uniform",
    "augmentation": "none",
    "scale_jitter": 0,
    "intensity_jitter": 0,
    "epochs": VALIDATIONS,
    "num_workers": 0,
}


def main():
    """Train, and print what is found of the images that were trained on, and whether the goals are reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", default="nuclei")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    images = link_images(arguments.data, arguments.output / "images")
    settings = SETTINGS | {"weights": arguments.weights, "epoch_steps": arguments.steps // VALIDATIONS}
    settings |= dict(text.split("=", 1) for text in arguments.set)
    run = train(images / "all", val=images / "all", output=arguments.output / "run", settings=settings)
    datasets = {kind: read_dataset(images / kind) for kind in ("all", *KINDS)}
    diagnosis = diagnose_model(run / "last.ckpt", datasets, choose_device("auto"))
    print(format_shares(diagnosis))
    for name, goal in GOALS.items():
        found = getattr(diagnosis["all"], name)
        print(
            f"{StageShares.model_fields[name].description}: {found:.3f}, goal {goal}: "
            f"{'reached' if found >= goal else 'missed'}"
        )


def link_images(data: Path, output: Path) -> Path:
    """Link the chosen images into folders of their kind and one of all."""
    for kind in KINDS:
        counts = []
        for name in (data / f"{kind}.txt").read_text().split():
            labels = np.asarray(Image.open(data / "labels" / f"{name}.png"))
            if max(labels.shape) <= LONGEST_SIDE:
                counts.append((len(np.unique(labels)), name))
        for _, name in sorted(counts, reverse=True)[:IMAGES_OF_A_KIND]:
            for target in (output / kind, output / "all"):
                for folder in ("images", "labels"):
                    (target / folder).mkdir(parents=True, exist_ok=True)
                    (target / folder / f"{kind}-{name}.png").symlink_to((data / folder / f"{name}.png").resolve())
    return output


if __name__ == "__main__":
    main()
