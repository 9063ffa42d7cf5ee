"""Flags that several commands share: the types and defaults of their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipnet.config import LandmarkerConfig, RuntimeConfig

Images = Annotated[str, Parameter(required=True)]
"""The type of ``*images``: positional arguments, before, between and after flags."""
Output = Annotated[Path, Parameter(alias="-o")]
OptionalOutput = Annotated[Path | None, Parameter(alias="-o")]

LandmarkerFlags = Annotated[LandmarkerConfig, Parameter(name="*")]
RuntimeFlags = Annotated[RuntimeConfig, Parameter(name="*")]
DEFAULT_LANDMARKER, DEFAULT_RUNTIME = LandmarkerConfig(), RuntimeConfig()

_data = Parameter(
    help="The labeled faces: a dataset as published or prepared, or your own annotations (a folder or file)."
)
Data = Annotated[Path, _data]
OptionalData = Annotated[Path | None, _data]
ImagesFolder = Annotated[
    Path | None,
    Parameter(help="Folder of the images of your own annotations, if they are not beside them."),
]
TrainingSubset = Annotated[
    str | None,
    Parameter(help="Subset of the dataset; the training subset, or all faces, if not given."),
]
TestSubset = Annotated[
    str | None,
    Parameter(help="Subset of the dataset; the test subset, or all faces, if not given."),
]
Scheme = Annotated[
    str | None,
    Parameter(
        help="Landmark scheme of your own annotations: 300w, wflw, ... or FILE.toml. For a dataset: convert"
        " the points to this scheme."
    ),
]

RecipeFile = Annotated[Path, Parameter(name="RECIPE")]
RoundSteps = Annotated[int | None, Parameter(help="Stop each round after this many steps, for trial runs.")]
