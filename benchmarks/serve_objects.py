"""What edits and packed bytes of very many objects cost: milliseconds of the clock and of the processor.

Objects are ellipses of some 21 runs on a grid with jitter. Memory stays below 3 GB with a million. Of a labelled data
set, only the bytes of the 12 images with the most objects. Usage: python benchmarks/serve_objects.py [NUMBER OF OBJECTS
or DATA SET]
"""

import gzip
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from manymask.core import Category, Instances, RunLengths
from manymask.formats import read_dataset
from manymask.serve.changes import Filter
from manymask.serve.objects import ImageObjects

PITCH = 40


def make_instances(num_objects, random):
    """Ellipses in columns, and the middle of each."""
    side = int(np.ceil(np.sqrt(num_objects)))
    size = (side * PITCH, side * PITCH)
    cells = np.divmod(np.arange(num_objects), side)
    x, y = (cell * PITCH + PITCH // 2 + random.integers(-6, 7, num_objects) for cell in cells)
    across, down = random.integers(8, 13, (2, num_objects))
    owner = np.repeat(np.arange(num_objects), 2 * across + 1)
    first = np.cumsum(2 * across + 1) - (2 * across + 1)
    step = np.arange(len(owner)) - (first + across)[owner]
    half = np.floor(down[owner] * np.sqrt(1 - (step / (across[owner] + 0.5)) ** 2)).astype(np.int64)
    start = (x[owner] + step) * size[0] + y[owner] - half
    runs = RunLengths(size, num_objects, owner, start, 2 * half + 1)
    scores = random.random(num_objects).astype(np.float32)
    return Instances.from_runs(runs, np.ones(num_objects, dtype=np.int64), scores=scores), x.tolist(), y.tolist()


def measure(name, act):
    begin, processor = time.perf_counter(), time.process_time()
    result = act()
    spent = (time.perf_counter() - begin, time.process_time() - processor)
    print(f"| {name} | {spent[0] * 1e3:.1f} | {spent[1] * 1e3:.1f} |", flush=True)
    return result


def main(num_objects):
    random = np.random.default_rng(0)
    instances, x, y = make_instances(num_objects, random)
    print("| act | wall ms | processor ms |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        objects = ImageObjects.create(Path(folder), instances.size, [Category(1, "a"), Category(2, "b")], "model")
        measure("write the predictions", lambda: objects.finish_predictions(instances))
        del instances
        objects = measure("open", lambda: ImageObjects.open(Path(folder)))
        table = measure("table", objects.pack_table)
        block = measure("block", lambda: objects.pack_block(0, 0))
        measure("numbers of objects, edited and unsure ones", lambda: (objects.num_objects, objects.num_unsure))
        for repeat in ("first", "second"):
            own = int(random.integers(num_objects // 4, num_objects // 2))
            cut = [[x[own + 4] - 20, y[own + 4]], [x[own + 4] + 20, y[own + 4]]]
            strips = [[x[own] + k, y[own], 20] for k in range(20)]
            edits = [
                {"op": "delete", "ids": [own]},
                {"op": "restore", "ids": [own]},
                {"op": "class", "ids": [own], "value": 2},
                {"op": "merge", "ids": [own + 1, own + 2]},
                {"op": "draw", "class": 1, "runs": strips},
                {"op": "paint", "id": own, "runs": strips},
                {"op": "erase", "id": own, "runs": strips},
                {"op": "split", "id": own + 5, "stroke": cut},
            ]
            for edit in edits:
                measure(f"{edit['op']}, {repeat}", lambda edit=edit: objects.edit(edit, objects.revision, "u"))
            measure(f"undo, {repeat}", lambda: objects.undo("u"))
            measure(f"redo, {repeat}", lambda: objects.redo("u"))
        chosen = objects.select(Filter(max_score=0.1)).ids.tolist()
        measure(f"delete {len(chosen)} at once", lambda: objects.edit({"op": "delete", "ids": chosen}, None, "u"))
        measure("undo that", lambda: objects.undo("u"))
    number = int.from_bytes(block[4:8], "little")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    packed = len(gzip.compress(block, 3))
    print(f"table {len(table) / 1e6:.1f} MB; peak {peak:.0f} MB")
    print(f"a block: {number} objects of {len(block) / number:.1f} bytes, with gzip {packed / number:.1f}")


def pack_dataset(path):
    dataset = read_dataset(path)
    # Label files of many objects are large.
    sizes = [sum(file.stat().st_size for file in record.label_files) for record in dataset.records]
    images = sorted((dataset[int(row)].to_instances() for row in np.argsort(sizes)[-40:]), key=len)[-12:]
    blocks = []
    for instances in images:
        with tempfile.TemporaryDirectory() as folder:
            objects = ImageObjects.create(Path(folder), instances.size, dataset.categories, "labels")
            objects.finish_predictions(instances)
            down, across = (-(-side // 2048) for side in instances.size)
            blocks += [objects.pack_block(x, y) for y in range(down) for x in range(across)]
    number = sum(map(len, images))
    plain, packed = (
        sum(len(pack(block)) for block in blocks) for pack in (bytes, lambda block: gzip.compress(block, 3))
    )
    print(f"{number} objects of {plain / number:.1f} bytes, with gzip {packed / number:.1f}")


if __name__ == "__main__":
    argument = sys.argv[1] if len(sys.argv) > 1 else "1000000"
    main(int(argument)) if argument.isdecimal() else pack_dataset(argument)
