"""Options that commands share, and settings as options of their own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from manymask.errors import PlanError

if TYPE_CHECKING:
    from manymask.imaging import PlaneChoice

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set a setting (docs/settings.md), as in `--set epochs=20`; `--epochs 20` is short for it.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(help="Reader of the data, such as coco or labelme; docs/formats.md lists them. Found out by default."),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(help="auto (settings that the data ask for), baseline (the course report's), or a plan.json. [auto]"),
]
IgnoreOption = Annotated[
    str | None,
    typer.Option(
        metavar="VALUE",
        help="Value of pixels to ignore in label images, such as -1, 255 or nan; several with commas. [none]",
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N. [auto]")]
GroupOption = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Finds an image's group (slide, patient) in its name; intervals then draw groups, not images.",
    ),
]
SourceArgument = Annotated[
    Path,
    typer.Argument(
        help="A run, a checkpoint, a shipped or exported model, COCO results (.json), or a folder of any tool's label "
        "images or drawn objects."
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A run folder, a checkpoint, a shipped model such as nuclei, an exported model, or a server's address."
    ),
]
TtaOption = Annotated[
    bool, typer.Option("--tta", help="Predict flipped and enlarged views too, and merge them: better, but slower.")
]

ObjectSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|PIXELS",
        help="Resize each image so that its objects look as large as those in training; auto measures them, or give "
        "the root of their area in pixels. [none]",
    ),
]
PageOption = Annotated[
    str | None,
    typer.Option(metavar="N|all", help="Which image of files that hold several; all: each, named STEM_p001 and so on."),
]
ZOption = Annotated[int | None, typer.Option("--z", metavar="N", help="Which plane of stacks, counted from 1.")]
TOption = Annotated[int | None, typer.Option("--t", metavar="N", help="Which time of series, counted from 1.")]
ChannelsOption = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,N", help="Which channels, counted from 1: as many as the model takes, three as red, green, blue."
    ),
]


class SettingsCommand(TyperCommand):
    """A command that takes settings as options of their own: ``--epochs 5`` is short for ``--set epochs=5``."""

    allow_extra_args = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command's own options, with all others turned into ``--set``.

        Raises:
            PlanError: A setting has no value, or an argument is too many.
        """
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if extra := super().parse_args(ctx, _expand_settings(args, own)):
            raise PlanError(f"there is nothing to do with {extra[0]!r}; see {ctx.command_path} --help")
        return []


def _expand_settings(arguments: list[str], own: set[str]) -> list[str]:
    """``--set name=value`` in place of each ``--name value`` or ``--name=value`` that is not an option of its own."""
    expanded, rest = [], list(arguments)
    while rest and rest[0] != "--":
        argument = rest.pop(0)
        name, has_value, value = argument.partition("=")
        if name in own or not name.startswith("--"):
            expanded.append(argument)
            continue
        if not has_value and (not rest or rest[0].startswith("--")):
            raise PlanError(f"{name} needs a value; settings are given as --set name=value or --name value")
        expanded += ["--set", f"{name[2:]}={value if has_value else rest.pop(0)}"]
    return expanded + rest


def parse_options(assignments: list[str] | None, **own: Any) -> dict[str, Any]:
    """The settings of ``--set``, whose values are still text, and those that are options of the command.

    Args:
        assignments: What ``--set`` was given.
        **own: Options of the command that are settings by name; None where they were not given. ``--set`` goes first.

    Raises:
        PlanError: A text is not of the form name=value, there is no such setting, or one is given twice.
    """
    from manymask.plan import SETTINGS, Plan, change_plan, parse_settings, parse_values

    values = parse_settings(assignments or [])
    change_plan(Plan(), {name: values[name] for name in values if name not in SETTINGS})  # refuses what does not exist
    # Functions take settings that are parameters of theirs as they are: no plan makes "none" of their text None.
    parsed = parse_values({name: values[name] for name in own if name in values})
    return {**{name: value for name, value in own.items() if value is not None}, **values, **parsed}


def parse_arguments(assignments: list[str] | None, **own: Any) -> dict[str, Any]:
    """What ``parse_options`` gives, as arguments of a function that takes ``group_by`` and ``device`` by themselves."""
    settings = parse_options(assignments, **own)
    named = {name: settings.pop(name) for name in ("group_by", "device") if name in own and name in settings}
    return {**named, "settings": settings}


def parse_planes(page: str | None, z: int | None, t: int | None, channels: str | None) -> "PlaneChoice":
    """Which image of a file, and which channels, by the texts of ``--page`` and ``--channels``.

    Raises:
        PlanError: One is no number from 1 on, or ``--page`` neither that nor ``all``.
    """
    from manymask.imaging import PlaneChoice

    if page not in (None, "all") and not page.isdecimal():
        raise PlanError(f"--page is {page!r}, expected a number from 1 on, or all; for example --page 3")
    parts = [part.strip() for part in channels.split(",")] if channels is not None else []
    if not all(part.isdecimal() for part in parts):
        raise PlanError(
            f"--channels is {channels!r}, expected numbers from 1 on with commas; for example --channels 1,2,3"
        )
    number = int(page) if page not in (None, "all") else page
    return PlaneChoice(number, z, t, tuple(int(part) for part in parts))  # pyright: ignore[reportArgumentType]


def parse_region(text: str | None) -> tuple[int, int, int, int] | None:
    """Left, top, width and height of a part of an image.

    Raises:
        PlanError: It is not four whole numbers.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise PlanError(f"--region is {text!r}, expected X,Y,W,H in pixels; for example --region 2000,3000,1024,1024")
    left, top, width, height = map(int, parts)
    return left, top, width, height
