"""The network of a training before its first step, and the metadata of its result."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace

import numpy as np
import torch

import pipnet
from pipnet.errors import DataError
from pipnet.geometry import to_fraction
from pipnet.io.text import counted
from pipnet.metadata import ModelMetadata
from pipnet.model.checkpoint import read_checkpoint_metadata, start_from
from pipnet.model.distributed import is_rank_zero
from pipnet.model.neighbors import mean_face
from pipnet.model.pipnet import PIPNet
from pipnet.training.dataset import FaceDataset
from pipnet.training.recipe import Recipe
from pipnet.training.split import Split

_log = logging.getLogger(__name__)


def build_model(recipe: Recipe, split: Split, dataset: FaceDataset) -> tuple[PIPNet, ModelMetadata]:
    """Return the network with its initial weights, and its metadata without box adapters.

    Random weights depend on the recipe's seed alone; torch's generator is left as it was.

    Raises:
        DataError: no training face has one of the landmarks.
        ModelError: the initial weights are missing or do not fit.
    """
    _check_all_labeled(split)
    initial, config = recipe.initial, recipe.model
    boxes = [dataset.crops.crop_region(i) for i in split.complete_indices]
    face = mean_face(
        [to_fraction(s.points, box) for s, box in zip(split.complete_samples, boxes, strict=True)]
    )
    before = None if initial.checkpoint is None else read_checkpoint_metadata(initial.checkpoint)
    if before is not None and before.scheme.to_dict() == split.scheme.to_dict():
        face = before.mean_face  # the channels of its head are votes for the neighbors on this face
    pretrained = initial.pretrained and before is None
    weights = initial.folder and initial.folder / f"{config.backbone}.safetensors"
    weights = weights if pretrained and weights and weights.is_file() else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        model = PIPNet(config, face, pretrained, weights)
    if initial.checkpoint is not None:
        new = start_from(model, initial.checkpoint)
        if is_rank_zero():
            _log.info("weights not taken from %s: %s", initial.checkpoint, ", ".join(new) or "none")
    metadata = ModelMetadata(
        name=recipe.name,
        scheme=split.scheme,
        crop=recipe.crop,
        input_size=config.input_size,
        mean_face=face,
        config=asdict(config),
        license=license_of_weights(split, before),
        training=f"started from {before.name}: {before.training}" if before else "",
    )
    return model.to(memory_format=torch.channels_last), metadata


def license_of_weights(split: Split, before: ModelMetadata | None) -> str:
    """Return the license of weights: of their data, initial weights, and the networks that labeled."""
    parts = [spec.license for spec in split.specs]
    parts += [f"started from: {before.license}"] if before else []
    known = "; ".join(parts)  # those of weights that were trained on the same
    parts += [f"pseudo-labels of: {text}" for text in split.label_licenses if text not in known]
    return "; ".join(parts)


def _check_all_labeled(split: Split) -> None:
    """Refuse landmarks that no training face has."""
    unknown = np.flatnonzero(np.isnan([s.points for s in split.training]).any(axis=2).all(axis=0))
    if len(unknown):
        names = ", ".join(split.scheme.landmark_names[i] for i in unknown)
        raise DataError(f"no training face has the landmarks {names:.160}: leave them out of the scheme")


def trained_metadata(
    metadata: ModelMetadata, recipe: Recipe, split: Split, step: int, steps: int
) -> ModelMetadata:
    """Return the metadata with a line on the training so far.

    Args:
        metadata: the metadata of the initial network.
        recipe: the training.
        split: its faces.
        step: the number of steps so far.
        steps: the number of steps of the complete training.
    """
    first, *others = split.specs
    subset = recipe.data.subset or ("train" if "train" in first.subsets else "all")
    titles = " and ".join([f"{first.title} {subset}", *(other.title for other in others)])
    pseudo = f"{len(split.pseudo):,} with pseudo-labels, " if split.pseudo else ""
    length = counted(recipe.optim.epochs, "epoch")
    if step < steps:
        length = f"{counted(step, 'step')} of {length}"
    line = (
        f"{titles}: {counted(len(split.training), 'face')}, {pseudo}"
        f"{length}, seed {recipe.seed}, pipnet {pipnet.__version__}"
    )
    return replace(metadata, training="; ".join(filter(None, [line, metadata.training])))
