"""Write a trained model as graphs that ONNX Runtime or OpenVINO runs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from manymask import __version__
from manymask.core.files import copy_file
from manymask.core.json_files import write_json
from manymask.core.outputs import check_outputs, record_outputs
from manymask.core.progress import Progress
from manymask.errors import ManymaskError, PlanError
from manymask.imaging import find_images, read_pixels
from manymask.imaging.normalization import Normalization, normalize_pixels
from manymask.modeling.backbones import first_line
from manymask.modeling.catalogue import EXPORT_FILE, find_model, read_cards
from manymask.modeling.checkpoint import CHECKPOINT_KEY, EXPORT_FORMAT
from manymask.modeling.network import LARGEST_STRIDE, MaskRCNN
from manymask.plan import change_plan
from manymask.prediction.detectors import TorchDetector, split_network
from manymask.prediction.model import Model, load_model
from manymask.prediction.runtimes import (
    SECOND_BOX_HEAD,
    SUFFIXES,
    check_engine,
    has_vnni,
    list_files,
    open_graphs,
    quantize_graph,
    to_array,
    write_graph,
)
from manymask.prediction.views import list_views
from manymask.synthetic import make_sample

logger = logging.getLogger(__name__)

CALIBRATION_IMAGES = 50
"""Images that are looked at, at most, to measure ranges for int8."""
# Of the largest value of an output: what rounding in another order explains, a wrong graph does not.
TOLERANCE = 1e-3


def export(
    source: str | Path,
    output: str | Path = "exported",
    *,
    to: str = "openvino",
    int8: bool = False,
    calibrate: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a trained model as a folder that ``load_model``, ``predict`` and ``evaluate`` take like a run.

    The layers become graphs (``prediction.detectors.split_network``); what joins them stays this package's code. They
    are compared with the network on a drawn image before anything is written.

    Args:
        source: A run folder, a checkpoint, or a shipped model's name.
        output: The folder to write.
        to: The library that runs it, ``onnx`` (ONNX Runtime) or ``openvino``.
        int8: Whether OpenVINO computes in 8 bits, which takes less time and changes scores a little.
        calibrate: Images such as those to be predicted, by which ranges of values are measured for ``int8``; of many,
            50 are taken.
        settings: Other values, by name, for settings that act at prediction; the folder keeps them, but for
            ``precision``, which the engine chooses.
        progress: Called with the number of steps done, their number, and what is being done.

    Returns:
        The folder.

    Raises:
        ManymaskError: The library is not installed, or the network cannot be a graph.
        PlanError: There is no such library, ``int8`` and ``calibrate`` do not fit, or files are in the way.
        DatasetError: There are no images to calibrate with.
    """
    output = Path(output)
    check_engine(to, int8=int8)
    images = _find_calibration(to, int8, calibrate)
    names = [*list_files(to), EXPORT_FILE]
    check_outputs(output, "export", names)
    if (found := find_model(source)) is not None and found.file.name == EXPORT_FILE:
        raise PlanError(f"{source} is exported already; give the run or the checkpoint that it was made from")
    kept = find_model(output)
    if kept is not None and kept.file.parent == output and kept.file.name != EXPORT_FILE:
        raise PlanError(f"{output} holds {kept.file.name}, which would be taken for the model; give another output")
    if "device" in (settings or {}):
        raise PlanError("exported models run on the CPU only; leave device out")
    model = load_model(source, "cpu", settings)
    network = _get_network(model)
    parts = split_network(network)
    steps = _Steps(progress, len(parts) * (1 + len(images)))
    if int8 and not has_vnni():
        logger.info("this processor has no VNNI instructions, without which int8 gains less")
    with TemporaryDirectory() as scratch, torch.no_grad():
        folder = Path(scratch)
        inputs = _make_inputs(network, _draw_image(model))
        for name, part in parts.items():
            steps.tell(f"exporting {name}")
            _write_part(part, inputs[name], to, folder / name, str(source))
        differences = _compare(parts, inputs, to, folder)
        if not all(difference <= TOLERANCE for difference in differences.values()):  # so that NaN is refused too
            raise ManymaskError(
                f"the graphs of {source} do not compute what its network does ({_list_values(differences)} of the "
                f"largest value differ); predict with {source} itself, or export it {_name_other(to)}"
            )
        logger.info(
            "on a drawn image the graphs differ from PyTorch by at most this part of the largest value: "
            f"{_list_values(differences)}"
        )
        if int8:
            _quantize(model, folder, images, steps)
            differences = _compare(parts, inputs, to, folder)
            logger.info(f"with int8 they differ by: {_list_values(differences)}")
        own = {
            "format": EXPORT_FORMAT,
            "engine": to,
            "version": __version__,
            "int8": {"calibration_images": len(images)} if int8 else None,
            "card": read_cards()[str(source)].model_dump() if found is not None and found.is_shipped else None,
            "is_epoch_chosen": model.is_epoch_chosen,
            CHECKPOINT_KEY: _describe_model(model),
        }
        with record_outputs(output, "export", names):
            for name in list_files(to, parts):
                copy_file(folder / name, output / name)
            write_json(output / EXPORT_FILE, own)  # last: without it the folder is no model
    steps.tell("exported")
    return output


