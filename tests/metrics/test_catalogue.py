import re
from pathlib import Path

import pytest

from manymask.metrics import make_tally
from manymask.metrics.catalogue import METRICS
from tests.metrics.cases import CASES, CATEGORIES, score

DOCS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_metrics_are_what_is_computed():
    found = make_tally(score(CASES["crowded"]), CATEGORIES).compute()
    for metric in METRICS:
        assert metric.path in found
        assert (metric.of_class("class2") in found) == metric.is_per_class
    assert len({metric.label for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.label)
def test_documents_define_each(metric):
    section = re.search(rf"^## [^\n]*`{metric.path[0]}`.*?(?=^## )", DOCS, re.MULTILINE | re.DOTALL)[0]
    assert f"`{metric.path[1]}`" in section


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.label)
def test_meanings_say_what_is_good(metric):
    direction = {True: "higher", False: "lower", None: "nearer to 0"}[metric.higher_is_better]
    assert metric.meaning.endswith(f"; {direction} is better.")
