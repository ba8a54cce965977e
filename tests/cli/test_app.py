import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
from typer.testing import CliRunner

import manymask
from manymask.cli.app import app, main
from manymask.core import Category, merge_views
from manymask.errors import PlanError
from manymask.formats import read_dataset
from manymask.modeling import catalogue
from manymask.outputs import OUTPUTS
from manymask.plan import SETTINGS, make_plan, parse_settings, read_plan
from manymask.planning.rules import RULES
from manymask.prediction import views
from tests.cells import lose, write_cells, write_results
from tests.formats.format_files import make_coco
from tests.tiny_model import ship, write_tiny_model

PROGRAM = "import sys; from manymask.cli import main; main()"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the program in this process; gives exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["manymask", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


def run_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_one_line(result: tuple[int, str, str], *parts: str) -> None:
    """Exit code 2, and one line on stderr that begins with error: and holds the parts."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    for part in parts:
        assert part in err


def test_is_a_module_too():
    command = [sys.executable, "-m", "manymask", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == manymask.__version__


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three class folders that the command synthetic makes."""
    folder = tmp_path_factory.mktemp("data") / "cells"
    sizes = ["--images", "3", "--size", "48", "--instances", "8", "--classes", "2", "--diameter", "9"]
    result = CliRunner().invoke(app, ["synthetic", str(folder), *sizes])
    assert result.exit_code == 0
    assert result.stdout.startswith("3 images with ")
    assert f"of 2 classes written to {folder}" in result.stdout
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_tiny_model(folder / "last.ckpt")
    return folder


def test_plan_leaves_files_of_others_alone(run, data, tmp_path):
    (tmp_path / "plan.json").write_text("edited")
    assert_one_line(run("plan", data, "--output", tmp_path / "plan.json"), "plan.json is not as manymask plan wrote it")
    assert_one_line(run("plan", data, "--output", tmp_path / "plan.json" / "x"), "a file is where a folder is needed")
    assert (tmp_path / "plan.json").read_text() == "edited"


def test_names_that_the_terminal_cannot_show(run, tmp_path):
    make_coco(tmp_path, [{"segmentation": [[1, 1, 5, 1, 3, 4]]}], categories=[{"id": 7, "name": "Zellk\u00f6rper"}])
    assert "Zellk\u00f6rper" in run("inspect", tmp_path)[1]
    command = [sys.executable, "-c", PROGRAM, "inspect", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert b"Zellk\\xf6rper" in done.stdout
    assert b"Traceback" not in done.stderr


def test_help_is_quick():
    """By the time of its process on a core: a machine that does other things beside the tests makes it wait."""

    def measure() -> float:
        before = os.times()
        assert "synthetic" in run_process("--help").stdout
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(measure() for _ in range(3)) < 1


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"], ["predict"]])
def test_help_loads_nothing_heavy(arguments):
    report = "import atexit, sys; atexit.register(lambda: print('loaded', {'torch', 'numpy'} & {*sys.modules}))"
    command = [sys.executable, "-c", f"{report}; {PROGRAM}", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "loaded set()" in found.stdout


def test_errors_of_a_real_process(tmp_path):
    found = run_process("inspect", tmp_path / "none")  # of all commands the one that loads least
    assert_one_line((found.returncode, found.stdout, found.stderr), "none does not exist")


def test_a_bug_keeps_its_traceback():
    code = "from manymask.cli.app import app, main\napp.command('crash')(lambda: 1 / 0)\nmain()"
    found = subprocess.run([sys.executable, "-c", code, "crash"], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "Traceback" in found.stderr
    assert "ZeroDivisionError" in found.stderr


def test_version(run):
    assert run("--version") == (0, f"{manymask.__version__}\n", "")


@pytest.mark.parametrize(
    "command",
    [
        *("train", "plan", "inspect", "evaluate", "compare", "experiment", "report", "predict", "models"),
        *("convert", "synthetic"),
    ],
)
def test_every_command_has_help(run, command):
    code, out, _ = run(command, "-h")
    assert code == 0
    assert f"manymask {command}" in out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--epohs", "3"], "there is no setting 'epohs'; did you mean 'epochs'?"),
        (["--set", "epohs=3"], "there is no setting 'epohs'; did you mean 'epochs'?"),
        (["--set", "epochs"], "expected name=value, found 'epochs'"),
        (["--set", "output=x"], "there is no setting 'output'"),
        (["--set", "data=x"], "there is no setting 'data'"),
        (["--epochs"], "--epochs needs a value; settings are given as --set name=value or --name value"),
        (["--epochs", "--seed", "1"], "--epochs needs a value"),
        (["--epochs", "3", "--set", "epochs=4"], "the setting 'epochs' is given twice"),
        (["--epochs", "three"], "epochs is 'three'"),
        (["--epochs", "-1"], "epochs is '-1'"),
        (["--learning-rate=0"], "learning_rate is '0'"),
        (["stray"], "there is nothing to do with 'stray'; see manymask train --help"),
        (["--recipe", "none"], "there is no recipe 'none'; there are: auto, baseline, or give the plan.json of a run"),
        (["--data-format", "png"], "data format 'png' does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, data, tmp_path, arguments, part):
    assert_one_line(run("train", data, "--output", tmp_path / "run", *arguments), part)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["DATA", "--set", "epochs=0"],
        ["DATA", "--epochs", "0"],
        ["DATA", "--epochs=0"],
        ["--epochs", "0", "DATA"],
        ["--set", "seed=3", "DATA", "--epochs", "0", "--batch-size", "2"],
        ["--epochs", "0", "--", "DATA"],
    ],
)
def test_all_ways_to_give_a_setting_are_the_same(run, data, arguments):
    result = run("train", *(str(data) if a == "DATA" else a for a in arguments))
    assert_one_line(result, "in the settings, epochs is '0': Input should be greater than or equal to 1")


def test_train_without_data(run):
    assert_one_line(run("train"), "expected a data set to train on; for example: manymask train data/train")


@pytest.mark.parametrize("name", ["with  two spaces", "[bold] and [/x] :smile:", "a" * 120 + " [1]", "back\\[x]"])
def test_paths_in_messages_are_as_given(run, tmp_path, name):
    assert_one_line(run("train", tmp_path / name), f"error: {tmp_path / name} does not exist; ")
    assert_one_line(run("predict", tmp_path / name, tmp_path), f"exported model at {tmp_path / name}, found nothing; ")


def test_a_message_of_several_lines_becomes_one(run, tmp_path):
    assert_one_line(run("train", tmp_path / "two\nlines"), "two lines does not exist")


OWN = [
    "--architecture",
    "maskrcnn_compact",
    "--backbone",
    "test_resnet",
    "--roi-samples=8",
    "--set",
    "num_workers=0",
    "--device",
    "cpu",
    "--precision=fp32",
]


def test_plan_explains_and_trains(run, data, tmp_path):
    code, out, _ = run("plan", data, *OWN, "--explain", "--output", tmp_path / "plan.json")
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    own = {"architecture", "backbone", "roi_samples", "num_workers", "device", "precision"}
    shown = own | {rule.setting for rule in RULES}
    assert sorted(row[0] for row in rows if row[0]) == sorted(shown)
    assert f"No rule decides the other {len(SETTINGS) - len(shown)} settings" in out
    assert {row[0] for row in rows if row[2] == "set by you"} == own
    assert out.endswith(f"written to {tmp_path / 'plan.json'}\n")
    plan = read_plan(tmp_path / "plan.json")
    assert (plan.recipe, plan.backbone, plan.data) == ("auto", "test_resnet", None)
    short = ["--max-steps", "1", "--batch-size", "2", "--output", tmp_path / "run"]
    assert run("train", data, "--recipe", tmp_path / "plan.json", *short)[0] == 0
    assert read_plan(tmp_path / "run" / "plan.json").anchor_sizes == plan.anchor_sizes


def test_plan_prints_settings_as_they_can_be_set(run, data, tmp_path):
    code, out, _ = run("plan", data, "--recipe", "baseline", "--output", tmp_path / "plan.json", "--minutes", "none")
    assert code == 0
    settings = parse_settings(out.splitlines()[:-1])
    assert set(settings) == set(SETTINGS)
    assert make_plan("baseline", settings) == read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('{"epochs": 3, "epoch": 4}', "plan.json, epoch is 4: Extra inputs"),
        ('{"version": 2}', "plan.json, version is 2"),
    ],
)
def test_plan_files_that_do_not_fit(run, data, tmp_path, content, part):
    (tmp_path / "plan.json").write_text(content)
    for command in ("plan", "train"):
        assert_one_line(run(command, data, "--recipe", tmp_path / "plan.json"), part)


def test_synthetic_leaves_what_is_there(run, data, tmp_path):
    assert_one_line(run("synthetic", data), f"{data} is not an empty folder; choose another")
    (tmp_path / "file").touch()
    assert_one_line(run("synthetic", tmp_path / "file"), "file is not an empty folder")


def test_predict_writes_everything(run, model, data, tmp_path):
    code, out, err = run("predict", model, data, "--output", tmp_path / "my [out]", "--score-threshold", "0.2")
    assert code == 0
    written = [Path(line.removeprefix("written to ")) for line in out.splitlines()]
    names = {path.name for path in written} - {"overlaps"}  # which is there if predictions overlap
    assert names == {"labels", "overlays", "predictions.json", "images.json"}
    assert all(path.exists() for path in written)
    assert sorted(path.name for path in (tmp_path / "my [out]" / "overlays").iterdir()) == [
        "0000.png",
        "0001.png",
        "0002.png",
    ]
    *warned, told = err.strip().splitlines()
    assert all("the cap of 12 detections is reached" in line for line in warned)
    assert re.fullmatch(r"3 images, \d+ instances with a score of 0\.2 or more", told)


def test_settings_before_the_arguments_and_some_formats(run, model, data, tmp_path):
    options = ["--detections-per-image", "2", "--format", "coco", "--device", "cpu", "--set", "device=cpu"]
    code, out, _ = run("predict", *options, model, data / "0001", "--output", tmp_path)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--format", "png"], f"there is no output format 'png'; choose one of {', '.join(OUTPUTS)}"),
        (["--epochs", "3"], "epochs is fixed by training"),
        (["--min_scor", "3"], "there is no setting 'min_scor'; did you mean 'min_score'?"),
        (["--device", "tpu"], "device is 'tpu', expected auto, cpu, cuda or cuda:N"),
        (["--ids", "none.json"], "none.json does not exist"),
    ],
)
def test_errors_of_predict(run, model, data, tmp_path, arguments, part):
    assert_one_line(run("predict", model, data, "--output", tmp_path / "out", *arguments), part)
    assert not (tmp_path / "out").exists()


