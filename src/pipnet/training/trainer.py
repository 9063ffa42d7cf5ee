"""The training loop: set up, then for each epoch train, validate, save. Read it from the top.

Killed at any moment and resumed, a training ends with the same weights as if it had never stopped, on the
same machine: every example depends only on (seed, epoch, face), and the state is written whole after each
epoch.

Started by torchrun, any number of processes train one model together. Each takes its part of every batch, so
that the batch is the recipe's whatever their number; means and batch norm are over all of them
(`pipnet.model.distributed`); each validates its part of the faces; the main one writes. They need the same run
folder. What differs from one process is the order of sums, and what a network draws by chance itself, such
as dropout.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate.utils import gather_object
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

import pipnet
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError, ModelError, PipnetError, RecipeError, WriteError
from pipnet.geometry import to_fraction
from pipnet.io.atomic import atomic_write, write_text
from pipnet.metadata import ModelMetadata
from pipnet.model.checkpoint import read_checkpoint, save_checkpoint, start_from
from pipnet.model.distributed import (
    mean_over_processes,
    peer_process_failed,
    synchronized_batch_norm,
)
from pipnet.model.heads.curriculum import TASKS, Supervision
from pipnet.model.neighbors import mean_face
from pipnet.model.pipnet import PIPNet
from pipnet.training.augment import Augmentation
from pipnet.training.box_adapters import fit_box_adapters
from pipnet.training.cpu import FastDepthwise, keep_freed_memory
from pipnet.training.dataset import FaceDataset, FaceSupervision, ShuffledEpochs
from pipnet.training.log import TrainingLog
from pipnet.training.optim import build_optimizer, build_scheduler
from pipnet.training.recipe import Recipe, differences
from pipnet.training.runtime import build_accelerator, environment
from pipnet.training.split import load_split
from pipnet.training.validation import face_errors

STATE = "last.pt"
"""The file in a run folder from which it resumes."""


def train(recipe: Recipe, run: Path, resume: bool = False, max_steps: int | None = None) -> Path:
    """Train a model and leave everything about it in the run folder.

    Args:
        recipe: what to do.
        run: its folder: merged recipe, environment, ``metrics.jsonl``, curves, last and best weights.
        resume: go on with what the folder holds; without it the folder must hold no training.
        max_steps: stop after this many steps, for trying things out.

    Returns:
        The path of the best weights (the last ones where nothing is validated).

    Raises:
        RecipeError, DataError, ModelError: see there, or ``max_steps`` is below 1; nothing is lost.
        PipnetError: the run folder cannot be written, such as on a full disk; what it held remains.
    """
    if max_steps is not None and max_steps < 1:
        raise RecipeError(f"a training has at least one step, not {max_steps}")
    try:
        return Trainer(recipe, run, resume).fit(max_steps)
    except WriteError as error:
        raise WriteError(f"{error}; what was saved remains: --resume") from None
    except OSError as error:
        reason = error.strerror or error
        raise PipnetError(f"{error.filename or run}: {reason}; what was saved remains: --resume") from None
    except RuntimeError as error:
        if not peer_process_failed(error):
            raise
        raise PipnetError("another process of this training ended, and said why; then: --resume") from None


class Trainer:
    """One training: data, model and optimizer, and the loop over them."""

    def __init__(self, recipe: Recipe, run: Path, resume: bool = False) -> None:
        there = [name for name in (STATE, "best.safetensors", "last.safetensors") if (run / name).exists()]
        if there and not resume:
            raise RecipeError(f"{run} holds a training ({there[0]}): --resume it, or choose another folder")
        keep_freed_memory()
        torch.manual_seed(recipe.seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing here reads what was not written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.recipe, self.run = recipe, run
        self.accelerator = build_accelerator(recipe)
        self.faces = load_split(recipe)
        run.mkdir(parents=True, exist_ok=True)
        self.log = TrainingLog(run, recipe.optim.epochs, quiet=not self.accelerator.is_main_process)
        with self.accelerator.local_main_process_first():  # the others find the faces decoded
            self.dataset = self._training_set()
            held_out = self.faces.validation
            self.validation = self._dataset(held_out, Augmentation.none()) if held_out else None
        self.model, self.metadata = self._build_model()
        self.optimizer = build_optimizer(recipe.optim, self.model)
        self.sampler = ShuffledEpochs(len(self.dataset), recipe.seed)
        self.model_on_device, self.optimizer, self.loader = self.accelerator.prepare(
            self.model, self.optimizer, self._training_loader()
        )
        self.scheduler = build_scheduler(recipe.optim, self.optimizer, len(self.loader))
        self.average = self._moving_average()
        self.epoch, self.step, self.best = 0, 0, float("inf")
        if resume:
            self._resume()
            if len(set(gather_object([self.epoch]))) > 1:
                raise RecipeError(f"{run} is not the same folder for all processes")
        self._write_setup()

    # -- set up ----------------------------------------------------------------------------------

    def _build_model(self) -> tuple[PIPNet, ModelMetadata]:
        recipe, faces = self.recipe, self.faces
        initial, config = recipe.initial, recipe.model
        unknown = np.flatnonzero(np.isnan([s.points for s in faces.training]).any(axis=2).all(axis=0))
        if len(unknown):
            names = ", ".join(faces.scheme.landmark_names[i] for i in unknown)
            raise DataError(f"no training face has the landmarks {names:.160}: leave them out of the scheme")
        shaped = faces.complete_indices
        boxes = [self.dataset.crops.crop_box(i, recipe.crop) for i in shaped]
        samples = [faces.training[i] for i in shaped]
        face = mean_face([to_fraction(s.points, box) for s, box in zip(samples, boxes, strict=True)])
        weights = initial.folder and initial.folder / f"{config.backbone}.safetensors"
        weights = weights if weights and weights.is_file() else None
        pretrained = initial.pretrained and initial.checkpoint is None
        before = [] if initial.checkpoint is None else [read_checkpoint(initial.checkpoint)[1]]
        for metadata in before:
            if metadata.scheme.to_dict() == faces.scheme.to_dict():
                face = metadata.mean_face  # its head's channels are votes for the neighbors on this face
        model = PIPNet(config, face, pretrained, weights if pretrained else None)
        if initial.checkpoint is not None:
            fresh = start_from(model, initial.checkpoint)
            self._say(f"new, not from {initial.checkpoint}: {fresh or 'nothing'}")
        metadata = ModelMetadata(
            name=recipe.name,
            scheme=faces.scheme,
            crop=recipe.crop,
            input_size=config.input_size,
            mean_face=face,
            config=asdict(config),
            box_adapters=fit_box_adapters(samples, recipe.crop, self._say),
            license="; ".join(
                [*(spec.license for spec in faces.specs), *(f"begun from: {i.license}" for i in before)]
            ),
            training="; ".join(f"begun from {i.name}: {i.training}" for i in before),
        )
        return model.to(memory_format=torch.channels_last), metadata

    def _say(self, text: str) -> None:
        """One line on standard error, of one process."""
        self.accelerator.print(text, file=sys.stderr)

    def _described(self) -> ModelMetadata:
        """The model's description, with what it is trained on by now, in one line."""
        recipe, faces = self.recipe, self.faces
        own, *others = faces.specs
        part = recipe.data.subset or ("train" if "train" in own.subsets else "all")
        titles = " and ".join([f"{own.title} {part}", *(other.title for other in others)])
        pseudo = f"{len(faces.pseudo):,} with pseudo-labels, " if faces.pseudo else ""
        length = f"{recipe.optim.epochs} epochs"
        if self.step < recipe.optim.epochs * len(self.loader):
            length = f"{self.step} steps of {length}"
        line = (
            f"{titles}: {len(faces.training):,} faces, {pseudo}"
            f"{length}, seed {recipe.seed}, pipnet {pipnet.__version__}"
        )
        return replace(self.metadata, training="; ".join(filter(None, [line, self.metadata.training])))

    def _training_loader(self) -> DataLoader[Any]:
        recipe = self.recipe
        return DataLoader(
            self.dataset,
            batch_size=recipe.optim.batch_size,
            sampler=self.sampler,
            drop_last=True,
            num_workers=recipe.workers,
            persistent_workers=recipe.workers > 0,
        )

    def _training_set(self) -> FaceDataset:
        """The labeled faces, then those with pseudo-labels."""
        faces, pseudo = self.faces, self.recipe.pseudo
        supervision = [FaceSupervision()] * len(faces.training)
        for label in faces.pseudo:
            weights = np.ones(len(label.sample.points), np.float32) if label.weights is None else label.weights
            factor = np.float32(label.mean_score if pseudo.weight_by_score else 1)
            supervision.append(FaceSupervision(TASKS.index(pseudo.task), weights * factor))
        samples = [*faces.training, *(label.sample for label in faces.pseudo)]
        return self._dataset(samples, self.recipe.augment, supervision)

    def _dataset(
        self,
        samples: list[FaceSample],
        augmentation: Augmentation,
        supervision: list[FaceSupervision] | None = None,
    ) -> FaceDataset:
        recipe, scheme = self.recipe, self.faces.scheme
        size = recipe.model.input_size
        return FaceDataset(samples, scheme, recipe.crop, size, augmentation, recipe.seed, supervision)

    def _moving_average(self) -> ModelEmaV3 | None:
        decay = self.recipe.optim.ema
        # Warmed up, so that the first weights, which know nothing, are soon forgotten.
        return None if decay is None else ModelEmaV3(self.model, decay, use_warmup=True)

    def _write_setup(self) -> None:
        if self.accelerator.is_main_process:
            write_text(self.run / "recipe.yaml", yaml.safe_dump(self._plain_recipe(), sort_keys=False))
            here = {**environment(), "precision": self.accelerator.mixed_precision}
            here |= {"processes": self.accelerator.num_processes, "from epoch": self.epoch}
            with (self.run / "environment.jsonl").open("a") as file:
                file.write(json.dumps(here) + "\n")

    @property
    def uneven(self) -> bool:
        """Whether faces are trained on in different ways."""
        pseudo = self.recipe.pseudo
        weighted = pseudo.weight_by_score or any(label.weights is not None for label in self.faces.pseudo)
        return bool(self.faces.pseudo) and (pseudo.task != "full" or weighted)

    # -- fit -------------------------------------------------------------------------------------

    def fit(self, max_steps: int | None = None) -> Path:
        """Train what is left to train."""
        with self.log:
            while self.epoch < self.recipe.optim.epochs and (max_steps is None or self.step < max_steps):
                started = time.perf_counter()
                losses = self._train_epoch(max_steps)
                row: dict[str, Any] = {"epoch": self.epoch + 1, "step": self.step, **losses}
                row["lr"] = self.scheduler.get_last_lr()[0]
                row["nme"] = self._validate()
                row["seconds"] = round(time.perf_counter() - started, 1)
                self.epoch += 1
                self._save(row)
        self.accelerator.wait_for_everyone()  # for what the main process writes
        # Without validation faces, or where none of them has the landmarks of the norm, none is the best.
        best = self.run / "best.safetensors"
        return best if best.exists() else self.run / "last.safetensors"

    def _train_epoch(self, max_steps: int | None) -> dict[str, float]:
        self.model_on_device.train()
        self.sampler.epoch = self.epoch
        totals: dict[str, Tensor] = {}
        batches = 0
        for image, points, *how in self.log.track(self.loader, len(self.loader), self.epoch + 1):
            # For dropout: the same after a resume, and not the same in each process.
            torch.manual_seed(self.recipe.seed + 1_000_003 * self.step + self.accelerator.process_index)
            with synchronized_batch_norm(), FastDepthwise():
                output = self.model_on_device(image)
            terms = self.model.loss(output, points, Supervision(*how) if self.uneven else None)
            loss = torch.stack(list(terms.values())).sum()
            self.accelerator.backward(loss)
            if self.recipe.optim.clip is not None:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update(self.model, self.step)
            self.step += 1
            batches += 1
            for name, term in {"loss": loss, **terms}.items():
                totals[name] = totals.get(name, torch.zeros(())) + term.detach().cpu()
            if max_steps is not None and self.step >= max_steps:
                break
        device = self.accelerator.device
        means = {
            name: float(mean_over_processes(total.to(device))) / batches for name, total in totals.items()
        }
        if not np.isfinite(means["loss"]):
            raise ModelError(f"the loss is {means['loss']} in epoch {self.epoch + 1}: lower optim.lr")
        return means

    @property
    def result(self) -> PIPNet:
        """The weights that count: the moving average where there is one."""
        if self.average is None:
            return self.model
        averaged: nn.Module = self.average.module
        assert isinstance(averaged, PIPNet)
        return averaged

    def _validate(self) -> float | None:
        """Mean NME of the validation faces in percent, measured as in `pipnet.evaluation`."""
        if self.validation is None:
            return None
        dataset = self.validation
        model, together = self.result.eval(), self.recipe.optim.batch_size // self.accelerator.num_processes
        with self.accelerator.split_between_processes(list(range(len(dataset)))) as part:
            with self.accelerator.autocast():
                own = face_errors(model, dataset, part, together, self.accelerator.device)
            errors: list[float] = gather_object(own)
        model.train()
        measured = [error for error in errors if np.isfinite(error)]  # others lack a landmark of the norm
        return 100 * float(np.mean(measured)) if measured else None

    # -- save and resume ---------------------------------------------------------------------------

    def _save(self, row: dict[str, Any]) -> None:
        """Leave a whole state behind; what a kill can cut short is never what is resumed from."""
        if not self.accelerator.is_main_process:
            return
        whole = self.step == self.epoch * len(self.loader)
        # Where max_steps stops within an epoch nothing goes on: it may leave weights, and spoil none.
        counts = whole or not (self.run / STATE).exists()
        if counts and row["nme"] is not None and row["nme"] < self.best:
            self.best = row["nme"]
            save_checkpoint(self.run / "best.safetensors", self.result, self._described())
        save_checkpoint(self.run / "last.safetensors", self.result, self._described())
        self.log.write(row)
        if not whole:
            return
        state = {
            "model": self.model.state_dict(),
            "average": self.average and self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "recipe": json.dumps(self._plain_recipe()),
            "faces": self._fingerprint(),
            "mean face": self.metadata.mean_face.tolist(),
        }
        with atomic_write(self.run / STATE) as partial:
            try:
                torch.save(state, partial)
            except RuntimeError as error:  # what it makes of a full disk
                raise OSError(f"is the disk full? {' '.join(str(error).split()):.120}") from None

    def _resume(self) -> None:
        path = self.run / STATE
        if not path.is_file():
            if (self.run / "last.safetensors").exists():  # else it was killed before its first epoch ended
                self._say(f"{path}: not there, so the training starts anew")
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            changed = differences(json.loads(state["recipe"]), self._plain_recipe())
            if state["faces"] != self._fingerprint():
                changed.append("its faces or their scheme")
            elif state.get("mean face", self.metadata.mean_face.tolist()) != self.metadata.mean_face.tolist():
                changed.append("initial.checkpoint, whose mean face it began with")
            if not changed:
                self._take_over(state)
        except Exception as error:  # torch raises pickle, zip, runtime and key errors alike
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(f"{path}: cannot be resumed from: {reason:.160}") from None
        if changed:
            raise RecipeError(
                f"{self.run} was trained with another recipe; it differs in {', '.join(changed)}"
            )
        if self.accelerator.is_main_process:
            self.log.keep(self.epoch)

    def _take_over(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]

    def _fingerprint(self) -> str:
        """A digest of what is trained on: names, labels and scheme, but not where the pictures lie."""
        digest = hashlib.sha256(json.dumps(self.faces.scheme.to_dict()).encode())
        for sample in (*self.dataset.crops.samples, *self.faces.validation):
            digest.update(sample.name.encode("utf-8", "surrogateescape") + sample.points.tobytes())
            digest.update(b"" if sample.box is None else sample.box.tobytes())
        supervision = self.dataset.supervision if self.uneven else None
        digest.update(json.dumps(supervision, default=np.ndarray.tolist).encode())
        return digest.hexdigest()

    def _plain_recipe(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self.recipe), default=str))
        return plain
