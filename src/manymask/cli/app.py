"""The command line: one command a step."""

import os
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from manymask import __version__
from manymask.cli.console import (
    console,
    print_line,
    print_marked,
    print_table,
    route_notes,
    show_progress,
    silence_notes,
)
from manymask.cli.options import (
    AddressOption,
    ChannelsOption,
    DeviceOption,
    EngineOption,
    FormatOption,
    GroupOption,
    IgnoreOption,
    ModelArgument,
    ObjectSizeOption,
    PageOption,
    RecipeOption,
    SetOption,
    SettingsCommand,
    SourceArgument,
    TOption,
    TtaOption,
    ZOption,
    parse_arguments,
    parse_options,
    parse_planes,
    parse_region,
)
from manymask.cli.serving import TokenFileOption, predict_remotely, serve
from manymask.errors import Interrupted, LostProcess, ManymaskError, PlanError
from manymask.launched import read_launch
from manymask.wording import count_of

app = typer.Typer(
    help="Mask R-CNN instance segmentation for crowded images.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
STARTED = time.monotonic()


def main() -> None:
    """Run the command line; an error that a user can act on becomes one line and exit code 2, or 1."""
    # torch's threads spin while they wait, which on a machine that does anything else made steps about ten times
    # slower; asleep they cost some ten percent on an idle one (benchmarks/RESULTS.md). Set it before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    route_notes()
    try:
        app(prog_name="manymask")
    except LostProcess as error:
        if read_launch().launcher != "torchrun":  # which names the process that is lost
            print_marked("error:", "bold red", str(error))
        sys.exit(error.exit_code)
    except ManymaskError as error:
        console.quiet = False
        rank = read_launch().rank
        place = f"process {rank} on {socket.gethostname()}: " if rank else ""
        print_marked("error:", "bold red", place + " ".join(str(error).splitlines()))
        sys.exit(error.exit_code)
    except Interrupted as error:
        print_line(str(error))
        sys.exit(128 + error.signal_number)


def _show_version(is_asked: bool) -> bool:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit
    return is_asked


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Mask R-CNN instance segmentation for crowded images."""


@app.command(cls=SettingsCommand)
def train(
    data: Annotated[Path | None, typer.Argument(help="Folder of labelled images, or a COCO file.")] = None,
    output: Annotated[Path | None, typer.Option(help="The run folder. [runs/NAME OF DATA]")] = None,
    recipe: RecipeOption = None,
    val: Annotated[Path | None, typer.Option(help="A separate validation set.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time that the whole command may take; the schedule is fitted to it.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="A run folder, or a checkpoint in one, to go on with.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Devices of each machine that train together.")] = 1,
    num_nodes: Annotated[int, typer.Option(min=1, help="Machines that train together (docs/scaling.md).")] = 1,
    data_format: FormatOption = None,
    settings: SetOption = None,
) -> None:
    """Train a model by the plan that the data ask for; keep plan, metrics, curves and checkpoints in a run folder."""
    from manymask.training import train as run

    values = parse_options(settings, minutes=minutes)
    if max(devices, num_nodes) > 1 and not read_launch().launcher:
        from manymask.training.launching import launch_processes

        raise typer.Exit(launch_processes(sys.argv[1:], devices, num_nodes))
    if read_launch().rank > 0:
        silence_notes()
    with show_progress() as progress:
        folder = run(
            data,
            output=output,
            recipe=recipe,
            val=val,
            data_format=data_format,
            resume=resume,
            started=STARTED,
            settings=values,
            devices=devices,
            num_nodes=num_nodes,
            progress=progress,
        )
    if read_launch().rank == 0:
        typer.echo(f"written to {folder}")


@app.command(cls=SettingsCommand)
def plan(
    data: Annotated[Path, typer.Argument(help="Folder of labelled images, or a COCO file.")],
    explain: Annotated[bool, typer.Option("--explain", help="Say for each setting what led to it.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the plan here, to edit and train with: --recipe FILE.")
    ] = None,
    recipe: RecipeOption = None,
    val: Annotated[Path | None, typer.Option(help="A separate validation set.")] = None,
    data_format: FormatOption = None,
    settings: SetOption = None,
) -> None:
    """Show the settings that train would take for these data on this machine, without training."""
    from manymask.core.outputs import check_outputs, record_outputs
    from manymask.plan import write_plan
    from manymask.planning.planner import NO_RULE, format_value, list_decisions
    from manymask.training import plan_run

    if output is not None:
        check_outputs(output.parent, "plan", [output.name])
    values = parse_options(settings)
    with show_progress() as progress:
        made, decisions = plan_run(
            data, recipe=recipe, val=val, data_format=data_format, settings=values, progress=progress
        )
    if decisions and explain:
        ruled = [decision for decision in decisions if decision.because != NO_RULE]
        print_table(f"Recipe {made.recipe}", ("setting", "value", "because", "source"), list_decisions(ruled))
        typer.echo(f"No rule decides the other {len(decisions) - len(ruled)} settings: docs/settings.md lists them.")
    else:
        for name, value in made.model_dump(exclude={"version", "recipe", "data"}).items():
            typer.echo(f"{name}={format_value(value)}")
    if output is not None:
        with record_outputs(output.parent, "plan", [output.name], is_whole=False):
            write_plan(made, output)
        typer.echo(f"written to {output}")


@app.command(cls=SettingsCommand)
def evaluate(
    source: SourceArgument,
    data: Annotated[Path | None, typer.Argument(help="Labelled images. [those that the run held out]")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write. [evaluation/ in SOURCE]")] = None,
    data_format: FormatOption = None,
    group_by: GroupOption = None,
    device: DeviceOption = None,
    tta: TtaOption = False,
    object_size: ObjectSizeOption = None,
    settings: SetOption = None,
) -> None:
    """Score a model, or predictions of any tool, on labelled images: evaluation.json, with intervals."""
    from manymask import evaluation as scoring
    from manymask.metrics.summary import format_scores

    folder = output or scoring.choose_folder(source) / "evaluation"
    arguments = parse_arguments(settings, group_by=group_by, device=device, tta=tta or None, object_size=object_size)
    with show_progress() as progress:
        scores = scoring.evaluate(source, data, output=folder, data_format=data_format, **arguments, progress=progress)
    title, names, rows = format_scores(scores)
    print_table(title, names, rows)
    typer.echo(f"written to {folder / 'evaluation.json'}")


@app.command(cls=SettingsCommand)
def compare(
    sources: Annotated[list[Path], typer.Argument(help="Two or more runs, folders of runs seed_*, or predictions.")],
    data: Annotated[Path | None, typer.Option(help="Labelled images. [those that the runs held out]")] = None,
    output: Annotated[Path, typer.Option(help="Where to write.")] = Path("comparison"),
    data_format: FormatOption = None,
    group_by: GroupOption = None,
    device: DeviceOption = None,
    settings: SetOption = None,
) -> None:
    """Compare runs, or predictions of any tool, on the same images, and say with an interval which is better."""
    from manymask import comparison

    arguments = parse_arguments(settings, group_by=group_by, device=device)
    with show_progress() as progress:
        result = comparison.compare(
            sources, data, output=output, data_format=data_format, **arguments, progress=progress
        )
    _print_comparison(result, output)


@app.command(cls=SettingsCommand)
def experiment(
    data: Annotated[Path, typer.Argument(help="Folder of labelled images, or a COCO file.")],
    vary: Annotated[list[str], typer.Option(metavar="NAME=VALUE,VALUE", help="Settings to vary, with their values.")],
    output: Annotated[Path, typer.Option(help="Folder of the experiment; the same again goes on with it.")],
    seeds: Annotated[str, typer.Option(help="Seeds of each variant.")] = "0,1,2",
    recipe: RecipeOption = None,
    val: Annotated[Path | None, typer.Option(help="A separate validation set.")] = None,
    data_format: FormatOption = None,
    group_by: GroupOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    settings: SetOption = None,
) -> None:
    """Train variants with several seeds each, and compare them on the same images."""
    from manymask import comparison

    parts = [part.strip() for part in seeds.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise PlanError(f"--seeds is {seeds!r}, expected whole numbers with commas; for example --seeds 0,1,2")
    arguments = parse_arguments(settings, group_by=group_by)
    with show_progress() as progress:
        result = comparison.experiment(
            data,
            vary=vary,
            seeds=[int(part) for part in parts],
            output=output,
            recipe=recipe,
            val=val,
            data_format=data_format,
            engine=engine,
            address=address,
            **arguments,
            progress=progress,
        )
    _print_comparison(result, output)


@app.command(cls=SettingsCommand)
def report(
    source: SourceArgument,
    data: Annotated[Path | None, typer.Argument(help="Labelled images. [those that the run held out]")] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write. [report.html in SOURCE]")] = None,
    data_format: FormatOption = None,
    group_by: GroupOption = None,
    device: DeviceOption = None,
    settings: SetOption = None,
) -> None:
    """Write report.html: scores with intervals, errors, curves, settings, and the images to look through."""
    from manymask import reporting

    arguments = parse_arguments(settings, group_by=group_by, device=device)
    with show_progress() as progress:
        path = reporting.report(source, data, output=output, data_format=data_format, **arguments, progress=progress)
    typer.echo(f"written to {path}")


def _print_comparison(result: dict[str, Any], folder: Path) -> None:
    from manymask.comparison.tables import list_scores

    names, rows = list_scores(result["variants"])
    print_table(f"{count_of(result['num_images'], 'image')}: value [95 % interval] ± deviation over seeds", names, rows)
    for pair in result["comparisons"]:
        for sentence in pair["sentences"]:
            typer.echo(sentence)
        images = pair["images"]
        typer.echo(
            f"By F1 {pair['second']} wins {count_of(images['won'], 'image')} against {pair['first']}, loses "
            f"{images['lost']}, ties {images['tied']}."
        )
    for note in result["notes"]:
        print_marked("warning:", "bold yellow", note)
    typer.echo(f"written to {folder / 'comparison.md'}")


@app.command(cls=SettingsCommand)
def predict(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(help="Images, folders of images, or text files (.txt) of paths.")],
    output: Annotated[Path, typer.Option(help="Where to write.")] = Path("out"),
    ids: Annotated[
        Path | None,
        typer.Option(help="JSON list of file_name, id, height and width: writes test-results.json and .zip."),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            help="coco, labels, geojson (QuPath), imagej, csv, parquet or overlay; may be given several times. "
            "[coco, labels and overlay]"
        ),
    ] = None,
    page: PageOption = None,
    z: ZOption = None,
    t: TOption = None,
    channels: ChannelsOption = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,W,H",
            help="Predict this part of each image only: left, top, width, height in pixels. GeoJSON, ROIs and tables "
            "count pixels in the whole image; label images, overlays and COCO masks are of the part's size.",
        ),
    ] = None,
    tile_size: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Longest side of an image that is seen at once. [by the model]"),
    ] = None,
    device: DeviceOption = None,
    tta: TtaOption = False,
    object_size: ObjectSizeOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    token_file: TokenFileOption = None,
    settings: SetOption = None,
) -> None:
    """Find the instances of images and write them in the files that other tools read.

    Large images are seen in tiles. Stopped by Ctrl-C or killed, the same command goes on. Of `--engine ray`,
    `--num-workers` is the number of processes.
    """
    with show_progress() as progress:
        from manymask import prediction
        from manymask.outputs import DEFAULT_OUTPUTS

        if model.startswith(("http://", "https://")):
            local = {
                "--ids": ids, "--page": page, "--z": z, "--t": t, "--channels": channels, "--region": region,
                "--tile-size": tile_size, "--device": device, "--tta": tta, "--object-size": object_size,
                "--set": settings, "--engine": engine != "local", "--address": address,
            }  # fmt: skip
            written = predict_remotely(model, images, output, format, token_file, progress, local)
            _tell_written(written)
            return
        own = {"device": device, "tta": tta or None, "object_size": object_size, "num_workers": None}
        values = parse_options(settings, **own)
        planes = parse_planes(page, z, t, channels)
        loaded = prediction.load_model(model, settings=values)
        written = prediction.predict_files(
            loaded,
            images,
            output,
            formats=format or DEFAULT_OUTPUTS,
            ids=ids,
            planes=planes,
            region=parse_region(region),
            tile_size=tile_size,
            engine=engine,
            address=address,
            num_workers=values.get("num_workers"),
            progress=progress,
        )
    _tell_written(written)


def _tell_written(paths: list[Path]) -> None:
    for path in paths:
        typer.echo(f"written to {path}")


@app.command(cls=SettingsCommand)
def export(
    source: Annotated[Path, typer.Argument(help="A run folder, a checkpoint, or a shipped model such as nuclei.")],
    to: Annotated[
        str, typer.Option(help="The library that is to run it: openvino or onnx (ONNX Runtime).")
    ] = "openvino",
    int8: Annotated[
        bool, typer.Option("--int8", help="OpenVINO computes in 8 bits: faster, with slightly other scores.")
    ] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="For --int8: a folder of images such as those to be predicted.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where to write.")] = Path("exported"),
    settings: SetOption = None,
) -> None:
    """Write a model as graphs that predict, evaluate and compare run by OpenVINO or ONNX Runtime, on the CPU."""
    with show_progress() as progress:
        from manymask import prediction

        folder = prediction.export(
            source,
            output,
            to=to,
            int8=int8,
            calibrate=calibrate,
            settings=parse_options(settings),
            progress=progress,
        )
    typer.echo(f"written to {folder}; use it as a model: manymask predict {shlex.quote(str(folder))} IMAGES")


app.command()(serve)


@app.command()
def models() -> None:
    """List the models that are part of the package: size, classes, data, licence, scores."""
    from manymask.modeling.catalogue import list_shipped, read_cards

    rows = []
    for name, card in read_cards().items():
        size = f"{list_shipped()[name].stat().st_size / 1e6:.0f} MB"
        objects = f"{card.object_sizes[0]:.0f} to {card.object_sizes[-1]:.0f} pixels"
        classes = ", ".join(card.classes)
        rows.append((name, size, card.parameters, classes, objects, card.data, card.licence, card.scores))
    names = ("name", "size", "parameters", "classes", "objects", "data", "licence", "scores")
    print_table("Shipped models", names, rows)
    typer.echo("Use one by its name: manymask predict NAME IMAGES, manymask train DATA --weights NAME")


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(help="Folder of labelled images, or a COCO file.")],
    val: Annotated[Path | None, typer.Option(help="A separate validation set, searched for images of DATA.")] = None,
    group_by: GroupOption = None,
    fix: Annotated[Path | None, typer.Option(help="New folder for a repaired copy of DATA.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for findings.json and fingerprint.json. [none]")] = None,
    data_format: FormatOption = None,
    cap: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Names images that hold more instances than this; by default training takes its cap from the data.",
        ),
    ] = None,
    crowd_as_objects: Annotated[
        bool, typer.Option("--crowd-as-objects", help="Take COCO's crowd regions for objects, in the copy too.")
    ] = False,
    ignore_label: IgnoreOption = None,
) -> None:
    """Look for what is wrong in every file, and at what the data is like. Ends with 1 if there is any fault."""
    from manymask import inspection
    from manymask.inspection.tables import describe_copy, format_findings, format_fingerprint, format_treatments

    with show_progress() as progress:
        found = inspection.inspect(
            data,
            val=val,
            data_format=data_format,
            group_by=group_by,
            output=output,
            fix=fix,
            cap=cap,
            crowd_as_objects=crowd_as_objects,
            ignore_label=ignore_label,
            progress=progress,
        )
    title, names, rows = format_findings(found.findings, data)
    if not rows:
        typer.echo("no findings: nothing is wrong or unusual")
    else:
        print_table(title, names, rows[:20])
        if len(rows) > 20:
            where = f"in {output / 'findings.json'}" if output else "that --output FOLDER writes to findings.json"
            typer.echo(f"and {len(rows) - 20} more {where}")
        print_table(*format_treatments(found.findings))
    print_table(*format_fingerprint(found.fingerprint))
    if output is not None:
        for name in ("findings.json", "fingerprint.json"):
            typer.echo(f"written to {output / name}")
    if fix is not None:
        typer.echo(describe_copy(found, fix))
    if found.has_faults:
        raise typer.Exit(1)


@app.command()
def convert(
    data: Annotated[Path, typer.Argument(help="Folder of labelled images, or a COCO file.")],
    to: Annotated[
        str,
        typer.Option(
            help="labelme, yolo, cvat, label_studio, via, coco, geojson (QuPath), imagej, cellpose, label_images or "
            "class_folders."
        ),
    ],
    output: Annotated[Path, typer.Option(help="New folder to write to.")],
    data_format: FormatOption = None,
    crowd_as_objects: Annotated[
        bool, typer.Option("--crowd-as-objects", help="Take COCO's crowd regions for objects.")
    ] = False,
    ignore_label: IgnoreOption = None,
) -> None:
    """Write labelled images in the format of another tool, and say what of them that format cannot hold."""
    from manymask.formats import conversion

    with show_progress() as progress:
        done = conversion.convert(
            data,
            to=to,
            output=output,
            data_format=data_format,
            crowd_as_objects=crowd_as_objects,
            ignore_label=ignore_label,
            progress=progress,
        )
    for line in done.describe():
        typer.echo(line)


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
    from manymask.core.files import check_writable
    from manymask.core.outputs import is_unused
    from manymask.formats import write_class_folder
    from manymask.synthetic import make_categories, make_sample

    if not is_unused(output):
        raise PlanError(f"{output} is not an empty folder; choose another")
    check_writable(output / "0000")
    categories, total = make_categories(classes), 0
    with show_progress() as progress:
        for index in range(images):
            pixels, cells = make_sample(
                index, seed=seed, size=(size, size), num_instances=instances, num_classes=classes, diameter=diameter
            )
            write_class_folder(output, f"{index:04d}", pixels, cells, categories)
            total += len(cells)
            progress(index + 1, images, "drawing")
    what = f"{count_of(images, 'image')} with {count_of(total, 'instance')} of {count_of(classes, 'class')}"
    typer.echo(f"{what} written to {output}")
