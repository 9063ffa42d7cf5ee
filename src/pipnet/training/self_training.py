"""Self-training: rounds of pseudo-labeling and training (IJCV 2021; v1's distillation).

Round 0 trains on the labeled faces, unless a teacher is given that labels the first round. Each further round
pseudo-labels the unlabeled faces with the network of the previous round, and trains a new network on both.
With IJCV's curriculum the pseudo-labeled faces are at first trained on coarse score maps only; with v1's
distillation their labels are means of test-time augmentation.

Every round is an ordinary training in its own folder, with its pseudo-labels. After a kill,
finished work is not repeated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipnet.config import DEFAULT_DETECTOR
from pipnet.datasets.pseudo_labels import LABELING_RECORD, PseudoLabel, write_pseudo_labels
from pipnet.datasets.unlabeled import BOX_FORMATS, UnlabeledFace, load_unlabeled
from pipnet.errors import DataError, PipnetError, RecipeError
from pipnet.inference.backends.base import CropModel
from pipnet.io.atomic import write_text
from pipnet.model.checkpoint import load_checkpoint, read_checkpoint_metadata
from pipnet.model.device import autocast_dtype, torch_device
from pipnet.model.distributed import launched_world_size
from pipnet.model.torch_model import TorchModel
from pipnet.scheme import LandmarkScheme
from pipnet.training.pseudo_label_sheet import draw_quality
from pipnet.training.pseudo_labeling import label_faces
from pipnet.training.recipe import PseudoConfig, Recipe, SelfTrainingConfig
from pipnet.training.teachers import Teacher, check_teachers
from pipnet.training.trainer import train

LABELS = "pseudo_labels.csv"
"""The table of a labeling; `LABELING_RECORD` beside it has its settings and results."""
FRAMES = "frames"
"""Folder for images from videos, next to those of the rounds."""


def self_train(recipe: Recipe, run: Path, max_steps: int | None = None) -> Path:
    """Train in rounds; a rerun continues an interrupted self-training.

    Args:
        recipe: the training of every round; `Recipe.self_training` has the unlabeled faces and the rounds.
        run: folder for the rounds: ``round0``, ``round1``, ...
        max_steps: stop each round after this many steps, to try things out.

    Returns:
        The path of the last round's weights.

    Raises:
        RecipeError: there are no unlabeled faces, a round was labeled with other settings, or as `train`.
        DataError: no unlabeled face is usable, or as `train`.
        ModelError: the teacher has no adapter for the boxes.
        PipnetError: the faces need a detector, and none is available.
    """
    if launched_world_size() > 1:
        raise RecipeError(
            "self-training runs in one process; several processes can train a round: --pseudo.labels TABLE"
        )
    if recipe.pseudo.labels is not None or recipe.pseudo.task != "full":
        raise RecipeError(
            "pseudo.labels and pseudo.task are for one training; for rounds use self_training.tasks"
        )
    faces = unlabeled_faces(recipe, run / FRAMES)
    teacher = recipe.self_training.teacher
    if teacher is not None and not teacher.is_file():
        raise RecipeError(f"{teacher}: no such teacher")
    faces = adapt_teacher_boxes(faces, recipe.self_training)
    check_teacher(faces, recipe.self_training)
    weights = teacher or train(round_recipe(recipe, 0), run / "round0", True, max_steps)
    for number, task in enumerate(recipe.self_training.tasks, start=1):
        folder = run / f"round{number}"
        _label_round(recipe, weights, faces, folder)
        pseudo = replace(recipe.pseudo, labels=folder / LABELS, task=task)
        weights = train(replace(round_recipe(recipe, number), pseudo=pseudo), folder, True, max_steps)
    return weights


def round_recipe(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe of one round as an ordinary training, without its pseudo-labels."""
    ordinary = replace(recipe, self_training=SelfTrainingConfig(), pseudo=PseudoConfig())
    return replace(ordinary, name=f"{recipe.name}-round{number}")


def unlabeled_faces(recipe: Recipe, frames: Path) -> list[UnlabeledFace]:
    """Return the unlabeled faces of a recipe, with its limit; frames of videos are written to a folder.

    Raises:
        RecipeError: the recipe has none.
        DataError: see `load_unlabeled`.
    """
    config = recipe.self_training
    if not config.unlabeled:
        raise RecipeError("no unlabeled faces: use --unlabeled, or self_training.unlabeled in the recipe")
    faces = [face for path in config.unlabeled for face in load_unlabeled(path, frames)]
    if config.limit is None:
        return faces
    order = np.random.default_rng(recipe.seed).permutation(len(faces))
    return [faces[i] for i in sorted(order[: config.limit])]


def _box_formats(faces: Sequence[UnlabeledFace], config: SelfTrainingConfig) -> set[str]:
    return {face.box_format or config.box_format for face in faces if face.box is not None}


