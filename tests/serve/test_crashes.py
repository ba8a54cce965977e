"""Processes that are killed while they edit lose nothing that they answered."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from manymask.serve.objects import ImageObjects
from tests.serve.edited import edit_at_random, make_objects, pack_all

ROOT = Path(__file__).parents[2]

EDITOR = """
import sys
import numpy as np
from pathlib import Path
from manymask.serve.objects import ImageObjects
from tests.serve.edited import edit_at_random
from tests.serve.test_crashes import digest

objects, random = ImageObjects.open(Path(sys.argv[1])), np.random.default_rng(int(sys.argv[2]))
print("ready", flush=True)
while True:
    edit_at_random(objects, random, 1)
    print(objects.revision, digest(objects), flush=True)
"""


def digest(objects):
    """Identifies all that the page gets."""
    return hashlib.sha256(b"".join(pack_all(objects))).hexdigest()


def edit_until_killed(folder, seed, seconds):
    """The acts that a process answered before it was killed: revisions, and what the objects were then."""
    arguments = [sys.executable, "-c", EDITOR, str(folder), str(seed)]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        process.kill()
        lines = process.stdout.read().splitlines(keepends=True)
        assert "Traceback" not in process.stderr.read()
    return [line.split() for line in lines if line.endswith("\n")]


def check_kills(folder, number):
    """Kill an editing process so many times, one after the other on the same objects."""
    random = np.random.default_rng(0)
    num_acts = 0
    revision, content = (objects := make_objects(folder)).revision, digest(objects)
    for seed in range(number):
        answers = edit_until_killed(folder, seed, random.uniform(0, 0.5))
        num_acts += len(answers)
        if answers:
            revision, content = int(answers[-1][0]), answers[-1][1]
        objects = ImageObjects.open(folder)
        assert objects.revision in (revision, revision + 1)
        if objects.revision == revision:
            assert digest(objects) == content
        revision, content = objects.revision, digest(objects)
    assert num_acts > number
    # The log that was cut and gone on with so many times still undoes all.
    before = digest(make_objects(folder / "other"))
    while objects.can_undo:
        objects.undo("u")
    assert digest(objects) == before
    return num_acts


def test_kills_lose_at_most_the_edit_in_flight(tmp_path):
    check_kills(tmp_path, 3)


@pytest.mark.slow
def test_many_kills_lose_at_most_the_edit_in_flight(tmp_path):
    print(f"{check_kills(tmp_path, 50)} acts were answered before 50 kills")


@pytest.mark.slow
def test_ten_thousand_edits_then_undo_gives_equal_bytes(tmp_path):
    objects = make_objects(tmp_path)
    before = pack_all(objects)
    edit_at_random(objects, np.random.default_rng(1), 10_000, undone=0)
    edited = pack_all(objects)
    assert pack_all(ImageObjects.open(tmp_path)) == edited
    for _ in range(10_000):
        objects.undo("u")
    assert not objects.can_undo
    assert pack_all(objects) == before
    assert pack_all(ImageObjects.open(tmp_path)) == before
