"""Self-training: rounds of labelling what nobody labelled, and training on it (IJCV 2021; v1's distillation).

Round 0 trains on the labelled faces, unless a teacher is given that labels the first round. Each further
round gives the unlabelled faces pseudo-labels with the net of the round before, and trains a fresh net on
both. With IJCV's curriculum the pseudo-labelled faces are at first trained on coarse score maps only; with
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

from pipnet.data.pseudo_labels import PseudoLabel, write_pseudo_labels
from pipnet.data.unlabelled import KINDS, UnlabelledFace, load_unlabelled
from pipnet.errors import DataError, PipnetError, RecipeError
from pipnet.inference.box_fits import boxes_of_kind, face_boxes
from pipnet.inference.detectors import load_detector
from pipnet.inference.views import CropModel
from pipnet.model.checkpoint import load_checkpoint, read_checkpoint
from pipnet.model.predictor import TorchModel
from pipnet.model.processes import wanted_processes
from pipnet.scheme import LandmarkScheme
from pipnet.training.labelling import label_faces
from pipnet.training.machine import computes_in_bf16
from pipnet.training.quality import draw_quality
from pipnet.training.recipe import PseudoConfig, Recipe, SelfTrainingConfig
from pipnet.training.teachers import Teacher, check_teachers
from pipnet.training.trainer import train
from pipnet.writing import write_text

LABELS = "pseudo_labels.csv"
FACTS = "labelling.json"
FRAMES = "frames"
"""Folder in that of the rounds, of pictures from videos."""


def self_train(recipe: Recipe, run: Path, max_steps: int | None = None) -> Path:
    """Train in rounds, or go on where it stopped.

    Args:
        recipe: the training of every round; `Recipe.self_training` says what is unlabelled and which rounds.
        run: folder for the rounds: ``round0``, ``round1``, ...
        max_steps: stop each round after this many steps, for trying things out.

    Returns:
        The path of the last round's weights.

    Raises:
        RecipeError: nothing unlabelled is given, a round was labelled in another way, or as `train`.
        DataError: nothing unlabelled is usable, or as `train`.
        ModelError: the teacher was not fitted to the boxes.
        PipnetError: no detector is to be had, and the faces need one.
    """
    if wanted_processes() > 1:
        raise RecipeError("self-training runs in one process; several train a round: --pseudo.labels TABLE")
    if recipe.pseudo.labels is not None or recipe.pseudo.task != "full":
        raise RecipeError("pseudo.labels and pseudo.task are of one training: self_training.tasks has rounds")
    faces = unlabelled_faces(recipe, run / FRAMES)
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


def unlabelled_faces(recipe: Recipe, frames: Path) -> list[UnlabelledFace]:
    """The unlabelled faces of a recipe, limited as it says; frames of videos are put into a folder.

    Raises:
        RecipeError: none are given.
        DataError: see `load_unlabelled`.
    """
    config = recipe.self_training
    if not config.unlabelled:
        raise RecipeError("no unlabelled faces: give --unlabelled, or self_training.unlabelled in the recipe")
    faces = [face for path in config.unlabelled for face in load_unlabelled(path, frames)]
    if config.limit is None:
        return faces
    order = np.random.default_rng(recipe.seed).permutation(len(faces))
    return [faces[i] for i in sorted(order[: config.limit])]


def with_known_boxes(faces: Sequence[UnlabelledFace], config: SelfTrainingConfig) -> list[UnlabelledFace]:
    """The faces, with boxes of kinds that only the teacher was fitted to turned into ones that all nets know.

    This is done once and before anything is trained: the rounds' nets are fitted to none but our detectors.

    Raises:
        RecipeError: there is no teacher.
        ModelError: it was not fitted to them.
    """
    kinds = {face.kind or config.box_kind for face in faces if face.box is not None}
    special = sorted(kinds - set(KINDS))
    if not special:
        return list(faces)
    if config.teacher is None:
        raise RecipeError(
            f"boxes of kind {special[0]!r:.60} need self_training.teacher, a checkpoint fitted to them"
            f" (pipnet detector fit); others are {', '.join(KINDS)}"
        )
    _, info = read_checkpoint(config.teacher)
    placed = []
    for face in faces:
        kind = face.kind or config.box_kind
        if face.box is not None and kind in special:
            tight = boxes_of_kind(info, face_boxes(info, face.box[None], kind), "landmarks")
            placed.append(replace(face, box=tight[0], kind="landmarks"))
        else:
            placed.append(face)
    return placed


def check_detector(faces: Sequence[UnlabelledFace], config: SelfTrainingConfig) -> None:
    """See that whoever labels the faces will know where they are, before anything is trained.

    All but landmarks' boxes are searched for, or mean what a detector's mean. It is fetched here where it is
    not there yet, since nets are fitted to the detectors that are there at the end of their training.

    Raises:
        PipnetError: no detector is to be had.
        ModelError: the teacher was not fitted to it.
    """
    kinds = {face.kind or config.box_kind for face in faces if face.box is not None}
    if kinds <= {"landmarks"} and all(face.box is not None for face in faces):
        return
    detector = load_detector("auto")
    if config.teacher is not None:
        face_boxes(read_checkpoint(config.teacher)[1], np.zeros((0, 4), np.float32), detector.kind)


def _label_round(recipe: Recipe, weights: Path, faces: Sequence[UnlabelledFace], folder: Path) -> None:
    """Pseudo-label all faces and leave the table, its quality as pictures, and what was dropped.

    What is labelled already is left as it is.

    Raises:
        RecipeError: it was labelled in another way.
        DataError: no face is usable.
    """
    config, facts = recipe.self_training, folder / FACTS
    way = {
        "views": config.views,
        "box_kind": config.box_kind,
        "faces": _fingerprint(faces),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
    }
    if (folder / LABELS).is_file():
        before = json.loads(facts.read_text()) if facts.is_file() else way
        changed = [key for key, value in way.items() if before.get(key) != value]
        if changed:
            what = ", ".join(changed)  # weights: such as those of a trial with --max-steps
            raise RecipeError(f"{folder} was labelled with other {what}: delete it, or choose another folder")
        return
    network, info = load_checkpoint(weights)
    model = TorchModel(network, info, computes_in_bf16(recipe.precision, on_cuda=False))
    labels, dropped = label_faces(model, faces, config.views, config.box_kind)
    if not labels:
        raise DataError(f"no pseudo-label is usable: {dict(dropped)}")
    save_labels(folder, labels, info.scheme, {**way, "given": len(faces), **_facts(labels, dropped)})


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
    box_kind: str = "face",
) -> Path:
    """Label unlabeled faces by the consensus of several teachers.

    Args:
        teachers: the networks.
        unlabeled: folders, ``boxes.csv`` tables, ``.txt`` lists and videos, see `load_unlabelled`.
        output: folder for the table of pseudo-labels, its contact sheet, and facts.
        scheme: the landmarks of the labels.
        locator: finds where the landmarks are, which the teachers' crops are cut around at first.
        box_kind: what given boxes are where their table does not say.

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
    faces = [face for path in unlabeled for face in load_unlabelled(path, output / FRAMES)]
    check_detector(faces, SelfTrainingConfig(box_kind=box_kind))
    labels, dropped = label_faces(locator, faces, box_kind=box_kind, teachers=teachers, scheme=scheme)
    if not labels:
        raise DataError(f"no pseudo-label is usable: {dict(dropped)}")
    said = [
        {"name": t.model.info.name, "weight": t.weight, "license": t.model.info.licence} for t in teachers
    ]
    save_labels(output, labels, scheme, {"teachers": said, "given": len(faces), **_facts(labels, dropped)})
    return table


def _fingerprint(faces: Sequence[UnlabelledFace]) -> str:
    """A digest of the faces' names and boxes."""
    rows = [f"{face.name} {None if face.box is None else face.box.tolist()} {face.kind}" for face in faces]
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _facts(labels: Sequence[PseudoLabel], dropped: dict[str, int]) -> dict[str, Any]:
    facts: dict[str, Any] = {"labelled": len(labels), "dropped": dict(dropped)}
    for key in ("score", "spread", "disagreement"):
        values = [getattr(label, key) for label in labels]
        facts[key] = {f"p{p}": round(float(np.percentile(values, p)), 4) for p in (5, 50, 95)}
    return facts
