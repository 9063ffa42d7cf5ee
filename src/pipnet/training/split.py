"""The faces that a recipe trains on: labeled ones, split, and pseudo-labeled ones that are good enough."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipnet.annotations.samples import FaceSample, split_by_group, without_label_offset
from pipnet.bulk.annotated_faces import AnnotatedFaces, is_annotated
from pipnet.datasets.load import load_samples
from pipnet.datasets.pseudo_labels import PseudoLabel, read_pseudo_labels
from pipnet.datasets.registry import DatasetSpec
from pipnet.errors import DataError, RecipeError
from pipnet.geometry import tight_box
from pipnet.scheme import LandmarkScheme
from pipnet.training.labeling import is_absurd
from pipnet.training.recipe import PseudoConfig, Recipe

FEWEST_COMPLETE = 50


@dataclass
class Faces:
    """The faces of a recipe."""

    training: list[FaceSample]
    validation: list[FaceSample]
    scheme: LandmarkScheme
    specs: list[DatasetSpec]
    """The collections they are from; the first one is the recipe's own."""
    pseudo: list[PseudoLabel] = field(default_factory=list)
    """Faces with pseudo-labels; trained on, but no part of the mean face or the detectors' fits."""

    @property
    def complete_indices(self) -> list[int]:
        """Indices of the training faces that mean face, neighbors and detectors' fits rest on.

        Those with all landmarks, so that half-labeled profile faces do not move them; all faces where fewer
        than `FEWEST_COMPLETE` are complete.
        """
        complete = [i for i, sample in enumerate(self.training) if sample.is_complete]
        return complete if len(complete) >= FEWEST_COMPLETE else list(range(len(self.training)))


def load_split(recipe: Recipe) -> Faces:
    """The recipe's faces, limited and split as it says.

    Raises:
        RecipeError: no data folder given.
        DataError: see `load_samples`.
    """
    data = recipe.data
    if data.root is None:
        raise RecipeError("no data: give --data FOLDER, or data.root in the recipe")
    samples, scheme, spec = load_samples(
        data.root, data.subset, data.scheme, images=data.images, label_offset=data.label_offset
    )
    specs, own = [spec], len(samples)
    for path in data.also:
        as_filed = (0.0, 0.0) if data.label_offset == (0, 0) else None
        more, _, other = load_samples(path, None, scheme, label_offset=as_filed)
        prefix = f"{other.title}/"  # names and photos of two collections are never the same
        samples += [replace(s, name=prefix + s.name, group=prefix + s.group) for s in more]
        specs.append(other)
    samples = [without_label_offset(sample) for sample in samples]
    if data.limit is not None:
        if data.limit < 1:
            raise RecipeError(f"data.limit must be at least 1, not {data.limit}")
        order = sorted(np.random.default_rng(recipe.seed).permutation(len(samples))[: data.limit].tolist())
        samples, own = [samples[i] for i in order], sum(i < own for i in order)
    # What is trained on also may be views or copies of one another, which only its own folder knows of.
    training, validation = split_by_group(samples[:own], data.validation, seed=0)
    training += samples[own:]
    pseudo = _pseudo_labeled(recipe.pseudo, scheme)
    count = len(training) + len(pseudo)
    if count < recipe.optim.batch_size:
        raise RecipeError(f"{count} training faces, fewer than a batch of {recipe.optim.batch_size}")
    return Faces(training, validation, scheme, specs, pseudo)


def _pseudo_labeled(config: PseudoConfig, scheme: LandmarkScheme) -> list[PseudoLabel]:
    """The pseudo-labels of a recipe that are good enough.

    Raises:
        DataError: no such labels, unfinished ones, ones of other landmarks, or none that is good enough.
        MissingExtraError: pyarrow is not installed, which reads what ``pipnet annotate`` wrote.
    """
    if config.labels is None:
        return []
    limit = float("inf") if config.max_std is None else config.max_std
    good = [
        label
        for label in _all_labels(config.labels, scheme)
        if label.mean_score >= config.min_score and max(label.vote_std, label.label_std) <= limit
    ]
    if not good:
        raise DataError(f"{config.labels}: no face in it is good enough")
    return good


def _all_labels(path: Path, scheme: LandmarkScheme) -> Iterable[PseudoLabel]:
    """Those of a table, or of a bulk job, whose detector may have found what cannot be a face."""
    if not is_annotated(path):
        labels = read_pseudo_labels(path)
        _check_landmarks(path, len(labels[0].sample.points), scheme)
        return labels
    found = AnnotatedFaces(path)
    if not found.finished:
        raise DataError(f"{path}: not finished: run its pipnet annotate again, with the same words")
    _check_landmarks(path, found.scheme.landmarks, scheme)
    if found.scheme.landmark_names != scheme.landmark_names:
        raise DataError(f"{path}: its landmarks are called as those of {found.scheme.name!r}")
    return (label for label, _ in found.read() if not is_absurd(tight_box(label.sample.points)))


def _check_landmarks(path: Path, found: int, scheme: LandmarkScheme) -> None:
    if found != scheme.landmarks:
        raise DataError(f"{path}: {found} landmarks a face, the labels have {scheme.landmarks}")
