import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from manymask.core import Category, Instances, RunLengths
from manymask.metrics import summarize_scores
from manymask.metrics.catalogue import REPORTED
from manymask.reporting.images import choose_images, encode_image, trace_outlines
from manymask.reporting.page import write_report
from tests.metrics.cases import CAP, EMPTY, score
from tests.reporting.pages import CATEGORIES, make_evaluation, make_viewed_image, write_page


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.html"


@pytest.fixture(scope="module")
def images():
    return [make_viewed_image(index, 20, (96, 120)) for index in range(3)]


def read_json(text: str, name: str):
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text)[1])


def test_page_tells_scores_errors_training_and_settings(path, images):
    text = write_page(path, images)
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Scores", "Errors", "Images", "Training", "Data and settings"]
    for part in (
        "runs/base",
        "mask AP50 is <b>0.613</b>",
        "0.572 to 0.665",
        "validation set is small",
        "loose border",
        "best mask AP 0.341 in epoch 30",
        "sample_046",
        "<code>learning_rate</code>",
        "multistep",
    ):
        assert part in text


def test_page_needs_no_other_file(path, images):
    text = write_page(path, images)
    assert "<!--" not in text.replace("<!doctype", "")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "default-src 'none'" in text


def test_images_are_sorted_by_loss_and_embedded_once(path, images):
    ordered = sorted(images, key=lambda image: -image.loss)
    text = write_page(path, images)
    assert [read_json(text, f"image-{i}")["name"] for i in range(3)] == [image.name for image in ordered]
    shown = read_json(text, "image-0")
    assert (shown["width"], shown["height"]) == (120, 96)
    assert len(shown["truth"]) == len(ordered[0].truth)
    assert [row[4] for row in shown["predictions"]] == pytest.approx(ordered[0].predictions.scores, abs=1e-3)


def test_what_users_named_cannot_become_markup(path):
    evil = "</script><b onclick=x>\"'&<!--style-->"
    categories = tuple(Category(i, f"{evil}{i}") for i in (1, 2, 3))
    image = make_viewed_image(0, 20, (96, 120), name=evil)
    text = write_page(path, [image], categories, title=evil)
    assert "<b onclick" not in text
    assert text.count("</script>") == text.count("<script")
    assert read_json(text, "image-0")["name"] == evil
    assert read_json(text, "page")["classes"][2][0] == evil + "3"


@pytest.fixture(scope="module")
def nothing():
    """The scores of an image without instances and predictions."""
    return summarize_scores(score([(EMPTY, EMPTY)]), CATEGORIES, CAP)


def test_undefined_scores_make_a_page(path, nothing):
    text = write_page(path, [], plan=None, rows=[], evaluation=nothing)
    assert "Mask AP50 is undefined on 1 image." in text
    assert "<h2>Images" not in text
    assert "<h2>Training" not in text


def test_undefined_scores_are_dashes(path, images, nothing):
    shown = make_evaluation(images, ["class1", "class2", "class3"]).per_image
    text = write_page(path, images, evaluation=nothing.model_copy(update={"per_image": shown}))
    assert "There are no intervals" in text
    assert "<b>\N{EN DASH}</b>" in text
    assert "Precision over recall" not in text


@pytest.mark.parametrize(
    "change",
    [
        {"intervals": None},
        {"worst_instances": []},
        {"notes": []},
        {"detections_per_image": None, "min_score": None, "score_threshold": None},
        {"model": None, "predictions": "results.json"},
    ],
)
def test_what_may_be_missing(path, images, change):
    full = make_evaluation(images, ["class1", "class2", "class3"])
    assert write_page(path, images, evaluation=full.model_copy(update=change)) != write_page(path, images)


def test_meanings_of_metrics_are_at_hand(path, images):
    text = html.unescape(write_page(path, images))
    assert all(f'title="{metric.meaning}"' in text for metric in REPORTED)


