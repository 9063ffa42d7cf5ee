"""``pipnet detect``: landmarks of the faces in images, as overlays, JSON lines, tables and .pts files."""

from __future__ import annotations

import io
import json as jsonlib
import re
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import PIL.Image
from cyclopts import Parameter

from pipnet.cli import describe, print_traceback, say, say_error
from pipnet.cli.hints import say_hint
from pipnet.cli.options import (
    DEFAULT_LANDMARKER,
    DEFAULT_RUNTIME,
    Images,
    LandmarkerFlags,
    OptionalOutput,
    RuntimeFlags,
)
from pipnet.cli.result_files import ResultFiles
from pipnet.confidence import LOW_QUALITY
from pipnet.errors import PipnetError
from pipnet.geometry import xywh_to_xyxy
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.inference.results import FaceLandmarks, pts_file
from pipnet.io.atomic import make_folder
from pipnet.io.discovery import FoundImage, find_images
from pipnet.io.image import IMAGE_SUFFIXES
from pipnet.io.image_source import ImageSource
from pipnet.io.text import counted
from pipnet.progress import show_progress

_OVERLAY = "_overlay"
_WRITABLE = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def detect(
    *images: Images,
    output: OptionalOutput = None,
    json: bool = False,
    pts: bool = False,
    csv: Path | None = None,
    coco: Path | None = None,
    html: Path | None = None,
    box: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True)] = None,
    box_format: str = "face",
    config: LandmarkerFlags = DEFAULT_LANDMARKER,
    runtime: RuntimeFlags = DEFAULT_RUNTIME,
) -> int:
    """Find faces and their landmarks in images.

    An image that cannot be read is reported, the other images are processed, and the exit code is 1.

    Parameters
    ----------
    images
        Image files, folders (searched with their subfolders), glob patterns, and - for an image on standard
        input, which is named stdin in the results.
    output
        Folder for the images with the landmarks drawn on them, or a file name for a single image. Results of
        an earlier run are replaced.
    json
        Write one JSON line per image to standard output.
    pts
        Write one .pts file per face into the output folder; the drawn images are named NAME_overlay there.
    csv
        Write a table with one row per face to this .csv file: image, face, box, detection_score, quality, x
        and y of each landmark, and its confidence. pipnet data reads it.
    coco
        Write the COCO keypoints of all images to this .json file.
    html
        Write one page to this .html file, to look at and to send: all images as thumbnails with their
        landmarks, which can be sorted and filtered. It opens offline and loads nothing. Of more than 1,000
        images, evenly spaced ones are shown.
    box
        A face box x,y,w,h in pixels (corner, width and height, with commas and without spaces), instead of
        the detector's; may be given several times.
    box_format
        What the given boxes mean: face (forehead to chin), landmarks (tight around them), full_image, a
        detector's name, or a name from pipnet detector fit.
    """
    PIL.Image.MAX_IMAGE_PIXELS = None  # max_pixels is checked instead
    boxes = [_parse_box(text) for text in box] if box else None
    if boxes is None and box_format != "face":
        raise PipnetError(f"--box-format {box_format:.80} needs --box x,y,w,h")
    landmarker = FaceLandmarker.from_configs(config, runtime, box_format)
    if boxes is None:
        _ = landmarker.detector  # a detector that cannot be loaded is one error, not one per image
    inputs = list(find_images(images, skip=output))
    files = ResultFiles(csv, coco, html, len(inputs), landmarker.metadata)
    overlays = plan_overlays(inputs, output, pts)
    failed = 0
    qualities: list[np.ndarray] = []
    try:
        for image, overlay in show_progress(zip(inputs, overlays, strict=True), len(inputs), "detecting"):
            row: dict[str, Any] = {"image": str(image.path), "width": None, "height": None, "faces": []}
            error = image.error
            if error is None:
                try:
                    result = landmarker(_source(image), boxes)
                    row |= result.to_dict()
                    qualities.append(result.quality)
                    files.add(image, result)
                    if overlay is not None:
                        _write(result, overlay, pts)
                except Exception as exception:  # one image must not stop the others
                    error = _describe(exception, image.path)
                    print_traceback(exception)
            if error is not None:
                failed += 1
                say_error(error)
                files.add_error(image, error)
            if json:
                print(jsonlib.dumps({**row, "error": error}), flush=True)
            elif error is None:
                say(f"{image.path}: {counted(len(row['faces']), 'face')}")
    finally:  # also after Ctrl-C
        files.write()
    if failed and len(inputs) > 1:
        say(f"{len(inputs) - failed} of {len(inputs)} images done, {failed} failed")
    quality = np.concatenate([np.zeros(0), *qualities])
    say_hint(
        int((quality < LOW_QUALITY).sum()),
        len(quality),
        config,
        empty=sum(not len(each) for each in qualities),
        images=len(qualities),
        detects=boxes is None,
    )
    return 1 if failed else 0


