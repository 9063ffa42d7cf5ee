"""The Neighbor Regression Module (IJCV 2021, section 3.3): which landmark votes for which, and the merge.

Every landmark i also predicts the positions of its C nearest neighbors on the mean face, nbr(i, j). Read in
the other direction, landmark n receives one vote from every (i, j) with nbr(i, j) = n. The merged landmark is
a mean of its direct prediction and these votes: one constant matrix over all predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64

from pipnet.errors import RecipeError
from pipnet.model.config import Merge


def mean_face(
    faces: Sequence[Float[np.ndarray, "landmarks 2"]],
) -> Float64[np.ndarray, "landmarks 2"]:
    """Return the mean of training labels as fractions of their crops, without unknown (NaN) points."""
    return np.asarray(np.nanmean(np.stack(faces).astype(np.float64), axis=0))


def nearest_neighbors(
    face: Float64[np.ndarray, "landmarks 2"], neighbors: int
) -> Int64[np.ndarray, "landmarks neighbors"]:
    """Return nbr(i, .): the C nearest landmarks of each landmark on the mean face, nearest first.

    Raises:
        RecipeError: C is not between 0 and L - 1.
    """
    if not 0 <= neighbors < len(face):
        raise RecipeError(f"{neighbors} neighbors: choose 0 to {len(face) - 1} for {len(face)} landmarks")
    distance = np.linalg.norm(face[:, None] - face[None], axis=2)
    np.fill_diagonal(distance, -1)  # sorts a landmark before its neighbors, even among equal points
    return np.argsort(distance, axis=1, kind="stable")[:, 1 : neighbors + 1]


def merge_matrix(
    neighbors: Int64[np.ndarray, "landmarks neighbors"], merge: Merge
) -> Float64[np.ndarray, "landmarks predictions"]:
    """Return the weights of all predictions for each merged landmark; every row adds up to 1.

    Predictions are ordered: L direct ones, then L x C votes, landmark by landmark.

    Args:
        neighbors: nbr(i, j).
        merge: ``"mean"`` weights the direct prediction and each vote alike. ``"official"`` is the authors'
            rule, for their weights: each list of voters is repeated cyclically to the length M of the
            longest, so that the weight of the direct prediction is always 1 / (1 + M). A landmark without
            votes, on which the authors' code fails, keeps its direct prediction under both.
    """
    landmarks, count = neighbors.shape
    voters: list[list[int]] = [[] for _ in range(landmarks)]
    for prediction, target in enumerate(neighbors.ravel(), start=landmarks):
        voters[target].append(prediction)
    longest = max(map(len, voters), default=0)
    weights = np.zeros((landmarks, landmarks * (1 + count)))
    for n, votes in enumerate(voters):
        length = longest if votes and merge == "official" else len(votes)
        weights[n, n] = 1
        for k in range(length):
            weights[n, votes[k % len(votes)]] += 1
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
