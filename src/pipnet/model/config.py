"""The network's configuration. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pipnet.errors import RecipeError
from pipnet.field_checks import Range, check_fields

Task = Literal["full", "half", "quarter"]
"""Training task of a face: ``full`` trains all maps; ``half`` and ``quarter`` train the scores alone, on a
grid with half or a quarter of the cells a side. On an 8 x 8 grid these are the papers' strides 32, 64 and
128."""
TASKS: tuple[Task, ...] = get_args(Task)
"""The number of a task in a batch is its index here."""
PseudoTask = Literal["full", "half", "quarter", "by_agreement"]
"""Training task of pseudo-labeled faces: the same one for all of them, or ``by_agreement``, one for each
landmark of each face, by the standard deviation of its predictions."""
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
    late_activation: bool = False
    """MobileNetV3: activation after the squeeze-and-excite, not before it, as in the authors' network."""
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
    """Weight of the score loss, a mean over all cells; the papers' for the grid and the loss if None."""
    reduction: Reduction = "none"
    """Reduction of the pip head: ``coordinates`` (one cell, no scores), ``heatmap`` (no offsets)."""
    curriculum: Literal["none", "published", "equal"] = "none"
    """Train the pip head's score maps on coarser grids too, as self-training's curriculum needs (IJCV 2021),
    with this weighting of faces by their tasks; see `pipnet.model.heads.curriculum`."""

    def __post_init__(self) -> None:
        check_fields(self, RecipeError, "model.")


@dataclass(frozen=True)
class FaceDetectorConfig:
    """Size of the face detector, see `pipnet.model.face_detector`."""

    stem: int = 32
    """Channels at stride 4."""
    widths: tuple[int, int, int] = (64, 128, 128)
    """Channels at strides 8, 16 and 32."""
    depths: tuple[int, int, int] = (3, 4, 4)
    """Blocks at strides 8, 16 and 32."""
