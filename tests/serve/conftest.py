"""One server for many tests; those that fill it up, stop it or set limits start their own."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright import sync_api

from tests.serve.browsing import ARGUMENTS, CHROMIUM
from tests.serve.live_server import LiveServer, run_server
from tests.tiny_model import write_tiny_model


@pytest.fixture(autouse=True)
def no_faults(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a server's threads stumble over fails the test, though nobody waits for them."""
    yield
    told = caplog.get_records("call")
    faults = [record for record in told if record.levelno >= logging.ERROR and record.name.startswith("manymask")]
    assert not faults, faults[0].exc_text or faults[0].getMessage()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"detections_per_image": 300, "score_threshold": 0.45}  # so that no cap is reached, which would be told
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.ckpt", **settings)


@pytest.fixture(scope="session")
def live(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with run_server(tiny_model, tmp_path_factory.mktemp("workspace")) as server:
        yield server


@pytest.fixture(scope="module")
def browser(require: Callable[[str, object], None]) -> Iterator[sync_api.Browser]:
    require("chromium", CHROMIUM)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()
