"""Many objects through each writer alone: seconds, megabytes of memory above the predictions' own, and of the file.

Objects are disks of some 100 pixels on a grid, on an image that is made up window by window. Each writer runs in a
process of its own. Usage: python benchmarks/outputs.py [NUMBER OF OBJECTS]
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from manymask.core import Category, ImageSource, Instances, RunLengths
from manymask.outputs import OUTPUTS, ImageEntry, close_writers

PITCH = 16
CATEGORIES = (Category(1, "a"), Category(2, "b"))


class Gradient(ImageSource):
    """An image of three channels of 8 bits without content, whose windows take no time to read."""

    pixel_size = (0.25, 0.25)

    def __init__(self, size):
        self.size, self.num_channels, self.dtype = size, 3, np.dtype(np.uint8)

    @property
    def level_sizes(self):
        return (self.size,)

    def read(self, window=None, level=0):
        _, left, height, width = self._locate(window, level)
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels += (np.arange(left, left + width) % 251).astype(np.uint8)[:, None]
        return pixels


def make_instances(num_objects):
    """Disks in columns, so that runs are made in order."""
    side = int(np.ceil(np.sqrt(num_objects)))
    height = side * PITCH
    half_heights = np.array([3, 4, 5, 5, 6, 6, 6, 5, 5, 4, 3])  # 104 pixels
    place = np.arange(num_objects)
    left, middle = place // side * PITCH + 2, place % side * PITCH + PITCH // 2
    columns = left[:, None] + np.arange(len(half_heights))
    starts = columns * height + middle[:, None] - half_heights
    owner = np.repeat(place, len(half_heights))
    lengths = np.tile(2 * half_heights, num_objects)
    runs = RunLengths((height, height), num_objects, owner, starts.ravel(), lengths)
    scores = np.linspace(1, 0.5, num_objects, dtype=np.float32)
    return Instances.from_runs(runs, place % 2 + 1, scores=scores)


def get_peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name, num_objects):
    """A row of the table."""
    instances = make_instances(num_objects)
    OUTPUTS[name].check()
    image = ImageEntry(1, "slide", "slide.tif", Gradient(instances.size))
    with tempfile.TemporaryDirectory() as folder:
        before, began, used = get_peak_mb(), time.monotonic(), time.process_time()
        with close_writers([writer := OUTPUTS[name](Path(folder), ["slide"], CATEGORIES, 0.5)]):
            writer.write(image, instances)
        seconds, used = time.monotonic() - began, time.process_time() - used
        written = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print(f"| {name} | {used:.1f} | {seconds:.1f} | {get_peak_mb() - before:.0f} | {written / 1e6:.1f} |", flush=True)


def main():
    """Print a table."""
    if len(sys.argv) > 2:
        measure(sys.argv[2], int(sys.argv[1]))
        return
    num_objects = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(
        "| writer | processor seconds | seconds | MB of memory | MB written |\n| --- | --- | --- | --- | --- |",
        flush=True,
    )
    for name in OUTPUTS:
        subprocess.run([sys.executable, __file__, str(num_objects), name], check=True)


if __name__ == "__main__":
    main()
