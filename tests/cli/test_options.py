import pytest

from manymask.cli.options import parse_arguments, parse_planes, parse_region
from manymask.errors import PlanError
from manymask.imaging import PlaneChoice


def test_a_command_gives_its_own_options_apart_from_settings():
    arguments = parse_arguments(["min_score=0.1", "device=cuda:1"], group_by=None, device="cpu", tta=True)
    assert arguments == {"device": "cuda:1", "settings": {"min_score": "0.1", "tta": True}}


def test_a_setting_that_is_no_option_of_the_command_stays_one():
    assert parse_arguments(["device=cpu"], group_by="a") == {"group_by": "a", "settings": {"device": "cpu"}}


def test_planes():
    assert parse_planes(None, None, None, None) == PlaneChoice()
    assert parse_planes("3", 2, 1, "3, 1") == PlaneChoice(3, 2, 1, (3, 1))
    assert parse_planes("all", None, None, None) == PlaneChoice("all")


@pytest.mark.parametrize(
    ("page", "channels", "message"),
    [
        ("first", None, "--page is 'first', expected a number"),
        ("-1", None, "--page is '-1'"),
        ("0", None, "--page counts from 1"),
        (None, "red", "--channels is 'red', expected numbers"),
        (None, "1,,2", "--channels is '1,,2'"),
        (None, "0", "--channels counts from 1"),
    ],
)
def test_planes_that_are_none(page, channels, message):
    with pytest.raises(PlanError, match=message):
        parse_planes(page, None, None, channels)


def test_a_region_is_four_numbers():
    assert parse_region(None) is None
    assert parse_region("20, 30,400,500") == (20, 30, 400, 500)
    for text in ("1,2,3", "1,2,3,-4", "a", "1,2,3,4,5", "1.5,2,3,4"):
        with pytest.raises(PlanError, match=f"--region is '{text}', expected X,Y,W,H in pixels"):
            parse_region(text)
