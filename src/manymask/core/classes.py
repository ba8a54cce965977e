"""Which class of a model is which class of a data set."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from manymask.core.dataset import Category

ONE_CLASS = (Category(1, "instance"),)
"""The classes where all are scored as one."""

# Names that say nothing but a number, or that there is an object; readers give them to classes without a name.
_NUMBERED = re.compile(r"(class|category|label)?[ _-]?\d+", re.IGNORECASE)
_NAMELESS = ("object", "instance")


@dataclass(frozen=True, eq=False)
class CategoryMatch:
    """The classes of a model and of a data set brought together.

    Attributes:
        categories: The data's classes, then those that only the model has, under a new id where theirs is taken; or
            ``ONE_CLASS``.
        data_labels: For each label of the data (0 first, which is background) its label in ``categories``.
        model_labels: The same for each label of the model.
        notes: What a reader of the scores must know of it, in sentences; none where all classes meet by name.
    """

    categories: tuple[Category, ...]
    data_labels: Int64[np.ndarray, " of_data"]
    model_labels: Int64[np.ndarray, " of_model"]
    notes: tuple[str, ...] = ()


def match_categories(data: tuple[Category, ...], model: tuple[Category, ...]) -> CategoryMatch:
    """Bring the classes of a model and of a data set together.

    By name. Where no name is in both and one side has a single class, all are one class: what the other side tells
    apart cannot be scored. Else what is left is matched by id, but only where one of the two names says nothing
    (``class2``, ``object``), or where no name at all is in both.
    """
    is_apart = {category.name for category in data}.isdisjoint(category.name for category in model)
    if is_apart and 1 in (len(data), len(model)):
        return _take_for_one(data, model)
    merged = list(data)
    renamed: list[str] = []
    model_names = {category.name for category in model}
    names = {category.name: index for index, category in enumerate(data)}
    ids = {category.id: index for index, category in enumerate(data) if category.name not in model_names}
    labels = [0]
    for category in model:
        # By name, else by id where the names allow it, else as a class that only the model has.
        index, same_id = names.get(category.name), ids.get(category.id)
        if index is None and same_id is not None:
            pair = (category.name, data[same_id].name)
            if is_apart or any(map(_is_anonymous, pair)):
                index = same_id
                renamed.append(f"{pair[0]} = {pair[1]}")
        if index is None:
            index, taken = len(merged), {other.id for other in merged}
            merged.append(replace(category, id=max(taken) + 1) if category.id in taken else category)
        labels.append(index + 1)
    notes: list[str] = []
    if renamed:
        notes.append(
            f"Classes of the model and of the data were matched by their ids, since their names differ: "
            f"{', '.join(renamed)}; if that is wrong, so are the scores: name them alike."
        )
    if is_apart and not renamed:
        notes.append(
            f"The model's classes ({_list_names(model)}) and those of the data ({_list_names(data)}) do not meet, by "
            "name or by id, so every score is 0; score on data with the model's classes."
        )
    return CategoryMatch(tuple(merged), np.arange(len(data) + 1), np.array(labels, dtype=np.int64), tuple(notes))


def _take_for_one(data: tuple[Category, ...], model: tuple[Category, ...]) -> CategoryMatch:
    """All classes as one; the data's own where both sides have one."""
    labels = [np.minimum(np.arange(len(own) + 1), 1) for own in (data, model)]
    if len(data) == len(model):
        is_plain = any(category.name in _NAMELESS for category in (*data, *model))
        note = f"The model's only class ({model[0].name}) is taken for the data's only class ({data[0].name})."
        return CategoryMatch(data, *labels, notes=() if is_plain else (note,))
    return CategoryMatch(
        ONE_CLASS,
        *labels,
        notes=(
            f"The model's classes ({_list_names(model)}) and those of the data ({_list_names(data)}) cannot be told "
            "apart alike: instances of all classes are scored as one.",
        ),
    )


def _is_anonymous(name: str) -> bool:
    return name in _NAMELESS or _NUMBERED.fullmatch(name) is not None


def _list_names(categories: Sequence[Category]) -> str:
    return ", ".join(category.name for category in categories)
