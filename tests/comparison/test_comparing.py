import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from manymask.comparison import compare
from manymask.comparison.comparing import find_variants
from manymask.comparison.tables import format_markdown
from manymask.core import Dataset, Instances
from manymask.errors import DatasetError, ManymaskError, PlanError
from manymask.evaluation import evaluate
from manymask.formats import read_dataset, write_class_folder
from manymask.plan import Plan, write_plan
from manymask.synthetic import make_categories
from tests.cells import copy_truth, lose, write_cells, write_labels, write_results
from tests.tiny_model import make_tiny_plan, write_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


CHANGES = {"poor.json": lose(2), "good.json": copy_truth}


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Dataset:
    """Five labelled images of two classes."""
    return write_cells(tmp_path_factory.mktemp("data") / "cells", 5)


@pytest.fixture
def good(cells, tmp_path) -> Path:
    return write_results(tmp_path / "good.json", cells)


@pytest.fixture
def poor(cells, tmp_path) -> Path:
    """Every second instance is lost."""
    return write_results(tmp_path / "poor.json", cells, lose(2))


def compare_two(first, second, cells, *, output=None, group_by=None, draws=50, **settings):
    """The comparison of two, and the whole result."""
    result = compare([first, second], cells.root, output=output, group_by=group_by, draws=draws, settings=settings)
    (pair,) = result["comparisons"]
    return pair, result


def get(pair, metric: str) -> dict:
    (row,) = (row for row in pair["differences"] if row["metric"] == metric)
    return row


