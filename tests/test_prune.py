"""A pruned network predicts nearly the same landmarks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipnet import FaceLandmarker
from pipnet.cli import main
from pipnet.errors import RecipeError
from pipnet.geometry import CropConfig
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.config import ModelConfig
from pipnet.model.pipnet import PIPNet
from pipnet.model.torch_model import TorchModel
from pipnet.scheme import LandmarkScheme
from pipnet.training.augment import Augmentation
from pipnet.training.dataset import FaceDataset
from pipnet.training.prune import keep_best, prune
from test_model import face

CHECKPOINT = Path("checkpoints/pipnet-68.safetensors")


def test_keep_best_removes_linearly_dependent_channels():
    """Six of ten channels are linear combinations of the others: without them the output stays the same."""
    rng = torch.Generator().manual_seed(0)
    free = torch.randn(500, 4, generator=rng, dtype=torch.float64)
    features = torch.cat([free, free @ torch.randn(4, 6, generator=rng, dtype=torch.float64)], dim=1)
    weight = torch.randn(3, 10, generator=rng, dtype=torch.float64)
    gram = features.T @ features / 500
    kept, fitted = keep_best(weight, gram, 4)
    assert len(kept) == 4
    before, after = features @ weight.T, features[:, kept] @ fitted.T
    assert (before - after).abs().max() < 0.02 * before.abs().max()


def test_keep_best_removes_unused_channels_first():
    features = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.ones(2, 5, dtype=torch.float64)
    weight[:, 2] = 0
    kept, fitted = keep_best(weight, features.T @ features / 200, 4)
    assert kept.tolist() == [0, 1, 3, 4]
    assert fitted.shape == (2, 4)


def test_prune_command_keeps_landmarks(small_300w, portrait, tmp_path, capsys):
    """On real weights: the landmarks hardly move, without any training."""
    pruned = tmp_path / "pruned.safetensors"
    command = ["prune", str(CHECKPOINT), "--data", str(small_300w), "-o", str(pruned)]
    assert main([*command, "--last-width", "512", "--neighbors", "5"]) == 0
    assert "--model.last-width 512 --model.neighbors 5" in capsys.readouterr().err
    model, metadata = load_checkpoint(pruned)
    assert (model.config.last_width, model.config.neighbors) == (512, 5)
    assert metadata.calibration is None
    original = load_checkpoint(CHECKPOINT)[0]
    sizes = [sum(p.numel() for p in network.parameters()) for network in (original, model)]
    assert sizes[1] < 0.85 * sizes[0]
    box = [[178, 63, 267, 175]]
    before = FaceLandmarker(TorchModel(*load_checkpoint(CHECKPOINT)))(portrait, box).points[0]
    after = FaceLandmarker(TorchModel(model, metadata))(portrait, box).points[0]
    size = (before.max(axis=0) - before.min(axis=0)).max()
    assert 0 < np.linalg.norm(before - after, axis=1).mean() / size < 0.02


@pytest.mark.parametrize(
    ("settings", "width", "neighbors", "reason"),
    [
        ({"neighbors": 5}, 9999, 5, "channels, fewer than 9999"),
        ({"neighbors": 5}, 32, 6, "5 neighbors, fewer than 6"),
        ({"head": "coord"}, 32, 0, "only a pip head"),
        ({"stride": 64, "input_size": 128}, 32, 0, "maps of stride 64"),
        ({"reduction": "heatmap", "neighbors": 0}, 32, 0, "without reduction"),
        ({"reduction": "coordinates", "input_size": 32}, 32, 0, "without reduction"),
    ],
)
def test_prune_refuses_other_networks(settings, width, neighbors, reason):
    model = PIPNet(ModelConfig(**{"backbone": "lcnet_050", "input_size": 64, **settings}), face())
    faces = FaceDataset([], LandmarkScheme.load("300w"), CropConfig(), 64, Augmentation())
    with pytest.raises(RecipeError, match=reason):
        prune(model, width, neighbors, faces)
