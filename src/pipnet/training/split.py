"""The faces of a recipe: labeled faces, split, and pseudo-labeled faces that pass its limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipnet.annotations.samples import FaceSample, split_by_group, without_label_offset
from pipnet.bulk.job_reader import AnnotatedFaces, is_annotated
from pipnet.datasets.load import load_samples
from pipnet.datasets.paper_crops import keep_paper_crops
from pipnet.datasets.pseudo_labels import (
    PseudoLabel,
    licenses_of_labels,
    read_pseudo_labels,
)
from pipnet.datasets.registry import DatasetSpec
from pipnet.errors import DataError, RecipeError
from pipnet.geometry import tight_box
from pipnet.scheme import LandmarkScheme
from pipnet.training.pseudo_labeling import is_implausible
from pipnet.training.recipe import PseudoConfig, Recipe

MIN_COMPLETE = 50
"""Minimum number of faces with all landmarks for the mean face to rest on them alone."""


@dataclass
class Split:
    """The faces of a recipe."""

    training: list[FaceSample]
    validation: list[FaceSample]
    scheme: LandmarkScheme
    specs: list[DatasetSpec]
    """The datasets of the labeled faces; the first one is ``data.root``."""
    pseudo: list[PseudoLabel] = field(default_factory=list)
    """Faces with pseudo-labels; they are trained on, but not used for the mean face or the box adapters."""
    label_licenses: list[str] = field(default_factory=list)
    """Licenses of the networks that predicted the pseudo-labels."""

    @property
    def complete_indices(self) -> list[int]:
        """Indices of the training faces for the mean face and the box adapters.

        These are the faces with all landmarks, so that half-labeled profile faces do not shift the mean; all
        faces if fewer than `MIN_COMPLETE` have all landmarks.
        """
        complete = [i for i, sample in enumerate(self.training) if sample.is_complete]
        return complete if len(complete) >= MIN_COMPLETE else list(range(len(self.training)))

    @property
    def complete_samples(self) -> list[FaceSample]:
        """The training faces of `complete_indices`."""
        return [self.training[i] for i in self.complete_indices]


def load_split(recipe: Recipe) -> Split:
    """Return the recipe's faces, with its limit and split.

    Raises:
        RecipeError: the recipe has no data, or fewer faces than a batch.
        DataError: see `load_samples`, or the pseudo-labels are not usable.
        MissingExtraError: pyarrow is not installed, which reads the output of ``pipnet annotate``.
    """
    data = recipe.data
    if data.root is None:
        raise RecipeError("no data: use --data FOLDER, or data.root in the recipe")
    samples, scheme, spec = load_samples(
        data.root, data.subset, data.scheme, images=data.images, label_offset=data.label_offset
    )
    samples = keep_paper_crops(samples, spec, data.paper_crops, recipe.crop)
    specs, first_count = [spec], len(samples)
    for path in data.also:
        as_filed = (0.0, 0.0) if data.label_offset == (0, 0) else None
        extra_samples, _, extra_spec = load_samples(path, None, scheme, label_offset=as_filed)
        extra_samples = keep_paper_crops(extra_samples, extra_spec, data.paper_crops, recipe.crop)
        prefix = f"{extra_spec.title}/"  # the same name in two datasets is not the same photo
        samples += [replace(s, name=prefix + s.name, group=prefix + s.group) for s in extra_samples]
        specs.append(extra_spec)
    samples = [without_label_offset(sample) for sample in samples]
    if data.limit is not None:
        order = sorted(np.random.default_rng(recipe.seed).permutation(len(samples))[: data.limit].tolist())
        samples, first_count = [samples[i] for i in order], sum(i < first_count for i in order)
    # Only the first dataset is split: the groups of further ones may not be known, and faces of one photo
    # must not be on both sides.
    training, validation = split_by_group(samples[:first_count], data.validation, seed=0)
    training += samples[first_count:]
    pseudo, label_licenses = _pseudo_labeled(recipe.pseudo, scheme)
    count = len(training) + len(pseudo)
    if count < recipe.optim.batch_size:
        raise RecipeError(f"{count} training faces, fewer than a batch of {recipe.optim.batch_size}")
    return Split(training, validation, scheme, specs, pseudo, label_licenses)


def _pseudo_labeled(config: PseudoConfig, scheme: LandmarkScheme) -> tuple[list[PseudoLabel], list[str]]:
    """Return the pseudo-labels of a recipe that pass its limits, and the licenses of their networks."""
    if config.labels is None:
        return [], []
    labels, licenses = _read_labels(config.labels, scheme)
    max_std = float("inf") if config.max_std is None else config.max_std
    accepted = [
        label
        for label in labels
        if label.mean_score >= config.min_score and max(label.vote_std, label.label_std) <= max_std
    ]
    if not accepted:
        raise DataError(f"{config.labels}: no face passes pseudo.min_score and pseudo.max_std")
    return accepted, licenses


def _read_labels(path: Path, scheme: LandmarkScheme) -> tuple[Iterable[PseudoLabel], list[str]]:
    """Return the labels of a table, or of a bulk job without the false detections that cannot be faces.

    Returns:
        The labels, and the licenses of the networks that predicted them.
    """
    if not is_annotated(path):
        labels = read_pseudo_labels(path)
        _check_landmark_count(path, len(labels[0].sample.points), scheme)
        return labels, licenses_of_labels(path)
    job = AnnotatedFaces(path)
    if not job.finished:
        raise DataError(f"{path}: not finished: rerun its pipnet annotate with the same arguments")
    _check_landmark_count(path, job.scheme.landmarks, scheme)
    if job.scheme.landmark_names != scheme.landmark_names:
        raise DataError(f"{path}: its landmark names are those of scheme {job.scheme.name!r:.80}")
    faces = (label for label, _ in job.read() if not is_implausible(tight_box(label.sample.points)))
    return faces, [job.license]


def _check_landmark_count(path: Path, count: int, scheme: LandmarkScheme) -> None:
    if count != scheme.landmarks:
        raise DataError(f"{path}: {count} landmarks a face, but the labeled faces have {scheme.landmarks}")
