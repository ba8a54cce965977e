import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.detection import (
    MaskRCNN_ResNet50_FPN_V2_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision.ops.misc import FrozenBatchNorm2d

from manymask.core import InstanceLayers
from manymask.errors import CheckpointError, PlanError
from manymask.modeling import backbones
from manymask.modeling import weights as weights_module
from manymask.modeling.build import build_model
from manymask.modeling.checkpoint import CHECKPOINT_KEY, NETWORK_PREFIX, write_checkpoint
from manymask.modeling.weights import CLASS_PARTS

V1, V2 = "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"
BUILDERS = {V1: maskrcnn_resnet50_fpn, V2: maskrcnn_resnet50_fpn_v2}
COCO = {V1: MaskRCNN_ResNet50_FPN_Weights.COCO_V1, V2: MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1}
IMAGENET = ResNet50_Weights.IMAGENET1K_V1
SMALL = {"architecture": "maskrcnn_fpn", "backbone": "test_resnet", "detections_per_image": 20, "min_size": 0}
# Keys that torchvision's file of 2019 has and its modules of today rename.
OLD_NAMES = {"rpn.head.conv.0.0.": "rpn.head.conv."}
OLD_NAMES |= {f"roi_heads.mask_head.{i}.0.": f"roi_heads.mask_head.mask_fcn{i + 1}." for i in range(4)}
OLD_NAMES |= {
    f"backbone.fpn.{b}_blocks.{i}.0.": f"backbone.fpn.{b}_blocks.{i}." for b in ("inner", "layer") for i in range(4)
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch's, and no way to the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def put_in_cache(cache, weights, state):
    torch.save(state, cache / weights.url.rpartition("/")[2])


def build_theirs(architecture, **settings):
    return BUILDERS[architecture](**{"weights": None, "weights_backbone": None, **settings})


def list_trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def assert_loaded(model, state, but=()):
    for name, value in model.state_dict().items():
        if not name.startswith(but):
            assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("architecture", [V1, V2])
def test_keys_are_torchvisions(architecture):
    ours = build_model(3, settings={"architecture": architecture, "weights": "none"}).state_dict()
    theirs = build_theirs(architecture, num_classes=3).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


@pytest.mark.parametrize("architecture", [V1, V2])
@pytest.mark.parametrize("num_classes", [5, 91])
def test_coco_weights(cache, architecture, num_classes):
    state = build_theirs(architecture, num_classes=91).state_dict()
    state = {name: value + 0.125 if value.is_floating_point() else value for name, value in state.items()}
    put_in_cache(cache, COCO[architecture], state)
    model = build_model(num_classes, settings={"architecture": architecture})
    assert_loaded(model, state, but=CLASS_PARTS if num_classes == 5 else ())
    assert model.roi_heads.box_predictor.cls_score.out_features == num_classes
    assert model.roi_heads.mask_predictor.mask_fcn_logits.out_channels == num_classes


def test_coco_weights_with_the_names_of_2019(cache):
    state = build_theirs(V1, num_classes=91).state_dict()
    renamed = {}
    for name, value in state.items():
        new = next((new for new in OLD_NAMES if name.startswith(new)), None)
        if not name.endswith("num_batches_tracked"):
            renamed[name.replace(new, OLD_NAMES[new]) if new else name] = value
    assert "roi_heads.mask_head.mask_fcn4.bias" in renamed
    put_in_cache(cache, COCO[V1], renamed)
    assert_loaded(build_model(3, settings={"architecture": V1}), state, but=CLASS_PARTS)


def test_norm_layers_are_those_of_torchvision(cache):
    put_in_cache(cache, COCO[V1], build_theirs(V1, num_classes=91).state_dict())
    frozen = [m for m in build_model(3, settings={"architecture": V1}).modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(frozen) == 53
    assert {module.eps for module in frozen} == {0.0}
    random = build_model(3, settings={"architecture": V1, "weights": "none"})
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in random.modules())


@pytest.mark.parametrize("architecture", [V1, V2])
def test_imagenet_weights(cache, architecture):
    state = resnet50().state_dict()
    put_in_cache(cache, IMAGENET, state)
    model = build_model(3, settings={"architecture": architecture, "weights": "imagenet"})
    assert_loaded(model.backbone.body, state)


@pytest.mark.parametrize(
    ("architecture", "stages"), [(V1, 0), (V1, 3), (V1, 5), *((V2, stages) for stages in range(6))]
)
def test_trainable_stages(cache, architecture, stages):
    put_in_cache(cache, IMAGENET, resnet50().state_dict())
    settings = {"weights_backbone": IMAGENET, "trainable_backbone_layers": stages, "num_classes": 3}
    expected = list_trained(build_theirs(architecture, **settings))
    assert (
        list_trained(
            build_model(3, settings={"architecture": architecture, "weights": "imagenet", "trainable_stages": stages})
        )
        == expected
    )


def test_random_weights_are_all_trained():
    model = build_model(3, settings={"architecture": V2, "weights": "none", "trainable_stages": 0})
    assert list_trained(model) == {name for name, _ in model.named_parameters()}


class TestDownloads:
    @pytest.mark.parametrize("settings", [{"weights": "coco"}, {"weights": "imagenet"}])
    def test_no_network(self, cache, settings):
        with pytest.raises(CheckpointError, match=r"cannot download https://.*set weights=FILE, or set weights=none"):
            build_model(3, settings=settings)

    def test_damaged_cache(self, cache):
        (cache / COCO[V2].url.rpartition("/")[2]).write_bytes(b"cut")
        with pytest.raises(CheckpointError, match=r"cannot download https://.*\.pth \("):
            build_model(3)

    def test_timm_offline(self, monkeypatch, cache):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match=r"cannot download timm's weights of test_resnet \(.*weights=none"):
            build_model(3, settings={**SMALL, "weights": "imagenet"})


@pytest.fixture(scope="module")
def state():
    return build_model(4, settings={**SMALL, "weights": "none"}).state_dict()


class TestWeightsFile:
    def build(self, path, num_classes=4, **settings):
        return build_model(num_classes, settings={**SMALL, **settings, "weights": str(path)})

    def test_torch(self, tmp_path, state):
        torch.save(state, tmp_path / "a.pth")
        assert_loaded(self.build(tmp_path / "a.pth"), state)

    def test_safetensors(self, tmp_path, state):
        save_file(dict(state), tmp_path / "a.safetensors")
        assert_loaded(self.build(tmp_path / "a.safetensors"), state)

    def test_checkpoint(self, tmp_path, state):
        content = {NETWORK_PREFIX + name: value for name, value in state.items()}
        write_checkpoint({CHECKPOINT_KEY: {}, "state_dict": content}, tmp_path / "last.ckpt")
        assert_loaded(self.build(tmp_path / "last.ckpt"), state)

    def test_other_classes(self, tmp_path, state):
        torch.save(state, tmp_path / "a.pth")
        assert_loaded(self.build(tmp_path / "a.pth", num_classes=2), state, but=CLASS_PARTS)

    def test_other_architecture(self, tmp_path, state):
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=r"a\.pth does not fit the architecture: \d+ of its parts") as caught:
            self.build(tmp_path / "a.pth", backbone="resnet18")
        assert "\n" not in str(caught.value)

    def test_part_missing(self, tmp_path, state):
        cut = {name: value for name, value in state.items() if name != "rpn.head.cls_logits.bias"}
        torch.save(cut, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=r"1 of its parts are .*, rpn\.head\.cls_logits\.bias first"):
            self.build(tmp_path / "a.pth")

    def test_no_file(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"none\.pth, but there is no such file"):
            self.build(tmp_path / "none.pth")


