"""What people correct: each act, undo and redo, and the log on the disk."""

import json

import numpy as np
import pytest

from manymask.core import Instances, encode_crops
from manymask.errors import FormatError, ManymaskError
from manymask.serve.errors import Conflict, EditError
from manymask.serve.objects import ImageObjects
from manymask.serve.table import ACCEPTED, BORDER, DELETED, DRAWN, EDITED
from tests.serve.edited import edit_at_random, make_objects, pack_all
from tests.serve.packed import read_block, read_table
from tests.serve.squares import make_squares, read_flags, read_pixels, same, square, strips


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


def test_delete_and_restore(tmp_path):
    objects = make_squares(tmp_path)
    change = objects.edit({"op": "delete", "ids": [1, 3]}, objects.revision, "ann")
    assert (change.removed, change.added, change.changed, change.blocks) == ([1, 3], [], [], [])
    assert change.what == "deleted 2 objects"
    assert set(read_pixels(objects)) == {2}
    assert (objects.num_objects, objects.num_edited) == (1, 2)
    change = objects.edit({"op": "restore", "ids": [3]}, objects.revision, "ann")
    assert change.added == [3]
    assert objects.select().ids.tolist() == [2, 3]
    assert read_flags(objects) == {1: EDITED | DELETED, 2: 0, 3: EDITED}


def test_class(tmp_path):
    objects = make_squares(tmp_path)
    change = objects.edit({"op": "class", "ids": [2], "value": 7}, None, "ann")
    assert change.changed == [2]
    assert change.rows["class"] == [1]
    assert objects.to_instances().labels.tolist() == [1, 2, 1]


def test_merge_gives_all_pixels_to_the_first(tmp_path):
    objects = make_squares(tmp_path)
    change = objects.edit({"op": "merge", "ids": [2, 1]}, None, "ann")
    assert (change.changed, change.removed) == ([2], [1])
    pixels = read_pixels(objects)
    assert pixels == {2: square(10, 10, 10, 10) | square(30, 10, 10, 10), 3: square(50, 10, 10, 10)}


def test_split_loses_no_pixel(tmp_path):
    objects = make_squares(tmp_path)
    change = objects.edit({"op": "split", "id": 1, "stroke": [[13.5, 5], [13.5, 30]]}, None, "ann")
    assert (change.changed, change.added) == ([1], [4])
    pixels = read_pixels(objects)
    assert pixels[1] | pixels[4] == square(10, 10, 10, 10)
    assert not pixels[1] & pixels[4]
    assert len(pixels[1]) == 60 or len(pixels[1]) == 70
    assert objects.to_instances().labels.tolist() == [1, 1, 1, 1]


def test_split_across_loses_no_pixel_and_leaves_no_corner(tmp_path):
    objects = make_squares(tmp_path, places=((10, 10),), side=40)
    objects.edit({"op": "split", "id": 1, "stroke": [[5, 5], [20, 33], [60, 60]]}, None, "ann")
    pixels = read_pixels(objects)
    assert set(pixels) == {1, 2}
    assert pixels[1] | pixels[2] == square(10, 10, 40, 40)
    assert not pixels[1] & pixels[2]
    assert min(map(len, pixels.values())) > 400


@pytest.mark.parametrize("stroke", [[[0, 0], [0, 50]], [[12, 12], [15, 15]], [[0, 12], [15, 12]]])
def test_strokes_that_do_not_cut_are_refused(tmp_path, stroke):
    objects = make_squares(tmp_path)
    before = pack_all(objects)
    with pytest.raises(EditError, match="does not cut"):
        objects.edit({"op": "split", "id": 1, "stroke": stroke}, None, "ann")
    assert pack_all(objects) == before


def test_draw_cuts_at_the_border(tmp_path):
    objects = make_squares(tmp_path)
    runs = [[-1, 3, 5], [0, -4, 7], [1, 98, 9], [119, 0, 1], [120, 5, 5]]
    change = objects.edit({"op": "draw", "class": 7, "runs": runs}, None, "ann")
    assert change.added == [4]
    assert read_pixels(objects)[4] == square(0, 0, 1, 3) | square(1, 98, 1, 2) | {(119, 0)}
    assert read_flags(objects)[4] == BORDER | EDITED | DRAWN
    _, table = read_table(objects.pack_table())
    assert table["score"][3] == 65535
    assert table["class"][3] == 1


def test_what_is_drawn_over_another_is_in_another_layer(tmp_path):
    objects = make_squares(tmp_path)
    objects.edit({"op": "draw", "class": 1, "runs": strips(15, 15, 10, 10)}, None, "ann")
    layers = {each: layer for each, layer, _ in read_block(objects.pack_block(0, 0))}
    assert layers == {1: 0, 2: 0, 3: 0, 4: 1}


