"""The interface of models, and what the backends for exported models share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from pipnet.errors import ModelError, one_line
from pipnet.metadata import ModelMetadata

_BATCH_SIZE = 64
"""Crops a batch; more only costs memory."""
OUTPUTS = ("landmarks", "scores", "vote_std")
"""Outputs of every exported graph."""
OUTPUTS_FORMAT_1 = ("landmarks", "scores", "spread")
"""Outputs of graphs of format 1."""


class CropLandmarks(NamedTuple):
    """The landmarks that a model predicts in each crop."""

    points: Float32[np.ndarray, "faces landmarks 2"]
    """Fractions of the crop."""
    scores: Float32[np.ndarray, "faces landmarks"]
    """Peak of each landmark's score map, in [0, 1]."""
    vote_std: Float32[np.ndarray, "faces landmarks"]
    """Standard deviation of the neighbors' votes, as a fraction of the crop."""


@runtime_checkable
class CropModel(Protocol):
    """A model that predicts landmarks in crops."""

    metadata: ModelMetadata

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """Return the landmarks of RGB crops at the model's input size."""
        ...


class Graph(NamedTuple):
    """What a file says about its graph."""

    metadata: str | None
    """The metadata as JSON; None if pipnet did not export the file."""
    inputs: dict[str, list[int]]
    """Shapes by name, without the batch dimension."""
    outputs: dict[str, list[int]]
    """Shapes by name, without the batch dimension."""


class ExportedModel(ABC):
    """A `CropModel` in an ONNX file that pipnet exported; the subclasses are the backends."""

    def __init__(self, path: Path, *options: Any) -> None:
        """Load a model.

        Args:
            path: the ONNX file.
            options: options of the backend.

        Raises:
            ModelError: missing, corrupt, or not exported by pipnet.
        """
        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
        self.path, self._options = path, options
        graph = self._load(*options)
        if graph.metadata is None:
            raise ModelError(f"{path}: an ONNX model, but not one exported by pipnet")
        self.metadata = ModelMetadata.from_json(graph.metadata, str(path))
        size, landmarks = self.metadata.input_size, self.metadata.scheme.landmarks
        self._outputs = OUTPUTS_FORMAT_1 if OUTPUTS_FORMAT_1[-1] in graph.outputs else OUTPUTS
        outputs = dict(zip(self._outputs, ([landmarks, 2], [landmarks], [landmarks]), strict=True))
        if "score_maps" in graph.outputs:
            raise ModelError(
                f"{path}: ends at the maps, for other runtimes (pipnet export --format scores): pipnet runs"
                " the model of --format onnx"
            )
        if graph.inputs != {"image": [size, size, 3]} or graph.outputs != outputs:
            raise ModelError(
                f"{path}: the graph has inputs {graph.inputs} and outputs {graph.outputs}, which differ"
                f" from its metadata: {size} px, {landmarks} landmarks"
            )

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """Return the landmarks of RGB crops at the model's input size, computed in batches."""
        return in_batches(str(self.path), self.metadata, self._run, crops)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the file name, options and current metadata: another process loads the file again."""
        return type(self), (self.path, *self._options), {"metadata": self.metadata}

    @abstractmethod
    def _load(self, *options: Any) -> Graph:
        """Load the file."""

    @abstractmethod
    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> Sequence[np.ndarray]:
        """Return the outputs of a batch, in the order of ``self._outputs``."""


def in_batches(
    name: str,
    metadata: ModelMetadata,
    run: Callable[[UInt8[np.ndarray, "faces s s 3"]], Sequence[np.ndarray]],
    crops: UInt8[np.ndarray, "faces s s 3"],
) -> CropLandmarks:
    """Run a model on any number of crops, and check its outputs.

    Args:
        name: the model's file or name, for messages.
        metadata: the model's metadata.
        run: returns landmarks, scores and ``vote_std`` of one batch.
        crops: RGB crops at the model's input size.

    Raises:
        ModelError: the model fails, or its outputs have other shapes or are not finite.
    """
    landmarks = metadata.scheme.landmarks
    empty = np.zeros((0, landmarks), np.float32)
    parts: list[Sequence[np.ndarray]] = [(np.zeros((0, landmarks, 2), np.float32), empty, empty)]
    try:
        parts += [run(crops[i : i + _BATCH_SIZE]) for i in range(0, len(crops), _BATCH_SIZE)]
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # each backend has unrelated exceptions for each cause
        raise ModelError(f"{name}: cannot be run: {one_line(error)}") from None
    try:
        points, scores, vote_std = (np.concatenate(part) for part in zip(*parts, strict=True))
    except ValueError as error:
        raise ModelError(f"{name}: returned other shapes than its graph declares: {error}") from None
    if not len(points) == len(scores) == len(vote_std) == len(crops):
        raise ModelError(f"{name}: returned {len(points)} predictions for {len(crops)} crops")
    if not all(np.isfinite(part).all() for part in (points, scores, vote_std)):
        raise ModelError(f"{name}: returned landmarks that are not finite: its weights are corrupt")
    return CropLandmarks(points, scores, vote_std)
