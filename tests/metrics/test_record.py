import json
from pathlib import Path

import pytest

from manymask.core import read_json, write_json
from manymask.errors import FormatError
from manymask.metrics import make_tally, summarize_scores
from manymask.metrics.catalogue import METRICS
from manymask.metrics.record import read_evaluation
from tests.metrics.cases import CAP, CASES, CATEGORIES, score


@pytest.fixture(scope="module")
def scores():
    return summarize_scores(score(CASES["a class without instances"]), CATEGORIES, CAP, draws=20)


def test_evaluation_json_keeps_the_keys_of_the_contract(scores, tmp_path: Path):
    scores.write(tmp_path / "run" / "evaluation.json")
    read = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert read_evaluation(tmp_path / "run" / "evaluation.json") == scores
    assert read["version"] == 1
    assert read["mask"].keys() == read["box"].keys() == {"AP", "AP50", "AP75", "per_class", "by_size"}
    assert list(read["mask"]["per_class"]) == ["class2", "class3", "class7"]
    assert read["box"]["per_class"]["class2"].keys() == {"AP", "AP50", "AP75", "num_instances"}
    assert read["ap_t"].keys() == {"pooled", "per_image"}
    assert (read["num_images"], read["num_predictions"], read["detections_per_image"]) == (1, 120, CAP)


@pytest.mark.parametrize("what", ["model", "predictions"])
def test_a_model_or_predictions_are_named(scores, tmp_path, what):
    scores.model_copy(update={what: "a"}).write(tmp_path / "evaluation.json")
    read = read_json(tmp_path / "evaluation.json")
    assert [name for name in ("model", "predictions") if name in read] == [what]
    assert read[what] == "a"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.label)
def test_metrics_are_looked_up(metric):
    images = [image for pairs in (CASES["crowded"], CASES["a class without instances"]) for image in score(pairs)]
    scores = summarize_scores(images[:4], CATEGORIES, CAP, draws=20)
    computed = make_tally(images[:4], CATEGORIES).compute()
    for path in (metric.path, *([metric.of_class("class2")] if metric.is_per_class else [])):
        assert scores.get_value(path) == pytest.approx(computed[path][0])
        assert scores.get_interval(path) == scores.intervals.values[".".join(path)]
    assert scores.model_copy(update={"intervals": None}).get_interval(metric.path) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "expected scores of version 1 in .*evaluation.json, found version 2"),
        ({"version": None}, "found none; run evaluate anew"),
        ({"mask": {"AP": 0.5}}, "mask.AP50: Field required"),
        ({"num_images": "many"}, "evaluation.json is not as evaluate wrote it .num_images: "),
    ],
)
def test_other_files_are_refused(scores, tmp_path, change, message):
    path = tmp_path / "evaluation.json"
    scores.write(path)
    write_json(path, read_json(path) | change)
    with pytest.raises(FormatError, match=message):
        read_evaluation(path)
