"""Checkpoints of the original authors, converted to this package's model with their own merge of votes.

Their ``.pth`` files hold a plain state dict, sometimes with DataParallel's ``module.`` before every key: the
backbone in torchvision's layout, then five 1 x 1 convolutions. This package has one convolution with their
channels in the same order. The caller provides mean face and scheme, which are not in the files. The crop is
the authors' for the scheme, cut at whole pixels as theirs; the mean face tells the scale of 300-W's crops.
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

BACKBONES = ("resnet18", "resnet50", "resnet101", "mobilenetv2_100", "mobilenetv3_large_100")
"""The supported backbones."""
_LATE_ACTIVATION = {"mobilenetv3_large_100"}
"""Backbones of the authors that differ from timm's in `ModelConfig.late_activation`."""
_CROP_SCALES = (1.1, 1.3)
"""Crop scales of the authors' networks for 300-W's landmarks: trained on labels, and in rounds on unlabeled
faces of other datasets too (GSSL, generalizable semi-supervised learning)."""
_MEAN_FACE_SIDE = 0.977
"""Longer side of 300-W's mean face, in sides of the landmark box. The authors' mean faces have 0.976 (crops
of 1.1) and 0.979 (1.3); landmarks at the border of one face are inside of another's box."""
_MAX_SCALE_ERROR = 0.05
"""Maximum relative difference of a mean face to that of a crop scale."""
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
            AFLW and WFLW that box is the dataset's own. For 300-W the mean face tells it: 1.1 for weights
            trained on labels, 1.3 for weights trained on unlabeled faces too.

    Returns:
        The model, which merges votes as the authors do, and its metadata.

    Raises:
        ModelError: the file is missing, damaged, unsafe or of another network, shapes differ, or the scale
            of the crop is not known.
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
    config = ModelConfig(
        backbone=backbone,
        neighbors=neighbors,
        merge="official",
        late_activation=backbone in _LATE_ACTIVATION,
    )
    model = PIPNet(config, mean_face)
    model.load_state_dict(_convert(tensors, model, path))
    crop = DATASETS.get(scheme.name, DATASETS["300w"]).official_crop
    scale = _crop_scale(scheme, mean_face, mean_face_path) if crop_scale is None else crop_scale
    metadata = ModelMetadata(
        name=path.stem,
        scheme=scheme,
        crop=replace(crop, scale=scale, whole_pixels=True),
        input_size=config.input_size,
        mean_face=mean_face,
        config=asdict(config),
        license="as stated by the authors of the checkpoint",
        training=f"by the original authors; converted from {path.name}",
    )
    return model.eval(), metadata


def _crop_scale(scheme: LandmarkScheme, mean_face: Float64[np.ndarray, "landmarks 2"], path: Path) -> float:
    """Return the scale of the crops that a mean face is the mean of.

    Checkpoints for 300-W's landmarks exist with two crop scales and the same tensors, but with different mean
    faces: a larger crop makes every face a smaller part of it.
    """
    if scheme.name not in DATASETS:
        raise ModelError(f"scheme {scheme.name!r:.80} is none of the authors': give the crop's --crop-scale")
    if scheme.name != "300w":
        return DATASETS[scheme.name].official_crop.scale
    side = float(np.ptp(mean_face, axis=0).max())
    for scale in _CROP_SCALES:
        if abs(side * scale / _MEAN_FACE_SIDE - 1) <= _MAX_SCALE_ERROR:
            return scale
    raise ModelError(
        f"{path}: the mean face takes {side:.2f} of the crop, which is neither that of crops of 1.1 (trained"
        " on labels) nor of 1.3 (GSSL): give the crop's --crop-scale"
    )


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
    converted = {
        target: _as_convolution(tensors[source], expected[target])
        for target, source in zip(targets, sources, strict=True)
    }
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


def _as_convolution(value: Tensor, expected: Tensor) -> Tensor:
    """Return the weight of a fully connected layer as that of a 1 x 1 convolution, where one is expected.

    The authors' squeeze-and-excite consists of the former, timm's of the latter.
    """
    is_linear = value.ndim == 2 and expected.shape == (*value.shape, 1, 1)
    return value[:, :, None, None] if is_linear else value