class TestPredictions:
    def test_the_better_is_told(self, tmp_path):
        cells = write_cells(tmp_path / "cells", 8)
        results = [write_results(tmp_path / name, cells, change) for name, change in CHANGES.items()]
        pair, result = compare_two(*results, cells)
        assert (pair["first"], pair["second"]) == ("poor.json", "good.json")
        assert get(pair, "F1")["interval"][0] > 0
        assert len(pair["sentences"]) == 3
        for sentence in pair["sentences"]:
            assert sentence.startswith("good.json is better than poor.json by 0.")
            assert sentence.endswith("on 8 images.")
        assert pair["images"] | {"won": 8, "lost": 0, "tied": 0} == pair["images"]
        assert pair["images"]["largest_losses"] == []
        assert result["unit"] == "8 images"

    def test_the_other_way_round_all_is_negated(self, cells, good, poor):
        (there, _), (back, _) = compare_two(poor, good, cells), compare_two(good, poor, cells)
        for one, other in zip(there["differences"], back["differences"], strict=True):
            assert one["difference"] == pytest.approx(-other["difference"])
            assert one["interval"] == pytest.approx([-edge for edge in reversed(other["interval"])])
        assert back["images"]["lost"] == there["images"]["won"]
        losses = [row["F1"] for row in back["images"]["largest_losses"]]
        assert losses == sorted(losses)
        assert len(losses) == 5

    def test_equal_predictions_differ_by_nothing(self, cells, poor, tmp_path):
        pair, _ = compare_two(poor, write_results(tmp_path / "same.json", cells, lose(2)), cells)
        for row in pair["differences"]:
            assert (row["difference"], row["interval"]) == (0, (0, 0))
        assert pair["images"] | {"won": 0, "lost": 0, "tied": 5} == pair["images"]
        assert all(sentence.startswith("No difference in ") for sentence in pair["sentences"])

    def test_per_class(self, cells, good, tmp_path):
        def lose_first_class(sample) -> Instances:
            found = copy_truth(sample)
            return found[found.labels != 1]

        pair, _ = compare_two(write_results(tmp_path / "a.json", cells, lose_first_class), good, cells)
        difference = {name: rows[0]["difference"] for name, rows in pair["per_class"].items()}
        assert difference == pytest.approx({"class1": 1, "class2": 0})

    def test_tools_with_other_files(self, cells, good, tmp_path):
        """A folder of label images with classes, and COCO results."""
        pair, result = compare_two(good, write_labels(tmp_path / "labels", cells, has_table=True), cells)
        assert get(pair, "F1")["difference"] == 0
        assert not any("one run only" in note for note in result["notes"])

    def test_intervals_are_those_of_evaluate(self, cells, poor, good):
        _, result = compare_two(poor, good, cells)
        expected = evaluate(poor, cells, draws=50).intervals.values
        metrics = result["variants"][0]["metrics"]
        assert metrics["mask AP50"]["interval"] == expected["mask.AP50"]
        assert metrics["F1"]["interval"] == expected["detection.F1"]

    def test_an_empty_image_with_spurious_finds_is_lost(self, cells, tmp_path):
        """One that is left empty is right; its F1 is undefined."""
        found = cells[0].to_instances()
        root = write_cells(tmp_path / "data", 2).root
        for path in (root / "0001").glob("class*.tif"):
            path.unlink()
        nothing = found[np.zeros(0, dtype=np.int64)]
        write_class_folder(root, "0001", cells[0].pixels, nothing, cells.categories)
        data = read_dataset(root)
        clean = write_results(tmp_path / "clean.json", data)
        noisy = write_results(tmp_path / "noisy.json", data, lambda s: found if s.name == "0001" else copy_truth(s))
        pair, _ = compare_two(clean, noisy, data)
        assert pair["images"] | {"won": 0, "lost": 1, "tied": 1} == pair["images"]
        assert pair["images"]["largest_losses"] == [{"name": "0001", "F1": -1.0}]

    def test_one_image(self, cells, tmp_path):
        data = write_cells(tmp_path / "one", 1)
        paths = [write_results(tmp_path / f"{n}.json", data, lose(n)) for n in (2, 3)]
        pair, result = compare_two(*paths, data)
        assert all(row["interval"] is None for row in pair["differences"])
        assert "on 1 image: without an interval nobody can tell" in pair["sentences"][0]
        assert any("Only 1 image: no interval can be given" in note for note in result["notes"])

    def test_groups(self, cells, good, poor):
        _, result = compare_two(poor, good, cells, group_by="00(?=0[01])|0(?=0[234])")
        assert result["unit"] == "2 groups"
        assert any(note.startswith("Only 2 groups: the") for note in result["notes"])

    def test_several_are_compared_with_the_first(self, cells, good, poor, tmp_path):
        third = write_results(tmp_path / "third.json", cells, lose(3))
        calls = []
        result = compare([poor, third, good], cells.root, draws=10, progress=lambda *call: calls.append(call))
        assert [(p["first"], p["second"]) for p in result["comparisons"]] == [
            ("poor.json", "third.json"),
            ("poor.json", "good.json"),
        ]
        assert calls == [(number, 15, "scoring") for number in range(1, 16)]

    def test_missing_images_are_said(self, cells, good, tmp_path):
        some = write_results(tmp_path / "some.json", cells, images=slice(2))
        pair, result = compare_two(good, some, cells)
        assert pair["images"]["lost"] == 3
        assert any("3 of 5 images have no predictions in" in note for note in result["notes"])


class TestFiles:
    @pytest.fixture
    def written(self, cells, good, poor, tmp_path) -> Path:
        compare([poor, good], cells.root, draws=20, output=tmp_path / "out")
        return tmp_path / "out"

    def test_json(self, written):
        result = json.loads((written / "comparison.json").read_text())
        assert result["num_images"] == 5
        assert {path.name for path in written.glob("[!.]*")} == {f"comparison.{kind}" for kind in ("json", "csv", "md")}

    def test_csv(self, written):
        result = json.loads((written / "comparison.json").read_text())
        with open(written / "comparison.csv", newline="") as f:
            rows = list(csv.DictReader(f, strict=True))
        assert all(len(row) == 13 and None not in row.values() for row in rows)
        assert [row["class"] for row in rows] == [""] * 15 + ["class1"] * 3 + ["class2"] * 3
        expected = get(result["comparisons"][0], "F1")
        (found,) = (row for row in rows if row["class"] == "" and row["metric"] == "F1")
        assert [float(found["low"]), float(found["high"])] == expected["interval"]
        assert float(found["difference"]) == expected["difference"]
        assert found["first_seed_deviation"] == ""

    def test_markdown_tables_have_equal_columns(self, written):
        text = (written / "comparison.md").read_text()
        assert_tables(text, 2)
        assert "can be told on fewer than 8 images or groups" in text
        assert "curves/" not in text

    def test_bars_in_names(self, cells, good, poor):
        result = compare({"a|b": [poor], "c": [good]}, cells.root, draws=10)
        assert_tables(format_markdown(result, has_curves=False), 2)

    def test_a_class_named_all_is_not_the_mean(self, cells, good, poor):
        result = compare({"a": [poor], "b": [good]}, cells.root, draws=10)
        (pair,) = result["comparisons"]
        pair["per_class"] = {"all": pair["per_class"]["class1"], "x": []}
        text = format_markdown(result, has_curves=False)
        assert (text.count("\n|  | "), text.count("\n| all |")) == (16, 3)  # 15 metrics of all classes, and a header

    def test_output_is_a_file(self, cells, good, poor):
        with pytest.raises(ManymaskError, match=r"cannot write .*comparison\.json: a file is where a folder is needed"):
            compare([good, poor], cells.root, draws=10, output=poor)