def test_evaluate_prints_a_table_and_writes_beside_the_model(run, model, data):
    code, out, err = run("evaluate", model, data)
    assert code == 0
    assert all(line.startswith("warning: ") for line in err.strip().splitlines())
    scores = json.loads((model / "evaluation" / "evaluation.json").read_text())
    assert scores["num_images"] == 3
    assert "3 images, at most 12 detections each, or each tile" in out
    for name in ("all", "class1", "class2", "long", "mask AP", "box AP"):
        assert name in out
    assert "AP(0.5) = TP/(TP+FP+FN)" in out
    assert f"written to {model / 'evaluation' / 'evaluation.json'}" in out


def test_classes_with_brackets_stay_in_the_table(run, data, tmp_path):
    write_tiny_model(tmp_path / "a.ckpt", categories=(Category(1, "round"), Category(9, "[red]x[/]")))
    code, out, _ = run("evaluate", tmp_path / "a.ckpt", data, "--output", tmp_path / "out")
    assert code == 0
    assert "[red]x[/]" in out
    assert (tmp_path / "out" / "evaluation.json").is_file()


def test_a_broken_image_among_many_is_passed_over_and_a_region_is_predicted(run, model, data, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(data, images)
    (images / "0001" / "image.tif").write_bytes(b"no image")
    code, _, err = run("predict", model, images, "--output", tmp_path / "out", "--region", "4,8,40,30")
    assert code == 1
    assert "error: 1 of 3 images could not be predicted; the results of the others are in " in err
    assert tifffile.imread(tmp_path / "out" / "labels" / "0002.tif").shape == (30, 40)


@pytest.fixture(scope="module")
def results(data, tmp_path_factory) -> list[Path]:
    """COCO results for the data, all of them and a half."""
    folder, dataset = tmp_path_factory.mktemp("results"), read_dataset(data)
    return [write_results(folder / "good.json", dataset), write_results(folder / "poor.json", dataset, lose(2))]


def test_evaluate_writes_beside_the_predictions(run, data, results):
    code, out, err = run("evaluate", results[0], data, "--score-threshold", "0.7", "--set", "detections_per_image=4")
    assert code == 0
    path = results[0].parent / "evaluation" / "evaluation.json"
    assert f"written to {path}" in out
    scores = json.loads(path.read_text())
    assert (scores["score_threshold"], scores["detections_per_image"]) == (0.7, 4)
    assert "warning: Only 3 images: the intervals are rough, and often too short.\n" in err


def test_a_device_can_be_given_as_a_setting_too(run, model, data, tmp_path):
    arguments = (model, data, "--set", "device=cpu", "--device", "auto", "--output")
    assert run("evaluate", *arguments, tmp_path)[0] == 0
    assert run("report", *arguments, tmp_path / "report.html")[0] == 0


@pytest.mark.parametrize("command", ["evaluate", "report", "compare"])
def test_groups_can_be_given_as_a_setting_too(run, data, results, tmp_path, command):
    """All images are one group, of which no interval can be drawn."""
    sources = (*results, "--data", data) if command == "compare" else (results[0], data)
    notes = []
    for number, option in enumerate([("--group-by", "0"), ("--set", "group_by=0"), ("--set", "group_by=none")]):
        code, _, err = run(command, *sources, "--output", tmp_path / str(number), *option)
        assert code == 0
        notes.append(err)
    assert notes[0] == notes[1] != notes[2]
    assert_one_line(run(command, *sources, "--set", "group_by=["), "'[' is not a regular expression")


def test_compare_prints_who_is_better_and_writes(run, data, results, tmp_path):
    code, out, err = run("compare", *reversed(results), "--data", data, "--output", tmp_path / "out")
    assert code == 0
    assert "can be told on fewer than 8 images or groups: mask AP50 of good.json minus that of poor.json is +" in out
    assert "By F1 good.json wins 3 images against poor.json, loses 0, ties 0.\n" in out
    assert "3 images: value [95 % interval]" in out
    assert out.endswith(f"written to {tmp_path / 'out' / 'comparison.md'}\n")
    assert err == "warning: Only 3 images: the intervals are rough, and often too short.\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["evaluate", "GOOD"], "good.json is no run folder, so it does not say what to score on; give the data"),
        (["evaluate", "none.json", "DATA"], "or a folder of label images at none.json, found nothing"),
        (["evaluate", "DATA", "DATA"], "holds no predictions"),
        (["evaluate", "GOOD", "OTHER"], "are not in"),
        (["evaluate", "TWICE", "DATA"], "entry 0, as in a file that was joined with itself"),
        (["evaluate", "SIZE", "DATA"], "size [10, 10]"),
        (["evaluate", "CLASS", "DATA"], "holds category_id 77, but "),
        (["evaluate", "GOOD", "DATA", "--min-score", "0.1"], "already made, so min_score cannot act on them"),
        (["evaluate", "GOOD", "DATA", "--group-by", "["], "--group-by '[' is not a regular expression"),
        (["evaluate", "GOOD", "DATA", "--group-by", "x"], "--group-by 'x' finds nothing in the image name '0000'"),
        (["evaluate", "GOOD", "DATA", "--epohs", "1"], "there is no setting 'epohs'"),
        (["compare", "GOOD", "--data", "DATA"], "expected two or more runs or sets of predictions"),
        (["compare", "GOOD", "GOOD", "--data", "DATA"], "good.json is given twice"),
        (["compare", "GOOD", "SIZE"], "good.json is no run folder, so it does not say what to score on; give --data"),
        (["compare", "GOOD", "CLASS", "--data", "DATA"], "holds category_id 77, but "),
        (["compare", "GOOD", "MODEL", "--data", "nowhere"], "nowhere does not exist"),
        (["experiment", "DATA", "--vary", "scheduler"], "expected name=value,value with different values"),
        (["experiment", "DATA", "--vary", "scheduler=none,x"], "scheduler is 'x'"),
        (["experiment", "DATA", "--vary", "epochs=1,2", "--seeds", "a"], "--seeds is 'a', expected whole numbers"),
        (["experiment", "DATA", "--vary", "epochs=1,2", "--seed", "1"], "seed differs from run to run"),
        (["experiment", "nowhere", "--vary", "epochs=1,2"], "nowhere does not exist"),
    ],
)
def test_errors_of_evaluate_compare_and_experiment(run, model, data, results, tmp_path, arguments, part):
    good = json.loads(results[0].read_text())
    rle = {"size": [10, 10], "counts": [100]}
    changed = {"TWICE": good * 2, "SIZE": [{**good[0], "segmentation": rle}], "CLASS": [{**good[0], "category_id": 77}]}
    for name, entries in changed.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    places = {"GOOD": results[0], "MODEL": model, "DATA": data} | {name: tmp_path / f"{name}.json" for name in changed}
    if "OTHER" in arguments:
        places["OTHER"] = write_cells(tmp_path / "other", 1, 2).root
    command, *others = (places.get(argument, argument) for argument in arguments)
    assert_one_line(run(command, *others, "--output", tmp_path / "out"), part)
    assert not (tmp_path / "out").exists()


