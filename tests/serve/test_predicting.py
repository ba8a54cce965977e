"""The thread that has the model, with a stand-in that is told what to find."""

import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch

from manymask.core import ArraySource, Category
from manymask.errors import ManymaskError
from manymask.modeling.detections import Detections
from manymask.prediction import Model
from manymask.serve.models import Models
from manymask.serve.predicting import Cancelled, Predictor
from manymask.serve.refusals import Refusal
from tests.tiny_model import make_tiny_plan


class Gate:
    """A detector that finds nothing, and looks only when the gate is open; notes what it looked at."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.seen, self.opened, self.entered = [], threading.Event(), threading.Event()

    def __call__(self, images):
        self.entered.set()
        assert self.opened.wait(20)
        self.seen.append([tuple(image.shape[-2:]) for image in images])
        return [find_nothing() for _ in images]


def find_nothing() -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, 28, 28))


class OneModel(Models):
    """Models, of which there is one."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def get(self, name: str | None = None) -> Model:
        if name == "broken":
            raise ManymaskError("this model cannot be loaded")
        return self.model


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def predictor(gate, tmp_path):
    plan = make_tiny_plan()
    model = Model(gate, plan, (Category(2, "round"), Category(5, "long")), tmp_path)
    predictor = Predictor(OneModel(model), 3)
    predictor.start()
    yield predictor
    gate.opened.set()
    predictor.close()


def make_source(height: int = 40, width: int = 50) -> ArraySource:
    return ArraySource(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_requests_wait_in_turn_and_are_bounded(predictor, gate):
    requests = [predictor.make_request(make_source(40 + number), "a", "m") for number in range(5)]
    predictor.submit(requests[0])
    assert gate.entered.wait(10)
    for request in requests[1:4]:
        predictor.submit(request)
    with pytest.raises(Refusal, match="wait for the model"):
        predictor.submit(requests[4])
    requests[2].cancel()  # one that nobody wants any more is passed over
    gate.opened.set()
    for request in (requests[0], requests[1], requests[3]):
        assert len(request.future.result(20)[1]) == 0
    with pytest.raises(CancelledError):
        requests[2].future.result(1)
    assert [sizes[0][0] for sizes in gate.seen] == [40, 41, 43]


def test_small_images_of_one_size_go_through_the_network_together_on_a_gpu(predictor, gate, monkeypatch):
    requests = [predictor.make_request(make_source(height), "a", "m") for height in (30, 40, 40, 40)]
    for request in requests:
        request.batch_size = 2  # as where the model is on a GPU
    predictor.submit(requests[0])
    assert gate.entered.wait(10)
    for request in requests[1:]:
        predictor.submit(request)
    gate.opened.set()
    for request in requests:
        request.future.result(20)
    assert [len(sizes) for sizes in gate.seen] == [1, 2, 1]


def test_what_cannot_be_predicted_holds_up_nobody(predictor, gate):
    gate.opened.set()
    bad = predictor.make_request(make_source(), "a", "m")
    bad.model = "broken"
    good = predictor.make_request(make_source(), "a", "m")
    predictor.submit(bad)
    predictor.submit(good)
    with pytest.raises(ManymaskError, match="cannot be loaded"):
        bad.future.result(20)
    good.future.result(20)


class Page:
    """An image of the page."""

    name, model = "slide", "m"

    def __init__(self, source: ArraySource, is_wanted: bool = True) -> None:
        self.source, self.is_wanted = source, is_wanted
        self.told, self.over = [], threading.Event()
        self.stop_after: int | None = None

    def open(self):
        return self.source if self.is_wanted else None

    def begin(self, model, num_tiles):
        self.told.append(("begin", num_tiles))

    def show(self, instances):
        self.told.append("show")
        if self.stop_after is not None and self.told.count("show") >= self.stop_after:
            raise Cancelled

    def tell(self, num_tiles):
        pass

    def finish(self, instances):
        self.told.append("finish")
        self.over.set()

    def fail(self, sentence):
        self.told.append(sentence)
        self.over.set()


def test_programs_come_between_two_tiles_of_a_page(predictor, gate):
    page = Page(make_source(2000, 4000))
    predictor.submit_image(page)
    assert gate.entered.wait(20)  # at the first tile
    request = predictor.make_request(make_source(), "a", "m")
    predictor.submit(request)
    gate.opened.set()
    request.future.result(20)
    assert "finish" not in page.told
    assert page.over.wait(60)
    assert page.told[-1] == "finish"
    places = [sizes[0] for sizes in gate.seen]
    assert places.index((40, 50)) == 1


def test_a_page_is_called_off_between_two_tiles(predictor, gate):
    gate.opened.set()
    page = Page(make_source(2000, 6000))
    page.stop_after = 2
    predictor.submit_image(page)
    assert page.over.wait(60)
    assert page.told[-1] is None
    assert page.told.count("show") == 2 < page.told[0][1]
    gone = Page(make_source(), is_wanted=False)
    predictor.submit_image(gone)
    last = Page(make_source())
    predictor.submit_image(last)
    assert last.over.wait(20)
    assert gone.told == []
