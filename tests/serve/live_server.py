"""A server that runs in a thread of the tests, with a small network of random weights."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn

from manymask.serve.http_app import create_app
from manymask.serve.http_safety import Access
from manymask.serve.limits import Limits
from manymask.serve.server import Server

TOKEN = "a token that only the tests know"


@dataclass(eq=False)
class LiveServer:
    """A running server, and a program's client of it."""

    server: Server
    access: Access
    url: str
    client: httpx.Client

    def upload(self, *files: tuple[str, bytes]) -> httpx.Response:
        return self.client.post("/api/images", files=[("files", file) for file in files])

    def wait(self, image_id: str, *statuses: str, seconds: float = 30) -> dict:
        """The image, once its status is one of these."""
        end = time.monotonic() + seconds
        while (image := self.client.get(f"/api/images/{image_id}/meta").json())["status"] not in statuses:
            assert time.monotonic() < end, image
            assert image["status"] in ("waiting", "predicting"), image
            time.sleep(0.02)
        return image


@contextmanager
def run_server(
    model: Path, workspace: Path, limits: Limits | None = None, host: str = "127.0.0.1"
) -> Iterator[LiveServer]:
    listener = socket.socket()
    listener.bind((host, 0))
    port = listener.getsockname()[1]
    server = Server([model], workspace, device="cpu", limits=limits)
    access = Access.choose(host, port, TOKEN)
    config = uvicorn.Config(
        create_app(server, access), log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    program = uvicorn.Server(config)
    thread = threading.Thread(target=program.run, args=([listener],))
    thread.start()
    try:
        while not program.started:
            assert thread.is_alive()
            time.sleep(0.01)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
            yield LiveServer(server, access, url, client)
    finally:
        program.should_exit = True
        thread.join(timeout=60)
        listener.close()
