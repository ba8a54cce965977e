"""What comes with uploads, good and bad: each has a status and a sentence, and nothing of it is left behind."""

import re
import threading

import numpy as np
import pytest

from manymask.serve.limits import Limits
from tests.serve.files import encode, encode_tiff, make_cells, make_png_bomb, make_tiff_bomb
from tests.serve.live_server import LiveServer, run_server

CELLS = make_cells()
PNG = encode(CELLS)
FORM = "multipart/form-data; boundary=x"
HEAD = b"--x\r\nContent-Disposition: form-data; name=files"


def assert_refused(live: LiveServer, content: bytes, status: int, *words: str, name: str = "a.png") -> None:
    answer = live.upload((name, content))
    assert answer.status_code == status, answer.text
    (refused,) = answer.json()["refused"]
    assert (refused["name"], refused["status"]) == (name, status)
    assert answer.json()["detail"] == refused["detail"]
    for word in words:
        assert word in refused["detail"]
    assert str(live.server.workspace.folder) not in answer.text  # where things are is nobody's business
    direct = live.client.post("/api/predict", files={"image": (name, content)})
    assert (direct.status_code, direct.json()) == (status, {"detail": refused["detail"]})
    assert not list((live.server.workspace.folder / "images").glob("*.new"))


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 422, "empty"),
        (b"hello, I am a text\n" * 99, 415, "PNG, JPEG, TIFF or WebP"),
        (b"GIF89a" + b"\0" * 99, 415, "save it as"),
        (b"PK\3\4" + b"\0" * 99, 415, "save it as"),
        (b"%PDF-1.7\n", 415, "save it as"),
        (PNG[:200], 422, "cut short"),
        (PNG[:-400], 422, "cut short"),
        (encode(CELLS, "JPEG")[:900], 422, "a.png"),
        (encode(CELLS, "WebP")[:300], 422, "a.png"),
        (encode_tiff(CELLS)[:-500], 422, "cut short"),
        (encode_tiff(CELLS, compression="zlib")[:-500], 422, "a.png"),
        (b"II*\0" + b"\xff" * 200, 422, "a.png"),
        (
            encode_tiff(np.zeros((20, 30, 5), np.uint8), planarconfig="contig", photometric="minisblack"),
            422,
            "channels",
        ),
        (encode_tiff(np.full((20, 30), np.nan, np.float32)), 422, "finite"),
        (encode_tiff(np.zeros((4, 20, 30), np.uint8), metadata={"axes": "ZYX"}), 422, "stack"),
        (make_png_bomb(50_000, 50_000), 413, "GB"),
        (make_png_bomb(20_000, 20_000), 413, "400 million pixels"),
        (make_tiff_bomb(50_000), 413, "million pixels"),
    ],
    ids=lambda value: None if isinstance(value, int | bytes) else value,
)
def test_bad_files_are_refused_in_a_sentence(live, content, status, words):
    assert_refused(live, content, status, words)


def test_bombs_are_refused_fast_and_without_being_unpacked(live):
    live.server.decoder.start()
    assert_refused(live, make_png_bomb(16_000, 16_000), 413, "256 million")
    assert live.client.post("/api/predict", files={"image": ("a", make_tiff_bomb(40_000))}).elapsed.total_seconds() < 2


@pytest.mark.parametrize(
    "pixels",
    [CELLS, CELLS[..., 0], CELLS.astype(np.uint16) * 200, CELLS.astype(np.float32) / 255, CELLS[:1, :1]],
    ids=["rgb", "grey", "16 bit", "float", "one pixel"],
)
def test_images_of_many_kinds_are_predicted(live, pixels):
    (image,) = live.upload(("a.tif", encode_tiff(pixels))).json()["images"]
    assert (image["height"], image["width"]) == pixels.shape[:2]
    assert live.wait(image["id"], "done", "failed")["error"] is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cells.png", "cells.png"),
        ("<img src=x onerror=alert(1)>.png", "<img src=x onerror=alert(1)>.png"),
        ("a\u202eb\u200bc.png", "abc.png"),
        ("/", "unnamed"),
        ("Zellkerne ü 細胞.png", "Zellkerne ü 細胞.png"),
        ("x" * 2000 + ".png", "x" * 255),
        ("CON", "CON"),
        (".", "."),
    ],
)
def test_names_are_for_people_only(live, name, shown):
    (image,) = live.upload((name, PNG)).json()["images"]
    assert image["name"] == shown
    stored = live.server.workspace.get(image["id"])
    assert {path.name for path in stored.folder.glob("upload*")} <= {"upload", "upload.png"}
    assert re.fullmatch("[a-z0-9]{12}", image["id"])
    assert re.fullmatch(r"[\w-]{1,100}", stored.stem)


def test_good_files_are_taken_beside_bad_ones(live):
    answer = live.upload(("a.png", PNG), ("b.txt", b"text"), ("c.jpg", encode(CELLS, "JPEG"))).json()
    assert [image["name"] for image in answer["images"]] == ["a.png", "c.jpg"]
    assert [(each["name"], each["status"]) for each in answer["refused"]] == [("b.txt", 415)]


@pytest.mark.parametrize(
    ("content", "kind", "status", "word"),
    [
        (b"", FORM, 400, "cut short"),
        (b"--x\r\n", FORM, 400, "cut short"),
        (b"nonsense", FORM, 400, "damaged"),
        (HEAD + b"; filename=a\r\n\r\nabc", FORM, 400, "cut"),
        (b"--x--\r\n", FORM, 422, "no file"),
        (b"{}", "application/json", 415, "multipart"),
        (b"", "multipart/form-data", 415, "multipart"),
        (b"", "", 415, "multipart"),
        (HEAD + b"\r\n\r\nabc\r\n--x--\r\n", FORM, 422, "no file"),
    ],
)
def test_broken_bodies_are_refused(live, content, kind, status, word):
    for path in ("/api/images", "/api/predict"):
        answer = live.client.post(path, content=content, headers={"Content-Type": kind})
        assert answer.status_code == status, answer.text
        assert word in answer.json()["detail"]
    assert not list((live.server.workspace.folder / "images").glob("*.new"))


def test_many_uploads_at_once(live):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(live.upload(("a.png", PNG)))) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 30
    for answer in answers:
        live.wait(answer.json()["images"][0]["id"], "done")
        assert live.client.delete(f"/api/images/{answer.json()['images'][0]['id']}").status_code == 204


def test_too_many_are_told_to_come_again(tiny_model, tmp_path):
    limits = Limits(files=2, images=3, uploads=0, queue=0)
    with run_server(tiny_model, tmp_path / "serve", limits) as live:
        for answer in (live.upload(("a.png", PNG)), live.client.post("/api/predict", files={"image": PNG})):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1


def test_files_are_counted(tiny_model, tmp_path):
    with run_server(tiny_model, tmp_path / "serve", Limits(files=2, images=3)) as live:
        assert live.upload(*[("a.png", PNG)] * 3).status_code == 413
        assert len(live.upload(*[("a.png", PNG)] * 2).json()["images"]) == 2
        answer = live.upload(*[("a.png", PNG)] * 2)
        assert [each["status"] for each in answer.json()["refused"]] == [507]
        assert "remove some" in answer.json()["refused"][0]["detail"]


def test_a_full_disk_is_told(live, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("manymask.serve.http_uploads.open", fail, raising=False)
    answer = live.upload(("a.png", PNG))
    assert answer.status_code == 507
    assert "no space left" in answer.json()["detail"]
    monkeypatch.undo()
    assert live.upload(("a.png", PNG)).status_code == 200
