"""What Prometheus is told."""

from collections.abc import Iterator

import psutil

from manymask.serve.server import Server


def format_metrics(server: Server) -> str:
    """Counters and gauges in Prometheus' text format, version 0.0.4."""
    return "\n".join(_list_lines(server)) + "\n"


def _list_lines(server: Server) -> Iterator[str]:
    yield from _head("manymask_http_responses_total", "counter", "Answers by HTTP status.")
    for name, number in sorted(server.counts.items()):
        if name.isdecimal():
            yield f'manymask_http_responses_total{{status="{name}"}} {number}'
    images = server.workspace.list_images()
    values: list[tuple[str, str, str, float]] = [
        ("images_predicted_total", "counter", "Images predicted since the start.", server.predictor.num_predicted),
        ("objects_found_total", "counter", "Objects found since the start.", server.predictor.num_found),
        (
            "files_refused_total",
            "counter",
            "Files that were no image, damaged or too large.",
            server.counts["refused files"],
        ),
        ("edits_total", "counter", "Corrections, undone ones too.", server.counts["edits"]),
        ("requests_waiting", "gauge", "Requests that wait for the model.", server.predictor.num_waiting),
        ("images_waiting", "gauge", "Images of the page that wait for the model.", server.predictor.num_images_waiting),
        ("images", "gauge", "Images of the page.", len(images)),
        ("pages", "gauge", "Pages that listen.", server.events.num_listeners),
        ("resident_memory_bytes", "gauge", "Memory of the server's process.", psutil.Process().memory_info().rss),
    ]
    for name, kind, text, value in values:
        yield from _head(f"manymask_{name}", kind, text)
        yield f"manymask_{name} {value}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
