"""Metadata of a model, stored with its weights in checkpoints and ONNX files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from pipnet.box_adapter import BoxAdapter, check_box_format, find_adapter
from pipnet.confidence import Calibration
from pipnet.errors import DataError, ModelError
from pipnet.field_checks import check_fields
from pipnet.geometry import CropConfig
from pipnet.scheme import LandmarkScheme

FORMAT = 2
"""Version of the metadata. Earlier ones are read, newer ones are refused."""
MIN_CROP_SCALE = 0.1
"""The smallest `CropConfig.scale`: a crop shows at least a tenth of the face's box."""
MAX_INPUT_SIZE = 2048
"""The largest side of a network's input in pixels."""
EXTERNAL = "external"
"""``config["head"]`` of a network of another project."""


@dataclass(frozen=True, eq=False)
class ModelMetadata:
    """A model's landmarks, crop, training and license."""

    name: str
    """Name of the model."""
    scheme: LandmarkScheme
    """Landmark scheme."""
    crop: CropConfig
    """Settings of the crop that the model was trained on."""
    input_size: int
    """Side of the crop in pixels."""
    mean_face: Float64[np.ndarray, "landmarks 2"]
    """Mean of the training labels, as fractions of the crop. All zeros if unknown, which is possible for
    networks of other projects only; see `require_mean_face`."""
    config: dict[str, Any]
    """Fields of the network's `pipnet.model.config.ModelConfig`."""
    box_adapters: dict[str, BoxAdapter] = field(default_factory=dict)
    """Box adapters by box format, such as the name of a detector."""
    license: str = "unknown"
    """License of the weights."""
    training: str = "unknown"
    """Training data and method, in one line."""
    calibration: Calibration | None = None
    """Calibration of the confidence; None if the model is not calibrated."""

    @property
    def has_scores(self) -> bool:
        """Whether the model predicts scores; networks of other projects do not."""
        return self.config.get("head") != EXTERNAL

    def require_mean_face(self, purpose: str) -> Float64[np.ndarray, "landmarks 2"]:
        """Return the mean face.

        Args:
            purpose: what it is needed for, for the message.

        Raises:
            ModelError: the mean face is unknown.
        """
        if not self.mean_face.any():
            raise ModelError(
                f"model {self.name!r}: {purpose} needs its mean face: add mean_face to its .toml file"
            )
        return self.mean_face

    def box_adapter(self, box_format: str) -> BoxAdapter:
        """Return the adapter from boxes of a format to the boxes that crops are cut around.

        Args:
            box_format: ``"face"``, ``"landmarks"``, ``"full_image"``, ``"model"`` or a detector's name, see
                `pipnet.box_adapter`.

        Raises:
            ModelError: the model has no adapter for this box format.
        """
        return find_adapter(self.box_adapters, box_format, self.name)

    def with_box_adapter(self, box_format: str, adapter: BoxAdapter) -> ModelMetadata:
        """Return the metadata with a box adapter added or replaced.

        Raises:
            ModelError: the name is malformed or reserved, or the adapter is out of range.
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
            "crop": _crop_table(self.crop),
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
        """Parse the output of `to_json`, of this format or an earlier one.

        Args:
            text: the JSON.
            source: path or name of the file, for messages.

        Raises:
            ModelError: malformed, a value out of range, or a newer format.
        """
        try:
            table = json.loads(text)
            json.dumps(table, ensure_ascii=False).encode()  # refuses texts that cannot be printed
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
            crop=_crop(table["crop"]),
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
            and MIN_CROP_SCALE <= self.crop.scale < 100
            and abs(self.crop.shift_up) <= 10
            and 0 < self.input_size <= MAX_INPUT_SIZE
            and (self.calibration is None or self.calibration.is_valid(self.scheme.landmarks))
        )


def _crop_table(crop: CropConfig) -> dict[str, Any]:
    """Return a crop as a table, which earlier versions can read unless it has the rule that they lack."""
    table = asdict(crop)
    return table if crop.whole_pixels else {k: v for k, v in table.items() if k != "whole_pixels"}


def _crop(table: dict[str, Any]) -> CropConfig:
    """Return the crop of plain data."""
    crop = CropConfig(**table)
    check_fields(crop, DataError, "crop.")
    if not all(type(value) is bool for value in (crop.square, crop.clip, crop.whole_pixels)):
        raise ValueError("square, clip and whole_pixels of a crop are true or false")
    return replace(crop, scale=float(crop.scale), shift_up=float(crop.shift_up))


_MALFORMED = (DataError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def _from_format_1(table: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys of format 1 (until version 0.1)."""
    adapters, crop = dict(table["detector_fits"]), dict(table["crop"])
    if crop.get("box") == "given":
        crop["box"] = "dataset"
    return {**table, "crop": crop, "box_adapters": adapters, "license": table["licence"]}
