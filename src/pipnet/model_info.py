"""What travels with a model's weights, in a checkpoint and in an ONNX file alike. No torch here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from pipnet.errors import DataError, ModelError
from pipnet.geometry import CropRule
from pipnet.inference.confidence import Calibration
from pipnet.scheme import LandmarkScheme

FORMAT = 1
"""Version of this description. Readers refuse newer ones."""


@dataclass(frozen=True, eq=False)
class ModelInfo:
    """A model's landmarks, crop, making and licence."""

    name: str
    """What the model is called."""
    scheme: LandmarkScheme
    """Its landmarks."""
    crop: CropRule
    """The crop that it learnt."""
    input_size: int
    """Side of the crop in pixels."""
    mean_face: Float64[np.ndarray, "landmarks 2"]
    """Mean of the training labels, as fractions of the crop."""
    config: dict[str, Any]
    """The network, as in `pipnet.model.pipnet.ModelConfig`."""
    detector_fits: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    """By detector: the face's box (`CropRule.box`) as fractions of the detector's box (left, top, right,
    bottom)."""
    licence: str = "unknown"
    """Who may use the weights for what."""
    training: str = "unknown"
    """What it was trained on and how, in one line."""
    calibration: Calibration | None = None
    """What its scores and spreads are worth; None: nobody measured."""

    def to_json(self) -> str:
        """One line of JSON."""
        table = {
            "format": FORMAT,
            "name": self.name,
            "scheme": self.scheme.to_dict(),
            "crop": asdict(self.crop),
            "input_size": self.input_size,
            "mean_face": self.mean_face.tolist(),
            "config": self.config,
            "detector_fits": self.detector_fits,
            "licence": self.licence,
            "training": self.training,
            "calibration": self.calibration and asdict(self.calibration),
        }
        return json.dumps(table)

    @classmethod
    def from_json(cls, text: str, where: str) -> ModelInfo:
        """The inverse of `to_json`; ``where`` is named in errors.

        Raises:
            ModelError: not such a description, or a newer format.
        """
        try:
            table = json.loads(text)
            if table["format"] > FORMAT:
                raise ModelError(f"{where}: made by a newer pipnet than this")
            info = cls(
                name=str(table["name"]),
                scheme=LandmarkScheme.from_dict(table["scheme"]),
                crop=CropRule(**table["crop"]),
                input_size=int(table["input_size"]),
                mean_face=np.array(table["mean_face"], dtype=np.float64),
                config=dict(table["config"]),
                detector_fits={k: _four(v) for k, v in table["detector_fits"].items()},
                licence=str(table["licence"]),
                training=str(table["training"]),
                calibration=Calibration.from_dict(table["calibration"]) if table.get("calibration") else None,
            )
            info.scheme.check(where)
            sound = (
                info.mean_face.shape == (info.scheme.landmarks, 2)
                and np.isfinite(info.mean_face).all()
                and np.abs(info.mean_face).max() < 100
                and np.ptp(info.mean_face, axis=0).max() > 0
                and all(is_box_step(step) for step in info.detector_fits.values())
                and 0 < info.crop.scale < 100
                and 0 < info.input_size <= 4096
                and (info.calibration is None or info.calibration.is_sound(info.scheme.landmarks))
            )
            if not sound:
                raise ValueError("a value is out of range")
        except (
            DataError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise ModelError(f"{where}: its description is damaged: {error!r}") from None
        return info


def is_box_step(step: tuple[float, float, float, float]) -> bool:
    """Whether fractions of a box can be a step from it to the face's: finite, a box, and not far off."""
    left, top, right, bottom = step
    return bool(np.isfinite(step).all()) and max(map(abs, step)) < 100 and left < right and top < bottom


def _four(values: Any) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(v) for v in values)
    return left, top, right, bottom
