"""Checkpoints with the authors' key names and shapes give the same points as the authors' network."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision

from pipnet.cli import main
from pipnet.errors import DataError, ModelError
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.papers.authors_weights import load_official
from test_model import face

N, C = 29, 10
HEADS = {"cls_layer": N, "x_layer": N, "y_layer": N, "nb_x_layer": N * C, "nb_y_layer": N * C}


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
        else:
            self.features = torchvision.models.mobilenet_v2(weights=None).features
            self.order, channels = ("features",), 1280
        for name, count in HEADS.items():
            setattr(self, name, torch.nn.Conv2d(channels, count, 1))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        for name in self.order:
            image = getattr(self, name)(image)
        return [getattr(self, name)(image) for name in HEADS]


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


@pytest.fixture(scope="module", params=["resnet18", "mobilenetv2_100"])
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
    assert metadata.config["merge"] == "official"


def test_import_command_writes_a_checkpoint_that_exports(original, tmp_path):
    backbone, _, folder = original
    target = tmp_path / "official.safetensors"
    arguments = ["--mean-face", str(folder / "meanface.txt"), "--scheme", "cofw", "--backbone", backbone]
    assert main(["import", str(folder / "epoch59.pth"), *arguments, "-o", str(target)]) == 0
    assert main(["export", str(target)]) == 0
    assert OnnxModel(target.with_suffix(".onnx")).metadata.scheme.landmarks == N


def test_load_official_refuses_other_files(original, tmp_path):
    backbone, network, folder = original
    good, mean_face = folder / "epoch59.pth", folder / "meanface.txt"
    other = "resnet50" if backbone == "resnet18" else "resnet18"
    with pytest.raises(ModelError, match="not the backbone"):
        load_official(good, mean_face, "cofw", other)
    with pytest.raises(ModelError, match="supported are resnet18"):
        load_official(good, mean_face, "cofw", "mobilenetv3_large_100")
    with pytest.raises(DataError, match="58 numbers, expected 136"):
        load_official(good, mean_face, "300w", backbone)
    np.savetxt(tmp_path / "68.txt", face(68))
    with pytest.raises(ModelError, match="29 landmarks, but scheme '300w' has 68"):
        load_official(good, tmp_path / "68.txt", "300w", backbone)
    state = network.state_dict()
    torch.save({**state, "layer5.weight": torch.zeros(1)}, tmp_path / "stride.pth")
    with pytest.raises(ModelError, match="net stride other than 32"):
        load_official(tmp_path / "stride.pth", mean_face, "cofw", backbone)
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.pth")
    with pytest.raises(ModelError, match="not a PIPNet checkpoint"):
        load_official(tmp_path / "foreign.pth", mean_face, "cofw", backbone)
    with pytest.raises(ModelError, match="no such"):
        load_official(tmp_path / "none.pth", mean_face, "cofw", backbone)


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
