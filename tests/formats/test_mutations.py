import pytest

from tests.mutations import make_data_sets, run_cases


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data_sets(tmp_path_factory.mktemp("data"))


@pytest.mark.filterwarnings("ignore")  # what libraries say of broken files
@pytest.mark.parametrize("number", [7, pytest.param(135, marks=pytest.mark.slow)])
def test_broken_files_are_refused_or_told(tmp_path, data, number):
    """Of each format so many files: no traceback, no hang, no object that goes without a word."""
    cases = list(run_cases(tmp_path, data, range(number)))
    assert [case for case in cases if case.outcome in ("silent", "crashed", "hung")] == []
    assert len(cases) == number * len(data)
    assert {case.outcome for case in cases} == {"same", "told", "refused"}
