"""Versions of the predictions of an image: folders that are there whole, and that are never changed."""

import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manymask.core import Category
from manymask.core.files import explain_writing, replace_file
from manymask.core.json_files import read_json, write_json
from manymask.errors import DatasetError, FormatError
from manymask.serve.log import sync_folder
from manymask.serve.masks import MaskStore
from manymask.serve.table import Table

_FOLDER, _ABOUT, _TABLE = "versions", "version.json", "table.npz"


@dataclass(frozen=True)
class Version:
    """What is known of the predictions of one version.

    Attributes:
        number: From 1.
        model: The name of the model that found the objects.
        time: When they were complete, in seconds since 1970.
        size: (height, width) of the image in pixels.
        categories: The classes.
        num_objects: How many were found.
        revision: That of the objects without any edit.
        limits: For each class the areas below and above which an object is of unusual size.
    """

    number: int
    model: str
    time: float
    size: tuple[int, int]
    categories: tuple[Category, ...]
    num_objects: int = 0
    revision: int = 0
    limits: tuple[tuple[float, float], ...] = ()


def list_versions(folder: Path) -> list[Version]:
    """The versions of an image that are complete, the oldest first."""
    there = (folder / _FOLDER).iterdir() if (folder / _FOLDER).is_dir() else ()
    numbers = sorted(int(path.name) for path in there if path.name.isdecimal())
    return [_read_version(folder / _FOLDER / str(number)) for number in numbers]


def begin_version(folder: Path, size: tuple[int, int], categories: tuple[Category, ...], model: str) -> Version:
    """What follows the last version; nothing is written yet."""
    numbers = [version.number for version in list_versions(folder)]
    return Version(max(numbers, default=0) + 1, model, time.time(), size, categories)


def write_version(folder: Path, version: Version, table: Table, masks: MaskStore) -> None:
    """Write predictions, whole or not at all.

    Raises:
        ManymaskError: The disk is full or cannot be written to.
    """
    target = folder / _FOLDER / str(version.number)
    temporary = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        masks.save(temporary)
        save: Any = np.savez  # whose keywords are arrays but for one, which no column is named like
        with replace_file(temporary / _TABLE) as file:
            save(file, **table.columns)
        write_json(temporary / _ABOUT, asdict(version))
        with explain_writing(target):
            os.rename(temporary, target)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_version(folder: Path, number: int | None = None) -> tuple[Version, Table, MaskStore]:
    """Open the predictions of an image, by default of its newest version.

    Raises:
        DatasetError: There is no such version.
        FormatError: Its files are damaged.
    """
    versions = {version.number: version for version in list_versions(folder)}
    if not versions or number not in {None, *versions}:
        raise DatasetError(f"{folder} holds no version {number or ''} of predictions; predict the image again")
    version = versions[number or max(versions)]
    place = folder / _FOLDER / str(version.number)
    try:
        masks = MaskStore.load(place, version.size)
        table = Table(version.size)
        with np.load(place / _TABLE) as columns:
            table.load(columns)
    except (OSError, ValueError, EOFError, KeyError, IndexError) as error:
        raise FormatError(f"{place} is damaged ({error}); predict the image again") from error
    return version, table, masks


def _read_version(place: Path) -> Version:
    about: Any = read_json(place / _ABOUT)
    try:
        return Version(
            **{
                **about,
                "size": tuple(about["size"]),
                "categories": tuple(Category(**each) for each in about["categories"]),
                "limits": tuple(map(tuple, about["limits"])),
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{place / _ABOUT} is damaged ({error}); predict the image again") from error
