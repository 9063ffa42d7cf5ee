"""Checkpoints of the original authors, read into our model with their own merge.

Their ``.pth`` files hold a plain state dict (perhaps with DataParallel's ``module.`` before every key): the
backbone in torchvision's layout, then five 1 x 1 convolutions. Ours is one convolution with their channels in
the same order. The files do not say what the landmarks are, so mean face, scheme and crop are given.
"""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from pipnet.datasets.registry import DATASETS
from pipnet.errors import DataError, ModelError
from pipnet.metadata import ModelMetadata
from pipnet.model.pipnet import ModelConfig, PIPNet
from pipnet.scheme import LandmarkScheme

BACKBONES = ("resnet18", "resnet50", "resnet101", "mobilenetv2_100")
"""What can be read. MobileNetV3 cannot: the authors' network is another one than timm's."""
_HEADS = ("cls_layer", "x_layer", "y_layer", "nb_x_layer", "nb_y_layer")


def load_official(
    path: Path, mean_face_path: Path, scheme_name: str, backbone: str, crop_scale: float | None = None
) -> tuple[PIPNet, ModelMetadata]:
    """Read an authors' checkpoint; only its tensors are, no code in it can run.

    Args:
        path: their ``.pth`` file, net stride 32.
        mean_face_path: their ``meanface.txt`` of the data set, x and y in turn, fractions of the crop.
        scheme_name: the landmarks, a built-in scheme or a TOML file.
        backbone: one of `BACKBONES`.
        crop_scale: crop over face box; theirs for the scheme if None. On COFW, AFLW and WFLW that box is
            the collection's own.

    Returns:
        The model, merging as the authors do, and its description.

    Raises:
        ModelError: missing, damaged, hostile, of another network, or shapes differ.
        DataError: the mean face or the scheme is not what it should be.
    """
    if backbone not in BACKBONES:
        raise ModelError(f"checkpoints of {backbone!r} cannot be read, only {', '.join(BACKBONES)}")
    scheme = LandmarkScheme.load(scheme_name)
    face = read_mean_face(mean_face_path, scheme.landmarks)
    tensors = _read_tensors(path)
    missing = [head for head in _HEADS if f"{head}.weight" not in tensors]
    if missing:
        raise ModelError(f"{path}: not a PIPNet checkpoint of the authors: no {', '.join(missing)}")
    landmarks = len(tensors["cls_layer.weight"])
    if landmarks != scheme.landmarks:
        raise ModelError(f"{path}: {landmarks} landmarks, but scheme {scheme.name!r} has {scheme.landmarks}")
    neighbors = len(tensors["nb_x_layer.weight"]) // landmarks
    config = ModelConfig(backbone=backbone, neighbors=neighbors, merge="official")
    model = PIPNet(config, face)
    model.load_state_dict(_translate(tensors, model, path))
    crop = DATASETS[scheme.name].official_crop if scheme.name in DATASETS else DATASETS["300w"].official_crop
    metadata = ModelMetadata(
        name=path.stem,
        scheme=scheme,
        crop=crop if crop_scale is None else replace(crop, scale=crop_scale),
        input_size=config.input_size,
        mean_face=face,
        config=asdict(config),
        license="as the authors of the checkpoint say",
        training=f"by the original authors; read from {path.name}",
    )
    return model.eval(), metadata


def read_mean_face(path: Path, landmarks: int) -> Float64[np.ndarray, "landmarks 2"]:
    """The authors' ``meanface.txt``: numbers apart by white space.

    Raises:
        DataError: missing, not numbers, or another count.
    """
    try:
        values = np.array(path.read_text(encoding="utf-8").split(), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a mean face: {error}") from None
    if values.size != 2 * landmarks or not np.isfinite(values).all():
        raise DataError(f"{path}: {values.size} numbers, expected {2 * landmarks} finite ones")
    return values.reshape(landmarks, 2)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and key errors alike
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{path}: cannot be read without running code in it: {reason:.120}") from None
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"{path}: not a state dict")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _translate(tensors: dict[str, Tensor], model: PIPNet, path: Path) -> dict[str, Tensor]:
    """Their tensors by our names. Both backbones hold the same layers in the same order."""
    own = model.state_dict()
    theirs = [key for key in tensors if key.rpartition(".")[0] not in _HEADS and not key.startswith("fc.")]
    ours = [key for key in own if key.startswith("backbone.")]
    if len(theirs) != len(ours):
        stride = [key for key in theirs if re.match(r"(layer[56]|bn[56]|deconv|bn_deconv)", key)]
        why = "a net stride other than 32" if stride else f"another backbone than {model.config.backbone}"
        raise ModelError(f"{path}: {why} ({len(theirs)} backbone tensors, expected {len(ours)})")
    translated = {new: tensors[old] for new, old in zip(ours, theirs, strict=True)}
    for part in ("weight", "bias"):
        parts = [tensors[f"{head}.{part}"] for head in _HEADS if f"{head}.{part}" in tensors]
        translated[f"head.conv.{part}"] = torch.cat(parts)
    for new, value in translated.items():
        if value.shape != own[new].shape:
            raise ModelError(
                f"{path}: {new} has shape {tuple(value.shape)}, expected {tuple(own[new].shape)};"
                f" is the backbone {model.config.backbone}?"
            )
    return translated
