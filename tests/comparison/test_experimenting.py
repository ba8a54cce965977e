import shutil
from pathlib import Path

import pytest

from manymask.comparison import experiment
from manymask.comparison.experimenting import list_variants
from manymask.errors import CheckpointError, DatasetError, ManymaskError, PlanError
from manymask.plan import read_plan
from tests.training.runs import SETTINGS, find_differences, make_data, read_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TINY = {name: value for name, value in SETTINGS.items() if name != "learning_rate"} | {"val_fraction": 0.4}
VARY = ["learning_rate=0.001,0.002"]
NAMES = ["learning_rate=0.001", "learning_rate=0.002"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Five images; two of them are held out."""
    return make_data(tmp_path_factory.mktemp("data") / "cells", 5)


def begin(
    images, output, *, vary=VARY, seeds=(0,), recipe="baseline", val=None, data_format=None, group_by=None, **settings
):
    places = {"recipe": recipe, "val": val, "data_format": data_format, "group_by": group_by}
    return experiment(images, output=output, vary=vary, seeds=seeds, settings=TINY | settings, **places)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """An experiment of two variants with one seed and two epochs each, and what it returned."""
    folder = tmp_path_factory.mktemp("experiments") / "rates"
    yield folder, begin(images, folder)
    shutil.rmtree(folder)


def list_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")}


def test_all_variants_are_trained_and_compared(finished):
    folder, result = finished
    plans = [read_plan(folder / name / "seed_0" / "plan.json") for name in NAMES]
    assert [(plan.learning_rate, plan.seed, plan.epochs) for plan in plans] == [(0.001, 0, 2), (0.002, 0, 2)]
    assert len({plan.data.val_names for plan in plans}) == 1
    assert [variant["name"] for variant in result["variants"]] == NAMES
    assert (result["num_images"], result["unit"]) == (2, "2 images")
    assert any("one run only" in note for note in result["notes"])
    for name in ("comparison.csv", "comparison.md", "curves/loss.png", "curves/map.png", "experiment.json"):
        assert (folder / name).is_file()


def test_other_settings_are_refused_by_name(finished, images, tmp_path):
    folder, _ = finished
    before = list_times(folder)
    for changes, message in [
        ({"epochs": 3}, r"rates began with epochs 2, not 3; go on with the same, or choose another --output"),
        ({"momentum": 0.5}, "began with momentum by default, not 0.5"),
        ({"vary": ["learning_rate=0.001,0.003"]}, r"variants .*0.001 and .*0.002, not .*0.001 and .*0.003"),
        ({"val": images}, "began with val by default, not "),
    ]:
        with pytest.raises(PlanError, match=message):
            begin(images, folder, **changes)
    with pytest.raises(PlanError, match="began with data .*cells, not .*other"):
        begin(make_data(tmp_path / "other", 2), folder)
    fewer = {name: value for name, value in TINY.items() if name != "roi_samples"}
    with pytest.raises(PlanError, match="began with roi_samples 8, not by default"):
        experiment(images, output=folder, vary=VARY, seeds=[0], recipe="baseline", settings=fewer)
    assert list_times(folder) == before


def test_goes_on_where_it_was_killed(finished, images, tmp_path, caplog):
    """The second run has one of two epochs; a run of a seed that is not asked for now has none."""
    folder = shutil.copytree(finished[0], tmp_path / "rates")
    whole, cut = folder / NAMES[0] / "seed_0", folder / NAMES[1] / "seed_0"
    for name in ("best.ckpt", "last.ckpt", "checkpoints/epoch_002.ckpt"):
        (cut / name).unlink()
    shutil.copy(cut / "checkpoints" / "epoch_001.ckpt", cut / "last.ckpt")
    (folder / NAMES[0] / "seed_7").mkdir()
    shutil.copy(whole / "plan.json", folder / NAMES[0] / "seed_7")
    before = list_times(whole)
    assert begin(images, folder, num_workers=1)["variants"] == [
        {**v, "sources": [str(folder / v["name"] / "seed_0" / "last.ckpt")]} for v in finished[1]["variants"]
    ]
    assert list_times(whole) == before
    assert caplog.text.count("the run is complete: 2 of 2 epochs") == 1
    assert find_differences(finished[0] / NAMES[1] / "seed_0" / "last.ckpt", cut / "last.ckpt") == []
    assert [row["epoch"] for row in read_rows(cut)] == ["1", "2"]
    shutil.rmtree(folder)


@pytest.mark.slow
def test_more_seeds_later(finished, images, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "rates")
    result = begin(images, folder, seeds=[0, 3])
    for name, variant, earlier in zip(NAMES, result["variants"], finished[1]["variants"], strict=True):
        assert variant["sources"] == [str(folder / name / f"seed_{seed}" / "last.ckpt") for seed in (0, 3)]
        assert read_plan(folder / name / "seed_3" / "plan.json").seed == 3
        for metric, entry in variant["metrics"].items():
            assert entry["runs"][0] == earlier["metrics"][metric]["runs"][0]
    assert "2 seeds each" in result["comparisons"][0]["sentences"][0]
    shutil.rmtree(folder)


@pytest.mark.slow
def test_groups_are_held_out_whole(tmp_path):
    """Six images of three groups, whose names begin alike."""
    images = make_data(tmp_path / "cells", 6)
    for index, folder in enumerate(sorted(images.iterdir())):
        folder.rename(images / f"slide{index // 2}_{index % 2}")
    result = begin(images, tmp_path / "e", group_by=r"slide\d", epochs=1, val_fraction=0.2)
    for name in NAMES:
        plan = read_plan(tmp_path / "e" / name / "seed_0" / "plan.json")
        assert plan.group_by == r"slide\d"
        (held_out,) = {name[:6] for name in plan.data.val_names}
        assert not any(name.startswith(held_out) for name in plan.data.train_names)
    assert result["unit"] == "1 group"
    with pytest.raises(PlanError, match="began with group_by .*not by default"):
        begin(images, tmp_path / "e", epochs=1, val_fraction=0.2)
    shutil.rmtree(tmp_path / "e")


class TestVariants:
    def test_product(self):
        variants = list_variants(["scheduler=multistep, none", "batch-size=1,2"])
        assert list(variants) == [
            "scheduler=multistep,batch_size=1",
            "scheduler=multistep,batch_size=2",
            "scheduler=none,batch_size=1",
            "scheduler=none,batch_size=2",
        ]
        assert variants["scheduler=none,batch_size=1"] == {"scheduler": "none", "batch_size": "1"}

    def test_files_of_weights_are_one_folder(self):
        variants = list_variants(["weights=coco,runs/a/best.ckpt"])
        assert variants == {
            "weights=coco": {"weights": "coco"},
            "weights=runs_a_best.ckpt": {"weights": "runs/a/best.ckpt"},
        }

    @pytest.mark.parametrize(
        ("vary", "message"),
        [
            (["scheduler"], "expected name=value,value with different values, found 'scheduler'; as scheduler="),
            (["scheduler="], "found 'scheduler='"),
            (["=none,cosine"], "found '=none,cosine'"),
            (["scheduler=none,"], "found 'scheduler=none,'"),
            (["scheduler=none,none"], "found 'scheduler=none,none'"),
            (["epochs=1,2", "epochs=3,4"], "found 'epochs=3,4'"),
            (["scheduler=none"], "expected at least two variants"),
            ([], "expected at least two variants"),
            (["weights=a/b,a_b"], "expected at least two variants of different names"),
            (["seed=1,2"], "seed cannot be varied; seeds are given with --seeds 0,1,2"),
            (["device=cpu,cuda"], "device does not change the result"),
        ],
    )
    def test_refused(self, vary, message):
        with pytest.raises(PlanError, match=message):
            list_variants(vary)


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"vary": ["scheduler=none,step"]}, PlanError, "scheduler is 'step'"),
            ({"vary": ["shceduler=none,cosine"]}, PlanError, "no setting 'shceduler'; did you mean 'scheduler'"),
            ({"vary": ["epochs=1,2"]}, PlanError, "epochs differs from run to run, so it cannot be set for all"),
            ({"seed": 3}, PlanError, "seed differs from run to run"),
            ({"seeds": []}, PlanError, "seeds are none, expected one or more different numbers"),
            ({"seeds": [1, 1]}, PlanError, "seeds are 1, 1, expected"),
            ({"seeds": [0, -1]}, PlanError, "seed is -1"),
            ({"vary": ["learning_rate=0.1,0.10"]}, PlanError, "=0.1 and learning_rate=0.10 are the same; leave one"),
            ({"device": "cuda:77"}, PlanError, "device is cuda:77"),
            ({"recipe": "none"}, PlanError, "there is no recipe 'none'"),
            ({"weights": "nowhere.pt"}, CheckpointError, "weights is 'nowhere.pt'"),
            ({"group_by": "["}, PlanError, "group_by is '\\['"),
            ({"vary": ["group_by=0,1"]}, PlanError, "group_by changes which images are held out"),
            ({"vary": ["split_seed=0,1"]}, PlanError, "split_seed changes which images are held out"),
            ({"vary": ["crowd_as_objects=true,false"]}, PlanError, "crowd_as_objects changes what is scored"),
            ({"vary": ["ignore-label=255,none"]}, PlanError, "ignore_label changes what is scored"),
            ({"val": Path("nowhere")}, DatasetError, "nowhere does not exist"),
        ],
    )
    def test_before_anything_is_trained(self, images, tmp_path, changes, error, message):
        with pytest.raises(error, match=message):
            begin(images, tmp_path / "e", **changes)
        assert not (tmp_path / "e").exists()

    def test_groups_are_those_of_the_validation_set(self, images, tmp_path):
        val = tmp_path / "val"
        shutil.copytree(images, val)
        for folder in sorted(val.iterdir()):
            folder.rename(val / f"slide_{folder.name}")
        with pytest.raises(DatasetError, match="slide_0000"):
            begin(images, tmp_path / "e", val=val, group_by=r"^(\d)")
        with pytest.raises(PlanError, match="seeds are none"):  # names of training images need not fit
            begin(images, tmp_path / "e", val=val, group_by=r"slide_(\d+)", seeds=[])
        assert not (tmp_path / "e").exists()

    def test_settings_that_only_fit_together(self, images, tmp_path):
        """``maskrcnn_fpn`` needs a backbone, which only the variants have; the next thing that is wrong is found."""
        with pytest.raises(PlanError, match="no_such_net"):
            experiment(
                images,
                vary=["backbone=test_resnet,no_such_net"],
                output=tmp_path / "e",
                settings={"architecture": "maskrcnn_fpn", "weights": "none"},
            )

    def test_other_folders_are_left_alone(self, images, tmp_path):
        (tmp_path / "file").write_text("mine")
        for output in (tmp_path, tmp_path / "file"):
            with pytest.raises(PlanError, match="is not empty and holds no experiment; choose another --output"):
                begin(images, output)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_what_no_run_began_with_can_be_mended(self, images, tmp_path):
        """An experiment that ended before its first run is no reason to refuse the next."""
        (tmp_path / "empty").mkdir()
        for wrong in (tmp_path / "empty", tmp_path / "empty"):
            with pytest.raises(DatasetError, match="holds nothing"):
                begin(wrong, tmp_path / "e")
        with pytest.raises(ManymaskError, match="data format 'png'"):
            begin(images, tmp_path / "e", data_format="png")
