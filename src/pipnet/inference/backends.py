"""What runs an exported model: ONNX Runtime, always there, or OpenVINO (extra ``openvino``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import onnxruntime
from jaxtyping import Float32, UInt8

from pipnet.errors import ModelError, PipnetError
from pipnet.model_info import ModelInfo

if TYPE_CHECKING:
    from pipnet.inference.views import CropModel

Device = Literal["auto", "cpu", "cuda", "coreml", "directml"]
"""Where a network runs; ``auto`` takes a graphics card where ONNX Runtime has one."""
Backend = Literal["auto", "onnxruntime", "openvino"]
"""What runs it; ``auto`` takes OpenVINO on a processor where bf16 is asked for, else ONNX Runtime."""
Precision = Literal["f32", "bf16"]
"""What it computes in. bf16 is faster where the processor has it, and moves landmarks a little."""
_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_BATCH = 64
"""Crops a run; more only costs memory."""
OUTPUTS = ["landmarks", "scores", "spread"]
"""What every exported graph gives."""


class CropLandmarks(NamedTuple):
    """What the model says of each crop."""

    points: Float32[np.ndarray, "faces landmarks 2"]
    """Fractions of the crop."""
    scores: Float32[np.ndarray, "faces landmarks"]
    """Peak of each landmark's score map, in [0, 1]."""
    spread: Float32[np.ndarray, "faces landmarks"]
    """Disagreement of the votes, as a fraction of the crop."""


@dataclass(frozen=True)
class Runtime:
    """What runs a network, and how. The flags of every command that runs one."""

    device: Device = "auto"
    """Where the network runs."""
    backend: Backend = "auto"
    """What runs it: onnxruntime, or openvino (pip install 'pipnet[openvino]')."""
    precision: Precision = "f32"
    """What it computes in: f32, or bf16 (openvino), faster where the processor has it."""
    threads: int | None = None
    """How many threads the network may use; the backend decides if not given."""


def load_model(path: Path, runtime: Runtime = Runtime()) -> CropModel:
    """A model file, ready to run.

    Args:
        path: an .onnx file exported by pipnet, or the .toml file of another project's network, see
            `pipnet.inference.external`, which runs in ONNX Runtime on the CPU.
        runtime: what runs it.

    Raises:
        ModelError: missing, damaged, or not exported by pipnet.
        MissingExtraError: OpenVINO is asked for and not installed.
        PipnetError: no such device, backend or precision, or they do not go together.
    """
    if path.suffix == ".toml":
        from pipnet.inference.external import ExternalModel

        return ExternalModel(path, runtime.threads)
    device, backend = runtime.device, runtime.backend
    precision, threads = runtime.precision, runtime.threads
    for value, known, what in (
        (device, Device, "device"),
        (backend, Backend, "backend"),
        (precision, Precision, "precision"),
    ):
        if value not in get_args(known):
            raise PipnetError(f"no {what} {value!r}: {', '.join(get_args(known))}")
    if threads is not None and threads < 1:
        raise PipnetError(f"threads must be at least 1, not {threads}")
    if backend == "auto":
        backend = "openvino" if precision == "bf16" else "onnxruntime"
    if backend == "onnxruntime":
        if precision != "f32":
            raise PipnetError("ONNX Runtime computes in f32 here; for bf16 take the backend openvino")
        return OnnxModel(path, device, threads)
    if device not in ("auto", "cpu"):
        raise PipnetError(f"OpenVINO runs on the cpu here, not on {device}")
    from pipnet.inference.openvino import OpenVinoModel

    return OpenVinoModel(path, precision, threads)


def check_graph(path: Path, info: ModelInfo, shapes: dict[str, list[int]]) -> None:
    """Refuse a graph whose inputs and outputs are not what its description says.

    Args:
        path: the file, for the message.
        info: its description.
        shapes: of its inputs and outputs by name, without the batch.

    Raises:
        ModelError: they differ.
    """
    size, landmarks = info.input_size, info.scheme.landmarks
    each = [landmarks]
    expected = {"image": [size, size, 3], "landmarks": [landmarks, 2], "scores": each, "spread": each}
    if shapes != expected:
        raise ModelError(f"{path}: its graph takes and gives {shapes}, its description says {expected}")


