"""A recipe: all settings that decide the result of a training. YAML -> dataclasses -> command line.

``load_recipe(path, ["--optim.lr", "2e-4"])`` is what ``pipnet train path --optim.lr 2e-4`` reads. A recipe
may inherit from another one: the key ``base: NAME.yaml`` names a file, relative to its own. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter
from cyclopts.argument import ArgumentCollection

from pipnet.config import TTA
from pipnet.datasets.paper_crops import PaperCrops
from pipnet.errors import RecipeError
from pipnet.field_checks import Range, check_fields
from pipnet.geometry import CropConfig
from pipnet.metadata import MIN_CROP_SCALE
from pipnet.model.config import ModelConfig, PseudoTask
from pipnet.training.augment import Augmentation
from pipnet.training.recipe_file import read_recipe

FORMAT = 2
"""Version of the recipe in a run folder's state. Earlier ones are converted by ``pipnet migrate``."""


@dataclass(frozen=True)
class DataConfig:
    """The labeled faces."""

    root: Path | None = None
    """A dataset in its official layout or prepared, or your own annotations (a folder or file); ``--data`` on
    the command line."""
    subset: str | None = None
    """The part of it to train on; ``train``, or all of it where it has no parts, if None."""
    scheme: str | None = None
    """Train on these landmarks instead of the dataset's, by a mapping such as WFLW's to 300w. For your own
    annotations, the landmark scheme: the path of a TOML file."""
    images: Path | None = None
    """Folder of the images of your own annotations, if they are not in the same folder."""
    label_offset: tuple[float, float] | None = None
    """Known offset of the labels, which is subtracted: label minus image along x and y in pixels, such as
    (1, 1) for files that count from 1, or (0, 0) to train on the labels as filed (the papers). If None, the
    known offset of the dataset (300-W's labels lie about 2 px to the right)."""
    paper_crops: PaperCrops = "none"
    """Crops that differ by dataset, instead of ``crop``: ``v1`` (arXiv v1), ``gssl`` (IJCV 2021, learning
    across datasets). Crops are then those of the landmark or dataset box that the paper states."""
    also: tuple[Path, ...] = ()
    """Further datasets, whose training parts are trained on too, on the same landmarks (v1's TMD)."""
    validation: Annotated[float, Range(0, 0.99)] = 0.05
    """Share of the first dataset kept out of training, complete photos at a time; 0 for none."""
    limit: Annotated[int | None, Range(1)] = None
    """Use only this many faces, the first ones in a shuffle by the seed."""


@dataclass(frozen=True)
class PseudoConfig:
    """Faces with pseudo-labels, trained on in addition to the labeled ones: one round of self-training."""

    labels: Path | None = None
    """The table that ``pipnet self-train`` wrote, or the folder or a shard that ``pipnet annotate`` wrote;
    None: labeled faces alone."""
    task: PseudoTask = "full"
    """Training task of these faces (IJCV 2021): all maps, or only scores on half or a quarter of the cells;
    or ``by_agreement`` (not in the papers): for each landmark one of these, see ``agreement``."""
    agreement: tuple[float, float] = (3.0, 6.0)
    """For the task ``by_agreement``: the maximum standard deviation of the predictions of a landmark, in
    percent of the crop, for the full and for the half task; a landmark above both has the quarter task. The
    predictions are the neighbors' votes and, with test-time augmentation, the augmented crops'; the larger
    of the two standard deviations counts."""
    min_score: float = 0.0
    """Leave out faces with a lower mean score (the papers: none)."""
    max_std: float | None = None
    """Leave out faces with a higher mean ``vote_std`` or ``tta_std``, in percent of the crop (the papers:
    none)."""
    weight_by_score: bool = False
    """Multiply the loss weight of a face by its mean score (the papers: all alike)."""


@dataclass(frozen=True)
class SelfTrainingConfig:
    """Learning from unlabeled faces, in rounds: ``pipnet self-train``."""

    unlabeled: tuple[Path, ...] = ()
    """Folders, ``boxes.csv`` tables, ``.txt`` lists, videos; ``--unlabeled`` on the command line."""
    tasks: tuple[PseudoTask, ...] = ("quarter", "half", "full", "full", "full")
    """One round each: the training task of its pseudo-labeled faces (IJCV's curriculum). Plain self-training
    is all full; v1's data distillation is ``full`` three times, with test-time augmentation. For
    ``by_agreement`` see ``pseudo.task``."""
    tta: TTA = "none"
    """Test-time augmentation of the pseudo-labels (v1: ``translation``)."""
    box_format: str = "face"
    """Format of boxes whose table does not say it: ``face``, ``landmarks``, ``region``, ``crop`` (kept in all
    rounds), or one that the teacher was fitted to. In images without boxes the detector searches in any
    case."""
    limit: Annotated[int | None, Range(1)] = None
    """Use only this many unlabeled faces, the first ones in a shuffle by the seed."""
    teacher: Path | None = None
    """A checkpoint of pipnet on the same landmarks that labels the first round, instead of round 0."""


