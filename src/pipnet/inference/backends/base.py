"""The interface of backends, and the checks that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

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


def check_graph(
    path: Path, metadata: ModelMetadata, inputs: dict[str, list[int]], outputs: dict[str, list[int]]
) -> tuple[str, ...]:
    """Refuse a graph whose inputs and outputs differ from its metadata.

    Args:
        path: the file, for the message.
        metadata: its metadata.
        inputs: shapes by name, without the batch dimension.
        outputs: shapes by name, without the batch dimension.

    Returns:
        The names of the outputs, in the order of `CropLandmarks`.

    Raises:
        ModelError: they differ.
    """
    size, landmarks = metadata.input_size, metadata.scheme.landmarks
    names = OUTPUTS_FORMAT_1 if OUTPUTS_FORMAT_1[-1] in outputs else OUTPUTS
    expected = dict(zip(names, ([landmarks, 2], [landmarks], [landmarks]), strict=True))
    if inputs != {"image": [size, size, 3]} or outputs != expected:
        raise ModelError(
            f"{path}: the graph has inputs {inputs} and outputs {outputs}, which differ from its metadata:"
            f" {size} px, {landmarks} landmarks"
        )
    return names


def in_batches(
    path: Path,
    metadata: ModelMetadata,
    run: Callable[[UInt8[np.ndarray, "faces s s 3"]], Sequence[np.ndarray]],
    crops: UInt8[np.ndarray, "faces s s 3"],
) -> CropLandmarks:
    """Run a model on any number of crops, and check its outputs.

    Args:
        path: the model's file, for messages.
        metadata: the model's metadata.
        run: returns landmarks, scores and vote standard deviations of one batch.
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
    except Exception as error:  # both backends have unrelated exceptions for each cause
        raise ModelError(f"{path}: cannot be run: {one_line(error)}") from None
    try:
        points, scores, vote_std = (np.concatenate(part) for part in zip(*parts, strict=True))
    except ValueError as error:
        raise ModelError(f"{path}: returned other shapes than its graph declares: {error}") from None
    if not len(points) == len(scores) == len(vote_std) == len(crops):
        raise ModelError(f"{path}: returned {len(points)} predictions for {len(crops)} crops")
    if not all(np.isfinite(part).all() for part in (points, scores, vote_std)):
        raise ModelError(f"{path}: returned landmarks that are not finite: its weights are corrupt")
    return CropLandmarks(points, scores, vote_std)
