"""``pipnet detect``: pictures in, overlays, JSON lines and .pts files out."""

from __future__ import annotations

import glob
import json as jsonlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import PIL.Image
from cyclopts import Parameter

from pipnet.cli import say
from pipnet.config import LandmarkerConfig, RuntimeConfig
from pipnet.errors import BoxError, ImageError, ModelError, PipnetError
from pipnet.geometry import xywh_to_xyxy
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.inference.results import FaceLandmarks, pts_file
from pipnet.io.atomic import make_folder
from pipnet.io.discovery import walk
from pipnet.io.image import IMAGE_SUFFIXES, NOT_READ
from pipnet.progress import track

_OVERLAY = "_overlay"
_WRITABLE = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def detect(
    pictures: list[str],
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    json: bool = False,
    pts: bool = False,
    box: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True)] = None,
    box_format: str = "face",
    finding: Annotated[LandmarkerConfig, Parameter(name="*")] = LandmarkerConfig(),  # noqa: B008  (frozen)
    runtime: Annotated[RuntimeConfig, Parameter(name="*")] = RuntimeConfig(),  # noqa: B008  (frozen)
) -> int:
    """Find faces and their landmarks in pictures.

    A picture that cannot be read is reported, the others are done all the same, and the exit code is 1.

    Parameters
    ----------
    pictures
        Files, folders (searched through) and globs.
    output
        Folder for pictures with the landmarks drawn on, in the place of what an earlier run left there; or a
        file, for one picture.
    json
        Write one JSON line a picture to standard output.
    pts
        Write one .pts file a face into the output folder; the pictures drawn on are NAME_overlay there.
    box
        A face box x,y,w,h in pixels instead of a detector's; may be given several times.
    box_format
        What the given boxes mean: face (forehead to chin), landmarks (tight), whole, a detector, or a name
        that pipnet detector fit gave.
    """
    PIL.Image.MAX_IMAGE_PIXELS = None  # this process is ours, and max_pixels is checked instead
    boxes = [_parse_box(text) for text in box] if box else None
    if boxes is None and box_format != "face":
        raise PipnetError(f"--box-format {box_format} says what --box means: give that too")
    landmarker = FaceLandmarker.from_pretrained(**asdict(finding), **asdict(runtime), box_format=box_format)
    if boxes is None:
        _ = landmarker.detector  # a detector that is not to be had is one error, not one a picture
    inputs = plan_outputs(list(find_pictures(pictures, skip=output)), output, pts)
    failed = 0
    for item in track(inputs, len(inputs), "detecting"):
        row: dict[str, Any] = {"image": str(item.path)}
        try:
            if item.error:
                raise ImageError(item.error)
            faces = landmarker(item.path, boxes)
            row |= faces.to_dict()
            _write(item, faces, pts)
        except Exception as error:  # whatever one picture does, the others are done
            known = isinstance(error, PipnetError)
            reason = str(error) if known else f"unexpected {type(error).__name__}: {error}"
            named = known and not isinstance(error, BoxError | ModelError)
            failed += 1
            row["error"] = reason if named else f"{item.path}: {reason}"
            say(f"error: {row['error']}")
        if json:
            _print_line(row)
        elif "error" not in row:
            say(f"{item.path}: {len(row['faces'])} {'face' if len(row['faces']) == 1 else 'faces'}")
    if failed and len(inputs) > 1:
        say(f"{len(inputs) - failed} of {len(inputs)} pictures done, {failed} failed")
    return 1 if failed else 0


@dataclass(frozen=True)
class Input:
    """A picture to work on, or something that was named and is none."""

    path: Path
    root: Path
    """What the user named; results keep the path below it."""
    error: str | None = None
    output: Path | None = None
    """Where its overlay goes."""


def find_pictures(names: Sequence[str], skip: Path | None = None) -> Iterator[Input]:
    """The pictures that files, folders and globs mean, in a stable order.

    Args:
        names: what the user named.
        skip: a folder of results, which is left out where it lies in a named folder.
    """
    for name in names:
        path = Path(name)
        try:
            if not name:  # which would mean the folder that one is in
                yield Input(path, path, "an empty name is no picture")
            elif "://" in name:
                yield Input(path, path, f"{name}: an address: download the picture first")
            elif path.is_dir():
                yield from _pictures_below(path, skip)
            elif glob.has_magic(name) and not path.exists():
                matches = sorted(Path(m) for m in glob.glob(name, recursive=True))  # noqa: PTH207
                yield from (Input(m, m.parent) for m in matches if not m.is_dir())
                if not matches:
                    yield Input(path, path.parent, f"{name}: nothing matches")
            else:
                yield Input(path, path.parent)
        except OSError as error:  # a name that the system refuses, such as one in a locked folder
            yield Input(path, path.parent, f"{name}: {error.strerror}")


def _pictures_below(folder: Path, skip: Path | None) -> Iterator[Input]:
    errors: list[OSError] = []
    found = False
    unknown: list[Path] = []
    for parent, folders, files in walk(folder, errors.append):
        folders[:] = [f for f in folders if skip is None or (parent / f).resolve() != skip.resolve()]
        for file in files:
            path = parent / file
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_fifo():  # which would be waited for
                found = True
                yield Input(path, folder)
            elif path.suffix.lower() in NOT_READ:
                unknown.append(path)
    for error in errors:
        where = Path(error.filename or folder)
        yield Input(where, folder, f"{where}: cannot be read: {error.strerror}")
    if unknown:
        what = f"{len(unknown)} pictures of a kind that cannot be read, such as {unknown[0]}"
        yield Input(folder, folder, f"{folder}: {what}: turn them into JPEG or PNG")
    elif not found and not errors:
        yield Input(folder, folder, f"{folder}: no pictures in this folder")


