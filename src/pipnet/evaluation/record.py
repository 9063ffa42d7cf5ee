"""What ``pipnet evaluate -o`` leaves behind: the numbers, and what they were measured on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipnet.errors import DataError
from pipnet.evaluation.evaluate import FaceErrors
from pipnet.io.atomic import write_text
from pipnet.metadata import ModelMetadata

FILE = "evaluation.json"
"""The file in the folder that ``pipnet evaluate -o`` writes."""
_T = TypeVar("_T")
_EYE_CORNERS = {29: [8, 9], 68: [36, 45], 98: [60, 72]}
"""The outer eye corners by the number of landmarks."""


@dataclass(frozen=True)
class Measured:
    """One evaluation of a model of ours."""

    model: str
    """What the model is called."""
    data: str
    """Title of the collection, such as ``300-W``."""
    subset: str
    """Its part, such as ``common``."""
    nme: float
    """Mean NME in percent, in the picture's pixels."""
    official: float
    """The same in the papers' crop, stretched to a square."""
    faces: int
    """How many faces were to be measured."""
    missed: int
    """How many of them the detector did not find; they are no part of the NME."""
    detector: str | None
    """Which detector found the faces; None: the true boxes were given."""
    composites: bool
    """Whether the faces were pasted onto other photos."""
    refine_steps: int
    """How often each face was cropped again around its prediction."""
    tta: str
    """Test-time augmentation; ``none``: one crop a face."""
    training: str
    """What the model was trained on and how, in one line."""
    backbone: str
    """The network's backbone by timm's name."""
    head: str
    """How its landmarks are represented: ``pip``, ``coord`` or ``map``."""
    neighbors: int
    """How many neighbors each landmark votes for; 0: without the Neighbor Regression Module."""
    input_size: int
    """Side of the crop in pixels."""
    landmarks: int
    """How many landmarks a face was measured on."""
    norm: str
    """The unit of the NME, in words: ``inter-ocular`` for the outer eye corners."""


def write_record(folder: Path, metadata: ModelMetadata, how: dict[str, Any], errors: FaceErrors) -> None:
    """Write an evaluation into a folder, with the NME of every face.

    Args:
        folder: where to.
        metadata: the model.
        how: what it was measured on and how, by the names of `Measured`: data, subset, detector, composites,
            refine_steps, tta, norm.
        errors: what was measured.

    Raises:
        WriteError: it cannot be written.
    """
    kept = {
        "model": metadata.name,
        **how,
        "training": metadata.training,
        "network": metadata.config,
        "input_size": metadata.input_size,
        "landmarks": metadata.scheme.landmarks,
        **errors.summary(metadata.scheme),
        "missed_faces": [sample.name for sample in errors.missed],
        "per_face": [
            {"face": sample.name, "nme": round(100 * float(nme), 4)}
            for sample, nme in zip(errors.samples, errors.nmes, strict=True)
        ],
    }
    write_text(folder / FILE, json.dumps(kept, indent=1))


def read_records(paths: Sequence[Path]) -> list[Measured]:
    """The evaluations in files, and in all files of that name within folders.

    Raises:
        DataError: a path is missing, a folder holds none, or a file is no evaluation.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.rglob(FILE)) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path}: holds no {FILE}; make one with: pipnet evaluate ... -o {path}")
        files += found
    return [_read(file, _parse) for file in files]


def read_faces(path: Path) -> dict[str, float]:
    """The NME in percent of every face that was found, by its name.

    Args:
        path: an evaluation's file.

    Raises:
        DataError: it is missing, or no evaluation.
    """
    return _read(path, _parse_faces)


def _read(path: Path, parse: Callable[[Any], _T]) -> _T:
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"it holds no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DataError(f"{path}: no {FILE} of this version of pipnet: {reason:.160}") from None


def _parse(table: Any) -> Measured:
    """An evaluation from the content of its file.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: it is none.
    """
    if not isinstance(table, dict):
        raise TypeError(f"a {type(table).__name__}")
    network, detector = table["network"], table["detector"]
    return Measured(
        model=_text(table["model"]),
        data=_text(table["data"]),
        subset=_text(table["subset"]),
        nme=_percent(table["pixels"]["nme"]),
        official=_percent(table["official"]["nme"]),
        faces=_count(table["faces"]),
        missed=_count(table["missed"]),
        detector=None if detector is None else _text(detector),
        composites=bool(table["composites"]),
        refine_steps=_count(table["refine_steps"]),
        tta=_text(table["tta"]),
        training=_text(table["training"]),
        backbone=_text(network["backbone"]),
        head=_text(network["head"]),
        neighbors=_count(network["neighbors"]),
        input_size=_count(table["input_size"]),
        landmarks=_count(table["landmarks"]),
        norm=_norm(table["norm"], table["landmarks"]),
    )


def _parse_faces(table: Any) -> dict[str, float]:
    """As `_parse`, but what each face has."""
    return {_text(row["face"]): _percent(row["nme"]) for row in table["per_face"]}


def _text(value: Any) -> str:
    """A text on one line, without control characters."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return "".join(c for c in " ".join(value.split()) if c.isprintable())


def _norm(value: Any, landmarks: int) -> str:
    """A scheme's norm in words."""
    if value == _EYE_CORNERS.get(landmarks):
        return "inter-ocular"
    if isinstance(value, str):
        return {"box": "side of the face's box", "diagonal": "diagonal of the face's box"}.get(
            value, _text(value)
        )
    a, b = value
    return f"landmarks {_count(a)} to {_count(b)}"


def _percent(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise ValueError(f"{value!r:.40} is no NME")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.40} is no number of things")
    return value
