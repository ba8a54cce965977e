"""Instances as bytes for other programs of ours: arrays without pickles, exact to the last digit."""

import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from manymask.core import Category, Instances
from manymask.errors import FormatError
from manymask.prediction.partial import pack_instances, unpack_instances

MEDIA_TYPE = "application/x-npz"


def encode_packed(instances: Instances, categories: Sequence[Category], shown_score: float) -> bytes:
    """What was found in an image, and what is needed to write it as files."""
    about = {"categories": [[each.id, each.name] for each in categories], "shown_score": shown_score}
    file = io.BytesIO()
    arrays: dict[str, Any] = pack_instances(instances)
    np.savez_compressed(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    return file.getvalue()


def decode_packed(content: bytes) -> tuple[Instances, tuple[Category, ...], float]:
    """What ``encode_packed`` was given.

    Raises:
        FormatError: It is not that.
    """
    try:
        with np.load(io.BytesIO(content)) as arrays:
            about = json.loads(arrays["about"].tobytes())
            categories = tuple(Category(int(number), str(name)) for number, name in about["categories"])
            return unpack_instances(arrays), categories, float(about["shown_score"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise FormatError(f"the server's answer is damaged ({error}); are both of one version?") from error
