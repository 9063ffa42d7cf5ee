"""The stages from an image file to landmarks, to be timed one by one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipnet.errors import ImageError
from pipnet.inference.backends.onnxruntime import OnnxModel, start_session
from pipnet.inference.detectors.base import enlarge
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.warp import crop

DECODE, DETECTOR, CROP, NETWORK, MAPS, TOTAL = (
    "image decoding",
    "detector",
    "crop",
    "network with decoding",
    "network up to the score maps",
    "total: file to landmarks",
)


def stages(landmarker: FaceLandmarker, image_path: Path, threads: int) -> dict[str, Callable[[], object]]:
    """Return a function for each stage of finding one face's landmarks, and for all of them together.

    Args:
        landmarker: the model and the detector.
        image_path: an image with a face.
        threads: number of threads of the network.

    Raises:
        ImageError: the image cannot be read, or contains no face.
    """
    metadata, pipeline = landmarker.metadata, landmarker.pipeline
    content = image_path.read_bytes()
    photo = pipeline.open(content, str(image_path))
    detections = pipeline.detect(photo)
    if not len(detections.boxes):
        raise ImageError(f"{image_path}: no face in this image")
    face_boxes = pipeline.adapt(detections.boxes[:1], landmarker.detector.box_format)
    image, factor = pipeline.pixels_to_crop(photo, face_boxes)
    box = metadata.crop.region(enlarge(face_boxes, 1 / factor)[0], image.shape[1], image.shape[0])
    crops = crop(image, box, metadata.input_size)[None]
    runs: dict[str, Callable[[], object]] = {
        DECODE: lambda: pipeline.open(content, str(image_path)),
        DETECTOR: lambda: pipeline.detect(photo),
        CROP: lambda: crop(image, box, metadata.input_size),
        NETWORK: lambda: landmarker.model(crops),
        TOTAL: lambda: landmarker(image_path),
    }
    if isinstance(landmarker.model, OnnxModel):
        session = _score_map_session(landmarker.model, threads)
        if session is not None:
            runs[MAPS] = lambda: session.run(None, {"image": crops})
    return runs


def _score_map_session(model: OnnxModel, threads: int) -> Any:
    """Return the graph up to its last convolution, the score maps; None without the onnx package."""
    try:
        import onnx
        from onnx.utils import extract_model
    except ImportError:
        return None
    maps = [node for node in onnx.load(model.path).graph.node if node.op_type == "Conv"][-1].output[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "maps.onnx")
        extract_model(model.path, path, ["image"], [maps], check_model=False)
        return start_session(path, model.device, threads)
