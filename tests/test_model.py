"""Network, neighbors, head and checkpoints."""

import subprocess
import sys
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pipnet.errors import ModelError, RecipeError
from pipnet.geometry import CropConfig
from pipnet.metadata import ModelMetadata
from pipnet.model.backbones import Backbone
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint, start_from
from pipnet.model.config import ModelConfig
from pipnet.model.heads.base import Supervision
from pipnet.model.heads.pip import PipHead
from pipnet.model.neighbors import mean_face, merge_matrix, nearest_neighbors
from pipnet.model.pipnet import PIPNet
from pipnet.scheme import LandmarkScheme

SMALL = ModelConfig(backbone="lcnet_050", input_size=64)


def face(landmarks: int = 68, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 0.9, (landmarks, 2))


def described(config: ModelConfig, landmarks: np.ndarray) -> ModelMetadata:
    scheme = LandmarkScheme.load("300w")
    return ModelMetadata("small", scheme, CropConfig(), config.input_size, landmarks, vars(config))


@pytest.fixture(scope="module")
def small() -> PIPNet:
    torch.manual_seed(0)
    return PIPNet(SMALL, face()).eval()


# -- neighbors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("landmarks", [1, 2, 4, 5, 19])
def test_merge_matrix_of_any_number_of_neighbors(landmarks):
    for count in range(landmarks):
        nbr = nearest_neighbors(face(landmarks), count)
        assert nbr.shape == (landmarks, count)
        assert not (nbr == np.arange(landmarks)[:, None]).any()
        for merge in ("mean", "official"):
            np.testing.assert_allclose(merge_matrix(nbr, merge).sum(axis=1), 1)


@pytest.mark.parametrize("count", [-1, 5, 6])
def test_nearest_neighbors_refuses_too_many(count):
    with pytest.raises(RecipeError, match="choose 0 to 4 for 5 landmarks"):
        nearest_neighbors(face(5), count)


def test_nearest_neighbors_of_equal_points_exclude_the_point():
    nbr = nearest_neighbors(np.zeros((4, 2)), 3)
    assert not (nbr == np.arange(4)[:, None]).any()


def test_merge_matrix_mean_has_equal_weights():
    nbr = nearest_neighbors(face(19), 5)
    weights = merge_matrix(nbr, "mean")
    votes = np.bincount(nbr.ravel(), minlength=19)
    for n in range(19):
        np.testing.assert_allclose(weights[n][weights[n] > 0], 1 / (1 + votes[n]))


def test_mean_face_ignores_unknown_points():
    a, b = face(3, 1), face(3, 2)
    b[1] = np.nan
    np.testing.assert_allclose(mean_face([a, b])[1], a[1])


# -- head ----------------------------------------------------------------------------------------------


def random_points(head: PipHead, batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, head.landmarks, 2, generator=torch.Generator().manual_seed(1))


def with_identity(head: PipHead) -> PipHead:
    """Return the head with an identity as its convolution: the features are the maps."""
    channels = head.conv.out_channels
    head.conv = nn.Conv2d(channels, channels, 1)
    nn.init.dirac_(head.conv.weight)
    nn.init.zeros_(head.conv.bias)
    return head


def ideal_maps(head: PipHead, points: torch.Tensor) -> torch.Tensor:
    """Return maps that equal the targets, with 7 in all other cells of offsets."""
    targets = head.encode(points, torch.ones(points.shape[:2], dtype=torch.bool))
    b, n, c = targets.neighbor_offset.shape[:3]
    cells = head.grid**2
    at = targets.cell[..., None]
    score = torch.zeros(b, n, cells).scatter(2, at, 1.0)
    offset = torch.full((b, 2, n, cells), 7.0)
    offset.scatter_(3, at[:, None].expand(b, 2, n, 1), targets.offset.permute(0, 2, 1)[..., None])
    neighbor = torch.full((b, 2, n, c, cells), 7.0)
    where = at[:, None, :, None].expand(b, 2, n, c, 1)
    neighbor.scatter_(4, where, targets.neighbor_offset.permute(0, 3, 1, 2)[..., None])
    flat = [score, offset.flatten(1, 2), neighbor.flatten(1, 3)]
    return torch.cat(flat, dim=1).reshape(b, -1, head.grid, head.grid)


@pytest.mark.parametrize("grid", [1, 2, 8, 16])
@pytest.mark.parametrize("neighbors", [0, 1, 18])
@pytest.mark.parametrize("merge", ["mean", "official"])
def test_pip_head_decode_inverts_encode(grid, neighbors, merge):
    head = with_identity(PipHead(4, grid, face(19), neighbors, merge))
    points = random_points(head)
    output = head(ideal_maps(head, points))
    decoded = head.decode(output)
    torch.testing.assert_close(decoded.points, points, atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded.scores, torch.ones_like(decoded.scores))
    torch.testing.assert_close(decoded.vote_std, torch.zeros_like(decoded.vote_std), atol=1e-5, rtol=0)
    targets = head.encode(points, torch.ones(points.shape[:2], dtype=torch.bool))
    assert sum(head.loss(output, targets, Supervision.full(4, 19)).values()).item() < 1e-5


