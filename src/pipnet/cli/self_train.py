"""``pipnet self-train``: a better model from faces that nobody labeled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipnet.cli import cannot_import, say


def self_train(
    recipe: Path,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    data: Path | None = None,
    unlabeled: list[Path] | None = None,
    run: Annotated[Path | None, Parameter(alias="-o")] = None,
    max_steps: int | None = None,
) -> None:
    """Train in rounds on labeled and pseudo-labeled faces; run again, it goes on where it stopped.

    Any setting of the recipe can be changed, as in --self-training.tta translation.

    Parameters
    ----------
    recipe
        A YAML file with a self_training section; see recipes/stc_300w_wider.yaml.
    data
        The labeled faces: a collection, or your own annotations.
    unlabeled
        Pictures that nobody labeled: a folder, a boxes.csv, a .txt list, or a video, of which a frame a
        second is taken; may be given several times.
    run
        Folder for the rounds; runs/NAME if not given.
    max_steps
        Stop each round after this many steps, to try things out.
    """
    try:
        from pipnet.training.recipe import load_recipe
        from pipnet.training.self_training import self_train as rounds
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    flags = [*(["--data.root", str(data)] if data else []), *settings]
    for path in unlabeled or []:
        flags += ["--self-training.unlabeled", str(path)]
    loaded = load_recipe(recipe, flags)
    weights = rounds(loaded, run or Path("runs") / loaded.name, max_steps)
    say(f"{weights}\nmake it runnable: pipnet export {weights}")
