"""What the labels of a job depend on, beside the images: the model, and how it is used. Not who does the work."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipnet.config import LandmarkerConfig, RuntimeConfig
from pipnet.errors import DataError, PipnetError
from pipnet.hub import find_model, packaged_models
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.metadata import ModelMetadata


@dataclass(frozen=True)
class JobConfig:
    """A landmarker that is the same in every process, and the size of a shard."""

    landmarker: LandmarkerConfig
    """How faces are found; its detector is never ``auto``, which may mean another one elsewhere."""
    runtime: RuntimeConfig
    """What runs the network; its threads are not used."""
    shard_size: int
    """Images in a shard."""

    def load(self, threads: int | None = None) -> FaceLandmarker:
        """Load the landmarker and its detector.

        Raises:
            PipnetError: no such model, detector, device or backend here.
        """
        if self.shard_size < 1:
            raise PipnetError(f"a shard has at least 1 image, not {self.shard_size}")
        options = asdict(self.landmarker) | asdict(replace(self.runtime, threads=threads))
        landmarker = FaceLandmarker(**options)
        _ = landmarker.detector
        return landmarker

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest holds of it beside the model."""
        options = asdict(self.landmarker) | asdict(self.runtime) | {"shard_size": self.shard_size}
        return {name: value for name, value in options.items() if name not in ("model", "threads")}

    def model_checksum(self) -> str:
        """Return the SHA-256 of the model's file.

        Raises:
            ModelError: there is none.
            DataError: it cannot be read.
        """
        path = find_model(self.landmarker.model)
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def resolve(config: JobConfig) -> tuple[JobConfig, ModelMetadata]:
    """Return a configuration that means the same in every process and folder, and the model's metadata.

    Args:
        config: as a user gives it: the detector may be ``auto``, files may be relative.

    Raises:
        PipnetError: see `JobConfig.load`.
    """
    loaded, wanted = config.load(), config.landmarker
    name, _, file = wanted.detector.partition(":")
    detector = loaded.detector.box_format if name == "auto" else name
    detector += f":{Path(file).absolute()}" if file else ""
    path = Path(wanted.model)
    own = path.exists() and wanted.model not in packaged_models()
    model = str(path.absolute()) if own else wanted.model
    landmarker = replace(wanted, model=model, detector=detector)
    return replace(config, landmarker=landmarker), loaded.metadata
