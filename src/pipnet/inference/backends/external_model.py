"""Landmark networks of other projects: an ONNX file and a TOML file that describes it.

::

    model = "PFLD_GhostOne.onnx"        # relative to this file
    scheme = "wflw"                     # landmark scheme
    input_size = 112
    mean = [0.5, 0.5, 0.5]              # RGB; input is (image / 255 - mean) / std, (batch, 3, size, size)
    std = [0.5, 0.5, 0.5]
    crop_scale = 1.2                    # side of the square crop / longer side of the landmark box
    crop_shift_up = 0.07                # how far its center lies above the box's / longer side of the box
    license = "Apache-2.0"
    source = "github.com/AnthonyF333/PFLD_GhostOne at 7061b564"
    mean_face = [[0.03, 0.22], ...]     # mean of each landmark over many upright faces, in any unit

The output with two numbers a landmark is read as x and y, as fractions of the crop. Every command that takes
a model takes such a TOML file: ``pipnet evaluate peer.toml``, ``pipnet teach --teacher teacher.toml``.

The mean face is needed for smoothing in camera videos and for alignment. For the schemes 300w and aflw it may
be left out. Such networks have no scores, so `any_rotation` is refused, and tracking cannot tell from the
scores that a face is lost.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float64, UInt8

from pipnet.config import split_options
from pipnet.errors import DataError, ModelError, one_line
from pipnet.field_checks import Range, check_fields
from pipnet.geometry import CropConfig
from pipnet.hub import DEFAULT_MODEL, packaged_models
from pipnet.inference.backends.base import CropLandmarks, in_batches
from pipnet.inference.backends.onnxruntime import OnnxModel, start_session
from pipnet.io.regular_file import read_file, typed_errors
from pipnet.metadata import EXTERNAL, MAX_INPUT_SIZE, MIN_CROP_SCALE, ModelMetadata
from pipnet.scheme import BUILT_IN, LandmarkScheme, SchemeMapping

MAX_BYTES = 2_000_000
"""Maximum size of a TOML file."""


@dataclass(frozen=True)
class ExternalModelConfig:
    """Inputs and outputs of a network of another project."""

    model: Path
    """Its ONNX file."""
    scheme: str
    """Landmark scheme: its name, or the path of its TOML file."""
    input_size: Annotated[int, Range(1, MAX_INPUT_SIZE)]
    """Side of the crop in pixels."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Subtracted from the RGB image in [0, 1]."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Divides the result of the subtraction."""
    crop_scale: Annotated[float, Range(MIN_CROP_SCALE, 100)] = 1.2
    """Side of the square crop over the longer side of the landmark box."""
    crop_shift_up: Annotated[float, Range(-10, 10)] = 0.0
    """How far the crop's center lies above the box's, in longer sides of the box."""
    license: str = "unknown"
    """License of the weights."""
    source: str = "unknown"
    """Where the weights come from."""
    teacher_weight: Annotated[float, Range(0, 1e6, above=True)] = 1.0
    """Weight of its predictions among several teachers."""
    adapter: Path | None = None
    """File of a `LandmarkAdapter` to the teachers' common scheme."""
    mean_face: tuple[tuple[float, ...], ...] = ()
    """Mean of each landmark over many upright faces, x and y, in any unit; empty if unknown."""

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        if not (len(self.mean) == len(self.std) == 3 and np.isfinite(self.mean).all() and min(self.std) > 0):
            raise ModelError("mean and std are three numbers each, and std is above 0")

    @classmethod
    def load(cls, path: Path) -> ExternalModelConfig:
        """Read a TOML file. Paths in it are relative to its folder.

        Raises:
            ModelError: missing, malformed, an unknown or missing key, or a value out of range.
        """
        with typed_errors(ModelError, f"{path}: not a readable TOML file"):
            table: dict[str, Any] = tomllib.loads(read_file(path, MAX_BYTES).decode("utf-8"))
        try:
            values = {**table, "model": path.parent / table["model"]}
            if "adapter" in table:
                values["adapter"] = path.parent / table["adapter"]
            for key in {"mean", "std"} & table.keys():
                values[key] = tuple(float(value) for value in table[key])
            values["mean_face"] = tuple((float(x), float(y)) for x, y in table.get("mean_face", ()))
            config: ExternalModelConfig = split_options(values, cls)[0]
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: missing or wrong value: {one_line(error)}") from None
        return config


class ExternalModel:
    """A network of another project as a `CropModel`.

    It has no scores: all are 1, and ``vote_std`` is 0. So `any_rotation` is refused, and a tracked face is
    dropped only when its box becomes small or jumps.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load the network that a TOML file describes.

        Raises:
            ModelError: the TOML file or the network is missing or malformed.
        """
        self.path, self.config = path, ExternalModelConfig.load(path)
        config = self.config
        if not config.model.is_file():
            raise ModelError(f"{path}: its model is missing: {config.model}")
        try:
            scheme = LandmarkScheme.load(config.scheme)
        except DataError as error:
            raise ModelError(f"{path}: {error}") from None
        self._session = start_session(config.model, "cpu", threads)
        self._input_name = self._session.get_inputs()[0].name
        self.metadata = ModelMetadata(
            name=path.stem,
            scheme=scheme,
            crop=CropConfig(scale=config.crop_scale, shift_up=config.crop_shift_up),
            input_size=config.input_size,
            mean_face=_mean_face(path, config, scheme),
            config={"backbone": path.stem, "head": EXTERNAL, "neighbors": 0},
            license=config.license,
            training=config.source,
        )

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """Return the landmarks of RGB crops at the network's input size, as fractions of the crop.

        Raises:
            ModelError: the network fails, or has no output with this number of landmarks.
        """
        return in_batches(str(self.config.model), self.metadata, self._run, crops)

    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean, std = (np.array(value, np.float32) for value in (self.config.mean, self.config.std))
        images = ((crops.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
        shape = (len(crops), self.metadata.scheme.landmarks, 2)
        for output in self._session.run(None, {self._input_name: np.ascontiguousarray(images)}):
            if output.size == np.prod(shape):
                points = np.asarray(output, np.float32).reshape(shape)
                return points, np.ones(shape[:2], np.float32), np.zeros(shape[:2], np.float32)
        raise ModelError(f"{self.config.model}: no output with {shape[1]} points a crop")


def _mean_face(
    path: Path, config: ExternalModelConfig, scheme: LandmarkScheme
) -> Float64[np.ndarray, "landmarks 2"]:
    """Return the mean face of the TOML file, else the default model's in this scheme; zeros if unknown."""
    if config.mean_face:
        mean_face = np.array(config.mean_face)
        if mean_face.shape != (scheme.landmarks, 2) or not 0 < np.ptp(mean_face, axis=0).max() < np.inf:
            raise ModelError(f"{path}: mean_face must be {scheme.landmarks} different points, x and y")
        return mean_face
    if config.scheme in BUILT_IN:
        default = OnnxModel(packaged_models()[DEFAULT_MODEL], "cpu", 1).metadata
        if config.scheme == default.scheme.name:
            return default.mean_face
        try:
            return SchemeMapping.load(default.scheme.name, config.scheme)(default.mean_face)
        except DataError:  # no mapping
            pass
    return np.zeros((scheme.landmarks, 2))
