"""Landmark networks of other projects: an ONNX file, and a TOML file that describes it.

::

    model = "PFLD_GhostOne.onnx"        # relative to this file
    scheme = "wflw"                     # what its points are
    input_size = 112
    mean = [0.5, 0.5, 0.5]              # RGB; input is (image / 255 - mean) / std, (batch, 3, size, size)
    std = [0.5, 0.5, 0.5]
    crop_scale = 1.2                    # side of the square crop over the longer side of the landmark box
    crop_shift_up = 0.07                # of that side; the crop's center lies so far above the box's
    license = "Apache-2.0"
    source = "github.com/AnthonyF333/PFLD_GhostOne at 7061b564"

The output is the one with two numbers a landmark: x and y as fractions of the crop. Such a network serves as
a model wherever one is taken: ``pipnet evaluate peer.toml``, ``pipnet teach --teacher teacher.toml``.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from jaxtyping import UInt8

from pipnet.errors import DataError, ModelError
from pipnet.geometry import CropConfig
from pipnet.inference.backends.base import CropLandmarks
from pipnet.metadata import ModelMetadata
from pipnet.scheme import LandmarkScheme

_BATCH = 64


@dataclass(frozen=True)
class ExternalModelConfig:
    """What a network of another project takes and gives."""

    model: Path
    """Its ONNX file."""
    scheme: str
    """What its points are: a scheme's name, or the path of its TOML file."""
    input_size: int
    """Side of the crop in pixels."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Subtracted from the RGB image in [0, 1]."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Divides the result."""
    crop_scale: float = 1.2
    """Side of the square crop over the longer side of the landmark box."""
    crop_shift_up: float = 0.0
    """How far the crop's center lies above the box's, in longer sides of the box."""
    license: str = "unknown"
    """What it may be used for."""
    source: str = "unknown"
    """Where it is from."""
    teacher_weight: float = 1.0
    """How much it counts among teachers."""
    adapter: Path | None = None
    """File of a `ShapeAdapter` to the teachers' common scheme."""

    @classmethod
    def load(cls, path: Path) -> ExternalModelConfig:
        """Read a TOML file. Paths in it are relative to it.

        Raises:
            ModelError: missing, no TOML, an unknown or missing key, or a value out of range.
        """
        try:
            table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise ModelError(f"{path}: not a readable TOML file: {error!s:.160}") from None
        known = [field.name for field in fields(cls)]
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
                raise ModelError(f"{path}: unknown key {key!r:.80}; {hint}")
        try:
            values = {**table, "model": path.parent / table["model"]}
            if "adapter" in table:
                values["adapter"] = path.parent / table["adapter"]
            for key in ("mean", "std"):
                if key in table:
                    values[key] = tuple(float(value) for value in table[key])
            config = cls(**values)
            sound = (
                type(config.input_size) is int
                and 0 < config.input_size <= 4096
                and len(config.mean) == len(config.std) == 3
                and all(np.isfinite(config.mean))
                and min(config.std) > 0
                and 0 < config.crop_scale < 100
                and abs(config.crop_shift_up) < 10
                and 0 < config.teacher_weight < 1e6
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: missing or wrong value: {error!s:.160}") from None
        if not sound:
            raise ModelError(f"{path}: a value is out of range")
        return config


class ExternalModel:
    """A network of another project as a `CropModel`. It gives no scores: all are 1."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load the network that a TOML file describes.

        Raises:
            ModelError: the description or the network is missing, damaged, or they do not fit each other.
        """
        self.path, self.config = path, ExternalModelConfig.load(path)
        config = self.config
        if not config.model.is_file():
            raise ModelError(f"{path}: its model is missing: {config.model}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            scheme = LandmarkScheme.load(config.scheme)
            self._session = onnxruntime.InferenceSession(str(config.model), options, ["CPUExecutionProvider"])
        except DataError as error:
            raise ModelError(f"{path}: {error}") from None
        except Exception as error:  # onnxruntime has its own unrelated exception for each cause
            raise ModelError(f"{config.model}: not a usable ONNX model: {error!s:.160}") from None
        self.metadata = ModelMetadata(
            name=path.stem,
            scheme=scheme,
            crop=CropConfig(scale=config.crop_scale, shift_up=config.crop_shift_up),
            input_size=config.input_size,
            mean_face=np.zeros((scheme.landmarks, 2)),
            config={"backbone": path.stem, "head": "external", "neighbors": 0},
            license=config.license,
            training=config.source,
        )

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """Return the landmarks of RGB crops at the network's size, as fractions of the crop.

        Raises:
            ModelError: the network cannot be run, or gives something else.
        """
        landmarks = self.metadata.scheme.landmarks
        parts = [np.zeros((0, landmarks, 2), np.float32)]
        parts += [self._run(crops[i : i + _BATCH]) for i in range(0, len(crops), _BATCH)]
        points = np.concatenate(parts)
        if not np.isfinite(points).all():
            raise ModelError(f"{self.config.model}: gives landmarks that are not finite")
        scores = np.ones(points.shape[:2], np.float32)
        return CropLandmarks(points, scores, np.zeros_like(scores))

    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> np.ndarray:
        mean, std = (np.array(value, np.float32) for value in (self.config.mean, self.config.std))
        images = ((crops.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
        name = self._session.get_inputs()[0].name
        try:
            outputs = self._session.run(None, {name: np.ascontiguousarray(images)})
        except Exception as error:  # as above
            raise ModelError(f"{self.config.model}: cannot be run: {error!s:.160}") from None
        shape = (len(crops), self.metadata.scheme.landmarks, 2)
        for output in outputs:
            if output.size == np.prod(shape):
                return np.asarray(output, np.float32).reshape(shape)
        raise ModelError(f"{self.config.model}: no output with {shape[1]} points a crop")
