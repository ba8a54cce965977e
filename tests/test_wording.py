import pytest

from manymask.errors import PlanError
from manymask.wording import count_of, find_name, format_interval, format_score, list_some


def test_five_things_are_named():
    assert list_some([]) == ""
    assert list_some("abcde") == "a, b, c, d, e"
    assert list_some(range(7)) == "0, 1, 2, 3, 4 and 2 more"
    assert list_some(["id 1"] * 5, 9, "; ") == "id 1; id 1; id 1; id 1; id 1 and 4 more"


def test_plural():
    assert count_of(3, "class") == "3 classes"
    assert [count_of(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


def test_scores_and_intervals():
    assert [format_score(None), format_score(None, (0.1, 0.2)), format_score(0.6126)] == ["-", "-", "0.613"]
    assert format_score(0.6, (0.55, 0.65)) == "0.600 [0.550 to 0.650]"
    assert [format_interval(None), format_interval([0.0, 1.0])] == ["-", "0.000 to 1.000"]


def test_names_are_found_in_any_case_and_near_ones_suggested():
    names = ("label_studio", "csv")
    assert [find_name(text, names, "none") for text in ("CSV", "Label-Studio", "label studio")] == [
        *("csv", "label_studio", "label_studio")
    ]
    with pytest.raises(PlanError, match=r"^none; did you mean 'csv'\?$"):
        find_name("cvs", names, "none")
    with pytest.raises(PlanError, match="^none; choose one of label_studio, csv$"):
        find_name("png", names, "none")
