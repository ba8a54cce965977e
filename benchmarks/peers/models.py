"""manymask and its peers behind one interface; each library is imported only where it is asked for.

`compare.py` runs this file, with the Python of each:

    python models.py train NAME DATA OUTPUT MINUTES    # from random weights; DATA has train/ and val/
    python models.py predict NAME SOURCE OUTPUT        # of images named on stdin: labels to OUTPUT, seconds to stdout
"""

import json
import resource
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

CONFIDENCE, MAX_OBJECTS = 0.25, 1000  # YOLO's default, and above its default of 300: an image here has up to 375


def read_rgb(path):
    return np.asarray(Image.open(path).convert("RGB"))


def read_labels(path):
    return np.asarray(Image.open(path)).astype(np.int32)


class Peer:
    """A method: ``train``, ``load``, ``predict`` an RGB image, and ``paint`` what was predicted as labels.

    Args:
        name: Of the method.
        source: Where its trained model lies.
    """

    def __init__(self, name, source):
        self.name, self.source = name, Path(source)

    def paint(self, found):
        return found


class StarDist(Peer):
    """StarDist 2D as its example trains it: 32 rays, grid of 2, flips, turns and changes of intensity."""

    def train(self, data, minutes):
        from csbdeep.utils.tf import keras_import
        from stardist import fill_label_holes
        from stardist.models import Config2D, StarDist2D

        images, labels = {}, {}
        for part in ("train", "val"):
            paths = sorted((data / part / "images").iterdir())
            images[part] = [self._prepare(read_rgb(path)) for path in paths]
            labels[part] = [fill_label_holes(read_labels(data / part / "labels" / path.name)) for path in paths]
        config = Config2D(n_rays=32, grid=(2, 2), train_tensorboard=False)
        model = StarDist2D(config, name=self.source.name, basedir=str(self.source.parent))
        model.prepare_for_training()
        end = time.monotonic() + 60 * minutes

        def stop(*_, **__):
            model.keras_model.stop_training = time.monotonic() > end

        model.callbacks.append(keras_import("callbacks").LambdaCallback(on_batch_end=stop))
        model.train(
            images["train"], labels["train"], validation_data=(images["val"], labels["val"]), augmenter=self._augment
        )
        model.optimize_thresholds(images["val"], labels["val"])

    def load(self):
        from stardist.models import StarDist2D

        self._model = StarDist2D(None, name=self.source.name, basedir=str(self.source.parent))

    def predict(self, image):
        return self._model.predict_instances(self._prepare(image))[0]

    @staticmethod
    def _prepare(image):
        from csbdeep.utils import normalize

        return normalize(image.mean(axis=2), 1, 99.8)

    @staticmethod
    def _augment(image, labels):
        turns, is_flipped = np.random.randint(4), np.random.random() < 0.5
        image, labels = (np.rot90(pixels, turns)[:, :: -1 if is_flipped else 1] for pixels in (image, labels))
        image = image * np.random.uniform(0.6, 2) + np.random.uniform(-0.2, 0.2)
        return image + 0.02 * np.random.random() * np.random.normal(size=image.shape), labels


class Yolo(Peer):
    """A YOLO segmentation network of ultralytics at its default size of 640 pixels.

    Batches of 4 without mosaics, against 16 with them by default: of those it does ten steps or so in 20 minutes,
    because it compares each object with each cell of the image.
    """

    def train(self, data, minutes):
        from ultralytics import YOLO

        folder = self.source / "data"
        self._convert(data / "train", folder, "train")
        self._convert(data / "val", folder, "val", 1)  # it validates once whatever is asked; the last weights are taken
        layout = folder / "data.yaml"
        layout.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames: [object]\n")
        YOLO(f"{self.name}.yaml").train(
            data=str(layout), time=minutes / 60, device="cpu", workers=0, val=False, plots=False, pretrained=False,
            batch=4, nbs=4, mosaic=0, project=str(self.source.resolve()), name="run", exist_ok=True,
        )  # fmt: skip

    def load(self):
        from ultralytics import YOLO

        self._model = YOLO(self.source / "run" / "weights" / "last.pt")

    def predict(self, image):
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        options = {"conf": CONFIDENCE, "max_det": MAX_OBJECTS, "retina_masks": True}
        result = self._model.predict(bgr, device="cpu", verbose=False, **options)[0]
        size = result.orig_shape
        return np.zeros((0, *size), bool) if result.masks is None else result.masks.data.numpy() > 0.5

    def paint(self, found):
        labels = np.zeros(found.shape[1:], np.int32)
        for index in reversed(range(len(found))):  # the best on top
            labels[found[index]] = index + 1
        return labels

    @staticmethod
    def _convert(source, folder, part, limit=None):
        """Links to the images, and for each a text file with one polygon a line."""
        import cv2

        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for path in sorted((source / "images").iterdir())[:limit]:
            link = folder / "images" / part / path.name
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
            labels, lines = read_labels(source / "labels" / path.name), []
            for index in np.unique(labels[labels > 0]):
                mask = (labels == index).astype(np.uint8)
                outlines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
                points = max(outlines, key=cv2.contourArea)[:, 0]
                if len(points) > 2:
                    lines.append(" ".join(["0", *(f"{n:.6f}" for n in ((points + 0.5) / labels.shape[::-1]).flat)]))
            (folder / "labels" / part / f"{path.stem}.txt").write_text("\n".join(lines))


class Manymask(Peer):
    """manymask with the settings that it chooses itself."""

    def train(self, data, minutes):
        import manymask

        settings = {"minutes": minutes, "weights": "none", "num_workers": 0}
        manymask.train(data / "train", val=data / "val", output=self.source, settings=settings)

    def load(self):
        import manymask

        self._model = manymask.load_model(self.source)

    def predict(self, image):
        import manymask

        return next(manymask.predict(self._model, image))

    def paint(self, found):
        labels = np.zeros(found.size, np.int32)
        for layer in found.to_layers().numpy():  # the best in the first
            labels = np.where(labels > 0, labels, layer)
        return labels


PEERS = {"stardist": StarDist, "yolo26n-seg": Yolo, "yolo26s-seg": Yolo, "manymask": Manymask}


def answer(peer, output):
    """Predict each image whose path comes in, and print how long that took."""
    peer.load()
    for line in sys.stdin:
        path = Path(line.strip())
        image = read_rgb(path)
        started = time.perf_counter()
        found = peer.predict(image)
        seconds = time.perf_counter() - started
        labels = peer.paint(found)
        Image.fromarray(labels.astype(np.uint16)).save(output / path.name)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "found": len(np.unique(labels[labels > 0])), "peak_mib": peak}))
        sys.stdout.flush()


def use_one_thread(name):
    if PEERS[name] is not StarDist:
        import torch

        torch.set_num_threads(1)


if __name__ == "__main__":
    mode, name, *words = sys.argv[1:]
    use_one_thread(name)
    if mode == "train":
        # Minutes of the processor, so that other work on the machine takes none of them.
        with patch("time.monotonic", time.process_time), patch("time.time", time.process_time):
            PEERS[name](name, words[1]).train(Path(words[0]), float(words[2]))
    else:
        answer(PEERS[name](name, words[0]), Path(words[1]))
