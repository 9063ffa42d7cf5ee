"""``pipnet self-train``: train on labeled and unlabeled faces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cyclopts

from pipnet.cli import say, training_imports
from pipnet.cli.options import OptionalData, OptionalOutput, RecipeFile, RoundSteps
from pipnet.cli.train import with_data
from pipnet.training.recipe import Recipe, RecipeFlags, with_recipe_file

app = cyclopts.App(name="self-train", config=with_recipe_file)


@app.default
def self_train(
    recipe_file: RecipeFile,  # noqa: ARG001  (read by with_recipe_file)
    /,
    *,
    data: OptionalData = None,
    unlabeled: list[Path] | None = None,
    run: OptionalOutput = None,
    max_steps: RoundSteps = None,
    recipe: RecipeFlags = None,
) -> None:
    """Train in rounds on labeled and pseudo-labeled faces; a rerun continues an interrupted training.

    Flags such as --self-training.tta translation change the settings of the recipe.

    Parameters
    ----------
    recipe_file
        A YAML file with a self_training section; see recipes/stc_300w_wider.yaml.
    unlabeled
        Unlabeled images: a folder, a boxes.csv, a .txt list, or a video, of which one frame a second is
        taken; may be given several times.
    run
        Folder for the rounds; runs/NAME if not given.
    """
    with training_imports():
        from pipnet.training.self_training import self_train as train_rounds
    recipe = with_data(recipe or Recipe(), data)
    if unlabeled:
        config = replace(recipe.self_training, unlabeled=tuple(unlabeled))
        recipe = replace(recipe, self_training=config)
    weights = train_rounds(recipe, run or Path("runs") / recipe.name, max_steps)
    say(f"{weights}", f"export it: pipnet export {weights}")
