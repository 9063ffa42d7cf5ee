"""The common interface of all heads, the values of each, and the curriculum."""

import numpy as np
import pytest
import torch

from pipnet.errors import ModelError, RecipeError
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.model.config import ModelConfig
from pipnet.model.heads.base import Supervision
from pipnet.model.heads.coordinate import CoordinateHead
from pipnet.model.heads.heatmap import SIGMA, HeatmapHead
from pipnet.model.heads.pip import PipHead, PipLosses, PipOutput
from pipnet.model.pipnet import PIPNet
from test_model import face, with_identity

SMALL = {"backbone": "lcnet_050", "input_size": 64, "neck_width": 16}
CONFIGS = {
    "pip": {"neighbors": 4},
    "pip stride 16": {"neighbors": 4, "stride": 16},
    "pip focal, L2 offsets": {"neighbors": 4, "score_loss": "focal", "offset_loss": "l2"},
    "pip L1 scores": {"neighbors": 4, "score_loss": "l1"},
    "coordinates": {"neighbors": 4, "stride": 64, "reduction": "coordinates"},
    "heatmap": {"neighbors": 0, "stride": 4, "reduction": "heatmap"},
    "coord": {"head": "coord"},
    "map 4": {"head": "map", "stride": 4},
    "map 2": {"head": "map", "stride": 2},
    "map 1": {"head": "map", "stride": 1},
}


@pytest.fixture(params=CONFIGS)
def config(request) -> ModelConfig:
    return ModelConfig(**SMALL, **CONFIGS[request.param])


def network(config: ModelConfig) -> PIPNet:
    torch.manual_seed(0)
    return PIPNet(config, face())


def images(count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=generator)


