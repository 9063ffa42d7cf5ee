"""The training loop of the face detector. Read it from the top.

A training that is killed and resumed ends with the same weights: every scene depends on (seed, epoch, index)
alone, and the state is written atomically after each epoch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import yaml
from jaxtyping import UInt8
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipnet.errors import DataError, RecipeError
from pipnet.io.atomic import atomic_write, make_folder, write_text
from pipnet.io.discovery import images_below
from pipnet.io.image import read_image
from pipnet.model.face_detector import FaceDetectorNet, load_face_detector
from pipnet.progress import show_progress
from pipnet.training.cpu_speedups import FastDepthwise
from pipnet.training.divergence import check_loss
from pipnet.training.face_detector.labels import LabeledPhoto, load_photos
from pipnet.training.face_detector.loss import Targets, collate, encode, loss
from pipnet.training.face_detector.recipe import FaceDetectorRecipe
from pipnet.training.face_detector.scenes import SceneComposer
from pipnet.training.face_detector.validation import as_input, detect, match
from pipnet.training.optim import build_optimizer, build_scheduler
from pipnet.training.runtime import environment, resolve_precision, training_settings
from pipnet.training.state import STATE, load_state, save_state

_VALIDATION_STRIDE = 20
"""Every so many photos, one is for validation."""
_FREE = {"photos", "backgrounds", "workers"}
"""Settings that a resumed training may change: paths may differ, the photos themselves may not."""
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
        RecipeError: the recipe has no photos or fewer scenes than a batch, or the run folder holds a training
            that is not to be resumed, or one with another recipe or other photos.
        DataError, ImageError: photos are missing or not usable.
        ModelError: the state in the run folder is damaged.
        WriteError: the run folder cannot be written, such as on a full disk.
        DivergenceError: the loss is not finite or explodes; the weights of the epoch before are kept.
    """
    if recipe.photos is None:
        raise RecipeError("photos is missing: the table of labeled photos")
    if recipe.scenes < recipe.optim.batch_size:
        raise RecipeError(f"scenes must be at least optim.batch_size, {recipe.optim.batch_size}")
    files = [name for name in (STATE, _weights_name(recipe)) if (run / name).exists()]
    if files and not resume:
        raise RecipeError(f"{run} holds a training ({files[0]}): use --resume, or choose another folder")
    with training_settings():
        return _Training(recipe, run).fit()


