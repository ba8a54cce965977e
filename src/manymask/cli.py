"""The command line: one command a step."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from manymask import __version__
from manymask.errors import Interrupted, ManymaskError, PlanError

app = typer.Typer(
    help="Mask R-CNN instance segmentation for crowded images.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(stderr=True)

# Settings may be given as options of their own: --epochs 5 is short for --set epochs=5.
SETTINGS_CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set a setting of the plan; `--NAME VALUE` is short for it."),
]
FormatOption = Annotated[
    str | None,
    typer.Option(help="Reader of the data: class_folders, label_images, mask_files or coco. Found out by default."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ModelArgument = Annotated[Path, typer.Argument(help="A run folder or a checkpoint.")]


def main() -> None:
    """Run the command line; an error that a user can act on becomes one line and exit code 2."""
    # torch's threads spin while they wait, which on a machine that does anything else makes a step 20 times slower;
    # asleep they cost a few percent on an idle one (benchmarks/RESULTS.md). It must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app()
    except ManymaskError as error:
        console.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except Interrupted as error:
        console.print(str(error), soft_wrap=True, highlight=False)
        sys.exit(128 + error.signal_number)


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("[", "\\[")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Mask R-CNN instance segmentation for crowded images."""


@app.command(context_settings=SETTINGS_CONTEXT)
def train(
    context: typer.Context,
    data: Annotated[Path | None, typer.Argument(help="Folder of labelled images, or a COCO file.")] = None,
    output: Annotated[Path | None, typer.Option(help="The run folder. [runs/NAME OF DATA]")] = None,
    recipe: Annotated[str | None, typer.Option(help="Where the settings start from. [baseline]")] = None,
    val: Annotated[Path | None, typer.Option(help="A separate validation set.")] = None,
    resume: Annotated[Path | None, typer.Option(help="A run folder, or a checkpoint in one, to go on with.")] = None,
    data_format: FormatOption = None,
    settings: SetOption = None,
) -> None:
    """Train a model and keep its plan, metrics, curves and checkpoints in a run folder."""
    from manymask.training import train as run

    values = _parse(settings, context)
    folder = run(data, output=output, recipe=recipe, val=val, data_format=data_format, resume=resume, **values)
    console.print(f"done: {folder}", highlight=False)


@app.command(context_settings=SETTINGS_CONTEXT)
def evaluate(
    context: typer.Context,
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(help="Folder of labelled images, or a COCO file.")],
    output: Annotated[Path | None, typer.Option(help="Where to write. [RUN/evaluation]")] = None,
    data_format: FormatOption = None,
    device: DeviceOption = "auto",
    settings: SetOption = None,
) -> None:
    """Score a model on labelled images: evaluation.json and predictions.json."""
    from manymask import prediction
    from manymask.evaluation import format_scores

    loaded = prediction.load_model(model, device, **_parse(settings, context))
    folder = output or (model if model.is_dir() else loaded.source.parent) / "evaluation"
    with _show_progress("scoring") as progress:
        scores = prediction.evaluate(loaded, data, output=folder, data_format=data_format, progress=progress)
    names = ("class", "mask AP", "AP50", "AP75", "box AP", "AP50", "AP75", "instances")
    table = Table(
        *names, title=f"{scores['num_images']} images, at most {scores['detections_per_image']} detections each"
    )
    for row in format_scores(scores):
        table.add_row(*row)
    Console().print(table)
    pooled = scores["ap_t"]["pooled"]
    texts = [f"{t}: {'-' if pooled[t] is None else f'{pooled[t]:.3f}'}" for t in ("0.50", "0.75", "0.90")]
    typer.echo(f"TP / (TP + FP + FN) at score {scores['score_threshold']:g}, by IoU: {', '.join(texts)}")
    typer.echo(f"written to {folder / 'evaluation.json'}")


@app.command(context_settings=SETTINGS_CONTEXT)
def predict(
    context: typer.Context,
    model: ModelArgument,
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    output: Annotated[Path, typer.Option(help="Where to write.")] = Path("out"),
    ids: Annotated[
        Path | None, typer.Option(help="JSON list of file_name and id: writes test-results.json and .zip.")
    ] = None,
    format: Annotated[
        list[str] | None, typer.Option(help="coco, labels or overlay; may be given several times. [all]")
    ] = None,
    device: DeviceOption = "auto",
    settings: SetOption = None,
) -> None:
    """Find the instances of images and write COCO results, label images and overlays."""
    from manymask import prediction

    loaded = prediction.load_model(model, device, **_parse(settings, context))
    with _show_progress("predicting") as progress:
        written = prediction.predict_files(
            loaded, images, output, formats=format or prediction.OUTPUT_FORMATS, ids=ids, progress=progress
        )
    for path in written:
        typer.echo(f"written to {path}")


@app.command()
def synthetic(
    output: Annotated[Path, typer.Argument(help="Folder to write class folders to.")],
    images: Annotated[int, typer.Option(min=1, help="Number of images.")] = 20,
    size: Annotated[int, typer.Option(min=33, help="Side of an image in pixels.")] = 256,
    instances: Annotated[int, typer.Option(min=0, help="About so many instances an image.")] = 60,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 3,
    diameter: Annotated[float, typer.Option(min=4, help="Median diameter of an instance in pixels.")] = 14.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other images.")] = 0,
) -> None:
    """Make a data set of crowded, touching and overlapping cells of several classes."""
    from manymask.formats import write_class_folder
    from manymask.synthetic import make_categories, make_sample

    if output.exists() and any(output.iterdir()):
        raise PlanError(f"{output} is not empty; choose another folder")
    categories, total = make_categories(classes), 0
    with _show_progress("drawing") as progress:
        for index in range(images):
            pixels, cells = make_sample(
                index, seed=seed, size=(size, size), num_instances=instances, num_classes=classes, diameter=diameter
            )
            write_class_folder(output, f"{index:04d}", pixels, cells, categories)
            total += len(cells)
            progress(index + 1, images)
    typer.echo(f"{images} images with {total} instances of {classes} classes written to {output}")


def _parse(settings: list[str] | None, context: typer.Context) -> dict[str, Any]:
    """Settings from ``--set`` and from options that are named like a setting.

    Raises:
        PlanError: A text is not of the form name=value, an option has no value, or a name is given twice.
    """
    from manymask.planning import parse_settings

    assignments, rest = list(settings or []), list(context.args)
    while rest:
        name = rest.pop(0)
        if not name.startswith("--"):
            raise PlanError(f"there is nothing to do with {name!r}; see manymask {context.info_name} --help")
        if "=" not in name and (not rest or rest[0].startswith("--")):
            raise PlanError(f"{name} needs a value; settings are given as --set name=value or --name value")
        assignments.append(name[2:] if "=" in name else f"{name[2:]}={rest.pop(0)}")
    return parse_settings(assignments)


@contextmanager
def _show_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for a loop that calls back with the number done and the total."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda num_done, total: bar.update(task, completed=num_done, total=total)
