import pytest

from manymask.errors import PlanError
from manymask.training.run_folder import RunFolder, find_best_epoch, flatten_scores, format_resume


def make_rows(*scores):
    return [{"epoch": epoch, "step": 2 * epoch, "val_mask_AP": score} for epoch, score in enumerate(scores, start=1)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize(
    ("scores", "best"),
    [((0.1,), 1), ((0.1, 0.3, 0.2), 2), ((0.1, 0.3, 0.3), 2), ((None, 0.0), 2), ((None, None), 1), ((0.0, None), 1)],
)
def test_find_best_epoch(scores, best):
    assert find_best_epoch(make_rows(*scores)) == best


class TestMetrics:
    def test_round_trip(self, folder):
        rows = make_rows(0.1 + 0.2, None, 1e-7)
        folder.write_metrics(rows)
        assert folder.read_metrics(last_epoch=3) == rows
        assert (folder.path / "metrics.csv").read_text().splitlines()[2] == "2,4,"

    def test_later_epochs_are_dropped(self, folder):
        folder.write_metrics(make_rows(0.1, 0.2, 0.3))
        assert [row["epoch"] for row in folder.read_metrics(last_epoch=2)] == [1, 2]

    def test_none_yet(self, folder):
        assert folder.read_metrics(last_epoch=0) == []


class TestCheckpoints:
    def test_newest_first_beyond_999(self, folder):
        for epoch in (1000, 2, 999, 10):
            folder.epoch_file(epoch).write_bytes(b"")
        names = [file.name for file in folder.list_epoch_files()]
        assert names == ["epoch_1000.ckpt", "epoch_999.ckpt", "epoch_010.ckpt", "epoch_002.ckpt"]

    @pytest.mark.parametrize("keep_all", [True, False])
    def test_best_and_last(self, folder, keep_all):
        rows = make_rows(0.2, 0.5, 0.5)
        for row in rows:
            epoch = row["epoch"]
            folder.epoch_file(epoch).write_text(str(epoch))
            folder.finish_epoch(epoch, rows[:epoch], keep_all)
        assert (folder.best.read_text(), folder.last.read_text()) == ("2", "3")
        assert len(folder.list_epoch_files()) == (3 if keep_all else 0)

    def test_no_finished_epoch(self, folder):
        assert folder.find_resume_checkpoint() is None
        folder.epoch_file(1).write_bytes(b"killed before it was copied")
        assert folder.find_resume_checkpoint() is None

    def test_partial_files(self, folder):
        for name in (".last.ckpt.77.partial", "checkpoints/.epoch_001.ckpt.77.partial", "kept.partial"):
            (folder.path / name).write_bytes(b"")
        folder.remove_partial_files()
        assert [path.name for path in folder.path.rglob("*.partial")] == ["kept.partial"]


class TestCheckUnused:
    def test_new_or_empty(self, tmp_path):
        RunFolder(tmp_path / "new").check_unused()
        RunFolder(tmp_path).check_unused()

    def test_used(self, folder):
        with pytest.raises(PlanError, match="is not empty"):
            folder.check_unused()

    def test_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(PlanError, match="is not empty"):
            RunFolder(tmp_path / "file").check_unused()


def test_flatten_scores():
    ap = {"AP": 0.1, "AP50": 0.2, "AP75": None}
    per_class = {"seed": {**ap, "num_instances": 3}}
    row = flatten_scores({"mask": {**ap, "per_class": per_class}, "box": {**ap, "per_class": per_class}})
    assert list(row) == [
        "val_mask_AP", "val_mask_AP50", "val_mask_AP75", "val_box_AP", "val_box_AP50", "val_box_AP75",
        "val_mask_AP_seed", "val_mask_AP50_seed", "val_mask_AP75_seed",
    ]  # fmt: skip
    assert row["val_mask_AP75"] is None


def test_format_resume(tmp_path):
    assert format_resume(tmp_path / "a b") == f"manymask train --resume '{tmp_path}/a b'"
