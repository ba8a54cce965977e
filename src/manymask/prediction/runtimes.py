"""Graphs that other libraries run: written from PyTorch, quantised and opened; only this module loads these libraries.

A graph is dynamic in the number of its inputs, and the one named ``trunk`` in their height and width too.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from manymask.errors import CheckpointError, ManymaskError, PlanError
from manymask.modeling.backbones import first_line
from manymask.modeling.device import choose_precision
from manymask.modeling.network import LARGEST_STRIDE

Graph = Callable[[np.ndarray], Sequence[np.ndarray]]
"""What runs a graph: from its input to its outputs."""

SECOND_BOX_HEAD = "box_head_2"
GRAPHS = ("trunk", "box_head", "mask_head", SECOND_BOX_HEAD)
"""All that there may be; the last is there of networks with a second box stage."""
SUFFIXES = {"onnx": (".onnx",), "openvino": (".xml", ".bin")}
"""Endings of a graph's files by the library that runs it, the one to open first."""


@contextmanager
def _explain_missing(extra: str) -> Iterator[None]:
    # OpenVINO and NNCF send what they are used for to their makers with this module, and go on without it.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    try:
        yield
    except ModuleNotFoundError as error:
        raise ManymaskError(
            f"{error.name} is not installed, which {extra} graphs need; run pip install 'manymask[{extra}]'"
        ) from error


def check_engine(engine: str, *, int8: bool = False) -> None:
    """Refuse a library that is not known or not installed, before any work.

    Raises:
        PlanError: There is no such engine.
        ManymaskError: It is not installed; names the extra.
    """
    if engine not in SUFFIXES:
        raise PlanError(f"there is no engine {engine!r} to export to; there are: {', '.join(SUFFIXES)}")
    with _explain_missing(engine):
        if engine == "onnx":
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        else:
            import openvino  # noqa: F401
        if int8:
            import nncf  # noqa: F401


def write_graph(module: nn.Module, example: Tensor, engine: str, path: Path) -> None:
    """Write a module in evaluation mode as a graph.

    Args:
        module: It takes one tensor.
        example: Such a tensor, of two images or boxes at least; the sides of images are multiples of
            ``LARGEST_STRIDE``, larger than it and not equal.
        engine: The library that is to run it.
        path: Its first file, named as one of ``GRAPHS``.

    Raises:
        Exception: What PyTorch or the library raises of a module that it cannot take, which may be anything.
    """
    shape: dict[int, Any] = {0: Dim("batch", min=1, max=1 << 20)}
    if path.stem == "trunk":
        shape |= {axis: LARGEST_STRIDE * Dim(name, min=1, max=1 << 12) for axis, name in ((2, "rows"), (3, "columns"))}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, on its own parts
        program = torch.export.export(module, (example,), dynamic_shapes=(shape,))
        if engine == "onnx":
            exported = torch.onnx.export(program, dynamo=True, verbose=False)
            assert exported is not None  # it is returned where no file is named
            exported.save(path)
        else:
            import openvino

            openvino.save_model(openvino.convert_model(program), path, compress_to_fp16=False)


def to_array(values: Tensor) -> np.ndarray:
    """A tensor on the CPU as graphs take it."""
    return values.contiguous().numpy()


def has_vnni() -> bool:
    """Whether the processor multiplies and adds 8-bit numbers in one instruction, of AVX-512 or AMX."""
    return torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]


def list_files(engine: str, graphs: Iterable[str] = GRAPHS) -> list[str]:
    """The names of the files of graphs."""
    return [name + suffix for name in graphs for suffix in SUFFIXES[engine]]


def open_graphs(folder: Path, engine: str, graphs: Iterable[str], precision: str = "auto") -> dict[str, Graph]:
    """Those graphs of a folder, by name.

    Raises:
        CheckpointError: A file is missing or damaged, or the engine is not known.
        ManymaskError: The library is not installed.
        PlanError: It does not compute in such an arithmetic.
    """
    if engine not in SUFFIXES:
        raise CheckpointError(f"{folder} was exported to {engine!r}, which is not known here; export the model anew")
    return {name: open_graph(folder / f"{name}{SUFFIXES[engine][0]}", engine, precision) for name in graphs}


def open_graph(path: Path, engine: str, precision: str = "auto") -> Graph:
    """A graph, ready to run on as many threads as torch has.

    Args:
        path: Its first file.
        engine: The library that runs it.
        precision: In which arithmetic, as the plan's setting.

    Raises:
        CheckpointError: A file is missing or damaged.
        ManymaskError: The library is not installed.
        PlanError: It does not compute in such an arithmetic.
    """
    try:
        with _explain_missing(engine):
            run = _open_onnx(path, precision) if engine == "onnx" else _open_openvino(path, precision)
            return _OpenGraph(run, (path.absolute(), engine, precision))
    except (ManymaskError, MemoryError):
        raise
    except Exception as error:  # of a damaged file the libraries raise about anything
        raise CheckpointError(
            f"{path} is missing, cut short or damaged ({first_line(error)}); export the model anew"
        ) from error


@dataclass(frozen=True)
class _OpenGraph:
    """A graph that a process to which it is sent opens anew, from its files."""

    run: Graph
    opened: tuple[Path, str, str]

    def __call__(self, values: np.ndarray) -> Sequence[np.ndarray]:
        return self.run(values)

    def __reduce__(self) -> tuple[Callable[..., Graph], tuple[Path, str, str]]:
        return open_graph, self.opened


def _open_onnx(path: Path, precision: str) -> Graph:
    if precision not in ("auto", "fp32"):
        raise PlanError(f"precision is {precision}, but ONNX Runtime computes in fp32 here; leave precision out")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait would take the cores from torch, which computes what lies between the graphs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values})


def _open_openvino(path: Path, precision: str) -> Graph:
    types = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": types[choose_precision(precision, torch.device("cpu"))],
    }
    compiled = _openvino_core().compile_model(path, "CPU", options)
    return lambda values: list(compiled(values).values())


@cache
def _openvino_core() -> Any:
    # One for the process: each brings an alternate stack for signals, and one of several that goes leaves the thread
    # with a stack that is already unmapped, on which the next signal to Python overwrites memory or ends the process.
    import openvino

    return openvino.Core()


def quantize_graph(path: Path, files: Sequence[Path], prepare: Callable[[Path], np.ndarray]) -> None:
    """Turn an OpenVINO graph into one that computes in int8 where its library finds that good; in place.

    Args:
        path: Its first file.
        files: Images by which ranges of values are measured.
        prepare: The graph's input for an image.
    """
    import nncf
    import openvino

    output = sys.stdout

    def look(file: Path) -> np.ndarray:
        with redirect_stdout(output):  # for what the caller prints of the progress
            return prepare(file)

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the files are replaced
    with redirect_stdout(StringIO()):  # bars of its own
        quantized = nncf.quantize(
            core.read_model(path),
            nncf.Dataset(files, look),
            subset_size=len(files),
            # Processors without VNNI add products in 16 bits, which overflow where weights have the full range.
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )
    openvino.save_model(quantized, path, compress_to_fp16=False)
