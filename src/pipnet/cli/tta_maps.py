"""``pipnet tta-maps``: score maps of a face before and after test-time augmentation."""

from __future__ import annotations

from pathlib import Path

from pipnet.cli import say, training_imports
from pipnet.cli.options import Output
from pipnet.config import TTA
from pipnet.errors import ImageError, PipnetError
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image

_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")


def tta_maps(
    checkpoint: Path,
    image: Path,
    /,
    *,
    output: Output,
    tta: TTA = "translation",
) -> None:
    """Show a face's score maps on the plain crop and their mean over augmented crops: v1's figure 4.

    Parameters
    ----------
    checkpoint
        A .safetensors file of a model with a pip head.
    image
        An image; the face with the highest detection score is shown.
    output
        The figure to write, such as maps.png.
    tta
        The test-time augmentation: flip, rotation, translation (v1), translation+flip, all.
    """
    if output.suffix.lower() not in _SUFFIXES:
        raise PipnetError(f"-o {output}: a figure's name must end in one of {', '.join(_SUFFIXES)}")
    with training_imports():
        from pipnet.model.checkpoint import load_checkpoint
        from pipnet.model.torch_model import TorchModel
        from pipnet.papers import tta_maps as maps
        from pipnet.papers.position_prior import probed_landmarks
    model, metadata = load_checkpoint(checkpoint)
    pixels = read_image(image)
    landmarker = FaceLandmarker(TorchModel(model, metadata))
    boxes = landmarker.pipeline.adapt(landmarker.detector(pixels).boxes, landmarker.detector.box_format)
    if not len(boxes):
        raise ImageError(f"{image}: no face found")
    landmarks = probed_landmarks(metadata.scheme, metadata.mean_face)
    crop, landmark_maps = maps.tta_maps(model, metadata, pixels, boxes[0], tta, landmarks)
    maps.plot_tta_maps(crop, landmark_maps, tta, output)
    say(str(output))
