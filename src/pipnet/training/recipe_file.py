"""Recipe files: YAML that may inherit from another file, and the keys that format 1 had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipnet.errors import RecipeError
from pipnet.io.regular_file import read_file, typed_errors
from pipnet.io.yaml_file import MAX_CHARACTERS, load_yaml

BASE = "base"
"""The key of the file that a recipe inherits from."""
_MAX_NAME = 255
"""Maximum length of its name."""
RENAMED_IN_FORMAT_2 = {
    "pseudo.least_score": "pseudo.min_score",
    "pseudo.most_spread": "pseudo.max_std",
    "pseudo.weigh": "pseudo.weight_by_score",
    "self_training.unlabelled": "self_training.unlabeled",
    "self_training.views": "self_training.tta",
    "self_training.box_kind": "self_training.box_format",
    "augment.grey": "augment.grayscale",
    "augment.light": "augment.color_jitter",
    "augment.coarse": "augment.downscale",
    "augment.coarse_by": "augment.downscale_by",
    "augment.black": "augment.blank",
}
"""Keys of format 1 (until version 0.1) and their names since."""
RENAMED_VALUES_IN_FORMAT_2 = {
    "crop.box": {"given": "dataset"},
    "self_training.box_format": {"rough": "region", "whole": "full_image"},
}
"""Values of format 1 and their names since, by the key's name in format 2."""


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the content of a recipe file, merged over that of the file that it inherits from.

    Tables are merged key by key; any other value, also a list, replaces the inherited one.

    Raises:
        RecipeError: a file is missing, not YAML, or of format 1; a key is not a word or is repeated; or
            files inherit from each other in a circle.
        MissingExtraError: PyYAML is not installed.
    """
    return _read(path, [])


def _read(path: Path, heirs: list[Path]) -> dict[str, Any]:
    chain = [*heirs, path]
    if path.resolve() in [heir.resolve() for heir in heirs]:
        raise RecipeError(f"recipes inherit in a circle: {' -> '.join(map(str, chain))}")
    table = _parse(path)
    _refuse_format_1(path, table)
    if BASE not in table:
        return table
    base = table.pop(BASE)
    if not isinstance(base, str):
        raise RecipeError(f"{path}: {BASE} is the name of a recipe file, not {base!r:.80}")
    if len(base) > _MAX_NAME:
        raise RecipeError(f"{path}: {BASE} is the name of a recipe file, not {base!r:.80}...")
    return _merge(_read(path.parent / base, chain), table)


def _parse(path: Path) -> dict[str, Any]:
    """Return the content of one file."""
    with typed_errors(RecipeError, f"{path}: recipe cannot be read"):
        text = read_file(path, 4 * MAX_CHARACTERS).decode("utf-8")
    with typed_errors(RecipeError, str(path)):
        content = load_yaml(text, "train") or {}
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a table of keys, not a {type(content).__name__}")
    for table in (content, *content.values()):
        for key in table if isinstance(table, dict) else ():
            if not isinstance(key, str):
                raise RecipeError(f"{path}: a key must be a word, not {key!r:.40}")
    return content


def _refuse_format_1(path: Path, table: dict[str, Any]) -> None:
    for key in format_1_keys(table):
        raise RecipeError(f"{path}: {key} is of an earlier format, convert it: pipnet migrate {path}")


def format_1_keys(table: dict[str, Any]) -> Iterator[str]:
    """Yield the keys of a recipe's content that are only in format 1, and those with a value of format 1."""
    for group, keys in table.items():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            name = f"{group}.{key}"
            renamed = RENAMED_VALUES_IN_FORMAT_2.get(name, {})
            if name in RENAMED_IN_FORMAT_2 or (isinstance(value, str) and value in renamed):
                yield name


def _merge(base: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    merged = {**base, **table}
    for key in base.keys() & table.keys():
        if isinstance(base[key], dict) and isinstance(table[key], dict):
            merged[key] = _merge(base[key], table[key])
    return merged
