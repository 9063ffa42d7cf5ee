"""300-VW: clips of faces with 68 points on every frame, ``NNN/vid.avi`` and ``NNN/annot/000001.pts``."""

from __future__ import annotations

from pathlib import Path

from pipnet.annotations.pts import read_pts
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError, MissingDataError, VideoError
from pipnet.io.image import write_image
from pipnet.video.reader import VideoReader

CLIPS = {
    # Well lit, naturalistic; unconstrained light; completely unconstrained.
    "category-1": "114 124 125 126 150 158 401 402 505 506 507 508 509 510 511 514 515 518 519 520 521 522 "
    "524 525 537 538 540 541 546 547 548",
    "category-2": "203 208 211 212 213 214 218 224 403 404 405 406 407 408 409 412 550 551 553",
    "category-3": "410 411 516 517 526 528 529 530 531 533 557 558 559 562",
}
"""The clips of the three test categories; all others are for training."""


def unpack_300vw(root: Path, subset: str, images: Path) -> list[FaceSample]:
    """Return 300-VW's ``train`` or one of the test categories, and write its labeled frames as JPEG.

    Raises:
        DataError: a clip is missing or cannot be decoded, or lacks labeled frames.
        MissingExtraError: PyAV is not installed.
    """
    tests = {clip for clips in CLIPS.values() for clip in clips.split()}
    folders = sorted(p.parent for p in root.rglob("vid.avi"))
    requested = set(CLIPS.get(subset, "").split())
    clips = [f for f in folders if (f.name in requested if requested else f.name not in tests)]
    missing = sorted(requested - {f.name for f in clips})
    if missing or not clips:
        raise MissingDataError(
            f"300-VW {subset!r} needs {', '.join(missing) or 'clips'} (NNN/vid.avi) in {root}"
        )
    return [sample for clip in clips for sample in _unpack_clip(clip, images)]


def _unpack_clip(clip: Path, images: Path) -> list[FaceSample]:
    labels = {int(p.stem): p for p in (clip / "annot").glob("*.pts") if p.stem.isdigit()}
    if not labels:
        raise DataError(f"{clip / 'annot'}: no .pts files")
    samples = []
    try:
        for frame in VideoReader(clip / "vid.avi"):
            number = frame.number + 1
            if number in labels:
                path = images / clip.name / f"{number:06d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, frame.image)
                name = f"{clip.name}/{number:06d}"
                samples.append(FaceSample(path, read_pts(labels.pop(number), 68), name, clip.name))
    except VideoError as error:
        raise DataError(str(error)) from None
    if labels:
        raise DataError(f"{clip / 'vid.avi'}: ends before frame {min(labels)}, which is labeled")
    return samples
