"""What to try where results are poor, as one line on standard error."""

from __future__ import annotations

from pipnet.cli import say
from pipnet.confidence import LOW_QUALITY
from pipnet.config import DETECTOR_SIZE, LandmarkerConfig


def say_hint(
    low: int, faces: int, config: LandmarkerConfig, *, empty: int = 0, images: int = 1, detects: bool = True
) -> None:
    """Say how many faces have low quality or are missing, and which options that are not used yet may help.

    Args:
        low: number of faces with low quality.
        faces: number of all faces.
        config: the options in use.
        empty: number of images without a face.
        images: number of all images.
        detects: whether a detector finds the faces; False for boxes of the user.
    """
    doubts = []
    if empty and detects:
        subject = f"{empty:,} of {images:,} images {'has' if empty == 1 else 'have'} no face"
        doubts.append("no face found" if images == 1 else subject)
    if low:
        subject = f"{low:,} of {faces:,} faces {'has' if low == 1 else 'have'}"
        doubts.append(f"{'the face has' if faces == 1 else subject} low quality")
    tips = [] if config.any_rotation else ["rotated? try --any-rotation"]
    if detects and config.detector != "full_image" and config.detector_size <= DETECTOR_SIZE:
        tips.append(f"small? try --detector-size {2 * DETECTOR_SIZE}")
    if low and not tips:
        tips.append(f"--min-quality {LOW_QUALITY} leaves such faces out")
    if doubts and tips:
        say(f"{', '.join(doubts)}: {'; '.join(tips)}")
