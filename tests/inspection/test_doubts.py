import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from manymask.core import ArraySource, InstanceLayers, Sample
from manymask.core.dataset import Doubt
from manymask.inspection.doubts import LabelDoubts

SIZE = (60, 80)


def make_sample(ids, doubts=(), name="a"):
    layers = InstanceLayers(torch.from_numpy(ids[None].astype(np.int32)))
    labels = np.ones(int(ids.max()), dtype=np.int64)
    image, iscrowd = ArraySource(np.zeros((*SIZE, 1))), np.zeros(len(labels), dtype=bool)
    return Sample(1, name, Path(f"{name}.tif"), image, layers, labels, iscrowd, doubts)


def describe(*samples):
    doubts = LabelDoubts()
    for sample in samples:
        doubts.add(sample, sample.to_instances())
    return doubts.describe()


def draw(*boxes):
    ids = np.zeros(SIZE, dtype=np.int32)
    for number, (top, left, bottom, right) in enumerate(boxes, start=1):
        ids[top:bottom, left:right] = number
    return ids


def test_nothing_is_doubtful():
    assert describe() == []
    assert describe(make_sample(draw((4, 4, 9, 9), (20, 20, 30, 30)))) == []
    assert describe(make_sample(draw())) == []


def test_each_kind_of_doubt_names_its_images_and_remedy():
    tagged = make_sample(draw((4, 4, 9, 9)), (Doubt("orientation-in-doubt", "has orientation tag 3"),), "tagged")
    background = make_sample(draw((0, 0, 60, 80), (5, 5, 9, 9)), name="background")
    found = describe(tagged, background, make_sample(draw((4, 4, 9, 9))))
    assert "1 of 3 images hold an instance over most of the image" in found[0]
    assert "(background); write 0 for background." in found[0]
    assert "1 of 3 images have an orientation tag" in found[1]
    assert "MANYMASK_ORIENTATION to obey or ignore." in found[1]


def test_labels_on_stored_pixels_warn_that_predict_obeys_the_tag():
    doubt = Doubt("orientation-as-stored", "has orientation tag 6")
    (sentence,) = describe(make_sample(draw((4, 4, 9, 9)), (doubt,)))
    assert "predict obeys the tag (a); set the environment variable MANYMASK_ORIENTATION=ignore" in sentence


def test_images_of_several_threads_are_all_counted():
    class Slow(LabelDoubts):
        """Gives other threads their turn between reading and writing the number."""

        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            if name == "num_images":
                time.sleep(0.001)
            return value

    doubts, sample = Slow(), make_sample(draw((4, 4, 9, 9)))
    truth = sample.to_instances()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: doubts.add(sample, truth), range(64)))
    assert doubts.num_images == 64


def test_objects_crossed_by_lines_are_no_scattered_ones():
    ids = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((20, 20), dtype=np.int32)).astype(np.int32)
    ids[::4], ids[:, ::4] = 0, 0
    assert describe(make_sample(ids)) == []


def test_values_that_objects_share():
    shared = (draw((4, 4, 14, 14), (4, 30, 14, 40), (30, 30, 40, 40)) > 0).astype(np.int32)
    assert describe(*[make_sample(shared)] * 3) == []
    (sentence,) = describe(*[make_sample(shared)] * 4)
    assert sentence.startswith("Most of the 4 labelled instances are in several separate pieces, about 12 in all")
