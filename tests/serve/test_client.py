"""Prediction on a server gives the files that prediction here gives."""

import filecmp
from pathlib import Path

import pytest

from manymask.errors import BrokenImagesError, DatasetError, ManymaskError, PlanError
from manymask.prediction import predict_files
from manymask.serve import client as remote
from manymask.serve.client import Client
from tests.serve.files import encode, encode_tiff, make_cells
from tests.serve.live_server import TOKEN

FORMATS = ("coco", "labels", "geojson", "csv", "overlay")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode(make_cells(seed=1)))
    (folder / "zelle ü.tif").write_bytes(encode_tiff(make_cells(150, 90, seed=2), resolution=(20000, 20000)))
    return folder


def test_outputs_are_those_of_a_local_prediction(live, tiny_model, images, tmp_path):
    client = Client(live.url, TOKEN)
    told = []
    written = remote.predict_files(
        client, images, tmp_path / "remote", formats=FORMATS, progress=lambda *step: told.append(step[:2])
    )
    predict_files(str(tiny_model), images, tmp_path / "local", formats=FORMATS)
    assert told == [(1, 2), (2, 2)]
    assert written[0].parent == tmp_path / "remote"
    local = sorted(p.relative_to(tmp_path / "local") for p in (tmp_path / "local").rglob("*") if p.is_file())
    files = [path for path in local if not path.name.startswith(".")]
    assert len(files) > 10
    for path in files:
        assert filecmp.cmp(tmp_path / "local" / path, tmp_path / "remote" / path, shallow=False), path


def test_an_image_that_takes_long_is_a_job(live, images, monkeypatch):
    monkeypatch.setattr(remote, "_WAIT_SECONDS", 0)
    assert len(Client(live.url, TOKEN).predict(images / "a.png"))


def test_bad_images_are_named(live, images, tmp_path):
    (images / "broken.png").write_bytes(encode(make_cells())[:-300])
    with pytest.raises(BrokenImagesError, match=r"1 of 3 images.*broken.png"):
        remote.predict_files(Client(live.url, TOKEN), images, tmp_path / "out", formats=["coco"])
    with pytest.raises(DatasetError, match="broken.png"):
        remote.predict_files(Client(live.url, TOKEN), images / "broken.png", tmp_path / "out", formats=["coco"])


def test_a_server_that_cannot_be_used_is_told_before_any_work(live, images, tmp_path, monkeypatch):
    monkeypatch.delenv("MANYMASK_TOKEN", raising=False)
    for client in (Client.choose(live.url), Client(live.url, "wrong")):
        with pytest.raises(PlanError, match="MANYMASK_TOKEN"):
            remote.predict_files(client, images, tmp_path / "out")
    with pytest.raises(ManymaskError, match="is manymask serve running"):
        remote.predict_files(Client("http://127.0.0.1:9", TOKEN), images, tmp_path / "out")
    with pytest.raises(ManymaskError, match="has no model 'unknown'"):
        remote.predict_files(Client(live.url, TOKEN, "unknown"), images / "a.png", tmp_path / "out")
    monkeypatch.setenv("MANYMASK_TOKEN", TOKEN)
    Client.choose(live.url + "/").describe_model()
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    Client.choose(live.url, tmp_path / "token").describe_model()