def test_experiment_needs_settings_to_vary_and_a_folder(run, data):
    code, _, err = run("experiment", data)
    assert code == 2
    assert "Missing option" in err


def test_experiment_prints_the_comparison(run, data, results, tmp_path, monkeypatch):
    """The command hands on what it was given; the next test trains."""
    calls = []

    def record(data, **options):
        calls.append((data, options))
        return manymask.compare(results, data, output=options["output"], draws=10)

    monkeypatch.setattr("manymask.comparison.experiment", record)
    options = ["--vary", "scheduler=none,cosine", "--vary", "epochs=1,2", "--seeds", "4, 5", "--batch-size", "3"]
    code, out, _ = run("experiment", data, *options, "--output", tmp_path, "--group-by", ".")
    assert code == 0
    assert "poor.json wins 0 images against good.json, loses 3" in out
    ((_, given),) = calls
    assert given["vary"] == ["scheduler=none,cosine", "epochs=1,2"]
    assert (given["seeds"], given["settings"], given["group_by"]) == ([4, 5], {"batch_size": "3"}, ".")


@pytest.mark.parametrize("option", [("--group-by", r"^\d{3}"), ("--set", r"group_by=^\d{3}")])
def test_groups_of_an_experiment_reach_its_runs(run, data, tmp_path, option):
    """All three images are of one group, so that none can be held out."""
    options = ("--vary", "learning_rate=0.1,0.2", "--recipe", "baseline", "--weights", "none", *option)
    arguments = ("experiment", data, *options, "--output", tmp_path / "e")
    code, _, err = run(*arguments)
    assert (code, err.splitlines()[-1][:6]) == (2, "error:")
    assert "group_by puts all 3 images of" in err


