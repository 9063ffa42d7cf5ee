"""Recipes and run folders of format 1: rename what changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipnet.errors import MissingExtraError, RecipeError
from pipnet.io.atomic import atomic_write, write_text
from pipnet.io.regular_file import read_file, typed_errors
from pipnet.io.yaml_file import MAX_CHARACTERS, check_yaml
from pipnet.training.recipe_file import RENAMED_IN_FORMAT_2, RENAMED_VALUES_IN_FORMAT_2


def migrate_recipe(path: Path) -> int:
    """Rename the keys and values of format 1 in a recipe file, in place; comments and layout stay.

    Returns:
        How many were renamed.

    Raises:
        RecipeError: it cannot be read, or is not YAML.
        WriteError: it cannot be written.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", "train") from None
    with typed_errors(RecipeError, f"{path}: not a recipe"):
        text = read_file(path, 4 * MAX_CHARACTERS).decode("utf-8")
        check_yaml(text)
        root = yaml.compose(text, yaml.SafeLoader)
    edits: list[tuple[int, int, str]] = []
    for group, table in root.value if isinstance(root, yaml.MappingNode) else ():
        for key, value in table.value if isinstance(table, yaml.MappingNode) else ():
            old = f"{group.value}.{key.value}"
            new = RENAMED_IN_FORMAT_2.get(old, old)
            if new != old:
                edits.append((key.start_mark.index, key.end_mark.index, new.split(".")[1]))
            renamed = RENAMED_VALUES_IN_FORMAT_2.get(new, {}).get(str(value.value))
            if isinstance(value, yaml.ScalarNode) and renamed is not None:
                edits.append((value.start_mark.index, value.end_mark.index, renamed))
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    if edits:
        write_text(path, text)
    return len(edits)


def migrate_run(folder: Path) -> int:
    """Rename the keys of format 1 in a run folder, so that ``--resume`` goes on with it.

    Returns:
        How many were renamed.

    Raises:
        RecipeError: its recipe or state cannot be read.
        WriteError: a file cannot be written.
    """
    import torch

    from pipnet.training.recipe import FORMAT
    from pipnet.training.state import STATE

    count = migrate_recipe(folder / "recipe.yaml")
    path = folder / STATE
    if not path.is_file():
        return count
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        recipe: dict[str, dict[str, Any]] = json.loads(state["recipe"])
    except Exception as error:  # torch raises pickle, zip, runtime and key errors alike
        raise RecipeError(f"{path}: not a training's state: {' '.join(str(error).split()):.160}") from None
    for old, new in RENAMED_IN_FORMAT_2.items():
        group, key = old.split(".")
        if key in recipe.get(group, {}):
            recipe[group][new.split(".")[1]] = recipe[group].pop(key)
            count += 1
    for name, values in RENAMED_VALUES_IN_FORMAT_2.items():
        group, key = name.split(".")
        value = recipe.get(group, {}).get(key)
        if value in values:
            recipe[group][key] = values[value]
            count += 1
    state["recipe"] = json.dumps(recipe | {"format": FORMAT})
    with atomic_write(path) as partial:
        torch.save(state, partial)
    return count
