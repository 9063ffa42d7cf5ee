"""Candidates of the benchmark: a model on a backend, in a precision, with a number of threads."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from pipnet.config import Backend, Device, Precision, RuntimeConfig
from pipnet.errors import MissingExtraError, PipnetError
from pipnet.hub import find_model
from pipnet.inference.backends.base import CropModel
from pipnet.inference.backends.load import load_model

BACKENDS = ("onnxruntime", "openvino", "torch", "torch compiled")


@dataclass(frozen=True)
class Candidate:
    """A model and what runs it."""

    model: str
    """A model's name or .onnx file; for torch, a .safetensors checkpoint."""
    backend: str
    """One of `BACKENDS`."""
    precision: Precision
    threads: int
    device: Device = "cpu"
    """Where ONNX Runtime runs it, see `RuntimeConfig.device`; other backends run on the CPU."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise PipnetError(f"unknown backend {self.backend!r:.80}; there are {', '.join(BACKENDS)}")
        _ = self.runtime

    @property
    def runtime(self) -> RuntimeConfig:
        """What runs the model, if it is not torch."""
        backend: Backend = "openvino" if self.backend == "openvino" else "onnxruntime"
        return RuntimeConfig(self.device, backend, self.precision, self.threads)

    @property
    def name(self) -> str:
        """Name of the candidate in tables."""
        threads = "thread" if self.threads == 1 else "threads"
        device = "" if self.device == "cpu" else f", {self.device}"
        return f"{Path(self.model).stem}, {self.backend} {self.precision}, {self.threads} {threads}{device}"

    @property
    def file(self) -> Path:
        """The file of the model.

        Raises:
            ModelError: there is no such model.
        """
        path = Path(self.model)
        return path if path.suffix == ".safetensors" else find_model(self.model)

    @property
    def is_possible(self) -> bool:
        """Whether the backend runs this kind of model in this precision on this device."""
        is_checkpoint = self.model.endswith(".safetensors")
        if is_checkpoint != self.backend.startswith("torch"):
            return False
        if self.backend != "onnxruntime":
            return self.device == "cpu"
        return self.precision != "bf16"

    def load(self) -> CropModel:
        """Load the model.

        Raises:
            PipnetError: see `load_model`; or an extra is missing.
        """
        if self.backend.startswith("torch"):
            return _load_torch(self)
        return load_model(self.file, self.runtime)


def list_candidates(
    models: Sequence[str],
    backends: Sequence[str],
    precisions: Sequence[Precision],
    threads: Sequence[int],
    devices: Sequence[Device] = ("cpu",),
) -> list[Candidate]:
    """Return all possible combinations, in this order.

    Raises:
        PipnetError: an unknown backend, precision or device, less than 1 thread, two models of one name, or
            a model that no backend runs.
    """
    stems = [Path(model).stem for model in models]
    if len(set(stems)) < len(stems):
        raise PipnetError(f"models need different file names, but two are equal: {', '.join(models):.200}")
    combinations = [Candidate(*values) for values in product(models, backends, precisions, threads, devices)]
    candidates = [candidate for candidate in combinations if candidate.is_possible]
    for model in models:
        if model not in {candidate.model for candidate in candidates}:
            where = "" if list(devices) == ["cpu"] else f" on {', '.join(devices)}"
            what = f"none of {', '.join(backends)} runs it in {', '.join(precisions)}{where}"
            raise PipnetError(f"{model}: {what}")
    return candidates


def _load_torch(candidate: Candidate) -> CropModel:
    try:
        import torch

        from pipnet.model.checkpoint import load_checkpoint
        from pipnet.model.torch_model import TorchModel
    except ImportError as error:
        raise MissingExtraError(str(error.name), "train") from None
    network, metadata = load_checkpoint(candidate.file)
    if candidate.backend == "torch compiled":
        setattr(network, "predict", torch.compile(network.predict))  # noqa: B010  (mypy: a method)
    return TorchModel(network, metadata, torch.bfloat16 if candidate.precision == "bf16" else torch.float32)


def measure_memory(candidate: Candidate) -> float | None:
    """Return the resident memory in MB of a separate process that loads and runs a candidate.

    None on systems other than Linux.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        megabytes: float | None = pool.submit(_resident_memory, candidate).result()
    return megabytes


def _resident_memory(candidate: Candidate) -> float | None:
    run = run_on_noise(candidate, candidate.load())
    for _ in range(3):
        run()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def run_on_noise(candidate: Candidate, model: CropModel, batch: int = 1) -> Callable[[], object]:
    """Return a function that runs a candidate's model on noise, which takes as long as on faces."""
    size = model.metadata.input_size
    crops = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    return with_threads(candidate, lambda: model(crops))


def with_threads(candidate: Candidate, run: Callable[[], object]) -> Callable[[], object]:
    """Return a function that runs with the candidate's threads, which torch sets for the whole process."""
    if not candidate.backend.startswith("torch"):
        return run
    import torch

    def run_with_threads() -> object:
        torch.set_num_threads(candidate.threads)
        return run()

    return run_with_threads
