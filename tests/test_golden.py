"""The authors' functions and ours give the same numbers (arrays in ../shared)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipnet.evaluation.metrics import area_under_curve, failure_rate
from pipnet.model.heads.base import Supervision
from pipnet.model.heads.pip import PipHead, PipOutput, PipTargets
from pipnet.model.neighbors import merge_matrix, nearest_neighbors
from test_model import with_identity

SETS = ("300w", "cofw", "wflw", "aflw", "lapa")


@pytest.fixture(params=SETS)
def golden(request, shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / "golden" / f"{request.param}.npz") as arrays:
        return dict(arrays)


def head(golden, merge="mean") -> PipHead:
    return with_identity(PipHead(4, 8, golden["mean_face"], 10, merge, score_weight=1.0)).requires_grad_(
        False
    )


def output_of(golden) -> PipOutput:
    parts = [golden[key] for key in ("score", "x", "y", "nb_x", "nb_y")]
    return head(golden)(torch.from_numpy(np.concatenate(parts, axis=1)))


def unmasked_targets(golden) -> PipTargets:
    points = torch.from_numpy(golden["points"])[None].float()
    targets = head(golden).encode(points, torch.ones(points.shape[:2], dtype=torch.bool))
    everywhere = [torch.ones_like(targets.valid), torch.ones_like(targets.neighbor_valid)]
    return targets._replace(valid=everywhere[0], neighbor_valid=everywhere[1])


def test_nearest_neighbors_equal_the_authors(golden):
    np.testing.assert_array_equal(nearest_neighbors(golden["mean_face"], 10), golden["neighbors"])


@pytest.mark.parametrize("merge", ["official", "mean"])
def test_decode_equals_the_authors(golden, merge):
    landmarks = head(golden, merge).decode(output_of(golden))
    np.testing.assert_allclose(landmarks.points[0], golden[f"merged_{merge}"], atol=1e-6)
    np.testing.assert_allclose(landmarks.scores[0], golden["peak"].clip(0, 1), atol=1e-7)


def test_predictions_and_peak_equal_the_authors(golden):
    predictions, peak = head(golden).predictions(output_of(golden))
    np.testing.assert_allclose(predictions[0, : len(golden["own"])], golden["own"], atol=1e-6)
    np.testing.assert_allclose(peak[0], golden["peak"])


def test_vote_std_is_the_root_mean_square_distance_of_the_predictions(golden):
    pip = head(golden)
    predictions, _ = pip.predictions(output_of(golden))
    vote_std = pip.decode(output_of(golden)).vote_std[0]
    for n in range(pip.landmarks):
        votes = predictions[0][pip.voted == n]
        expected = (votes - votes.mean(0)).square().sum(1).mean().sqrt()
        torch.testing.assert_close(vote_std[n], expected)


def test_targets_equal_the_authors(golden):
    targets = unmasked_targets(golden)
    n, c = golden["neighbors"].shape
    cell = targets.cell[0].numpy()
    score = np.zeros((n, 64))
    score[np.arange(n), cell] = 1
    np.testing.assert_array_equal(score.reshape(n, 8, 8), golden["target_score"])
    for axis, key in enumerate("xy"):
        dense = golden[f"target_{key}"].reshape(n, 64)
        np.testing.assert_allclose(targets.offset[0, :, axis], dense[np.arange(n), cell], atol=1e-5)
        dense = golden[f"target_nb_{key}"].reshape(n, c, 64)
        expected = dense[np.arange(n)[:, None], np.arange(c), cell[:, None]]
        np.testing.assert_allclose(targets.neighbor_offset[0, :, :, axis], expected, atol=1e-5)


def test_loss_equals_the_authors(golden):
    n = len(golden["mean_face"])
    terms = head(golden).loss(output_of(golden), unmasked_targets(golden), Supervision.full(1, n))
    np.testing.assert_allclose([float(t) for t in terms.values()], golden["loss"], rtol=1e-6)


def test_failure_rate_and_auc_equal_the_authors(golden):
    assert failure_rate(golden["nmes"]) == pytest.approx(float(golden["fr"]))
    assert area_under_curve(golden["nmes"]) == pytest.approx(float(golden["auc"]), abs=1e-9)


def test_official_merge_has_the_authors_weight_of_the_direct_prediction(golden):
    weights = merge_matrix(golden["neighbors"], "official")
    longest = np.bincount(golden["neighbors"].ravel()).max()
    np.testing.assert_allclose(np.diag(weights), 1 / (1 + longest))
