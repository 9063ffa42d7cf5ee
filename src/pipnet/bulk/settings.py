"""What the labels depend on, beside the pictures: the model, and how it looks. Not who does the work."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipnet.errors import DataError, PipnetError
from pipnet.hub import find_model, packaged_models
from pipnet.inference.backends import Backend, Device, Precision
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.inference.views import Views
from pipnet.model_info import ModelInfo


@dataclass(frozen=True)
class Settings:
    """A landmarker that is the same in every process, and the size of a shard."""

    model: str
    """A model's name, ``.onnx`` file, folder or hub id."""
    detector: str
    """A detector's name; never ``auto``, which may mean another one elsewhere."""
    detector_size: int
    """Longest side of the picture that is searched, in pixels."""
    passes: int
    """How often to look at each face, see `FaceLandmarker`."""
    views: Views
    """In which views to look at each face."""
    any_roll: bool
    """Whether faces are found that lie on their side or upside down too."""
    max_pixels: int
    """Pictures with more pixels are refused before they are decoded."""
    device: Device
    """Where the network runs."""
    backend: Backend
    """What runs it."""
    precision: Precision
    """What it computes in."""
    shard_size: int
    """Pictures in a shard."""

    def landmarker(self, threads: int | None = None) -> FaceLandmarker:
        """The landmarker, with its detector loaded.

        Raises:
            PipnetError: no such model, detector, device or backend here.
        """
        if self.shard_size < 1:
            raise PipnetError(f"a shard has at least 1 picture, not {self.shard_size}")
        wanted = {k: v for k, v in asdict(self).items() if k not in ("model", "detector", "shard_size")}
        landmarker = FaceLandmarker.from_pretrained(self.model, self.detector, threads=threads, **wanted)
        _ = landmarker.detector
        return landmarker

    def facts(self) -> dict[str, Any]:
        """What of them a manifest holds beside the model."""
        return {key: value for key, value in asdict(self).items() if key != "model"}

    def model_checksum(self) -> str:
        """SHA-256 of the model's file.

        Raises:
            ModelError: there is none.
            DataError: it cannot be read.
        """
        path = find_model(self.model)
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def settle(settings: Settings) -> tuple[Settings, ModelInfo]:
    """Settings that mean the same in every process and folder, and what the model is.

    Args:
        settings: as a user gives them: the detector may be ``auto``, files may be relative.

    Raises:
        PipnetError: see `Settings.landmarker`.
    """
    landmarker = settings.landmarker()
    kind, _, file = settings.detector.partition(":")
    detector = landmarker.detector.kind if kind == "auto" else kind
    detector += f":{Path(file).absolute()}" if file else ""
    path = Path(settings.model)
    own = path.exists() and settings.model not in packaged_models()
    model = str(path.absolute()) if own else settings.model
    return replace(settings, model=model, detector=detector), landmarker.model.info
