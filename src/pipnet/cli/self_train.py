"""``pipnet self-train``: train on labeled and unlabeled faces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from pipnet.cli import cannot_import, say
from pipnet.cli.train import with_data
from pipnet.training.recipe import Recipe, RecipeFlags, with_recipe_file

app = cyclopts.App(name="self-train", config=with_recipe_file)


@app.default
def self_train(
    recipe: Path,  # noqa: ARG001  (read by with_recipe_file)
    /,
    *,
    data: Path | None = None,
    unlabeled: list[Path] | None = None,
    run: Annotated[Path | None, Parameter(alias="-o")] = None,
    max_steps: int | None = None,
    settings: RecipeFlags = None,
) -> None:
    """Train in rounds on labeled and pseudo-labeled faces; a rerun continues an interrupted training.

    Flags such as --self-training.tta translation change the settings of the recipe.

    Parameters
    ----------
    recipe
        A YAML file with a self_training section; see recipes/stc_300w_wider.yaml.
    data
        The labeled faces: a dataset, or your own annotations.
    unlabeled
        Unlabeled images: a folder, a boxes.csv, a .txt list, or a video, of which one frame a second is
        taken; may be given several times.
    run
        Folder for the rounds; runs/NAME if not given.
    max_steps
        Stop each round after this many steps, to try things out.
    """
    try:
        from pipnet.training.self_training import self_train as train_rounds
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    loaded = with_data(settings or Recipe(), data)
    if unlabeled:
        config = replace(loaded.self_training, unlabeled=tuple(unlabeled))
        loaded = replace(loaded, self_training=config)
    weights = train_rounds(loaded, run or Path("runs") / loaded.name, max_steps)
    say(f"{weights}\nexport it: pipnet export {weights}")
