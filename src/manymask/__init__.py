"""Self-configuring Mask R-CNN instance segmentation for crowded images.

Importing the package loads nothing heavy: each public name is fetched from its module when it is first used.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# What a call has to tell beside its result goes to this log; a program that wants to see it gives it a handler.
logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from manymask.comparison import compare as compare
    from manymask.comparison import experiment as experiment
    from manymask.core import Category as Category
    from manymask.core import Dataset as Dataset
    from manymask.core import InstanceLayers as InstanceLayers
    from manymask.core import Instances as Instances
    from manymask.core import RunLengths as RunLengths
    from manymask.core import Sample as Sample
    from manymask.errors import ManymaskError as ManymaskError
    from manymask.evaluation import evaluate as evaluate
    from manymask.formats import convert as convert
    from manymask.formats import read_dataset as read_dataset
    from manymask.inspection import inspect as inspect
    from manymask.modeling.build import build_model as build_model
    from manymask.plan import Plan as Plan
    from manymask.prediction import Model as Model
    from manymask.prediction import export as export
    from manymask.prediction import load_model as load_model
    from manymask.prediction import predict as predict
    from manymask.prediction import predict_files as predict_files
    from manymask.reporting import report as report
    from manymask.training import plan_run as plan_run
    from manymask.training import train as train

_MODULES = {
    name: f"manymask.{module}"
    for module, names in {
        "comparison": "compare experiment",
        "core": "Category Dataset InstanceLayers Instances RunLengths Sample",
        "errors": "ManymaskError",
        "evaluation": "evaluate",
        "formats": "convert read_dataset",
        "inspection": "inspect",
        "modeling.build": "build_model",
        "plan": "Plan",
        "prediction": "Model export load_model predict predict_files",
        "reporting": "report",
        "training": "plan_run train",
    }.items()
    for name in names.split()
}

__all__ = ["__version__", *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'manymask' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
