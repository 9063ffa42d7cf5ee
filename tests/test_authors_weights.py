"""Checkpoints with the authors' key names and shapes give the same points as the authors' network."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision

from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, ModelError, RecipeError
from pipnet.geometry import CropConfig, tight_box, to_fraction
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.config import ModelConfig
from pipnet.model.pipnet import PIPNet
from pipnet.papers.authors_weights import load_official
from test_model import face

N, C = 29, 10
BACKBONES = ["resnet18", "mobilenetv2_100", "mobilenetv3_large_100"]
HEADS = {"cls_layer": N, "x_layer": N, "y_layer": N, "nb_x_layer": N * C, "nb_y_layer": N * C}


class SqueezeExcite(torch.nn.Module):
    """Squeeze-and-excite of two fully connected layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = {72: 24, 120: 32, 480: 120, 672: 168, 960: 240}[channels]  # a quarter, in eights
        self.fc = torch.nn.Sequential(
            torch.nn.Linear(channels, inner),
            torch.nn.ReLU(),
            torch.nn.Linear(inner, channels),
            torch.nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean(dim=(2, 3)))[:, :, None, None]


class Bottleneck(torch.nn.Module):
    """A block of MobileNetV3 in the authors' order: the second activation follows the squeeze-and-excite."""

    def __init__(
        self, inputs: int, width: int, outputs: int, kernel: int, stride: int, squeeze, swish
    ) -> None:
        super().__init__()
        nn, act = torch.nn, torch.nn.Hardswish if swish else torch.nn.ReLU
        self.residual = stride == 1 and inputs == outputs
        depthwise = nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width, bias=False)
        expand = [nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), act()]
        self.conv = nn.Sequential(
            *(expand if inputs != width else []),
            *(depthwise, nn.BatchNorm2d(width), SqueezeExcite(width) if squeeze else nn.Identity(), act()),
            *(nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def mobilenet_v3() -> tuple[torch.nn.Sequential, torch.nn.Sequential]:
    """MobileNetV3-Large by table 1 of its paper (Howard 2019): all blocks, and the last convolution."""
    # kernel, expanded width, outputs, squeeze-and-excite, hard swish, stride
    table = """3 16 16 0 0 1, 3 64 24 0 0 2, 3 72 24 0 0 1, 5 72 40 1 0 2, 5 120 40 1 0 1, 5 120 40 1 0 1,
        3 240 80 0 1 2, 3 200 80 0 1 1, 3 184 80 0 1 1, 3 184 80 0 1 1, 3 480 112 1 1 1, 3 672 112 1 1 1,
        5 672 160 1 1 2, 5 960 160 1 1 1, 5 960 160 1 1 1"""

    def layer(inputs: int, outputs: int, kernel: int, stride: int) -> torch.nn.Sequential:
        convolution = torch.nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(outputs), torch.nn.Hardswish())

    layers, channels = [layer(3, 16, 3, 2)], 16
    for row in table.split(","):
        kernel, width, outputs, squeeze, swish, stride = map(int, row.split())
        layers.append(Bottleneck(channels, width, outputs, kernel, stride, squeeze, swish))
        channels = outputs
    return torch.nn.Sequential(*layers), layer(160, 960, 1, 1)


class AuthorsNetwork(torch.nn.Module):
    """The authors' network: a torchvision backbone and five separate convolutions."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        if backbone.startswith("resnet"):
            net = getattr(torchvision.models, backbone)(weights=None)
            names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
            self.order, channels = names, net.fc.in_features
            for name in names:
                setattr(self, name, getattr(net, name))
        elif backbone.startswith("mobilenetv3"):
            self.features, self.conv = mobilenet_v3()
            self.order, channels = ("features", "conv"), 960
        else:
            self.features = torchvision.models.mobilenet_v2(weights=None).features
            self.order, channels = ("features",), 1280
        for name, count in HEADS.items():
            setattr(self, name, torch.nn.Conv2d(channels, count, 1))

    def backbone(self, image: torch.Tensor) -> torch.Tensor:
        for name in self.order:
            image = getattr(self, name)(image)
        return image

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        features = self.backbone(image)
        return [getattr(self, name)(features) for name in HEADS]


def authors_points(maps: list[torch.Tensor], mean_face: np.ndarray) -> np.ndarray:
    """Decode and merge one face in plain loops, as the papers describe."""
    score, x, y, nb_x, nb_y = (m[0].detach().numpy() for m in maps)
    distance = np.linalg.norm(mean_face[:, None] - mean_face[None], axis=2)
    neighbors = np.argsort(distance, axis=1)[:, 1 : C + 1]
    votes: list[list[np.ndarray]] = [[] for _ in range(N)]
    points = []
    for i in range(N):
        row, column = divmod(int(score[i].argmax()), 8)
        points.append(np.array([column + x[i, row, column], row + y[i, row, column]]) / 8)
        for j, target in enumerate(neighbors[i]):
            at = np.array([column + nb_x[C * i + j, row, column], row + nb_y[C * i + j, row, column]])
            votes[target].append(at / 8)
    longest = max(map(len, votes))
    return np.stack(
        [
            np.mean([points[n], *(votes[n][k % len(votes[n])] for k in range(longest))], axis=0)
            for n in range(N)
        ]
    )


@pytest.fixture(scope="module", params=BACKBONES)
def original(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("official")
    network = AuthorsNetwork(request.param).eval()
    with torch.no_grad():
        for module in network.modules():  # other statistics than those of a new network
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.7, 1.3)
    state = OrderedDict((f"module.{key}", value) for key, value in network.state_dict().items())
    torch.save(state, folder / "epoch59.pth")
    np.savetxt(folder / "meanface.txt", face(N).reshape(1, -1))
    return request.param, network, folder


def test_load_official_gives_the_authors_points(original):
    backbone, network, folder = original
    model, metadata = load_official(folder / "epoch59.pth", folder / "meanface.txt", "cofw", backbone)
    image = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    maps = network((image.permute(0, 3, 1, 2) / 255 - mean) / std)
    expected = authors_points(maps, np.loadtxt(folder / "meanface.txt").reshape(N, 2))
    np.testing.assert_allclose(model.predict(image).points[0], expected, atol=1e-4)
    assert (metadata.crop.square, metadata.crop.clip, metadata.crop.scale) == (False, True, 1.0)
    assert metadata.crop.whole_pixels
    assert metadata.config["merge"] == "official"


@torch.no_grad()
def test_load_official_gives_the_authors_features(original):
    """Also those of MobileNetV3, where 308 tensors are mapped in order."""
    backbone, network, folder = original
    model, metadata = load_official(folder / "epoch59.pth", folder / "meanface.txt", "cofw", backbone)
    image = torch.randn(1, 3, 256, 256)
    expected = network.backbone(image)
    difference = (model.backbone(image) - expected).abs().max()
    assert difference < 2e-6 * expected.abs().max()  # sums of float32 in another order
    late = backbone.startswith("mobilenetv3")
    assert metadata.config["late_activation"] == late
    if late:
        assert len([key for key in model.state_dict() if key.startswith("backbone.")]) == 308
        for block in model.backbone.modules():  # timm's own order, with the same weights
            if type(block).__name__ == "InvertedResidual" and isinstance(block.se, torch.nn.Sequential):
                block.bn2.act, block.se = block.se[1], block.se[0]
        assert (model.backbone(image) - expected).abs().max() / expected.abs().max() > 1e-3


def import_checkpoint(original, target):
    """Run the command, and return its arguments as those of `load_official`."""
    backbone, _, folder = original
    arguments = ["--mean-face", str(folder / "meanface.txt"), "--scheme", "cofw", "--backbone", backbone]
    assert main(["import", str(folder / "epoch59.pth"), *arguments, "-o", str(target)]) == 0
    return folder / "epoch59.pth", folder / "meanface.txt", "cofw", backbone


def test_import_command_writes_a_checkpoint(original, tmp_path):
    target = tmp_path / "official.safetensors"
    expected, _ = load_official(*import_checkpoint(original, target))
    model, metadata = load_checkpoint(target)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert metadata.scheme.landmarks == N


@pytest.mark.parametrize(
    "original",
    ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES[1:])],
    indirect=True,
)
def test_imported_checkpoint_exports(original, tmp_path):
    target = tmp_path / "official.safetensors"
    import_checkpoint(original, target)
    assert main(["export", str(target)]) == 0
    assert OnnxModel(target.with_suffix(".onnx")).metadata.scheme.landmarks == N


def test_load_official_refuses_other_files(original, tmp_path):
    backbone, network, folder = original
    good, mean_face = folder / "epoch59.pth", folder / "meanface.txt"
    other = "resnet50" if backbone == "resnet18" else "resnet18"
    with pytest.raises(ModelError, match="not the backbone"):
        load_official(good, mean_face, "cofw", other)
    with pytest.raises(ModelError, match="supported are resnet18"):
        load_official(good, mean_face, "cofw", "mobilenetv3_small_100")
    with pytest.raises(DataError, match="58 numbers, expected 136"):
        load_official(good, mean_face, "300w", backbone)
    np.savetxt(tmp_path / "68.txt", face(68))
    with pytest.raises(ModelError, match="29 landmarks, but scheme '300w' has 68"):
        load_official(good, tmp_path / "68.txt", "300w", backbone)
    with pytest.raises(RecipeError, match="no MobileNetV3: leave model.late_activation"):
        PIPNet(ModelConfig("resnet18", late_activation=True), face(N))
    state = network.state_dict()
    torch.save({**state, "layer5.weight": torch.zeros(1)}, tmp_path / "stride.pth")
    with pytest.raises(ModelError, match="net stride other than 32"):
        load_official(tmp_path / "stride.pth", mean_face, "cofw", backbone)
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.pth")
    with pytest.raises(ModelError, match="not a PIPNet checkpoint"):
        load_official(tmp_path / "foreign.pth", mean_face, "cofw", backbone)
    with pytest.raises(ModelError, match="no such"):
        load_official(tmp_path / "none.pth", mean_face, "cofw", backbone)


@pytest.fixture(scope="module")
def checkpoint_68(tmp_path_factory):
    """An authors' checkpoint with 68 landmarks: supervised or GSSL, they have the same tensors."""
    path = tmp_path_factory.mktemp("official") / "epoch59.pth"
    backbone = torchvision.models.resnet18(weights=None)
    state = {key: value for key, value in backbone.state_dict().items() if not key.startswith("fc.")}
    for name, count in {"cls": 1, "x": 1, "y": 1, "nb_x": C, "nb_y": C}.items():
        state[f"{name}_layer.weight"] = torch.zeros(68 * count, 512, 1, 1)
        state[f"{name}_layer.bias"] = torch.zeros(68 * count)
    torch.save(state, path)
    return path


def write_mean_face(path, samples, scale):
    """Write the mean of labels as fractions of crops of this scale, as the authors' meanface.txt."""
    crop = CropConfig(scale=scale, square=False)
    faces = [to_fraction(s.points, crop.region(tight_box(s.points), 1, 1)) for s in samples]
    np.savetxt(path, np.mean(faces, axis=0).reshape(1, -1))


def test_load_official_reads_the_crop_scale_off_the_mean_face(checkpoint_68, shared, tmp_path):
    """Of all training faces, of a tenth of them, and of a person's."""
    samples, _, _ = load_samples(shared / "data" / "300w", "train")
    for scale in (1.1, 1.3):
        for some in (samples, samples[::10], samples[:20]):
            write_mean_face(tmp_path / "mean.txt", some, scale)
            _, metadata = load_official(checkpoint_68, tmp_path / "mean.txt", "300w", "resnet18")
            assert metadata.crop.scale == scale


def test_import_command_asks_for_an_unknown_crop_scale(checkpoint_68, shared, tmp_path, capsys):
    samples, scheme, _ = load_samples(shared / "data" / "300w", "afw")
    write_mean_face(tmp_path / "mean.txt", samples[:50], 1.2)
    target = tmp_path / "out.safetensors"
    command = ["import", str(checkpoint_68), "--mean-face", str(tmp_path / "mean.txt"), "-o", str(target)]
    assert main([*command, "--scheme", "300w"]) == 1
    assert "give the crop's --crop-scale" in capsys.readouterr().err
    assert not target.exists()
    assert main([*command, "--scheme", "300w", "--crop-scale", "1.2"]) == 0
    assert main(["info", str(target)]) == 0
    assert "1.2 x the landmark box, stretched to a square, cut at whole pixels" in capsys.readouterr().out
    own = tmp_path / "own.toml"
    own.write_text('title = "Mine"\nlandmarks = 68\nnorm = [36, 45]\nflip = []\nedges = []\n[regions]\n')
    assert main([*command, "--scheme", str(own)]) == 1
    assert "is none of the authors': give the crop's --crop-scale" in capsys.readouterr().err


def test_load_official_does_not_run_code_in_pickles(tmp_path):
    witness = tmp_path / "witness"

    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(witness)!r}, 'w').close()",))

    torch.save(Hostile(), tmp_path / "hostile.pth")
    np.savetxt(tmp_path / "mean.txt", face(N))
    with pytest.raises(ModelError, match="without running code") as error:
        load_official(tmp_path / "hostile.pth", tmp_path / "mean.txt", "cofw", "resnet18")
    assert "\n" not in str(error.value)
    assert not witness.exists()
