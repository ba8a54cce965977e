import json
import re
from pathlib import Path

import pytest

from manymask.cli.app import main
from manymask.core import write_json
from manymask.errors import DatasetError
from manymask.formats import encode_coco_results, read_dataset, write_class_folder
from manymask.reporting import report
from manymask.synthetic import make_categories, make_sample
from tests.tiny_model import write_tiny_model

CATEGORIES = make_categories(2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(3):
        pixels, cells = make_sample(index, size=(48, 60), num_instances=6, num_classes=2)
        write_class_folder(folder, f"{index:04d}", pixels, cells, CATEGORIES)
    return folder


def write_results(data: Path, path: Path) -> Path:
    """The ground truth as predictions, without the first instance of each image."""
    samples = list(read_dataset(data))
    results = {s.name: encode_coco_results(s.to_instances()[1:], s.image_id, CATEGORIES) for s in samples}
    write_json(path, [entry | {"image_id": name} for name, entries in results.items() for entry in entries])
    return path


def read_images(page: Path) -> list[dict]:
    found = re.findall(r'<script type="application/json" id="image-\d+">(.*?)</script>', page.read_text(), re.DOTALL)
    return [json.loads(text) for text in found]


def test_report_of_a_model(data, tmp_path):
    write_tiny_model(tmp_path / "run" / "last.ckpt", CATEGORIES)
    path = report(tmp_path / "run", data, draws=20)
    assert path == tmp_path / "run" / "report.html"
    assert len(read_images(path)) == 3
    assert "Data and settings" in path.read_text()


def test_report_of_stored_predictions_knows_no_plan(data, tmp_path):
    path = report(write_results(data, tmp_path / "predictions.json"), data, draws=20, max_images=2)
    text = path.read_text()
    assert path == tmp_path / "report.html"
    assert len(read_images(path)) == 2
    assert "Mask AP50 is" in text
    assert "Settings that differ" not in text


def test_the_errors_of_the_page_are_those_of_the_evaluation(data, tmp_path):
    path = report(write_results(data, tmp_path / "predictions.json"), data, draws=0)
    counts = re.findall(r"TP (\d+) · FP (\d+) · FN (\d+)", path.read_text())
    totals = [sum(map(int, column)) for column in zip(*counts, strict=True)]
    num_instances = sum(len(sample.to_instances()) for sample in read_dataset(data))
    assert totals == [num_instances - 3, 0, 3]


def test_one_image_is_said_to_give_no_interval(data, tmp_path):
    one = read_dataset(data).subset([0])
    path = report(write_results(data, tmp_path / "predictions.json").parent / "predictions.json", data, draws=20)
    assert "interval" in path.read_text()
    run = tmp_path / "run"
    write_tiny_model(run / "last.ckpt", CATEGORIES)
    assert "One image only" in report(run, one, draws=20).read_text()


def test_predictions_without_data(tmp_path):
    (tmp_path / "predictions.json").write_text("[]")
    with pytest.raises(DatasetError, match="does not say what to score on; give the data"):
        report(tmp_path / "predictions.json")


def test_command(data, tmp_path, monkeypatch, capsys):
    predictions = write_results(data, tmp_path / "predictions.json")
    arguments = ["manymask", "report", str(predictions), str(data), "--output", str(tmp_path / "page.html")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="0"):
        main()
    assert f"written to {tmp_path / 'page.html'}" in capsys.readouterr().out
    assert (tmp_path / "page.html").is_file()
