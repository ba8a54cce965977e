"""What edits and packed bytes of very many objects cost: milliseconds of the clock and of the processor.

Objects are ellipses of some 21 runs on a grid with jitter. Memory stays below 3 GB with a million. Usage: python
benchmarks/serve_objects.py [NUMBER OF OBJECTS]
"""

import gzip
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from manymask.core import Category, Instances, RunLengths
from manymask.serve.changes import Filter
from manymask.serve.objects import ImageObjects

PITCH = 40


def make_instances(num_objects, random):
    """Ellipses in columns, and the middle of each."""
    side = int(np.ceil(np.sqrt(num_objects)))
    size = (side * PITCH, side * PITCH)
    x, y = (place * PITCH + PITCH // 2 + random.integers(-6, 7, num_objects) for place in divmod_places(num_objects))
    across, down = random.integers(8, 13, (2, num_objects))
    owner = np.repeat(np.arange(num_objects), 2 * across + 1)
    first = np.cumsum(2 * across + 1) - (2 * across + 1)
    step = np.arange(len(owner)) - (first + across)[owner]
    half = np.floor(down[owner] * np.sqrt(1 - (step / (across[owner] + 0.5)) ** 2)).astype(np.int64)
    start = (x[owner] + step) * size[0] + y[owner] - half
    runs = RunLengths(size, num_objects, owner, start, 2 * half + 1)
    scores = random.random(num_objects).astype(np.float32)
    return Instances.from_runs(runs, np.ones(num_objects, dtype=np.int64), scores=scores), x.tolist(), y.tolist()


def divmod_places(num_objects):
    return np.divmod(np.arange(num_objects), int(np.ceil(np.sqrt(num_objects))))


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
        block = measure("block", lambda: objects.pack_block(1, 1))
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
    packed = len(gzip.compress(block, 6))
    print(f"table {len(table) / 1e6:.1f} MB; peak {peak:.0f} MB")
    print(f"a block: {number} objects of {len(block) / number:.1f} bytes, with gzip {packed / number:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
