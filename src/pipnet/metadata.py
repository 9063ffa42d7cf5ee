"""Metadata of a model: what travels with its weights, in a checkpoint and in an ONNX file alike."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from pipnet.box_adapter import BoxAdapter, check_box_format, find_adapter
from pipnet.confidence import Calibration
from pipnet.errors import DataError, ModelError
from pipnet.geometry import CropConfig
from pipnet.scheme import LandmarkScheme

FORMAT = 2
"""Version of the metadata. Earlier ones are read, newer ones are refused."""


@dataclass(frozen=True, eq=False)
class ModelMetadata:
    """A model's landmarks, crop, training and license."""

    name: str
    """What the model is called."""
    scheme: LandmarkScheme
    """Its landmarks."""
    crop: CropConfig
    """The crop that it was trained on."""
    input_size: int
    """Side of the crop in pixels."""
    mean_face: Float64[np.ndarray, "landmarks 2"]
    """Mean of the training labels, as fractions of the crop."""
    config: dict[str, Any]
    """The network, as in `pipnet.model.pipnet.ModelConfig`."""
    box_adapters: dict[str, BoxAdapter] = field(default_factory=dict)
    """By box format, such as a detector's name."""
    license: str = "unknown"
    """Who may use the weights for what."""
    training: str = "unknown"
    """What it was trained on and how, in one line."""
    calibration: Calibration | None = None
    """Calibration of its confidence; None: it is not calibrated."""

    def box_adapter(self, box_format: str) -> BoxAdapter:
        """Return the adapter from boxes of a format to those that crops are cut around.

        Args:
            box_format: ``"face"``, ``"landmarks"``, ``"full_image"``, ``"model"`` or a detector's name, see
                `pipnet.box_adapter`.

        Raises:
            ModelError: the model was not fitted to such boxes.
        """
        return find_adapter(self.box_adapters, box_format, self.name)

    def with_box_adapter(self, box_format: str, adapter: BoxAdapter) -> ModelMetadata:
        """Return the metadata with one more box adapter, or another one for this format.

        Raises:
            ModelError: no name for a box format, or an adapter out of range.
        """
        check_box_format(box_format)
        if not adapter.is_valid:
            raise ModelError(f"boxes of format {box_format!r} do not fit: faces are far outside of them")
        return replace(self, box_adapters={**self.box_adapters, box_format: adapter})

    def to_json(self) -> str:
        """Return the metadata as one line of JSON."""
        table = {
            "format": FORMAT,
            "name": self.name,
            "scheme": self.scheme.to_dict(),
            "crop": asdict(self.crop),
            "input_size": self.input_size,
            "mean_face": self.mean_face.tolist(),
            "config": self.config,
            "box_adapters": self.box_adapters,
            "license": self.license,
            "training": self.training,
            "calibration": self.calibration and asdict(self.calibration),
        }
        return json.dumps(table)

    @classmethod
    def from_json(cls, text: str, source: str) -> ModelMetadata:
        """Parse what `to_json` gave, of this format or an earlier one.

        Args:
            text: the JSON.
            source: where it is from, for messages.

        Raises:
            ModelError: malformed, a value out of range, or a newer format.
        """
        try:
            table = json.loads(text)
            if table["format"] > FORMAT:
                raise ModelError(f"{source}: made by a newer version of pipnet: upgrade it")
            metadata = cls._from_table(_from_format_1(table) if table["format"] == 1 else table)
            metadata.scheme.check(source)
            if not metadata._is_in_range():
                raise ValueError("a value is out of range")
        except _MALFORMED as error:
            raise ModelError(f"{source}: malformed metadata: {error!r:.160}") from None
        return metadata

    @classmethod
    def _from_table(cls, table: dict[str, Any]) -> ModelMetadata:
        return cls(
            name=str(table["name"]),
            scheme=LandmarkScheme.from_dict(table["scheme"]),
            crop=CropConfig(**table["crop"]),
            input_size=int(table["input_size"]),
            mean_face=np.array(table["mean_face"], dtype=np.float64),
            config=dict(table["config"]),
            box_adapters={k: BoxAdapter.from_list(v) for k, v in table["box_adapters"].items()},
            license=str(table["license"]),
            training=str(table["training"]),
            calibration=Calibration.from_dict(table["calibration"]) if table.get("calibration") else None,
        )

    def _is_in_range(self) -> bool:
        return bool(
            self.mean_face.shape == (self.scheme.landmarks, 2)
            and np.isfinite(self.mean_face).all()
            and np.abs(self.mean_face).max() < 100
            and np.ptp(self.mean_face, axis=0).max() > 0
            and 0 < self.crop.scale < 100
            and 0 < self.input_size <= 4096
            and (self.calibration is None or self.calibration.is_valid(self.scheme.landmarks))
        )


_MALFORMED = (DataError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def _from_format_1(table: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys of format 1 (until version 0.1)."""
    adapters, crop = dict(table["detector_fits"]), dict(table["crop"])
    if crop.get("box") == "given":
        crop["box"] = "dataset"
    return {**table, "crop": crop, "box_adapters": adapters, "license": table["licence"]}
