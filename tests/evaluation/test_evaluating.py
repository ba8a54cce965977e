import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manymask.core import Category, Dataset, encode_coco_rle
from manymask.errors import DatasetError, FormatError, ManymaskError, PlanError
from manymask.evaluation import evaluate
from manymask.evaluation.data import choose_reading, read_validation
from manymask.evaluation.predictions import find_training_images
from manymask.formats import read_dataset
from manymask.formats.class_folders import read_class_folders
from manymask.inspection import group_images
from manymask.metrics.record import read_evaluation
from manymask.plan import DataRecord, Plan, write_plan
from manymask.prediction import Model, load_model, predict, predict_files
from tests.cells import copy_truth, lose, write_cells, write_half_crowd, write_labels, write_results
from tests.formats.format_files import write_array
from tests.tiny_model import CATEGORIES, LARGER, make_tiny_plan, write_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # few images, a model that knows nothing


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Dataset:
    """Three labelled images of two classes."""
    return write_cells(tmp_path_factory.mktemp("data") / "cells")


def score(source, data, *, draws=10, output=None, group_by=None, progress=None, **settings):
    places = {"output": output, "group_by": group_by, "progress": progress}
    return evaluate(source, data, draws=draws, settings=settings, **places)


def count_objects(scores) -> int:
    return sum(row.num_instances for row in scores.per_image)


def has_note(scores, *parts: str) -> bool:
    return any(all(part in note for part in parts) for note in scores.notes)


