"""``pipnet train``: train a model by a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from pipnet.cli import cannot_import, say
from pipnet.training.recipe import Recipe, RecipeFlags, SelfTrainingConfig, with_recipe_file

app = cyclopts.App(name="train", config=with_recipe_file)


@app.default
def train(
    recipe: Path,
    /,
    *,
    data: Path | None = None,
    run: Annotated[Path | None, Parameter(alias="-o")] = None,
    resume: bool = False,
    max_steps: int | None = None,
    settings: RecipeFlags = None,
) -> None:
    """Train a model by a recipe; flags such as --optim.lr 2e-4 change its settings.

    Several processes train together: torchrun --nproc-per-node 2 -m pipnet train ...

    Parameters
    ----------
    recipe
        A YAML file; see recipes/. It may inherit from another one: base: NAME.yaml
    data
        A dataset in its official layout or prepared, or your own annotations (a folder or file).
    run
        Folder for weights, metrics and curves; runs/NAME if not given.
    resume
        Continue a training that was stopped or killed.
    max_steps
        Stop after this many steps, to try things out.
    """
    try:
        from pipnet.model.distributed import is_rank_zero
        from pipnet.training.trainer import train as fit
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    loaded = with_data(settings or Recipe(), data)
    if loaded.self_training != SelfTrainingConfig() and loaded.pseudo.labels is None and is_rank_zero():
        say(f"{recipe}: trains on labels alone; its self_training rounds are for pipnet self-train")
    weights = fit(loaded, run or Path("runs") / loaded.name, resume, max_steps)
    if is_rank_zero():
        say(f"{weights}\nexport it: pipnet export {weights}")


def with_data(recipe: Recipe, data: Path | None) -> Recipe:
    """Return the recipe with the dataset of ``--data``."""
    return recipe if data is None else replace(recipe, data=replace(recipe.data, root=data))
