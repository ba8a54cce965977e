import pytest


@pytest.mark.parametrize(
    ("expected", "outcome"),
    [("", pytest.skip), ("oracles", pytest.skip), ("oracles,data", pytest.fail), ("dada", pytest.fail)],
)
def test_what_is_expected_fails_where_it_is_not_here(require, monkeypatch, expected, outcome):
    monkeypatch.setenv("MANYMASK_EXPECT", expected)
    with pytest.raises(outcome.Exception):
        require("data", False)


def test_what_is_here_is_used(require):
    require("data", True)
