"""The command itself: what its options do, what it tells, and how it ends."""

import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import httpx
import pytest

from tests.serve.files import encode, make_cells

COMMAND = (sys.executable, "-m", "manymask", "serve", "--no-browser", "--port", "0")
TOKEN = "a token from a file"


def test_all_options(tiny_model, tmp_path):
    other = shutil.copy(tiny_model, tmp_path / "other.ckpt")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cells.png").write_bytes(encode(make_cells()))
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    options = {"--images": "images", "--workspace": "work", "--token-file": "token", "--allow-host": "cells.example"}
    arguments = [tiny_model, "--model", other, "--device", "cpu", *(part for pair in options.items() for part in pair)]
    # A shell starts what runs in the background with Ctrl-C ignored, which its processes would take over.
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    try:
        link = read_link(process.stderr)
        with httpx.Client(base_url=link.split("?")[0], timeout=30) as client:
            until_up(client)
            assert client.get("/api/session").status_code == 401
            client.headers["authorization"] = f"Bearer {TOKEN}"
            hosts = ("cells.example", "elsewhere.example")
            assert [client.get("/api/session", headers={"host": host}).status_code for host in hosts] == [200, 403]
            session = client.get("/api/session").json()
            assert [model["name"] for model in session["models"]] == ["tiny.ckpt", "other.ckpt"]
            deadline = time.monotonic() + 60
            while not (images := client.get("/api/images").json()) or images[0]["status"] != "done":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert [image["name"] for image in images] == ["cells.png"]
        with httpx.Client() as page:
            assert "<title>" in page.get(link, follow_redirects=True).text
        assert (tmp_path / "work").is_dir()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT
    finally:
        process.kill()
        assert TOKEN not in process.communicate()[1]


def read_link(lines):
    for line in lines:  # which end where the process does
        if link := re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line):
            return link[0]
    raise AssertionError("the server ended")


def until_up(client):
    deadline = time.monotonic() + 60
    while True:
        try:
            return client.get("/health")
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "token"),
        (["missing.ckpt"], "missing.ckpt"),
        (["--images", "."], "holds no images"),
    ],
)
def test_refusals(tmp_path, arguments, words):
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
