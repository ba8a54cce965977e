import shutil
from pathlib import Path

import numpy as np
import pytest

from manymask.core import Category, Dataset, Record, Sample
from manymask.errors import DatasetError, PlanError
from manymask.formats.datasets import FORMATS
from manymask.formats.splits import Parts
from manymask.plan import make_plan
from manymask.training.resuming import reload_data
from manymask.training.run import prepare
from manymask.training.setup import check_start, read_data, split_data, split_dataset
from tests.cells import write_half_crowd
from tests.formats.format_files import make_coco
from tests.formats.test_label_studio import SQUARE, make_annotation, make_region, make_task, write_tasks
from tests.tiny_model import SETTINGS, write_tiny_model
from tests.training.runs import add_image, make_data


def fail(record: Record, categories: tuple[Category, ...]) -> Sample:
    raise AssertionError("the split reads no image")


def make_dataset(*names):
    records = tuple(Record(number, name, Path(name), None) for number, name in enumerate(names))
    return Dataset(Path("cells"), FORMATS["label_images"], (Category(1, "cell"),), records, fail)


def list_held_out(dataset, *arguments):
    """Numbers of the images held out, of which all others are left."""
    train_set, val_set = split_dataset(dataset, *arguments)
    train, val = ([record.image_id for record in part.records] for part in (train_set, val_set))
    assert sorted(train + val) == [record.image_id for record in dataset.records]
    return val


class TestCheckStart:
    """Weights that do not fit are refused before any image is read."""

    @staticmethod
    def check(checkpoint, **settings):
        check_start(make_plan("baseline", SETTINGS | {"weights": checkpoint, "device": "cpu"} | settings))

    def test_weights_of_two_box_stages(self, tmp_path):
        checkpoint = write_tiny_model(tmp_path / "two.ckpt", box_stages=2)
        self.check(checkpoint, box_stages=2)
        with pytest.raises(
            PlanError, match=r"two.ckpt were trained with box_stages=2, not 1; set it so, or take other"
        ):
            self.check(checkpoint)

    def test_a_second_box_stage_starts_as_a_copy(self, tmp_path):
        self.check(write_tiny_model(tmp_path / "one.ckpt"), box_stages=2)

    def test_weights_of_other_convolutions(self, tmp_path):
        checkpoint = write_tiny_model(tmp_path / "a.ckpt", backbone=None, convolutions="separable")
        with pytest.raises(PlanError, match="were trained with convolutions=separable, not full"):
            self.check(checkpoint, backbone=None)


class TestSplitDataset:
    def test_one_image_is_both_parts(self):
        dataset = make_dataset("a")
        assert split_dataset(dataset, 0.1, 0) == (dataset, dataset)

    @pytest.mark.parametrize(
        ("num_images", "fraction", "num_val"), [(2, 0.9, 1), (3, 0.1, 1), (20, 0.1, 2), (7, 0.5, 4), (30, 0.99, 29)]
    )
    def test_sizes(self, num_images, fraction, num_val):
        assert len(list_held_out(make_dataset(*map(str, range(num_images))), fraction, 0)) == num_val

    @pytest.mark.parametrize(
        ("num_images", "fraction", "seed", "held_out"),
        [(20, 0.1, 0, [4, 5]), (7, 0.5, 0, [0, 3, 4, 5]), (10, 0.3, 3, [0, 3, 6])],
    )
    def test_as_in_all_versions(self, num_images, fraction, seed, held_out):
        """Else the scores of runs from before could not be compared with new ones."""
        assert list_held_out(make_dataset(*map(str, range(num_images))), fraction, seed) == held_out

    def test_function_of_the_seed(self):
        dataset = make_dataset(*"abcdefg")
        first, again, *others = (list_held_out(dataset, 0.3, seed) for seed in (0, 0, 1, 2, 3))
        assert first == again
        assert any(first != other for other in others)


