"""Train variants, each with several seeds, and compare them."""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from manymask.comparison.compare import compare
from manymask.errors import DatasetError, PlanError
from manymask.formats import read_json, write_json
from manymask.planning import CHANGEABLE, change_plan, make_plan
from manymask.training import train


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
    **settings: Any,
) -> dict[str, Any]:
    """Train every variant with every seed on the same images, score all on the same others, and compare them.

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
        group_by: Regular expression that finds an image's group in its name, for the intervals.
        **settings: Settings of all runs.

    Returns:
        What ``compare`` returns; it is also written to ``output``.

    Raises:
        PlanError: A setting is wrong, or the folder holds another experiment.
        ManymaskError: A run cannot go on; run the same again once the cause is mended.
    """
    variants, folder = list_variants(vary), Path(output)
    if not Path(data).exists():
        raise DatasetError(f"{data} does not exist; give a folder of labelled images, or a COCO file")
    if not seeds or len(set(seeds)) < len(seeds):
        raise PlanError(f"seeds are {', '.join(map(str, seeds)) or 'none'}, expected one or more different numbers")
    start = make_plan(recipe or "baseline", settings)
    for values in variants.values():
        change_plan(start, values)  # refuses what is wrong before anything is trained
    check_manifest(
        folder / "experiment.json",
        {
            "data": str(Path(data).resolve()),
            "val": str(Path(val).resolve()) if val else None,
            "vary": list(vary),
            "recipe": recipe or "baseline",
            "settings": {name: str(value) for name, value in settings.items() if name not in CHANGEABLE},
        },
    )
    arguments = {"recipe": recipe, "val": val, "data_format": data_format}
    runs = {
        folder / name / f"seed_{seed}": {**arguments, **settings, **values, "seed": seed}
        for seed in seeds
        for name, values in variants.items()
    }
    _train_all(data, runs, str(settings.get("device", "auto")))
    return compare([folder / name for name in variants], output=folder, group_by=group_by)


def list_variants(vary: Sequence[str]) -> dict[str, dict[str, str]]:
    """The settings of each variant by its name.

    Raises:
        PlanError: A text is not ``name=value,value``, a name or value occurs twice, or there is one variant only.
    """
    choices: dict[str, list[str]] = {}
    for text in vary:
        name, _, values = text.partition("=")
        name, parts = name.strip().replace("-", "_"), [value.strip() for value in values.split(",")]
        if not values or not all(parts) or len(set(parts)) < len(parts) or name in choices:
            raise PlanError(
                f"expected name=value,value with different values, found {text!r}; as scheduler=multistep,none"
            )
        if name == "seed":
            raise PlanError("seed cannot be varied; give --seeds 0,1,2")
        choices[name] = parts
    combined = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    if len(combined) < 2:
        raise PlanError("expected at least two variants; for example --vary scheduler=multistep,none")
    return {",".join(f"{name}={value}" for name, value in values.items()): values for values in combined}


def check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write what the experiment is, or check that it is the one that was begun here.

    Raises:
        PlanError: The folder holds something else.
    """
    if not path.exists():
        if path.parent.exists() and any(path.parent.iterdir()):
            raise PlanError(f"{path.parent} is not empty and holds no experiment; choose another --output")
        write_json(path, manifest)
        return
    begun = read_json(path)
    for name, value in manifest.items():
        if not isinstance(begun, dict) or begun.get(name) != value:
            was = begun.get(name) if isinstance(begun, dict) else begun
            raise PlanError(
                f"{path} began with {name} {was}, not {value}; go on with the same, or choose another --output"
            )


def _train_all(data: str | Path, runs: Mapping[Path, dict[str, Any]], device: str) -> None:
    """Train what is not finished: one run after the other, or side by side where there are several CUDA devices."""
    num_devices = torch.cuda.device_count() if device == "auto" else 1
    if num_devices < 2:
        _train_runs(data, runs)
        return
    shares: list[dict[Path, dict[str, Any]]] = [{} for _ in range(num_devices)]
    for place, (run, settings) in enumerate(runs.items()):
        shares[place % num_devices][run] = {**settings, "device": f"cuda:{place % num_devices}"}
    with ProcessPoolExecutor(num_devices, mp_context=get_context("spawn")) as executor:
        for result in [executor.submit(_train_runs, data, share) for share in shares]:
            result.result()


def _train_runs(data: str | Path, runs: Mapping[Path, dict[str, Any]]) -> None:
    for run, settings in runs.items():
        if (run / "plan.json").is_file():
            changed = {name: settings[name] for name in CHANGEABLE & settings.keys()}
            train(data, resume=run, val=settings["val"], **changed)
        else:
            train(data, output=run, **settings)
