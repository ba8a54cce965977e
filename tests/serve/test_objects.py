"""The objects of an image as the page gets them: their bytes, versions and filter."""

import json
from threading import Thread

import numpy as np
import pytest

from manymask.core import Category, Instances, RunLengths, encode_crops
from manymask.errors import DatasetError, ManymaskError
from manymask.serve.changes import Filter
from manymask.serve.errors import Conflict, EditError
from manymask.serve.objects import ImageObjects
from manymask.serve.table import BORDER, DELETED, ODD_SIZE
from tests.serve.edited import CATEGORIES, edit_at_random, make_edit, make_instances, make_objects, pack_all
from tests.serve.packed import read_block, read_table
from tests.serve.squares import make_squares, read_flags, read_pixels, square, strips


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


def test_objects_of_unusual_size_are_flagged(tmp_path):
    crops = [(x, 1, np.ones((5, 5), dtype=bool)) for x in range(0, 300, 10)]
    crops.append((1, 20, np.ones((60, 60), dtype=bool)))
    runs = encode_crops(crops, (100, 400))
    objects = make_objects(tmp_path, Instances.from_runs(runs, np.ones(31, dtype=np.int64)))
    assert [each for each, flags in read_flags(objects).items() if flags & ODD_SIZE] == [31]
    objects.edit({"op": "erase", "id": 31, "runs": strips(0, 25, 400, 70)}, None, "ann")
    objects.edit({"op": "erase", "id": 31, "runs": strips(6, 0, 400, 100)}, None, "ann")
    assert not read_flags(objects)[31] & ODD_SIZE


def test_predictions_come_tile_by_tile_and_are_replaced(tmp_path):
    objects = ImageObjects.create(tmp_path, (3000, 5000), CATEGORIES, "model")
    one = np.ones((6, 6), dtype=bool)
    part = Instances.from_runs(encode_crops([(10, 10, one), (4500, 2500, one)], (3000, 5000)), np.array([1, 2]))
    assert objects.add_predictions(part) == [(0, 0), (2, 1)]
    assert objects.add_predictions(part[np.array([0])]) == [(0, 0)]
    assert [layer for _, layer, _ in read_block(objects.pack_block(0, 0))] == [0, 1]
    with pytest.raises(EditError, match="still being found"):
        objects.edit({"op": "delete", "ids": [1]}, None, "ann")
    with pytest.raises(DatasetError, match="no version"):
        ImageObjects.open(tmp_path)
    revision = objects.revision
    objects.finish_predictions(part[np.array([1])])
    assert objects.revision > revision
    assert read_block(objects.pack_block(0, 0)) == []
    assert [each for each, _, _ in read_block(objects.pack_block(2, 1))] == [1]
    assert pack_all(ImageObjects.open(tmp_path)) == pack_all(objects)
    with pytest.raises(ValueError, match="complete"):
        objects.add_predictions(part)


def test_cancelled_predictions_keep_what_was_found(tmp_path):
    objects = ImageObjects.create(tmp_path, (220, 300), CATEGORIES, "model")
    objects.add_predictions(make_instances())
    objects.finish_predictions(None)
    assert ImageObjects.open(tmp_path).num_objects == 60


def test_a_new_version_leaves_the_old_one_and_its_edits(tmp_path):
    old = make_squares(tmp_path)
    old.edit({"op": "delete", "ids": [1]}, None, "ann")
    files = {path: path.read_bytes() for path in (tmp_path / "versions").rglob("*") if path.is_file()}
    new = make_objects(tmp_path, make_instances())
    assert new.revision > old.revision
    new.edit({"op": "delete", "ids": [2]}, None, "ann")
    assert {path: path.read_bytes() for path in files} == files
    assert ImageObjects.open(tmp_path, 1).select().ids.tolist() == [2, 3]
    assert ImageObjects.open(tmp_path).select().ids.tolist() == [1, *range(3, 61)]


def test_revisions_of_versions_without_edits_differ(tmp_path):
    old, new = make_objects(tmp_path, make_instances()), make_objects(tmp_path, make_instances())
    assert new.revision > old.revision


def test_an_image_without_objects(tmp_path):
    objects = make_objects(tmp_path, Instances.from_runs(RunLengths.empty((5, 5)), np.zeros(0, dtype=np.int64)))
    assert len(objects.to_instances()) == 0
    assert read_table(objects.pack_table())[0][0] == 0
    assert read_block(objects.pack_block(0, 0)) == []
    objects.edit({"op": "draw", "class": 1, "runs": [[0, 0, 5]]}, None, "ann")
    assert read_pixels(objects) == {1: square(0, 0, 1, 5)}
    with pytest.raises(IndexError, match="no block"):
        objects.pack_block(1, 0)


