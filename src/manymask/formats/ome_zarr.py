"""Labels of OME-Zarr: groups of ids in ``labels`` inside of each image's folder."""

from pathlib import Path

from manymask.core.dataset import Category, Dataset, Format, Record, Sample
from manymask.errors import DatasetError
from manymask.formats.class_folders import ClassFolderWriter
from manymask.formats.ids import LabelImage, check_size, number_ids
from manymask.formats.label_samples import make_labelled_sample
from manymask.formats.records import report_incomplete
from manymask.imaging import open_image
from manymask.imaging.files import check_unique_names, list_folders, name_folder
from manymask.imaging.ome_zarr import is_zarr
from manymask.imaging.orientation import check_labels_size
from manymask.plan import Labels


def is_ome_zarr(root: Path) -> bool:
    """Whether a folder is, or holds, an OME-Zarr image with labels."""
    return any(_find_labels(image) for image in _list_images(root))


def _list_images(root: Path) -> list[Path]:
    return [root] if is_zarr(root) else [folder for folder in list_folders(root) if is_zarr(folder)]


def _find_labels(image: Path) -> dict[str, Path]:
    """The labels of an image by their names."""
    folders = list_folders(image / "labels") if (image / "labels").is_dir() else []
    return {folder.name: folder for folder in folders if is_zarr(folder)}


def read_ome_zarr(root: str | Path, ignore_label: Labels = ()) -> Dataset:
    """Read OME-Zarr images that hold labels, each name of which is a class; a number alone is called ``object``.

    Images without labels are left out and listed in the data set's ``problems``. Labels must be of the image's size.

    Args:
        root: The folder of an image, or one of such folders.
        ignore_label: Values of pixels to ignore.

    Raises:
        DatasetError: There are no images with labels, or two of them have one name.
    """
    root = Path(root)
    images = [(Path(name_folder(path)).stem, path) for path in _list_images(root)]
    check_unique_names(images)
    entries, problems = [], []
    for name, path in images:
        if labels := _find_labels(path):
            entries.append((name, path, labels))
        else:
            message = f"{path} has no labels; add {path.name}/labels/<name>, or remove the image"
            problems.append(report_incomplete(message, path, name))
    if not entries:
        raise DatasetError(problems[0].message if problems else f"{root} holds no OME-Zarr images; give their folder")
    names = sorted({_name_class(label) for _, _, labels in entries for label in labels})
    categories = tuple(Category(number, name) for number, name in enumerate(names, start=1))
    records = tuple(
        Record(number, name, path, labels, tuple(labels.values()), ignored=ignore_label)
        for number, (name, path, labels) in enumerate(entries, start=1)
    )
    return Dataset(root, FORMAT, categories, records, _read_record, tuple(problems))


def _name_class(label: str) -> str:
    return "object" if label.isdigit() else label


def _read_labels(record: Record) -> dict[str, LabelImage]:
    """The label image of each name."""
    return {
        label: number_ids(path, open_image(path).read()[..., 0], ignored=record.ignored)
        for label, path in record.annotation.items()
    }


def _read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    image = open_image(record.path)
    check_labels_size(record.path, image.size)
    found = _read_labels(record)
    for path, part in zip(record.label_files, found.values(), strict=True):
        check_size(path, part.ids.shape, record.path, image.size)
    class_index = {category.name: index for index, category in enumerate(categories, start=1)}
    classes = [class_index[_name_class(name)] for name in found]
    return make_labelled_sample(record, image, list(found.values()), classes, len(categories))


def _name_instances(record: Record) -> list[str]:
    return [f"id {i} of {label}" for label, part in _read_labels(record).items() for i in part.old_ids.tolist()]


FORMAT = Format(
    "ome_zarr",
    layout="x.zarr of OME with labels/<name> in it",
    detect=is_ome_zarr,
    read=read_ome_zarr,
    name_instances=_name_instances,
    open_writer=ClassFolderWriter,
    holds=frozenset({"classes", "holes", "parts", "overlaps of classes", "crowd"}),
    copy_format="class_folders",
    changes="images and labels are class folders",
    options=frozenset({"ignore_label"}),
)
