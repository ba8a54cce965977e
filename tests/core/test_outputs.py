import errno
import json

import pytest

from manymask.core import files
from manymask.core.files import write_file
from manymask.core.outputs import RECORD_NAME, check_outputs, drop_outputs, is_unused, list_writers, record_outputs
from manymask.errors import ManymaskError, PlanError


def write(folder, command, *names, text="own", **options):
    """As a command does it."""
    check_outputs(folder, command, names)
    with record_outputs(folder, command, names, **options):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def list_names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file())


def raise_full(_):
    raise OSError(errno.ENOSPC, "No space left on device")


def write_until_full(folder, monkeypatch):
    with record_outputs(folder, "predict", ["a", "b"]):
        write_file(folder / "a", "own")
        monkeypatch.setattr(files.os, "fsync", raise_full)
        write_file(folder / "b", "own")


class TestOverwriting:
    def test_own_files_are_replaced_and_older_ones_go(self, tmp_path):
        write(tmp_path, "predict", "a.json", "labels/1.tif", "overlays/1.png")
        write(tmp_path, "predict", "labels/1.tif", "labels/2.tif", text="new")
        assert list_names(tmp_path) == ["labels/1.tif", "labels/2.tif"]
        assert not (tmp_path / "overlays").exists()
        assert (tmp_path / "labels" / "1.tif").read_text() == "new"

    @pytest.mark.parametrize("name", ["a.json", "labels/1.tif", "labels/another.png"])
    def test_files_of_others_stay(self, tmp_path, name):
        (tmp_path / "labels").mkdir()
        (tmp_path / name).write_text("precious")
        with pytest.raises(PlanError, match=f"{name} is not as manymask predict wrote it.*another --output"):
            check_outputs(tmp_path, "predict", ["a.json", "labels/1.tif"])
        assert (tmp_path / name).read_text() == "precious"

    def test_own_files_that_were_changed_stay(self, tmp_path):
        write(tmp_path, "predict", "a.json", "labels/1.tif")
        (tmp_path / "labels" / "1.tif").write_text("corrected")
        with pytest.raises(PlanError, match=r"labels/1\.tif is not as"):
            check_outputs(tmp_path, "predict", ["labels/2.tif"])
        (tmp_path / "a.json").write_text("edited")
        (tmp_path / "labels" / "1.tif").unlink()
        write(tmp_path, "predict", "labels/2.tif")
        assert (tmp_path / "a.json").read_text() == "edited"

    def test_commands_keep_to_their_own_files(self, tmp_path):
        write(tmp_path, "predict", "predictions.json")
        write(tmp_path, "evaluate", "evaluation.json")
        with pytest.raises(PlanError, match=r"predictions\.json is not as manymask evaluate wrote it"):
            check_outputs(tmp_path, "evaluate", ["predictions.json"])
        assert list_writers(tmp_path) == {"predictions.json": "predict", "evaluation.json": "evaluate"}

    def test_single_files_lie_side_by_side(self, tmp_path):
        write(tmp_path, "plan", "a.json", is_whole=False)
        write(tmp_path, "plan", "b.json", is_whole=False)
        write(tmp_path, "plan", "a.json", is_whole=False)
        assert list_names(tmp_path) == ["a.json", "b.json"]

    def test_what_was_stopped_half_way_is_written_again(self, tmp_path):
        with pytest.raises(IsADirectoryError), record_outputs(tmp_path, "predict", ["a", "b"]):
            [path.write_text("half") for path in (tmp_path / "a", tmp_path)]
        write(tmp_path, "predict", "a")
        assert list_names(tmp_path) == ["a"]

    def test_what_a_kill_left_may_be_corrected_since(self, tmp_path):
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels" / "1.tif").write_text("corrected?")
        (tmp_path / RECORD_NAME).write_text(json.dumps({"predict": {"labels/1.tif": None}}))  # as a kill leaves it
        with pytest.raises(PlanError, match=r"labels/1\.tif is not as manymask predict wrote it"):
            write(tmp_path, "predict", "labels/1.tif")
        assert (tmp_path / "labels" / "1.tif").read_text() == "corrected?"
        assert drop_outputs([tmp_path / "labels"]) == []

    def test_what_a_kill_left_is_known(self, tmp_path):
        written = record_outputs(tmp_path, "predict", ["labels/1.tif", "labels/2.tif"])
        written.__enter__()
        write_file(tmp_path / "labels" / "1.tif", "own")
        write_file(tmp_path / "labels" / "2.tif", "own")
        (tmp_path / "labels" / "2.tif").write_text("corrected")  # after the kill
        check_outputs(tmp_path, "predict", ["a"])
        with pytest.raises(PlanError, match=r"labels/2\.tif is not as manymask predict wrote it"):
            check_outputs(tmp_path, "predict", ["labels/1.tif"])
        (tmp_path / "labels" / "2.tif").unlink()
        write(tmp_path, "predict", "a")
        assert list_names(tmp_path) == ["a"]

    def test_a_disk_that_stays_full_leaves_nothing_unknown(self, tmp_path, monkeypatch):
        with pytest.raises(ManymaskError, match="no space left"):
            write_until_full(tmp_path, monkeypatch)
        monkeypatch.undo()
        assert list_names(tmp_path) == ["a"]
        write(tmp_path, "predict", "b")
        assert list_names(tmp_path) == ["b"]

    def test_a_note_that_was_cut_short_is_passed_over(self, tmp_path):
        written = record_outputs(tmp_path, "predict", ["a", "b"])
        written.__enter__()
        (tmp_path / ".manymask.predict.jsonl").write_text('["b", "01')
        write_file(tmp_path / "a", "own")
        check_outputs(tmp_path, "predict", ["a", "b"])

    def test_nothing_of_the_call_before_is_left_beside_what_was_stopped(self, tmp_path):
        write(tmp_path, "predict", "a", "b", "labels/1.tif")
        with pytest.raises(IsADirectoryError), record_outputs(tmp_path, "predict", ["a", "b", "labels/1.tif"]):
            [path.write_text("new") for path in (tmp_path / "a", tmp_path)]
        assert list_names(tmp_path) == ["a"]
        assert (tmp_path / "a").read_text() == "new"

    def test_two_calls_at_the_same_time_keep_both_records(self, tmp_path):
        with record_outputs(tmp_path, "report", ["a.html"], is_whole=False):
            write(tmp_path, "report", "b.html", is_whole=False)
            (tmp_path / "a.html").write_text("own")
        check_outputs(tmp_path, "report", ["a.html", "b.html"])
        assert list_writers(tmp_path) == {"a.html": "report", "b.html": "report"}

    @pytest.mark.parametrize("name", ["evaluation.json", "predictions.json"])
    def test_outputs_of_versions_without_a_record(self, tmp_path, name):
        (tmp_path / "evaluation.json").write_text('{"per_image": [], "notes": []}')
        (tmp_path / "other.json").touch()
        check_outputs(tmp_path, "evaluate", [name])
        for command, file in (("evaluate", "other.json"), ("predict", "evaluation.json")):
            with pytest.raises(PlanError, match=f"{file} is not as"):
                check_outputs(tmp_path, command, [file])

    @pytest.mark.parametrize(
        "record", ['{"predict": {"../precious": null}}', "[]", '{"predict": 1}', '{"predict": "a"}', "cut sh"]
    )
    def test_a_record_of_somebody_else(self, tmp_path, record):
        (tmp_path / "precious").write_text("precious")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / RECORD_NAME).write_text(record)
        with pytest.raises(PlanError, match=r"\.manymask\.json is not as manymask wrote it; remove it"):
            write(tmp_path / "out", "predict", "a")
        assert (tmp_path / "precious").read_text() == "precious"


