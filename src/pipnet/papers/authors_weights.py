"""Checkpoints of the original authors, converted to this package's model with their own merge of votes.

Their ``.pth`` files hold a plain state dict, sometimes with DataParallel's ``module.`` before every key: the
backbone in torchvision's layout, then five 1 x 1 convolutions. This package has one convolution with their
channels in the same order. The caller provides mean face, scheme and crop,
which are not in the files.
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
from pipnet.model.config import ModelConfig
from pipnet.model.pipnet import PIPNet
from pipnet.scheme import LandmarkScheme

BACKBONES = ("resnet18", "resnet50", "resnet101", "mobilenetv2_100")
"""The supported backbones. MobileNetV3 is not supported: the authors' network differs from timm's."""
_HEADS = ("cls_layer", "x_layer", "y_layer", "nb_x_layer", "nb_y_layer")


def load_official(
    path: Path, mean_face_path: Path, scheme_name: str, backbone: str, crop_scale: float | None = None
) -> tuple[PIPNet, ModelMetadata]:
    """Read an authors' checkpoint. Only tensors are read; code in the file is not run.

    Args:
        path: their ``.pth`` file, net stride 32.
        mean_face_path: their ``meanface.txt`` of the dataset: x and y alternate, fractions of the crop.
        scheme_name: the landmark scheme, a built-in one or a TOML file.
        backbone: one of `BACKBONES`.
        crop_scale: side of the crop over side of the face box; the authors' for the scheme if None. On COFW,
            AFLW and WFLW that box is the dataset's own.

    Returns:
        The model, which merges votes as the authors do, and its metadata.

    Raises:
        ModelError: the file is missing, damaged, unsafe or of another network, or shapes differ.
        DataError: the mean face or the scheme is invalid.
    """
    if backbone not in BACKBONES:
        raise ModelError(f"cannot import backbone {backbone!r:.80}; supported are {', '.join(BACKBONES)}")
    scheme = LandmarkScheme.load(scheme_name)
    mean_face = read_mean_face(mean_face_path, scheme.landmarks)
    tensors = _read_tensors(path)
    missing = [head for head in _HEADS if f"{head}.weight" not in tensors]
    if missing:
        raise ModelError(f"{path}: not a PIPNet checkpoint of the authors, it lacks {', '.join(missing)}")
    landmarks = len(tensors["cls_layer.weight"])
    if landmarks != scheme.landmarks:
        raise ModelError(f"{path}: {landmarks} landmarks, but scheme {scheme.name!r} has {scheme.landmarks}")
    neighbors = len(tensors["nb_x_layer.weight"]) // landmarks
    config = ModelConfig(backbone=backbone, neighbors=neighbors, merge="official")
    model = PIPNet(config, mean_face)
    model.load_state_dict(_convert(tensors, model, path))
    crop = DATASETS.get(scheme.name, DATASETS["300w"]).official_crop
    metadata = ModelMetadata(
        name=path.stem,
        scheme=scheme,
        crop=crop if crop_scale is None else replace(crop, scale=crop_scale),
        input_size=config.input_size,
        mean_face=mean_face,
        config=asdict(config),
        license="as stated by the authors of the checkpoint",
        training=f"by the original authors; converted from {path.name}",
    )
    return model.eval(), metadata


def read_mean_face(path: Path, landmarks: int) -> Float64[np.ndarray, "landmarks 2"]:
    """Read the authors' ``meanface.txt``: numbers separated by white space.

    Raises:
        DataError: the file is missing, has something else than numbers, or another count of them.
    """
    try:
        values = np.array(path.read_text(encoding="utf-8").split(), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a mean face: {error!s:.80}") from None
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
        raise ModelError(f"{path}: cannot be read without running code in it: {reason:.80}") from None
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"{path}: not a state dict")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _convert(tensors: dict[str, Tensor], model: PIPNet, path: Path) -> dict[str, Tensor]:
    """Rename the tensors for this package's model; both backbones hold the same layers in the same order."""
    expected = model.state_dict()
    sources = [key for key in tensors if key.rpartition(".")[0] not in _HEADS and not key.startswith("fc.")]
    targets = [key for key in expected if key.startswith("backbone.")]
    if len(sources) != len(targets):
        other_stride = any(re.match(r"(layer[56]|bn[56]|deconv|bn_deconv)", key) for key in sources)
        reason = "a net stride other than 32" if other_stride else f"not the backbone {model.config.backbone}"
        raise ModelError(f"{path}: {reason} ({len(sources)} backbone tensors, expected {len(targets)})")
    converted = {target: tensors[source] for target, source in zip(targets, sources, strict=True)}
    for kind in ("weight", "bias"):
        parts = [tensors[f"{head}.{kind}"] for head in _HEADS if f"{head}.{kind}" in tensors]
        converted[f"head.conv.{kind}"] = torch.cat(parts)
    for name, value in converted.items():
        if value.shape != expected[name].shape:
            raise ModelError(
                f"{path}: {name} has shape {tuple(value.shape)}, expected {tuple(expected[name].shape)};"
                f" is the backbone {model.config.backbone}?"
            )
    return converted
