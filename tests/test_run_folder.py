from pathlib import Path

import pytest

from manymask.errors import CheckpointError, FormatError, ManymaskError, PlanError
from manymask.modeling.checkpoint import CHECKPOINT_KEY, write_checkpoint
from manymask.plan import make_plan
from manymask.run_folder import (
    RunFolder,
    count_epochs,
    find_best_epoch,
    find_run,
    flatten_scores,
    format_resume,
    read_diagnosis,
    read_metrics,
    read_rows,
)


def make_rows(*scores):
    return [{"epoch": epoch, "step": 2 * epoch, "val_mask_AP": score} for epoch, score in enumerate(scores, start=1)]


def write_epoch(path, **content):
    write_checkpoint({CHECKPOINT_KEY: {"plan": {}, **content}, "state_dict": {}}, path)


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


def test_write_metrics(folder):
    folder.write_metrics(make_rows(0.1 + 0.2, None, 1e-7))
    lines = (folder.path / "metrics.csv").read_text().splitlines()
    assert lines == ["epoch,step,val_mask_AP", "1,2,0.30000000000000004", "2,4,", "3,6,1e-07"]


class TestRewind:
    SCORES = (0.2, 0.5, 0.1, 0.7)

    @pytest.fixture
    def finish(self, folder):
        """Four epochs, of which the second is the best of the first three."""

        def finish(keep_all=True):
            for epoch in range(1, 5):
                rows = make_rows(*self.SCORES[:epoch])
                write_epoch(folder.epoch_file(epoch), metrics=rows)
                folder.finish_epoch(epoch, rows, keep_all)
            return folder

        return finish

    def test_older_epoch(self, finish):
        folder = finish()
        (folder.path / "metrics.csv").write_bytes(b"\xff garbage")
        (folder.path / "checkpoints" / "epoch_of_mine.ckpt").write_text("")
        assert folder.rewind(folder.epoch_file(3)) == make_rows(*self.SCORES[:3])
        assert (len(read_rows(folder.best)), len(read_rows(folder.last))) == (2, 3)
        names = {file.name for file in folder.list_epoch_files()}
        assert names == {"epoch_001.ckpt", "epoch_002.ckpt", "epoch_003.ckpt", "epoch_of_mine.ckpt"}
        assert len((folder.path / "metrics.csv").read_text().splitlines()) == 4

    def test_last_leaves_the_checkpoints(self, finish):
        folder = finish()
        before = {file: file.stat().st_mtime_ns for file in folder.path.rglob("*.ckpt")}
        folder.rewind(folder.last)
        assert {file: file.stat().st_mtime_ns for file in folder.path.rglob("*.ckpt")} == before

    def test_best_only(self, finish):
        folder = finish(keep_all=False)
        folder.best.unlink()  # as a kill between the two copies leaves it
        folder.rewind(folder.last)
        assert len(read_rows(folder.best)) == 4

    def test_best_is_lost(self, finish):
        folder = finish()
        folder.epoch_file(2).write_bytes(b"damaged")
        folder.rewind(folder.epoch_file(3))
        assert not folder.best.exists()

    def test_no_metrics(self, folder):
        write_epoch(folder.last)
        with pytest.raises(CheckpointError, match=r"last.ckpt holds no metrics.*new run"):
            folder.rewind(folder.last)


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
        (folder.path / "evaluation").mkdir()
        others = {"kept.partial", "evaluation/.of_a_running_evaluation.partial"}
        for name in (".last.ckpt.77.partial", "checkpoints/.epoch_001.ckpt.77.partial", *others):
            (folder.path / name).write_bytes(b"")
        folder.remove_partial_files()
        assert {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*.partial")} == others


class TestCheckUnused:
    def test_new_or_empty(self, tmp_path):
        RunFolder(tmp_path / "new").check_unused()
        RunFolder(tmp_path).check_unused()

    def test_used(self, folder):
        with pytest.raises(PlanError, match="is not empty"):
            folder.check_unused()

    def test_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(PlanError, match=r"is a file; choose another --output$"):
            RunFolder(tmp_path / "file").check_unused()


class TestClaim:
    def test_nothing_is_left_of_a_run_that_does_not_begin(self, tmp_path):
        with pytest.raises(PlanError), RunFolder(tmp_path / "runs" / "a").claim():
            raise PlanError("no such setting")
        assert not any(tmp_path.iterdir())

    def test_what_was_written_stays(self, tmp_path):
        with RunFolder(tmp_path / "runs" / "a").claim():
            (tmp_path / "runs" / "a" / "plan.json").touch()
        assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["plan.json"]

    def test_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ManymaskError, match="a file is where a folder"), RunFolder(tmp_path / "file" / "a").claim():
            pass


