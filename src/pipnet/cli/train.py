"""``pipnet train``: train a model by a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cyclopts

from pipnet.cli import say, training_imports
from pipnet.cli.options import OptionalData, OptionalOutput, RecipeFile
from pipnet.training.recipe import Recipe, RecipeFlags, SelfTrainingConfig, with_recipe_file

app = cyclopts.App(name="train", config=with_recipe_file)


@app.default
def train(
    recipe_file: RecipeFile,
    /,
    *,
    data: OptionalData = None,
    run: OptionalOutput = None,
    resume: bool = False,
    max_steps: int | None = None,
    recipe: RecipeFlags = None,
) -> None:
    """Train a model by a recipe; flags such as --optim.lr 2e-4 change its settings.

    Several processes train together: torchrun --nproc-per-node 2 -m pipnet train ...

    Parameters
    ----------
    recipe_file
        A YAML file; see recipes/. It may inherit from another one: base: NAME.yaml
    run
        Folder for weights, metrics and curves; runs/NAME if not given.
    resume
        Continue a training that was stopped or killed.
    max_steps
        Stop after this many steps, to try things out.
    """
    with training_imports():
        from pipnet.model.distributed import is_rank_zero
        from pipnet.training.trainer import train as fit
    recipe = with_data(recipe or Recipe(), data)
    if recipe.self_training != SelfTrainingConfig() and recipe.pseudo.labels is None and is_rank_zero():
        say(f"{recipe_file}: trains on labels alone; its self_training rounds are for pipnet self-train")
    weights = fit(recipe, run or Path("runs") / recipe.name, resume, max_steps)
    if is_rank_zero():
        say(f"{weights}", f"export it: pipnet export {weights}")


def with_data(recipe: Recipe, data: Path | None) -> Recipe:
    """Return the recipe with the dataset of ``--data``."""
    return recipe if data is None else replace(recipe, data=replace(recipe.data, root=data))