class TestTimm:
    @pytest.mark.parametrize(
        "name", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "test_convnext", "swin_tiny_patch4_window7_224"]
    )
    def test_feature_maps(self, name):
        """Convolutions and windowed attention, for any image size."""
        backbone = build_model(2, settings={**SMALL, "backbone": name, "weights": "none"}).backbone
        with torch.no_grad():
            maps = backbone(torch.rand(2, 3, 96, 160))
        sizes = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
        assert [(key, tuple(m.shape)) for key, m in maps.items()] == [
            (key, (2, 256, *size)) for key, size in zip(["0", "1", "2", "3", "pool"], sizes, strict=True)
        ]

    def test_name_with_a_tag(self):
        assert build_model(2, settings={**SMALL, "backbone": "resnet18.a1_in1k", "weights": "none"})

    @pytest.mark.parametrize("name", ["test_vit", "test_maxvit", "hiera_tiny_224"])
    def test_models_that_do_not_fit(self, name):
        with pytest.raises(PlanError, match=f"backbone '{name}' does not give feature maps .*choose one") as caught:
            build_model(2, settings={**SMALL, "backbone": name, "weights": "none"})
        assert "\n" not in str(caught.value)

    def test_unknown_name(self):
        with pytest.raises(PlanError, match=r"no model 'resnet19' .*did you mean .*resnet18"):
            build_model(2, settings={**SMALL, "backbone": "resnet19", "weights": "none"})
        with pytest.raises(PlanError, match="list_models"):
            build_model(2, settings={**SMALL, "backbone": "?", "weights": "none"})

    @pytest.mark.parametrize(
        ("stages", "frozen"),
        [
            (0, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
            (1, {"conv1", "bn1", "layer1", "layer2", "layer3"}),
            (3, {"conv1", "bn1", "layer1"}),
            (4, {"conv1", "bn1"}),
            (5, set()),
        ],
    )
    def test_trainable_stages(self, tmp_path, stages, frozen):
        settings = {**SMALL, "backbone": "resnet18"}
        torch.save(build_model(2, settings={**settings, "weights": "none"}).state_dict(), tmp_path / "a.pth")
        model = build_model(2, settings={**settings, "weights": str(tmp_path / "a.pth"), "trainable_stages": stages})
        assert {n.split(".")[0] for n, p in model.backbone.body.named_parameters() if not p.requires_grad} == frozen
        assert all(parameter.requires_grad for parameter in model.backbone.fpn.parameters())

    @pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_convnext", "test_efficientnet"])
    def test_each_stage_is_more(self, name):
        backbone = build_model(2, settings={**SMALL, "backbone": name, "weights": "none"}).backbone
        numbers = []
        for stages in (5, 4, 3, 2, 1, 0):
            backbone.freeze(stages)
            numbers.append(len(list_trained(backbone.body)))
        assert numbers[0] == len(list(backbone.body.parameters()))
        assert numbers[1:] == sorted(set(numbers[1:]), reverse=True)
        assert numbers[-1] == 0


COMPACT = {
    "architecture": "maskrcnn_compact", "weights": "none", "detections_per_image": 20, "min_size": 0,
    "anchor_sizes": (8, 16, 32, 64, 128),
}  # fmt: skip


class TestCompact:
    def test_levels(self):
        model = build_model(3, settings=COMPACT)
        maps = model.backbone(torch.zeros(1, 3, 64, 96))
        sizes = [tuple(level.shape[1:]) for level in maps.values()]
        assert sizes == [(96, 32, 48), (96, 16, 24), (96, 8, 12), (96, 4, 6), (96, 2, 3)]
        for pooler in (model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool):
            assert pooler.scales == [1 / 2, 1 / 4, 1 / 8, 1 / 16]

    @pytest.mark.parametrize(
        ("side", "level"), [(4, 0), (14, 0), (27, 0), (29, 1), (55, 1), (57, 2), (113, 3), (500, 3)]
    )
    def test_boxes_are_pooled_where_they_are_7_to_14_cells(self, side, level):
        pooler = build_model(3, settings=COMPACT).roi_heads.mask_roi_pool
        assert pooler.map_levels([torch.tensor([[0.0, 0, side, side]])]).tolist() == [level]

    def test_small_and_of_as_many_classes_as_asked(self):
        model = build_model(5, settings=COMPACT)
        assert sum(parameter.numel() for parameter in model.parameters()) < 12e6
        assert model.roi_heads.box_predictor.cls_score.out_features == 5
        assert model.roi_heads.mask_predictor.mask_fcn_logits.out_channels == 5

    @pytest.mark.parametrize(
        "own", [{}, {"backbone": "test_resnet"}, {"convolutions": "separable"}], ids=lambda own: str([*own.values()])
    )
    def test_trains_and_predicts(self, own):
        torch.manual_seed(0)
        model = build_model(2, settings={**COMPACT, **own})
        layers = torch.zeros(1, 64, 64, dtype=torch.int32)
        layers[0, 10:30, 20:40] = 1
        target = {
            "boxes": torch.tensor([[20.0, 10, 40, 30]]), "labels": torch.ones(1, dtype=torch.int64),
            "layers": InstanceLayers(layers),
        }  # fmt: skip
        losses = model([torch.rand(3, 64, 64)] * 2, [target] * 2)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        (found,) = model.eval()([torch.rand(3, 50, 70)])
        assert found.mask_probabilities.shape[1:] == (28, 28)
        assert len(found.boxes) <= 20

    def test_separable_convolutions_multiply_less(self):
        products = []
        for convolutions in ("full", "separable"):
            model = build_model(2, settings={**COMPACT, "convolutions": convolutions}).eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model.rpn.head(list(model.backbone(torch.zeros(1, 3, 256, 256)).values()))
            products.append(counter.get_total_flops())
        assert products[1] < 0.7 * products[0]

    @pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
    def test_timm_backbone(self, name):
        """Its levels have the strides that timm gives them, and the boxes' levels follow."""
        model = build_model(2, settings={**COMPACT, "backbone": name})
        maps = model.backbone(torch.zeros(1, 3, 64, 96))
        sizes = [tuple(level.shape[1:]) for level in maps.values()]
        assert sizes == [(96, 16, 24), (96, 8, 12), (96, 4, 6), (96, 2, 3), (96, 1, 2)]
        assert model.roi_heads.mask_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]

    def test_imagenet_weights_are_the_backbone_s(self, monkeypatch):
        made = []

        def create(name, *, is_pretrained=False):
            made.append((name, is_pretrained))
            body = timm.create_model(name, features_only=True)
            if is_pretrained:
                body.load_state_dict({n: torch.full_like(v, 0.5) for n, v in body.state_dict().items()})
            return body

        for module in (backbones, weights_module):
            monkeypatch.setattr(module, "create_timm_body", create)
        model = build_model(2, settings={**COMPACT, "weights": "imagenet", "backbone": "test_resnet"})
        assert made == [("test_resnet", False), ("test_resnet", True)]
        assert all((value == 0.5).all() for value in model.backbone.body.parameters())

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ("coco", "no COCO weights of maskrcnn_compact; set weights to imagenet, none or a file"),
            ("imagenet", "no ImageNet weights of maskrcnn_compact's own body; set backbone=<timm name>"),
        ],
    )
    def test_weights_that_it_has_not(self, weights, message):
        with pytest.raises(PlanError) as caught:
            build_model(2, settings={**COMPACT, "weights": weights})
        assert str(caught.value) == f"in the settings, there are {message}"

    def test_trainable_stages(self):
        backbone = build_model(2, settings=COMPACT).backbone
        backbone.freeze(3)
        frozen = {n.split(".")[0] for n, p in backbone.body.named_parameters() if not p.requires_grad}
        assert frozen == {"conv1", "bn1", "layer1"}


def test_number_of_classes():
    with pytest.raises(PlanError, match="num_classes is 1, expected at least 2"):
        build_model(1)
