"""What all tests share."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

# Before torch is imported: threads that spin while they wait bring a busy machine to a stop (see manymask.cli).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from hypothesis import settings

# Without deadlines: the first call of a function under runtime type checks is slow.
settings.register_profile("manymask", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("manymask")


# Few tests that take minutes: first, so that no worker is left with one of these files at the end.
SLOW_FILES = (
    "training/test_processes.py",
    "serve/test_page_on_server.py",
    "comparison/test_experimenting.py",
    "prediction/test_ray_engine.py",
    "prediction/test_exporting.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first."""
    items.sort(key=lambda item: not str(item.path).endswith(SLOW_FILES))


# What not every machine has, and so not every test run needs: a browser, Ray, the extra ``oracles``, real data, a GPU.
OPTIONAL = {"chromium", "oracles", "data", "gpu", "ray"}


@pytest.fixture(scope="session")
def require() -> Callable[[str, object], None]:
    """Skips a test that needs what is not here, but fails it where ``MANYMASK_EXPECT`` (``chromium,data``) names it."""

    def check(name: str, is_here: object) -> None:
        expected = set(filter(None, os.environ.get("MANYMASK_EXPECT", "").split(",")))
        if not expected <= OPTIONAL:
            pytest.fail(f"MANYMASK_EXPECT names {', '.join(expected - OPTIONAL)}; known are {', '.join(OPTIONAL)}")
        if not is_here:
            (pytest.fail if name in expected else pytest.skip)(f"{name} is needed, and is not here")

    return check


@pytest.fixture(scope="session")
def shared_data(require: Callable[[str, object], None]) -> Path:
    """The folder of real data for development, beside the project's root."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("MANYMASK_SHARED_DATA", default)).resolve()
    require("data", folder.is_dir())
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Many small operations, in two test processes, and the same sums as in the processes that some tests start."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with a best checkpoint."""
    # Not at the top: what is loaded with this file is not checked for its types.
    from tests.tiny_model import write_tiny_model

    folder = tmp_path_factory.mktemp("run")
    write_tiny_model(folder / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def model(run):
    from manymask.prediction import load_model

    return load_model(run)


class _AsWarning(logging.Handler):
    """Makes what the package warns of in its log a Python warning, which fails a test that does not expect it."""

    def emit(self, record: logging.LogRecord) -> None:
        # Training, scores and the server warn of what tests do on purpose: one image only, a model that knows little,
        # files that are damaged.
        # pyproject.toml makes errors of warnings from modules whose names begin with manymask.
        is_expected = record.name.startswith(("manymask.training", "manymask.evaluation", "manymask.serve"))
        module = record.name.removeprefix("manymask.") if is_expected else record.name
        if record.levelno >= logging.WARNING:
            warnings.warn_explicit(record.getMessage(), UserWarning, record.pathname, record.lineno, module)


@pytest.fixture(autouse=True)
def strict_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the package tells reaches ``caplog``; the command line gives the log another handler, for one test."""
    log = logging.getLogger("manymask")
    monkeypatch.setattr(log, "handlers", [_AsWarning()])
    log.setLevel(logging.INFO)
