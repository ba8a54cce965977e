"""Train variants, each with several seeds, and compare them."""

import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from manymask.comparison.comparing import compare
from manymask.comparison.tables import COMPARISON_NAMES
from manymask.core import read_json, write_json
from manymask.core.outputs import check_outputs, is_unused
from manymask.core.progress import Progress
from manymask.errors import DatasetError, Interrupted, PlanError
from manymask.formats import read_dataset
from manymask.formats.datasets import open_dataset
from manymask.formats.splits import check_same_classes, choose_parts
from manymask.inspection import group_images
from manymask.plan import AUTO, READING, RESUMABLE, SETTINGS, Plan, change_plan, list_marked, make_plan, read_plan
from manymask.training import train
from manymask.training.setup import check_start

logger = logging.getLogger(__name__)


def experiment(
    data: str | Path,
    *,
    vary: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    output: str | Path,
    recipe: str | None = None,
    val: str | Path | None = None,
    data_format: str | None = None,
    group_by: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train every variant with every seed on the same images, and compare their last epochs on the same others.

    Run again with the same arguments it goes on where it was stopped: finished runs stay, the one that was cut short
    goes on from its last epoch. With ``device=auto`` and several CUDA devices, as many runs go at a time.

    Args:
        data: The training data.
        vary: Settings with their values, as ``scheduler=multistep,none``; with several, all combinations. The first
            combination is what the others are compared with.
        seeds: Seeds of each variant; the split does not depend on them (``split_seed``).
        output: Folder of the experiment; a run is in ``<setting=value>/seed_<seed>``.
        recipe: Where the settings start from.
        val: A separate validation set; by default a part of ``data`` is held out.
        data_format: Name of the reader.
        group_by: Regular expression that finds an image's group in its name; groups are held out whole, and intervals
            draw groups.
        settings: Settings of all runs, by name.
        progress: Called with the number of steps or images done, their number, and what is being done.

    Returns:
        What ``compare`` returns; it is also written to ``output``.

    Raises:
        PlanError: A setting is wrong, or the folder holds another experiment.
        ManymaskError: A run cannot go on; run the same again once the cause is mended.
    """
    variants, folder, settings = list_variants(vary), Path(output), dict(settings or {})
    for path in (data, val):
        if path is not None and not Path(path).exists():
            raise DatasetError(f"{path} does not exist; give a folder of labelled images, or a COCO file")
    parts = choose_parts(Path(data), Path(val) if val else None)
    data, val = parts.train, parts.val
    if val is not None and parts.are_one:
        check_same_classes(open_dataset(data, data_format), open_dataset(val, data_format))
    if group_by is not None and val is None:
        settings["group_by"] = group_by
    elif group_by is not None and val is not None:  # groups of a separate validation set matter to the intervals only
        group_images(read_dataset(val, data_format), group_by)
    check_settings(recipe or AUTO, settings, variants, seeds)
    if val is None and (
        moving := sorted({"group_by", "split_seed", "val_fraction"} & next(iter(variants.values())).keys())
    ):
        raise PlanError(f"{moving[0]} changes which images are held out, so it can be varied only with --val")
    manifest = {"data": str(Path(data).resolve()), "val": str(Path(val).resolve()) if val else None}
    manifest |= {"data_format": data_format, "recipe": recipe or AUTO, "variants": list(variants)}
    manifest |= {name: str(value) for name, value in settings.items() if name not in list_marked(RESUMABLE)}
    check_manifest(folder / "experiment.json", manifest)
    check_outputs(folder, "compare", COMPARISON_NAMES)
    runs = {
        folder / name / f"seed_{seed}": {"device": "auto", **settings, **values, "seed": seed}
        for seed in seeds
        for name, values in variants.items()
    }
    device = str(settings.get("device", "auto"))
    _train_all(data, {"recipe": recipe, "val": val, "data_format": data_format, "progress": progress}, runs, device)
    # Not the best epoch: it is chosen on these very images, which favours runs whose scores vary more.
    sources = {name: [folder / name / f"seed_{seed}" / "last.ckpt" for seed in seeds] for name in variants}
    if val is None:  # a recipe's file may say how images are grouped, too
        group_by = read_plan(next(iter(runs)) / "plan.json").group_by
    return compare(sources, output=folder, group_by=group_by, device=device, progress=progress)


def list_variants(vary: Sequence[str]) -> dict[str, dict[str, str]]:
    """The settings of each variant by its name.

    Raises:
        PlanError: A text is not ``name=value,value``, a name or value occurs twice, or there is one variant only.
    """
    choices: dict[str, list[str]] = {}
    for text in vary:
        name, _, values = text.partition("=")
        name, parts = name.strip().replace("-", "_"), [value.strip() for value in values.split(",")]
        if name == "seed":
            raise PlanError("seed cannot be varied; seeds are given with --seeds 0,1,2")
        if name in list_marked(READING):
            raise PlanError(f"{name} changes what is scored, so it cannot be varied; set it for all")
        if name in list_marked(RESUMABLE):
            raise PlanError(f"{name} does not change the result, so there is nothing to compare; leave it out")
        if not name or not values or not all(parts) or len(set(parts)) < len(parts) or name in choices:
            raise PlanError(
                f"expected name=value,value with different values, found {text!r}; as scheduler=multistep,none"
            )
        choices[name] = parts
    combined = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    # A value may be the path of a weights file, but a variant is one folder.
    names = [re.sub(r"[/\\]", "_", ",".join(f"{name}={value}" for name, value in v.items())) for v in combined]
    if len(set(names)) < max(len(combined), 2):
        raise PlanError("expected at least two variants of different names; as --vary scheduler=multistep,none")
    return dict(zip(names, combined, strict=True))


def check_settings(
    recipe: str, settings: Mapping[str, Any], variants: Mapping[str, Mapping[str, str]], seeds: Sequence[int]
) -> None:
    """Refuse what any of the runs would refuse, before the first is trained.

    Raises:
        PlanError: A setting or a seed is wrong, a setting is given and varied, or two variants are the same.
        CheckpointError: A weights file is not there.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise PlanError(f"seeds are {', '.join(map(str, seeds)) or 'none'}, expected one or more different numbers")
    plans: dict[Plan, str] = {}
    for name, values in variants.items():
        if twice := sorted(settings.keys() & {"seed", *values}):
            raise PlanError(f"{twice[0]} differs from run to run, so it cannot be set for all; leave it out")
        given = {**settings, **values}
        plan = make_plan(recipe, given)
        check_start(plan, given if recipe == AUTO else SETTINGS)
        for seed in seeds:
            change_plan(plan, {"seed": seed})
        if (same := plans.setdefault(plan, name)) != name:
            raise PlanError(f"{same} and {name} are the same; leave one of them out")


def check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write what the experiment is, or check that it is the one that was begun here.

    Raises:
        PlanError: The folder holds something else.
    """
    folder = path.parent
    if not path.exists() and not is_unused(folder):
        raise PlanError(f"{folder} is not empty and holds no experiment; choose another --output")
    if not any(folder.glob("*/seed_*/plan.json")):
        write_json(path, manifest)
        return
    begun = read_json(path)
    if not isinstance(begun, dict):
        raise PlanError(f"{path} is not an experiment's; choose another --output")
    for name in {**manifest, **begun}:
        if begun.get(name) != manifest.get(name):
            raise PlanError(
                f"the experiment in {folder} began with {name} {_format(begun.get(name))}, not "
                f"{_format(manifest.get(name))}; go on with the same, or choose another --output"
            )


def _format(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(value)
    return "by default" if value is None else str(value)


def _train_all(data: str | Path, places: dict[str, Any], runs: Mapping[Path, dict[str, Any]], device: str) -> None:
    """Train what is not finished: one run after the other, or side by side where there are several CUDA devices.

    Args:
        data: The training data.
        places: The other arguments of ``train`` that all runs share.
        runs: The settings of each run by its folder.
        device: ``auto`` uses every CUDA device.
    """
    num_devices = torch.cuda.device_count() if device == "auto" else 1
    if num_devices < 2:
        _train_runs(data, places, runs)
        return
    shares: list[dict[Path, dict[str, Any]]] = [{} for _ in range(num_devices)]
    for number, (run, settings) in enumerate(runs.items()):
        shares[number % num_devices][run] = {**settings, "device": f"cuda:{number % num_devices}"}
    # Another process cannot call ``progress``, and several runs at once would mix theirs; notes are printed there.
    places = places | {"progress": None}
    context, is_told = get_context("spawn"), logger.isEnabledFor(logging.INFO)
    with ProcessPoolExecutor(num_devices, context, initializer=_print_notes if is_told else None) as executor:
        for result in [executor.submit(_train_runs, data, places, share) for share in shares]:
            result.result()


def _print_notes() -> None:
    """Let a process that trains some of the runs tell what this one would."""
    log, handler = logging.getLogger("manymask"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def _train_runs(data: str | Path, places: dict[str, Any], runs: Mapping[Path, dict[str, Any]]) -> None:
    for number, (run, settings) in enumerate(runs.items(), start=1):
        logger.info(f"run {number} of {len(runs)}: {run.parent.name}, seed {settings['seed']}")
        try:
            if (run / "plan.json").is_file():
                changed = {name: settings[name] for name in list_marked(RESUMABLE) if name in settings}
                train(data, resume=run, val=places["val"], settings=changed, progress=places["progress"])
            else:
                train(data, output=run, settings=settings, **places)
        except Interrupted as error:
            remedy = "the same experiment command again goes on with it"
            raise Interrupted(error.signal_number, remedy) from error