@dataclass(frozen=True)
class InitialConfig:
    """The initial weights."""

    pretrained: bool = True
    """ImageNet weights in the backbone; False: random ones."""
    folder: Path | None = None
    """Folder that is searched first for ``BACKBONE.safetensors``; otherwise timm downloads them."""
    checkpoint: Path | None = None
    """A checkpoint of pipnet to start from: all weights that fit, at least its backbone."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule."""

    name: Literal["adamw", "adam"] = "adamw"
    """The papers: adam."""
    lr: Annotated[float, Range(0, 1e38, above=True)] = 1e-3
    """Learning rate; the peak of one-cycle (the papers: 1e-4, constant)."""
    weight_decay: Annotated[float, Range(0, 100)] = 0.05
    """Weight decay (the papers: none, or 5e-4 without pretraining)."""
    batch_size: Annotated[int, Range(1)] = 32
    """Faces in a step, over all processes."""
    epochs: Annotated[int, Range(1)] = 40
    """Passes over the training faces."""
    schedule: Literal["one-cycle", "step"] = "one-cycle"
    """``step``: the learning rate is divided by ten at each milestone (the papers)."""
    warmup: Annotated[float, Range(0, 1)] = 0.1
    """Share of a one-cycle schedule in which the learning rate rises."""
    milestones: tuple[int, ...] = ()
    """Epochs after which the step schedule divides by ten (the papers: 30, 50 of 60)."""
    clip: Annotated[float | None, Range(0, above=True)] = 5.0
    """Maximum norm of the gradient; None: no limit."""
    ema: Annotated[float | None, Range(0, 0.99999)] = 0.998
    """Decay of the moving average of the weights (EMA), which is the result; None: the last weights."""


