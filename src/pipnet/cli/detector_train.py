"""``pipnet detector train``: train the face detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts

from pipnet.cli import say, training_imports
from pipnet.cli.options import OptionalOutput, RecipeFile
from pipnet.training.face_detector.recipe import FaceDetectorRecipe
from pipnet.training.recipe import with_recipe_file

app = cyclopts.App(name="train", config=with_recipe_file)
_Flags = Annotated[
    FaceDetectorRecipe | None, cyclopts.Parameter(name="*", negative=None, negative_iterable=())
]


@app.default
def train(
    recipe_file: RecipeFile,  # noqa: ARG001 (read by with_recipe_file)
    /,
    *,
    run: OptionalOutput = None,
    resume: bool = False,
    recipe: _Flags = None,
) -> None:
    """Train a face detector by a recipe and export it; flags such as --optim.lr 1e-3 change its settings.

    Parameters
    ----------
    recipe_file
        A YAML file, such as recipes/face_detector.yaml.
    run
        Folder for weights and metrics; runs/NAME if not given.
    resume
        Continue a training that was stopped or killed.
    """
    with training_imports():
        from pipnet.export.face_detector import export_face_detector
        from pipnet.training.face_detector.train import train_face_detector
    recipe = recipe or FaceDetectorRecipe()
    folder = run or Path("runs") / recipe.name
    weights = train_face_detector(recipe, folder, resume)
    exported = folder / f"{recipe.name}.onnx"
    export_face_detector(weights, exported)
    say(f"{exported}", f"use it: pipnet detect IMAGE --detector pipnet-face:{exported}")