class TestGroups:
    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9])
    def test_are_held_out_whole(self, fraction, seed):
        groups = {name: name[0] for name in ("a1", "b1", "a2", "c1", "a3", "b2", "d1", "d2", "d3", "d4")}
        held_out = list_held_out(make_dataset(*groups), fraction, seed, groups)
        names = list(groups)
        val = {groups[names[row]] for row in held_out}
        train = {groups[name] for row, name in enumerate(names) if row not in held_out}
        assert val
        assert train
        assert not val & train
        assert len(held_out) >= min(max(1, round(10 * fraction)), 10 - max(map(len, ["aaa", "bb", "c", "dddd"])))

    @pytest.mark.parametrize("seed", range(4))
    def test_two(self, seed):
        groups = dict(zip("abcde", "xxyyy", strict=True))
        assert list_held_out(make_dataset(*groups), 0.1, seed, groups) in ([0, 1], [2, 3, 4])

    def test_of_one_image_each_are_no_groups(self):
        dataset = make_dataset(*"abcdefghij")
        groups = {name: name for name in "abcdefghij"}
        assert list_held_out(dataset, 0.3, 0, groups) == list_held_out(dataset, 0.3, 0)

    def test_one(self):
        with pytest.raises(DatasetError, match=r"puts all 3 images of cells into one group, 'x', .*or give --val$"):
            split_dataset(make_dataset(*"abc"), 0.1, 0, dict.fromkeys("abc", "x"))


def split(path, val=None, **settings):
    plan = make_plan("baseline", {"num_workers": 0, "min_size": 0, **settings})
    return split_data(read_data(Parts(path, val), None, plan, None), plan)


class TestSplitData:
    def test_groups_of_names(self, tmp_path):
        for name in ("s1_a", "s2_a", "s1_b", "s2_b", "s1_c"):
            add_image(tmp_path, name, np.ones((1, 20, 20), dtype=bool))
        record = split(tmp_path, group_by=r"^(s\d)_").record
        assert {name[:2] for name in record.train_names} != {name[:2] for name in record.val_names}
        assert {len(record.train_names), len(record.val_names)} == {2, 3}

    def test_weights(self, tmp_path):
        for name, size in {"large": (40, 80), "small": (40, 40), "tiny": (8, 8)}.items():
            add_image(tmp_path, name, np.ones((1, *size), dtype=bool))
        found = split(tmp_path, sampling="balanced", crop_size=40)
        sizes = {"large": 2**0.5, "small": 1, "tiny": 1}
        expected = np.array([sizes[name] for name in found.record.train_names])
        np.testing.assert_allclose(found.weights, expected / expected.mean())

    def test_crowd_regions_may_be_objects(self, tmp_path):
        path = write_half_crowd(tmp_path)
        with pytest.warns(UserWarning, match="2 of 4 annotations are crowd regions"):
            found = split(path)
        assert [found.record.max_instances, split(path, crowd_as_objects=True).record.max_instances] == [1, 2]
        assert not found.train[0].iscrowd.all()
        assert found.record.fingerprint != split(path, crowd_as_objects=True).record.fingerprint

    def test_notes_of_readers_are_told_once(self, tmp_path, caplog):
        newest = make_annotation(make_region(SQUARE), created_at="2026-02-01T00:00:00Z")
        write_tasks(tmp_path, make_task(make_annotation(make_region(SQUARE)), newest))
        caplog.set_level("INFO")
        split(tmp_path, tmp_path)
        notes = [text for text in caplog.messages if "several annotations, of which the newest is taken" in text]
        assert len(notes) == 1

    def test_touching_share_without_crops_is_told(self, tmp_path, caplog):
        data = make_data(tmp_path, 2)
        split(data, touching_share=0.5, crop_size=20)
        assert "does nothing" not in caplog.text
        split(data, touching_share=0.5)
        assert "touching_share does nothing" in caplog.text

    def test_uniform(self, tmp_path):
        assert split(make_data(tmp_path, 2)).weights is None

    def test_the_longest_object_is_kept(self, tmp_path):
        for name, width in (("a", 12), ("b", 12), ("c", 12)):
            masks = np.zeros((2, 40, 50), dtype=bool)
            masks[0, 2:9, 3 : 3 + width] = masks[1, 20:23, 20:22] = True
            add_image(tmp_path / "cells", name, masks)
        assert split(tmp_path / "cells").record.longest_object == 12

    def test_findings_are_counted(self, tmp_path, caplog):
        for name in ("a", "b"):  # the same pixels and labels
            add_image(tmp_path / "cells", name, np.ones((1, 20, 20), dtype=bool))
        split(tmp_path / "cells")
        assert f"in {tmp_path / 'cells'}; see: manymask inspect {tmp_path / 'cells'}" in caplog.text

    def test_copies_of_training_images_are_said_whatever_their_names(self, tmp_path, caplog):
        data = make_data(tmp_path / "data", 3)
        for index in (0, 2):
            shutil.copytree(data / f"000{index}", tmp_path / "val" / f"x{index}")
        add_image(tmp_path / "val", "new", np.ones((1, 20, 20), dtype=bool))
        record = split(data, tmp_path / "val").record
        message = caplog.text
        assert "2 of 3 validation images have the very pixels of training images" in message
        assert "too good: x0, x2; validate on other images" in message
        assert len(record.train_digests) == len(record.val_digests) == 3
        caplog.clear()
        split(data)
        assert "very pixels" not in caplog.text

    def test_a_run_of_before_digests_were_kept_goes_on(self, tmp_path):
        data = make_data(tmp_path / "data", 3)
        plan = make_plan("baseline", {"num_workers": 0, "min_size": 0})
        old = split(data).record.model_copy(update={"train_digests": (), "val_digests": (), "longest_object": None})
        found = reload_data(plan.model_copy(update={"data": old}), None, None, None, None)
        assert found.record.train_names == old.train_names
        assert len(found.record.train_digests) == 2

    def test_doubtful_labels_are_told_of_both_sets(self, tmp_path, caplog):
        masks = np.zeros((2, 40, 50), dtype=bool)
        masks[1, 5:15, 5:15] = True
        masks[0] = ~masks[1]  # a background with an id
        for folder in ("cells", "val"):
            add_image(tmp_path / folder, "a", masks)
        plan = make_plan("baseline", {"num_workers": 0, "min_size": 0})
        read_data(Parts(tmp_path / "cells", tmp_path / "val"), None, plan, None)
        told = caplog.text
        for folder in ("cells", "val"):
            assert f"{tmp_path / folder}: 1 of 1 images hold an instance over most of the image" in told


