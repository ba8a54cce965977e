"""torchvision without ``torch._dynamo``, which takes longer to load than all else that prediction needs."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def _load_torchvision() -> None:
    """Load torchvision with stand-ins for the two functions of ``torch._dynamo`` that it names.

    Whatever needs ``torch._dynamo`` later loads the real one.
    """
    if "torchvision" in sys.modules or "torch._dynamo" in sys.modules:
        return
    package, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")

    def disable(function: Any, *_: Any, **__: Any) -> Any:
        return function  # it marks a function as one that torch.compile leaves out

    def is_compile_supported(device_type: Any) -> Any:
        return import_module("torch._dynamo.utils").is_compile_supported(device_type)

    vars(package)["disable"], vars(utils)["is_compile_supported"] = disable, is_compile_supported
    stand_ins = {package.__name__: package, utils.__name__: utils}
    sys.modules.update(stand_ins)
    try:
        import_module("torchvision.tv_tensors")
    finally:
        for name in stand_ins:
            del sys.modules[name]


_load_torchvision()
from torchvision import tv_tensors as tv_tensors  # noqa: E402  # pyright: ignore[reportMissingTypeStubs]
