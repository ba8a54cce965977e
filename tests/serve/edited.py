"""An image with many objects, and people who edit it at random."""

import numpy as np

from manymask.core import Category, Instances, encode_crops
from manymask.serve.errors import EditError
from manymask.serve.objects import ImageObjects

CATEGORIES = (Category(1, "nucleus"), Category(7, "cell"))


def make_instances(seed=0, number=60, size=(220, 300)):
    """Ellipses of which some overlap, by falling score."""
    random = np.random.default_rng(seed)
    crops = []
    for _ in range(number):
        height, width = random.integers(2, 30, 2)
        y, x = np.mgrid[:height, :width]
        crop = ((y + 0.5) / height * 2 - 1) ** 2 + ((x + 0.5) / width * 2 - 1) ** 2 <= 1
        crops.append((int(random.integers(0, size[1] - width)), int(random.integers(0, size[0] - height)), crop))
    scores = np.sort(random.random(number).astype(np.float32))[::-1].copy()
    return Instances.from_runs(encode_crops(crops, size), random.integers(1, 3, number), scores=scores)


def make_objects(folder, instances=None):
    """Complete predictions in a folder."""
    instances = make_instances() if instances is None else instances
    objects = ImageObjects.create(folder, instances.size, CATEGORIES, "model")
    objects.finish_predictions(instances)
    return objects


def make_edit(random, objects):
    """An edit that may be possible, of any kind."""
    highest = objects._state.next_id - 1
    height, width = objects.size
    ids = [int(each) for each in random.choice(np.arange(1, highest + 1), random.integers(1, 4), replace=False)]
    x, y = int(random.integers(-5, width)), int(random.integers(-5, height))
    runs = [
        [x + k, y + int(random.integers(-2, 3)), int(random.integers(1, 25))] for k in range(random.integers(1, 20))
    ]
    left, top, right, bottom = objects._state.gather_masks(ids[:1]).boxes[0].tolist()
    strips = [[int(left) + k, int(top), int(random.integers(1, 15))] for k in range(random.integers(1, 12))]
    across = float(random.uniform(left, right))
    stroke = [[across, top - 2], [float(random.uniform(left, right)), bottom + 2]]
    op = str(random.choice(["delete", "restore", "class", "merge", "split", "draw", "paint", "erase", "accept"]))
    return {"op": op} | {
        "class": {"ids": ids, "value": int(random.choice([1, 7]))},
        "split": {"id": ids[0], "stroke": stroke},
        "draw": {"class": int(random.choice([1, 7])), "runs": runs},
        "paint": {"id": ids[0], "runs": strips},
        "erase": {"id": ids[0], "runs": strips},
    }.get(op, {"ids": ids})


def edit_at_random(objects, random, number, undone=0.15):
    """Do so many acts, of which a share undoes or does again; edits that cannot be made are left out."""
    done = 0
    while done < number:
        act = random.random()
        try:
            if act < undone:
                objects.undo("u") if act < undone * 2 / 3 else objects.redo("u")
            elif act < undone + 0.1:
                objects.edit([make_edit(random, objects) for _ in range(2)], objects.revision, "u")
            else:
                objects.edit(make_edit(random, objects), objects.revision, "u")
        except EditError:
            continue
        done += 1


def pack_all(objects):
    """All bytes that the page gets, but for the revision."""
    table = objects.pack_table()
    down, across = (-(-side // 2048) for side in objects.size)
    blocks = [objects.pack_block(x, y) for y in range(down) for x in range(across)]
    return [table[:8] + table[12:], *blocks]