def labels(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 68, 2, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.05


def test_head_has_common_interface(config):
    model = network(config).eval()
    points, scores, vote_std = model.predict(images())
    assert points.shape == (4, 68, 2)
    assert scores.shape == vote_std.shape == (4, 68)
    assert ((scores >= 0) & (scores <= 1)).all()
    terms = model.loss(model(images()), labels())
    assert all(term.isfinite() and term >= 0 for term in terms.values())


def test_head_learns(config):
    """A few steps on one batch lower the loss of every head; heat maps learn slowly at first."""
    model = network(config).train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(30):
        loss = torch.stack(list(model.loss(model(images()), labels()).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    slow = config.head == "map" or config.reduction == "heatmap"
    assert history[-1] < (0.95 if slow else 0.7) * history[0]


def test_loss_ignores_unknown_points(config):
    """The loss does not depend on the coordinates of an unknown landmark, which may be NaN."""
    model = network(config).eval()
    known = torch.ones(4, 68, dtype=torch.bool)
    known[:, 5] = False
    losses = []
    for value in (0.1, 0.9, torch.nan):
        points = labels()
        points[:, 5] = value
        terms = model.head.loss(model(images()), model.head.encode(points, known), Supervision.full(4, 68))
        losses.append({name: term.item() for name, term in terms.items()})
    assert all(np.isfinite(list(losses[0].values())))
    assert losses[0] == losses[1] == losses[2]


def test_loss_ignores_faces_of_weight_0(config):
    model = network(config).eval()
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None].expand(-1, len(face()))
    supervision = Supervision(torch.zeros(weight.shape, dtype=torch.long), weight)
    actual = model.loss(model(images()), labels(), supervision)
    alone = model.loss(model(images()[::2]), labels()[::2])
    assert actual.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(actual[name], value)


@pytest.mark.parametrize("name", ["coordinates", "heatmap", "coord", "map 4"])
def test_export_onnx_supports_every_head(name, exported_network):
    """`test_export` has the pip head."""
    model, path = exported_network(input_size=64, neck_width=16, **CONFIGS[name])
    exported = OnnxModel(path)
    for count in (1, 3):
        crops = images(count)
        out, expected = exported(crops.numpy()), model.predict(crops)
        near = np.abs(out.points - expected.points.numpy()).max(axis=2) < 1e-3
        assert near.mean() > 0.97  # untrained maps may tie
        np.testing.assert_allclose(out.scores, expected.scores, atol=1e-3)


# -- the values of each head ---------------------------------------------------------------------------


def test_coordinate_head_decodes_its_targets():
    head = CoordinateHead(4, 2, 68).eval()
    output = labels()
    torch.testing.assert_close(head.decode(output).points, labels())
    known = torch.ones(4, 68, dtype=torch.bool)
    assert (
        sum(head.loss(output, head.encode(labels(), known), Supervision.full(4, 68)).values()).item() < 1e-6
    )


@pytest.mark.parametrize(("stride", "sigma"), SIGMA.items())
def test_heatmap_head_targets_are_gaussians(stride, sigma):
    grid = 64 // stride
    head = HeatmapHead(4, grid, 1, sigma)
    point = torch.tensor([[[0.51, 0.3]]])
    maps = head.encode(point, torch.ones(1, 1, dtype=torch.bool)).maps.reshape(grid, grid)
    x, y = (int(v * grid) for v in (0.51, 0.3))
    assert maps[y, x] == 1
    assert maps[y, x + 1].item() == pytest.approx(np.exp(-1 / (2 * sigma**2)))
    beyond = x + int(3 * sigma) + 1
    assert beyond >= grid or maps[y, beyond] == 0


def test_heatmap_head_decode_shifts_towards_higher_neighbor():
    head = HeatmapHead(4, 8, 1, 1.0)
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 3, 4], maps[0, 0, 3, 5], maps[0, 0, 2, 4] = 0.8, 0.3, 0.2
    points, scores, _ = head.decode(maps)
    torch.testing.assert_close(points[0, 0], torch.tensor([4.75, 3.25]) / 8)
    torch.testing.assert_close(scores, torch.tensor([[0.8]]))
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 0, 7] = 1  # a corner lacks a neighbor on each axis
    torch.testing.assert_close(head.decode(maps).points[0, 0], torch.tensor([7.5, 0.5]) / 8)


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_heatmap_head_decodes_its_targets_to_half_a_cell(stride):
    head = HeatmapHead(4, 64 // stride, 68, SIGMA[stride])
    targets = head.encode(labels(), torch.ones(4, 68, dtype=torch.bool))
    decoded = head.decode(targets.maps)
    # At the border, where the Gaussian is cut off, there is no shift by a quarter of a cell.
    assert (decoded.points - labels()).abs().max() <= 0.5 * stride / 64
    assert (decoded.points - labels()).mean().abs() < 0.1 * stride / 64


def test_pip_head_focal_loss_is_the_authors():
    """A tenth of CornerNet's loss: the sum over all cells for each landmark."""
    torch.manual_seed(0)
    head = PipHead(4, 8, face(5), 0, losses=PipLosses(score="focal"))
    points = torch.rand(3, 5, 2)
    output = head(torch.randn(3, 4, 8, 8))
    targets = head.encode(points, torch.ones(3, 5, dtype=torch.bool))
    probability = output.score.sigmoid().flatten(2)
    hot = torch.nn.functional.one_hot(targets.cell, 64).bool()
    losses = torch.where(
        hot, (1 - probability) ** 2 * probability.log(), probability**2 * (1 - probability).log()
    )
    expected = -0.1 * losses.sum() / hot.sum()
    torch.testing.assert_close(head.loss(output, targets, Supervision.full(3, 5))["score"], expected)


def test_pip_head_focal_scores_are_sigmoids():
    head = with_identity(PipHead(4, 2, face(5), 0, losses=PipLosses(score="focal")))
    output = head(torch.zeros(1, 15, 2, 2))
    torch.testing.assert_close(head.score_maps(output), torch.full((1, 5, 2, 2), 0.5))
    torch.testing.assert_close(head.decode(output).scores, torch.full((1, 5), 0.5))
    targets = head.encode(labels()[:1, :5], torch.ones(1, 5, dtype=torch.bool))
    # by hand: one positive and three negative cells of p = 0.5, each 0.25 * log 2; a tenth of their sum
    terms = head.loss(output, targets, Supervision.full(1, 5))
    assert terms["score"].item() == pytest.approx(0.1 * 4 * 0.25 * np.log(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reduction": "coordinates"}, "needs one cell"),
        ({"reduction": "heatmap", "stride": 4}, "neighbors must be 0"),
        ({"head": "map"}, "a map head has stride 4, 2, 1"),
        ({"head": "coord", "score_loss": "focal"}, "model.score_loss is a setting of the pip head"),
        (
            {"head": "map", "stride": 4, "reduction": "heatmap"},
            "model.reduction is a setting of the pip head",
        ),
    ],
)
def test_build_head_refuses_settings_that_do_not_fit(settings, message):
    with pytest.raises(RecipeError, match=message):
        network(ModelConfig(**SMALL, **settings))


@pytest.mark.parametrize("reduction", ["none", "coordinates", "heatmap"])
@pytest.mark.parametrize("neighbors", [0, 3])
def test_pip_head_offsets_equal_those_of_complete_maps(reduction, neighbors):
    """The same losses, gradients and points as from complete maps of offsets."""
    grid, neighbors = 1 if reduction == "coordinates" else 4, 0 if reduction == "heatmap" else neighbors
    torch.manual_seed(0)
    head = PipHead(6, grid, face(5), neighbors, reduction=reduction)
    torch.nn.init.normal_(head.conv.weight)
    torch.nn.init.normal_(head.conv.bias)
    points, features = torch.rand(3, 5, 2), torch.randn(3, 6, grid, grid, requires_grad=True)
    points[1, 2] = torch.nan
    targets = head.encode(points, points.isfinite().all(dim=2))
    variables = [features, *head.parameters()]
    identity = with_identity(PipHead(6, grid, face(5), neighbors, reduction=reduction))
    results = []
    for some_head, output in ((identity, identity(head.conv(features))), (head, head(features))):
        terms = some_head.loss(output, targets, Supervision.full(3, 5))
        gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), variables)
        results.append((terms, gradients, some_head.decode(output)))
    torch.testing.assert_close(*results)


