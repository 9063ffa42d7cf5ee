"""The settings of a face detector's training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pipnet.errors import RecipeError
from pipnet.field_checks import Range, check_fields
from pipnet.model.config import FaceDetectorConfig
from pipnet.training.recipe import OptimConfig

_Fraction = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class SceneConfig:
    """How scenes are composed."""

    size: Annotated[int, Range(64)] = 384
    """Side of the square scene in pixels, a multiple of 32."""
    max_photos: Annotated[int, Range(1)] = 6
    """Maximum number of photos in a scene."""
    min_face: Annotated[float, Range(4)] = 9.0
    """Minimum side of a face in pixels."""
    max_face: Annotated[float, Range(4)] = 420.0
    """Maximum side of a face in pixels."""
    no_faces: _Fraction = 0.08
    """Probability of a scene without a face."""
    turned: _Fraction = 0.3
    """Probability that a photo is rotated by up to 45 degrees, instead of a few."""
    upside_down: _Fraction = 0.06
    """Probability that a photo is upside down, and its faces count as background: `any_rotation` finds them,
    and needs detectors that tell which way is up."""
    grayscale: _Fraction = 0.12
    """Probability of a grayscale scene."""
    dark: _Fraction = 0.15
    """Probability of a dark scene with noise."""
    color_jitter: _Fraction = 0.6
    """Probability of a change of brightness, contrast and color balance."""
    blur: _Fraction = 0.15
    """Probability of a blurred scene."""
    compress: _Fraction = 0.4
    """Probability of compression as JPEG."""
    cut: _Fraction = 0.3
    """Probability that a face may lie partly outside; it is ignored if less than 65 % of it is visible."""
    occlude: _Fraction = 0.25
    """Probability that a face is partly covered by a rectangle of another image."""


@dataclass(frozen=True)
class FaceDetectorRecipe:
    """The training of a face detector."""

    name: str = "pipnet-face"
    """Name of the resulting detector."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of all random numbers."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """``auto``: bf16 where the machine has instructions for it, otherwise float32."""
    workers: Annotated[int, Range(0, 1024)] = 2
    """Processes that compose scenes; 0: the training process itself."""
    photos: Path | None = None
    """The table of labeled photos, see `pipnet.training.face_detector.labels`."""
    backgrounds: tuple[Path, ...] = ()
    """Folders of images without faces; parts of them are backgrounds of scenes."""
    initial: Path | None = None
    """A checkpoint of a detector of the same size, with the initial weights; random ones if None."""
    scenes: Annotated[int, Range(1)] = 4000
    """Scenes in an epoch."""
    validation: Annotated[int, Range(0)] = 200
    """Scenes to validate on, composed of every twentieth photo, which is left out of training."""
    model: FaceDetectorConfig = field(default_factory=FaceDetectorConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)
        if self.scene.size % 32:
            raise RecipeError(f"scene.size must be a multiple of 32, not {self.scene.size}")
        if self.scene.min_face > self.scene.max_face:
            raise RecipeError("scene.min_face must not be above scene.max_face")

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as tables of plain values, as in YAML and JSON."""
        table: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return table
