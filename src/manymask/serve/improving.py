"""Training on images that were checked, in a process of its own, and the score of the new model beside the old one's.

The process is this module: ``python -m manymask.serve.improving FOLDER`` reads what to do from ``task.json`` in the
folder, says on each line of its output how far it is, and leaves the run and ``improved.json`` there.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manymask.errors import Interrupted, ManymaskError
from manymask.metrics.catalogue import COMPARED, TOLD
from manymask.run_folder import read_metrics
from manymask.serve.jobs import Job
from manymask.serve.models import RESULT_NAME, write_result

logger = logging.getLogger(__name__)

TASK_NAME = "task.json"
# Time for a training to end between two steps before it is killed.
_GRACE_SECONDS = 20
_TELL_SECONDS = 0.5


def start_improving(folder: Path, job: Job, on_change: Callable[[Job], None], on_end: Callable[[Path], str]) -> None:
    """Train and score in a process of its own, which a thread watches.

    Args:
        folder: Where ``task.json``, ``train`` and ``val`` are, and the run will be.
        job: Told how it goes.
        on_change: Called whenever the job has changed.
        on_end: Called with the folder when there is a new model; gives the model's name.
    """
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "manymask.serve.improving", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C is the server's to answer
    )
    job.status = "running"
    job.stop = lambda: _stop(process, job)
    threading.Thread(
        target=_watch, args=(process, folder, job, on_change, on_end), name="manymask-improve", daemon=True
    ).start()


def _stop(process: "subprocess.Popen[str]", job: Job) -> None:
    job.status = "cancelled"
    process.terminate()
    timer = threading.Timer(_GRACE_SECONDS, process.kill)
    timer.daemon = True
    timer.start()


def _watch(
    process: "subprocess.Popen[str]",
    folder: Path,
    job: Job,
    on_change: Callable[[Job], None],
    on_end: Callable[[Path], str],
) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            try:
                told = json.loads(line.replace(json.dumps(str(folder))[1:-1], "the checked images"))
            except ValueError:  # of a library that prints
                continue
            if "error" in told:
                job.error = told["error"]
            else:
                job.progress, job.what = (told["done"], told["total"]), told["what"]
            job.rows = _read_rows(folder)
            on_change(job)
    code = process.wait()
    job.rows = _read_rows(folder)
    if job.status == "cancelled":
        pass
    elif code == 0 and (folder / RESULT_NAME).is_file():
        result = json.loads((folder / RESULT_NAME).read_bytes())
        job.result = result | {"model": on_end(folder)}
        job.status = "done"
    else:
        job.status = "failed"
        job.error = job.error or f"training ended with exit code {code}; the server's log says more"
    on_change(job)


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    try:
        return [dict(row) for row in read_metrics(folder / "run")]
    except ManymaskError:  # between two epochs
        return []


def improve(folder: Path, tell: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Train, and compare with the model that was before, on the checked images that are held out.

    Args:
        folder: As in ``start_improving``.
        tell: Called with things done, their number, and what is being done.

    Returns:
        ``score``, its ``interval``, ``before``, ``difference`` and its ``difference_interval``, and a ``sentence``.

    Raises:
        ManymaskError: Training or comparing cannot go on.
    """
    from manymask.comparison import compare
    from manymask.training import train

    started, task = time.monotonic(), json.loads((folder / TASK_NAME).read_bytes())
    settings = {name: task[name] for name in ("minutes", "weights", "device")}
    train(
        folder / "train",
        val=folder / "val",
        output=folder / "run",
        started=started,
        settings=settings,
        progress=tell,
    )
    tell(0, 1, "comparing the new model with the one before")
    compared = compare(
        {"before": [task["weights"]], "new": [folder / "run"]}, folder / "val", device=task["device"], progress=tell
    )
    pair = compared["comparisons"][0]
    label = next(metric.label for metric in COMPARED if metric in TOLD)  # that of the first sentence
    before, new = (variant["metrics"][label] for variant in compared["variants"])
    difference = next(each for each in pair["differences"] if each["metric"] == label)
    return {
        "metric": label,
        "score": new["mean"],
        "interval": new["interval"],
        "before": before["mean"],
        "difference": difference["difference"],
        "difference_interval": difference["interval"],
        "sentence": pair["sentences"][0],
        "num_images": compared["num_images"],
    }


def main(folder: Path) -> int:
    """The process."""
    told = 0.0

    def tell(done: int, total: int, what: str) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_SECONDS or done == total:
            told = time.monotonic()
            print(json.dumps({"done": done, "total": total, "what": what}), flush=True)

    try:
        write_result(folder, improve(folder, tell))
    except ManymaskError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    except Interrupted as error:
        return 128 + error.signal_number
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
