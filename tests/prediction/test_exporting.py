"""Exported models find what their network finds, through the same commands; and what cannot be exported is refused."""

import ctypes
import json
import shutil
import sys
from functools import partial

import numpy as np
import pytest
import torch

from manymask.core.outputs import RECORD_NAME
from manymask.errors import CheckpointError, DatasetError, ManymaskError, PlanError
from manymask.evaluation import evaluate
from manymask.formats import write_class_folder
from manymask.modeling.build import build_model
from manymask.modeling.catalogue import EXPORT_FILE, find_model
from manymask.prediction import Model, export, exporting, load_model, predict, predict_files
from manymask.prediction.detectors import GraphDetector
from manymask.prediction.runtimes import GRAPHS
from manymask.synthetic import make_categories, make_sample
from manymask.training import train
from tests.tiny_model import CATEGORIES, write_tiny_model

ENGINES = ("onnx", "openvino")

# Random weights find more than the small cap lets through.
pytestmark = pytest.mark.filterwarnings("default:.*the cap of 12 detections:UserWarning:manymask")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("run") / "best.ckpt")


@pytest.fixture(scope="module")
def folders(checkpoint, tmp_path_factory):
    """An export to each engine."""
    root = tmp_path_factory.mktemp("exported")
    return {engine: export(checkpoint, root / engine, to=engine) for engine in ENGINES}


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    for index, size in enumerate([(40, 60), (70, 50)]):
        write_class_folder(folder, f"{index}", *make_sample(index, size=size, num_instances=6), make_categories(2))
    return folder


def copy_graph(folders, module, example, engine, path):
    """Stands for ``write_graph``: takes the graph from an earlier export."""
    for file in folders[engine].glob(f"{path.stem}.*"):
        shutil.copy(file, path.parent)


def find_all(model: Model, cells, **settings):
    return list(predict(model, cells, min_score=0.0, **settings))


def assert_alike(expected, found):
    for first, second in zip(expected, found, strict=True):
        assert len(first) == len(second) > 0
        np.testing.assert_allclose(first.scores, second.scores, atol=1e-4)
        np.testing.assert_allclose(first.boxes, second.boxes, atol=0.01)
        np.testing.assert_array_equal(first.labels, second.labels)
        assert (first.to_masks() != second.to_masks()).mean() < 1e-3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", [{}, {"scale": 2.5}, {"nms": 0.2, "suppression": "mask"}], ids=str)
def test_finds_what_the_network_finds(folders, checkpoint, cells, engine, settings):
    settings = settings | {"precision": "fp32"}  # in bf16 each library rounds in its own way
    exported, trained = (load_model(source, settings=settings) for source in (folders[engine], checkpoint))
    assert isinstance(exported.detector, GraphDetector)
    assert exported.categories == trained.categories == CATEGORIES
    assert exported.source == folders[engine] / EXPORT_FILE
    assert_alike(find_all(trained, cells), find_all(exported, cells))


@pytest.mark.parametrize("engine", ENGINES)
def test_two_box_stages(folders, cells, tmp_path, monkeypatch, engine):
    """The other graphs are those of one stage."""
    write_graph = exporting.write_graph

    def write_box_heads(module, example, engine, path):
        is_box_head = path.stem.startswith("box_head")
        (write_graph if is_box_head else partial(copy_graph, folders))(module, example, engine, path)

    monkeypatch.setattr(exporting, "write_graph", write_box_heads)
    checkpoint = write_tiny_model(tmp_path / "best.ckpt", box_stages=2)
    content = torch.load(checkpoint)
    content["state_dict"]["network.roi_heads.second.box_predictor.cls_score.weight"] *= 20  # so that both differ
    torch.save(content, checkpoint)
    folder = export(checkpoint, tmp_path / "exported", to=engine)
    assert len(list(folder.glob("box_head_2.*"))) == len(list(folder.glob("mask_head.*")))
    assert_alike(*(find_all(load_model(each, settings={"precision": "fp32"}), cells) for each in (checkpoint, folder)))


@pytest.mark.parametrize("engine", ENGINES)
def test_several_images_and_none_found(folders, engine):
    """A batch of images of several sizes, and a score that nothing has: no library runs a graph on no boxes."""
    model = load_model(folders[engine], settings={"min_score": 0.999})
    found = model.detector([torch.zeros(3, 40, 60), torch.ones(3, 33, 20)])
    assert [len(detections.boxes) for detections in found] == [0, 0]
    assert found[0].mask_probabilities.shape == (0, 28, 28)


