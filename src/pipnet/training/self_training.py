"""Self-training: rounds of labeling what nobody labeled, and training on it (IJCV 2021; v1's distillation).

Round 0 trains on the labeled faces, unless a teacher is given that labels the first round. Each further
round gives the unlabeled faces pseudo-labels with the net of the round before, and trains a fresh net on
both. With IJCV's curriculum the pseudo-labeled faces are at first trained on coarse score maps only; with
v1's distillation their labels are means over several views.

Every round is an ordinary training in a folder of its own, with its pseudo-labels beside it. Killed at any
moment, nothing that is done is done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipnet.datasets.pseudo_labels import PseudoLabel, write_pseudo_labels
from pipnet.datasets.unlabeled import BOX_FORMATS, UnlabeledFace, load_unlabeled
from pipnet.errors import DataError, PipnetError, RecipeError
from pipnet.inference.backends.base import CropModel
from pipnet.inference.detectors.load import load_detector
from pipnet.io.atomic import write_text
from pipnet.model.checkpoint import load_checkpoint, read_checkpoint
from pipnet.model.distributed import launched_world_size
from pipnet.model.predictor import TorchModel
from pipnet.scheme import LandmarkScheme
from pipnet.training.label_sheet import draw_quality
from pipnet.training.labeling import label_faces
from pipnet.training.recipe import PseudoConfig, Recipe, SelfTrainingConfig
from pipnet.training.runtime import resolve_precision
from pipnet.training.teachers import Teacher, check_teachers
from pipnet.training.trainer import train

LABELS = "pseudo_labels.csv"
FACTS = "labeling.json"
FRAMES = "frames"
"""Folder in that of the rounds, of pictures from videos."""


def self_train(recipe: Recipe, run: Path, max_steps: int | None = None) -> Path:
    """Train in rounds, or go on where it stopped.

    Args:
        recipe: the training of every round; `Recipe.self_training` says what is unlabeled and which rounds.
        run: folder for the rounds: ``round0``, ``round1``, ...
        max_steps: stop each round after this many steps, for trying things out.

    Returns:
        The path of the last round's weights.

    Raises:
        RecipeError: nothing unlabeled is given, a round was labeled in another way, or as `train`.
        DataError: nothing unlabeled is usable, or as `train`.
        ModelError: the teacher was not fitted to the boxes.
        PipnetError: no detector is to be had, and the faces need one.
    """
    if launched_world_size() > 1:
        raise RecipeError("self-training runs in one process; several train a round: --pseudo.labels TABLE")
    if recipe.pseudo.labels is not None or recipe.pseudo.task != "full":
        raise RecipeError("pseudo.labels and pseudo.task are of one training: self_training.tasks has rounds")
    faces = unlabeled_faces(recipe, run / FRAMES)
    teacher = recipe.self_training.teacher
    if teacher is not None and not teacher.is_file():
        raise RecipeError(f"{teacher}: no such teacher")
    faces = with_known_boxes(faces, recipe.self_training)
    check_detector(faces, recipe.self_training)
    weights = teacher or train(round_recipe(recipe, 0), run / "round0", True, max_steps)
    for number, task in enumerate(recipe.self_training.tasks, start=1):
        folder = run / f"round{number}"
        _label_round(recipe, weights, faces, folder)
        pseudo = replace(recipe.pseudo, labels=folder / LABELS, task=task)
        weights = train(replace(round_recipe(recipe, number), pseudo=pseudo), folder, True, max_steps)
    return weights


def round_recipe(recipe: Recipe, number: int) -> Recipe:
    """The training of one round, without its pseudo-labels: an ordinary one, which knows of no others."""
    ordinary = replace(recipe, self_training=SelfTrainingConfig(), pseudo=PseudoConfig())
    return replace(ordinary, name=f"{recipe.name}-round{number}")


def unlabeled_faces(recipe: Recipe, frames: Path) -> list[UnlabeledFace]:
    """The unlabeled faces of a recipe, limited as it says; frames of videos are put into a folder.

    Raises:
        RecipeError: none are given.
        DataError: see `load_unlabeled`.
    """
    config = recipe.self_training
    if not config.unlabeled:
        raise RecipeError("no unlabeled faces: give --unlabeled, or self_training.unlabeled in the recipe")
    faces = [face for path in config.unlabeled for face in load_unlabeled(path, frames)]
    if config.limit is None:
        return faces
    order = np.random.default_rng(recipe.seed).permutation(len(faces))
    return [faces[i] for i in sorted(order[: config.limit])]


def with_known_boxes(faces: Sequence[UnlabeledFace], config: SelfTrainingConfig) -> list[UnlabeledFace]:
    """The faces, with boxes of kinds that only the teacher was fitted to turned into ones that all nets know.

    This is done once and before anything is trained: the rounds' nets are fitted to none but our detectors.

    Raises:
        RecipeError: there is no teacher.
        ModelError: it was not fitted to them.
    """
    kinds = {face.box_format or config.box_format for face in faces if face.box is not None}
    special = sorted(kinds - set(BOX_FORMATS))
    if not special:
        return list(faces)
    if config.teacher is None:
        raise RecipeError(
            f"boxes of kind {special[0]!r:.60} need self_training.teacher, a checkpoint fitted to them"
            f" (pipnet detector fit); others are {', '.join(BOX_FORMATS)}"
        )
    _, metadata = read_checkpoint(config.teacher)
    placed = []
    for face in faces:
        kind = face.box_format or config.box_format
        if face.box is not None and kind in special:
            tight = metadata.box_adapter("landmarks").inverse(
                metadata.box_adapter(kind).apply(face.box[None])
            )
            placed.append(replace(face, box=tight[0], box_format="landmarks"))
        else:
            placed.append(face)
    return placed


def check_detector(faces: Sequence[UnlabeledFace], config: SelfTrainingConfig) -> None:
    """See that whoever labels the faces will know where they are, before anything is trained.

    All but landmarks' boxes are searched for, or mean what a detector's mean. It is fetched here where it is
    not there yet, since nets are fitted to the detectors that are there at the end of their training.

    Raises:
        PipnetError: no detector is to be had.
        ModelError: the teacher was not fitted to it.
    """
    kinds = {face.box_format or config.box_format for face in faces if face.box is not None}
    if kinds <= {"landmarks"} and all(face.box is not None for face in faces):
        return
    detector = load_detector("auto")
    if config.teacher is not None:
        read_checkpoint(config.teacher)[1].box_adapter(detector.box_format)


def _label_round(recipe: Recipe, weights: Path, faces: Sequence[UnlabeledFace], folder: Path) -> None:
    """Pseudo-label all faces and leave the table, its quality as pictures, and what was dropped.

    What is labeled already is left as it is.

    Raises:
        RecipeError: it was labeled in another way.
        DataError: no face is usable.
    """
    config, facts = recipe.self_training, folder / FACTS
    way = {
        "tta": config.tta,
        "box_format": config.box_format,
        "faces": _fingerprint(faces),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
    }
    if (folder / LABELS).is_file():
        before = json.loads(facts.read_text()) if facts.is_file() else way
        changed = [key for key, value in way.items() if before.get(key) != value]
        if changed:
            what = ", ".join(changed)  # weights: such as those of a trial with --max-steps
            raise RecipeError(f"{folder} was labeled with other {what}: delete it, or choose another folder")
        return
    network, metadata = load_checkpoint(weights)
    model = TorchModel(network, metadata, resolve_precision(recipe.precision, on_cuda=False))
    labels, dropped = label_faces(model, faces, config.tta, config.box_format)
    if not labels:
        raise DataError(f"no pseudo-label is usable: {dict(dropped)}")
    save_labels(folder, labels, metadata.scheme, {**way, "given": len(faces), **_facts(labels, dropped)})


def save_labels(
    folder: Path, labels: Sequence[PseudoLabel], scheme: LandmarkScheme, facts: dict[str, Any]
) -> None:
    """Write the table of pseudo-labels, a sheet of the best and worst, histograms, and facts.

    The table comes last: with it the labeling is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw_quality(labels, scheme, folder)
    write_text(folder / FACTS, json.dumps(facts, indent=1) + "\n")
    write_pseudo_labels(folder / LABELS, labels)


