from manymask.cli.options import parse_arguments


def test_a_command_gives_its_own_options_apart_from_settings():
    arguments = parse_arguments(["min_score=0.1", "device=cuda:1"], group_by=None, device="cpu", tta=True)
    assert arguments == {"device": "cuda:1", "settings": {"min_score": "0.1", "tta": True}}


def test_a_setting_that_is_no_option_of_the_command_stays_one():
    assert parse_arguments(["device=cpu"], group_by="a") == {"group_by": "a", "settings": {"device": "cpu"}}
