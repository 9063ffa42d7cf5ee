"""The steps from images to landmarks: detect faces, adapt their boxes, predict, refine, build, select.

`FaceLandmarker`, video, bulk jobs, evaluation and pseudo-labeling all call these steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from pipnet.config import LandmarkerConfig
from pipnet.errors import ModelError
from pipnet.geometry import Image
from pipnet.inference.backends.base import CropModel
from pipnet.inference.crop_search import CropSearch
from pipnet.inference.detectors.base import CERTAIN, CandidateDetector, Detections, FaceDetector, enlarge
from pipnet.inference.detectors.load import Detector, load_detector
from pipnet.inference.predict import Prediction, predict_crops, quality
from pipnet.inference.results import FaceLandmarks
from pipnet.inference.rotation import search_rolls, search_rotations, upright_angles
from pipnet.inference.selection import select_faces
from pipnet.io.image import decode_image
from pipnet.io.photo import Photo, open_photo

_MIN_CROP = 0.75
"""Minimum side of a crop in a reduced copy of a photo, as a fraction of the model's input. On AFW half of it
loses nothing (benchmarks/robustness/first_crop); this keeps a margin."""
_MIN_CONFIRMED_SIDE = 20
"""Minimum longer side of a candidate in pixels: smaller ones are too coarse for landmarks to tell."""
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

    @property
    def min_side(self) -> int | None:
        """Minimum longer side of the copies of photos in which faces are detected; None: full photos.

        A user's detector gets full photos.
        """
        is_reducing = isinstance(self._source, str) and self._source != "full_image"
        return self.config.detector_size if self.config.reduced_decoding and is_reducing else None

    def open(self, content: bytes, name: str) -> Image | Photo:
        """Return the content of an image file, decoded at the scale that `detect` needs; see `open_photo`.

        Raises:
            ImageError: see `decode_image`.
        """
        if self.min_side is None:
            return decode_image(content, name, self.config.max_pixels)
        return open_photo(content, name, self.config.max_pixels, self.min_side)

    def detect(self, image: Image | Photo) -> Detections:
        """Return the boxes of the faces in an image.

        Raises:
            ModelError: rotations are searched, and the model has no adapter for the detector's boxes.
        """
        if isinstance(image, Photo):
            return self.detect(image.reduced).enlarged(image.factor)
        detections = self._confirmed(image)
        if self.config.any_rotation and detections.detection_score.max(initial=0) < CERTAIN:
            adapter = self.model.metadata.box_adapter(self.detector.box_format)
            return search_rotations(image, detections, self._confirmed, adapter)
        return detections

    def _confirmed(self, image: Image) -> Detections:
        """Return the candidates that are faces: certain ones, and those that have the landmarks of a face.

        The detector has seen each place at low resolution, and the landmark model looks again: where no face
        is, its confidence is low, unless the place is too small. Without candidates or a calibration, the
        detector decides.
        """
        detector = self.detector
        metadata = self.model.metadata
        if not isinstance(detector, CandidateDetector) or metadata.calibration is None:
            return detector(image)
        candidates = detector.candidates(image)
        doubtful = np.flatnonzero(candidates.detection_score < CERTAIN)
        if not len(doubtful):
            return candidates
        faces = candidates.take(doubtful)
        crop_boxes = [self.adapt(faces.boxes, detector.box_format)]
        prediction = predict_crops(self.model, [image], crop_boxes, "none", upright_angles(faces))
        is_small = np.max(faces.boxes[:, 2:] - faces.boxes[:, :2], axis=1) < _MIN_CONFIRMED_SIDE
        qualities = quality(prediction, metadata)
        assert qualities is not None
        dropped = doubtful[is_small | (faces.detection_score + qualities < CERTAIN)]
        return candidates.take(np.setdiff1d(np.arange(len(candidates.detection_score)), dropped))

    def adapt(self, boxes: Float32[np.ndarray, "faces 4"], box_format: str) -> Float32[np.ndarray, "faces 4"]:
        """Return the boxes that crops are cut around (see `CropConfig.box`) for boxes of any format.

        Raises:
            ModelError: the model has no adapter for this box format.
        """
        return self.model.metadata.box_adapter(box_format).apply(boxes)

    def predict(
        self,
        images: Sequence[Image | Photo],
        crop_boxes: Sequence[Float32[np.ndarray, "_faces 4"]],
        angles: Float[np.ndarray, " all_faces"] | None = None,
    ) -> Prediction:
        """Return the landmarks of faces at known positions, all in batches.

        Args:
            images: images and photos.
            crop_boxes: in each of them, the boxes that crops are cut around; see `adapt`.
            angles: degrees clockwise by which the crop of each face is rotated; 0 if None.

        Returns:
            The faces of the first image, then those of the second, and so on.
        """
        scaled = [self.pixels_to_crop(*pair) for pair in zip(images, crop_boxes, strict=True)]
        pixels, factors = [part for part, _ in scaled], [factor for _, factor in scaled]
        if max(factors, default=1) == 1:
            return self._predict(pixels, crop_boxes, angles)
        boxes = [enlarge(boxes, 1 / factor) for boxes, factor in zip(crop_boxes, factors, strict=True)]
        prediction = self._predict(pixels, boxes, angles)
        each = np.repeat(factors, [len(part) for part in boxes])[:, None]
        points = enlarge(prediction.points, each[:, None])
        return prediction._replace(points=points, crop_boxes=enlarge(prediction.crop_boxes, each))

    def pixels_to_crop(
        self, image: Image | Photo, crop_boxes: Float32[np.ndarray, "faces 4"]
    ) -> tuple[Image, int]:
        """Return a photo reduced as far as all crops keep enough pixels, and the factor."""
        if not isinstance(image, Photo):
            return image, 1
        crop, (height, width) = self.model.metadata.crop, image.shape[:2]
        regions = [crop.region(box, width, height) for box in crop_boxes]
        smallest = min((max(region[2:] - region[:2]) for region in regions), default=np.inf)
        factor = image.factor
        while factor > 1 and smallest < factor * _MIN_CROP * self.model.metadata.input_size:
            factor //= 2
        return image.at(factor), factor

    def _predict(
        self,
        images: Sequence[Image],
        crop_boxes: Sequence[Float32[np.ndarray, "_faces 4"]],
        angles: Float[np.ndarray, " all_faces"] | None,
    ) -> Prediction:
        config = self.config
        if not config.refine_steps and not config.any_rotation:
            return predict_crops(self.model, images, crop_boxes, config.tta, angles)
        search = CropSearch(self.model, images, crop_boxes, angles)
        search.refine(config.refine_steps)
        if config.any_rotation:
            search_rolls(search)
        return search.augmented(config.tta)

    def build(
        self,
        image: Image | Photo,
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
            photo=image,
            metadata=self.model.metadata,
        )

    def run(
        self, images: Sequence[Image | Photo], detections: Sequence[Detections], box_format: str
    ) -> list[FaceLandmarks]:
        """Return the landmarks of faces at known positions of several images, in batches.

        The options ``min_quality``, ``max_faces`` and ``sort`` decide which faces are returned, in which
        order; with ``any_rotation`` a face that is found twice is returned once.

        Args:
            images: images and photos.
            detections: the faces in each of them.
            box_format: what their boxes mean.

        Raises:
            ModelError: the model has no adapter for this box format.
        """
        detections = [self._limit(faces) for faces in detections]
        boxes = [self.adapt(faces.boxes, box_format) for faces in detections]
        angles = [upright_angles(faces) for faces in detections]
        prediction = self.predict(images, boxes, np.concatenate([np.zeros(0), *angles]))
        parts = prediction.split([len(faces.boxes) for faces in detections])
        results = [
            self.build(image, part, faces.boxes, faces.detection_score)
            for image, part, faces in zip(images, parts, detections, strict=True)
        ]
        return [faces[select_faces(faces, faces.detection_score, self.config)] for faces in results]

    def _limit(self, detections: Detections) -> Detections:
        """Return the detections without those that ``max_faces`` leaves out for certain, to save time."""
        config = self.config
        if config.max_faces is None or config.min_quality or config.any_rotation:
            return detections
        first = np.sort(np.argsort(-detections.detection_score, kind="stable")[: config.max_faces])
        return detections.take(first)

    def __call__(self, images: Sequence[Image | Photo]) -> list[FaceLandmarks]:
        """Return the landmarks of all faces that the detector finds in some images."""
        return self.run(images, [self.detect(image) for image in images], self.detector.box_format)
