"""The command that serves, and prediction on a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manymask.errors import ManymaskError, PlanError

if TYPE_CHECKING:
    from manymask.core.progress import Progress

TokenFileOption = Annotated[
    Path | None,
    typer.Option(help="A file with the token that programs send. [the environment variable MANYMASK_TOKEN]"),
]


def serve(
    model: Annotated[
        str | None, typer.Argument(help="A run folder, a checkpoint, a shipped or exported model. [nuclei]")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A further model; may be given several times.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="A folder of images to begin with, which stay where they are.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at. Other addresses than this machine's own need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    token_file: TokenFileOption = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name that browsers may call the server by.")
    ] = None,
    workspace: Annotated[
        Path, typer.Option(help="The folder for all that is uploaded, found, corrected and trained.")
    ] = Path("serve"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page.")] = False,
) -> None:
    """Open a page to look at predictions, to correct them and to train on what was corrected; and an API.

    Only this machine can reach it, unless --host says otherwise.
    """
    try:
        from manymask.serve.http_server import serve as run
    except ImportError as error:
        raise ManymaskError(f"this needs {error.name}; install it with: pip install 'manymask[serve]'") from error

    run(
        [*([model] if model else []), *(models or [])] or ["nuclei"],
        images=images,
        host=host,
        port=port,
        token_file=token_file,
        allowed_hosts=allow_host or (),
        workspace=workspace,
        device=device,
        opens_browser=not no_browser,
    )


def predict_remotely(
    url: str,
    images: Sequence[Path],
    output: Path,
    formats: Sequence[str] | None,
    token_file: Path | None,
    progress: "Progress",
    local: dict[str, Any],
) -> list[Path]:
    """Predict on a server.

    Args:
        url: Its address; what follows ``#`` names the model.
        images: The images.
        output: Where to write.
        formats: What to write.
        token_file: Holds the token.
        progress: As everywhere.
        local: Options by name that only act where the model is on this machine; none may be given.

    Raises:
        ManymaskError: One was given, or see ``manymask.serve.client.predict_files``.
    """
    from manymask.outputs import DEFAULT_OUTPUTS
    from manymask.serve.client import Client, predict_files

    if given := [name for name, value in local.items() if value]:
        raise PlanError(f"{given[0]} has no effect on a server, which has its own settings; leave it out")
    address, _, model = url.partition("#")
    client = Client.choose(address, token_file, model or None)
    return predict_files(client, images, output, formats=formats or DEFAULT_OUTPUTS, progress=progress)