class TestPlaces:
    def test_a_file_where_a_folder_is_needed(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ManymaskError, match="a file is where a folder is needed"):
            check_outputs(tmp_path / "file" / "out", "predict", ["a"])

    def test_names_up_to_the_limit_of_the_file_system(self, tmp_path):
        longest = "x" * 251 + ".csv"
        write(tmp_path, "predict", longest)
        write(tmp_path, "predict", longest, text="new")
        assert (tmp_path / longest).read_text() == "new"
        with pytest.raises(ManymaskError, match="the name is longer than the file system allows; rename the image"):
            check_outputs(tmp_path / "new", "predict", [f"labels/x{longest}"])

    def test_nothing_is_left_of_a_check(self, tmp_path):
        check_outputs(tmp_path / "a" / "b", "predict", ["labels/1.tif"])
        assert not any(tmp_path.iterdir())


class TestReading:
    def test_folders_of_outputs_are_known(self, tmp_path):
        write(tmp_path, "predict", "labels/1.tif", "overlays/1.png", "predictions.json")
        write(tmp_path / "inspection", "inspect", "findings.json", "fingerprint.json")
        write(tmp_path / "results" / "new", "compare", "comparison.csv", "curves/loss.png")
        (tmp_path / "runs" / "a" / "curves").mkdir(parents=True)
        (tmp_path / "runs" / "a" / "curves" / "loss.png").touch()
        (tmp_path / "runs" / "a" / "plan.json").write_text('{"data": {"path": "."}}')
        (tmp_path / "runs" / "b").mkdir()
        (tmp_path / "runs" / "b" / ".lock").touch()
        assert drop_outputs([path for path in tmp_path.iterdir() if path.is_dir()]) == []

    def test_folders_with_anything_of_the_user_are_data(self, tmp_path):
        write(tmp_path, "predict", "labels/1.tif", "labels/2.tif")
        (tmp_path / "labels" / "1.tif").write_text("corrected")
        write(tmp_path / "cell", "evaluate", "evaluation.json")
        (tmp_path / "cell" / "image.tif").touch()
        (tmp_path / "empty").mkdir()
        (tmp_path / "plan").mkdir()
        (tmp_path / "plan" / "plan.json").write_text('{"data": null}')
        folders = [tmp_path / name for name in ("labels", "cell", "empty", "plan")]
        assert drop_outputs(folders) == folders

    def test_copied_outputs_are_known(self, tmp_path):
        write(tmp_path / "a", "predict", "labels/1.tif")
        (tmp_path / "a").rename(tmp_path / "b")
        assert drop_outputs([tmp_path / "b" / "labels"]) == []


def test_is_unused(tmp_path):
    (tmp_path / RECORD_NAME).touch()
    assert is_unused(tmp_path)
    assert is_unused(tmp_path / "new")
    (tmp_path / "file").touch()
    assert not is_unused(tmp_path)
    assert not is_unused(tmp_path / "file")
