"""Shape adapters: from one annotator's definition of the landmarks to another's, linear in the face's shape.

Datasets place the "same" landmark differently: WFLW's jaw line is not 300-W's. On faces that both have
labeled, the difference is a smooth function of the face's shape, and ridge regression on a few principal
components of the shape predicts most of it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64

from pipnet.errors import DataError
from pipnet.geometry import affine, similarity
from pipnet.io.atomic import atomic_write
from pipnet.io.regular_file import open_file, typed_errors
from pipnet.scheme import LandmarkScheme

_RIDGE = 1.0


@dataclass(frozen=True, eq=False)
class LandmarkAdapter:
    """A fitted map between two definitions of the same landmarks."""

    scheme: str
    """Name of the landmark scheme of both."""
    mean_shape: Float64[np.ndarray, "landmarks 2"]
    """Frame of the map: centered, of unit root mean square radius."""
    components: Float64[np.ndarray, "coordinates components"]
    """Principal components of aligned shapes about the mean shape."""
    deviations: Float64[np.ndarray, " components"]
    """Standard deviation of each component."""
    weights: Float64[np.ndarray, "features coordinates"]
    """From a constant and the standardized components to the difference of the two definitions."""

    def __call__(self, points: Float[np.ndarray, "landmarks 2"]) -> Float32[np.ndarray, "landmarks 2"]:
        """Return the points by the other definition, in the same frame, of points in any frame."""
        to_mean = similarity(points.astype(np.float64), self.mean_shape)
        shape = affine(points, to_mean)
        coefficients = (shape - self.mean_shape).ravel() @ self.components / self.deviations
        difference = np.concatenate([[1.0], coefficients]) @ self.weights
        back = np.linalg.inv(np.vstack([to_mean, [0, 0, 1]]))[:2]
        return affine(shape + difference.reshape(-1, 2), back).astype(np.float32)

    @classmethod
    def fit(
        cls,
        source: Float[np.ndarray, "faces landmarks 2"],
        target: Float[np.ndarray, "faces landmarks 2"],
        scheme: LandmarkScheme,
        components: int = 40,
    ) -> LandmarkAdapter:
        """Fit the map from ``source`` to ``target`` points of the same faces.

        Each face counts with its mirror image, so that the map is symmetric.

        Raises:
            DataError: fewer faces than components.
        """
        if len(source) < components:
            raise DataError(f"{len(source)} faces are too few to fit an adapter of {components} components")
        pair = [
            np.concatenate([points, (points * [-1, 1])[:, scheme.flip_permutation]]).astype(np.float64)
            for points in (source, target)
        ]
        mean = _mean_shape(pair[0])
        maps = [similarity(points, mean) for points in pair[0]]
        shapes, goals = (
            np.stack([affine(points, to_mean) for points, to_mean in zip(part, maps, strict=True)]).reshape(
                len(maps), -1
            )
            for part in pair
        )
        centered = shapes - mean.ravel()
        _, singular, directions = np.linalg.svd(centered, full_matrices=False)
        basis = directions[:components].T
        deviations = singular[:components] / np.sqrt(len(centered))
        features = np.hstack([np.ones((len(centered), 1)), centered @ basis / deviations])
        penalty = _RIDGE * np.eye(features.shape[1])
        penalty[0, 0] = 0
        weights = np.linalg.solve(features.T @ features + penalty, features.T @ (goals - shapes))
        return cls(scheme.name, mean, basis, deviations, weights)

    def save(self, path: Path) -> None:
        """Write the map as an ``.npz`` file, atomically.

        Raises:
            WriteError: the file cannot be written.
        """
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> LandmarkAdapter:
        """Read a file of `save`.

        Raises:
            DataError: the file is missing or not an adapter.
        """
        what = f"{path}: not a readable adapter"
        with typed_errors(DataError, what), open_file(path) as content, np.load(content) as file:
            scheme = str(file["scheme"])
            names = [f.name for f in fields(cls) if f.name != "scheme"]
            arrays = {name: np.asarray(file[name], np.float64) for name in names}
        mean, basis, deviations, weights = arrays.values()
        count, size = deviations.size, mean.size
        if mean.shape != (size // 2, 2) or basis.shape != (size, count) or weights.shape != (count + 1, size):
            raise DataError(f"{path}: not an adapter: its arrays do not fit each other")
        return cls(scheme, **arrays)


def _mean_shape(shapes: Float64[np.ndarray, "faces landmarks 2"]) -> Float64[np.ndarray, "landmarks 2"]:
    """Return the Procrustes mean, centered and of unit size."""
    mean = _unit(shapes[0])
    for _ in range(5):
        mean = _unit(np.mean([affine(points, similarity(points, mean)) for points in shapes], axis=0))
    return mean


def _unit(shape: Float64[np.ndarray, "landmarks 2"]) -> Float64[np.ndarray, "landmarks 2"]:
    centered = shape - shape.mean(axis=0)
    return np.asarray(centered / np.sqrt((centered**2).sum(axis=1).mean()))
