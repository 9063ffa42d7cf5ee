"""``pipnet views``: score maps of a face before and after the mean over views."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipnet.cli import cannot_import, say
from pipnet.config import TTA
from pipnet.errors import ImageError, PipnetError
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image


def views(
    checkpoint: Path,
    picture: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    kind: Annotated[TTA, Parameter(name="--tta")] = "translation",
) -> None:
    """Show the score maps of a face before and after the mean over views: v1's figure 4.

    Parameters
    ----------
    checkpoint
        A .safetensors file of a model with a pip head.
    picture
        A picture; its surest face is shown.
    output
        The figure to write, such as maps.png.
    kind
        The views to take the mean over: flip, rotation, translation (v1), translation+flip, all.
    """
    if output.suffix.lower() not in (".png", ".jpg", ".pdf", ".svg"):
        raise PipnetError(f"-o {output}: a figure's name ends in .png, .jpg, .pdf or .svg")
    try:
        from pipnet.model.checkpoint import load_checkpoint
        from pipnet.model.predictor import TorchModel
        from pipnet.papers.position_prior import probed_landmarks
        from pipnet.papers.tta_maps import plot_view_maps, view_maps
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    model, metadata = load_checkpoint(checkpoint)
    image = read_image(picture)
    landmarker = FaceLandmarker(TorchModel(model, metadata))
    boxes = landmarker.pipeline.adapt(landmarker.detector(image).boxes, landmarker.detector.box_format)
    if not len(boxes):
        raise ImageError(f"{picture}: no face found")
    landmarks = probed_landmarks(metadata.scheme, metadata.mean_face)
    crop, shown = view_maps(model, metadata, image, boxes[0], kind, landmarks)
    plot_view_maps(crop, shown, kind, output)
    say(str(output))
