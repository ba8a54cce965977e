"""Which 2-D image is taken of a file that holds several: its page, plane and time, and its channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Shaped

from manymask.errors import FormatError, PlanError
from manymask.wording import count_of

# More than any image has, so that no number in a file fills the memory.
_MAX_CHANNELS = 1 << 16


@dataclass(frozen=True)
class PlaneChoice:
    """What is taken of a file; all numbers count from 1, as Fiji and QuPath show them.

    Attributes:
        page: Which of the 2-D images that are left after ``z`` and ``t``, in the file's order; ``all`` stands for each
            of them (``list_choices``).
        z: The plane along the axis Z.
        t: The plane along the time axis T.
        channels: The channels in the order that is wanted; empty for all.
    """

    page: int | Literal["all"] | None = None
    z: int | None = None
    t: int | None = None
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        numbers = {"page": [] if self.page == "all" else [self.page], "z": [self.z], "t": [self.t]}
        for name, values in (numbers | {"channels": list(self.channels)}).items():
            if any(value is not None and value < 1 for value in values):
                raise PlanError(f"--{name} counts from 1, found {min(value for value in values if value is not None)}")

    def pick_channels(
        self, values: Shaped[np.ndarray, "*rows channels"], path: Path
    ) -> Shaped[np.ndarray, "*rows chosen"]:
        """The chosen channels, which are the last axis.

        Raises:
            FormatError: The file has fewer.
        """
        if not self.channels:
            return values
        return values[..., index_channels(self, values.shape[-1], path)]


ONE_PLANE = PlaneChoice()
"""The only image of a file, with all channels."""


class Stack(NamedTuple):
    """2-D images of equal shape in a file.

    Attributes:
        axes: A letter for each axis along which they lie, Z, T or another.
        lengths: Of these axes.
        description: The shape and axes of the whole, for messages.
    """

    axes: str = ""
    lengths: tuple[int, ...] = ()
    description: str = ""


Place = tuple[int, tuple[int, ...]]
"""A 2-D image: the number of its stack in the file, and its place along the stack's axes, both from 0."""


def index_channels(choice: PlaneChoice, num_channels: int, path: Path) -> list[int]:
    """The chosen channels counted from 0, by default all.

    Raises:
        FormatError: The file has fewer, or claims to have more than any image has.
    """
    if num_channels > _MAX_CHANNELS:
        raise FormatError(
            f"{path} has {num_channels} channels, expected at most {_MAX_CHANNELS}; its order of axes is another one, "
            "or it is damaged: save it again"
        )
    if max(choice.channels, default=0) > num_channels:
        raise FormatError(
            f"{path} has {count_of(num_channels, 'channel')}; --channels {max(choice.channels)} is not there"
        )
    return [number - 1 for number in choice.channels] or list(range(num_channels))


def list_places(stacks: Sequence[Stack], choice: PlaneChoice, path: Path) -> list[Place]:
    """The 2-D images of a file that ``z`` and ``t`` leave, in the file's order.

    Raises:
        FormatError: They leave none.
    """
    for name in ("z", "t"):
        wanted, length = getattr(choice, name), max(_get_length(stack, name) for stack in stacks)
        if wanted is not None and wanted > length:
            raise FormatError(f"{path} has {count_of(length, 'plane')} along {name}; --{name} {wanted} is not there")
    places: list[Place] = []
    for number, stack in enumerate(stacks):
        chosen = [getattr(choice, axis.lower()) if axis in "ZT" else None for axis in stack.axes]
        ranges = [
            range(length) if wanted is None else range(wanted - 1, min(wanted, length))
            for wanted, length in zip(chosen, stack.lengths, strict=True)
        ]
        counts = tuple(map(len, ranges))
        places += [
            (number, tuple(span[i] for span, i in zip(ranges, index, strict=True))) for index in np.ndindex(*counts)
        ]
    return places


def choose_place(stacks: Sequence[Stack], choice: PlaneChoice, path: Path) -> Place:
    """The 2-D image that is meant.

    Raises:
        FormatError: There are several and nothing says which, or the chosen one is not there.
    """
    places = list_places(stacks, choice, path)
    if isinstance(choice.page, int):
        if choice.page > len(places):
            raise FormatError(f"{path} holds {count_of(len(places), 'image')}; --page {choice.page} is not there")
        return places[choice.page - 1]
    if len(places) == 1:
        return places[0]
    if len(stacks) > 1:
        found, remedy = f"holds {len(stacks)} images, expected one", "save each in a file of its own"
    else:
        found = f"is a stack of {stacks[0].description}, expected one 2-D image"
        remedy = "save each plane as one file"
    options = [
        f"--{name} (1 to {length})"
        for name in ("z", "t")
        if getattr(choice, name) is None and (length := max(_get_length(stack, name) for stack in stacks)) > 1
    ]
    pages = f"--page (1 to {len(places)}, or all)"
    choices = f"{' and '.join(options)}, or {pages}" if options else pages
    raise FormatError(f"{path} {found}; {remedy}, or choose what to predict: {choices}")


def _get_length(stack: Stack, name: str) -> int:
    """How many planes lie along z or t."""
    return stack.lengths[stack.axes.index(name.upper())] if name.upper() in stack.axes else 1
