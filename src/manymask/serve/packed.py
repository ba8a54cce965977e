"""Instances as bytes for other programs of ours: arrays without pickles, exact to the last digit."""

import io
import zipfile
import zlib
from typing import Any

import numpy as np

from manymask.core import Instances
from manymask.errors import FormatError
from manymask.prediction.partial import pack_instances, unpack_instances

MEDIA_TYPE = "application/x-npz"


def encode_packed(instances: Instances) -> bytes:
    """What was found in an image."""
    file = io.BytesIO()
    arrays: dict[str, Any] = pack_instances(instances)
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def decode_packed(content: bytes) -> Instances:
    """What ``encode_packed`` was given.

    Raises:
        FormatError: It is not that.
    """
    try:
        with np.load(io.BytesIO(content)) as arrays:
            return unpack_instances(arrays)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise FormatError(f"the server's answer is damaged ({error}); are both of one version?") from error
