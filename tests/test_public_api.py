import ast
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import manymask

# The documented names. One more or one less is a decision, to be told in CHANGELOG.md.
NAMES = {
    "__version__",
    "Category",
    "Dataset",
    "InstanceLayers",
    "Instances",
    "ManymaskError",
    "Model",
    "Plan",
    "RunLengths",
    "Sample",
    "build_model",
    "compare",
    "convert",
    "evaluate",
    "experiment",
    "export",
    "inspect",
    "load_model",
    "plan_run",
    "predict",
    "predict_files",
    "read_dataset",
    "report",
    "train",
}
TREE = ast.parse(inspect.getsource(manymask))


def test_public_names_are_the_documented_ones():
    assert set(manymask.__all__) == NAMES
    assert len(manymask.__all__) == len(NAMES) <= 25
    assert dir(manymask) == sorted(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_is_there_and_says_what_it_is(name):
    value = getattr(manymask, name)
    if name != "__version__":
        assert value.__name__ == name
        assert value.__module__.startswith("manymask.")
        assert inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'manymask' has no attribute 'nothing'"):
        manymask.nothing  # noqa: B018


def test_type_checkers_see_what_is_imported():
    (block,) = (node for node in TREE.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    for node in imports:
        (alias,) = node.names
        assert alias.asname == alias.name
        assert getattr(import_module(node.module or ""), alias.name) is getattr(manymask, alias.name)
    modules = {node.names[0].name: node.module for node in imports}
    assert modules == manymask._MODULES


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, manymask; print(sorted({'torch', 'numpy', 'timm', 'cv2', 'pydantic'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_prediction_starts_without_what_it_does_not_need():
    """And what does need ``torch._dynamo``, which torchvision was loaded without, finds it."""
    code = """if True:
        import sys
        from manymask.prediction import load_model
        load_model("nuclei", "cpu")
        print(sorted({"torch._dynamo", "timm", "matplotlib", "scipy", "lightning"} & sys.modules.keys()))
        import torch
        from torchvision.ops.roi_align import is_compile_supported
        print(is_compile_supported("cpu"), torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["[]", "True 2.0"]