def plan_overlays(inputs: Sequence[FoundImage], output: Path | None, pts: bool) -> list[Path | None]:
    """Return the path of each image's overlay.

    No image is overwritten, nor any file in a folder that images are read from, and no two overlays share a
    path.

    Args:
        inputs: the images.
        output: a folder, or the file for a single image; None for no overlays.
        pts: whether landmark files are written beside the overlays.

    Returns:
        None for each input with an error, and for all inputs without an output.

    Raises:
        PipnetError: ``pts`` without ``output``, a file name that is not an image's, one file for several
            images, a path that exists or would be ambiguous, or a folder that cannot be created.
    """
    if output is None:
        if pts:
            raise PipnetError("--pts needs -o FOLDER to write to")
        return [None] * len(inputs)
    is_file = _is_image_file(output)
    if is_file and len(inputs) > 1:
        raise PipnetError(f"-o {output} is one file, but there are {len(inputs)} images: use a folder")
    readable = [image for image in inputs if image.error is None]
    overlays = [output] if is_file else _overlay_paths(output, readable, pts)
    sources = {image.path.resolve() for image in inputs}
    for overlay in overlays:
        names = {overlay} if is_file else {overlay, _without_overlay(overlay)}
        if any(name.resolve() in sources for name in names):
            raise PipnetError(f"-o {output} would overwrite the image {overlay}: use another folder")
    pts_paths = [_pts_path(overlay) for overlay in overlays] if pts else []
    if any(output.resolve() in source.parents for source in sources):
        for path in (*overlays, *pts_paths):
            if path.exists():  # it may be an original, or landmarks set by hand
                raise PipnetError(f"{path} exists in a folder that images are read from: use another folder")
    _check_pts_paths(pts_paths)
    make_folder(output.parent if is_file else output)
    remaining = iter(overlays)
    return [next(remaining) if image.error is None else None for image in inputs]


def _is_image_file(output: Path) -> bool:
    """Return whether the output is an image file, not a folder; refuse other file names."""
    suffix = output.suffix.lower()
    if output.is_dir() or not (suffix in IMAGE_SUFFIXES or suffix[1:].isalpha()):
        return False
    if suffix not in _WRITABLE:
        raise PipnetError(f"-o {output}: use a folder, or an image file ending in {', '.join(_WRITABLE)}")
    return True


def _overlay_paths(folder: Path, inputs: Sequence[FoundImage], pts: bool) -> list[Path]:
    """Return an unused path below a folder for each image; names that differ only in case are the same.

    Beside landmark files an overlay has another name than they, or it would be taken for their image. The
    landmarks of ``a.jpg`` are in ``a.pts``, but in ``a.jpg.pts`` if there is an ``a.png`` too.
    """
    names = [image.path.relative_to(image.root) for image in inputs]
    stems = Counter(str(name.with_suffix("")).casefold() for name in names)
    paths: dict[str, Path] = {}
    for name in names:
        path = folder / name
        if path.suffix.lower() not in _WRITABLE:
            path = path.with_name(f"{path.name}.png")
        elif pts and stems[str(name.with_suffix("")).casefold()] > 1:
            path = path.with_name(path.name + path.suffix)
        path = path.with_stem(path.stem + _OVERLAY) if pts else path
        stem, numbers = path.stem, count(2)
        while str(path).casefold() in paths:
            path = path.with_stem(f"{stem}-{next(numbers)}")
        paths[str(path).casefold()] = path
    return list(paths.values())


def _without_overlay(path: Path) -> Path:
    """Return the path of an overlay without the ending that its landmark files do not have."""
    before, _, after = path.stem.rpartition(_OVERLAY)
    return path.with_stem(before + after)


def _pts_path(overlay: Path) -> Path:
    """Return the landmark file of the first face, by the path of the overlay."""
    return _without_overlay(overlay).with_suffix(".pts")


def _check_pts_paths(pts_paths: Sequence[Path]) -> None:
    """Refuse landmark files that would be taken for those of a further face of another image."""
    names = {str(path).casefold() for path in pts_paths}
    for path in pts_paths:
        match = re.fullmatch(r"(.+)_face[0-9]+", path.stem)
        if match and str(path.with_stem(match[1])).casefold() in names:
            raise PipnetError(
                f"{path} would belong to the image {path.stem} and to a face in {match[1]}: rename one"
            )


def _write(faces: FaceLandmarks, overlay: Path, pts: bool) -> None:
    """Write an overlay and one .pts file per face, and delete those of further faces of an earlier run."""
    faces.save(overlay)
    if pts:
        pts_path = _pts_path(overlay)
        number = len(faces.to_pts(pts_path))
        while (old := pts_file(pts_path, number)).exists():
            old.unlink()
            number += 1


def _source(image: FoundImage) -> ImageSource:
    """Return what the landmarker reads; standard input is empty where the shell closed it."""
    if not image.is_standard_input:
        return image.path
    return io.BytesIO() if sys.stdin is None else sys.stdin.buffer


def _describe(error: Exception, path: Path) -> str:
    """Return an error's message, with the path of the image."""
    message = describe(error)
    return message if str(path) in message else f"{path}: {message}"


def _parse_box(text: str) -> list[float]:
    """Return the corners x0, y0, x1, y1 of a box x,y,w,h."""
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        message = (
            f"--box {text:.80}: expected one word x,y,w,h (left, top, width, height in pixels), with commas"
            " and without spaces, such as --box 10,20,200,250"
        )
        raise PipnetError(message) from None
    return [float(value) for value in xywh_to_xyxy((x, y, w, h))]