class _Steps:
    """Counts what is done."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def tell(self, what: str) -> None:
        """Say what is being done now."""
        if self.progress is not None:
            self.progress(self.done, self.total, what)
        self.done += 1


def _find_calibration(engine: str, int8: bool, calibrate: str | Path | None) -> list[Path]:
    """The images to calibrate with, evenly from all of a folder; none without int8."""
    if not int8:
        if calibrate is not None:
            raise PlanError("images to calibrate with act with int8 only; set int8 too, or leave them out")
        return []
    if engine != "openvino":
        raise PlanError(f"int8 is for OpenVINO, not for {engine}; export to openvino")
    if calibrate is None:
        raise PlanError("int8 needs images such as those to be predicted; name their folder: --calibrate IMAGES")
    files = [path for _, path in find_images(Path(calibrate))]
    return files[:: -(-len(files) // CALIBRATION_IMAGES)]


def _get_network(model: Model) -> MaskRCNN:
    assert isinstance(model.detector, TorchDetector)
    return model.detector.network


def _draw_image(model: Model) -> Tensor:
    """What the network works on, of an image of drawn cells; its sides differ, so that no graph can mix them up."""
    pixels, _ = make_sample(0, size=(160, 224), num_instances=40)
    pixels = pixels[..., np.arange(model.plan.in_channels) % 3]
    normalization = replace(Normalization.of(model.plan), channels=tuple(range(1, model.plan.in_channels + 1)))
    return _take_view(model, normalize_pixels(pixels, "a drawn image", normalization))


def _take_view(model: Model, image: Float32[Tensor, "channels height width"]) -> Tensor:
    (view,) = list_views((image.shape[-2], image.shape[-1]), model.preprocessing)
    return view.take(image)


def _write_part(part: nn.Module, values: Tensor, engine: str, path: Path, source: str) -> None:
    # Sizes other than 1, and of images not equal, so that nothing is taken for fixed or for the same.
    shape = (values.shape[1], 3 * LARGEST_STRIDE, 4 * LARGEST_STRIDE) if path.name == "trunk" else values.shape[1:]
    try:
        write_graph(part, torch.zeros(2, *shape), engine, path.with_suffix(SUFFIXES[engine][0]))
    except MemoryError:
        raise
    except Exception as error:  # of layers that they do not know the libraries raise about anything
        raise ManymaskError(
            f"{path.name} of {source} cannot be exported to {engine} ({first_line(error)}); predict with {source} "
            f"itself, or export it {_name_other(engine)}"
        ) from error


def _name_other(engine: str) -> str:
    return " or ".join(f"to {other}" for other in SUFFIXES if other != engine)


def _compare(
    parts: Mapping[str, nn.Module], inputs: Mapping[str, Tensor], engine: str, folder: Path
) -> dict[str, float]:
    """For each graph the largest difference to its part, as a fraction of the part's largest value."""
    graphs, differences = open_graphs(folder, engine, parts, "fp32"), {}
    for name, part in parts.items():
        outputs = part(inputs[name])
        pairs = zip(
            outputs if isinstance(outputs, tuple) else [outputs], graphs[name](to_array(inputs[name])), strict=True
        )
        differences[name] = float(np.max([np.abs(a.numpy() - b).max() / max(a.abs().max(), 1e-9) for a, b in pairs]))
    return differences


def _list_values(differences: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in differences.items())


def _quantize(model: Model, folder: Path, files: Sequence[Path], steps: "_Steps") -> None:
    network, normalization = _get_network(model), Normalization.of(model.plan)

    def prepare(file: Path, name: str) -> np.ndarray:
        steps.tell("calibrating")
        image = _take_view(model, normalize_pixels(read_pixels(file), str(file), normalization))
        return to_array(_make_inputs(network, image)[name])

    for name in split_network(network):
        quantize_graph(folder / f"{name}.xml", files, partial(prepare, name=name))


def _describe_model(model: Model) -> dict[str, Any]:
    """What a checkpoint holds beside weights."""
    # Which device and which arithmetic the training had says nothing of the graphs.
    plan = change_plan(model.plan, {"device": "auto", "precision": "auto"})
    if not model.is_threshold_chosen:
        return {"plan": plan.model_dump(mode="json")}
    plan = change_plan(plan, {"score_threshold": "auto"})
    return {"plan": plan.model_dump(mode="json"), "score_threshold": model.plan.shown_score}


def _make_inputs(network: MaskRCNN, image: Tensor) -> dict[str, Tensor]:
    """What each part gets for an image, the heads for some of its proposals."""
    images, _ = network.transform([image])
    features = network.backbone(images.tensors)
    proposals, _ = network.rpn(images, features)
    chosen = [proposals[0][: 4 * LARGEST_STRIDE]]
    heads: Any = network.roi_heads
    pooled = heads.box_roi_pool(features, chosen, images.image_sizes)
    return {
        "trunk": images.tensors,
        "box_head": pooled,
        SECOND_BOX_HEAD: pooled,
        "mask_head": heads.mask_roi_pool(features, chosen, images.image_sizes),
    }