def test_epochs_without_scores_leave_gaps(path, images):
    rows = [{"epoch": 1, "step": 5, "loss": 2.0, "val_mask_AP": None}, {"epoch": 2, "step": 10, "loss": None}]
    text = write_page(path, images, rows=rows)
    assert "<h3>Loss</h3>" in text
    assert "best mask AP" not in text


def test_image_without_instances(path):
    text = write_page(path, [make_viewed_image(0, 0, (32, 48))])
    shown = read_json(text, "image-0")
    assert shown["truth"] == shown["predictions"] == []


def test_300_instances_stay_small(path):
    image = make_viewed_image(0, 300, (512, 640))
    content = encode_image(image, 3).content
    outlines = len(content) - len(json.loads(content)["picture"])
    num_instances = len(image.truth) + len(image.predictions)
    assert num_instances > 450
    assert outlines < 150 * num_instances
    write_page(path, [image])
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_pixels_are_shown(dtype, channels):
    image = make_viewed_image(0, 5, (40, 50))
    pixels = np.arange(40 * 50 * channels).reshape(40, 50, channels).astype(dtype)
    assert '"picture":"data:image/jpeg;base64,' in encode_image(replace(image, pixels=pixels), 3).content


def test_large_images_are_scaled_down_but_not_their_outlines():
    image = make_viewed_image(0, 10, (60, 2600))
    content = json.loads(encode_image(image, 3).content)
    assert content["width"] == 2600
    assert len(content["picture"]) < 150_000


def test_outlines_run_just_inside_the_mask():
    mask = np.zeros((1, 9, 12), dtype=bool)
    mask[0, 2:7, 3:9] = True
    mask[0, 4, 5] = False  # a hole
    outer, hole = sorted(trace_outlines(Instances.from_masks(mask, [1]))[0], key=np.ptp)[::-1]
    assert (outer.min(axis=0).tolist(), outer.max(axis=0).tolist()) == ([6, 4], [17, 13])
    assert (hole.min(axis=0).tolist(), hole.max(axis=0).tolist()) == ([9, 7], [12, 10])


def test_empty_masks_have_no_outline():
    assert trace_outlines(Instances.from_runs(RunLengths.empty((5, 5), 2), np.array([1, 1]))) == [[], []]


def test_images_beyond_the_number_are_chosen_evenly_and_the_page_says_so(path, images):
    chosen = choose_images([f"{i}" for i in range(100)], 10)
    assert chosen == ["0", "1", "2", "3", "4", "5", "28", "52", "76", "99"]
    evaluation = make_evaluation(images, ["class1", "class2", "class3"])
    assert "2 of 3 images" in write_page(path, images[:2], evaluation=evaluation)


def test_images_are_taken_one_at_a_time(path, images):
    evaluation = make_evaluation(images, ["class1", "class2", "class3"])
    rest = {"title": "a", "plan": None, "rows": [], "diagnosis": {}, "evaluation": evaluation, "categories": CATEGORIES}
    text = write_report(path, images=iter(images), **rest).read_text(encoding="utf-8")
    assert read_json(text, "image-2")["name"]


def test_instances_that_do_not_fit_are_refused():
    image = make_viewed_image(0, 5, (40, 50))
    with pytest.raises(ValueError, match="size"):
        encode_image(replace(image, pixels=image.pixels[:20]), 3)
    with pytest.raises(ValueError, match="labels of 0 categories"):
        encode_image(image, 0)
    with pytest.raises((ValueError, TypeCheckError)):
        encode_image(replace(image, errors=replace(image.errors, instances=np.array([], dtype=str))), 3)


def test_shares_of_the_stages(path, images):
    row = '<th scope="row">true boxes scored as objects</th><td class="number">0.900</td><td class="number">-</td>'
    assert row in write_page(path, images)
    assert "true boxes" not in write_page(path, images, diagnosis={})


def test_predictions_file_has_no_run(path, images):
    text = write_page(path, images, plan=None, rows=[], diagnosis={})
    assert "<h2>Training</h2>" not in text
    assert "learning_rate" not in text