@pytest.fixture
def tiny(model, tmp_path, monkeypatch) -> str:
    """The name of a shipped model; the working folder is empty."""
    ship(model / "last.ckpt", tmp_path / "models", "tiny")
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path / "models")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return "tiny"


def test_models_are_listed_with_their_cards(run, tiny):
    code, out, _ = run("models")
    size = (catalogue.FOLDER / "tiny.safetensors").stat().st_size
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    own = ["5 M", "round, [long]", "6 to 42 pixels", "drawn cells", "CC0", "F1 0.1"]
    assert rows == [["tiny", f"{size / 1e6:.0f} MB", *own]]
    assert code == 0
    assert out.endswith("manymask predict NAME IMAGES, manymask train DATA --weights NAME\n")


def test_a_shipped_model_predicts_and_is_scored_by_name(run, tiny, data):
    assert run("predict", tiny, data / "0001", "--format", "coco")[0] == 0
    assert len(json.loads(Path("out/predictions.json").read_text())) > 0
    code, out, _ = run("evaluate", tiny, data)
    assert code == 0
    assert out.endswith("written to evaluation/evaluation.json\n")
    assert run("report", tiny, data)[0] == 0
    assert Path("report.html").is_file()


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_shipped_model_leaves_the_run_alone_whose_folder_is_worked_in(run, tiny, data, command):
    Path("plan.json").write_text("{}")
    assert_one_line(run(command, tiny, data), "is a run, which tiny is no part of; give an --output elsewhere")
    assert [path.name for path in Path().iterdir()] == ["plan.json"]


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_scores_of_a_shipped_model_need_data(run, tiny, command):
    assert_one_line(run(command, tiny), "tiny is a shipped model, which holds no images to score on; give the data")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ["train", "DATA", "--weights", "tinny"],
            "weights is 'tinny', expected coco, imagenet, none, tiny, a run folder or a file",
        ),
        (
            ["predict", "tinny", "DATA"],
            "the name of a shipped model (tiny), a run folder, a checkpoint or an exported model at tinny",
        ),
        (["evaluate", "tinny", "DATA"], "a shipped model's name, a .json file of COCO results or a folder of"),
    ],
)
def test_names_that_no_model_has(run, tiny, data, arguments, part):
    assert_one_line(run(*(data if argument == "DATA" else argument for argument in arguments)), part)
    assert not any(Path().iterdir())


