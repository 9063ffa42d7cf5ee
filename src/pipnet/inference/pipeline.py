"""The steps from images to landmarks: detect faces, adapt their boxes, predict, refine, build, select.

`FaceLandmarker`, video, bulk jobs, evaluation and pseudo-labeling all call these steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from pipnet.config import LandmarkerConfig
from pipnet.errors import ModelError
from pipnet.geometry import Image
from pipnet.inference.backends.base import CropModel
from pipnet.inference.crop_search import CropSearch
from pipnet.inference.detectors.base import Detections, FaceDetector
from pipnet.inference.detectors.load import Detector, load_detector
from pipnet.inference.predict import Prediction, predict_crops
from pipnet.inference.results import FaceLandmarks
from pipnet.inference.rotation import search_rolls, search_rotations
from pipnet.inference.selection import select_faces

_LOG = logging.getLogger(__name__)


class Pipeline:
    """A model, a face detector, and the options for both."""

    def __init__(
        self,
        model: CropModel,
        detector: Detector,
        config: LandmarkerConfig,
        box_format: str = "face",
        threads: int | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: the landmark model.
            detector: a detector's name, which is loaded when first needed, or a callable.
            config: how faces are found; its ``model`` and ``detector`` are not used.
            box_format: what the boxes of a plain callable mean, and those of a user who gives no format.
            threads: how many threads the detector may use; it decides if None.

        Raises:
            ModelError: the model has no adapter for this box format, no scores for ``any_rotation``, or no
                calibration for ``min_quality``.
        """
        if config.any_rotation and not model.metadata.has_scores:
            raise ModelError(f"model {model.metadata.name!r} has no scores, which any_rotation needs")
        if config.min_quality and model.metadata.calibration is None:
            raise ModelError(
                f"model {model.metadata.name!r} is not calibrated, which min_quality needs (pipnet calibrate)"
            )
        if box_format != "face":
            model.metadata.box_adapter(box_format)
        runs_in = getattr(model, "provider", type(model).__name__)
        _LOG.debug("model %s: %s in %s", model.metadata.name, getattr(model, "path", "loaded"), runs_in)
        self.model, self.config, self.box_format = model, config, box_format
        self._source, self._threads = detector, threads
        self._detector = None if isinstance(detector, str) else self._load_detector()

    @property
    def detector(self) -> FaceDetector:
        """The face detector, loaded when first asked for."""
        if self._detector is None:
            self._detector = self._load_detector()
        return self._detector

    def _load_detector(self) -> FaceDetector:
        detector = load_detector(self._source, self.config.detector_size, self.box_format, self._threads)
        _LOG.debug("detector: %s, longest side %d px", detector.box_format, self.config.detector_size)
        return detector

    def detect(self, image: Image) -> Detections:
        """Return the detector's boxes of the faces in an image.

        Raises:
            ModelError: rotations are searched, and the model has no adapter for the detector's boxes.
        """
        detections = self.detector(image)
        if self.config.any_rotation and not len(detections.boxes):
            return search_rotations(image, self.detector, self.model.metadata)
        return detections

    def adapt(self, boxes: Float32[np.ndarray, "faces 4"], box_format: str) -> Float32[np.ndarray, "faces 4"]:
        """Return the boxes that crops are cut around (see `CropConfig.box`) for boxes of any format.

        Raises:
            ModelError: the model has no adapter for this box format.
        """
        return self.model.metadata.box_adapter(box_format).apply(boxes)

    def predict(
        self, images: Sequence[Image], crop_boxes: Sequence[Float32[np.ndarray, "_faces 4"]]
    ) -> Prediction:
        """Return the landmarks of faces at known positions, all in batches.

        Args:
            images: decoded images.
            crop_boxes: in each of them, the boxes that crops are cut around; see `adapt`.

        Returns:
            The faces of the first image, then those of the second, and so on.
        """
        config = self.config
        if not config.refine_steps and not config.any_rotation:
            return predict_crops(self.model, images, crop_boxes, config.tta)
        search = CropSearch(self.model, images, crop_boxes)
        search.refine(config.refine_steps)
        if config.any_rotation:
            search_rolls(search)
        return search.augmented(config.tta)

    def build(
        self,
        image: Image,
        prediction: Prediction,
        boxes: Float32[np.ndarray, "faces 4"],
        detection_score: Float32[np.ndarray, " faces"],
    ) -> FaceLandmarks:
        """Return the result of one image. This is the only place where results are made."""
        return FaceLandmarks(
            points=prediction.points,
            scores=prediction.scores,
            vote_std=prediction.vote_std,
            tta_std=prediction.tta_std,
            boxes=boxes,
            crop_boxes=prediction.crop_boxes,
            detection_score=detection_score,
            image=image,
            metadata=self.model.metadata,
        )

    def run(
        self, images: Sequence[Image], detections: Sequence[Detections], box_format: str
    ) -> list[FaceLandmarks]:
        """Return the landmarks of faces at known positions of several images, in batches.

        The options ``min_quality``, ``max_faces`` and ``sort`` decide which faces are returned, in which
        order; with ``any_rotation`` a face that is found twice is returned once.

        Args:
            images: decoded images.
            detections: the faces in each of them.
            box_format: what their boxes mean.

        Raises:
            ModelError: the model has no adapter for this box format.
        """
        detections = [self._limit(faces) for faces in detections]
        prediction = self.predict(images, [self.adapt(faces.boxes, box_format) for faces in detections])
        parts = prediction.split([len(faces.boxes) for faces in detections])
        results = [
            self.build(image, part, faces.boxes, faces.scores)
            for image, part, faces in zip(images, parts, detections, strict=True)
        ]
        return [faces[select_faces(faces, faces.detection_score, self.config)] for faces in results]

    def _limit(self, detections: Detections) -> Detections:
        """Return the detections without those that ``max_faces`` leaves out for certain, to save time."""
        config = self.config
        if config.max_faces is None or config.min_quality or config.any_rotation:
            return detections
        first = np.sort(np.argsort(-detections.scores, kind="stable")[: config.max_faces])
        return detections.take(first)

    def __call__(self, images: Sequence[Image]) -> list[FaceLandmarks]:
        """Return the landmarks of all faces that the detector finds in some decoded images."""
        return self.run(images, [self.detect(image) for image in images], self.detector.box_format)
