"""``evaluation.json``, the record that ``pipnet evaluate -o`` writes: the metrics and the settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipnet.errors import DataError
from pipnet.evaluation.evaluate import FaceErrors
from pipnet.io.atomic import write_text
from pipnet.io.regular_file import read_file
from pipnet.metadata import ModelMetadata

FILE = "evaluation.json"
"""Name of the file in the output folder of ``pipnet evaluate``."""
_T = TypeVar("_T")
_EYE_CORNERS = {29: [8, 9], 68: [36, 45], 98: [60, 72]}
"""The outer eye corners by the number of landmarks."""
_BOX_NORMS = {"box": "side of the face's box", "diagonal": "diagonal of the face's box"}


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation of a model."""

    model: str
    """Name of the model."""
    data: str
    """Title of the dataset, such as ``300-W``."""
    subset: str
    """Subset of the dataset, such as ``common``."""
    nme: float
    """Mean NME in percent, in pixels of the image."""
    official: float
    """Mean NME in percent, in the papers' crop, stretched to a square."""
    faces: int
    """Number of faces, missed ones included."""
    missed: int
    """Number of faces that the detector missed. They are not part of the NME."""
    detector: str | None
    """The detector that found the faces; None: the true boxes were given."""
    composites: bool
    """Whether the faces were pasted into larger images, see `pipnet.evaluation.composite_images`."""
    refine_steps: int
    """How often each face was cropped again around its prediction."""
    tta: str
    """Test-time augmentation; ``none``: one crop a face."""
    training: str
    """What the model was trained on and how, in one line."""
    backbone: str
    """Name of the backbone in timm."""
    head: str
    """Type of the head: ``pip``, ``coord`` or ``map``."""
    neighbors: int
    """Number of neighbors that each landmark votes for; 0: without the neighbor regression module."""
    input_size: int
    """Side of the crop in pixels."""
    landmarks: int
    """Number of landmarks of a face."""
    norm: str
    """The unit of the NME in words: ``inter-ocular`` for the outer eye corners."""


def write_record(folder: Path, metadata: ModelMetadata, settings: dict[str, Any], errors: FaceErrors) -> None:
    """Write the record of an evaluation, with the NME of every face, into a folder.

    Args:
        folder: the folder to write to.
        metadata: the metadata of the model.
        settings: the fields of `EvaluationRecord` that the metadata and the errors do not tell: data, subset,
            detector, composites, refine_steps, tta, norm.
        errors: the result.

    Raises:
        WriteError: it cannot be written.
    """
    content = {
        "model": metadata.name,
        **settings,
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
    write_text(folder / FILE, json.dumps(content, indent=1))


def read_records(paths: Sequence[Path]) -> list[EvaluationRecord]:
    """Return the records in files, and in all ``evaluation.json`` files below folders.

    Raises:
        DataError: a path is missing, a folder contains no record, or a file is not a record.
    """
    files: list[Path] = []
    for path in paths:
        matches = sorted(path.rglob(FILE)) if path.is_dir() else [path]
        if not matches:
            raise DataError(f"{path}: contains no {FILE}; make one with: pipnet evaluate ... -o {path}")
        files += matches
    return [_read(file, _parse) for file in files]


def read_face_nmes(path: Path) -> dict[str, float]:
    """Return the NME in percent of every face that was not missed, by its name, from a record's file.

    Raises:
        DataError: the file is missing, or not a record.
    """
    return _read(path, lambda table: {_text(row["face"]): _percent(row["nme"]) for row in table["per_face"]})


def _read(path: Path, parse: Callable[[Any], _T]) -> _T:
    try:
        return parse(json.loads(read_file(path).decode("utf-8")))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DataError(f"{path}: not an {FILE} of this version of pipnet: {reason:.160}") from None


def _parse(table: Any) -> EvaluationRecord:
    """Return a record from the content of its file; any exception that `_read` catches means it is none."""
    if not isinstance(table, dict):
        raise TypeError(f"a {type(table).__name__}")
    network, detector = table["network"], table["detector"]
    values: dict[str, Any] = {
        key: _text(table[key]) for key in ("model", "data", "subset", "tta", "training")
    }
    values |= {
        key: _count(table[key]) for key in ("faces", "missed", "refine_steps", "input_size", "landmarks")
    }
    return EvaluationRecord(
        **values,
        nme=_percent(table["pixels"]["nme"]),
        official=_percent(table["official"]["nme"]),
        detector=None if detector is None else _text(detector),
        composites=bool(table["composites"]),
        backbone=_text(network["backbone"]),
        head=_text(network["head"]),
        neighbors=_count(network["neighbors"]),
        norm=_norm(table["norm"], table["landmarks"]),
    )


def _text(value: Any) -> str:
    """Return a text on one line, without control characters."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return "".join(c for c in " ".join(value.split()) if c.isprintable())


def _norm(value: Any, landmarks: int) -> str:
    """Return a scheme's norm in words."""
    if value == _EYE_CORNERS.get(landmarks):
        return "inter-ocular"
    if isinstance(value, str):
        return _BOX_NORMS.get(value, _text(value))
    a, b = value
    return f"landmarks {_count(a)} to {_count(b)}"


def _percent(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise ValueError(f"{value!r:.40} is not an NME")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.40} is not a count")
    return value
