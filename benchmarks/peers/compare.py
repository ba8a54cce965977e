"""manymask and its peers on the same images: what each finds, and in what time, on one thread.

    python benchmarks/peers/compare.py DATA train      # each from random weights; goes on where it was stopped
    python benchmarks/peers/compare.py DATA predict    # all in turn, image by image; scores; the tables

DATA has train/, val/ and test/, each with images/ and labels/, as scripts/split_dsb2018 makes them. Peers run in their
own environment (README.md).
"""

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from PIL import Image  # noqa: E402
from turns import Worker  # noqa: E402

NAMES = ("stardist", "manymask", "yolo26n-seg", "yolo26s-seg")
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NUMBA_NUM_THREADS"), "1"),
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
SECONDS_AN_IMAGE = 300
SCORES = [("ap_t", "pooled", "0.50"), ("ap_t", "pooled", "0.75"), ("ap_t", "pooled", "0.90"), ("detection", "F1")]


def choose_python(name, arguments):
    return sys.executable if name == "manymask" else str(arguments.peers_python)


def train(arguments):
    """Train those that are not trained yet, one after the other."""
    for name in NAMES:
        done, folder = arguments.runs / f"{name}.json", arguments.runs / name
        if done.exists():
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [choose_python(name, arguments), HERE / "models.py", "train", name, arguments.data, folder]
        with open(arguments.runs / f"{name}.log", "w") as log:
            subprocess.run(
                [*map(str, command), str(arguments.minutes)],
                env={**os.environ, **ONE_THREAD}, stdout=log, stderr=subprocess.STDOUT, check=True,
            )  # fmt: skip
        done.write_text(json.dumps({"minutes": arguments.minutes}))
        print(f"{name} is trained", flush=True)


def predict(arguments):
    """Predict all test images, one image by each in turn, and score the labels that come out."""
    sources = {name: (name, arguments.runs / name) for name in NAMES if (arguments.runs / f"{name}.json").exists()}
    sources["nuclei"] = ("manymask", "nuclei")
    sources |= {row: ("manymask", source) for row, source in (also.split("=", 1) for also in arguments.also)}
    workers = {}
    for row, (name, source) in sources.items():
        output = arguments.runs / "found" / row
        output.mkdir(parents=True, exist_ok=True)
        command = [choose_python(name, arguments), HERE / "models.py", "predict", name, source, output]
        workers[row] = Worker([str(word) for word in command], ONE_THREAD)
    images = sorted((arguments.data / "test" / "images").iterdir())
    order = random.Random(0)
    for worker in workers.values():  # not counted: the first prediction is slower
        worker.ask(str(images[0]), SECONDS_AN_IMAGE)
    answers = {row: [] for row in workers}
    for image in images:
        for row in order.sample(sorted(workers), len(workers)):
            answers[row].append(workers[row].ask(str(image), SECONDS_AN_IMAGE))
        if failed := {row: worker.failure for row, worker in workers.items() if worker.failure}:
            sys.exit(f"failed at {image}: {failed}")
        print(image.name, {row: round(own[-1]["seconds"], 2) for row, own in answers.items()}, flush=True)
    for worker in workers.values():
        worker.close()
    report(arguments, images, answers)


def report(arguments, images, answers):
    """Print the table, as Markdown."""
    import manymask

    test = arguments.data / "test"
    sizes = [Image.open(image).size for image in images]
    megapixels = sum(width * height for width, height in sizes) / 1e6
    print(f"\n{len(images)} images, {megapixels:.1f} megapixels, one thread; without the first prediction of each\n")
    print("| | seconds | seconds a megapixel | peak memory, MiB | AP(0.5) | AP(0.75) | AP(0.9) | F1 | found |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row, own in answers.items():
        scores = manymask.evaluate(
            arguments.runs / "found" / row, test, output=arguments.runs / "scores" / row, draws=0
        )
        seconds = sum(answer["seconds"] for answer in own)
        cells = [f"{seconds:.1f}", f"{seconds / megapixels:.2f}", f"{max(answer['peak_mib'] for answer in own):,.0f}"]
        for path in SCORES:
            interval = scores.get_interval(path)  # none where all values are equal
            cells.append(
                f"{scores.get_value(path):.3f}" + (" ({:.3f} to {:.3f})".format(*interval) if interval else "")
            )
        cells.append(f"{sum(answer['found'] for answer in own):,}")
        print("|", " | ".join([row, *cells]), "|")
    print(f"\nLabelled: {scores.detection.TP + scores.detection.FN:,} objects.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("mode", choices=("train", "predict"))
    parser.add_argument("--runs", type=Path, default=Path("runs/peers"), help="where the trained models are")
    parser.add_argument("--minutes", type=float, default=20, help="of the processor, for each training")
    parser.add_argument("--peers-python", type=Path, default=Path(".venv-peers/bin/python"))
    parser.add_argument(
        "--also", action="append", default=[], metavar="ROW=SOURCE",
        help="one more row: any model that manymask loads, such as an exported folder",
    )  # fmt: skip
    arguments = parser.parse_args()
    {"train": train, "predict": predict}[arguments.mode](arguments)


if __name__ == "__main__":
    main()
