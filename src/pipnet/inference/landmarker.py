"""The one-call API: a picture in, the landmarks of its faces out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args, overload

import numpy as np
import PIL.Image
from jaxtyping import Float32

from pipnet.errors import BoxError, PipnetError
from pipnet.geometry import Image, check_boxes, tight_box
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.images import MAX_PIXELS, as_image
from pipnet.inference.backends import Backend, Device, Precision, Runtime, load_model
from pipnet.inference.box_fits import face_boxes
from pipnet.inference.detectors import DETECT_SIZE, Detections, Detector, FaceDetector, load_detector
from pipnet.inference.result import FaceLandmarks
from pipnet.inference.roll import predict_upright, turned_detections
from pipnet.inference.views import CropModel, Prediction, Views, predict_views

if TYPE_CHECKING:
    from pipnet.video.stream import FrameFaces

Picture = str | os.PathLike[str] | PIL.Image.Image | Image
_TOGETHER = 16
"""Pictures of a list whose faces go through the model together."""


class FaceLandmarker:
    """Finds faces and their landmarks.

    Example::

        landmarker = FaceLandmarker.from_pretrained()
        faces = landmarker("photo.jpg")
        faces.points        # (faces, 68, 2), pixels of the photo
        faces.save("out.jpg")

    One landmarker may serve several threads. Picture files and PIL images are turned as their EXIF says, and
    points and boxes are those of the turned picture, ``faces.image``; arrays are taken as they are.
    """

    def __init__(
        self,
        model: CropModel,
        detector: Detector = "auto",
        *,
        box_kind: str = "face",
        detector_size: int = DETECT_SIZE,
        passes: int = 1,
        views: Views = "none",
        any_roll: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Put a model and a face detector together; most use `from_pretrained`.

        Args:
            model: the landmark model.
            detector: see `pipnet.inference.detectors.load_detector`; loaded when first needed.
            box_kind: what given boxes mean, and those of a plain callable, see `__call__`.
            detector_size: longest side of the picture that is searched for faces, in pixels. Larger
                finds smaller faces and takes longer.
            passes: 2 predicts, cuts the crop anew around the prediction, and predicts again: better
                where boxes are rough, at twice the time.
            views: look at each face in several shifted, turned or mirrored crops, and take the mean.
            any_roll: find faces that lie on their side or upside down too, see `pipnet.inference.roll`.
            max_pixels: pictures with more pixels are refused before they are decoded.
        """
        if passes < 1 or detector_size < 1:
            raise PipnetError(f"passes ({passes}) and detector_size ({detector_size}) must be at least 1")
        if views not in get_args(Views):
            raise PipnetError(f"no views {views!r}: {', '.join(get_args(Views))}")
        if box_kind != "face":
            face_boxes(model.info, np.zeros((0, 4), np.float32), box_kind)  # one that the model knows
        self.model, self.passes, self.views, self.max_pixels = model, passes, views, max_pixels
        self.any_roll, self.box_kind = any_roll, box_kind
        self._wanted = (detector, detector_size, box_kind)
        self._detector = None if isinstance(detector, str) else load_detector(*self._wanted)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT_MODEL,
        detector: Detector = "auto",
        *,
        device: Device = "auto",
        backend: Backend = "auto",
        precision: Precision = "f32",
        threads: int | None = None,
        box_kind: str = "face",
        detector_size: int = DETECT_SIZE,
        passes: int = 1,
        views: Views = "none",
        any_roll: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> FaceLandmarker:
        """A landmarker from a model's name, ``.onnx`` file, folder or hub id.

        See `pipnet.inference.backends.Runtime` for what runs it, and `__init__` for the rest.

        Raises:
            ModelError: no such model, a damaged one, or one that was not fitted to boxes of this kind.
            DownloadError: a hub cannot be reached.
            PipnetError: no such device, backend or precision.
        """
        return cls(
            load_model(find_model(model), Runtime(device, backend, precision, threads)),
            detector,
            box_kind=box_kind,
            detector_size=detector_size,
            passes=passes,
            views=views,
            any_roll=any_roll,
            max_pixels=max_pixels,
        )

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, image: Picture, boxes: object = None, box_kind: str | None = None
    ) -> FaceLandmarks: ...
    @overload
    def __call__(self, image: Sequence[Picture]) -> list[FaceLandmarks]: ...
    def __call__(
        self, image: Picture | Sequence[Picture], boxes: object = None, box_kind: str | None = None
    ) -> FaceLandmarks | list[FaceLandmarks]:
        """The landmarks of every face in a picture, or in each picture of a list.

        Results keep their pictures, and one picture of a list that cannot be read is an error for all:
        for many files take them one by one, or ``pipnet annotate``.

        Args:
            image: a path, a PIL image, an RGB uint8 array (height, width, 3), or a list of them.
            boxes: (faces, 4) boxes xyxy in pixels; the detector is asked if None.
            box_kind: what the given boxes mean; as was said when the landmarker was made if None.
                ``"face"`` (forehead to chin, as most detectors and people draw them), ``"landmarks"``
                (tight around the landmarks), ``"whole"`` (a picture of one face), ``"model"`` (what the
                model's crops are cut around in training, see `CropRule.box`), or the name of a detector
                that the model was fitted to, one of ours or, by ``pipnet detector fit``, any other.

        Raises:
            ImageError: a picture cannot be read or is too large.
            BoxError: a box is empty, not finite or outside the picture.
            ModelError: the model was not fitted to such boxes.
        """
        if boxes is None and box_kind is not None:
            raise BoxError(f"box_kind {box_kind!r:.40} says what given boxes mean: give boxes too")
        if isinstance(image, Sequence) and not isinstance(image, str | bytes):
            if boxes is not None:
                raise BoxError("boxes are given for one picture at a time, not for a list")
            return [
                faces
                for start in range(0, len(image), _TOGETHER)
                for faces in self._find(
                    [as_image(p, self.max_pixels) for p in image[start : start + _TOGETHER]]
                )
            ]
        picture = as_image(image, self.max_pixels)
        if boxes is None:
            return self._find([picture])[0]
        given = check_boxes(boxes, picture.shape[1], picture.shape[0])
        sure = np.ones(len(given), np.float32)
        return self.at_boxes([picture], [Detections(given, sure)], box_kind or self.box_kind)[0]

    def _find(self, pictures: Sequence[Image]) -> list[FaceLandmarks]:
        """The faces that the detector finds in decoded pictures, with their landmarks."""
        return self.at_boxes(pictures, [self.search(picture) for picture in pictures], self.detector.kind)

    def search(self, picture: Image) -> Detections:
        """Where the detector finds faces in a decoded picture, and how sure it is.

        Raises:
            ModelError: any roll is searched, and the model was not fitted to the detector's boxes.
        """
        found = self.detector(picture)
        if not self.any_roll:
            return found
        return turned_detections(picture, found, self.detector, self.model.info)

    def at_boxes(
        self, pictures: Sequence[Image], found: Sequence[Detections], box_kind: str
    ) -> list[FaceLandmarks]:
        """The landmarks of faces at known places of several decoded pictures, in batches.

        Args:
            pictures: the pictures.
            found: the boxes in each of them, and how sure they are.
            box_kind: what the boxes mean, see `__call__`.

        Raises:
            ModelError: the model was not fitted to such boxes.
        """
        info, ends = self.model.info, np.cumsum([len(faces.boxes) for faces in found])
        seen = self.predict(pictures, [self.to_face_boxes(faces.boxes, box_kind) for faces in found])
        points, scores, spread = (np.split(part, ends[:-1]) for part in seen[:3])
        return [
            FaceLandmarks(points[i], scores[i], spread[i], *found[i], pictures[i], info)
            for i in range(len(pictures))
        ]

    def predict(
        self, pictures: Sequence[Image], boxes: Sequence[Float32[np.ndarray, "_faces 4"]]
    ) -> Prediction:
        """What is found at known places, as plain arrays and with the disagreement of the views.

        Args:
            pictures: decoded pictures.
            boxes: in each of them, the boxes that crops are cut around; see `to_face_boxes`.

        Returns:
            The faces of the first picture, then those of the second, and so on.
        """
        ends = np.cumsum([len(of_picture) for of_picture in boxes])
        for _ in range(self.passes - 1):
            seen = predict_views(self.model, pictures, boxes)
            tight = np.array([tight_box(face) for face in seen.points], np.float32).reshape(-1, 4)
            boxes = np.split(self.to_face_boxes(tight, "landmarks"), ends[:-1])
        if self.any_roll:
            return predict_upright(self.model, pictures, boxes, self.views)
        return predict_views(self.model, pictures, boxes, self.views)

    def stream(
        self, source: int | str | os.PathLike[str], detect_every: int | None = None, smooth: bool = True
    ) -> Iterator[FrameFaces]:
        """The faces of each frame of a video file, or of a camera's newest frames, followed and steady.

        Example::

            for frame, faces, ids, _ in landmarker.stream("clip.mp4"):
                print(frame.time, ids, faces.points)

        Args:
            source: a file, of which every frame is given; or a camera's number, a device, a pipe or an
                address, of which frames that come while one is worked on are dropped, see `LiveReader`.
            detect_every: search for new faces every so many frames (25 if None); between, known ones are
                followed.
            smooth: steady the landmarks, in a file by the frames before and after; False gives them as they
                are found in each frame.

        Raises:
            VideoError: it cannot be read. What is live is opened for the first frame, and raises then.
            MissingExtraError: PyAV is not installed.
        """
        from pipnet.video.live import LiveReader, is_live
        from pipnet.video.lookahead import LookAhead
        from pipnet.video.reader import VideoReader
        from pipnet.video.smoothing import Smoothing
        from pipnet.video.stream import follow
        from pipnet.video.tracker import DETECT_EVERY

        every = DETECT_EVERY if detect_every is None else detect_every
        if isinstance(source, int) or is_live(source):
            return follow(self, LiveReader(source), every, Smoothing() if smooth else None)
        return follow(self, VideoReader(source), every, LookAhead() if smooth else None)

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
        return face_boxes(self.model.info, boxes, kind)