def write_predictions_as_truth(model: Model, root: Path, categories: tuple[Category, ...]) -> Path:
    """A COCO data set whose objects are the model's own predictions; label i + 1 is the i-th category."""
    (root / "images").mkdir(parents=True)
    paths, images, annotations = [root / "images" / f"{name}.png" for name in "ab"], [], []
    for seed, path in enumerate(paths):
        pixels = np.random.default_rng(seed).integers(0, 256, (36 + 4 * seed, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    for image_id, (path, instances) in enumerate(
        zip(paths, predict(model, paths, min_score=0.0), strict=True), start=1
    ):
        height, width = instances.size
        images.append({"id": image_id, "file_name": path.name, "height": height, "width": width})
        for label, rle in zip(instances.labels, encode_coco_rle(instances.runs), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": categories[label - 1].id}
            annotations.append({**entry, "segmentation": rle, "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [c.__dict__ for c in categories]}
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def write_ignored(root: Path, value: int) -> Path:
    """An image of 40 x 40 with an object of class 1; the ten columns on its left are of the value in both classes."""
    labels = np.zeros((40, 40), dtype="int32")
    labels[:, :10] = value
    write_array(root / "a" / "class2.tif", labels)
    labels[10:30, 20:35] = 1
    write_array(root / "a" / "class1.tif", labels)
    write_array(root / "a" / "image.tif", np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype="uint8"))
    return root


class TestModel:
    @pytest.fixture(scope="class")
    def model_of_both_classes(self, tmp_path_factory) -> Model:
        return load_model(write_tiny_model(tmp_path_factory.mktemp("larger") / "best.ckpt", **LARGER))

    @pytest.mark.parametrize(
        "categories",
        [CATEGORIES, (Category(7, "round"), Category(3, "long")), (Category(2, "disc"), Category(5, "rod"))],
        ids=["same", "other ids", "other names"],
    )
    def test_predictions_as_truth_score_one(self, model_of_both_classes, tmp_path, categories):
        data = write_predictions_as_truth(model_of_both_classes, tmp_path / "data", categories)
        scores = score(model_of_both_classes, data, output=tmp_path / "out")
        assert scores.get_value(("mask", "AP")) == pytest.approx(1)
        assert scores.box.AP50 > 0.9  # the masks do not quite fill the boxes
        assert all(scores.mask.per_class[category.name].num_instances > 0 for category in categories)
        results = json.loads((tmp_path / "out" / "predictions.json").read_text())
        assert {result["category_id"] for result in results} == {category.id for category in categories}
        assert read_evaluation(tmp_path / "out" / "evaluation.json") == scores

    def test_scores_say_what_they_are_of(self, model, tmp_path):
        calls = []
        data = write_predictions_as_truth(model, tmp_path / "data", CATEGORIES)
        scores = score(model, read_dataset(data), progress=lambda *call: calls.append(call))
        assert (scores.model, scores.data) == (str(model.source), str(data))
        assert (scores.min_score, scores.score_threshold, scores.detections_per_image) == (0.05, 0.3, 12)
        assert scores.num_images == 2
        assert calls == [(1, 2, "scoring"), (2, 2, "scoring")]
        assert set(tmp_path.iterdir()) == {data}

    def test_folder_checkpoint_and_model_are_the_same(self, run, model, cells):
        expected = score(model, cells)
        assert score(run, str(cells.root)) == expected
        assert score(str(model.source), cells) == expected

    def test_its_own_predictions_score_the_same(self, model, tmp_path):
        data = write_predictions_as_truth(model, tmp_path / "data", CATEGORIES)
        expected = score(load_model(model.source, settings={"min_score": 0.2}), data, output=tmp_path / "out")
        found = score(tmp_path / "out", data, score_threshold=0.3)
        file = tmp_path / "out" / "predictions.json"
        assert score(file, data, score_threshold=0.3) == found.model_copy(update={"predictions": str(file)})
        assert found.predictions == str(tmp_path / "out")
        differing = {name for name, value in expected if getattr(found, name) != value}
        assert differing == {"model", "predictions", "min_score", "detections_per_image", "notes"}

    def test_what_predict_wrote_scores_the_same(self, model, cells, tmp_path):
        expected = score(model, cells)
        predict_files(model, cells.root, tmp_path, formats=["coco", "labels"])
        for entry in json.loads((tmp_path / "predictions.json").read_text()):
            assert entry["category_id"] in (2, 5)
        data = replace(cells, categories=(Category(2, "round"), Category(5, "long")))
        data = replace(data, read_record=partial(_read_as, cells.categories))
        found = score(tmp_path, data, score_threshold=0.3)
        assert found.num_predictions == expected.num_predictions
        assert score(tmp_path / "labels", data).num_predictions <= found.num_predictions

    def test_classes_that_only_the_model_has_are_listed_without_a_score(self, model, tmp_path):
        data = write_predictions_as_truth(model, tmp_path / "data", (Category(4, "a"), Category(6, "b")))
        scores = score(model, data)
        assert list(scores.mask.per_class) == ["a", "b", "round", "long"]
        assert scores.mask.AP == 0
        assert scores.mask.per_class["round"].AP is None

    def test_says_that_classes_do_not_meet(self, model, cells):
        strangers = tuple(Category(90 + i, f"x{i}") for i in range(len(cells.categories)))
        data = replace(cells, categories=strangers, read_record=partial(_read_as, cells.categories))
        with pytest.warns(UserWarning, match="do not meet, by name or by id"):
            score(model, data)

    def test_a_one_class_model_on_data_of_two_is_scored_as_one(self, cells, tmp_path):
        path = write_tiny_model(tmp_path / "best.ckpt", (Category(1, "nucleus"),))
        scores = score(path, cells, output=tmp_path / "out")
        assert list(scores.mask.per_class) == ["instance"]
        assert scores.mask.per_class["instance"].num_instances == sum(len(s.to_instances()) for s in cells)
        assert has_note(scores, "(nucleus)", "(class1, class2)", "instances of all classes are scored as one")
        predict_files(path, cells.root, tmp_path / "found", formats=["labels"])
        labels = score(tmp_path / "found", cells, score_threshold=0.3)
        assert labels.num_predictions > 0
        assert labels.mask.per_class.keys() == {"instance"}
        predict_files(path, cells.root, tmp_path / "results", formats=["coco"])
        assert has_note(score(tmp_path / "results", cells), "are of category_id 1 and are scored as class1, one of 2 ")
        assert has_note(labels, "(nucleus)", "(class1, class2)", "instances of all classes are scored as one")

    def test_own_label_images_are_scored_on_data_of_one_class_by_another_name(self, tmp_path):
        data = write_cells(tmp_path / "data", num_classes=1)
        path = write_tiny_model(tmp_path / "best.ckpt", (Category(1, "nucleus"),))
        predict_files(path, data.root, tmp_path / "found", formats=["labels"])
        scores = score(tmp_path / "found", data, score_threshold=0.3)
        assert scores.num_predictions > 0
        assert has_note(scores, "(nucleus) is taken for the data's only class (class1)")

    def test_settings(self, run, model, cells):
        assert score(run, cells, detections_per_image=2, score_threshold="0.9").detections_per_image == 2
        with pytest.raises(PlanError, match="is loaded keeps its settings; give min_score to load_model"):
            score(model, cells, min_score=0.3)
        with pytest.raises(PlanError, match="epochs is fixed by training"):
            score(run, cells, epochs=3)

    def test_nothing_to_score_on(self, model, cells):
        with pytest.raises(DatasetError, match="found none; there is nothing to score on"):
            score(model, cells.subset([]))

    def test_no_such_source(self, cells, tmp_path):
        with pytest.raises(DatasetError, match=r"expected a run folder, .*none\.json, found nothing$"):
            score(tmp_path / "none.json", cells)


def _read_as(categories, record, _):
    return read_class_folders(record.path.parents[1]).read_record(record, categories)


class TestCrowds:
    """Crowd regions count as objects where the model was trained so, or the user says so."""

    @pytest.mark.parametrize(
        ("trained", "settings", "num_objects"),
        [
            (False, {}, 2),
            (True, {}, 4),
            (False, {"crowd_as_objects": "true"}, 4),
            (True, {"crowd_as_objects": False}, 2),
        ],
    )
    def test_a_model(self, tmp_path, trained, settings, num_objects):
        data = write_half_crowd(tmp_path / "data")
        path = write_tiny_model(tmp_path / "best.ckpt", crowd_as_objects=trained)
        assert count_objects(score(path, data, **settings)) == num_objects
        assert count_objects(score(load_model(path, settings=settings), data)) == num_objects

    def test_files(self, tmp_path):
        data = write_half_crowd(tmp_path / "data")
        path = write_results(tmp_path / "a.json", read_dataset(data, crowd_as_objects=True))
        assert count_objects(score(path, data)) == 2
        assert count_objects(score(path, data, crowd_as_objects=True)) == 4

    def test_data_that_are_read_already(self, tmp_path):
        """The setting acts when data are read, and differently trained models can be scored on what is read."""
        dataset = read_dataset(write_half_crowd(tmp_path / "data"), crowd_as_objects=True)
        path = write_results(tmp_path / "a.json", dataset)
        assert count_objects(score(path, dataset)) == 4
        with pytest.raises(PlanError, match="is read already, so crowd_as_objects cannot act on it"):
            score(path, dataset, crowd_as_objects=False)

    def test_models_that_were_trained_differently_are_not_mixed(self, tmp_path):
        paths = [write_tiny_model(tmp_path / f"{flag}.ckpt", crowd_as_objects=flag) for flag in (True, False)]
        assert [choose_reading([path], {})["crowd_as_objects"] for path in paths] == [True, False]
        with pytest.raises(PlanError, match="different values of crowd_as_objects; set it to one"):
            choose_reading(paths, {})
        assert choose_reading(paths, {"crowd_as_objects": True})["crowd_as_objects"]


class TestIgnoredPixels:
    """What lies where labels are to be ignored costs nothing, whatever its class."""

    @pytest.fixture
    def predictions(self, tmp_path):
        """Those of all objects, and one of class 2 in the strip on the left that is to be ignored."""
        data = write_ignored(tmp_path / "data", -1)
        write_array(
            tmp_path / "guess" / "a" / "class2.tif", np.where(np.arange(40) < 10, 1, 0) * np.ones((40, 1), "u1")
        )
        shutil.copy(data / "a" / "class1.tif", tmp_path / "guess" / "a" / "class1.tif")
        shutil.copy(data / "a" / "image.tif", tmp_path / "guess" / "a" / "image.tif")
        dataset = read_dataset(tmp_path / "guess", ignore_label=-1)
        return write_results(tmp_path / "a.json", dataset, lambda sample: copy_truth(sample)[:2])

    def test_files(self, predictions, tmp_path):
        found = score(predictions, tmp_path / "data", ignore_label="-1")
        assert (count_objects(found), found.detection.precision) == (1, 1)
        background = score(predictions, write_ignored(tmp_path / "background", 0))
        assert (count_objects(background), background.detection.precision) == (1, 0.5)

    def test_a_model_remembers_it(self, tmp_path):
        data = write_ignored(tmp_path / "data", -1)
        path = write_tiny_model(tmp_path / "best.ckpt", ignore_label=(-1,))
        assert count_objects(score(path, data)) == 1
        with pytest.raises(FormatError, match="give --ignore-label -1 "):
            score(path, data, ignore_label="none")
        other = write_tiny_model(tmp_path / "other.ckpt")
        with pytest.raises(PlanError, match="different values of ignore_label; set it to one"):
            choose_reading([path, other], {})


class TestFiles:
    def test_truth_scores_one(self, cells, tmp_path):
        for source in (
            write_results(tmp_path / "a.json", cells),
            write_results(tmp_path / "b" / "predictions.json", cells).parent,
            write_labels(tmp_path / "c", cells, has_table=True),
        ):
            scores = score(source, cells)
            assert scores.mask.AP50 == scores.detection.F1 == 1  # overlap costs label images some pixels
            assert list(scores.mask.per_class) == ["class1", "class2"]
            assert scores.predictions == str(source)
            assert scores.detections_per_image is scores.min_score is None

    def test_labels_of_one_class_need_no_table(self, tmp_path):
        data = write_cells(tmp_path / "data", num_classes=1)
        scores = score(write_labels(tmp_path / "out", data, has_table=False), data)
        assert list(scores.mask.per_class) == ["class1"]
        assert scores.mask.AP50 == 1
        assert has_note(scores, "All scores are equal")

    def test_labels_without_classes_are_scored_as_one(self, cells, tmp_path):
        scores = score(write_labels(tmp_path, cells, has_table=False), cells)
        assert list(scores.mask.per_class) == ["instance"]
        assert scores.mask.AP50 == 1
        assert scores.mask.per_class["instance"].num_instances == sum(len(s.to_instances()) for s in cells)
        assert has_note(scores, str(tmp_path), "knows no classes")

    def test_images_without_predictions_are_all_missed(self, cells, tmp_path):
        scores = score(write_results(tmp_path / "a.json", cells, images=slice(1)), cells)
        missed = sum(len(cells[row].to_instances()) for row in (1, 2))
        assert missed == scores.detection.FN
        assert has_note(scores, "2 of 3 images have no predictions", "all missed: 0001, 0002")

    def test_score_threshold_and_cap(self, cells, tmp_path):
        path = write_results(tmp_path / "a.json", cells)  # scores from 0.9 to 0.6
        assert score(path, cells, score_threshold="0.95").detection.TP == 0
        scores = score(path, cells, score_threshold=0.89, detections_per_image=2)
        assert scores.num_predictions == 6
        assert scores.detection.TP == 3
        assert scores.score_threshold == 0.89

    @pytest.mark.parametrize(
        ("settings", "part"),
        [
            ({"min_score": 0.1}, "already made, so min_score cannot act on them; only score_threshold, detections"),
            ({"mask_threshold": 0.1}, "so mask_threshold cannot act"),
            ({"score_threshold": 2}, "score_threshold is 2"),
        ],
    )
    def test_settings_that_cannot_act(self, cells, tmp_path, settings, part):
        with pytest.raises(PlanError, match=part):
            score(write_results(tmp_path / "a.json", cells), cells, **settings)

    def test_only_the_scores_are_written(self, cells, tmp_path):
        scores = score(write_results(tmp_path / "a.json", cells), cells, output=tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["evaluation.json"]
        assert read_evaluation(tmp_path / "out" / "evaluation.json") == scores

    def test_files_of_predict_stay(self, model, cells, tmp_path):
        predict_files(model, cells.root, tmp_path / "out", formats=["coco"])
        before = (tmp_path / "out" / "predictions.json").read_bytes()
        with pytest.raises(PlanError, match=r"out/images\.json is not as manymask evaluate wrote it"):
            score(model, cells, output=tmp_path / "out")
        assert (tmp_path / "out" / "predictions.json").read_bytes() == before
        results = write_results(tmp_path / "out" / "others.json", cells)
        score(results, cells, output=tmp_path / "out")  # of files only the scores are written, so nothing is in the way
        assert (tmp_path / "out" / "evaluation.json").is_file()

    def test_predictions_that_evaluate_wrote_stay_when_they_are_scored(self, model, tmp_path):
        data = write_predictions_as_truth(model, tmp_path / "data", CATEGORIES)
        score(model, data, output=tmp_path / "out")
        before = (tmp_path / "out" / "predictions.json").read_bytes()
        score(tmp_path / "out" / "predictions.json", data, output=tmp_path / "out")
        assert (tmp_path / "out" / "predictions.json").read_bytes() == before
        score(model, data, output=tmp_path / "out")  # they are still known as its own

    def test_newer_label_images_are_scored_not_older_results(self, model, cells, tmp_path):
        predict_files(model, cells.root, tmp_path / "out")
        none = load_model(model.source, settings={"score_threshold": 1})
        predict_files(none, cells.root, tmp_path / "out", formats=["labels"])
        assert score(tmp_path / "out", cells).predictions == str(tmp_path / "out")
        assert score(tmp_path / "out", cells).counts == score(tmp_path / "out" / "labels", cells).counts

    @pytest.mark.parametrize("output", ["file/out", "file"])
    def test_a_place_that_cannot_be_written_is_found_first(self, model, cells, tmp_path, output):
        (tmp_path / "file").touch()
        with pytest.raises(ManymaskError, match="a file is where a folder is needed"):
            score(model, cells, output=tmp_path / output, progress=lambda *_: pytest.fail("an image was scored"))

    def test_other_images_classes_and_sizes_are_refused(self, cells, tmp_path):
        more, fewer = write_cells(tmp_path / "more", 4), write_cells(tmp_path / "one", 3, num_classes=1)
        cases = [
            (write_results(tmp_path / "a.json", more), cells, DatasetError, r"1 of the 4 images .* not in "),
            (write_results(tmp_path / "b.json", cells), fewer, FormatError, r"category_id 2, but .* 1 \(class1\)"),
            (write_labels(tmp_path / "c", cells, has_table=True), _shift(cells), DatasetError, "0000.tif"),
            (write_results(tmp_path / "d.json", cells), _shift(cells), FormatError, "entry 0.*size"),
        ]
        for source, data, error, message in cases:
            with pytest.raises(error, match=message):
                score(source, data)

    def test_an_entry_twice_is_refused(self, cells, tmp_path):
        path = write_results(tmp_path / "a.json", cells)
        path.write_text(json.dumps(json.loads(path.read_text()) * 2))
        with pytest.raises(FormatError, match="repeats entry 0"):
            score(path, cells)


def _shift(data: Dataset) -> Dataset:
    """Names and numbers of the images with the pixels of the next, which are of another size."""
    following = [*data.records[1:], data.records[0]]
    return replace(
        data,
        records=tuple(
            replace(a, path=b.path, annotation=b.annotation) for a, b in zip(data.records, following, strict=True)
        ),
    )


class TestIntervals:
    def test_one_image_has_none(self, cells, tmp_path):
        one = cells.subset([0])
        scores = score(write_results(tmp_path / "a.json", one), one)
        assert scores.intervals is None
        assert has_note(scores, "One image only")

    def test_groups_are_drawn(self, cells, tmp_path):
        path = write_results(tmp_path / "a.json", cells, lose(2))
        images, groups = score(path, cells).intervals, score(path, cells, group_by=r"000(0|[12])").intervals
        assert (images.unit, images.num_units) == ("image", 3)
        assert score(path, cells, group_by=r"^\d{4}$").intervals.num_units == 3
        assert (groups.unit, groups.num_units) == ("group", 3)
        all_alike = score(path, cells, group_by="^00")
        assert all_alike.intervals is None
        assert has_note(all_alike, "One group only")

    def test_a_group_is_the_first_bracket_or_the_whole_match(self, cells):
        assert group_images(cells, None) is None
        assert group_images(cells, "^..(.)(.)") == {"0000": "0", "0001": "0", "0002": "0"}
        assert group_images(cells, "[01]$|2") == {"0000": "0", "0001": "1", "0002": "2"}

    @pytest.mark.parametrize(
        ("pattern", "error", "part"),
        [
            ("(", PlanError, r"--group-by '\(' is not a regular expression: missing \)"),
            ("slide", DatasetError, "finds nothing in the image name '0000'"),
            ("(slide)?", DatasetError, "finds nothing in the image name '0000'"),
            ("0001|x*", DatasetError, "finds nothing in the image name '0000'"),
        ],
    )
    def test_patterns_that_do_not_fit(self, cells, tmp_path, pattern, error, part):
        with pytest.raises(error, match=part):
            score(write_results(tmp_path / "a.json", cells), cells, group_by=pattern)


class TestHeldOut:
    """Without data, a run is scored on what it held out."""

    @pytest.fixture
    def held_out(self, cells, tmp_path) -> Path:
        """A run folder that was trained on the first two images."""
        folder = tmp_path / "run"
        write_record(folder, cells.root)
        return folder

    def test_is_the_default(self, held_out, cells):
        scores = score(held_out, None)
        assert scores.num_images == 1
        assert [row.name for row in scores.per_image] == ["0002"]
        assert not has_note(scores, "trained on")
        assert score(load_model(held_out), None).per_image == scores.per_image

    def test_training_images_are_said(self, held_out, cells):
        with pytest.warns(UserWarning, match=r"2 of 3 images .* was trained on, .* too good: 0000, 0001"):
            score(held_out, cells)

    def test_names_of_a_separate_set_do_not_hide_training_images(self, cells):
        plan = make_tiny_plan().model_copy(update={"data": make_record(cells.root, val_path="elsewhere")})
        assert find_training_images(plan, cells, {}) == ["0000", "0001", "0002"]

    def test_training_images_are_known_by_their_pixels(self, cells, tmp_path):
        digests = [sample.digest for sample in cells]
        record = make_record(cells.root).model_copy(update={"train_digests": digests[:2], "val_digests": digests[2:]})
        write_tiny_model(tmp_path / "best.ckpt", record=record.model_copy(update={"path": "gone"}))
        for folder in ("images", "labels"):
            (tmp_path / "copy" / folder).mkdir(parents=True)
        for sample in cells:  # another kind of file, name and layout, and an image that is new
            Image.fromarray(sample.pixels.squeeze()).save(tmp_path / "copy" / "images" / f"x{sample.name}.png")
            labels = sample.layers[0].numpy().astype(np.uint16)
            Image.fromarray(labels).save(tmp_path / "copy" / "labels" / f"x{sample.name}.png")
        scores = score(tmp_path / "best.ckpt", tmp_path / "copy")
        assert has_note(scores, "2 of 3 images are among those", "was trained on", "too good: x0000, x0001.")
        others = write_cells(tmp_path / "others", 3, seed=7)  # of the same names
        assert not has_note(score(tmp_path / "best.ckpt", others), "trained on")

    def test_changed_validation_images_are_refused(self, tmp_path):
        data = write_cells(tmp_path / "data")
        digests = [sample.digest for sample in data]
        record = make_record(data.root).model_copy(update={"train_digests": digests[:2], "val_digests": digests[2:]})
        run = tmp_path / "run"
        write_plan(make_tiny_plan().model_copy(update={"data": record}), run / "plan.json")
        write_tiny_model(run / "best.ckpt", record=record)
        assert has_note(score(run, None), "best.ckpt was chosen on these very images")
        path = data.records[2].path
        Image.fromarray(255 - data[2].pixels.squeeze()).save(path)
        with pytest.raises(DatasetError, match=r"0002.*image\.tif is no longer the image that .*run was validated on"):
            score(run, None)

    def test_one_image_that_served_as_both_is_not_said(self, cells):
        record = make_record(cells.root).model_copy(update={"train_names": ("0000",), "val_names": ("0000",)})
        plan = make_tiny_plan().model_copy(update={"data": record})
        assert find_training_images(plan, cells.subset([0]), {}) == []

    def test_the_images_that_chose_the_epoch_are_said(self, cells, tmp_path):
        write_record(tmp_path / "run", cells.root)
        chosen = score(tmp_path / "run", None)
        assert any("The epoch in best.ckpt was chosen on these very images" in note for note in chosen.notes)
        (tmp_path / "run" / "best.ckpt").rename(tmp_path / "run" / "last.ckpt")
        assert not any("chosen" in note for note in score(tmp_path / "run" / "last.ckpt", None).notes)

    def test_replaced_scores_of_other_data_are_said(self, cells, tmp_path):
        results, other = write_results(tmp_path / "a.json", cells), write_cells(tmp_path / "others", 3)
        evaluate(results, cells, output=tmp_path / "out", draws=0)
        with pytest.warns(UserWarning, match="out held the scores on .*, which are now replaced"):
            evaluate(results, other, output=tmp_path / "out", draws=0)

    def test_an_accent_in_another_form_is_the_same_name(self, cells, tmp_path):
        root = Path(shutil.copytree(cells.root, tmp_path / "data"))
        old = cells.records[0].name
        (root / old).rename(root / "zell-a\u0308")
        digest = read_class_folders(root)[len(cells) - 1].digest
        record = make_record(root).model_copy(update={"val_names": ("zell-\u00e4",), "val_digests": (digest,)})
        found = read_validation(make_tiny_plan().model_copy(update={"data": record}), tmp_path, Plan().reading)
        assert [sample.name for sample in found] == ["zell-a\u0308"]

    def test_moved_and_lost_images(self, cells, tmp_path):
        write_record(tmp_path / "moved", tmp_path / "gone")
        with pytest.raises(DatasetError, match=r"the validation images of .*moved are no longer in .*gone; give the"):
            score(tmp_path / "moved", None)
        write_record(tmp_path / "lost", write_cells(tmp_path / "two", 2).root)
        with pytest.raises(DatasetError, match=r"two no longer holds 1 of the images .*lost was .*\(0002\)"):
            score(tmp_path / "lost", None)
        with pytest.raises(DatasetError, match="does not say which images it was validated on"):
            read_validation(make_tiny_plan().model_copy(update={"data": None}), tmp_path, Plan().reading)

    def test_files_do_not_say(self, cells, tmp_path):
        with pytest.raises(ManymaskError, match=r"a\.json is no run folder, so it does not say .*; give the data"):
            score(write_results(tmp_path / "a.json", cells), None)


def make_record(root: Path, val_path: str | None = None) -> DataRecord:
    names = ("0000", "0001", "0002")
    record = make_tiny_plan().data
    assert record is not None
    split = {"train_names": names if val_path else names[:2], "val_names": names if val_path else names[2:]}
    return record.model_copy(update={"path": str(root), "val_path": val_path, **split})


def write_record(folder: Path, root: Path) -> None:
    """A run folder with a plan and a checkpoint that agree."""
    plan = make_tiny_plan().model_copy(update={"data": make_record(root)})
    write_plan(plan, folder / "plan.json")
    write_tiny_model(folder / "best.ckpt", record=plan.data)


def test_copied_truth_has_ranked_scores(cells):
    """What the tests above rest on."""
    found = copy_truth(cells[0])
    assert len(found) >= 3
    assert found.scores[0] == np.float32(0.9)
    assert found.scores[-1] == np.float32(0.6)


def test_doubtful_labels_are_noted(tmp_path):
    ids = np.full((40, 50), 1, dtype=np.uint8)
    ids[5:15, 5:15] = 2
    for folder in ("images", "labels", "found"):
        (tmp_path / folder).mkdir()
        Image.fromarray(ids).save(tmp_path / folder / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(ids).save(tmp_path / "images" / "a.png", exif=exif)
    with pytest.warns(UserWarning, match="1 of 1 images have an orientation tag"):
        scores = evaluate(tmp_path / "found", read_dataset(tmp_path, "label_images"), draws=0)
    assert has_note(scores, "the background (a)", "write 0 for background")