def test_restored_object_goes_to_a_free_layer(tmp_path):
    objects = make_squares(tmp_path)
    objects.edit({"op": "delete", "ids": [1]}, None, "ann")
    objects.edit({"op": "draw", "class": 1, "runs": strips(15, 15, 10, 10)}, None, "ann")
    objects.edit({"op": "restore", "ids": [1]}, None, "ann")
    layers = {each: layer for each, layer, _ in read_block(objects.pack_block(0, 0))}
    assert layers == {1: 1, 2: 0, 3: 0, 4: 0}


def test_paint_and_erase(tmp_path):
    objects = make_squares(tmp_path)
    objects.edit({"op": "paint", "id": 1, "runs": strips(15, 15, 10, 10)}, None, "ann")
    assert read_pixels(objects)[1] == square(10, 10, 10, 10) | square(15, 15, 10, 10)
    objects.edit({"op": "erase", "id": 1, "runs": strips(0, 12, 120, 3)}, None, "ann")
    expected = (square(10, 10, 10, 10) | square(15, 15, 10, 10)) - square(0, 12, 120, 3)
    assert read_pixels(objects)[1] == expected
    change = objects.edit({"op": "erase", "id": 1, "runs": strips(0, 0, 120, 100)}, None, "ann")
    assert change.removed == [1]
    objects.undo("ann")
    assert read_pixels(objects)[1] == expected


def test_accepted_objects_are_not_unsure(tmp_path):
    runs = encode_crops([(5, 5, np.ones((4, 4), dtype=bool)), (20, 5, np.ones((4, 4), dtype=bool))], (30, 40))
    scores = np.array([0.9, 0.2], dtype=np.float32)
    objects = make_objects(tmp_path, Instances.from_runs(runs, np.ones(2, dtype=np.int64), scores=scores))
    assert objects.num_unsure == 1
    objects.edit({"op": "accept", "ids": [2]}, None, "ann")
    assert objects.num_unsure == 0
    assert read_flags(objects)[2] == ACCEPTED
    assert objects.num_edited == 0


BAD_EDITS = [
    (None, "expected an edit"),
    ([], "at least one"),
    ({"op": "delete", "ids": [1], "note": float("nan")}, "that JSON has"),
    ({"op": "burn", "ids": [1]}, "there is no edit 'burn'"),
    ({"op": "delete", "ids": []}, "expected ids"),
    ({"op": "delete", "ids": [1.0]}, "expected ids"),
    ({"op": "delete", "ids": [True]}, "expected ids"),
    ({"op": "delete", "ids": "12"}, "expected ids"),
    ({"op": "delete", "ids": [4]}, "no object 4"),
    ({"op": "delete", "ids": [0]}, "no object 0"),
    ({"op": "delete", "ids": [1, 1]}, "twice"),
    ({"op": "restore", "ids": [1]}, "not deleted"),
    ({"op": "class", "ids": [1], "value": 2}, "no class 2"),
    ({"op": "class", "ids": [1], "value": [[]]}, "no class"),
    ({"op": "merge", "ids": [1]}, "two objects"),
    ({"op": "split", "id": 1, "stroke": [[1, 1]]}, "two points"),
    ({"op": "split", "id": 1, "stroke": [[1, 1], [2]]}, "two points"),
    ({"op": "split", "id": 1, "stroke": [[1, 1], [float("nan"), 5]]}, "that JSON has"),
    ({"op": "split", "id": 1, "stroke": [[0, 0], [1 << 29, 5]]}, "pixels long"),
    ({"op": "draw", "class": 1, "runs": []}, "expected runs"),
    ({"op": "draw", "class": 1, "runs": [[1, 2]]}, "expected runs"),
    ({"op": "draw", "class": 1, "runs": [[1, 2, "3"]]}, "expected runs"),
    ({"op": "draw", "class": 1, "runs": [[1, 2, 0]]}, "at least 1"),
    ({"op": "draw", "class": 1, "runs": [[1, 2, 10**30]]}, "runs|far outside"),
    ({"op": "draw", "class": 1, "runs": [[500, 2, 5]]}, "in the image"),
    ({"op": "paint", "id": None, "runs": [[1, 2, 3]]}, "expected ids"),
    ([{"op": "delete", "ids": [1]}, {"op": "delete", "ids": [1]}], "object 1 is deleted"),
]


@pytest.mark.parametrize(("edit", "message"), BAD_EDITS)
def test_bad_edits_change_nothing(tmp_path, edit, message):
    objects = make_squares(tmp_path)
    before, revision = pack_all(objects), objects.revision
    with pytest.raises(EditError, match=message):
        objects.edit(edit, None, "ann")
    assert pack_all(objects) == before
    assert objects.revision == revision
    assert not (tmp_path / "edits.jsonl").exists()
    assert not objects.can_undo


