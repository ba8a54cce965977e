"""What Ray's workers find, whatever happens to them, is what one process finds."""

import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from manymask.errors import BrokenImagesError, ManymaskError, PlanError
from manymask.prediction import job, predict_files, ray_engine
from manymask.prediction.partial import PARTIAL_NAME, PartialResults
from manymask.prediction.parts import Part, PartFinder
from manymask.prediction.ray_engine import RayWorkers, connect_ray
from tests.prediction.bright import FORMATS, POISON, TILE_SIZE, list_calls, make_model, read_all, write_images

NUM_IMAGES = 12


def predict(model, images, output, **changes) -> str:
    """What is said of the broken image."""
    options = {"formats": FORMATS, "tile_size": TILE_SIZE, **changes}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "passed over: .*bad.png")
        with pytest.raises(BrokenImagesError, match=f"1 of {NUM_IMAGES + 1} images") as caught:
            predict_files(model, images, output, **options)
    return str(caught.value).replace(str(output), "OUTPUT")


@pytest.fixture(scope="module")
def cluster(require):
    """The address of a Ray cluster of two workers, to which this process is connected."""
    require("ray", importlib.util.find_spec("ray"))
    with connect_ray(num_workers=2):
        import ray

        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Images, one of which is broken, what one process writes and says, and how often it looks."""
    folder = tmp_path_factory.mktemp("whole")
    images = write_images(folder / "in", NUM_IMAGES)
    content = (images / "02.png").read_bytes()
    (images / "bad.png").write_bytes(content[:100] + bytes(20) + content[120:])
    said = predict(make_model(folder / "calls"), images, folder / "out")
    yield images, read_all(folder / "out"), said, len(list_calls(folder / "calls"))
    shutil.rmtree(folder)


def test_whichever_process_is_killed_files_are_those_of_one_process(cluster, whole, tmp_path):
    images, expected, said, num_calls = whole
    calls, output, told = tmp_path / "calls", tmp_path / "out", []
    command = [sys.executable, "-m", "tests.prediction.bright", images, output, calls, cluster]
    driver = subprocess.Popen(list(map(str, command)), cwd=Path(__file__).parents[2])
    while len(list_kept(output)) < 8 and driver.poll() is None:
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    while any(psutil.pid_exists(int(pid)) for pid in list_calls(calls)):  # Ray ends its worker
        time.sleep(0.05)
    num_kept = len(list_kept(output))
    assert 8 <= num_kept < num_calls
    calls.unlink()

    model, tell = make_model(calls, end_at=9), lambda *values: told.append(values[:2])
    assert predict(model, images, output, engine="ray", progress=tell) == said
    seen = list_calls(calls)
    assert len(seen) == num_calls - num_kept + 1  # the ninth twice, and nothing that was kept
    assert len(set(seen)) == 3
    assert str(os.getpid()) not in seen
    assert told[-1][0] == told[-1][1] > NUM_IMAGES
    written = read_all(output)  # beside what the driver had just begun to write
    assert {name: written[name] for name in written if not name.endswith(".partial")} == expected


def list_kept(output):
    return list((output / PARTIAL_NAME).glob("*/*.npz"))


def test_one_process_goes_on_with_what_workers_found(whole, tmp_path, monkeypatch):
    images, expected, said, num_calls = whole
    output, calls = tmp_path / "out", tmp_path / "calls"

    class Workers(RayWorkers):
        """Stands where Ray's would, for as long as the disk has room."""

        def __init__(self):
            pass

        def map(self, work, items, *, on_gpu=False):
            for item in items[:9]:
                yield work(item)
            raise ManymaskError("the disk is full")

    monkeypatch.setattr(job, "connect_ray", lambda *_: nullcontext(Workers()))
    with pytest.raises(ManymaskError, match="^the disk is full$"):
        predict_files(make_model(calls), images, output, formats=FORMATS, tile_size=TILE_SIZE, engine="ray")
    num_kept = len(list_kept(output))
    assert len(list_calls(calls)) == num_kept > 9
    assert predict(make_model(calls), images, output) == said
    assert len(list_calls(calls)) == num_calls
    assert read_all(output) == expected


