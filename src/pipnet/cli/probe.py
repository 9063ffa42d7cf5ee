"""``pipnet probe``: what a model predicts where there is no face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from pipnet.cli import say, training_imports
from pipnet.cli.options import Output
from pipnet.cli.streams import print_table
from pipnet.config import DEFAULT_DETECTOR
from pipnet.datasets.load import load_samples
from pipnet.errors import PipnetError
from pipnet.evaluation.matplotlib_figure import require_figures
from pipnet.inference.detectors.load import load_detector
from pipnet.io.atomic import make_folder, write_text
from pipnet.papers.face_free_crops import dataset_crops, image_crops


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
    detector = load_detector(DEFAULT_DETECTOR)
    faces, backgrounds = dataset_crops(samples, metadata, detector, count, seed)
    user_crops = image_crops(images, metadata, detector, count, seed) if images else ([], [])
    user_faces, user_backgrounds = user_crops
    blank_checkpoint = blank_checkpoint or train_on_blank_images(metadata, data, output / "blank", steps)
    blank_model, blank_metadata = load_blank_checkpoint(blank_checkpoint)
    results = prior.probe_models(model, blank_model, faces, backgrounds, user_backgrounds)
    landmarks = prior.probed_landmarks(metadata.scheme, metadata.mean_face)
    user_face = prior.predict_score_maps(model, user_faces[:1]) if user_faces else None
    rows = prior.figure_rows(results, user_face)
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
    print_table(_table(summary))
    say(str(output / "position_prior.png"))
    say(str(output / "position_prior.json"))


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
