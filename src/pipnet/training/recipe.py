"""A recipe: everything that decides a training's result. YAML -> these dataclasses -> command line.

``load_recipe(path, ["--optim.lr", "2e-4"])`` is what ``pipnet train path --optim.lr 2e-4`` reads. Unknown
keys are errors that name the nearest known one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
import yaml
from cyclopts import Parameter

from pipnet.config import TTA
from pipnet.errors import RecipeError
from pipnet.geometry import CropConfig
from pipnet.model.heads.curriculum import Task
from pipnet.model.pipnet import ModelConfig
from pipnet.training.augment import Augmentation


@dataclass(frozen=True)
class DataConfig:
    """The labeled faces."""

    root: Path | None = None
    """A collection in its official layout or prepared, or your own annotations (a folder or file);
    ``--data`` on the command line."""
    subset: str | None = None
    """Which part of it to train on; ``train``, or all there is, if none is named."""
    scheme: str | None = None
    """Train on these points instead of the collection's own, by a mapping such as WFLW's to 300w.
    For your own annotations, what their points are: the path of a TOML file."""
    images: Path | None = None
    """Folder of the pictures of your own annotations, where they do not lie beside them."""
    label_offset: tuple[float, float] | None = None
    """Known offset of the labels, which is subtracted: label minus image along x and y in pixels, such as
    (1, 1) for files that count from 1, or (0, 0) to train on the labels as filed (the papers). If None, what
    is known of the dataset (300-W's labels lie about 2 px to the right)."""
    also: tuple[Path, ...] = ()
    """Further collections, whose training parts are trained on too, on the same points (v1's TMD)."""
    validation: float = 0.05
    """Share of the recipe's own collection kept out of training, whole photos at a time; 0 for none."""
    limit: int | None = None
    """Use only this many faces, the first ones in a shuffle by the seed."""


@dataclass(frozen=True)
class PseudoConfig:
    """Faces with pseudo-labels, trained on besides the labeled ones: one round of self-training."""

    labels: Path | None = None
    """The table that ``pipnet self-train`` wrote, or what ``pipnet annotate`` did, its folder or one of its
    shards; none: labeled faces alone."""
    task: Task = "full"
    """What they are trained on (IJCV): all maps, or only scores on half or a quarter of the grid's cells."""
    min_score: float = 0.0
    """Leave out faces with a lower mean score (the papers: none)."""
    max_std: float | None = None
    """Leave out faces whose votes or views lie further apart on the mean, in percent of the crop
    (the papers: none)."""
    weight_by_score: bool = False
    """Let a face weigh as much as its mean score (the papers: all alike)."""


@dataclass(frozen=True)
class SelfTrainingConfig:
    """Learning from faces nobody labeled, in rounds: ``pipnet self-train``."""

    unlabeled: tuple[Path, ...] = ()
    """Folders, ``boxes.csv`` tables, ``.txt`` lists, videos; ``--unlabeled`` on the command line."""
    tasks: tuple[Task, ...] = ("quarter", "half", "full", "full", "full")
    """One round each, and what the pseudo-labeled faces are trained on in it (IJCV's curriculum).
    Plain self-training is all full; v1's data distillation is ``full`` three times, with test-time augmentation."""
    tta: TTA = "none"
    """Test-time augmentation of the pseudo-labels (v1: ``translation``)."""
    box_format: str = "face"
    """What given boxes are where their table does not say: ``face``, ``landmarks``, ``rough``, or a kind that
    the teacher was fitted to. Pictures without boxes are searched by the detector in any case."""
    limit: int | None = None
    """Use only this many unlabeled faces, the first ones in a shuffle by the seed."""
    teacher: Path | None = None
    """A checkpoint of pipnet on the same landmarks that labels the first round, instead of round 0."""


@dataclass(frozen=True)
class InitialConfig:
    """What training starts from."""

    pretrained: bool = True
    """ImageNet weights in the backbone; False: random ones."""
    folder: Path | None = None
    """Folder looked in first for ``BACKBONE.safetensors``; else timm fetches them."""
    checkpoint: Path | None = None
    """A checkpoint of pipnet to go on from: all of it where it fits, else its backbone."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule."""

    name: Literal["adamw", "adam"] = "adamw"
    """The papers: adam."""
    lr: float = 1e-3
    """Learning rate; the peak of one-cycle (the papers: 1e-4, constant)."""
    weight_decay: float = 0.05
    """Weight decay (the papers: none, or 5e-4 without pretraining)."""
    batch_size: int = 32
    """Faces a step, over all processes."""
    epochs: int = 40
    """Passes over the training faces."""
    schedule: Literal["one-cycle", "step"] = "one-cycle"
    """``step``: a tenth at each milestone (the papers)."""
    warmup: float = 0.1
    """Share of a one-cycle schedule spent on the way up."""
    milestones: tuple[int, ...] = ()
    """Epochs after which the step schedule divides by ten (the papers: 30, 50 of 60)."""
    clip: float | None = 5.0
    """Largest norm of the gradient."""
    ema: float | None = 0.998
    """Decay of the moving average of the weights that is kept as the result; None: the last weights."""


@dataclass(frozen=True)
class Recipe:
    """One training. One YAML file is one row of a results table."""

    name: str = "pipnet"
    """What the result is called."""
    seed: int = 0
    """All chance comes from it but the validation split, which is the same for every seed."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """``auto``: bf16 where the machine computes in it, else float32."""
    workers: int = 1
    """Processes that prepare faces; 0: the training process itself."""
    data: DataConfig = field(default_factory=DataConfig)
    pseudo: PseudoConfig = field(default_factory=PseudoConfig)
    self_training: SelfTrainingConfig = field(default_factory=SelfTrainingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    initial: InitialConfig = field(default_factory=InitialConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    augment: Augmentation = field(default_factory=Augmentation)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        positive = {
            "optim.batch_size": self.optim.batch_size,
            "optim.epochs": self.optim.epochs,
            "optim.lr": self.optim.lr,
            "crop.scale": self.crop.scale,
        }
        for key, value in positive.items():
            if not value > 0:
                raise RecipeError(f"{key} must be above 0, not {value}")
        if self.model.head == "coord" and self.optim.batch_size < 2:
            raise RecipeError(
                "a coord head is normalized over the batch: optim.batch_size must be at least 2"
            )
        if self.crop.box == "dataset" and (self.pseudo.labels or self.self_training.unlabeled):
            raise RecipeError("crop.box is 'given', but nobody gives the boxes of faces with pseudo-labels")
        if self.pseudo.task != "full" and self.model.curriculum == "none":
            raise RecipeError(f"pseudo.task {self.pseudo.task!r} needs model.curriculum")
        coarse = self.self_training.unlabeled and set(self.self_training.tasks) - {"full"}
        if coarse and self.model.curriculum == "none":
            raise RecipeError(f"self_training.tasks {', '.join(sorted(coarse))} need model.curriculum")
        self._check_ranges()

    def _check_ranges(self) -> None:
        """Refuse numbers that no training was meant to have.

        Raises:
            RecipeError: one is out of its range, or milestones do not fit the schedule.
        """
        optim, augment = self.optim, self.augment
        shares = {f"augment.{key}": value for key, value in vars(augment).items()}
        for key in ("rotate_by", "downscale_by", "blank"):
            del shares[f"augment.{key}"]
        between = {key: (value, 0.0, 1.0) for key, value in shares.items()}
        between |= {
            "augment.rotate_by": (augment.rotate_by, 0, 180),
            "augment.downscale_by": (augment.downscale_by, 1, 100),
            "data.validation": (self.data.validation, 0, 0.99),
            "optim.warmup": (optim.warmup, 0, 1),
            "optim.ema": (optim.ema or 0, 0, 0.99999),
            "optim.weight_decay": (optim.weight_decay, 0, 100),
            "optim.lr": (optim.lr, 0, 1e38),
            "crop.scale": (self.crop.scale, 0, 100),
            "seed": (self.seed, 0, 2**32 - 1),
            "workers": (self.workers, 0, 1024),
            "model.neck_width": (self.model.neck_width, 1, 65536),
            "model.score_weight": (self.model.score_weight or 0, 0, 1e6),
            "self_training.limit": (
                1 if self.self_training.limit is None else self.self_training.limit,
                1,
                1e12,
            ),
        }
        for key, (value, least, most) in between.items():
            if not least <= value <= most:
                raise RecipeError(f"{key} must be {least:g} to {most:g}, not {value}")
        if optim.clip is not None and not optim.clip > 0:
            raise RecipeError(f"optim.clip must be above 0, not {optim.clip}; null for none")
        steps = [0, *optim.milestones, optim.epochs]
        if optim.schedule == "step" and (not optim.milestones or steps != sorted(set(steps))):
            raise RecipeError(
                f"a step schedule needs rising milestones below {optim.epochs} epochs: {optim.milestones}"
            )
        if optim.schedule != "step" and optim.milestones:
            raise RecipeError(f"optim.milestones are of optim.schedule step, not of {optim.schedule}")


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: which of them was meant is not known."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice!r:.40} stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def load_recipe(path: Path, flags: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file, changed by command-line flags such as ``--optim.lr 2e-4``.

    Raises:
        RecipeError: missing or no YAML, an unknown key or flag, a value of the wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: recipe cannot be read: {error}") from None
    try:
        content = yaml.load(text, _Loader) or {}  # noqa: S506 (a safe loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a table of keys, not a {type(content).__name__}")
    odd = [key for table in (content, *content.values()) if isinstance(table, dict) for key in table]
    odd = [key for key in odd if not isinstance(key, str)]
    if odd:
        raise RecipeError(f"{path}: a key must be a word, not {odd[0]!r:.40}")
    source = cyclopts.config.Dict(content, source=str(path))
    app = cyclopts.App(config=source, help_flags=[], version_flags=[], result_action="return_value")

    @app.default
    def build(*, recipe: Annotated[Recipe | None, Parameter(name="*")] = None) -> Recipe:
        return recipe or Recipe()

    try:
        recipe = app(list(flags), exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        raise RecipeError(" ".join(str(error).split())) from None
    assert isinstance(recipe, Recipe)
    return recipe


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings that decide the result and are not the same; where things lie and who decodes them do not."""
    free = {"data.root", "data.also", "data.images", "data.scheme", "pseudo.labels", "workers"}
    free |= {"initial.folder", "initial.checkpoint"}
    # A setting that is newer than the training has its default in it.
    default = dict(_flatten(json.loads(json.dumps(asdict(Recipe()), default=str))))
    flat = [default | dict(_flatten(recipe)) for recipe in (before, now)]
    keys = sorted((flat[0].keys() | flat[1].keys()) - free)
    return [key for key in keys if flat[0].get(key) != flat[1].get(key)]


def _flatten(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