def teach(
    teachers: Sequence[Teacher],
    unlabeled: Sequence[Path],
    output: Path,
    scheme: LandmarkScheme,
    locator: CropModel,
    box_format: str = "face",
) -> Path:
    """Label unlabeled faces by the consensus of several teachers.

    Args:
        teachers: the networks.
        unlabeled: folders, ``boxes.csv`` tables, ``.txt`` lists and videos, see `load_unlabeled`.
        output: folder for the table of pseudo-labels, its contact sheet, and facts.
        scheme: the landmarks of the labels.
        locator: finds where the landmarks are, which the teachers' crops are cut around at first.
        box_format: what given boxes are where their table does not say.

    Returns:
        The path of the table, for ``pseudo.labels`` of a recipe.

    Raises:
        DataError: no face is usable, or a teacher cannot label in this scheme.
        ModelError: there is no teacher, or one cannot be run.
        PipnetError: no detector is to be had, and the faces need one; or the output exists.
    """
    check_teachers(teachers, scheme)
    table = output / LABELS
    if table.exists():
        raise PipnetError(f"{table} exists: choose another folder, or remove it first")
    faces = [face for path in unlabeled for face in load_unlabeled(path, output / FRAMES)]
    check_detector(faces, SelfTrainingConfig(box_format=box_format))
    labels, dropped = label_faces(locator, faces, box_format=box_format, teachers=teachers, scheme=scheme)
    if not labels:
        raise DataError(f"no pseudo-label is usable: {dict(dropped)}")
    said = [
        {"name": t.model.metadata.name, "weight": t.weight, "license": t.model.metadata.license}
        for t in teachers
    ]
    save_labels(output, labels, scheme, {"teachers": said, "given": len(faces), **_facts(labels, dropped)})
    return table


def _fingerprint(faces: Sequence[UnlabeledFace]) -> str:
    """A digest of the faces' names and boxes."""
    rows = [
        f"{face.name} {None if face.box is None else face.box.tolist()} {face.box_format}" for face in faces
    ]
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _facts(labels: Sequence[PseudoLabel], dropped: dict[str, int]) -> dict[str, Any]:
    facts: dict[str, Any] = {"labeled": len(labels), "dropped": dict(dropped)}
    for key in ("score", "vote_std", "tta_std"):
        values = [getattr(label, key) for label in labels]
        facts[key] = {f"p{p}": round(float(np.percentile(values, p)), 4) for p in (5, 50, 95)}
    return facts