def test_plan_takes_over_what_a_shipped_model_was_made_for(run, tiny, data):
    code, out, _ = run("plan", data, "--weights", tiny, "--device", "cpu", "--num-workers", "0", "--batch-size", "2")
    assert code == 0
    settings = parse_settings(out.splitlines())
    assert (settings["weights"], settings["architecture"], settings["backbone"]) == (
        "tiny",
        "maskrcnn_compact",
        "test_resnet",
    )


@pytest.mark.filterwarnings("ignore:.*a view of the image reached the cap")
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_tta(run, model, data, tmp_path, monkeypatch, command):
    """The flag and the setting are the same."""
    views = []
    monkeypatch.setattr("manymask.prediction.views.TTA_FLIPS", ((False, False), (True, False)))
    merge = "manymask.prediction.views.merge_views"
    monkeypatch.setattr(merge, lambda found: views.append(len(found)) or merge_views(found))
    for number, (options, num_images) in enumerate([((), 0), (("--tta",), 3), (("--set", "tta=true"), 6)]):
        assert run(command, model, data, "--output", tmp_path / str(number), *options)[0] == 0
        assert views == [4] * num_images


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("value", ["auto", "400"])
def test_object_size(run, tiny, data, tmp_path, monkeypatch, command, value):
    """The option and the setting are the same, and a shipped model of before has its sizes from its card."""
    factors = []
    list_views = views.list_views
    monkeypatch.setattr(
        views,
        "list_views",
        lambda *args, factor, **rest: factors.append(factor) or list_views(*args, factor=factor, **rest),
    )
    seen = []
    for number, options in enumerate([("--object-size", value), ("--set", f"object_size={value}")]):
        code, _, err = run(command, tiny, data, "--output", tmp_path / str(number), *options)
        assert code == 0
        assert err.count("times its size") == (3 if value == "auto" else 0)
        seen.append(tuple(factors))
        factors.clear()
    assert seen[0] == seen[1]
    assert (0.1 in seen[0]) == (value == "400")  # 24 / 400 is less than the smallest


def test_object_size_needs_to_know_those_of_training(run, model, data):
    assert_one_line(run("predict", model, data, "--object-size", "auto"), "does not say how large its training objects")


def test_errors_reach_callers_of_the_app_as_they_are():
    result = CliRunner().invoke(app, ["train", "nowhere", "--epohs", "3"])
    assert isinstance(result.exception, PlanError)


def test_convert(run, data, tmp_path):
    code, out, err = run("convert", data, "--to", "labelme", "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    dataset, copy = read_dataset(data), read_dataset(tmp_path / "out")
    number = sum(len(sample.to_instances()) for sample in dataset)
    assert copy.format.name == "labelme"
    assert sum(len(sample.to_instances()) for sample in copy) == number
    assert out == f"{len(dataset)} images with {number} objects written to {tmp_path / 'out'}\n"
    code, out, _ = run("convert", tmp_path / "out", "--to", "cellpose", "--output", tmp_path / "pairs")
    assert code == 0
    assert out.startswith("lost: classes: all objects are of one class now; they were ")
    assert_one_line(run("convert", data, "--to", "voc", "--output", tmp_path / "no"), "cannot write data format 'voc'")
    assert_one_line(run("convert", data, "--to", "coco", "--output", data), "is not an empty folder; choose another")
