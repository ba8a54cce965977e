"""Prediction by Ray's workers against single processes, of one thread each.

python benchmarks/workers.py DATA [--number 60] [--side 8000] [--turns 2]: DATA/images/*.png and a mosaic of them are
predicted by one process, by two processes at a time with half of the images each, and by Ray with two workers. Prints
the seconds and the processor seconds of all processes, and whether the first and the last wrote the same bytes.
``--model threshold`` is the stand-in of tiles.py; ``--side 0`` leaves the mosaic out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from tiles import load, make_mosaic, write_tiff

from manymask.prediction import predict_files

FORMATS = ["coco", "labels", "geojson", "imagej", "csv", "overlay"]


def start(model, images, output, *options):
    command = [sys.executable, __file__, "--write", str(output), "--model", model, *options, *map(str, images)]
    # Ray's processes can be cut off from the one that started them; they are known by this.
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "MANYMASK_TURN": str(output)})


def measure(processes, output):
    """Seconds and processor seconds until all have ended, with those of the processes that they start."""
    started, seconds = time.perf_counter(), {}
    while any(process.poll() is None for process in processes):
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("MANYMASK_TURN", "").startswith(str(output)):
                    seconds[process.pid] = sum(process.cpu_times()[:2])
        time.sleep(0.25)
    if any(process.returncode for process in processes):
        sys.exit("a run failed")
    return time.perf_counter() - started, sum(seconds.values())


def read_all(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--side", type=int, default=8000)
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.write:
        workers = {"engine": "ray", "num_workers": 2} if arguments.engine == "ray" else {}
        predict_files(load(arguments.model), arguments.images, arguments.write, formats=FORMATS, **workers)
        return
    (data,) = arguments.images
    images = sorted((data / "images").glob("*.png"))[: arguments.number]
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        if arguments.side:
            part, _ = make_mosaic(data, [image.stem for image in images], 1024)
            write_tiff(place / "large.tif", part, arguments.side, arguments.side)
            images.append(place / "large.tif")
        for turn in range(arguments.turns):
            one, two, ray = (place / f"{name}{turn}" for name in ("one", "two", "ray"))
            ways = {
                "one process": lambda one=one: [start(arguments.model, images, one)],
                "two processes": lambda two=two: [
                    start(arguments.model, images[half::2], two / str(half)) for half in (0, 1)
                ],
                "Ray, two workers": lambda ray=ray: [start(arguments.model, images, ray, "--engine", "ray")],
            }
            for (name, begin), output in zip(ways.items(), (one, two, ray), strict=True):
                seconds, used = measure(begin(), output)
                print(f"{len(images)} images, {name}: {seconds:.1f} s, {used:.1f} processor seconds", flush=True)
            print("the same bytes" if read_all(one) == read_all(ray) else "DIFFERENT", len(read_all(one)), flush=True)


if __name__ == "__main__":
    main()
