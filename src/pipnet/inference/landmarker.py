"""The public interface: an image in, the landmarks of its faces out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from pipnet.config import DEFAULT_DETECTOR, LandmarkerConfig, RuntimeConfig, split_options
from pipnet.errors import BoxError
from pipnet.geometry import Image, check_boxes
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.base import CropModel
from pipnet.inference.backends.load import load_model
from pipnet.inference.detectors.base import Detections, FaceDetector
from pipnet.inference.detectors.load import Detector
from pipnet.inference.pipeline import Pipeline
from pipnet.inference.results import FaceLandmarks
from pipnet.io.image_source import ImageSource, as_image, as_photo
from pipnet.io.photo import Photo
from pipnet.metadata import ModelMetadata

_BATCH_SIZE = 16
"""Images of a list whose faces go through the model in one batch."""


class FaceLandmarker:
    """Finds faces and their landmarks.

    Example::

        landmarker = FaceLandmarker()
        faces = landmarker("photo.jpg")
        faces.points        # (faces, 68, 2), pixels of the photo
        faces.save("out.jpg")

    One landmarker may serve several threads. Image files and PIL images are rotated as their EXIF says, and
    points and boxes are those of the rotated image, ``faces.image``; arrays are used unchanged.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | CropModel = DEFAULT_MODEL,
        detector: Detector = DEFAULT_DETECTOR,
        *,
        box_format: str = "face",
        **options: Any,
    ) -> None:
        """Load a model.

        Args:
            model: a model's name, ``.onnx`` file, folder or hub id; or a model that is loaded already.
            detector: a face detector's name, see `LandmarkerConfig.detector`, or any callable that takes an
                RGB array and returns boxes, or boxes and scores. A detector is loaded when first needed.
            box_format: what the boxes of a plain callable mean, and those passed to `__call__` without
                a format.
            options: the fields of `LandmarkerConfig` and `RuntimeConfig`, such as ``any_rotation=True`` or
                ``device="cpu"``.

        Raises:
            ModelError: no such model, a damaged one, or one without an adapter for this box format.
            DownloadError: a hub cannot be reached.
            PipnetError: an option out of range, or no such device, backend or precision here.
            TypeError: an unknown option.
        """
        config, runtime = split_options(options, LandmarkerConfig, RuntimeConfig)
        if isinstance(model, str | os.PathLike):
            model = load_model(find_model(Path(model) if isinstance(model, os.PathLike) else model), runtime)
        elif runtime != RuntimeConfig():
            raise TypeError(
                "device, backend, precision and threads need a model by name: this one is loaded already"
            )
        self.pipeline = Pipeline(model, detector, config, box_format, runtime.threads)

    @classmethod
    def from_configs(
        cls, config: LandmarkerConfig, runtime: RuntimeConfig | None = None, box_format: str = "face"
    ) -> FaceLandmarker:
        """Load the model and the detector that a config names; otherwise the same as the constructor."""
        options = {**vars(config), **vars(runtime or RuntimeConfig())}
        return cls(options.pop("model"), options.pop("detector"), box_format=box_format, **options)

    @property
    def model(self) -> CropModel:
        """The landmark model."""
        return self.pipeline.model

    @property
    def metadata(self) -> ModelMetadata:
        """The model's landmarks, crop, training and license."""
        return self.pipeline.model.metadata

    @property
    def detector(self) -> FaceDetector:
        """The face detector, loaded when first asked for."""
        return self.pipeline.detector

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self,
        image: ImageSource,
        boxes: object = None,
        box_format: str | None = None,
        *,
        bgr: bool = False,
    ) -> FaceLandmarks: ...
    @overload
    def __call__(self, image: Sequence[ImageSource], *, bgr: bool = False) -> list[FaceLandmarks]: ...
    def __call__(
        self,
        image: ImageSource | Sequence[ImageSource],
        boxes: object = None,
        box_format: str | None = None,
        *,
        bgr: bool = False,
    ) -> FaceLandmarks | list[FaceLandmarks]:
        """Return the landmarks of every face in an image, or in each image of a list.

        Results keep their images, and one image of a list that cannot be read is an error for all: take many
        files one by one, or with ``pipnet annotate``.

        Args:
            image: a path; the content of an image file as bytes, as a file object opened in binary mode or as
                a ``data:image/...;base64,`` URL; a PIL image; an RGB array (height, width, 3); a torch tensor
                (3, height, width) or (height, width, 3); or a list of them. Arrays and tensors are uint8,
                uint16 (10 and 12 bits in 16 are detected by the maximum), bool, or floats in [0, 1].
            boxes: (faces, 4) boxes xyxy in pixels; the detector finds them if None.
            box_format: what the boxes mean; that of the constructor if None. ``"face"``: forehead to
                chin, as most detectors and people draw them; ``"landmarks"``: tight around the landmarks;
                ``"full_image"``: an image of one face; ``"model"``: what the model's crops are cut around in
                training, see `CropConfig.box`; or the name of a detector that the model was fitted to, one of
                ours or, by ``pipnet detector fit``, any other.
            bgr: whether arrays and tensors are BGR, as OpenCV's frames are. The image of the result is RGB.

        Raises:
            ImageError: an image cannot be read or is too large.
            BoxError: a box is empty, not finite or outside the image.
            ModelError: the model has no adapter for this box format.
        """
        if boxes is None and box_format is not None:
            raise BoxError("box_format needs boxes: pass boxes too")
        if isinstance(image, Sequence) and not isinstance(image, str | bytes | bytearray | memoryview):
            if boxes is not None:
                raise BoxError("boxes are for a single image, not for a list: pass the images one by one")
            sources = iter(image)  # not every sequence can be sliced
            batches = iter(lambda: [self._open(s, bgr) for s in islice(sources, _BATCH_SIZE)], [])
            return [faces for batch in batches for faces in self.pipeline(batch)]
        if boxes is None:
            return self.pipeline([self._open(image, bgr)])[0]
        decoded = as_image(image, self.pipeline.config.max_pixels, bgr)
        checked = check_boxes(boxes, decoded.shape[1], decoded.shape[0])
        detections = Detections(checked, np.ones(len(checked), np.float32))
        return self.pipeline.run([decoded], [detections], box_format or self.pipeline.box_format)[0]

    def _open(self, source: ImageSource, bgr: bool) -> Image | Photo:
        max_pixels, min_side = self.pipeline.config.max_pixels, self.pipeline.min_side
        if min_side is None:
            return as_image(source, max_pixels, bgr)
        return as_photo(source, max_pixels, bgr, min_side)
