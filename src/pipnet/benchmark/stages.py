"""From file to points, stage by stage."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime

from pipnet.errors import ImageError
from pipnet.geometry import crop
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image

DECODE, DETECTOR, CROP, NETWORK, MAPS, WHOLE = (
    "picture decoded",
    "detector",
    "crop",
    "network, with its decode",
    "network, up to the score maps",
    "whole: file to points",
)


def stages(landmarker: FaceLandmarker, picture: Path, threads: int) -> dict[str, Callable[[], object]]:
    """Each stage of finding the surest face's landmarks in a picture, and all of it.

    Args:
        landmarker: what finds them.
        picture: a picture with a face.
        threads: how many the network uses.

    Raises:
        ImageError: the picture cannot be read, or there is no face in it.
    """
    metadata = landmarker.model.metadata
    image = read_image(picture)
    found = landmarker.detector(image)
    if not len(found.boxes):
        raise ImageError(f"{picture}: no face in it")
    face = landmarker.pipeline.adapt(found.boxes[:1], landmarker.detector.box_format)[0]
    box = metadata.crop(face, image.shape[1], image.shape[0])
    cut = crop(image, box, metadata.input_size)[None]
    ways: dict[str, Callable[[], object]] = {
        DECODE: lambda: read_image(picture),
        DETECTOR: lambda: landmarker.detector(image),
        CROP: lambda: crop(image, box, metadata.input_size),
        NETWORK: lambda: landmarker.model(cut),
        WHOLE: lambda: landmarker(picture),
    }
    if isinstance(landmarker.model, OnnxModel):
        maps = _up_to_the_maps(landmarker.model, threads)
        if maps is not None:
            ways[MAPS] = lambda: maps.run(None, {"image": cut})
    return ways


def _up_to_the_maps(model: OnnxModel, threads: int) -> onnxruntime.InferenceSession | None:
    """The graph without decode and merge, which begin behind its last convolution, that of the scores."""
    try:
        import onnx
        from onnx.utils import extract_model
    except ImportError:
        return None
    maps = [node for node in onnx.load(model.path).graph.node if node.op_type == "Conv"][-1].output[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "maps.onnx")
        extract_model(model.path, path, ["image"], [maps], check_model=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
