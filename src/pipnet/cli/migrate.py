"""``pipnet migrate``: convert files of earlier formats."""

from __future__ import annotations

from pathlib import Path

from pipnet.cli import say, training_imports
from pipnet.errors import PipnetError


def migrate(*paths: Path) -> None:
    """Convert recipes, run folders and bulk jobs of earlier formats, in place.

    Models, checkpoints and pseudo-label tables of earlier formats load as they are.

    Parameters
    ----------
    paths
        Recipes (.yaml), folders of trainings, and folders of pipnet annotate.
    """
    for path in paths:
        if (path / "manifest.json").is_file():
            from pipnet.bulk.migrate import migrate_job

            migrate_job(path)
            say(f"{path}: converted")
        elif path.suffix in (".yaml", ".yml") or (path / "recipe.yaml").is_file():
            with training_imports():
                from pipnet.training.migrate import migrate_recipe, migrate_run
            count = migrate_run(path) if path.is_dir() else migrate_recipe(path)
            say(f"{path}: {count} names converted")
        else:
            raise PipnetError(f"{path}: not a recipe, the folder of a training, or of pipnet annotate")
