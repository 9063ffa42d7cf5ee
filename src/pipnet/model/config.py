"""The network's configuration, and the ranges that configurations declare for their fields. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from pipnet.errors import RecipeError

Task = Literal["full", "half", "quarter"]
"""Training task of a face: ``full`` trains all maps; ``half`` and ``quarter`` train the scores alone, on a
grid with half or a quarter of the cells a side. On an 8 x 8 grid these are the papers' strides 32, 64 and
128."""
TASKS: tuple[Task, ...] = get_args(Task)
"""The number of a task in a batch is its index here."""
Weighting = Literal["published", "equal"]
"""Weights of faces with different tasks in the score loss. ``published``: the errors of all cells are summed
and divided by the number of cells, so that a full face weighs as much as 4 half or 16 quarter ones.
``equal``: each face counts by the mean over the cells of its own grid."""
Merge = Literal["mean", "official"]
"""How the votes of neighbors are merged, see `pipnet.model.neighbors.merge_matrix`."""
Reduction = Literal["none", "coordinates", "heatmap"]
"""Reductions of the PIP head (arXiv v1, 2020, section 3.1): one cell without scores is coordinate regression,
cells without offsets are a heat map."""
ScoreLoss = Literal["l2", "l1", "focal"]
"""``focal`` is CornerNet's (alpha 2, beta 4) on the sigmoid of the map; scores are then sigmoids too."""
OffsetLoss = Literal["l1", "l2"]
"""On the offsets of a landmark and of its neighbors alike."""


@dataclass(frozen=True)
class Range:
    """The range of a number, written beside its field: ``Annotated[float, Range(0, 1)]``."""

    minimum: float
    maximum: float = float("inf")
    above: bool = False
    """Whether the minimum itself is out of range."""

    def check(self, key: str, value: float) -> None:
        """Refuse a number out of range, or NaN."""
        if self.minimum <= value <= self.maximum and not (self.above and value == self.minimum):
            return
        bounds = [f"{'above' if self.above else 'at least'} {self.minimum:g}"]
        if self.maximum < float("inf"):
            bounds.append(f"at most {self.maximum:g}")
        raise RecipeError(f"{key} must be {' and '.join(bounds)}, not {value}")


def check_fields(config: object, prefix: str = "") -> None:
    """Refuse a value outside of the range or the choices of its field, in nested configurations too.

    Args:
        config: a dataclass.
        prefix: of the fields' names in messages, such as ``"model."``.

    Raises:
        RecipeError: a value is out of range, not among the choices, or not a whole number.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value, key = getattr(config, name), prefix + name
        if is_dataclass(value):
            check_fields(value, f"{key}.")
            continue
        for limit in getattr(hint, "__metadata__", ()):
            if isinstance(limit, Range) and value is not None:
                limit.check(key, value)
        kind = hint.__origin__ if get_origin(hint) is Annotated else hint
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise RecipeError(f"{key} is one of {', '.join(map(str, get_args(kind)))}, not {value!r:.80}")
        if kind is int and type(value) is not int:
            raise RecipeError(f"{key} is a whole number, not {value!r:.80}")


@dataclass(frozen=True)
class ModelConfig:
    """Backbone, neck and head of the network."""

    backbone: str = "mobilenetv2_100"
    """A timm network."""
    input_size: int = 256
    """Side of the crop in pixels; divisible by the stride."""
    stride: int = 32
    """Side of the head's cells in pixels: 16, 32, 64, 128 for pip; 32 for coord; 4, 2, 1 for map."""
    backbone_stride: Literal[32, 16, 8] = 32
    """Stride of the backbone's features; below 32 its last stages are dilated instead of strided."""
    last_width: int | None = None
    """Channels of the backbone's last layer, where that is a 1 x 1 convolution as wide as ImageNet's thousand
    classes need (MobileNetV2, EfficientNet: 1280); the network's default if None. See
    `pipnet.training.prune`."""
    head: Literal["pip", "coord", "map"] = "pip"
    """Representation of the landmarks: Pixel-in-Pixel, coordinates, or heat maps."""
    neck_width: Annotated[int, Range(1, 65536)] = 512
    """Channels of the convolutions that lead to a stride other than 32."""
    neighbors: int = 10
    """C, the number of neighbors that each landmark votes for; 0 to L - 1."""
    merge: Merge = "mean"
    """How votes are merged: ``mean``, or ``official`` for the authors' weights."""
    score_loss: ScoreLoss = "l2"
    """Loss of the score maps."""
    offset_loss: OffsetLoss = "l1"
    """Loss of the offsets."""
    score_weight: Annotated[float | None, Range(0, 1e6)] = None
    """Weight of the score loss; the papers' for the grid if None."""
    reduction: Reduction = "none"
    """Reduction of the pip head: ``coordinates`` (one cell, no scores), ``heatmap`` (no offsets)."""
    curriculum: Literal["none", "published", "equal"] = "none"
    """Train the pip head's score maps on coarser grids too, as self-training's curriculum needs (IJCV 2021),
    with this weighting of faces by their tasks; see `pipnet.model.heads.curriculum`."""

    def __post_init__(self) -> None:
        check_fields(self, "model.")