def test_flatten_scores():
    ap = {"AP": 0.1, "AP50": 0.2, "AP75": None}
    places = [(kind, *of_class) for kind in ("mask", "box") for of_class in ((), ("per_class", "seed"))]
    row = flatten_scores({(*place, name): value for place in places for name, value in ap.items()})
    assert list(row) == [
        "val_mask_AP", "val_mask_AP50", "val_mask_AP75", "val_box_AP", "val_box_AP50", "val_box_AP75",
        "val_mask_AP_seed", "val_mask_AP50_seed", "val_mask_AP75_seed",
    ]  # fmt: skip
    assert row["val_mask_AP75"] is None


def test_format_resume(tmp_path):
    assert format_resume(tmp_path / "a b") == f"manymask train --resume '{tmp_path}/a b'"


class TestReadMetrics:
    def test_of_a_run_or_a_checkpoint_in_it(self, folder):
        folder.write_metrics(make_rows(0.1, None))
        folder.plan_file.write_text("{}")
        folder.last.touch()
        folder.epoch_file(1).touch()
        for path in (folder.path, folder.last, folder.epoch_file(1)):
            assert read_metrics(path) == make_rows(0.1, None)
            assert find_run(path) == folder.path

    def test_of_no_run(self, tmp_path):
        assert read_metrics(tmp_path / "predictions.json") == []
        assert find_run(tmp_path / "predictions.json") is None

    def test_names_that_are_no_paths_lie_in_no_run(self, folder, monkeypatch):
        folder.plan_file.write_text("{}")
        monkeypatch.chdir(folder.path)
        assert find_run(Path("nuclei")) is None
        assert find_run(Path("checkpoints") / "epoch_001.ckpt") is None
        assert find_run(Path()) == Path()

    @pytest.mark.parametrize(
        "content",
        [
            b"epoch;step;loss\n1;3;0,5\n",
            b"epoch,step\n1,much\n",
            b"epoch,step\n1,2,3\n",
            b"epoch,st\xe4p\n1,2\n",
            b"loss\n1\n",
        ],
        ids=["semicolons", "text", "too many", "latin-1", "no epoch"],
    )
    def test_changed_by_another_program(self, folder, content):
        (folder.path / "metrics.csv").write_bytes(content)
        with pytest.raises(FormatError, match=r"metrics\.csv is not as training wrote it"):
            read_metrics(folder.path)


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"training": {"AP50": 1}}'], ids=["cut", "list", "fields"])
def test_diagnosis_that_was_changed(folder, content):
    folder.diagnosis_file.write_bytes(content)
    with pytest.raises(FormatError, match=r"diagnosis\.json is not"):
        read_diagnosis(folder.path)


@pytest.mark.parametrize(
    ("settings", "seconds", "num_epochs"),
    [
        ({"minutes": 10}, [190] * 3, 3),  # 30 s are left
        ({"minutes": 10}, [100] * 3, 20),  # it was killed: 300 s are left
        ({"minutes": 10}, [30] * 18 + [45], 19),
        ({}, [190] * 3, 20),
        ({"max_steps": 30}, [1] * 3, 3),
        ({"max_steps": 31}, [1] * 3, 20),
    ],
)
def test_epochs_of_a_run_whose_checkpoint_does_not_say(tmp_path, settings, seconds, num_epochs):
    rows = [{"epoch": n, "step": 10 * n, "seconds": float(value)} for n, value in enumerate(seconds, start=1)]
    assert count_epochs(tmp_path / "gone.ckpt", make_plan(settings={"epochs": 20, **settings}), rows) == num_epochs