def assert_tables(text: str, num_tables: int) -> None:
    """All rows of a Markdown table have as many cells as its header."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == num_tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def write_run(folder: Path, root: Path, seed: int = 1, *, epochs: int = 2, num_rows: int = 2, **changes) -> Path:
    """A run folder whose held-out images are 0003 and 0004."""
    classes = make_categories(2)
    record = make_tiny_plan(classes).data
    assert record is not None
    names = {"train_names": ("0000", "0001", "0002"), "val_names": ("0003", "0004")}
    record = record.model_copy(update={"path": str(root), **names, **changes})
    plan: Plan = make_tiny_plan(epochs=epochs).model_copy(update={"data": record})
    write_plan(plan, folder / "plan.json")
    write_tiny_model(folder / "best.ckpt", classes, seed=seed, record=record, epochs=epochs)
    rows = [f"{epoch},{3 * epoch},{1 / epoch},0.{epoch},0.{epoch}" for epoch in range(1, num_rows + 1)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,step,loss,val_mask_AP,val_mask_AP50", *rows]) + "\n")
    return folder


class TestRuns:
    def test_seeds_are_told_apart_from_images(self, cells, tmp_path):
        for name, seeds in (("a", (1, 2)), ("b", (3, 4))):
            for place, seed in enumerate(seeds):
                write_run(tmp_path / "runs" / name / f"seed_{place}", cells.root, seed)
        result = compare([tmp_path / "runs"], output=tmp_path / "out", draws=20, device="cpu")
        first, second = result["variants"]
        assert (first["name"], second["name"], result["num_images"]) == ("a", "b", 2)
        entry = second["metrics"]["AP(0.5)"]
        assert entry["mean"] == pytest.approx(np.mean(entry["runs"]))
        assert entry["seed_deviation"] == pytest.approx(np.std(entry["runs"], ddof=1))
        alone = evaluate(tmp_path / "runs" / "b" / "seed_1", draws=0)
        assert entry["runs"][1] == alone.ap_t.pooled["0.50"]
        assert result["comparisons"][0]["sentences"][0].count("2 seeds each") == 1
        assert not any("one run only" in note for note in result["notes"])
        assert {path.name for path in (tmp_path / "out" / "curves").iterdir()} == {"loss.png", "map.png"}
        assert "![Training loss](curves/loss.png)" in (tmp_path / "out" / "comparison.md").read_text()
        json.loads((tmp_path / "out" / "comparison.json").read_text(), parse_constant=pytest.fail)

    def test_a_run_and_its_own_predictions(self, cells, tmp_path):
        run = write_run(tmp_path / "run", cells.root)
        evaluate(run, cells, output=tmp_path / "own", draws=0)
        pair, result = compare_two(run, tmp_path / "own" / "predictions.json", cells, score_threshold=0.2)
        assert all(row["difference"] == 0 for row in pair["differences"])
        assert any("3 of 5 images are among those that" in note for note in result["notes"])
        assert any("one run only" in note for note in result["notes"])
        assert not any("thresholds" in note for note in result["notes"])
        _, result = compare_two(run, tmp_path / "own" / "predictions.json", cells)
        assert any("at different score thresholds (0.3, 0.5)" in note for note in result["notes"])

    def test_unfinished_runs_are_said(self, cells, good, tmp_path):
        stopped = write_run(tmp_path / "b", cells.root, epochs=9)
        _, result = compare_two(good, stopped, cells)
        notes = [note for note in result["notes"] if "to its end" in note]
        assert notes == [f"{stopped} is not trained to its end: 2 of 9 epochs are done."]

    @pytest.mark.parametrize("changes", [{"fingerprint": "1"}, {"val_names": ("0004",)}])
    def test_other_validation_images_are_refused(self, cells, tmp_path, changes):
        paths = [write_run(tmp_path / "a", cells.root), write_run(tmp_path / "b", cells.root, **changes)]
        with pytest.raises(DatasetError, match=r"a and .*b were validated on different images, .*; give --data"):
            compare(paths)

    def test_files_need_data(self, cells, good, tmp_path):
        with pytest.raises(DatasetError, match=r"good\.json is no run folder, .*; give --data"):
            compare([write_run(tmp_path / "a", cells.root), good])

    def test_beside_predictions_without_classes_all_are_scored_as_one_class(self, cells, good, tmp_path):
        labels = write_labels(tmp_path / "labels", cells, has_table=False)
        result = compare([good, labels], cells.root, draws=10)
        (pair,) = result["comparisons"]
        assert list(pair["per_class"]) == ["instance"]
        assert get(pair, "F1")["difference"] == 0
        assert any("knows no classes" in note for note in result["notes"])
        told = [next(name for name in ("F1", "PQ", "AP(0.5)") if name in text) for text in pair["sentences"]]
        assert sorted(told) == ["AP(0.5)", "F1", "PQ"]  # label images have no scores for AP to rank by

    def test_what_is_wrong_is_found_before_the_first_image(self, cells, good, tmp_path):
        calls = []
        with pytest.raises(ManymaskError, match="found nothing"):
            compare([good, tmp_path / "none"], cells.root, progress=lambda *call: calls.append(call))
        assert calls == []


class TestVariants:
    def test_names_are_as_short_as_tells_them_apart(self, tmp_path):
        paths = [tmp_path / "x" / "a" / "predictions.json", tmp_path / "x" / "b" / "predictions.json"]
        assert list(find_variants(paths)) == ["a/predictions.json", "b/predictions.json"]
        assert list(find_variants([tmp_path / "a", tmp_path / "b"])) == ["a", "b"]

    def test_seeds_are_in_order(self, tmp_path):
        for seed in (10, 9, 0):
            write_plan(Plan(), tmp_path / "a" / f"seed_{seed}" / "plan.json")
        (tmp_path / "a" / "seed_7").mkdir()
        variants = find_variants([tmp_path / "a", tmp_path / "b"])
        assert [source.name for source in variants["a"]] == ["seed_0", "seed_9", "seed_10"]

    def test_one_path_alone(self):
        assert find_variants({"a": "runs/a", "b": Path("x")}) == {"a": (Path("runs/a"),), "b": (Path("x"),)}
        with pytest.raises(PlanError, match="expected two or more runs"):
            find_variants("runs/a")

    def test_here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert list(find_variants([".", "a"])) == [tmp_path.name, "a"]

    @pytest.mark.parametrize(
        ("paths", "message"),
        [
            ([], "expected two or more runs"),
            (["a"], "expected two or more runs"),
            (["a", "b", "a"], "a is given twice"),
            (["a", "../{here}/a"], "a is given twice"),
        ],
    )
    def test_refused(self, tmp_path, monkeypatch, paths, message):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(PlanError, match=message):
            find_variants([path.format(here=tmp_path.name) for path in paths])

    def test_no_draws(self, cells, good, poor):
        with pytest.raises(PlanError, match="draws is 0, expected at least 1"):
            compare([good, poor], cells.root, draws=0)
