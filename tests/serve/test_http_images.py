"""Images and objects over HTTP: what the page does."""

import gzip
import io
import json
import threading
import time

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image

from manymask.imaging import find_images
from manymask.imaging.normalization import Normalization, normalize_pixels
from manymask.prediction import load_model, predict
from manymask.serve.decoding import reduce_pixels
from manymask.serve.limits import Limits
from manymask.serve.log import LOG_NAME
from manymask.serve.predicting import Cancelled
from manymask.serve.server import PageTask
from manymask.serve.table import BORDER, EDITED, ODD_SIZE
from manymask.serve.workspace import META_NAME
from tests.serve.files import encode, encode_tiff, make_cells
from tests.serve.live_server import TOKEN, run_server
from tests.serve.packed import read_table

CELLS = make_cells(200, 300)


@pytest.fixture
def image(live):
    """An image that is predicted, with objects."""
    (image,) = live.upload(("cells.png", encode(CELLS))).json()["images"]
    yield live.wait(image["id"], "done")
    live.client.delete(f"/api/images/{image['id']}")


def get_tile(live, image, level: int, x: int, y: int, **query) -> np.ndarray:
    answer = live.client.get(f"/api/images/{image['id']}/tiles/{level}/{x}_{y}.webp", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert "immutable" in answer.headers["cache-control"]
    return np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)


def test_the_session_tells_what_a_page_needs(live, image):
    session = live.client.get("/api/session").json()
    assert session["current"] == "tiny.ckpt"
    assert session["models"][0]["classes"] == [{"id": 2, "name": "round"}, {"id": 5, "name": "long"}]
    assert image["id"] in [each["id"] for each in session["images"]]
    assert session["limits"]["body_bytes"] == 2 << 30
    assert session["formats"] == ["PNG", "JPEG", "TIFF", "WebP"]


def test_predictions_are_those_of_the_model(live, image, tiny_model):
    (found,) = predict(load_model(tiny_model, "cpu"), [CELLS])
    assert image["num_objects"] == len(found) > 0
    assert (image["version"], image["model"]) == (1, "tiny.ckpt")
    table = live.client.get(f"/api/images/{image['id']}/table.bin").content
    assert (table[:4], np.frombuffer(table, "<u4", 1, 4)[0]) == (b"MMT1", len(found))
    scores = np.frombuffer(table, "<u2", len(found), 16 + 4 * len(found))
    np.testing.assert_array_equal(scores, np.rint(found.scores.astype(np.float64) * 65535))


def test_tiles_show_the_image_as_the_model_sees_it(live, image):
    assert (image["levels"], image["tile_size"]) == (10, 256)
    expected = normalize_pixels(CELLS, "cells", Normalization("image")).numpy().transpose(1, 2, 0) * 255
    left, right = (get_tile(live, image, 9, x, 0) for x in (0, 1))
    assert (left.shape, right.shape) == ((200, 256, 3), (200, 44, 3))
    assert np.abs(np.concatenate([left, right], axis=1) - expected).mean() < 6  # WebP's losses
    half = get_tile(live, image, 8, 0, 0)
    assert half.shape == (100, 150, 3)
    assert get_tile(live, image, 0, 0, 0).shape == (1, 1, 3)
    dark = get_tile(live, image, 8, 0, 0, lo=0.5, hi=1)
    assert dark.mean() < half.mean() - 20
    for place in ("10/0_0", "9/2_0", "9/0_1", "-1/0_0", "9/-1_0"):
        assert live.client.get(f"/api/images/{image['id']}/tiles/{place}.webp").status_code == 404


def test_a_large_image_is_read_in_windows_and_in_smaller_copies(live):
    pixels = np.random.default_rng(0).integers(0, 60000, (2100, 3100), dtype=np.uint16)
    pixels[:1050] //= 4
    content = encode_tiff(pixels, tile=(256, 256), compression="zlib", resolution=(20000, 20000), resolutionunit=3)
    (image,) = live.upload(("slide.tif", content)).json()["images"]
    live.client.post(f"/api/images/{image['id']}/cancel")
    meta = live.wait(image["id"], "cancelled", "done")
    assert (meta["levels"], meta["num_channels"], meta["pixel_size"]) == (13, 1, [0.5, 0.5])
    folder = live.server.workspace.get(image["id"]).folder
    assert not (folder / "pixels.npy").exists()  # the file is read itself
    np.testing.assert_array_equal(np.load(folder / "reduced1.npy")[..., 0], reduce_pixels(pixels[..., None], 8)[..., 0])
    whole = get_tile(live, image, 8, 0, 0)
    assert whole.shape == (132, 194, 3)
    assert whole[:60].mean() < whole[70:].mean() / 2
    assert get_tile(live, image, 12, 12, 8).shape == (52, 28, 3)
    live.client.delete(f"/api/images/{image['id']}")


