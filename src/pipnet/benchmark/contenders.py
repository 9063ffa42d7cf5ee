"""What is timed: a model on a backend, in a precision, with so many threads."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import UInt8

from pipnet.errors import MissingExtraError, PipnetError
from pipnet.hub import find_model
from pipnet.inference.backends import Backend, Precision, load_model
from pipnet.inference.views import CropModel


@dataclass(frozen=True)
class Contender:
    """A way to run a model."""

    model: str
    """A model's name or .onnx file; a .safetensors checkpoint for torch."""
    backend: str
    """onnxruntime, openvino, torch, or torch compiled."""
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
        return load_model(find_model(self.model), "cpu", backend, self.precision, self.threads)


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
    every = [
        Contender(model, backend, precision, count)
        for model in models
        for backend in backends
        for precision in precisions
        for count in threads
    ]
    return [one for one in every if _goes_together(one)]


BACKENDS = ("onnxruntime", "openvino", "torch", "torch compiled")


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
    network, info = load_checkpoint(Path(one.model))
    if one.backend == "torch compiled":
        setattr(network, "predict", torch.compile(network.predict))  # noqa: B010  (a method, for mypy)
    return TorchModel(network, info, one.precision == "bf16")


def memory_of(one: Contender, batch: int = 1) -> float:
    """Megabytes that a process of its own grows by when it loads a contender and runs it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grown, (one, batch))


def _grown(one: Contender, batch: int) -> float:
    before = _resident()
    model = one.load()
    size = model.info.input_size
    for _ in range(3):
        model(np.zeros((batch, size, size, 3), np.uint8))
    return round(_resident() - before, 1)


def _resident() -> float:
    """Megabytes of this process in memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * 4096 / 1e6


def crops_for(model: CropModel, batch: int) -> UInt8[np.ndarray, "batch s s 3"]:
    """Noise; how long a network takes does not depend on what it sees."""
    size = model.info.input_size
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)


def run_on(one: Contender, model: CropModel, batch: int = 1) -> Callable[[], object]:
    """One run of a contender's model on a batch."""
    crops = crops_for(model, batch)
    if not one.backend.startswith("torch"):
        return lambda: model(crops)
    import torch

    def run() -> object:
        torch.set_num_threads(one.threads)  # one number for the whole process: each sets its own
        return model(crops)

    return run
