"""The training loop of the face detector. Read it from the top.

A training that is killed and resumed ends with the same weights: every scene depends on (seed, epoch, index)
alone, and the state is written atomically after each epoch.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from jaxtyping import UInt8
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipnet.errors import DataError, RecipeError
from pipnet.geometry import box_iou
from pipnet.io.atomic import atomic_write, write_text
from pipnet.io.discovery import images_below
from pipnet.io.image import read_image
from pipnet.model.face_detector import DenseDetections, FaceDetectorNet
from pipnet.progress import show_progress
from pipnet.training.cpu_speedups import FastDepthwise
from pipnet.training.face_detector.labels import load_photos
from pipnet.training.face_detector.loss import Targets, collate, encode, loss
from pipnet.training.face_detector.recipe import FaceDetectorRecipe
from pipnet.training.face_detector.scenes import Scene, SceneComposer
from pipnet.training.optim import build_optimizer, build_scheduler
from pipnet.training.runtime import environment, resolve_precision, training_settings

STATE, WEIGHTS = "last.pt", "pipnet-face.safetensors"
_VALIDATION_STRIDE = 20
_THRESHOLD, _NMS_IOU = 0.5, 0.4
_log = logging.getLogger(__name__)


class Scenes(Dataset[tuple[UInt8[Tensor, "h w 3"], Targets]]):
    """The scenes of one epoch, with their targets."""

    def __init__(self, composer: SceneComposer, count: int, epoch: int) -> None:
        self.composer, self.count, self.epoch = composer, count, epoch

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "h w 3"], Targets]:
        """Return a scene's image and targets."""
        scene = self.composer.scene(self.epoch, index)
        return torch.from_numpy(scene.image), encode(scene)


def train_face_detector(recipe: FaceDetectorRecipe, run: Path, resume: bool = False) -> Path:
    """Train a face detector and write everything about it to the run folder.

    Args:
        recipe: the settings.
        run: the folder for the merged recipe, environment, ``metrics.jsonl`` and the weights.
        resume: continue the training in the folder; otherwise the folder must hold none.

    Returns:
        The path of the weights.

    Raises:
        RecipeError: the recipe has no photos, or the run folder holds another training.
        DataError, ImageError: photos are missing or not usable.
    """
    if recipe.photos is None:
        raise RecipeError("photos is missing: the table of labeled photos")
    if (run / STATE).exists() and not resume:
        raise RecipeError(f"{run} holds a training ({STATE}): use --resume, or choose another folder")
    with training_settings():
        return _Training(recipe, run).fit()


