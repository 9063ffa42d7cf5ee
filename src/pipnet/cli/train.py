"""``pipnet train``: from a recipe to weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipnet.cli import cannot_import, say


def train(
    recipe: Path,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    data: Path | None = None,
    run: Annotated[Path | None, Parameter(alias="-o")] = None,
    resume: bool = False,
    max_steps: int | None = None,
) -> None:
    """Train a model as a recipe says; any setting of the recipe can be changed, as in --optim.lr 2e-4.

    Several processes train together: torchrun --nproc-per-node 2 -m pipnet train ...

    Parameters
    ----------
    recipe
        A YAML file; see recipes/.
    data
        A collection in its official layout or prepared, or your own annotations (a folder or file).
    run
        Folder for weights, metrics and curves; runs/NAME if not given.
    resume
        Go on with a training that was stopped or killed.
    max_steps
        Stop after this many steps, to try things out.
    """
    try:
        from pipnet.model.distributed import is_main
        from pipnet.training.recipe import SelfTrainingConfig, load_recipe
        from pipnet.training.trainer import train as fit
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    flags = [*(["--data.root", str(data)] if data else []), *settings]
    loaded = load_recipe(recipe, flags)
    if loaded.self_training != SelfTrainingConfig() and loaded.pseudo.labels is None and is_main():
        say(f"{recipe}: its rounds of self-training are for pipnet self-train; this is one of labels alone")
    weights = fit(loaded, run or Path("runs") / loaded.name, resume, max_steps)
    if is_main():
        say(f"{weights}\nmake it runnable: pipnet export {weights}")