class _Training:
    """One training: data, network and optimizer, and the loop over them."""

    def __init__(self, recipe: FaceDetectorRecipe, run: Path) -> None:
        assert recipe.photos is not None
        self.recipe, self.run = recipe, run
        make_folder(run)
        photos = [photo for photo in load_photos(recipe.photos) if not photo.group.endswith("held-out")]
        if len(photos) < 2 * _VALIDATION_STRIDE:
            raise DataError(f"{recipe.photos}: {len(photos)} photos are too few to train on")
        torch.manual_seed(recipe.seed)
        self.model = FaceDetectorNet(recipe.model)
        if recipe.initial is not None:
            initial, _ = load_face_detector(recipe.initial)
            if initial.config != recipe.model:
                raise RecipeError(f"{recipe.initial} is of another size than the model: {initial.config}")
            self.model = initial
        self.model.to(memory_format=torch.channels_last)
        background_files = [path for folder in recipe.backgrounds for path in images_below(folder)]
        backgrounds = [read_image(path) for path in background_files]
        self.fingerprint = _fingerprint(photos, background_files)
        held_out = photos[::_VALIDATION_STRIDE]
        training = [photo for i, photo in enumerate(photos) if i % _VALIDATION_STRIDE]
        self.composer = SceneComposer(training, backgrounds, recipe.scene, recipe.seed)
        composer = SceneComposer(held_out, backgrounds, recipe.scene, recipe.seed + 1)
        self.validation = [composer.scene(0, i) for i in range(recipe.validation)]
        self.optimizer = build_optimizer(recipe.optim, self.model)
        self.steps = recipe.scenes // recipe.optim.batch_size
        self.scheduler = build_scheduler(recipe.optim, self.optimizer, self.steps)
        self.ema = ModelEmaV3(self.model, recipe.optim.ema or 0.0, use_warmup=True)
        self.epoch, self.step = 0, 0
        self.rows: list[dict[str, Any]] = []
        self.first_loss = float("nan")  # until the first step
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
        return self.weights

    @property
    def weights(self) -> Path:
        """The file of the averaged weights."""
        return self.run / _weights_name(self.recipe)

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
            terms = {name: float(value) for name, value in self._train_step(images, targets).items()}
            if np.isnan(self.first_loss):
                self.first_loss = sum(terms.values())
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value
        mean_loss = sum(totals.values()) / self.steps
        check_loss(mean_loss, self.first_loss, self.epoch + 1, recipe.optim.lr)
        return {name: round(total / self.steps, 5) for name, total in totals.items()}

    def _train_step(self, images: UInt8[Tensor, "b h w 3"], targets: Targets) -> dict[str, Tensor]:
        bf16 = resolve_precision(self.recipe.precision)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), FastDepthwise():
            output = self.model(as_input(images))
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
        detections = [detect(network, scene.image) for scene in self.validation]
        return {key: round(value, 4) for key, value in match(self.validation, detections).items()}

    def _save(self, row: dict[str, Any]) -> None:
        """Save weights, state and metrics; a resume never reads a file that a kill can cut short."""
        self.rows.append(row)
        _log.info("%s %s", time.strftime("%H:%M:%S"), json.dumps(row))
        recipe = json.dumps(self.recipe.to_dict())
        tensors = {k: v.contiguous() for k, v in self.ema.module.state_dict().items()}
        with atomic_write(self.weights) as partial:
            try:
                safetensors.torch.save_file(tensors, partial, {"recipe": recipe})
            except safetensors.SafetensorError as error:  # such as on a full disk
                raise OSError(str(error)) from None
        state = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scheduler")}
        state |= {"average": self.ema.module.state_dict(), "epoch": self.epoch, "step": self.step}
        state |= {"recipe": recipe, "photos": self.fingerprint}
        state |= {"rows": self.rows, "first_loss": self.first_loss}
        save_state(self.run / STATE, state)
        write_text(self.run / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))

    def _resume(self) -> None:
        state = load_state(self.run / STATE)
        before, now = json.loads(state["recipe"]), self.recipe.to_dict()
        changed = sorted(key for key in now if key not in _FREE and before.get(key) != now[key])
        if changed:
            raise RecipeError(
                f"{self.run} was trained with another recipe; it differs in {', '.join(changed)}"
            )
        if state.get("photos", self.fingerprint) != self.fingerprint:
            raise RecipeError(f"{self.run} was trained on other photos, labels or backgrounds")
        for name in ("model", "optimizer", "scheduler"):
            getattr(self, name).load_state_dict(state[name])
        self.ema.module.load_state_dict(state["average"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.rows, self.first_loss = state["rows"], state["first_loss"]


def _fingerprint(photos: Sequence[LabeledPhoto], backgrounds: Sequence[Path]) -> str:
    """Return a digest of photos, labels and backgrounds by their names, without the paths."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(f"{photo.image.name} {photo.group}".encode("utf-8", "surrogateescape"))
        for labels in (photo.boxes, photo.points, photo.ignored):
            digest.update(labels.tobytes())
    for path in backgrounds:
        digest.update(path.name.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _weights_name(recipe: FaceDetectorRecipe) -> str:
    return f"{recipe.name}.safetensors"


def _collate(batch: Sequence[tuple[Tensor, Targets]]) -> tuple[Tensor, Targets]:
    images, targets = zip(*batch, strict=True)
    return torch.stack(images), collate(targets)