class _Training:
    """One training: data, network and optimizer, and the loop over them."""

    def __init__(self, recipe: FaceDetectorRecipe, run: Path) -> None:
        assert recipe.photos is not None
        self.recipe, self.run = recipe, run
        run.mkdir(parents=True, exist_ok=True)
        photos = [photo for photo in load_photos(recipe.photos) if not photo.group.endswith("held-out")]
        if len(photos) < 2 * _VALIDATION_STRIDE:
            raise DataError(f"{recipe.photos}: {len(photos)} photos are too few to train on")
        backgrounds = [read_image(path) for folder in recipe.backgrounds for path in images_below(folder)]
        held_out = photos[::_VALIDATION_STRIDE]
        training = [photo for i, photo in enumerate(photos) if i % _VALIDATION_STRIDE]
        self.composer = SceneComposer(training, backgrounds, recipe.scene, recipe.seed)
        composer = SceneComposer(held_out, backgrounds, recipe.scene, recipe.seed + 1)
        self.validation = [composer.scene(0, i) for i in range(recipe.validation)]
        torch.manual_seed(recipe.seed)
        self.model = FaceDetectorNet(recipe.model).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(recipe.optim, self.model)
        self.steps = recipe.scenes // recipe.optim.batch_size
        self.scheduler = build_scheduler(recipe.optim, self.optimizer, self.steps)
        self.ema = ModelEmaV3(self.model, recipe.optim.ema or 0.0, use_warmup=True)
        self.epoch, self.step = 0, 0
        if (run / STATE).exists():
            self._resume()
        write_text(run / "recipe.yaml", yaml.safe_dump(recipe.to_dict(), sort_keys=False))
        write_text(run / "environment.json", json.dumps(environment(), indent=1))

    def fit(self) -> Path:
        """Train the remaining epochs and return the path of the weights."""
        while self.epoch < self.recipe.optim.epochs:
            started = time.perf_counter()
            losses = self._train_epoch()
            row = {"epoch": self.epoch + 1, **losses, **self._validate()}
            row["seconds"] = round(time.perf_counter() - started, 1)
            self.epoch += 1
            self._save(row)
        return self.run / WEIGHTS

    def _train_epoch(self) -> dict[str, float]:
        """Train one epoch and return the mean of each term of the loss."""
        recipe = self.recipe
        loader = DataLoader(
            Scenes(self.composer, self.steps * recipe.optim.batch_size, self.epoch),
            batch_size=recipe.optim.batch_size,
            num_workers=recipe.workers,
            collate_fn=_collate,
        )
        self.model.train()
        totals: dict[str, float] = {}
        for images, targets in show_progress(loader, self.steps, f"epoch {self.epoch + 1}"):
            for name, value in self._train_step(images, targets).items():
                totals[name] = totals.get(name, 0.0) + float(value)
        means = {name: round(total / self.steps, 5) for name, total in totals.items()}
        if not np.isfinite(list(means.values())).all():
            raise RecipeError(f"the loss is not finite in epoch {self.epoch + 1}: lower optim.lr")
        return means

    def _train_step(self, images: UInt8[Tensor, "b h w 3"], targets: Targets) -> dict[str, Tensor]:
        bf16 = resolve_precision(self.recipe.precision)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), FastDepthwise():
            output = self.model(_as_input(images))
        terms = loss(output, targets)
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        if self.recipe.optim.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip)
        self.optimizer.step()
        self.scheduler.step()
        self.ema.update(self.model, self.step)
        self.step += 1
        return {name: term.detach() for name, term in terms.items()}

    def _validate(self) -> dict[str, float]:
        """Return recall, precision and mean IoU on the validation scenes."""
        if not self.validation:
            return {}
        network = self.ema.module.eval()
        with torch.no_grad():
            found = [suppressed(network(_as_input(torch.from_numpy(s.image)[None]))) for s in self.validation]
        return {key: round(value, 4) for key, value in match(self.validation, found).items()}

    def _save(self, row: dict[str, Any]) -> None:
        tensors = {k: v.contiguous() for k, v in self.ema.module.state_dict().items()}
        with atomic_write(self.run / WEIGHTS) as partial:
            safetensors.torch.save_file(tensors, partial, {"recipe": json.dumps(self.recipe.to_dict())})
        with (self.run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        _log.info("%s %s", time.strftime("%H:%M:%S"), json.dumps(row))
        state = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scheduler")}
        state |= {"average": self.ema.module.state_dict(), "epoch": self.epoch, "step": self.step}
        with atomic_write(self.run / STATE) as partial:
            torch.save(state, partial)

    def _resume(self) -> None:
        state = torch.load(self.run / STATE, weights_only=True)
        for name in ("model", "optimizer", "scheduler"):
            getattr(self, name).load_state_dict(state[name])
        self.ema.module.load_state_dict(state["average"])
        self.epoch, self.step = state["epoch"], state["step"]


def _collate(batch: Sequence[tuple[Tensor, Targets]]) -> tuple[Tensor, Targets]:
    images, targets = zip(*batch, strict=True)
    return torch.stack(images), collate(targets)


def _as_input(images: UInt8[Tensor, "b h w 3"]) -> Tensor:
    return images.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)


def suppressed(output: DenseDetections, threshold: float = _THRESHOLD) -> np.ndarray:
    """Return the boxes of one scene by descending score, one a face, in pixels of the scene: (faces, 5)."""
    scores = output.logits[0].sigmoid().numpy()
    chosen = np.flatnonzero(scores >= threshold)
    rows = np.concatenate([output.boxes[0].numpy()[chosen] - 0.5, scores[chosen, None]], axis=1)
    kept: list[np.ndarray] = []
    for row in rows[np.argsort(-rows[:, 4], kind="stable")]:
        if not kept or box_iou(np.stack(kept)[:, :4].astype(np.float32), row[:4]).max() < _NMS_IOU:
            kept.append(row)
    return np.array(kept, np.float32).reshape(-1, 5)


def match(scenes: Sequence[Scene], detections: Sequence[np.ndarray]) -> dict[str, float]:
    """Return recall and precision at IoU 0.5, and the mean IoU; ignored faces count neither way."""
    true_positives, faces, false_positives, overlaps = 0, 0, 0, []
    for scene, rows in zip(scenes, detections, strict=True):
        taken = np.zeros(len(scene.boxes), bool)
        for row in rows:
            iou = box_iou(scene.boxes, row[:4]) * ~taken if len(scene.boxes) else np.zeros(1, np.float32)
            best = int(iou.argmax())
            if iou[best] >= 0.5:
                taken[best] = True
                if not scene.ignored[best]:
                    overlaps.append(float(iou[best]))
            elif not (len(scene.boxes) and _in_ignored(row[:4], scene)):
                false_positives += 1
        true_positives += int((taken & ~scene.ignored).sum())
        faces += int((~scene.ignored).sum())
    return {
        "recall": true_positives / max(faces, 1),
        "precision": true_positives / max(true_positives + false_positives, 1),
        "iou": float(np.mean(overlaps)) if overlaps else 0.0,
    }


def _in_ignored(box: np.ndarray, scene: Scene) -> bool:
    """Return whether a third of a box lies in an ignored face, or its center does."""
    center = (box[:2] + box[2:]) / 2
    ignored = scene.boxes[scene.ignored]
    return bool(((center > ignored[:, :2]) & (center < ignored[:, 2:])).all(axis=1).any())
