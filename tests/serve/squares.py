"""Squares as objects of an image, and what the page is told of them."""

import numpy as np

from manymask.core import Instances, encode_crops
from manymask.serve.table import DELETED
from tests.serve.edited import make_objects
from tests.serve.packed import read_block, read_table


def make_squares(folder, places=((10, 10), (30, 10), (50, 10)), side=10, size=(100, 120)):
    """Squares of a side at (x, y), ids 1, 2 .."""
    runs = encode_crops([(x, y, np.ones((side, side), dtype=bool)) for x, y in places], size)
    return make_objects(folder, Instances.from_runs(runs, np.ones(len(places), dtype=np.int64)))


def square(x, y, width, height):
    return {(column, row) for column in range(x, x + width) for row in range(y, y + height)}


def strips(x, y, width, height):
    return [[column, y, height] for column in range(x, x + width)]


def read_pixels(objects):
    """The pixels of each object that is shown, by its id."""
    _, table = read_table(objects.pack_table())
    shown = {each for each, flags in zip(table["id"], table["flags"], strict=True) if not flags & DELETED}
    down, across = (-(-side // 2048) for side in objects.size)
    blocks = [read_block(objects.pack_block(x, y)) for y in range(down) for x in range(across)]
    return {each: pixels for block in blocks for each, _, pixels in block if each in shown}


def read_flags(objects):
    _, table = read_table(objects.pack_table())
    return dict(zip(table["id"], table["flags"], strict=True))


def same(a, b):
    return all(
        np.array_equal(one, other)
        for one, other in (
            (a.runs.owner, b.runs.owner), (a.runs.start, b.runs.start), (a.runs.length, b.runs.length),
            (a.labels, b.labels), (a.scores, b.scores),
        )
    )  # fmt: skip
