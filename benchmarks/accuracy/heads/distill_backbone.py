"""Initial weights of a ResNet-18, distilled from the ImageNet weights of MobileNetV2 on faces without labels.

No ImageNet weights of ResNets are here. The student learns MobileNetV2's feature maps of strides 8, 16 and
32, on crops of 300-W's training faces, HELEN, WIDER, LFW and CFP's people 1 to 300. Landmarks are used only
to place a crop. A map of the student is projected to the teacher's channels, whose mean is 0 and variance 1;
the loss is the mean squared error, 1 for a student that knows nothing of the image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from pipnet.datasets.load import load_samples
from pipnet.datasets.unlabeled import load_unlabeled
from pipnet.geometry import Box, Image, tight_box
from pipnet.io.atomic import atomic_write
from pipnet.io.image import read_image
from pipnet.model.device import torch_device
from pipnet.training.runtime import resolve_precision, training_settings
from pipnet.warp import crop

STUDENT, TEACHER = "resnet18", "mobilenetv2_100"
STRIDES = (8, 16, 32)
EPOCHS, BATCH_SIZE, LR, SIDE, HELD_OUT = 12, 64, 2e-3, 160, 256
CROP_SIDE, CROP_SCALE = 192, 1.5
"""Pixels of the stored crops, and their side relative to the longer side of the face's box."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def distill(data: Path, backbones: Path, folder: Path) -> Path:
    """Distill, or resume it, and return the file of weights, in timm's key layout.

    Args:
        data: the folder of the datasets.
        backbones: the folder with the teacher's weights.
        folder: the weights, the state of an unfinished training and the losses are written here.
    """
    weights, state = folder / f"{STUDENT}.safetensors", folder / "state.pt"
    if weights.is_file():
        return weights
    folder.mkdir(parents=True, exist_ok=True)
    with training_settings():
        torch.manual_seed(0)
        crops = np.stack([_crop(path, box) for path, box in _faces(data)])
        np.random.default_rng(0).shuffle(crops)
        model = _Distillation(backbones / f"{TEACHER}.safetensors").to(torch_device())
        model = model.to(memory_format=torch.channels_last)
        faces, held_out = _Crops(crops[HELD_OUT:], augmented=True), _Crops(crops[:HELD_OUT], augmented=False)
        optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.05)
        steps = EPOCHS * (len(faces) // BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.1)
        losses: list[dict[str, float]] = []
        if state.is_file():
            saved = torch.load(state, map_location=torch_device())
            losses = saved["losses"]
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
        for epoch in range(len(losses), EPOCHS):
            torch.manual_seed(epoch)
            loader = DataLoader(faces, BATCH_SIZE, shuffle=True, num_workers=1, drop_last=True)
            training = 0.0
            for images in loader:
                loss = model(images)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                training += loss.item() / len(loader)
            losses.append({"training": round(training, 4), "held out": round(_loss(model, held_out), 4)})
            print(f"distillation: epoch {epoch + 1} of {EPOCHS}: {losses[-1]}", flush=True)
            parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
            with atomic_write(state) as partial:
                torch.save({"losses": losses} | {k: part.state_dict() for k, part in parts.items()}, partial)
    (folder / "losses.json").write_text(json.dumps({"faces": len(faces), "losses": losses}, indent=1) + "\n")
    student = {name: value.cpu().contiguous() for name, value in model.student.state_dict().items()}
    with atomic_write(weights) as partial:
        safetensors.torch.save_file(student, partial)
    state.unlink()
    return weights


def _faces(data: Path) -> Iterator[tuple[Path, Box]]:
    for folder, subset in (("300w", "train-deduplicated"), ("cfp_profile", "train")):
        for sample in load_samples(data / folder, subset)[0]:
            known = sample.points[np.isfinite(sample.points).all(axis=1)]
            yield sample.image, tight_box(known)
    for folder in ("helen", "wider", "lfw"):
        for face in load_unlabeled(data / "unlabelled" / folder, Path()):
            assert face.box is not None
            yield face.image, face.box


def _crop(path: Path, box: Box) -> Image:
    """Return a square around the box."""
    center, half = (box[:2] + box[2:]) / 2, CROP_SCALE * (box[2:] - box[:2]).max() / 2
    square = np.concatenate([center - half, center + half]).astype(np.float32)
    return crop(read_image(path), square, CROP_SIDE)


class _Crops(Dataset[Tensor]):
    """Crops as images of (3, side, side), normalized."""

    def __init__(self, crops: np.ndarray, augmented: bool) -> None:
        self._crops = crops
        transforms: list[nn.Module] = [v2.CenterCrop(SIDE)]
        if augmented:
            transforms = [
                v2.RandomResizedCrop(SIDE, (0.3, 1.0), (0.8, 1.25)),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4)], 0.8),
                v2.RandomGrayscale(0.2),
            ]
        transforms += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
        self._transform = v2.Compose(transforms)

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: int) -> Tensor:
        image: Tensor = self._transform(torch.from_numpy(self._crops[index]).permute(2, 0, 1))
        return image


class _Distillation(nn.Module):
    """The student, the frozen teacher and a projection for each feature map; its output is the loss."""

    def __init__(self, teacher_weights: Path) -> None:
        super().__init__()
        overlay = {"file": str(teacher_weights)}
        teacher = timm.create_model(TEACHER, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = timm.create_model(STUDENT, num_classes=0)
        with torch.no_grad():
            blank = torch.zeros(1, 3, 64, 64)
            widths = [[a.shape[1] for a in _maps(net, blank)] for net in (self.student, self.teacher)]
        self.project = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in zip(*widths, strict=True))
        self.standardize = nn.ModuleList(nn.BatchNorm2d(width, affine=False) for width in widths[1])
        self._has_bf16 = resolve_precision("auto")

    def forward(self, images: Tensor) -> Tensor:
        device = torch_device()
        images = images.to(device, memory_format=torch.channels_last)
        self.teacher.eval()
        with torch.autocast(device.type, torch.bfloat16, enabled=self._has_bf16):
            with torch.no_grad():
                targets = _maps(self.teacher, images)
            answers = [layer(m) for layer, m in zip(self.project, _maps(self.student, images), strict=True)]
        losses = [
            nn.functional.mse_loss(answer.float(), standardize(target.float()))
            for answer, target, standardize in zip(answers, targets, self.standardize, strict=True)
        ]
        return torch.stack(losses).mean()


def _maps(net: Any, images: Tensor) -> list[Tensor]:
    """Return the feature maps of `STRIDES`, the last one of each."""
    final, maps = net.forward_intermediates(images)
    by_stride = {images.shape[-1] // m.shape[-1]: m for m in [*maps, final]}
    return [by_stride[stride] for stride in STRIDES]


@torch.no_grad()
def _loss(model: _Distillation, faces: _Crops) -> float:
    model.eval()
    losses = [model(images).item() for images in DataLoader(faces, BATCH_SIZE)]
    model.train()
    return float(np.mean(losses))