@pytest.mark.parametrize("engine", ENGINES)
def test_files_and_scores(folders, checkpoint, cells, tmp_path, engine):
    written = predict_files(folders[engine], cells, tmp_path / "out")
    names = {path.name for path in written} - {"overlaps"}  # where objects overlap
    assert names == {"labels", "overlays", "predictions.json", "images.json"}
    settings = {"precision": "fp32"}
    scores = [evaluate(source, cells, draws=0, settings=settings) for source in (folders[engine], checkpoint)]
    assert scores[0].num_predictions == scores[1].num_predictions > 0


def test_models_that_come_and_go_leave_the_stack_of_signals(folders):
    """Each OpenVINO ``Core`` brings one, which signals to Python would use after its memory is given back."""
    kept = load_model(folders["openvino"])
    stack = find_signal_stack()
    for _ in range(3):
        kept, earlier = load_model(folders["openvino"]), kept
        del earlier
        assert find_signal_stack() == stack


def find_signal_stack() -> int:
    class Stack(ctypes.Structure):
        _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.pointer


def test_folder_says_what_it_is(folders):
    own = json.loads((folders["onnx"] / EXPORT_FILE).read_text())
    assert (own["engine"], own["int8"], own["card"], own["is_epoch_chosen"]) == ("onnx", None, None, True)
    assert load_model(folders["onnx"]).is_epoch_chosen
    assert own["manymask"]["plan"]["device"] == own["manymask"]["plan"]["precision"] == "auto"
    assert sorted(path.name for path in folders["onnx"].iterdir()) == sorted(
        [RECORD_NAME, EXPORT_FILE, "trunk.onnx", "box_head.onnx", "mask_head.onnx"]
    )


def test_chosen_threshold_and_settings_are_kept(written, tmp_path):
    path = write_tiny_model(tmp_path / "a.ckpt", score_threshold="auto")
    content = torch.load(path)
    content["manymask"]["score_threshold"] = 0.4
    torch.save(content, path)
    export(path, tmp_path / "exported", to="onnx", settings={"scale": 2})
    own = json.loads((tmp_path / "exported" / EXPORT_FILE).read_text())["manymask"]
    assert (own["plan"]["score_threshold"], own["score_threshold"], own["plan"]["scale"]) == ("auto", 0.4, 2)


@pytest.fixture
def written(folders, monkeypatch):
    """Exports take their graphs from an earlier one, in no time."""
    monkeypatch.setattr(exporting, "write_graph", partial(copy_graph, folders))


def test_int8(checkpoint, cells, written, tmp_path, caplog):
    folder = export(checkpoint, tmp_path / "int8", int8=True, calibrate=cells)
    assert json.loads((folder / EXPORT_FILE).read_text())["int8"] == {"calibration_images": 2}
    assert "with int8 they differ by: trunk" in caplog.text
    image = np.full((3, 40, 60), 0.5, dtype=np.float32)
    exact, rounded = (load_model(source).detector([torch.from_numpy(image)])[0] for source in (checkpoint, folder))
    assert abs(len(exact.boxes) - len(rounded.boxes)) <= 4
    assert not torch.equal(exact.scores[:4], rounded.scores[:4])  # it was done in fewer digits
    torch.testing.assert_close(exact.scores[:4], rounded.scores[:4], atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"to": "tensorrt"}, PlanError, "no engine 'tensorrt' to export to; there are: onnx, openvino"),
        ({"int8": True}, PlanError, "int8 needs images .* --calibrate IMAGES"),
        ({"calibrate": "images"}, PlanError, "act with int8 only"),
        ({"to": "onnx", "int8": True, "calibrate": "images"}, PlanError, "int8 is for OpenVINO, not for onnx"),
        ({"int8": True, "calibrate": "images"}, DatasetError, "images holds no images"),
        ({"settings": {"epochs": 3}}, PlanError, "epochs is fixed by training"),
        ({"settings": {"device": "cuda"}}, PlanError, "run on the CPU only; leave device out"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_refuses_before_any_work(checkpoint, tmp_path, monkeypatch, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(error, match=message):
        export(checkpoint, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_library_that_is_not_installed(checkpoint, folders, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for call in (lambda: export(checkpoint, tmp_path / "out", to="onnx"), lambda: load_model(folders["onnx"])):
        with pytest.raises(ManymaskError, match=r"onnxruntime is not installed.*pip install 'manymask\[onnx\]'"):
            call()


def test_an_exported_model_is_no_start(folders, cells, tmp_path):
    refused = "is an exported model, from whose graphs nothing can be trained"
    with pytest.raises(CheckpointError, match=refused):
        train(cells, output=tmp_path / "run", settings={"weights": str(folders["onnx"])})
    with pytest.raises(CheckpointError, match=refused):
        build_model(3, {"weights": str(folders["onnx"])})
    with pytest.raises(PlanError, match="is exported already"):
        export(folders["onnx"], tmp_path / "again")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"device": "cuda"}, "runs on the CPU only"), ({"precision": "bf16"}, "ONNX Runtime computes in fp32")],
)
def test_settings_that_graphs_cannot_follow(folders, settings, message):
    device = settings.pop("device", "auto")
    with pytest.raises(PlanError, match=message):
        load_model(folders["onnx"], device, settings=settings)