def test_too_many_classes_are_refused(tmp_path):
    categories = [Category(number, f"c{number}") for number in range(1, 258)]
    with pytest.raises(ManymaskError, match="257 classes"):
        ImageObjects.create(tmp_path, (5, 5), categories, "model")


@pytest.mark.parametrize(
    ("size", "places", "wide"),
    [
        ((300, 300), [(5, 5, 130, 2)], 1),
        ((300, 300), [(5, 5, 120, 2)], 0),
        ((70_000, 3), [(0, 5, 69_000, 2)], 2),
    ],
)
def test_tall_objects_take_wider_numbers(tmp_path, size, places, wide):
    runs = encode_crops([(x, y, np.ones((height, width), dtype=bool)) for x, y, height, width in places], size)
    objects = make_objects(tmp_path, Instances.from_runs(runs, np.ones(len(places), dtype=np.int64)))
    y = (places[0][1] * 2 + places[0][2]) // 2 // 2048
    content = objects.pack_block(0, y)
    assert content[8] == wide
    ((_, _, pixels),) = read_block(content)
    x, top, height, width = places[0]
    assert pixels == square(x, top, width, height)


def test_large_images_shift_their_middles(tmp_path):
    size = (10, 200_000)
    runs = encode_crops([(150_000, 2, np.ones((4, 4), dtype=bool))], size)
    objects = make_objects(tmp_path, Instances.from_runs(runs, np.ones(1, dtype=np.int64)))
    (_, _, shift), table = read_table(objects.pack_table())
    assert shift == 2
    assert table["x"] == [150_002 >> 2]


def test_filter(tmp_path):
    objects = make_objects(tmp_path)
    objects.edit({"op": "class", "ids": [5], "value": 7}, None, "ann")
    _, table = read_table(objects.pack_table())

    def count(**values):
        return len(objects.to_instances(Filter(**values)))

    assert count() == 60
    assert count(min_score=0.5) == sum(score >= round(0.5 * 65535) for score in table["score"])
    assert count(max_score=0.5) == 60 - sum(score > round(0.5 * 65535) for score in table["score"])
    for end in sorted(table["score"])[20:40]:  # exactly as the page sends them
        assert count(min_score=end / 65535) == sum(score >= end for score in table["score"])
        assert count(min_score=(end + 1) / 65535) == sum(score >= end + 1 for score in table["score"])
        assert count(max_score=(end - 1) / 65535) == sum(score <= end - 1 for score in table["score"])
    assert count(min_area=50.0, max_area=200.0) == sum(50 <= area <= 200 for area in table["area"])
    assert count(classes=[7]) == table["class"].count(1)
    assert count(classes=[99]) == 0
    assert count(edited_only=True) == 1
    assert count(border=True) == sum(flags & BORDER for flags in table["flags"])
    assert count(border=True) + count(border=False) == 60
    assert 0 < count(odd_only=True) == sum(flags & ODD_SIZE > 0 for flags in table["flags"])


def test_many_threads_at_once(tmp_path):
    objects = make_objects(tmp_path)
    before, problems = pack_all(objects), []

    def look():
        for _ in range(20):
            header, table = read_table(objects.pack_table())
            assert len(table["id"]) == header[0]
            read_block(objects.pack_block(0, 0))
            objects.to_instances()

    def act(seed):
        random = np.random.default_rng(seed)
        for _ in range(20):
            try:
                objects.edit(make_edit(random, objects), objects.revision, f"user {seed}")
            except (EditError, Conflict):
                continue

    def note(target, *arguments):
        try:
            target(*arguments)
        except BaseException as error:
            problems.append(error)

    threads = [Thread(target=note, args=(act, seed)) for seed in range(3)] + [Thread(target=note, args=(look,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    revisions = [json.loads(line)["revision"] for line in (tmp_path / "edits.jsonl").read_text().splitlines()]
    assert revisions == list(range(revisions[0], revisions[0] + len(revisions)))
    assert pack_all(ImageObjects.open(tmp_path)) == pack_all(objects)
    while objects.can_undo:
        objects.undo("u")
    assert pack_all(objects) == before
