"""What is timed: a model on a backend, in a precision, with a number of threads."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import UInt8

from pipnet.config import Backend, Precision, RuntimeConfig
from pipnet.errors import MissingExtraError, PipnetError
from pipnet.hub import find_model
from pipnet.inference.backends.base import CropModel
from pipnet.inference.backends.load import load_model

BACKENDS = ("onnxruntime", "openvino", "torch", "torch compiled")


@dataclass(frozen=True)
class Contender:
    """A way to run a model."""

    model: str
    """A model's name or .onnx file; a .safetensors checkpoint for torch."""
    backend: str
    """One of `BACKENDS`."""
    precision: Precision
    threads: int

    @property
    def name(self) -> str:
        """What it is called in tables."""
        threads = "thread" if self.threads == 1 else "threads"
        return f"{Path(self.model).stem}, {self.backend} {self.precision}, {self.threads} {threads}"

    def load(self) -> CropModel:
        """The model, ready to run.

        Raises:
            PipnetError: as `load_model`; a missing extra too.
        """
        if self.backend.startswith("torch"):
            return _torch_model(self)
        backend: Backend = "openvino" if self.backend == "openvino" else "onnxruntime"
        return load_model(find_model(self.model), RuntimeConfig("cpu", backend, self.precision, self.threads))


def contenders(
    models: Sequence[str], backends: Sequence[str], precisions: Sequence[Precision], threads: Sequence[int]
) -> list[Contender]:
    """All of what goes together, in this order."""
    for given, known, what in (
        (backends, BACKENDS, "backend"),
        (precisions, get_args(Precision), "precision"),
    ):
        for one in given:
            if one not in known:
                raise PipnetError(f"no {what} {one!r}: {', '.join(known)}")
    for count in threads:
        if count < 1:
            raise PipnetError(f"threads must be at least 1, not {count}")
    stems = [Path(model).stem for model in models]
    if len(set(stems)) < len(stems):
        raise PipnetError(f"models are told apart by name, but these have the same: {', '.join(models)}")
    every = [
        Contender(model, backend, precision, count)
        for model in models
        for backend in backends
        for precision in precisions
        for count in threads
    ]
    chosen = [one for one in every if _goes_together(one)]
    for model in models:
        if model not in {one.model for one in chosen}:
            raise PipnetError(f"{model}: none of {', '.join(backends)} runs it in {', '.join(precisions)}")
    return chosen


def _goes_together(one: Contender) -> bool:
    checkpoint = one.model.endswith(".safetensors")
    if checkpoint != one.backend.startswith("torch"):
        return False
    return not (one.backend == "onnxruntime" and one.precision == "bf16")


def _torch_model(one: Contender) -> CropModel:
    try:
        import torch

        from pipnet.model.checkpoint import load_checkpoint
        from pipnet.model.predictor import TorchModel
    except ImportError as error:
        raise MissingExtraError(str(error.name), "train") from None
    network, metadata = load_checkpoint(Path(one.model))
    if one.backend == "torch compiled":
        setattr(network, "predict", torch.compile(network.predict))  # noqa: B010  (a method, for mypy)
    return TorchModel(network, metadata, one.precision == "bf16")


def memory_of(one: Contender) -> float | None:
    """Megabytes in memory of a process of its own that loads a contender and runs it; None off Linux."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        megabytes: float | None = pool.submit(_resident, one).result()
    return megabytes


def _resident(one: Contender) -> float | None:
    model = one.load()
    for _ in range(3):
        model(crops_for(model, 1))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def crops_for(model: CropModel, batch: int) -> UInt8[np.ndarray, "batch s s 3"]:
    """Noise; how long a network takes does not depend on what it sees."""
    size = model.metadata.input_size
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)


def run_on(one: Contender, model: CropModel, batch: int = 1) -> Callable[[], object]:
    """One run of a contender's model on a batch."""
    crops = crops_for(model, batch)
    return with_threads(one, lambda: model(crops))


def with_threads(one: Contender, run: Callable[[], object]) -> Callable[[], object]:
    """The same, with the contender's number of threads; torch has one number for the whole process."""
    if not one.backend.startswith("torch"):
        return run
    import torch

    def with_own() -> object:
        torch.set_num_threads(one.threads)
        return run()

    return with_own
