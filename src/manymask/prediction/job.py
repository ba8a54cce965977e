"""Predict the images of a folder and write the results."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from manymask import __version__
from manymask.core import ImageSource, Instances, Region, Window
from manymask.core.outputs import check_outputs, record_outputs
from manymask.core.progress import Progress
from manymask.errors import BrokenImagesError, DatasetError, PlanError
from manymask.formats import find_skipped, match_image_ids, read_image_ids
from manymask.imaging import ONE_PLANE, PlaneChoice, find_images, list_choices, open_image
from manymask.imaging.files import check_unique_names, list_given
from manymask.imaging.normalization import Normalization
from manymask.imaging.ome_zarr import is_zarr
from manymask.imaging.raster import check_declared_size
from manymask.modeling.catalogue import EXPORT_FILE
from manymask.outputs import DEFAULT_OUTPUTS, OUTPUTS, ImageEntry, Submission, close_writers
from manymask.plan import INFERENCE, READING, list_marked
from manymask.prediction.background import work_beside
from manymask.prediction.model import Model
from manymask.prediction.partial import PartialResults, digest_file
from manymask.prediction.predicting import get_model, take_channels
from manymask.prediction.tiling import LoadedImage, Tiling, find_instances, load_image
from manymask.wording import count_of, find_name, list_some

logger = logging.getLogger(__name__)

# Settings that a trained model can be given and that do not change what is found.
_WITHOUT_EFFECT = ("num_workers", "score_threshold", *list_marked(READING))


def predict_files(
    model: Model | str | Path,
    images: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    formats: Sequence[str] = DEFAULT_OUTPUTS,
    ids: str | Path | None = None,
    planes: PlaneChoice = ONE_PLANE,
    region: tuple[int, int, int, int] | None = None,
    tile_size: int | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Predict images and write the results.

    The header of every image is read before the first prediction, so that a file that is no image, or is cut short, is
    found before anything is written, as far as headers tell; one that is damaged inside is found when it is predicted.
    Of several images without ``ids`` a damaged one is reported and passed over. What an earlier call wrote to the
    folder is removed; files of anybody else are never written over.

    Images above a size, which depends on the model, are seen in tiles. Finished tiles are kept in ``.partial`` below
    ``output`` until all results are written: stopped at any moment, the same call goes on and ends with the same files.

    Args:
        model: The model, or its run folder or checkpoint.
        images: An image, a folder of images, of folders of images or of class folders, or a text file (.txt) with a
            path on each line, which counts from the text file's own folder; or several of these. Images of several
            folders that share a stem are named by their folders too: ``plate1_a``.
        output: Where to write.
        formats: What to write: ``coco`` (``predictions.json`` and ``images.json``, or with ``ids``
            ``test-results.json`` and ``test-results.zip``), ``labels`` (``labels/<stem>.tif`` and ``.csv``, and
            ``overlaps/<stem>.tif`` where predictions overlap), ``geojson`` (``geojson/<stem>.geojson.gz``), ``imagej``
            (``imagej/<stem>.zip``), ``csv`` and ``parquet`` (``measurements/<stem>.csv``, ``.parquet``), ``overlay``
            (``overlays/<stem>.png``); all but ``coco`` hold what the score threshold shows. docs/outputs.md says which
            tools open them.
        ids: A list of {file_name, id, height, width} that gives the images their ids.
        planes: Which image is taken of files that hold several, and which channels; with ``page="all"`` each page is an
            image of its own, named ``<stem>_p001`` and so on.
        region: Left, top, width and height in pixels of the part of each image that is predicted, as if it were the
            whole file. GeoJSON, ROIs and tables count pixels in the whole file; label images, overlays and COCO masks
            are of the region's size, and ``images.json`` says where it lies.
        tile_size: Longest side in pixels of what is seen at once, in place of the model's own.
        progress: Called with the number of images and tiles done, their number, and what is being done.

    Returns:
        The files and folders written.

    Raises:
        DatasetError: An image cannot be read, or the ids and the images do not meet.
        BrokenImagesError: Some of several images cannot be read; the results of the others are written.
        ManymaskError: A format needs a package that is not installed; the extra ``tables`` has pyarrow.
        PlanError: There is no such output format, files that ``predict_files`` did not write are in the way, ``ids``
            are given with all pages, or the folder holds finished tiles of another prediction.
        Interrupted: Ctrl-C, where finished tiles are kept.
    """
    formats = [find_name(name, OUTPUTS, f"there is no output format {name!r}") for name in formats]
    model, given, output = take_channels(get_model(model), planes), list_given(images), Path(output)
    tiling = Tiling.of(model.plan, tile_size)
    # All that can be refused is refused before the first prediction.
    if ids and planes.page == "all":
        raise PlanError("a list of ids names files and not their pages; choose one page, or leave the list out")
    found = find_images(given)
    may_break = len(found) > 1 and ids is None
    files = [each for stem, path in found for each in _list_pages(stem, path, planes, may_break=may_break)]
    check_unique_names((file.stem, file.path) for file in files)
    kinds = [Submission if ids and name == "coco" else OUTPUTS[name] for name in dict.fromkeys(formats)]
    for kind in kinds:
        kind.check()
    names = [name for kind in kinds for name in kind.list_files([file.stem for file in files])]
    check_outputs(output, "predict", names)
    _warn_of_skipped(given, [path for _, path in found])
    # Files are named in images.json from here on.
    folders = {path for path in given if path.is_dir() and not is_zarr(path)}
    root = os.path.commonpath([os.path.abspath(path if path in folders else path.parent) for path in given])
    left, top, width, height = region or (0, 0, 0, 0)
    window = Window(top, left, height, width) if region else None
    job = _Job(model, tiling, window, progress, may_break=may_break)
    tasks = job.plan_tasks(files, Path(ids) if ids else None)
    stems = [task.file.stem for task in tasks]
    tiled = {task.file.stem: task.file.path for task in tasks if task.num_tiles > 1}
    partial = PartialResults(output, _describe_settings(job, planes) if tiled else {})
    partial.check(tiled)
    num_found, num_shown = 0, 0

    with partial.hold(tiled), record_outputs(output, "predict", names):
        writers = [kind(output, stems, model.categories, model.plan.shown_score) for kind in kinds]

        def write(found: tuple[_Task, ImageSource, Instances]) -> tuple[_Task, Instances]:
            task, image, instances = found
            file_name = Path(os.path.relpath(task.file.path, root)).as_posix()
            entry = ImageEntry(task.id, task.file.stem, file_name, image)
            for writer in writers:
                writer.write(entry, instances)
            return task, instances

        # The thread that writes ends before its writers are closed, also where the user interrupts.
        detected = job.detect(tasks, partial)
        with close_writers(writers), closing(work_beside(write, detected)) as written:
            for task, instances in written:
                num_found += len(instances)
                num_shown += int((instances.scores >= model.plan.shown_score).sum())
                if task.num_tiles == 1:  # of the others each tile was told
                    job.tell(1, "predicting")
    logger.info(
        f"{count_of(len(files) - len(job.broken), 'image')}, {count_of(num_shown, 'instance')} with a score of "
        f"{model.plan.shown_score:g} or more"
    )
    if num_shown == 0:
        logger.warning(
            f"no instance has a score of {model.plan.shown_score:g} or more: label images and overlays are empty, "
            f"and {num_found} have a lower one; set score_threshold lower, or train longer"
        )
    if job.broken:
        raise BrokenImagesError(
            f"{len(job.broken)} of {count_of(len(files), 'image')} could not be predicted; the results of the others "
            f"are in {output}: {list_some(job.broken.values(), separator='; ')}"
        )
    places = dict.fromkeys(name.partition("/")[0] for name in names if (output / name).exists())
    return [output / place for place in sorted(places, key=lambda place: "." in place)]  # folders first


