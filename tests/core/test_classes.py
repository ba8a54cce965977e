import numpy as np
import pytest

from manymask.core import ONE_CLASS, Category, match_categories


def name(*names: str, ids: tuple[int, ...] = (1, 2, 3, 4)) -> tuple[Category, ...]:
    return tuple(Category(*row) for row in zip(ids, names, strict=False))


def test_by_name():
    data = (Category(1, "round"), Category(2, "long"), Category(5, "grain"))
    model = (Category(1, "long"), Category(2, "cell"), Category(5, "seed"), Category(9, "spore"))
    match = match_categories(data, model)
    # Where names meet they mean something: seed is not grain, though both have the id 5.
    assert match.categories == (*data, Category(6, "cell"), Category(7, "seed"), Category(9, "spore"))
    assert match.model_labels.tolist() == [0, 2, 4, 5, 6]
    assert match.data_labels.tolist() == [0, 1, 2, 3]
    assert match.notes == ()


def test_equal_classes_stay():
    data = name("round", "long", "object")
    match = match_categories(data, data)
    assert match.categories == data
    assert match.model_labels.tolist() == match.data_labels.tolist() == [0, 1, 2, 3]
    assert match.notes == ()


@pytest.mark.parametrize("given", ["class2", "Class 2", "2", "object"])
def test_by_id_where_a_name_says_nothing_and_said(given):
    match = match_categories(name("round", "long"), name("round", given))
    assert match.categories == name("round", "long")
    assert match.model_labels.tolist() == [0, 1, 2]
    assert f"matched by their ids, since their names differ: {given} = long" in match.notes[0]


def test_by_id_where_no_name_is_in_both_and_said():
    match = match_categories(name("disc", "rod"), name("long", "round", ids=(2, 1)))
    assert match.model_labels.tolist() == [0, 2, 1]
    assert "names differ: long = rod, round = disc; if that is wrong, so are the scores" in match.notes[0]


def test_a_single_class_with_a_name_of_its_own_is_scored_against_all_as_one():
    for data, model in ((name("class1", "class2", "class3"), name("nucleus")), (name("cell"), name("round", "long"))):
        match = match_categories(data, model)
        assert match.categories == ONE_CLASS
        assert match.data_labels.tolist() == [0] + [1] * len(data)
        assert match.model_labels.tolist() == [0] + [1] * len(model)
        assert "instances of all classes are scored as one" in match.notes[0]
    match = match_categories(name("nucleus", "debris"), name("nucleus"))
    assert match.categories == name("nucleus", "debris")
    assert match.notes == ()


def test_two_single_classes_are_one_whatever_their_ids():
    match = match_categories((Category(7, "neutrophil"),), name("nucleus"))
    assert match.categories == (Category(7, "neutrophil"),)
    assert match.notes == ("The model's only class (nucleus) is taken for the data's only class (neutrophil).",)
    assert match_categories(name("object"), name("nucleus")).notes == ()


def test_classes_that_do_not_meet():
    match = match_categories(name("disc", "rod"), name("round", "long", ids=(8, 9)))
    assert match.model_labels.tolist() == [0, 3, 4]
    assert "(round, long) and those of the data (disc, rod) do not meet, by name or by id" in match.notes[0]


@pytest.mark.parametrize("seed", range(20))
def test_ids_and_names_are_unique(seed):
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c", "class4", "object", "f"]
    data, model = (
        tuple(Category(id_, names[i]) for id_, i in rng.permuted([range(6)] * 2, axis=1)[:, :4].T.tolist())
        for _ in range(2)
    )
    match = match_categories(data, model)
    assert len({c.id for c in match.categories}) == len({c.name for c in match.categories}) == len(match.categories)
    assert len(set(match.model_labels.tolist())) == len(model) + 1
