"""``pipnet data check``: look for mistakes in a dataset's labels."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipnet.annotations.samples import FaceSample
from pipnet.cli import say
from pipnet.cli.options import (
    DEFAULT_RUNTIME,
    ImagesFolder,
    OptionalOutput,
    RuntimeFlags,
    Scheme,
    TrainingSubset,
)
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError
from pipnet.evaluation.gallery.faces import GalleryFace
from pipnet.evaluation.gallery.page import INDEX, Heading, write_gallery
from pipnet.evaluation.label_check import check_faces, find_duplicates, label_offsets
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.load import load_model
from pipnet.io.text import counted
from pipnet.progress import show_progress

SHOWN = 200
"""Faces on the page unless told otherwise."""


def check(
    source: Path,
    /,
    *,
    model: str = DEFAULT_MODEL,
    subset: TrainingSubset = None,
    scheme: Scheme = None,
    images: ImagesFolder = None,
    limit: int = SHOWN,
    runtime: RuntimeFlags = DEFAULT_RUNTIME,
    json: bool = False,
    output: OptionalOutput = None,
) -> None:
    """Check the labels of a dataset with a model: offset, swapped sides, duplicates, disagreement.

    Reports the offset of the labels along x by dataset part and image size, with a 95 % interval; faces whose
    left and right seem exchanged; faces that two subsets share; and the faces whose labels disagree most with
    the model.

    Parameters
    ----------
    source
        A published dataset, or your own annotations (a folder or file).
    model
        The model to compare with, of the dataset's landmarks or of others that a mapping leads from: a name,
        .onnx file, folder or hub id.
    limit
        Show at most so many faces on the page, those with the largest disagreement.
    json
        Print the numbers as one JSON line.
    output
        The folder to make a page in, with the faces whose labels disagree most with the model.
    """
    if limit < 1:
        raise DataError(f"--limit must be at least 1, not {limit}")
    network = load_model(find_model(model), runtime)
    samples, landmarks, spec = load_samples(source, subset, scheme, images=images)
    faces = check_faces(network, show_progress(samples, len(samples), "checking labels"), landmarks)
    duplicates = find_duplicates(_parts(source, samples, list(spec.subsets), scheme, images))
    offsets = label_offsets(faces)
    worst = sorted((face for face in faces if face.nme > 0), key=lambda face: -face.nme)
    summary = {
        "dataset": spec.title,
        "model": network.metadata.name,
        "faces": len(faces),
        "offsets": {
            name: {"mean": o.mean, "interval": o.interval, "faces": o.faces} for name, o in offsets.items()
        },
        "swapped": [face.sample.name for face in faces if face.is_swapped],
        "duplicates": [pair._asdict() for pair in duplicates],
        "worst": [{"face": face.sample.name, "nme": round(100 * face.nme, 3)} for face in worst[:20]],
    }
    if json:
        print(jsonlib.dumps(summary))
    else:
        _report(summary)
    if output is not None:
        shown = [GalleryFace(f.sample, {"nme": 100 * f.nme}, f.prediction) for f in worst[:limit]]
        heading = Heading(
            f"{spec.title}: largest disagreement with {network.metadata.name}",
            len(faces),
            selection="those with the largest disagreement",
        )
        write_gallery(output, shown, landmarks, heading, None)
        say(f"{output / INDEX}: the {counted(len(shown), 'face')} with the largest disagreement")


def _parts(
    source: Path,
    samples: Sequence[FaceSample],
    subsets: Sequence[str],
    scheme: str | None,
    images: Path | None,
) -> dict[str, list[FaceSample]]:
    """Return the checked faces, and the faces of all other subsets that are here."""
    checked = {sample.name for sample in samples}
    others: dict[str, FaceSample] = {}
    for subset in subsets:
        try:
            found, _, _ = load_samples(source, subset, scheme, images=images)
        except DataError:  # not here, or not prepared
            continue
        others |= {sample.name: sample for sample in found if sample.name not in checked}
    return {"checked": list(samples), "other subsets": list(others.values())}


def _report(summary: dict[str, Any]) -> None:
    """Print the summary for people."""
    say(f"{summary['dataset']}: {counted(summary['faces'], 'face')}, compared with {summary['model']}")
    say("offset of the labels along x, in pixels (label minus image; 95 % interval):")
    for name, offset in summary["offsets"].items():
        low, high = offset["interval"]
        say(f"  {name}: {offset['mean']:+.2f} ({low:+.2f} to {high:+.2f}), {offset['faces']:,} faces")
    say(f"left and right exchanged: {', '.join(summary['swapped'][:10]) or 'none'}")
    say(f"faces that other subsets have too: {len(summary['duplicates']) or 'none'}")
    for pair in summary["duplicates"][:20]:
        say(f"  {pair['first']} = {pair['second']}")
    say("largest disagreement with the model, in % of the norm:")
    for row in summary["worst"][:5]:
        say(f"  {row['face']}: {row['nme']:.1f}")