def test_bytes_are_compressed_and_sent_once(live, image):
    for path in ("table.bin", "blocks/0_0.bin"):
        with live.client.stream("GET", f"/api/images/{image['id']}/{path}") as answer:
            raw = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(raw)[:3] == b"MM" + (b"T" if path == "table.bin" else b"B")
        again = live.client.get(f"/api/images/{image['id']}/{path}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert live.client.get(f"/api/images/{image['id']}/blocks/7_0.bin").status_code == 404
    assert live.client.get(f"/api/images/{image['id']}/table.bin", params={"version": 7}).status_code in (404, 422)


def test_edits_are_kept_and_undone(live, image):
    place, number = f"/api/images/{image['id']}", image["num_objects"]
    seen = {"If-Match": f'"{image["revision"]}"'}
    change = live.client.post(f"{place}/edits", json={"edits": [{"op": "delete", "ids": [1, 2]}]}, headers=seen).json()
    assert (change["removed"], change["can_undo"]) == ([1, 2], True)
    late = live.client.post(f"{place}/edits", json={"edits": [{"op": "delete", "ids": [3]}]}, headers=seen)
    assert (late.status_code, late.json()["revision"]) == (409, change["revision"])  # two browsers, one image
    assert live.client.get(f"{place}/meta").json()["num_objects"] == number - 2
    assert live.client.post(f"{place}/undo").json()["added"] == [1, 2]
    assert live.client.post(f"{place}/redo").json()["removed"] == [1, 2]
    assert live.client.post(f"{place}/redo").status_code == 422
    half = [{"op": "delete", "ids": [3]}, {"op": "delete", "ids": [10**6]}]
    assert live.client.post(f"{place}/edits", json={"edits": half}).status_code == 422
    assert live.client.get(f"{place}/meta").json()["num_objects"] == number - 2  # all or none


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"edits": []}, {}, 422),
        ({"edits": [{"op": "explode"}]}, {}, 422),
        ({"edits": [{"op": "delete", "ids": "all"}]}, {}, 422),
        ({"edits": [{"op": "delete", "ids": [1]}] * 1001}, {}, 413),
        ({"edit": []}, {}, 422),
        ({"edits": [{"op": "delete", "ids": [1]}]}, {"If-Match": "new"}, 422),
        ([], {}, 422),
    ],
)
def test_edits_that_are_none_are_refused(live, image, body, headers, status):
    answer = live.client.post(f"/api/images/{image['id']}/edits", json=body, headers=headers)
    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)


