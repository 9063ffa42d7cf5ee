"""``pipnet probe``: what a model answers where there is no face."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from pipnet.annotations.samples import FaceSample
from pipnet.cli import cannot_import, say
from pipnet.cli.detect import find_pictures
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, ImageError, PipnetError
from pipnet.evaluation.figure import require_figures
from pipnet.geometry import Box, Image, crop, tight_box
from pipnet.inference.detectors.base import FaceDetector
from pipnet.inference.detectors.load import load_detector
from pipnet.io.atomic import make_folder, write_text
from pipnet.io.image import read_image
from pipnet.metadata import ModelMetadata
from pipnet.papers.backgrounds import Photo, find_backgrounds
from pipnet.progress import track

_PHOTOS = 3
"""Photos of the collection looked through for each part without a face."""


def probe(
    checkpoint: Path,
    /,
    *,
    data: Path,
    output: Annotated[Path, Parameter(alias="-o")],
    subset: str | None = None,
    black: Path | None = None,
    steps: int = 150,
    pictures: Path | None = None,
    count: int = 100,
    seed: int = 0,
) -> None:
    """Show what a PIP model answers where there is no face: v1's probe of the position prior.

    Two experiments, as a figure of score maps and as numbers: a net of the same kind trained on black
    pictures with the true labels, shown a black picture; and the model, shown parts of photos without a
    face. The first net is trained here if none is given, and kept in the output folder.

    Parameters
    ----------
    checkpoint
        A .safetensors file of a model with a pip head, trained on faces.
    data
        A collection: labels for the black pictures, faces to compare with, and their surroundings.
    output
        Folder for position_prior.png, position_prior.json and the net trained on black.
    subset
        Part of the collection whose faces and surroundings are shown; its test part if not given.
    black
        A .safetensors file of a net trained on black (pipnet train ... --augment.blank) to use instead.
    steps
        How long the net on black pictures is trained, at 4 pictures each.
    pictures
        Photos of your own to take the pictures of the figure from: parts without a face, and a face.
    count
        How many parts without a face, and how many faces, to measure.
    seed
        Chooses faces and parts.
    """
    try:
        from pipnet.model.checkpoint import load_checkpoint
        from pipnet.papers import position_prior as prior
        from pipnet.papers.blank_images import load_black, train_black
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    if count < 1:
        raise PipnetError(f"--count must be at least 1, not {count}")
    require_figures()
    model, metadata = load_checkpoint(checkpoint)
    prior.score_head(model)  # before anything takes long
    make_folder(output)
    samples, _, spec = load_samples(data, subset, metadata.scheme, for_evaluation=True)
    detector = load_detector("auto")
    faces, without = from_collection(samples, metadata, detector, count, seed)
    own_faces, own_without = from_photos(pictures, metadata, detector, count, seed) if pictures else ([], [])
    dark, dark_info = load_black(black or train_black(metadata, data, output / "black", steps))
    answers = prior.probe_both(model, dark, faces, without, own_without)
    landmarks = prior.probed_landmarks(metadata.scheme, metadata.mean_face)
    rows = prior.figure_rows(answers, prior.ask(model, own_faces[:1]) if own_faces else None)
    prior.plot_prior(rows, metadata.scheme, landmarks, output / "position_prior.png")
    result = {
        "model": metadata.name,
        "trained on black": {"name": dark_info.name, "training": dark_info.training},
        "data": f"{spec.title} {subset or spec.default_test}",
        "seed": seed,
        "rows": {name: group.numbers() for name, group in answers.items()},
        "distance of guesses": prior.references(metadata.mean_face),
        "landmarks shown": landmarks,
    }
    write_text(output / "position_prior.json", json.dumps(result, indent=1) + "\n")
    Console(stderr=True).print(_table(result))
    say(f"{output / 'position_prior.png'}\n{output / 'position_prior.json'}")


def from_collection(
    samples: Sequence[FaceSample], metadata: ModelMetadata, detector: FaceDetector, count: int, seed: int
) -> tuple[list[Image], list[Image]]:
    """Crops of faces, and of parts of their photos without a face.

    Faces beside the labeled one are left out as far as the detector finds them.

    Raises:
        DataError: no photo has a part without a face that is not plain.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen = [samples[i] for i in order[: _PHOTOS * count]]
    faces: list[Image] = []

    def photos() -> Iterator[Photo]:
        for sample in track(chosen, len(chosen), "looking beside faces"):
            image = read_image(sample.image)
            box = metadata.crop.face_box(sample.points, sample.box)
            if len(faces) < count:
                faces.append(_crop(image, box, metadata))
            boxes = [tight_box(sample.points), *detector(image).boxes]
            yield sample.name, image, np.array(boxes, np.float32)

    parts = find_backgrounds(photos(), metadata.input_size, -(-count // len(chosen)), seed)
    if not parts:
        raise DataError(f"no part without a face and with texture in {len(chosen)} photos: use --pictures")
    return faces, [part.crop for part in parts[:count]]


def from_photos(
    folder: Path, metadata: ModelMetadata, detector: FaceDetector, count: int, seed: int
) -> tuple[list[Image], list[Image]]:
    """Crops of the faces that the detector finds in a user's photos, and of parts without a face.

    Raises:
        ImageError: there are no pictures, or one cannot be read.
        ModelError: the model was not fitted to the detector's boxes.
        DataError: no photo has a part without a face that is not plain.
    """
    found = list(find_pictures([str(folder)]))
    problems = [item.error for item in found if item.error] or [f"{folder}: no pictures"] * (not found)
    if problems:
        raise ImageError(problems[0])
    faces: list[Image] = []

    def photos() -> Iterator[Photo]:
        for item in track(found, len(found), "looking beside faces"):
            image = read_image(item.path)
            boxes = detector(image).boxes
            faces.extend(
                _crop(image, box, metadata) for box in metadata.box_adapter(detector.box_format).apply(boxes)
            )
            yield str(item.path), image, boxes

    parts = find_backgrounds(photos(), metadata.input_size, -(-count // len(found)), seed)
    if not parts:
        raise DataError(f"{folder}: no part without a face and with texture in {len(found)} photos")
    return faces, [part.crop for part in parts[:count]]


def _crop(image: Image, face_box: Box, metadata: ModelMetadata) -> Image:
    height, width = image.shape[:2]
    return crop(image, metadata.crop(face_box, width, height), metadata.input_size)


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"{result['model']}: how far from the mean face, in % of the crop")
    table.add_column("")
    for name in ("pictures", "answer", "own points", "exchanged", "peak score"):
        table.add_column(name, justify="right")
    for name, row in result["rows"].items():
        away = (f"{row[key]:.2f}" for key in ("distance", "own", "exchanged"))
        table.add_row(name, str(row["pictures"]), *away, f"{row['peak']:.3f}")
    for name, distance in result["distance of guesses"].items():
        table.add_row(name, "", f"{distance:.2f}")
    return table