def plan_outputs(inputs: Sequence[Input], output: Path | None, pts: bool) -> list[Input]:
    """Give each input the place of its overlay: no picture is overwritten, no two share a file.

    Args:
        inputs: what is worked on.
        output: a folder, or for a single picture a file with a picture's ending; None for no overlays.
        pts: whether landmark files are wanted too.

    Raises:
        PipnetError: ``--pts`` without ``-o``, a file that is no picture, or one for several pictures, a
            result in the place of a picture, or of any file in a folder that pictures are read from,
            landmarks that would be taken for another picture's, or a folder that cannot be made.
    """
    if output is None:
        if pts:
            raise PipnetError("--pts needs -o FOLDER to write to")
        return list(inputs)
    is_file = output.suffix.lower() in _WRITABLE and not output.is_dir()
    if output.suffix.lower() in IMAGE_SUFFIXES - _WRITABLE and not output.is_dir():
        raise PipnetError(f"-o {output}: a picture is written as {', '.join(sorted(_WRITABLE))}")
    if output.suffix[1:].isalpha() and not is_file and not output.is_dir():
        raise PipnetError(
            f"-o {output}: is a folder, or the file of a picture: {', '.join(sorted(_WRITABLE))}"
        )
    if is_file and len(inputs) > 1:
        raise PipnetError(f"-o {output} is one file, but there are {len(inputs)} pictures")
    readable = [item for item in inputs if not item.error]
    places = [output] if is_file else _places(output, readable, pts)
    pictures = {item.path.resolve() for item in inputs}
    labels = [_labels(place) for place in places] if pts else []
    for place in places:
        of_it = {place.resolve()} if is_file else {place.resolve(), _without_overlay(place).resolve()}
        if of_it & pictures:
            raise PipnetError(f"-o {output} would overwrite the picture {place}: choose another")
    if any(output.resolve() in picture.parents for picture in pictures):
        for place in (*places, *labels):
            if place.exists():  # perhaps an original, or landmarks set by hand
                raise PipnetError(
                    f"{place} is there, in a folder that pictures are read from: choose another"
                )
    _check_labels(labels)
    make_folder(output.parent if is_file else output)
    free = iter(places)
    return [item if item.error else replace(item, output=next(free)) for item in inputs]


def _places(folder: Path, inputs: Sequence[Input], pts: bool) -> list[Path]:
    """A place of its own for each picture below a folder, also where names differ only in case.

    Beside landmark files an overlay has another name than they: it must not be taken for their picture. The
    landmarks of ``a.jpg`` are ``a.pts``, but ``a.jpg.pts`` where there is an ``a.png`` too.
    """
    names = [item.path.relative_to(item.root) for item in inputs]
    same = Counter(str(name.with_suffix("")).casefold() for name in names)
    taken: set[str] = set()
    places = []
    for name in names:
        path = folder / name
        if path.suffix.lower() not in _WRITABLE:
            path = path.with_name(path.name + ".png")
        elif pts and same[str(name.with_suffix("")).casefold()] > 1:
            path = path.with_name(path.name + path.suffix)
        path = path.with_stem(path.stem + _OVERLAY) if pts else path
        stem, number = path.stem, 1
        while str(path).casefold() in taken:
            number += 1
            path = path.with_stem(f"{stem}-{number}")
        taken.add(str(path).casefold())
        places.append(path)
    return places


def _labels(place: Path) -> Path:
    """The landmark file of a picture's first face, by the name of its overlay."""
    return _without_overlay(place).with_suffix(".pts")


def _without_overlay(path: Path) -> Path:
    """The overlay's name without what sets it apart from its landmark files."""
    before, _, after = path.stem.rpartition(_OVERLAY)
    return path.with_stem(before + after)


def _check_labels(files: Sequence[Path]) -> None:
    """See that no picture's landmarks would be taken for a further face of another one.

    Raises:
        PipnetError: they would.
    """
    known = {str(file).casefold() for file in files}
    for file in files:
        further = re.fullmatch(r"(.+)_face[0-9]+", file.stem)
        if further and str(file.with_stem(further[1])).casefold() in known:
            raise PipnetError(
                f"{file}: would be of the picture {file.stem} and of a face in {further[1]}: rename one"
            )


def _write(item: Input, faces: FaceLandmarks, pts: bool) -> None:
    """Write the overlay and, if wanted, a .pts file a face, in the place of those of an earlier run.

    Raises:
        PipnetError: it cannot be written.
    """
    path = item.output
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        faces.save(path)
        if pts:
            number = len(faces.to_pts(_labels(path)))
            while (older := pts_file(_labels(path), number)).exists():
                older.unlink()
                number += 1
    except OSError as error:
        raise PipnetError(f"{path}: cannot be written: {error.strerror}") from None


def _parse_box(text: str) -> list[float]:
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        raise PipnetError(f"--box {text}: expected x,y,w,h in pixels, such as --box 10,20,200,250") from None
    return [float(v) for v in xywh_to_xyxy((x, y, w, h))]


def _print_line(row: dict[str, Any]) -> None:
    print(jsonlib.dumps(row), flush=True)