def test_downloads_hold_what_the_filter_shows(live, image):
    place = f"/api/images/{image['id']}"
    live.client.post(f"{place}/edits", json={"edits": [{"op": "class", "ids": [1], "value": 5}]})
    objects = live.server.get_objects(live.server.workspace.get(image["id"]))
    objects._state.table.columns["flags"][1] |= ODD_SIZE  # of few objects, none is odd
    (number, _, _), table = read_table(live.client.get(f"{place}/table.bin").content)
    flags, middle, score = table["flags"], sorted(table["area"])[number // 2], sorted(table["score"])[number // 2]
    expected = {
        "": number,
        f"min_score={score / 65535}": sum(each >= score for each in table["score"]),
        f"max_score={score / 65535}": sum(each <= score for each in table["score"]),
        f"min_area={middle}": sum(area >= middle for area in table["area"]),
        f"max_area={middle}": sum(area <= middle for area in table["area"]),
        "classes=5": table["class"].count(1),
        "edited=true": sum(flag & EDITED > 0 for flag in flags),
        "border=false": sum(not flag & BORDER for flag in flags),
        "odd=true": sum(flag & ODD_SIZE > 0 for flag in flags),
    }
    assert all(0 < count < number for query, count in expected.items() if query), expected
    for query, count in expected.items():
        answer = live.client.get(f"{place}/download/geojson?{query}")
        assert len(json.loads(gzip.decompress(answer.content))["features"]) == count, query


def test_predicting_again_makes_a_version(live, image):
    place = f"/api/images/{image['id']}"
    live.client.post(f"{place}/edits", json={"edits": [{"op": "delete", "ids": [1]}]})
    assert live.client.post(f"{place}/checked", json={"checked": True, "region": [0, 0, 9, 9]}).status_code == 200
    assert live.client.post(f"{place}/predict", json={"model": "tiny.ckpt"}).json()["status"] in ("waiting", "done")
    time.sleep(0.05)
    again = live.wait(image["id"], "done")
    assert [version["number"] for version in again["versions"]] == [1, 2]
    assert (again["num_objects"], again["version"]) == (image["num_objects"], 2)
    assert (again["checked"], again["region"]) == (False, None)  # nobody has looked at it yet
    old = live.client.get(f"{place}/table.bin", params={"version": 1}).content
    flags = np.frombuffer(old, "u1", image["num_objects"], 16 + 7 * image["num_objects"])
    assert flags[0] & 4  # what was corrected in it stays
    for number, version in ((again["num_objects"] - 1, {"version": 1}), (again["num_objects"], {})):
        answer = live.client.get(f"{place}/download/geojson", params=version)
        assert len(json.loads(gzip.decompress(answer.content))["features"]) == number
        assert len(live.client.get(f"{place}/measurements.csv", params=version).text.splitlines()) == 1 + number
    assert live.client.post(f"{place}/predict", json={"model": "unknown"}).status_code == 404


def test_regions_that_were_looked_at(live, image):
    place = f"/api/images/{image['id']}/checked"
    answer = live.client.post(place, json={"checked": True, "region": [10, 20, 100, 50]}).json()
    assert (answer["checked"], answer["region"]) == (True, [10, 20, 100, 50])
    assert live.client.post(place, json={"checked": True, "region": [10, 20, 1000, 50]}).status_code == 422
    assert live.client.post(place, json={"checked": False}).json()["region"] is None
    live.server.workspace.get(image["id"]).change(status="predicting")
    answer = live.client.post(place, json={"checked": True})
    assert (answer.status_code, answer.json()["detail"][:29]) == (409, "this image is being predicted")


def test_nothing_is_trained_from_images_without_objects(tiny_model, tmp_path):
    with run_server(tiny_model, tmp_path) as live:
        live.upload(*((f"{number}.png", encode(make_cells())) for number in range(2)))
        for image in live.client.get("/api/images").json():
            image, place = live.wait(image["id"], "done"), f"/api/images/{image['id']}"
            ids = list(range(1, image["num_objects"] + 1))
            assert live.client.post(f"{place}/edits", json={"edits": [{"op": "delete", "ids": ids}]}).status_code == 200
            assert live.client.post(f"{place}/checked", json={"checked": True}).status_code == 200
        job = live.client.post("/api/improve", json={"minutes": 1}).json()
        end = time.monotonic() + 30
        while (job := live.client.get(f"/api/jobs/{job['id']}").json())["status"] != "failed":
            assert time.monotonic() < end, job
            time.sleep(0.05)
        assert job["error"].startswith("the checked images that are trained on have no objects where they were checked")


def test_what_is_not_there(live):
    for path in ("/api/images/abc/meta", "/api/jobs/abc", "/api/jobs/abc/result", "/nothing", "/api/nothing"):
        answer = live.client.get(path)
        assert answer.status_code == 404
        assert isinstance(answer.json()["detail"], str)
    assert live.client.post("/api/predict", params={"model": "unknown"}).status_code == 404
    assert live.client.post("/api/models/current", json={"name": "/etc/passwd"}).status_code == 404
    assert live.client.put("/api/session").status_code == 405


def test_a_removed_image_leaves_nothing(live):
    (image,) = live.upload(("cells.png", encode(CELLS))).json()["images"]
    folder = live.server.workspace.get(image["id"]).folder
    assert live.client.delete(f"/api/images/{image['id']}").status_code == 204  # while it is predicted
    time.sleep(0.5)
    assert not folder.exists()
    assert live.client.get(f"/api/images/{image['id']}/meta").status_code == 404


def test_events_tell_what_happens(live):
    told, opened = [], threading.Event()

    def listen():
        with httpx.stream("GET", f"{live.url}/api/events", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                opened.set()
                if line.startswith("data:"):
                    told.append(json.loads(line[5:]))
                    if told[-1].get("revision") and not told[-1]["blocks"]:
                        return

    thread = threading.Thread(target=listen)
    thread.start()
    assert opened.wait(20)
    (image,) = live.upload(("cells.png", encode(CELLS))).json()["images"]
    live.wait(image["id"], "done")
    live.client.post(f"/api/images/{image['id']}/edits", json={"edits": [{"op": "delete", "ids": [1]}]})
    thread.join(20)
    statuses = [event["image"]["status"] for event in told if event["type"] == "image"]
    assert statuses == ["waiting", "predicting", "done"]
    assert told[-1]["type"] == "blocks"
    assert told[-1]["id"] == image["id"]


def test_nothing_is_lost_when_the_server_starts_again(tiny_model, tmp_path):
    with run_server(tiny_model, tmp_path / "serve") as live:
        (first,) = live.upload(("cells.png", encode(CELLS))).json()["images"]
        before = live.wait(first["id"], "done")
        live.client.post(f"/api/images/{first['id']}/edits", json={"edits": [{"op": "delete", "ids": [1]}]})
        live.client.post(f"/api/images/{first['id']}/checked", json={"checked": True})
        live.server.predictor.close()  # so that the second image is not predicted by this server
        (second,) = live.upload(("more.png", encode(CELLS))).json()["images"]
    (tmp_path / "serve" / "images" / "half.new").mkdir()
    with run_server(tiny_model, tmp_path / "serve") as live:
        after = live.wait(first["id"], "done")
        assert after["num_objects"] == before["num_objects"] - 1
        assert (after["checked"], after["can_undo"], after["name"]) == (True, True, "cells.png")
        assert live.wait(second["id"], "done")["num_objects"] == before["num_objects"]
    assert not list((tmp_path / "serve" / "images").glob("*.new"))


def test_metrics_are_prometheus_text(live, image):
    text = live.client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["manymask_images_predicted_total"]) >= 1
    assert float(values['manymask_http_responses_total{status="200"}']) >= 1
    assert all(f"# TYPE {name.partition('{')[0]} " in text for name in values)


def test_an_example_needs_no_file(live):
    (image,) = live.client.post("/api/images/example").json()["images"]
    assert (image["width"], image["height"]) == (768, 768)
    live.client.delete(f"/api/images/{image['id']}")


def test_images_of_a_folder_stay_where_they_are(live, tmp_path):
    tifffile.imwrite(tmp_path / "of_folder.tif", CELLS)
    (tmp_path / "broken.png").write_bytes(b"no image")
    live.server.add_images(find_images(tmp_path))
    live.server.add_images(find_images(tmp_path))  # is there already
    (image,) = [each for each in live.client.get("/api/images").json() if each["name"] == "of_folder.tif"]
    assert live.wait(image["id"], "done")["num_objects"]
    assert live.client.delete(f"/api/images/{image['id']}").status_code == 204
    assert (tmp_path / "of_folder.tif").is_file()


def test_what_is_damaged_takes_nothing_else_along(tiny_model, tmp_path):
    with run_server(tiny_model, tmp_path) as live:
        images = live.upload(*((f"{name}.png", encode(CELLS)) for name in "abc")).json()["images"]
        a, b, c = (live.wait(image["id"], "done")["id"] for image in images)
    (tmp_path / "images" / a / META_NAME).write_text("{")
    (tmp_path / "images" / b / LOG_NAME).write_text('{"version": 1}\n')
    (tmp_path / "runs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "1" / "improved.json").write_text('{"name": "improved 1"}')
    with run_server(tiny_model, tmp_path) as live:
        session = live.client.get("/api/session").json()
        assert [model["name"] for model in session["models"]] == ["tiny.ckpt"]
        found = {image["id"]: image for image in session["images"]}
        assert (found[b]["status"], found[c]["status"]) == ("failed", "done")
        assert LOG_NAME in found[b]["error"]
        assert a not in found
        assert live.client.delete(f"/api/images/{b}").status_code == 204


def test_another_model_that_is_asked_for_while_an_image_is_read(live, image, monkeypatch):
    stored = live.server.workspace.get(image["id"])
    task = PageTask(live.server, stored, "tiny.ckpt")
    stored.change(status="waiting", model="other")  # as a second request does
    with pytest.raises(Cancelled):
        task.begin(live.server.models.get(), 1)
    task.fail(None)
    assert (stored.meta.status, stored.meta.model) == ("waiting", "other")
    stored.change(status="done", model="tiny.ckpt")


def test_decoding_takes_only_so_long_and_so_much(tiny_model, tmp_path):
    with run_server(tiny_model, tmp_path / "serve", Limits(decode_seconds=0.0)) as live:
        answer = live.upload(("a.png", encode(np.zeros((4000, 4000, 3), np.uint8))))
        assert answer.status_code == 413
        assert "longer than 0 s" in answer.json()["detail"]
    with run_server(tiny_model, tmp_path / "serve", Limits(decode_bytes=20 << 20)) as live:
        answer = live.upload(("a.png", encode(np.zeros((8000, 8000, 3), np.uint8))))
        assert answer.status_code == 413
        assert "GB of memory" in answer.json()["detail"]
        assert live.upload(("b.png", encode(CELLS))).status_code == 200  # another process takes over
