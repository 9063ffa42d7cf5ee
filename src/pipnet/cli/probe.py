"""``pipnet probe``: what a model predicts where there is no face."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from pipnet.annotations.samples import FaceSample
from pipnet.cli import say, training_imports
from pipnet.cli.options import Output
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, ImageError, PipnetError
from pipnet.evaluation.matplotlib_figure import require_figures
from pipnet.geometry import Box, Image, crop, tight_box
from pipnet.inference.detectors.base import FaceDetector
from pipnet.inference.detectors.load import load_detector
from pipnet.io.atomic import make_folder, write_text
from pipnet.io.discovery import find_images
from pipnet.io.image import read_image
from pipnet.metadata import ModelMetadata
from pipnet.papers.face_free_crops import Photo, find_backgrounds
from pipnet.progress import show_progress

_PHOTOS_PER_BACKGROUND = 3
"""Photos of the dataset that are searched for each part without a face."""


def probe(
    checkpoint: Path,
    /,
    *,
    data: Path,
    output: Output,
    subset: str | None = None,
    blank_checkpoint: Path | None = None,
    steps: int = 150,
    images: Path | None = None,
    count: int = 100,
    seed: int = 0,
) -> None:
    """Show what a PIP model predicts where there is no face: v1's probe of the position prior.

    Two experiments, as a figure of score maps and as numbers: a network of the same architecture, trained on
    blank images with the true labels, predicts on a blank image; and the model predicts on parts of photos
    without a face. The first network is trained here unless one is given, and kept in the output folder.

    Parameters
    ----------
    checkpoint
        A .safetensors file of a model with a pip head, trained on faces.
    data
        A dataset: labels for the blank images, faces to compare with, and backgrounds.
    output
        Folder for position_prior.png, position_prior.json and the network trained on blank images.
    subset
        Subset of the dataset from which faces and backgrounds are taken; its test subset if not given.
    blank_checkpoint
        A .safetensors file of a network trained on blank images (pipnet train ... --augment.blank) to use
        instead of training one.
    steps
        Training steps on blank images, with 4 images each.
    images
        Your own photos, from which the figure takes its parts without a face, and a face.
    count
        Number of parts without a face, and number of faces, to measure.
    seed
        Chooses faces and parts.
    """
    with training_imports():
        from pipnet.model.checkpoint import load_checkpoint
        from pipnet.papers import position_prior as prior
        from pipnet.papers.blank_images import load_blank_checkpoint, train_on_blank_images
    if count < 1:
        raise PipnetError(f"--count must be at least 1, not {count}")
    require_figures()
    model, metadata = load_checkpoint(checkpoint)
    prior.check_score_maps(model)
    make_folder(output)
    samples, _, spec = load_samples(data, subset, metadata.scheme, for_evaluation=True)
    detector = load_detector("auto")
    faces, backgrounds = dataset_crops(samples, metadata, detector, count, seed)
    own_faces, own_backgrounds = image_crops(images, metadata, detector, count, seed) if images else ([], [])
    blank_checkpoint = blank_checkpoint or train_on_blank_images(metadata, data, output / "blank", steps)
    blank_model, blank_metadata = load_blank_checkpoint(blank_checkpoint)
    results = prior.probe_models(model, blank_model, faces, backgrounds, own_backgrounds)
    landmarks = prior.probed_landmarks(metadata.scheme, metadata.mean_face)
    rows = prior.figure_rows(results, prior.predict_score_maps(model, own_faces[:1]) if own_faces else None)
    prior.plot_prior(rows, metadata.scheme, landmarks, output / "position_prior.png")
    summary = {
        "model": metadata.name,
        "blank_model": {"name": blank_metadata.name, "training": blank_metadata.training},
        "data": f"{spec.title} {subset or spec.default_test}",
        "seed": seed,
        "rows": {name: result.summary() for name, result in results.items()},
        "reference_distances": prior.reference_distances(metadata.mean_face),
        "landmarks": landmarks,
    }
    write_text(output / "position_prior.json", json.dumps(summary, indent=1) + "\n")
    Console(stderr=True).print(_table(summary))
    say(f"{output / 'position_prior.png'}\n{output / 'position_prior.json'}")


def dataset_crops(
    samples: Sequence[FaceSample], metadata: ModelMetadata, detector: FaceDetector, count: int, seed: int
) -> tuple[list[Image], list[Image]]:
    """Return crops of labeled faces, and of parts of their photos without a face.

    Unlabeled faces in these photos are avoided as far as the detector finds them.

    Raises:
        DataError: no photo has a part without a face that is not plain.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen = [samples[i] for i in order[: _PHOTOS_PER_BACKGROUND * count]]

    def photos() -> Iterator[tuple[Photo, list[Box]]]:
        for sample in chosen:
            image = read_image(sample.image)
            boxes = np.array([tight_box(sample.points), *detector(image).boxes], np.float32)
            yield (sample.name, image, boxes), [sample.face_box(metadata.crop)]

    return _crops(photos(), len(chosen), metadata, count, seed)


def image_crops(
    folder: Path, metadata: ModelMetadata, detector: FaceDetector, count: int, seed: int
) -> tuple[list[Image], list[Image]]:
    """Return crops of the faces that the detector finds in a folder's images, and of parts without a face.

    Raises:
        ImageError: there are no images, or one cannot be read.
        ModelError: the model was not fitted to the detector's boxes.
        DataError: no image has a part without a face that is not plain.
    """
    found = list(find_images([str(folder)]))
    error = next((item.error for item in found if item.error), None)
    if error:
        raise ImageError(error)
    adapter = metadata.box_adapter(detector.box_format)

    def photos() -> Iterator[tuple[Photo, list[Box]]]:
        for item in found:
            image = read_image(item.path)
            boxes = detector(image).boxes
            yield (str(item.path), image, boxes), list(adapter.apply(boxes))

    return _crops(photos(), len(found), metadata, count, seed)


def _crops(
    photos: Iterable[tuple[Photo, list[Box]]], total: int, metadata: ModelMetadata, count: int, seed: int
) -> tuple[list[Image], list[Image]]:
    """Return crops of faces and of backgrounds of photos, which come with the boxes of the faces to crop."""
    faces: list[Image] = []

    def searched() -> Iterator[Photo]:
        for photo, face_boxes in show_progress(photos, total, "searching backgrounds"):
            _, image, _ = photo
            height, width = image.shape[:2]
            regions = [metadata.crop.region(box, width, height) for box in face_boxes]
            faces.extend(crop(image, box, metadata.input_size) for box in regions)
            yield photo

    backgrounds = find_backgrounds(searched(), metadata.input_size, -(-count // total), seed)
    if not backgrounds:
        raise DataError(
            f"no part without a face and with texture in {total} photos: give other photos with --images"
        )
    return faces[:count], [background.crop for background in backgrounds[:count]]


def _table(summary: dict[str, Any]) -> Table:
    table = Table(title=f"{summary['model']}: distance from the mean face, in % of the crop")
    table.add_column("")
    for name in ("images", "prediction", "unmerged", "any landmark", "peak score"):
        table.add_column(name, justify="right")
    for name, row in summary["rows"].items():
        distances = (f"{row[key]:.2f}" for key in ("distance", "unmerged", "any_landmark"))
        table.add_row(name, str(row["images"]), *distances, f"{row['peak']:.3f}")
    for name, distance in summary["reference_distances"].items():
        table.add_row(name, "", f"{distance:.2f}")
    return table