@pytest.mark.slow
def test_an_image_that_ends_its_workers_is_passed_over(cluster, tmp_path):
    images = write_images(tmp_path / "in", 4)
    predict_files(make_model(tmp_path / "calls"), images, tmp_path / "one", formats=["labels"])
    cv2.imwrite(str(images / "poison.png"), np.zeros((*POISON, 3), dtype=np.uint8))
    with (
        pytest.warns(UserWarning, match="passed over: .*poison.png ended each worker that looked at it"),
        pytest.raises(BrokenImagesError, match="1 of 5 images could not be predicted"),
    ):
        predict_files(make_model(tmp_path / "calls"), images, tmp_path / "ray", formats=["labels"], engine="ray")
    assert read_all(tmp_path / "ray" / "labels") == read_all(tmp_path / "one" / "labels")


def test_what_is_told_and_raised_there_is_here(caplog):
    def tell_twice(item):
        logging.getLogger("manymask.told").info("told of all")
        logging.getLogger("manymask.told").info("told of all")
        return 1 / item

    told = set()
    answers = [ray_engine._make_answer(tell_twice, (item,)) for item in (1, 2, 0)]
    assert not caplog.records
    logging.getLogger("manymask").propagate = True
    assert [ray_engine._open_answer(answer, told) for answer in answers[:2]] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        ray_engine._open_answer(answers[2], told)
    assert [record.getMessage() for record in caplog.records] == ["told of all"]


@pytest.mark.parametrize("number", [0, 100_000])
def test_more_workers_than_cores(cluster, whole, tmp_path, number):
    message = rf"num_workers is {number}, but Ray has \d+ cores?; set it from 1 to \d+"
    options = {"engine": "ray", "num_workers": number}
    with pytest.raises(PlanError, match=message):
        predict_files(make_model(tmp_path / "calls"), whole[0], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_refused_before_ray_starts(require, whole, tmp_path, monkeypatch):
    require("ray", importlib.util.find_spec("ray"))
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        for changes, message in [
            ({"engine": "dask"}, "engine is 'dask', expected one of: local, ray"),
            ({"engine": "local", "address": "auto"}, "set engine=ray"),
            ({"address": address}, f"no Ray cluster answers at {address} .*; start one with ray start --head"),
            ({"address": "ray://head:10001"}, "expected auto or host:port"),
        ]:
            started = time.monotonic()
            with pytest.raises(ManymaskError, match=message):
                predict_files(
                    make_model(tmp_path / "calls"), whole[0], tmp_path / "out", **{"engine": "ray", **changes}
                )
            assert time.monotonic() - started < 20
    assert not (tmp_path / "out").exists()


def test_without_ray(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ManymaskError, match=r"ray is not installed.*; run pip install 'manymask\[ray\]'"):
        predict_files(make_model(tmp_path / "calls"), whole[0], tmp_path / "out", engine="ray")


class TestMachines:
    """What a worker on another machine would meet."""

    def look(self, tmp_path, *, settings=None, image="a.png"):
        partial = PartialResults(tmp_path / "out", {"version": "0", "model": []} if settings is None else settings)
        work = PartFinder(make_model(tmp_path / "calls"), None, None, partial)
        file = type("File", (), {"path": tmp_path / image, "stem": "a"})()
        return work(Part(file, 0, 1, True))

    def test_refused(self, tmp_path):
        from manymask import __version__

        settings = {"version": __version__, "model": ["1"]}
        (tmp_path / "a.png").touch()
        with pytest.raises(ManymaskError, match=r"a worker on \S+ has manymask .*, not 0; install the same"):
            self.look(tmp_path)
        with pytest.raises(ManymaskError, match=r"does not see .*b\.png; put it on a disk that all machines share"):
            self.look(tmp_path, settings=settings, image="b.png")
        with pytest.raises(ManymaskError, match=r"does not see .*\.partial; put it on a disk"):
            self.look(tmp_path, settings=settings)
        (tmp_path / "out" / PARTIAL_NAME).mkdir(parents=True)
        with pytest.raises(ManymaskError, match=r"sees another .*\.partial than this machine"):
            self.look(tmp_path, settings=settings)