@dataclass(frozen=True)
class Recipe:
    """One training. One YAML file is one row of a results table."""

    name: str = "pipnet"
    """Name of the resulting model."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of all random numbers but the validation split, which is the same for every seed."""
    precision: Literal["auto", "bf16", "float16", "float32"] = "auto"
    """``auto``: bf16 where the device has instructions for it; on an older GPU float16 with a scaled loss;
    otherwise float32. On a GPU ``float32`` also switches TF32 off."""
    deterministic: bool = True
    """Compute the same weights in every run on the same machine; False: a GPU may choose its fastest
    algorithms."""
    workers: Literal["auto"] | int = "auto"
    """Processes that prepare faces; 0: the training process itself. ``auto``: one for a training on the CPU;
    for one on a GPU all cores but one, at most 16."""
    data: DataConfig = field(default_factory=DataConfig)
    pseudo: PseudoConfig = field(default_factory=PseudoConfig)
    self_training: SelfTrainingConfig = field(default_factory=SelfTrainingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    initial: InitialConfig = field(default_factory=InitialConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    augment: Augmentation = field(default_factory=Augmentation)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        for table in fields(self):
            kind = table.default_factory
            if isinstance(kind, type) and is_dataclass(kind) and type(getattr(self, table.name)) is not kind:
                raise RecipeError(f"{table.name} must be a table of settings")
        check_fields(self, RecipeError)
        if self.workers != "auto":
            Range(0, 1024).check("workers", self.workers, RecipeError)
        Range(MIN_CROP_SCALE, 100).check("crop.scale", self.crop.scale, RecipeError)
        if self.crop.whole_pixels:
            raise RecipeError("crop.whole_pixels is the rule of the authors' weights: train on exact crops")
        if self.model.head == "coord" and self.optim.batch_size < 2:
            raise RecipeError(
                "a coord head is normalized over the batch: optim.batch_size must be at least 2"
            )
        if self.crop.box == "dataset" and (self.pseudo.labels or self.self_training.unlabeled):
            raise RecipeError("crop.box is 'dataset', but faces with pseudo-labels have no box of a dataset")
        if not 0 < self.pseudo.agreement[0] <= self.pseudo.agreement[1]:
            raise RecipeError(f"pseudo.agreement must be two rising percentages: {self.pseudo.agreement}")
        if self.pseudo.task != "full" and self.model.curriculum == "none":
            raise RecipeError(f"pseudo.task {self.pseudo.task!r} needs model.curriculum")
        coarse = self.self_training.unlabeled and set(self.self_training.tasks) - {"full"}
        if coarse and self.model.curriculum == "none":
            raise RecipeError(f"self_training.tasks {', '.join(sorted(coarse))} need model.curriculum")
        self._check_schedule()

    def _check_schedule(self) -> None:
        """Refuse milestones that do not fit the schedule."""
        optim = self.optim
        steps = [0, *optim.milestones, optim.epochs]
        if optim.schedule == "step" and (not optim.milestones or steps != sorted(set(steps))):
            raise RecipeError(
                f"a step schedule needs rising milestones below {optim.epochs} epochs: {optim.milestones}"
            )
        if optim.schedule != "step" and optim.milestones:
            raise RecipeError(f"optim.milestones need optim.schedule step, not {optim.schedule}")

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as tables of plain values, as in YAML and JSON."""
        table: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return table


RecipeFlags = Annotated[Recipe | None, Parameter(name="*", negative=None, negative_iterable=())]
"""Type of the last parameter of a command that takes a recipe file and flags; see `with_recipe_file`."""


def with_recipe_file(_: Any, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill the `RecipeFlags` of a command with its recipe file, where no flag sets them (a cyclopts config).

    The file is the command's first argument.

    Raises:
        RecipeError: it is missing or not a recipe, or has an unknown key or a value of the wrong type.
    """
    if not arguments[0].tokens:
        return  # cyclopts reports it
    path = Path(arguments[0].tokens[0].value)
    first = next(i for i, argument in enumerate(arguments) if argument.name == "*")
    settings = ArgumentCollection(arguments[first:])  # type: ignore[no-untyped-call]
    from_file = cyclopts.config.Dict(read_recipe(path), source=str(path), use_commands_as_keys=False)
    try:
        from_file(cyclopts.App(), (), settings)
        for argument in settings:
            if argument.tokens and argument.tokens[0].source == str(path):
                argument.convert()  # so that it is the file's error, in one line, and not one of usage
    except cyclopts.CycloptsError as error:
        raise RecipeError(_one_line(error)) from None


def load_recipe(path: Path, flags: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a YAML file, changed by command-line flags such as ``--optim.lr 2e-4``.

    Raises:
        RecipeError: the file is missing or not YAML, or has an unknown key, flag, or a value of the wrong
            type.
    """
    app = cyclopts.App(config=with_recipe_file, help_flags=[], version_flags=[], result_action="return_value")

    @app.default
    def build(path: Path, /, *, recipe: RecipeFlags = None) -> Recipe:  # noqa: ARG001
        return recipe or Recipe()

    try:
        recipe = app([str(path), *flags], exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        raise RecipeError(_one_line(error)) from None
    assert isinstance(recipe, Recipe)
    return recipe


def _one_line(error: cyclopts.CycloptsError) -> str:
    return f"{' '.join(str(error).split()).removeprefix(f'{type(error).__name__} '):.500}"


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the keys of settings that decide the result and differ between two recipes as dictionaries.

    Paths of files and folders, the number of workers and determinism do not decide it.
    """
    free = {"data.root", "data.also", "data.images", "data.scheme", "pseudo.labels", "workers"}
    free |= {"initial.folder", "initial.checkpoint", "deterministic"}
    # A setting that was added after a training has its default value in it.
    default = dict(_flatten(Recipe().to_dict()))
    flat = [default | dict(_flatten(recipe)) for recipe in (before, now)]
    keys = sorted((flat[0].keys() | flat[1].keys()) - free)
    return [key for key in keys if flat[0].get(key) != flat[1].get(key)]


def cannot_resume(run: Path, changed: Sequence[str], finished: bool) -> str:
    """Return why the training in a run folder is not resumed with another recipe, and what to do instead."""
    message = f"{run} was trained with another recipe; it differs in {', '.join(changed)}"
    if not finished:
        return message
    weights = run / "best.safetensors"
    weights = weights if weights.exists() else run / "last.safetensors"
    return (
        f"{message}. That training is finished: train on from its weights with "
        f"--initial.checkpoint {weights}, without --resume, in another folder"
    )


def _flatten(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
