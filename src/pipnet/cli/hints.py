"""What to try where results are poor, as one line on standard error."""

from __future__ import annotations

from pipnet.cli import say
from pipnet.confidence import LOW_QUALITY
from pipnet.config import DETECTOR_SIZE, LandmarkerConfig


def say_low_quality(low: int, faces: int, config: LandmarkerConfig, detects: bool = True) -> None:
    """Say how many faces have low quality, and which options that are not used yet may help.

    Args:
        low: number of faces with low quality.
        faces: number of all faces.
        config: the options in use.
        detects: whether a detector finds the faces; False for boxes of the user.
    """
    if not low:
        return
    tips = [] if config.any_rotation else ["turned? try --any-rotation"]
    if detects and config.detector != "full_image" and config.detector_size <= DETECTOR_SIZE:
        tips.append(f"small? try --detector-size {2 * DETECTOR_SIZE}")
    subject = "the face has" if faces == 1 else f"{low:,} of {faces:,} faces {'has' if low == 1 else 'have'}"
    say(f"{subject} low quality: {'; '.join(tips) or f'--min-quality {LOW_QUALITY} leaves such faces out'}")
