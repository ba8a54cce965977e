
import numpy as np

from manymask.core import Instances, encode_crops
from manymask.serve.objects import ImageObjects
from manymask.serve.table import BORDER, DELETED
from tests.serve.edited import edit_at_random, make_instances, make_objects, pack_all
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


def test_what_the_page_gets_are_the_predictions(tmp_path):
    instances = make_instances()
    objects = make_objects(tmp_path, instances)
    (number, revision, shift), table = read_table(objects.pack_table())
    assert (number, revision, shift) == (60, objects.revision, 0)
    assert table["id"] == list(range(1, 61))
    assert table["class"] == (instances.labels - 1).tolist()
    assert np.allclose(np.array(table["score"]) / 65535, instances.scores, atol=1e-5)
    assert table["area"] == instances.runs.areas.tolist()
    pixels = read_pixels(objects)
    for place, mask in enumerate(instances.to_masks()):
        rows, columns = np.nonzero(mask)
        assert pixels[place + 1] == set(zip(columns.tolist(), rows.tolist(), strict=True))
        assert table["x"][place] == (columns.min() + columns.max() + 1) // 2
        assert table["y"][place] == (rows.min() + rows.max() + 1) // 2
        at_border = rows.min() == 0 or columns.min() == 0 or rows.max() == 219 or columns.max() == 299
        assert bool(table["flags"][place] & BORDER) == at_border


def test_objects_of_one_layer_share_no_pixels(tmp_path):
    objects = make_objects(tmp_path)
    edit_at_random(objects, np.random.default_rng(3), 60)
    flags = read_flags(objects)
    owners = {}
    for each, layer, pixels in read_block(objects.pack_block(0, 0)):
        if flags[each] & DELETED:
            continue
        for pixel in pixels:
            assert owners.setdefault((layer, pixel), each) == each


def test_edits_then_undo_gives_equal_bytes(tmp_path):
    objects = make_objects(tmp_path)
    before, instances = pack_all(objects), objects.to_instances()
    edit_at_random(objects, np.random.default_rng(0), 150)
    assert pack_all(objects) != before
    edited = pack_all(objects)
    assert pack_all(ImageObjects.open(tmp_path)) == edited
    num_undone = 0
    while objects.can_undo:
        objects.undo("u")
        num_undone += 1
    assert pack_all(objects) == before
    assert objects.num_edited == 0
    assert same(objects.to_instances(), instances)
    reopened = ImageObjects.open(tmp_path)
    assert reopened.revision == objects.revision
    for _ in range(num_undone):
        reopened.redo("u")
    assert pack_all(reopened) == edited


def same(a, b):
    return all(
        np.array_equal(one, other)
        for one, other in (
            (a.runs.owner, b.runs.owner), (a.runs.start, b.runs.start), (a.runs.length, b.runs.length),
            (a.labels, b.labels), (a.scores, b.scores),
        )
    )  # fmt: skip
