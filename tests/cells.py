"""Small labelled images, and files of predictions for them that are made of their labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from manymask.core import Dataset, Instances, Sample, write_json
from manymask.formats import encode_coco_results, read_dataset, write_class_folder, write_label_image
from manymask.synthetic import make_categories, make_sample

Change = Callable[[Sample], Instances]


def write_cells(folder: Path, num_images: int = 3, num_classes: int = 2, seed: int = 0) -> Dataset:
    """Class folders 0000, 0001 ... of about six cells each."""
    for index in range(num_images):
        size = (40, 48 + 2 * index)
        pixels, cells = make_sample(
            index, seed=seed, size=size, num_instances=6, num_classes=num_classes, diameter=10.0
        )
        write_class_folder(folder, f"{index:04d}", pixels, cells, make_categories(num_classes))
    return read_dataset(folder)


def copy_truth(sample: Sample) -> Instances:
    """All that is there, with falling scores."""
    truth = sample.to_instances()
    return Instances.from_runs(truth.runs, truth.labels, scores=np.linspace(0.9, 0.6, len(truth), dtype=np.float32))


def lose(every: int) -> Change:
    """All but each so-manieth instance."""
    return lambda sample: copy_truth(sample)[[row for row in range(len(sample.labels)) if (row + 1) % every]]


def write_results(path: Path, dataset: Dataset, change: Change = copy_truth, images: slice = slice(None)) -> Path:
    """COCO results for some of the images, by their names."""
    samples = [dataset[row] for row in range(len(dataset))[images]]
    results = {s.name: encode_coco_results(change(s), s.image_id, dataset.categories) for s in samples}
    write_json(path, [entry | {"image_id": name} for name, entries in results.items() for entry in entries])
    return path


def write_half_crowd(root: Path) -> Path:
    """A COCO data set of two images, each of two squares of which one is a crowd region."""
    images, annotations = [], []
    (root / "images").mkdir(parents=True)
    for image_id in (1, 2):
        pixels = np.random.default_rng(image_id).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": 40, "width": 40})
        for iscrowd, left in enumerate((4, 24)):
            square = [left, 4, left + 12, 4, left + 12, 16, left, 16]
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 2, "iscrowd": iscrowd}
            annotations.append({**entry, "segmentation": [square]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 2, "name": "round"}]}
    write_json(root / "annotations.json", content)
    return root


def write_labels(folder: Path, dataset: Dataset, change: Change = copy_truth, *, has_table: bool) -> Path:
    """Label images, as ``predict`` writes them or without the CSV files."""
    for sample in dataset:
        write_label_image(folder / f"{sample.name}.tif", change(sample), dataset.categories)
    if not has_table:
        for table in folder.glob("*.csv"):
            table.unlink()
    return folder