@pytest.mark.parametrize("engine", ENGINES)
def test_damaged_files(folders, tmp_path, engine):
    folder = shutil.copytree(folders[engine], tmp_path / engine)
    graph = next(folder.glob("box_head.[ox]*"))
    graph.write_bytes(graph.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=rf"{graph.name} is missing, cut short or damaged"):
        load_model(folder)
    own = json.loads((folder / EXPORT_FILE).read_text())
    for damage in ({"format": 0}, own | {"engine": "tensorrt"}, own | {"manymask": {}}):
        (folder / EXPORT_FILE).write_text(json.dumps(damage))
        with pytest.raises(CheckpointError, match="export the model anew"):
            load_model(folder)
    (folder / EXPORT_FILE).unlink()
    with pytest.raises(CheckpointError, match=rf"a folder without best\.ckpt, last\.ckpt and {EXPORT_FILE}"):
        load_model(folder)


def test_a_killed_export_leaves_no_model(checkpoint, folders, written, tmp_path, monkeypatch):
    folder = shutil.copytree(folders["onnx"], tmp_path / "onnx")

    def kill(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "copy_file", kill)
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, folder, to="onnx")
    assert not (folder / EXPORT_FILE).exists()


def test_other_files_are_not_written_over(checkpoint, tmp_path):
    (tmp_path / EXPORT_FILE).write_text("mine")
    with pytest.raises(PlanError, match=r"model\.json is not as manymask export wrote it"):
        export(checkpoint, tmp_path, to="onnx")


def test_a_run_stays_the_model_of_its_folder(checkpoint):
    with pytest.raises(PlanError, match=r"holds best\.ckpt, which would be taken for the model"):
        export(checkpoint, checkpoint.parent, to="onnx")


def test_its_file_stands_for_it_and_others_of_the_name_do_not(folders, tmp_path):
    assert find_model(folders["openvino"] / EXPORT_FILE) == find_model(folders["openvino"])
    (tmp_path / EXPORT_FILE).write_text("{}")
    assert find_model(tmp_path) is None


def test_layers_that_cannot_be_exported(checkpoint, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such layer\nand more")

    monkeypatch.setattr(exporting, "write_graph", fail)
    with pytest.raises(ManymaskError, match=r"trunk of .* cannot be exported to onnx \(no such layer\);.* to openvino"):
        export(checkpoint, tmp_path / "out", to="onnx")


@pytest.mark.parametrize(("factor", "told"), [(1.01, "1\\.0e-02"), (np.nan, "nan")])
def test_graphs_that_compute_something_else(checkpoint, folders, written, tmp_path, monkeypatch, factor, told):
    graphs = exporting.open_graphs(folders["openvino"], "openvino", GRAPHS[:3], "fp32")
    spoilt = graphs | {"mask_head": lambda values: [factor * output for output in graphs["mask_head"](values)]}
    monkeypatch.setattr(exporting, "open_graphs", lambda *_: spoilt)
    with pytest.raises(ManymaskError, match=rf"do not compute what its network does .* mask_head {told}"):
        export(checkpoint, tmp_path / "out", to="openvino")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": "maskrcnn_resnet50_fpn_v2", "backbone": None},
        {"architecture": "maskrcnn_resnet50_fpn", "backbone": None},
        {"architecture": "maskrcnn_compact", "backbone": None},
        {"backbone": "convnext_atto"},
    ],
    ids=lambda settings: str(list(settings.values())),
)
def test_architectures(tmp_path, cells, engine, settings):
    checkpoint = write_tiny_model(tmp_path / "a.ckpt", **settings)
    folder = export(checkpoint, tmp_path / "exported", to=engine)
    assert_alike(find_all(load_model(checkpoint), cells), find_all(load_model(folder), cells))
