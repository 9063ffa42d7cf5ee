"""What runs a network: the interface, and the checks that all backends share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from pipnet.errors import ModelError
from pipnet.metadata import ModelMetadata

_BATCH_SIZE = 64
"""Crops a run; more only costs memory."""
OUTPUTS = ("landmarks", "scores", "vote_std")
"""Outputs of every exported graph."""
OUTPUTS_FORMAT_1 = ("landmarks", "scores", "spread")
"""Outputs of graphs of format 1."""


class CropLandmarks(NamedTuple):
    """What the model says of each crop."""

    points: Float32[np.ndarray, "faces landmarks 2"]
    """Fractions of the crop."""
    scores: Float32[np.ndarray, "faces landmarks"]
    """Peak of each landmark's score map, in [0, 1]."""
    vote_std: Float32[np.ndarray, "faces landmarks"]
    """Disagreement of the votes, as a fraction of the crop."""


@runtime_checkable
class CropModel(Protocol):
    """Anything that finds landmarks on crops."""

    metadata: ModelMetadata

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """RGB crops at the model's size -> landmarks."""
        ...


def check_graph(
    path: Path, metadata: ModelMetadata, inputs: dict[str, list[int]], outputs: dict[str, list[int]]
) -> tuple[str, ...]:
    """Refuse a graph whose inputs and outputs are not what its metadata says.

    Args:
        path: the file, for the message.
        metadata: its metadata.
        inputs: shapes by name, without the batch.
        outputs: the same.

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
            f"{path}: its graph has inputs {inputs} and outputs {outputs}, its metadata say otherwise:"
            f" {size} px, {landmarks} landmarks"
        )
    return names


def in_batches(
    path: Path,
    metadata: ModelMetadata,
    run: Callable[[UInt8[np.ndarray, "faces s s 3"]], Sequence[np.ndarray]],
    crops: UInt8[np.ndarray, "faces s s 3"],
) -> CropLandmarks:
    """What a model says of any number of crops.

    Args:
        path: its file, for the message.
        metadata: its description.
        run: gives landmarks, scores and spread of a batch.
        crops: RGB, at the model's size.

    Raises:
        ModelError: it cannot be run.
    """
    landmarks = metadata.scheme.landmarks
    each = np.zeros((0, landmarks), np.float32)
    parts: list[Sequence[np.ndarray]] = [(np.zeros((0, landmarks, 2), np.float32), each, each)]
    try:
        parts += [run(crops[i : i + _BATCH_SIZE]) for i in range(0, len(crops), _BATCH_SIZE)]
    except MemoryError:
        raise
    except Exception as error:  # both backends have unrelated exceptions for each cause
        raise ModelError(f"{path}: cannot be run: {' '.join(str(error).split()):.160}") from None
    shapes = [(len(crops), landmarks, 2), (len(crops), landmarks), (len(crops), landmarks)]
    try:
        points, scores, vote_std = (np.concatenate(part) for part in zip(*parts, strict=True))
    except ValueError as error:
        raise ModelError(f"{path}: gives other shapes than its graph says: {error}") from None
    if [points.shape, scores.shape, vote_std.shape] != shapes:
        raise ModelError(f"{path}: gives {points.shape[0]} answers for {len(crops)} crops")
    if not all(np.isfinite(part).all() for part in (points, scores, vote_std)):
        raise ModelError(f"{path}: gives landmarks that are no numbers: its weights are damaged")
    return CropLandmarks(points, scores, vote_std)
