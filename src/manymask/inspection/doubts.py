"""What makes training and scores on labelled images doubtful, collected image by image."""

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from manymask.core import Instances, Sample
from manymask.core.components import are_scattered, count_pieces
from manymask.inspection.checks import MIN_MEDIAN_PIECES
from manymask.inspection.findings import KINDS
from manymask.inspection.measurement import find_background, find_likely_background
from manymask.wording import list_some

_WHAT = {
    "orientation-in-doubt": "have an orientation tag, and nothing says whether their labels were drawn on the turned "
    "or on the stored pixels",
    "orientation-as-stored": "have an orientation tag, and their labels fit only the stored pixels, while predict "
    "obeys the tag",
    "background-instance": "hold an instance over most of the image, up to all of its borders: the background",
    "likely-background": "have no pixel of background, but an instance up to all borders that is by far the largest",
}


@dataclass
class LabelDoubts:
    """Collects doubts about labels that can be read; ``add`` may be called from several threads."""

    num_images: int = 0
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    piece_counts: list[Float64[np.ndarray, " _"]] = field(default_factory=list[Any])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, sample: Sample, truth: Instances) -> None:
        """Look at one image and its instances."""
        kinds = {doubt.kind for doubt in sample.doubts}
        objects = truth[~truth.iscrowd]
        place = (objects.runs.areas, objects.runs.boxes, objects.size)
        if find_background(*place).any():
            kinds.add("background-instance")
        if find_likely_background(*place).any():
            kinds.add("likely-background")
        counts = count_pieces(objects.runs)
        with self._lock:
            self.num_images += 1
            self.piece_counts.append(counts)
            for kind in kinds & _WHAT.keys():
                self.names[kind].append(sample.name)

    def describe(self) -> list[str]:
        """A sentence with its remedy for each kind of doubt."""
        found = [
            f"{len(names)} of {self.num_images} images {_WHAT[kind]} ({list_some(sorted(names))}); "
            f"{KINDS[kind].remedy}."
            for kind, names in sorted(self.names.items())
        ]
        counts = np.concatenate(self.piece_counts or [np.zeros(0)])
        if are_scattered(counts, MIN_MEDIAN_PIECES):
            found.append(
                f"Most of the {len(counts)} labelled instances are in several separate pieces, about "
                f"{counts.sum():.0f} in all, as where objects share values; {KINDS['scattered-instances'].remedy}."
            )
        return found