def test_pip_head_masks_unknown_points_and_points_outside():
    head = with_identity(PipHead(4, 8, face(19), 5))
    points = random_points(head, 1)
    points[0, 3] = torch.tensor([1.2, 0.5])
    points[0, 7] = torch.nan
    known = points.isfinite().all(dim=2)
    targets = head.encode(points, known)
    assert targets.valid[0].logical_not().nonzero().flatten().tolist() == [3, 7]
    votes_for_3 = targets.neighbor_valid[0][head.neighbors == 3]
    assert votes_for_3.any(), "a known point outside is still a target of its neighbors' votes"
    assert not targets.neighbor_valid[0][head.neighbors == 7].any()
    maps = ideal_maps(head, torch.where(known[..., None], points, 0)).requires_grad_()
    changed = maps.detach().clone()
    changed[:, [3, 7]] += 1.0  # the score maps of the masked points
    a = sum(head.loss(head(maps), targets, Supervision.full(1, 19)).values())
    b = sum(head.loss(head(changed), targets, Supervision.full(1, 19)).values()).detach()
    torch.testing.assert_close(a.detach(), b)
    assert torch.isfinite(a)


def test_pip_head_loss_without_valid_points_is_0():
    head = with_identity(PipHead(4, 8, face(5), 2))
    points = torch.full((2, 5, 2), torch.nan)
    maps = torch.randn(2, 35, 8, 8, requires_grad=True)
    targets = head.encode(points, points.isfinite().all(dim=2))
    loss = sum(head.loss(head(maps), targets, Supervision.full(2, 5)).values())
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(maps.grad).all()


@pytest.mark.parametrize(("grid", "weight"), [(16, 50), (8, 10), (4, 8), (2, 4)])
def test_pip_head_has_the_papers_score_weights(grid, weight):
    assert PipHead(4, grid, face(5), 2).score_weight == weight


# -- network -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [16, 32, 64, 128])
def test_network_supports_strides(stride):
    config = ModelConfig(backbone="lcnet_050", input_size=256, stride=stride, neighbors=3, neck_width=32)
    model = PIPNet(config, face(5)).eval()
    image = torch.zeros(2, 256, 256, 3, dtype=torch.uint8)
    assert model.head.conv(model.features(image)).shape == (2, 5 * 9, 256 // stride, 256 // stride)
    assert model.predict(image).points.shape == (2, 5, 2)


def test_predict_decodes_in_float32_under_autocast():
    """The merge of the votes is a matrix product, which autocast would compute in bf16."""
    torch.manual_seed(0)
    model = PIPNet(ModelConfig("lcnet_050", 64, neighbors=3), face(68)).eval()
    image = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        landmarks, output = model.predict(image), model(image)
    assert landmarks.points.dtype == torch.float32
    exact = output._replace(score=output.score.float(), features=output.features.float())
    torch.testing.assert_close(landmarks.points, model.head.decode(exact).points)


def test_backbone_dilated_has_finer_map():
    config = ModelConfig("mobilenetv2_100", 128, stride=16, backbone_stride=16)
    model = PIPNet(config, face(68)).eval()
    assert model(torch.zeros(1, 128, 128, 3, dtype=torch.uint8)).score.shape == (1, 68, 8, 8)
    assert len(model.neck) == 0
    assert model.backbone.state_dict().keys() == PIPNet(ModelConfig(), face(68)).backbone.state_dict().keys()
    with pytest.raises(RecipeError, match="coat_tiny.*has no feature map"):
        PIPNet(ModelConfig("coat_tiny", 64), face(68))
    with pytest.raises(RecipeError, match="lcnet_050.*cannot be dilated"):
        PIPNet(ModelConfig("lcnet_050", 64, stride=16, backbone_stride=16), face(68))


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [
        ("resnet18", 12.333),
        ("resnet101", 47.119),
        ("mobilenetv2_100", 5.111),
        ("mobilenetv3_large_100", 5.138),
    ],
)
def test_describe_counts_the_papers_parameters(backbone, millions):
    """N = 98, C = 10, as the papers count them."""
    model = PIPNet(ModelConfig(backbone=backbone), face(98))
    assert round(model.describe()["parameters"] / 1e6, 3) == millions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet19"}, "resnet1"),
        ({"input_size": 100}, "divisible by 32: 100, try 96"),
        ({"stride": 24}, "stride must be one of"),
        ({"neighbors": 68}, "choose 0 to 67"),
        ({"backbone": "vit_tiny_patch16_224"}, "not a map .* of stride 32"),
        ({"backbone": "lcnet_050", "last_width": 64}, "no last layer whose width can be set"),
        ({"backbone": "mobilenetv2_100", "last_width": 0}, "at least 1"),
    ],
)
def test_network_refuses_settings_out_of_range(settings, message):
    with pytest.raises((RecipeError, ModelError), match=message):
        PIPNet(ModelConfig(**{"backbone": "lcnet_050", **settings}), face())