def in_batches(
    path: Path,
    info: ModelInfo,
    run: Callable[[UInt8[np.ndarray, "faces s s 3"]], Sequence[np.ndarray]],
    crops: UInt8[np.ndarray, "faces s s 3"],
) -> CropLandmarks:
    """What a model says of any number of crops.

    Args:
        path: its file, for the message.
        info: its description.
        run: gives landmarks, scores and spread of a batch.
        crops: RGB, at the model's size.

    Raises:
        ModelError: it cannot be run.
    """
    landmarks = info.scheme.landmarks
    each = np.zeros((0, landmarks), np.float32)
    parts: list[Sequence[np.ndarray]] = [(np.zeros((0, landmarks, 2), np.float32), each, each)]
    try:
        parts += [run(crops[i : i + _BATCH]) for i in range(0, len(crops), _BATCH)]
    except MemoryError:
        raise
    except Exception as error:  # both backends have unrelated exceptions for each cause
        raise ModelError(f"{path}: cannot be run: {' '.join(str(error).split()):.160}") from None
    shapes = [(len(crops), landmarks, 2), (len(crops), landmarks), (len(crops), landmarks)]
    try:
        points, scores, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
    except ValueError as error:
        raise ModelError(f"{path}: gives other shapes than its graph says: {error}") from None
    if [points.shape, scores.shape, spread.shape] != shapes:
        raise ModelError(f"{path}: gives {points.shape[0]} answers for {len(crops)} crops")
    if not all(np.isfinite(part).all() for part in (points, scores, spread)):
        raise ModelError(f"{path}: gives landmarks that are no numbers: its weights are damaged")
    return CropLandmarks(points, scores, spread)


class OnnxModel:
    """A model in ONNX Runtime."""

    def __init__(self, path: Path, device: Device = "auto", threads: int | None = None) -> None:
        """Load a model.

        Raises:
            ModelError: missing, damaged, or not exported by pipnet.
            PipnetError: this onnxruntime cannot run on that device.
        """
        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
        self._how = (path, device, threads)
        self._session = _session(path, device, threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if "pipnet" not in metadata:
            raise ModelError(f"{path}: an ONNX model, but not one exported by pipnet")
        self.path = path
        self.info = ModelInfo.from_json(metadata["pipnet"], str(path))
        self.provider = self._session.get_providers()[0]
        ends = (*self._session.get_inputs(), *self._session.get_outputs())
        check_graph(path, self.info, {end.name: end.shape[1:] for end in ends})

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """RGB crops at the model's size -> landmarks, in batches."""
        return in_batches(self.path, self.info, self._run, crops)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its file and settings, and what it was taught since: another process loads it anew."""
        return type(self), self._how, {"info": self.info}

    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> Sequence[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(OUTPUTS, {"image": crops})
        return outputs


def _session(path: Path, device: Device, threads: int | None) -> onnxruntime.InferenceSession:
    """The model on the wanted device; ``auto`` takes the first that works."""
    there = onnxruntime.get_available_providers()
    # Not CoreML: whether it keeps the arg-max of the score maps has not been measured.
    wanted = (
        [d for d in ("cuda", "directml", "cpu") if _PROVIDERS[d] in there] if device == "auto" else [device]
    )
    if _PROVIDERS[wanted[0]] not in there:
        able = ", ".join(d for d, p in _PROVIDERS.items() if p in there)
        raise PipnetError(f"this onnxruntime cannot run on {device}, only on {able}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Waiting threads may spin during a run, but not after it, when the detector needs the processor.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    reason = ""
    for name in wanted:
        providers = list(dict.fromkeys([_PROVIDERS[name], _PROVIDERS["cpu"]]))
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers, enable_fallback=0)
        except Exception as error:  # onnxruntime has its own unrelated exception for each cause
            reason = " ".join(str(error).split())
            continue
        if device in ("auto", "cpu") or session.get_providers()[0] == _PROVIDERS[name]:
            return session
        raise PipnetError(f"onnxruntime could not start on {device}: see its installation notes")
    raise ModelError(f"{path}: not a usable ONNX model: {reason:.160}")
