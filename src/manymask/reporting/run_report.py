"""Score a run, or predictions of any tool, and write its report."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from manymask.core import Dataset, Instances
from manymask.core.outputs import check_outputs, record_outputs
from manymask.core.progress import Progress
from manymask.evaluation import choose_folder
from manymask.evaluation.data import read_data
from manymask.evaluation.evaluating import DRAWS, summarize, view_images
from manymask.evaluation.predictions import open_predictions
from manymask.inspection import group_images
from manymask.metrics import ScoredImage, split_errors
from manymask.reporting.images import ViewedImage, choose_images
from manymask.reporting.page import write_report
from manymask.run_folder import find_run, read_diagnosis, read_metrics

MAX_IMAGES = 60
"""Images that a report shows at most."""


def report(
    source: str | Path,
    data: Dataset | str | Path | None = None,
    *,
    output: str | Path | None = None,
    data_format: str | None = None,
    group_by: str | None = None,
    draws: int = DRAWS,
    device: str = "auto",
    max_images: int = MAX_IMAGES,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write ``report.html``, one file that opens offline, and return its path.

    Memory holds the masks of all images as runs, and the pixels of one.

    Args:
        source: A run folder, a checkpoint, or stored predictions of any tool.
        data: Labelled images; by default those that the run held out.
        output: The file to write; ``report.html`` in the run folder, or beside the predictions.
        data_format: Name of the reader; found out from the folder by default.
        group_by: Regular expression that finds an image's group in its name; intervals then draw groups, not images.
        draws: Bootstrap draws for the intervals.
        device: Where a model runs.
        max_images: Images to show at most: the worst, then evenly through the rest.
        settings: Other values, by name, for settings that act at prediction.
        progress: Called with the number of images done, their number, and what is being done.

    Raises:
        ManymaskError: The data or the predictions cannot be used, or the file cannot be written.
    """
    path = Path(source)
    target = Path(output) if output else (find_run(path) or choose_folder(path)) / "report.html"
    check_outputs(target.parent, "report", [target.name])
    dataset = read_data(path, data, data_format, settings)
    opened = open_predictions(path, dataset, device=device, settings=settings)
    groups = group_images(dataset, group_by)
    # The worst images are known only after the last is scored: masks are kept, the pixels of those chosen read again.
    seen: dict[str, tuple[Instances, Instances, ScoredImage]] = {}
    for view in view_images(opened, dataset, progress):
        shown = view.predictions[: view.scored.num_shown]
        seen[view.scored.name] = (view.truth, shown, view.scored)
    evaluation = summarize(opened, dataset, [scored for _, _, scored in seen.values()], groups=groups, draws=draws)
    losses = {row.name: 0.0 if row.F1 is None else 1 - row.F1 for row in evaluation.per_image}
    chosen = set(choose_images([row.name for row in evaluation.per_image], max_images))

    def view_chosen() -> Iterator[ViewedImage]:
        for index, record in enumerate(dataset.records):
            if record.name in chosen:
                truth, predictions, scored = seen[record.name]
                errors, loss = split_errors(scored), losses[record.name]
                yield ViewedImage(record.name, dataset[index].pixels, truth, predictions, errors, loss)

    with record_outputs(target.parent, "report", [target.name], is_whole=False):
        return write_report(
            target,
            title=path.resolve().name or str(path),
            plan=opened.plan,
            rows=read_metrics(path) if opened.plan is not None else [],
            diagnosis=read_diagnosis(path) if opened.plan is not None else {},
            evaluation=evaluation,
            categories=opened.categories,
            images=view_chosen(),
        )