def adapt_teacher_boxes(faces: Sequence[UnlabeledFace], config: SelfTrainingConfig) -> list[UnlabeledFace]:
    """Return the faces with boxes that every network knows, of boxes that only the teacher was fitted to.

    The networks of the rounds are fitted to our detectors only.

    Raises:
        RecipeError: there is no teacher.
        ModelError: the teacher has no adapter for the boxes.
    """
    special = sorted(_box_formats(faces, config) - set(BOX_FORMATS))
    if not special:
        return list(faces)
    if config.teacher is None:
        raise RecipeError(
            f"boxes of format {special[0]!r:.80} need self_training.teacher, a checkpoint fitted to them"
            f" (pipnet detector fit); without a teacher use {', '.join(BOX_FORMATS)}"
        )
    metadata = read_checkpoint_metadata(config.teacher)
    adapted = []
    for face in faces:
        box_format = face.box_format or config.box_format
        if face.box is None or box_format not in special:
            adapted.append(face)
            continue
        crop_boxes = metadata.box_adapter(box_format).apply(face.box[None])
        tight = metadata.box_adapter("landmarks").inverse(crop_boxes)[0]
        adapted.append(replace(face, box=tight, box_format="landmarks"))
    return adapted


def check_teacher(faces: Sequence[UnlabeledFace], config: SelfTrainingConfig) -> None:
    """Check, before anything is trained, that the teacher can crop the faces, if there is one.

    All boxes but those of landmarks are searched, or mean the same as a detector's.

    Raises:
        ModelError: the teacher has no adapter for the detector's boxes.
    """
    if _box_formats(faces, config) <= {"landmarks", "crop"} and all(face.box is not None for face in faces):
        return
    if config.teacher is not None:
        read_checkpoint_metadata(config.teacher).box_adapter(DEFAULT_DETECTOR)


def _label_round(recipe: Recipe, weights: Path, faces: Sequence[UnlabeledFace], folder: Path) -> None:
    """Pseudo-label all faces and write the table, images of its quality, and the counts of dropped faces.

    An existing table with the same settings is kept.
    """
    config, record = recipe.self_training, folder / LABELING_RECORD
    settings = {
        "tta": config.tta,
        "box_format": config.box_format,
        "faces": _fingerprint(faces),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
    }
    if (folder / LABELS).is_file():
        before = json.loads(record.read_text()) if record.is_file() else settings
        changed = [key for key, value in settings.items() if before.get(key) != value]
        if changed:  # "weights" after a trial with --max-steps
            raise RecipeError(
                f"{folder} was labeled with other {', '.join(changed)}: delete it, or choose another folder"
            )
        return
    network, metadata = load_checkpoint(weights)
    device = torch_device()
    model = TorchModel(network, metadata, autocast_dtype(recipe.precision, device), device)
    labels, dropped = label_faces(model, faces, config.tta, config.box_format)
    teachers = [{"name": metadata.name, "weight": 1.0, "license": metadata.license}]
    facts = {**settings, "teachers": teachers, "unlabeled": len(faces)}
    _save_labels(folder, labels, metadata.scheme, facts, dropped)


def _save_labels(
    folder: Path,
    labels: Sequence[PseudoLabel],
    scheme: LandmarkScheme,
    record: dict[str, Any],
    dropped: dict[str, int],
) -> Path:
    """Write the table of pseudo-labels, images of its quality, and the record; return the table's path.

    With the table the labeling is finished. The images follow, so that no error in them loses it.
    """
    if not labels:
        raise DataError(f"no pseudo-label is usable: {dict(dropped)}")
    record |= {"labeled": len(labels), "dropped": dict(dropped)}
    for key in ("mean_score", "vote_std", "label_std"):
        values = [getattr(label, key) for label in labels]
        record[key] = {f"p{p}": round(float(np.percentile(values, p)), 4) for p in (5, 50, 95)}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / LABELING_RECORD, json.dumps(record, indent=1) + "\n")
    write_pseudo_labels(folder / LABELS, labels)
    draw_quality(labels, scheme, folder)
    return folder / LABELS


def teach(
    teachers: Sequence[Teacher],
    unlabeled: Sequence[Path],
    output: Path,
    scheme: LandmarkScheme,
    locator: CropModel,
    box_format: str = "face",
) -> Path:
    """Pseudo-label unlabeled faces by the consensus of several teachers.

    Args:
        teachers: the networks.
        unlabeled: folders, ``boxes.csv`` tables, ``.txt`` lists and videos, see `load_unlabeled`.
        output: folder for the table of pseudo-labels, its contact sheet, and the record.
        scheme: the landmark scheme of the labels.
        locator: a model that predicts the landmarks which the teachers' first crops are cut around.
        box_format: format of the boxes whose table does not say it.

    Returns:
        The path of the table, for ``pseudo.labels`` of a recipe.

    Raises:
        DataError: no face is usable, or a teacher cannot label in this scheme.
        ModelError: there is no teacher, or one cannot be run.
        PipnetError: the output exists.
    """
    check_teachers(teachers, scheme)
    if (output / LABELS).exists():
        raise PipnetError(f"{output / LABELS} exists: choose another folder, or remove it first")
    faces = [face for path in unlabeled for face in load_unlabeled(path, output / FRAMES)]
    for teacher in teachers:
        if isinstance(teacher.model, TorchModel):
            teacher.model.to(torch_device())
    labels, dropped = label_faces(locator, faces, box_format=box_format, teachers=teachers, scheme=scheme)
    names = [
        {"name": t.model.metadata.name, "weight": t.weight, "license": t.model.metadata.license}
        for t in teachers
    ]
    return _save_labels(output, labels, scheme, {"teachers": names, "unlabeled": len(faces)}, dropped)


def _fingerprint(faces: Sequence[UnlabeledFace]) -> str:
    """Return a digest of the faces' names and boxes."""
    rows = [
        f"{face.name} {None if face.box is None else face.box.tolist()} {face.box_format}" for face in faces
    ]
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()[:16]
