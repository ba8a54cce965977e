"""A format is one record: what is registered here is detected, read, examined and repaired like the others."""

import json
from pathlib import Path

import numpy as np
import pytest

from manymask.core.dataset import DatasetWriter, Doubt, Format
from manymask.core.files import copy_file
from manymask.formats import read_dataset
from manymask.formats.datasets import FORMATS, detect_format
from manymask.formats.records import make_dataset, make_sample
from manymask.imaging import open_image
from manymask.inspection import inspect
from manymask.inspection.tables import describe_copy
from tests.formats.format_files import write_array


def read_boxes(root):
    entries = [(path.stem, path, None, (path.with_suffix(".boxes"),)) for path in Path(root).glob("*.png")]
    return make_dataset(Path(root), BOXES, read_record, entries, [])


def load_boxes(record):
    return json.loads(record.label_files[0].read_text())


def read_record(record, categories):
    image = open_image(record.path)
    ids = np.zeros(image.size, dtype=np.int32)
    for number, (top, left, bottom, right) in enumerate(load_boxes(record), start=1):
        ids[top:bottom, left:right] = number
    return make_sample(record, image, ids, np.ones(len(load_boxes(record)), dtype=np.int64))


class Writer(DatasetWriter):
    def write(self, record, instances, rows):
        copy_file(record.path, self.folder / record.path.name)
        boxes = [load_boxes(record)[row] for row in rows.tolist()]
        (self.folder / record.label_files[0].name).write_text(json.dumps(boxes))


BOXES = Format(
    "boxes",
    layout="x.png with x.boxes",
    detect=lambda folder: list(folder.glob("*.boxes")),
    read=read_boxes,
    name_instances=lambda record: [f"box {row}" for row, _ in enumerate(load_boxes(record))],
    open_writer=Writer,
    changes="boxes stay boxes",
    find_faults=lambda record: [Doubt("out-of-frame", "has a box that reaches out of the image")],
)


@pytest.fixture
def boxes(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "boxes", BOXES)
    for name in "ab":
        write_array(tmp_path / "data" / f"{name}.png", np.full((64, 64), ord(name), np.uint8) + np.eye(64, dtype="u1"))
        content = [[0, 0, 20, 20], [30, 30, 31, 31], [40, 40, 60, 70]]
        (tmp_path / "data" / f"{name}.boxes").write_text(json.dumps(content))
    return tmp_path / "data"


def test_a_format_of_ones_own_is_read(boxes):
    assert detect_format(boxes) == "boxes"
    dataset = read_dataset(boxes)
    assert (dataset.format.name, len(dataset), dataset.problems) == ("boxes", 2, ())
    assert dataset[0].to_instances().runs.areas.tolist() == [400, 1, 480]


def test_a_format_of_ones_own_is_examined_and_repaired(boxes, tmp_path):
    found = inspect(boxes, fix=tmp_path / "fixed")
    kinds = {finding.kind for finding in found.findings}
    assert {"one-pixel-instance", "out-of-frame"} <= kinds
    assert found.repairs[0].actions[1] == "removed 1 instance of up to 3 pixels: box 1"
    assert json.loads((tmp_path / "fixed" / "a.boxes").read_text()) == [[0, 0, 20, 20], [40, 40, 60, 70]]
    assert describe_copy(found, tmp_path / "fixed").endswith("; boxes stay boxes")


def test_docs_list_all_formats():
    shown = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    assert all(f"`{name}`" in shown for name in FORMATS)
