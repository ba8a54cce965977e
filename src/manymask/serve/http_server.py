"""Starting a server and its page."""

import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

import uvicorn

from manymask.errors import PlanError
from manymask.imaging import find_images
from manymask.serve.http_app import create_app
from manymask.serve.http_safety import TOKEN_NAME, Access, read_token
from manymask.serve.limits import Limits
from manymask.serve.server import Server

logger = logging.getLogger(__name__)

# Answers that are still being sent when the server is stopped get so many seconds.
_GRACE_SECONDS = 3
# Connections at once; more are answered with 503.
_NUM_CONNECTIONS = 256


def serve(
    models: Sequence[str | Path] = ("nuclei",),
    *,
    images: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    allowed_hosts: Collection[str] = (),
    workspace: Path = Path("serve"),
    device: str = "auto",
    opens_browser: bool = True,
    limits: Limits | None = None,
) -> None:
    """Serve the page and the interface for programs until Ctrl-C.

    Args:
        models: Run folders, checkpoints, exported models or names of shipped ones; the first one predicts.
        images: A folder of images on this machine to begin with, which stay where they are.
        host: The address to listen at; others than this machine's own need a token.
        port: The port; 0 takes a free one.
        token_file: Holds the token that programs send; by default the environment variable ``MANYMASK_TOKEN``, else a
            new one.
        allowed_hosts: Further names that browsers may call the server by.
        workspace: The folder for all that is uploaded, found, corrected and trained.
        device: Where models compute.
        opens_browser: Whether the page is opened.
        limits: What it takes at most.

    Raises:
        PlanError: Others could reach the server and there is no token, or the address cannot be used.
        ManymaskError: A model or a folder cannot be used.
    """
    token = read_token(token_file) if token_file else os.environ.get(TOKEN_NAME)
    # Refused before a model is loaded.
    Access.choose(host, port, token, allowed_hosts)
    found = [] if images is None else find_images(images)
    with closing(_listen(host, port)) as listener:
        access = Access.choose(host, listener.getsockname()[1], token, allowed_hosts)
        server = Server(models, workspace, device=device, limits=limits)
        if found:
            threading.Thread(target=server.add_images, args=(found,), name="manymask-images", daemon=True).start()
        _announce(access, host, is_token_new=token is None, opens_browser=opens_browser)
        config = uvicorn.Config(
            create_app(server, access),
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=_NUM_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that the address is known to be free before a model is loaded."""
    name = host.strip("[]")
    try:
        family = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform != "win32":  # where it would let two servers listen
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((name, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        raise PlanError(f"cannot listen at {host} port {port} ({error}); choose another --host or --port") from error
    return listener


def _announce(access: Access, host: str, *, is_token_new: bool, opens_browser: bool) -> None:
    """Tell the address and, where nobody has it yet, the token; open the page when the server is up."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "[::]") else host
    address = f"http://{shown}:{access.port}/"
    link = f"{address}?token={access.link_token}"
    logger.info(f"open {link} (this link works once)")
    if is_token_new:
        logger.info(f"for programs: {TOKEN_NAME}={access.token} manymask predict {address} IMAGES")
    if opens_browser:
        timer = threading.Timer(1.0, webbrowser.open, (link,))
        timer.daemon = True
        timer.start()