def test_an_act_that_fails_takes_no_ids(tmp_path):
    objects = make_squares(tmp_path)
    draw = {"op": "draw", "class": 1, "runs": [[1, 1, 5]]}
    before = pack_all(objects)
    with pytest.raises(EditError, match="no object 99"):
        objects.edit([draw, draw, {"op": "delete", "ids": [99]}], None, "ann")
    assert pack_all(objects) == before
    assert objects.edit(draw, None, "ann").added == [4]
    assert pack_all(ImageObjects.open(tmp_path)) == pack_all(objects)


def test_nothing_to_undo_or_redo(tmp_path):
    objects = make_squares(tmp_path)
    with pytest.raises(EditError, match="nothing to undo"):
        objects.undo("ann")
    with pytest.raises(EditError, match="nothing to redo"):
        objects.redo("ann")


def test_several_edits_are_one_act(tmp_path):
    objects = make_squares(tmp_path)
    before = pack_all(objects)
    edits = [{"op": "paint", "id": 1, "runs": strips(15, 15, 10, 10)}, {"op": "delete", "ids": [1]}]
    change = objects.edit(edits, objects.revision, "ann")
    assert change.removed == [1]
    objects.undo("ann")
    assert pack_all(objects) == before


def test_an_edit_clears_what_could_be_redone(tmp_path):
    objects = make_squares(tmp_path)
    objects.edit({"op": "draw", "class": 1, "runs": [[1, 1, 5]]}, None, "ann")
    assert objects.undo("ann").removed == [4]
    change = objects.edit({"op": "draw", "class": 1, "runs": [[1, 1, 5]]}, None, "ann")
    assert change.added == [5]  # ids are never used again
    assert not change.can_redo
    assert ImageObjects.open(tmp_path).select().ids.tolist() == [1, 2, 3, 5]


def test_conflict(tmp_path):
    objects = make_squares(tmp_path)
    revision = objects.revision
    objects.edit({"op": "delete", "ids": [1]}, revision, "ann")
    with pytest.raises(Conflict) as caught:
        objects.edit({"op": "delete", "ids": [2]}, revision, "bob")
    assert caught.value.revision == revision + 1
    assert objects.select().ids.tolist() == [2, 3]


def test_log_says_who_did_what(tmp_path):
    objects = make_squares(tmp_path)
    objects.edit({"op": "delete", "ids": [1]}, None, "ann")
    objects.undo("bob")
    first, second = map(json.loads, (tmp_path / "edits.jsonl").read_text().splitlines())
    assert first["edit"] == {"op": "delete", "ids": [1]}
    assert (first["user"], first["before"], first["after"]) == ("ann", {"flags": {"1": 0}}, {"flags": {"1": 6}})
    assert (second["user"], second["undo"]) == ("bob", first["revision"])


def test_half_a_line_is_dropped(tmp_path):
    objects = make_squares(tmp_path)
    objects.edit({"op": "delete", "ids": [1]}, None, "ann")
    objects.edit({"op": "delete", "ids": [2]}, None, "ann")
    log = tmp_path / "edits.jsonl"
    whole = log.read_bytes()
    first_line = whole.index(b"\n") + 1
    for cut in (first_line, first_line + 1, len(whole) - 1):
        log.write_bytes(whole[:cut])
        assert ImageObjects.open(tmp_path).select().ids.tolist() == [2, 3]
    reopened = ImageObjects.open(tmp_path)
    reopened.edit({"op": "delete", "ids": [3]}, None, "ann")
    assert ImageObjects.open(tmp_path).select().ids.tolist() == [2]
    assert log.read_bytes().startswith(whole[:first_line])
    assert len(log.read_text().splitlines()) == 2


def test_damaged_line_is_named(tmp_path):
    objects = make_squares(tmp_path)
    objects.edit({"op": "delete", "ids": [1]}, None, "ann")
    objects.edit({"op": "delete", "ids": [2]}, None, "ann")
    log = tmp_path / "edits.jsonl"
    log.write_bytes(b"{broken\n" + log.read_bytes())
    with pytest.raises(FormatError, match=r"line 1 of .*edits\.jsonl"):
        ImageObjects.open(tmp_path)
    log.write_bytes(b'{"version": 1, "revision": 2, "undo": 1}\n')
    with pytest.raises(FormatError, match="damaged"):
        ImageObjects.open(tmp_path)


def test_full_disk_changes_nothing(tmp_path, monkeypatch):
    objects = make_squares(tmp_path)
    objects.edit({"op": "delete", "ids": [1]}, None, "ann")
    before, log = pack_all(objects), (tmp_path / "edits.jsonl").read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("manymask.serve.log.os.fsync", fail)
    for act in (lambda: objects.edit({"op": "delete", "ids": [2]}, None, "ann"), lambda: objects.undo("ann")):
        with pytest.raises(ManymaskError, match="no space left"):
            act()
    monkeypatch.undo()
    assert pack_all(objects) == before
    assert (tmp_path / "edits.jsonl").read_bytes() == log
    objects.undo("ann")
    assert objects.select().ids.tolist() == [1, 2, 3]