def test_score_maps_have_the_scores_as_peaks(config):
    model = network(config).eval()
    output = model(images())
    assert model.head.unmerged_points(output).shape == (4, 68, 2)
    if config.head == "coord" or config.reduction == "coordinates":
        with pytest.raises(ModelError, match="without score maps"):
            model.head.score_maps(output)
    else:
        maps = model.head.score_maps(output)
        side = 64 // config.stride
        assert maps.shape == (4, 68, side, side)
        peaks = maps.flatten(2).amax(dim=2)
        torch.testing.assert_close(peaks.clamp(0, 1), model.head.decode(output).scores)


# -- the curriculum -------------------------------------------------------------------------------------


def pyramid(weighting="published"):
    torch.manual_seed(0)
    head = PipHead(6, 8, face(5), 2, curriculum=weighting).train()
    torch.nn.init.normal_(head.conv.weight)
    return head, torch.randn(4, 6, 8, 8)


def supervision_of(task):
    """Return the supervision of faces of 5 landmarks with a task each."""
    return Supervision(task[:, None].expand(-1, 5), torch.ones(len(task), 5))


def test_coarse_scores_use_the_same_layer_on_pooled_features():
    head, features = pyramid()
    out = head(features)
    torch.testing.assert_close(out.score, head.conv(features)[:, :5])
    for factor, coarse in zip((2, 4), out.coarse, strict=True):
        pooled = torch.nn.functional.max_pool2d(features, factor)
        torch.testing.assert_close(coarse, head.conv(pooled)[:, :5])


@pytest.mark.parametrize("weighting", ["published", "equal"])
def test_score_loss_uses_the_grid_of_each_task(weighting):
    """The definition as loops: the sum of all errors over the number of cells, or of faces."""
    head, features = pyramid(weighting)
    out = head(features)
    points = torch.rand(4, 5, 2) * 0.98 + 0.01
    points[1, 3] = torch.nan
    targets = head.encode(points, points.isfinite().all(2))
    task = torch.tensor([0, 1, 2, 1])
    actual = head.loss(out, targets, supervision_of(task))["score"]
    total, count = 0.0, 0.0
    for i in range(4):
        grid = 8 // 2 ** int(task[i])
        maps = (out.score, *out.coarse)[int(task[i])]
        for n in range(5):
            if not points[i, n].isfinite().all():
                continue
            scores = maps[i, n]
            target = torch.zeros(grid, grid)
            x, y = (points[i, n] * grid).int().tolist()
            target[y, x] = 1
            share = 1 if weighting == "published" else 1 / grid**2
            total, count = total + share * ((scores - target) ** 2).sum(), count + share * grid**2
    torch.testing.assert_close(actual, head.score_weight * total / count)