def test_backbone_refuses_damaged_weights(tmp_path):
    for name, content in {"text": b"no weights" * 50, "empty": b""}.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="weights cannot be loaded") as error:
            PIPNet(SMALL, face(), pretrained=True, weights=path)
        assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="no such file"):
        PIPNet(SMALL, face(), pretrained=True, weights=tmp_path / "none.safetensors")


def test_backbone_offline_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ModelError, match="^backbone 'lcnet_050'.*put lcnet_050.safetensors into initial.folder$"
    ):
        Backbone("lcnet_050", pretrained=True)


@pytest.mark.slow
def test_backbone_offline_names_the_folder_by_the_settings_of_the_hub():
    """In a process of its own: the hub's client reads its settings when it is imported."""
    code = (
        "import os; os.environ.update(HF_HUB_OFFLINE='1', HF_HOME='/nonexistent')\n"
        "from pipnet.model.backbones import Backbone\n"
        "try: Backbone('lcnet_050', pretrained=True)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.startswith("ModelError backbone 'lcnet_050'"), run.stdout + run.stderr
    assert run.stdout.endswith("put lcnet_050.safetensors into initial.folder\n")


def test_network_normalizes_its_input(small):
    """An image of the backbone's mean color reaches it as zeros."""
    inputs = {}
    hook = small.backbone.register_forward_pre_hook(lambda _, args: inputs.update(image=args[0]))
    image = torch.tensor(small.backbone.mean).mul(255).round().to(torch.uint8).expand(1, 64, 64, 3)
    small(image)
    hook.remove()
    assert inputs["image"].abs().max() < 0.02


# -- checkpoints ---------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(small, tmp_path):
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, small, described(SMALL, small.mean_face))
    return path


def test_load_checkpoint_gives_the_same_model(small, checkpoint):
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    again, metadata = load_checkpoint(checkpoint)
    torch.testing.assert_close(again(image), small(image), atol=0, rtol=0)
    assert metadata.scheme.landmarks == 68
    np.testing.assert_array_equal(metadata.mean_face, small.mean_face)


def test_load_checkpoint_refuses_damaged_files(checkpoint, tmp_path):
    content = checkpoint.read_bytes()
    damaged = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "text": b"not a checkpoint" * 100,
        "without metadata": safetensors.torch.save({"a": torch.zeros(1)}),
        "other metadata": safetensors.torch.save({"a": torch.zeros(1)}, {"pipnet": "{}"}),
    }
    for damage, damaged_content in damaged.items():
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(damaged_content)
        with pytest.raises(ModelError, match=r"damaged\.safetensors") as error:
            load_checkpoint(path)
        assert "\n" not in str(error.value), damage
    with pytest.raises(ModelError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    "settings", [{"backbone": 5}, {"merge": "zzz"}, {"head": "zzz"}, {"neighbors": 99}, {"input_size": 31}]
)
def test_load_checkpoint_refuses_hostile_metadata(small, tmp_path, settings):
    path = tmp_path / "hostile.safetensors"
    metadata = described(SMALL, small.mean_face)
    save_checkpoint(path, small, replace(metadata, config={**metadata.config, **settings}))
    with pytest.raises(ModelError, match="disagree"):
        load_checkpoint(path)


def test_load_checkpoint_refuses_weights_of_other_metadata(small, tmp_path):
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, small, described(ModelConfig("lcnet_075", 64), small.mean_face))
    with pytest.raises(ModelError, match="disagree"):
        load_checkpoint(path)


def test_load_checkpoint_runs_no_code(tmp_path):
    witness = tmp_path / "witness"

    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(witness)!r}, 'w').close()",))

    torch.save(Hostile(), tmp_path / "hostile.safetensors")
    with pytest.raises(ModelError):
        load_checkpoint(tmp_path / "hostile.safetensors")
    assert not witness.exists()


def test_start_from_loads_weights_that_fit(small, checkpoint):
    same = PIPNet(SMALL, small.mean_face)
    assert start_from(same, checkpoint) == []
    torch.testing.assert_close(same.head.conv.weight, small.head.conv.weight)
    other = PIPNet(ModelConfig("lcnet_050", 64, neighbors=3), face(5))
    assert start_from(other, checkpoint) == ["head.conv.weight", "head.conv.bias"]
    first = next(iter(other.backbone.parameters()))
    torch.testing.assert_close(first, next(iter(small.backbone.parameters())))
    with pytest.raises(ModelError, match="its backbone is lcnet_050, .* not lcnet_075"):
        start_from(PIPNet(ModelConfig("lcnet_075", 64), face()), checkpoint)
