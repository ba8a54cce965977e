from manymask.wording import count_of, list_some


def test_five_things_are_named():
    assert list_some([]) == ""
    assert list_some("abcde") == "a, b, c, d, e"
    assert list_some(range(7)) == "0, 1, 2, 3, 4 and 2 more"
    assert list_some(["id 1"] * 5, 9, "; ") == "id 1; id 1; id 1; id 1; id 1 and 4 more"


def test_plural():
    assert [count_of(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