class TestParts:
    """A data set that is split by its folders."""

    @staticmethod
    def prepare(root, val=None):
        return prepare(root, "baseline", val, None, {"num_workers": 0, "min_size": 0}, None)

    def test_are_taken_and_found_where_they_have_moved(self, tmp_path, caplog):
        root = tmp_path / "cells"
        for name, number in (("train", 3), ("valid", 1), ("test", 1)):
            make_data(root / name, number)
        plan, _, data_set = self.prepare(root)
        assert (data_set.record.path, data_set.record.val_path) == (str(root / "train"), str(root / "valid"))
        assert (len(data_set.train), len(data_set.val)) == (3, 1)
        assert f"{root} is split: training on {root / 'train'}, validating on {root / 'valid'}; " in caplog.text
        plan = plan.model_copy(update={"data": data_set.record})
        root.rename(tmp_path / "moved")
        found = reload_data(plan, tmp_path / "moved", None, None, None)
        assert found.record.val_path == str(tmp_path / "moved" / "valid")

    def test_without_one_to_validate_on_hold_images_out(self, tmp_path):
        for name, number in (("train", 3), ("test", 1)):
            make_data(tmp_path / name, number)
        plan, _, data_set = self.prepare(tmp_path)
        assert (data_set.record.val_path, len(data_set.train), len(data_set.val)) == (None, 2, 1)
        found = reload_data(plan.model_copy(update={"data": data_set.record}), tmp_path, None, None, None)
        assert found.record.val_names == data_set.record.val_names

    def test_an_own_choice_wins(self, tmp_path):
        for name in ("cells/train", "cells/val", "mine"):
            make_data(tmp_path / name, 1)
        _, _, data_set = self.prepare(tmp_path / "cells", tmp_path / "mine")
        assert data_set.record.val_path == str(tmp_path / "mine")

    def test_of_other_classes_are_refused(self, tmp_path):
        for name, category in (("train", "cell"), ("val", "cells")):
            make_coco(
                tmp_path / name, [{"segmentation": [[1, 1, 5, 1, 3, 4]]}], categories=[{"id": 7, "name": category}]
            )
        with pytest.raises(DatasetError, match=r"train has the classes cell, but .*val has cells"):
            self.prepare(tmp_path)
