"""The training loop: set up, then train, validate and save each epoch. Read it from the top.

A training that is killed at any moment and resumed ends with the same weights as an uninterrupted one on the
same machine: every example depends on (seed, epoch, face) alone, and the state is written atomically after
each epoch.

Started by torchrun, any number of processes train one model together. Each takes its part of every batch, so
the batch size is the recipe's; means and batch norm are over all ranks (`pipnet.model.distributed`); each
rank validates its part of the faces; rank zero writes. They need the same run folder. Only the order of sums
differs from one process, and the random numbers that a network draws itself, such as for dropout.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate.utils import gather_object
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pipnet.annotations.samples import FaceSample, fingerprint
from pipnet.box_adapter import BoxAdapter
from pipnet.errors import ModelError, PipnetError, RecipeError, WriteError, one_line
from pipnet.io.atomic import make_folder, write_text
from pipnet.model.checkpoint import save_checkpoint
from pipnet.model.distributed import all_reduce_mean, is_peer_failure, is_rank_zero, sync_batch_norm
from pipnet.model.heads.base import Supervision
from pipnet.model.pipnet import PIPNet
from pipnet.training.augment import Augmentation
from pipnet.training.cpu_speedups import FastDepthwise
from pipnet.training.dataset import (
    FULL_SUPERVISION,
    FaceDataset,
    FaceSupervision,
    ShuffledEpochs,
    pseudo_supervision,
)
from pipnet.training.divergence import check_loss, check_nme
from pipnet.training.fit_box_adapters import fit_box_adapters
from pipnet.training.initial_model import build_model, trained_metadata
from pipnet.training.log import TrainingLog
from pipnet.training.optim import build_optimizer, build_scheduler
from pipnet.training.recipe import FORMAT, Recipe, cannot_resume, differences
from pipnet.training.runtime import build_accelerator, environment, resolve_workers, training_settings
from pipnet.training.split import load_split
from pipnet.training.state import STATE, load_state, save_state
from pipnet.training.validation import face_errors

_VALIDATION_WORKERS = 4
"""Maximum number of processes that prepare validation faces for a GPU."""
_log = logging.getLogger(__name__)


def train(recipe: Recipe, run: Path, resume: bool = False, max_steps: int | None = None) -> Path:
    """Train a model and write everything about it to the run folder.

    Args:
        recipe: the settings.
        run: the folder for the merged recipe, environment, ``metrics.jsonl``, curves, last and best weights.
        resume: continue the training in the folder; otherwise the folder must hold none.
        max_steps: stop after this many steps, to try things out.

    Returns:
        The path of the best weights (the last ones if there are no validation faces).

    Raises:
        RecipeError: the settings do not fit the data, the run folder or the processes, or ``max_steps`` is
            below 1.
        DataError, ModelError: the data or the initial weights are missing or not usable.
        DivergenceError: the training diverges; the last weights before that remain.
        PipnetError: the run folder cannot be written, such as on a full disk; its previous content remains.
    """
    if max_steps is not None and max_steps < 1:
        raise RecipeError(f"max_steps must be at least 1, not {max_steps}")
    try:
        with training_settings(recipe.deterministic, exact=recipe.precision == "float32"):
            return Trainer(recipe, run, resume).fit(max_steps)
    except WriteError as error:
        raise WriteError(f"{error}{_resume_hint(run)}") from None
    except OSError as error:
        raise PipnetError(f"{error.filename or run}: {error.strerror or error}{_resume_hint(run)}") from None
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and is_peer_failure(error):
            message = "another process of this training failed; then continue with --resume"
        elif _is_out_of_memory(error):
            message = f"not enough memory: lower optim.batch_size, or workers{_resume_hint(run)}"
        else:
            raise
        raise PipnetError(message) from None


def _resume_hint(run: Path) -> str:
    return "; saved files remain: continue with --resume" if (run / STATE).is_file() else ""


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed on the CPU or GPU, or the system killed a process that prepares faces."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return bool(re.search("can't allocate memory|DataLoader worker .* is killed by signal", str(error)))


class Trainer:
    """One training: data, model and optimizer, and the loop over them."""

    def __init__(self, recipe: Recipe, run: Path, resume: bool = False) -> None:
        files = [name for name in (STATE, "best.safetensors", "last.safetensors") if (run / name).exists()]
        if files and not resume:
            raise RecipeError(f"{run} holds a training ({files[0]}): use --resume, or choose another folder")
        self.recipe, self.run = recipe, run
        self.accelerator = build_accelerator(recipe)
        self.device = self.accelerator.device
        self.workers = resolve_workers(recipe.workers, self.device)
        self.split = load_split(recipe)
        make_folder(run)
        self.log = TrainingLog(run, recipe.optim.epochs, quiet=not is_rank_zero())
        with self.accelerator.local_main_process_first():  # the others find the decoded faces in the cache
            self.dataset = self._training_set()
            held_out = self.split.validation
            self.validation = self._dataset(held_out, Augmentation.none()) if held_out else None
        self.model, self.metadata = build_model(recipe, self.split, self.dataset)
        self.optimizer = build_optimizer(recipe.optim, self.model)
        self.sampler = ShuffledEpochs(len(self.dataset), recipe.seed)
        self.wrapped_model, self.optimizer, self.loader = self.accelerator.prepare(
            self.model, self.optimizer, self._training_loader()
        )
        self.validation_faces, self.validation_loader = self._validation_loader()
        self.scheduler = build_scheduler(recipe.optim, self.optimizer, len(self.loader))
        decay = recipe.optim.ema
        # With warm-up, so that the weight of the random initial weights vanishes quickly.
        self.ema = None if decay is None else ModelEmaV3(self.model, decay, use_warmup=True)
        self.epoch, self.step, self.best = 0, 0, float("inf")
        self.first_loss = float("nan")  # until the first step
        if resume:
            self._resume()
            if len(set(gather_object([self.epoch]))) > 1:
                raise RecipeError(f"{run} is not the same folder for all processes")
        if is_rank_zero():
            self._write_setup()

    # -- set up ----------------------------------------------------------------------------------

    def _training_loader(self) -> DataLoader[Any]:
        batch_size = self.recipe.optim.batch_size
        return self._loader(self.dataset, self.sampler, batch_size, self.workers, drop_last=True)

    def _validation_loader(self) -> tuple[list[int], DataLoader[Any] | None]:
        """Return the validation faces of this rank, and their loader; none if there are no faces."""
        if self.validation is None:
            return [], None
        with self.accelerator.split_between_processes(list(range(len(self.validation)))) as indices:
            faces = list(indices)
        batch_size = self.recipe.optim.batch_size // self.accelerator.num_processes
        # On a CPU nearly all of the time is the network's.
        workers = 0 if self.device.type == "cpu" else min(self.workers, _VALIDATION_WORKERS)
        return faces, self._loader(self.validation, faces, batch_size, workers)

    def _loader(
        self,
        dataset: FaceDataset,
        faces: Iterable[int],
        batch_size: int,
        workers: int,
        drop_last: bool = False,
    ) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=faces,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def _training_set(self) -> FaceDataset:
        """Return the labeled faces, then those with pseudo-labels."""
        split, pseudo = self.split, self.recipe.pseudo
        supervision = [FULL_SUPERVISION] * len(split.training)
        for label in split.pseudo:
            supervision.append(pseudo_supervision(label, pseudo))
        samples = [*split.training, *(label.sample for label in split.pseudo)]
        return self._dataset(samples, self.recipe.augment, supervision)

    def _dataset(
        self,
        samples: list[FaceSample],
        augmentation: Augmentation,
        supervision: list[FaceSupervision] | None = None,
    ) -> FaceDataset:
        recipe, scheme = self.recipe, self.split.scheme
        size = recipe.model.input_size
        return FaceDataset(samples, scheme, recipe.crop, size, augmentation, recipe.seed, supervision)

    def _write_setup(self) -> None:
        write_text(self.run / "recipe.yaml", yaml.safe_dump(self.recipe.to_dict(), sort_keys=False))
        setup = {**environment(), "precision": self.accelerator.mixed_precision}
        setup |= {"device": str(self.device), "workers": self.workers}
        setup |= {"world_size": self.accelerator.num_processes, "from_epoch": self.epoch}
        with (self.run / "environment.jsonl").open("a") as file:
            file.write(json.dumps(setup) + "\n")

    # -- fit -------------------------------------------------------------------------------------

    def fit(self, max_steps: int | None = None) -> Path:
        """Train the remaining epochs and return the path of the best weights."""
        with self.log:
            while self.epoch < self.recipe.optim.epochs and (max_steps is None or self.step < max_steps):
                started = time.perf_counter()
                losses = self._train_epoch(max_steps)
                check_loss(losses["loss"], self.first_loss, self.epoch + 1, self.recipe.optim.lr)
                row: dict[str, Any] = {"epoch": self.epoch + 1, "step": self.step, **losses}
                row["lr"] = self.scheduler.get_last_lr()[0]
                row["nme"] = self._validate()
                check_nme(row["nme"], self.epoch + 1, self.step, self.recipe.optim.lr)
                row["seconds"] = round(time.perf_counter() - started, 1)
                self.epoch += 1
                self._save(row)
        self.accelerator.wait_for_everyone()  # until rank zero has written its files
        # Without validation faces, or where none of them has the landmarks of the norm, there are no best
        # weights.
        best = self.run / "best.safetensors"
        return best if best.exists() else self.run / "last.safetensors"

    def _train_epoch(self, max_steps: int | None) -> dict[str, float]:
        """Train one epoch, or until ``max_steps``, and return the mean of each term of the loss."""
        self.wrapped_model.train()
        self.sampler.epoch = self.epoch
        totals: dict[str, Tensor] = {}
        batches = 0
        for batch in self.log.track(self.loader, len(self.loader), self.epoch + 1):
            for name, term in self._train_step(*batch).items():
                totals[name] = totals.get(name, 0) + term.detach()
            if np.isnan(self.first_loss):
                self.first_loss = float(all_reduce_mean(totals["loss"]))
            batches += 1
            if max_steps is not None and self.step >= max_steps:
                break
        means = all_reduce_mean(torch.stack(list(totals.values()))).tolist()  # the only copy from the device
        return {name: mean / batches for name, mean in zip(totals, means, strict=True)}

    def _train_step(self, image: Tensor, points: Tensor, task: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Train on one batch and return the loss and its terms."""
        # The random numbers of dropout are the same after a resume, and differ between ranks.
        torch.manual_seed(self.recipe.seed + 1_000_003 * self.step + self.accelerator.process_index)
        with sync_batch_norm(), FastDepthwise() if self.device.type == "cpu" else nullcontext():
            output = self.wrapped_model(image)
        terms = self.model.loss(output, points, Supervision(task, weight))
        loss = torch.stack(list(terms.values())).sum()
        self.accelerator.backward(loss)
        if self.recipe.optim.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        self.step += 1
        return {"loss": loss, **terms}

    @property
    def ema_or_model(self) -> PIPNet:
        """The network with the weights that are saved: the EMA weights where the recipe has them."""
        if self.ema is None:
            return self.model
        averaged: nn.Module = self.ema.module
        assert isinstance(averaged, PIPNet)
        return averaged

    def _validate(self) -> float | None:
        """Return the mean NME of the validation faces in percent, measured as in `pipnet.evaluation`."""
        if self.validation is None:
            return None
        model, faces = self.ema_or_model.eval(), self.validation_faces
        batches = self.validation_loader if faces and self.validation_loader is not None else ()
        with self.accelerator.autocast():
            errors = face_errors(model, self.validation, faces, batches, self.device)
        all_errors: list[float] = gather_object(errors)
        model.train()
        measured = [error for error in all_errors if not np.isnan(error)]  # NaN: no landmarks of the norm
        return 100 * float(np.mean(measured)) if measured else None

    # -- save and resume ---------------------------------------------------------------------------

    @cached_property
    def box_adapters(self) -> dict[str, BoxAdapter]:
        """The adapters of the available detectors, fitted when weights are saved for the first time."""
        return fit_box_adapters(self.split.complete_samples, self.recipe.crop)

    def _save(self, row: dict[str, Any]) -> None:
        """Save weights, metrics and state; a resume never reads a file that a kill can cut short."""
        if not is_rank_zero():
            return
        steps = self.recipe.optim.epochs * len(self.loader)
        metadata = trained_metadata(self.metadata, self.recipe, self.split, self.step, steps)
        metadata = replace(metadata, box_adapters=self.box_adapters)
        complete = self.step == self.epoch * len(self.loader)
        # If max_steps ends a training within an epoch, no resume starts there: best weights that belong to an
        # earlier state are kept.
        is_candidate = complete or not (self.run / STATE).exists()
        if is_candidate and row["nme"] is not None and row["nme"] < self.best:
            self.best = row["nme"]
            save_checkpoint(self.run / "best.safetensors", self.ema_or_model, metadata)
        save_checkpoint(self.run / "last.safetensors", self.ema_or_model, metadata)
        self.log.write(row)
        if complete:
            self._save_state()

    def _save_state(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.ema and self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "first loss": self.first_loss,
            "recipe": json.dumps({"format": FORMAT, **self.recipe.to_dict()}),
            "faces": self._fingerprint(),
            "mean face": self.metadata.mean_face.tolist(),
        }
        save_state(self.run / STATE, state)

    def _resume(self) -> None:
        path = self.run / STATE
        if not path.is_file():
            if (self.run / "last.safetensors").exists() and is_rank_zero():
                _log.warning("%s is missing: the training starts from the beginning", path)
            return
        state = load_state(path)
        try:
            recipe = json.loads(state["recipe"])
            is_current = recipe.pop("format", 1) == FORMAT
            changed = self._changes(state, recipe) if is_current else []
            if is_current and not changed:
                self._load_state(state)
        except Exception as error:  # torch raises runtime and key errors alike
            raise ModelError(f"{path}: cannot be resumed from: {one_line(error)}") from None
        if not is_current:
            raise RecipeError(f"{path} is of an earlier format, convert it: pipnet migrate {self.run}")
        if changed:
            is_finished = state["epoch"] == recipe["optim"]["epochs"]
            raise RecipeError(cannot_resume(self.run, changed, is_finished))
        if is_rank_zero():
            self.log.keep(self.epoch)

    def _changes(self, state: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
        """Return what differs from the training that wrote a state, and changes the result."""
        changed = differences(recipe, self.recipe.to_dict())
        face = self.metadata.mean_face.tolist()
        if state["faces"] != self._fingerprint():
            changed.append("its faces or their scheme")
        elif state.get("mean face", face) != face:
            changed.append("the mean face of initial.checkpoint")
        return changed

    def _load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        self.first_loss = state.get("first loss", float("nan"))

    def _fingerprint(self) -> str:
        """Return a digest of the faces' names, labels, supervision and scheme, but not of their paths."""
        all_full = all(s is FULL_SUPERVISION for s in self.dataset.supervision)
        supervision = None if all_full else self.dataset.supervision
        return fingerprint(
            [*self.dataset.crops.samples, *self.split.validation],
            self.split.scheme.digest_text(),
            json.dumps(supervision, default=np.ndarray.tolist),
        )