def test_offset_loss_uses_full_faces_only():
    head, features = pyramid()
    out = head(features)
    points = torch.rand(4, 5, 2) * 0.98 + 0.01
    known = torch.ones(4, 5, dtype=torch.bool)
    one = head.loss(out, head.encode(points, known), supervision_of(torch.tensor([0, 1, 2, 1])))
    points[1:] = torch.rand(3, 5, 2) * 0.98 + 0.01
    other = head.loss(out, head.encode(points, known), supervision_of(torch.tensor([0, 1, 2, 1])))
    for name in ("x", "y", "nb_x", "nb_y"):
        torch.testing.assert_close(one[name], other[name])
    assert one["score"] != other["score"]


def test_offset_loss_of_coarse_landmark_is_left_out_with_its_votes():
    """Neither its own offset, nor the votes for it, nor those that are read in its unreliable cell."""
    head, features = pyramid()
    out, known = head(features), torch.ones(4, 5, dtype=torch.bool)
    task = torch.zeros(4, 5, dtype=torch.long)
    task[:, 2] = 1
    points = torch.rand(4, 5, 2) * 0.98 + 0.01
    one = head.loss(out, head.encode(points, known), Supervision(task, torch.ones(4, 5)))
    points[:, 2] = torch.rand(4, 2) * 0.98 + 0.01
    other = head.loss(out, head.encode(points, known), Supervision(task, torch.ones(4, 5)))
    for name in ("x", "y", "nb_x", "nb_y"):
        torch.testing.assert_close(one[name], other[name])
    assert one["score"] != other["score"]
    points[:, 1] = torch.rand(4, 2) * 0.98 + 0.01
    third = head.loss(out, head.encode(points, known), Supervision(task, torch.ones(4, 5)))
    assert all(third[name] != other[name] for name in ("x", "y", "nb_x", "nb_y"))


def test_score_loss_of_coarse_landmark_is_on_its_own_grid():
    head, features = pyramid()
    out, known = head(features), torch.ones(4, 5, dtype=torch.bool)
    points = torch.rand(4, 5, 2) * 0.98 + 0.01
    task = torch.zeros(4, 5, dtype=torch.long)
    task[:, 0] = 2
    weight = torch.zeros(4, 5)
    weight[:, 0] = 1
    actual = head.loss(out, head.encode(points, known), Supervision(task, weight))
    alone = head.loss(
        out, head.encode(points, known), Supervision(torch.full((4, 5), 2, dtype=torch.long), weight)
    )
    torch.testing.assert_close(actual["score"], alone["score"])


def test_curriculum_of_full_faces_is_ordinary_training():
    head, features = pyramid()
    out = head(features)
    points = torch.rand(4, 5, 2)
    targets = head.encode(points, torch.ones(4, 5, dtype=torch.bool))
    plain = PipHead(6, 8, face(5), 2)
    plain.load_state_dict(head.state_dict())
    full = supervision_of(torch.zeros(4, dtype=torch.long))
    expected = plain.loss(plain(features), targets, full)
    for name, value in head.loss(out, targets, full).items():
        torch.testing.assert_close(value, expected[name])


def test_curriculum_ignores_coarse_faces_of_weight_0():
    head, features = pyramid()
    out = head(features)
    points, known = torch.rand(4, 5, 2), torch.ones(4, 5, dtype=torch.bool)
    task = torch.tensor([0, 1, 0, 2])[:, None].expand(-1, 5)
    weight = torch.tensor([1.0, 0.0, 0.0, 0.0])[:, None].expand(-1, 5)
    actual = head.loss(out, head.encode(points, known), Supervision(task, weight))
    first = PipOutput(out.score[:1], out.features[:1])
    alone = head.loss(first, head.encode(points[:1], known[:1]), Supervision.full(1, 5))
    for name, value in alone.items():
        torch.testing.assert_close(actual[name], value)


@pytest.mark.parametrize("grid", [2, 12, 16])
def test_curriculum_needs_the_papers_grids(grid):
    with pytest.raises(RecipeError, match=f"8 x 8 cells: {grid} x {grid}"):
        PipHead(6, grid, face(5), 2, curriculum="equal")
