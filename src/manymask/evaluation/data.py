"""What to score on: given data, or the images that a run held out."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from manymask.core import Category, Dataset, Record, Sample
from manymask.core.files import explain_reading
from manymask.errors import DatasetError, PlanError
from manymask.formats import read_dataset
from manymask.formats.splits import choose_scored
from manymask.imaging.files import make_key
from manymask.imaging.orientation import CHOICE_NAME
from manymask.modeling.catalogue import find_model
from manymask.modeling.checkpoint import read_training_plan
from manymask.plan import READING, Plan, change_plan, list_marked, load_plan, read_plan
from manymask.prediction import Model
from manymask.run_folder import find_run
from manymask.wording import list_some


def choose_reading(sources: Iterable[Model | str | Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """How labels are read, by the names of these settings: as the user sets it, else as models were trained.

    Raises:
        PlanError: Models were trained with different values, or one of the user's is out of range.
    """
    own = {name: settings[name] for name in list_marked(READING) if name in settings}
    chosen = change_plan(Plan(), own).reading
    plans = [plan for source in sources if (plan := _find_plan(source)) is not None]
    for name in chosen.keys() - own.keys():
        found = {getattr(plan, name) for plan in plans} or {chosen[name]}
        if len(found) > 1:
            raise PlanError(f"the models were trained with different values of {name}; set it to one for all")
        chosen[name] = found.pop()
    return chosen


def _find_plan(source: Model | str | Path) -> Plan | None:
    """The plan of a model; None for predictions in files and for what is not there."""
    if isinstance(source, Model):
        return source.plan
    path = Path(source)
    if (run := find_run(path)) is not None:
        return read_plan(run / "plan.json")
    found = find_model(path)
    values = None if found is None or found.is_shipped else read_training_plan(found.file)
    return None if values is None else load_plan(values, str(path))


def read_validation(plan: Plan, run: Path, reading: Mapping[str, Any]) -> Dataset:
    """The images that a run was validated on; reading one checks that its pixels are still the same.

    Raises:
        DatasetError: They are not where they were, or, when one is read, are others.
    """
    record = plan.data
    if record is None:
        raise DatasetError(f"{run} does not say which images it was validated on; give the data")
    if not record.val_names:
        raise DatasetError(f"{run} is a shipped model, which holds no images to score on; give the data")
    path = Path(record.val_path or record.path)
    if not path.exists():
        raise DatasetError(f"the validation images of {run} are no longer in {path}; give the data")
    dataset = read_dataset(path, record.data_format, **reading)
    # By keys, since one name may be written in several ways in Unicode.
    places = {make_key(r.name): index for index, r in enumerate(dataset.records)}
    if lost := [name for name in record.val_names if make_key(name) not in places]:
        raise DatasetError(
            f"{path} no longer holds {len(lost)} of the images that {run} was validated on ({list_some(lost)}); "
            "restore them, or give the data"
        )
    dataset = dataset.subset([places[make_key(name)] for name in record.val_names])
    if not record.val_digests:  # an older run, which cannot tell whether pixels have changed
        return dataset
    digests = dict(zip(map(make_key, record.val_names), record.val_digests, strict=True))

    def read_unchanged(record: Record, categories: tuple[Category, ...]) -> Sample:
        sample = dataset.read_record(record, categories)
        if sample.digest != digests[make_key(record.name)]:
            raise DatasetError(
                f"{record.path} is no longer the image that {run} was validated on, its pixels have changed (or "
                f"{CHOICE_NAME} was set otherwise then); restore it, or give the data"
            )
        return sample

    return replace(dataset, read_record=read_unchanged)


@explain_reading()
def read_data(
    source: Model | str | Path,
    data: Dataset | str | Path | None,
    data_format: str | None,
    settings: Mapping[str, Any] | None = None,
) -> Dataset:
    """The data to score on; where none is given, the images that the run held out.

    Args:
        source: What is scored.
        data: A data set, or its folder; of one that is split, the test images are taken, else those to validate on.
        data_format: Name of the reader; found out from the folder by default.
        settings: The user's settings, of which those that say how labels are read act here; by default they are as in
            training.

    Raises:
        DatasetError: No data is given and the source is no run, or its images are no longer there.
        PlanError: Such a setting is given for a data set, whose labels are read already.
    """
    if isinstance(data, Dataset):
        if late := [name for name in list_marked(READING) if name in (settings or {})]:
            raise PlanError(
                f"the data set of {data.root} is read already, so {late[0]} cannot act on it; leave it out, and "
                f"read the data with it: read_dataset(path, {late[0]}=..)"
            )
        return data
    reading = choose_reading([source], settings or {})
    if data is not None:
        return read_dataset(choose_scored(Path(data)), data_format, **reading)
    if isinstance(source, Model):
        return read_validation(source.plan, source.source, reading)
    if (found := find_model(source)) is not None and found.is_shipped:
        raise DatasetError(f"{source} is a shipped model, which holds no images to score on; give the data")
    if not Path(source).exists():
        raise DatasetError(f"{source} does not exist; expected a run folder, a checkpoint or predictions")
    if (run := find_run(Path(source))) is None:
        raise DatasetError(f"{source} is no run folder, so it does not say what to score on; give the data")
    return read_validation(read_plan(run / "plan.json"), run, reading)
