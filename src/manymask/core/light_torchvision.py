"""torchvision without ``torch._dynamo``, which takes longer to load than all else that prediction needs."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _StandIn(ModuleType):
    """Has any function: one that loads the real module when it is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **settings: Any) -> Any:
            return getattr(import_module(self.__name__), name)(*arguments, **settings)

        return call


def _mark_nothing(function: Any, *_: Any, **__: Any) -> Any:
    return function


def _load_torchvision() -> None:
    """Load torchvision with a stand-in for ``torch._dynamo``, whose functions it names but does not call meanwhile.

    Whatever needs ``torch._dynamo`` later loads the real one.
    """
    if "torchvision" in sys.modules or "torch._dynamo" in sys.modules:
        return
    package, utils = _StandIn("torch._dynamo"), _StandIn("torch._dynamo.utils")
    # It marks a function as one that ``torch.compile`` leaves out, which needs nothing of the real module.
    vars(package)["disable"] = _mark_nothing
    stand_ins = {module.__name__: module for module in (package, utils)}
    sys.modules.update(stand_ins)
    try:
        import_module("torchvision.tv_tensors")
    finally:
        for name in stand_ins:
            del sys.modules[name]


_load_torchvision()
from torchvision import tv_tensors as tv_tensors  # noqa: E402  # pyright: ignore[reportMissingTypeStubs]