def _warn_of_skipped(given: Sequence[Path], files: Sequence[Path]) -> None:
    """Name what was passed over in the given folders."""
    in_folders = set(files) - set(given)
    if in_folders and (skipped := find_skipped({path.parent for path in in_folders}, files)):
        logger.warning(skipped.message)


class _File(NamedTuple):
    """An image to predict: its name, its file and which image of the file it is."""

    stem: str
    path: Path
    choice: PlaneChoice


def _list_pages(stem: str, path: Path, planes: PlaneChoice, *, may_break: bool) -> list[_File]:
    """The images of a file: of all pages each, if there are several, with its number behind the name."""
    try:
        choices = list_choices(path, planes)
    except DatasetError:
        if not may_break:
            raise
        choices = [planes]  # passed over when it is opened
    if len(choices) == 1:
        return [_File(stem, path, choices[0])]
    return [_File(f"{stem}_p{number:03}", path, choice) for number, choice in enumerate(choices, start=1)]


@dataclass(frozen=True)
class _Task:
    """An image that is predicted."""

    id: int
    file: _File
    num_tiles: int


class _Job:
    """The images of one call.

    Args:
        model: What finds the instances.
        tiling: How large images are cut into tiles.
        region: The part of each that is predicted.
        progress: As in ``predict_files``.
        may_break: Whether a damaged image is passed over.

    Attributes:
        broken: Those that were, each with what is wrong with it.
    """

    def __init__(
        self,
        model: Model,
        tiling: Tiling | None,
        region: Window | None,
        progress: Progress | None,
        *,
        may_break: bool,
    ) -> None:
        self.model, self.tiling, self.region = model, tiling, region
        self.progress, self.may_break = progress, may_break
        self.broken: dict[_File, str] = {}
        self._num_done, self._num_tiles = 0, 0

    def plan_tasks(self, files: Sequence[_File], ids: Path | None) -> list[_Task]:
        """The images, with the ids that a list or their order gives them; reads the headers of all.

        Raises:
            DatasetError: An image is broken, or the ids and the images do not meet.
        """
        named = [(file.stem, file.path) for file in files]
        listed = {path: entry for entry, path in match_image_ids(read_image_ids(ids), named, str(ids))} if ids else {}
        with ThreadPoolExecutor(max(self.model.plan.num_workers, 1)) as executor:
            sizes = dict(zip(files, executor.map(self._check, files), strict=True))
        for file in files:
            if (entry := listed.get(file.path)) is not None and sizes[file] != (entry.height, entry.width):
                height, width = sizes[file]
                raise DatasetError(
                    f"{ids} gives {entry.file_name} as {entry.height} x {entry.width} (height x width), but "
                    f"{file.path} is {height} x {width}; correct the list or the image"
                )
        self.broken = {file: self.broken[file] for file in files if file in self.broken}  # in order, not as found
        if len(self.broken) == len(files):
            raise DatasetError(next(iter(self.broken.values())))
        for message in self.broken.values():
            logger.warning(f"passed over: {message}")
        tasks = [
            _Task(listed[file.path].id if listed else place, file, self._count_tiles(sizes[file]))
            for place, file in enumerate(files, start=1)
            if file not in self.broken
        ]
        self._num_tiles = sum(task.num_tiles for task in tasks)
        return tasks

    def _check(self, file: _File) -> tuple[int, int]:
        """(height, width) of an image that the model can take, as far as its header says."""
        try:
            image = self._open(file)
            Normalization.of(self.model.plan).find_channels(image, str(file.path))
            if self._count_tiles(image.size) == 1:
                check_declared_size(file.path, (*image.size, image.num_channels), image.dtype)  # it is seen whole
        except DatasetError as error:
            if not self.may_break:
                raise
            self.broken[file] = str(error)
            return 0, 0
        return image.size

    def _open(self, file: _File) -> ImageSource:
        image = open_image(file.path, file.choice)
        if self.region is None:
            return image
        try:
            return Region(image, self.region)
        except IndexError as error:
            raise DatasetError(
                f"the region {_name_region(self.region)} (left, top, width, height) is not inside of {file.path}, "
                f"which is {image.size[1]} wide and {image.size[0]} high; choose one that is"
            ) from error

    def _count_tiles(self, size: tuple[int, int]) -> int:
        return len(self.tiling.list_tiles(size)) if self.tiling else 1

    def detect(self, tasks: Sequence[_Task], partial: PartialResults) -> Iterator[tuple[_Task, ImageSource, Instances]]:
        """The instances of each image that can be read; the next image is read meanwhile."""
        for task, loaded in zip(tasks, work_beside(self._load, tasks), strict=True):
            num_before = self._num_done
            try:
                if isinstance(loaded, DatasetError):
                    raise loaded
                store = partial.open(task.file.stem, task.file.path) if task.num_tiles > 1 else None
                yield task, loaded.image, find_instances(self.model, loaded, self.tiling, store, self.tell)
            except DatasetError as error:
                if not self.may_break:
                    raise
                self.broken[task.file] = str(error)
                logger.warning(f"passed over: {error}")
                self.tell(num_before + task.num_tiles - self._num_done, "predicting")

    def tell(self, num_tiles: int, what: str) -> None:
        """Say that so many tiles more are done; an image that is seen whole is one."""
        self._num_done += num_tiles
        if self.progress is not None:
            self.progress(self._num_done, self._num_tiles, what)

    def _load(self, task: _Task) -> LoadedImage | DatasetError:
        try:
            return load_image(self._open(task.file), str(task.file.path), self.model.plan, self.tiling)
        except DatasetError as error:
            return error


def _describe_settings(job: _Job, planes: PlaneChoice) -> dict[str, Any]:
    """All but the images that changes what is found in tiles."""
    source = job.model.source
    files = sorted(source.parent.iterdir()) if source.name == EXPORT_FILE else [source]
    plan = job.model.plan
    settings = {name: getattr(plan, name) for name in list_marked(INFERENCE) if name not in _WITHOUT_EFFECT}
    if plan.object_size == "auto":  # the objects that are measured are those that are shown
        settings["score_threshold"] = plan.score_threshold
    return {
        "model": [digest_file(file) for file in files if file.is_file()],
        "device": job.model.detector.device.type,
        "version": __version__,
        "region": _name_region(job.region),
        "planes": str(planes),
        **({} if job.tiling is None else asdict(job.tiling)),
        **settings,
    }


def _name_region(region: Window | None) -> str:
    """As the user gives it."""
    return "none" if region is None else f"{region.left},{region.top},{region.width},{region.height}"
