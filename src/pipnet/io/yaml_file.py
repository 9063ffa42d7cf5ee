"""YAML from files of unknown origin: size, depth, aliases and keys are bounded before values are made."""

from __future__ import annotations

from typing import Any

from pipnet.errors import MissingExtraError

MAX_CHARACTERS = 200_000
"""Maximum length of a file. PyYAML reads about 100,000 characters a second."""
_MAX_DEPTH = 20
_MAX_NODES = 50_000
"""Maximum number of values, keys included, with each alias counted as what it stands for."""


def load_yaml(text: str, extra: str) -> Any:
    """Return the content of a YAML text, whose keys must be different.

    Args:
        text: the YAML.
        extra: the extra of pipnet to install if PyYAML is missing.

    Raises:
        ValueError: too long, not YAML, nested too deeply, or too many values; the message is one line.
        MissingExtraError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", extra) from None

    class Loader(yaml.SafeLoader):
        """YAML in which a repeated key is an error, because it is unclear which value is meant."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys: set[Any] = set()
            for key, _ in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else id(key)
                if name in keys:
                    problem = f"{name!r:.40} is repeated"
                    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
                keys.add(name)
            return super().construct_mapping(node, deep)

    try:
        check_yaml(text)
        return yaml.load(text, Loader)  # noqa: S506  (a safe loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None


def check_yaml(text: str) -> None:
    """Refuse a YAML text that is too long, too deep, or has too many values.

    Raises:
        ValueError: see above.
        yaml.YAMLError: not YAML.
    """
    import yaml

    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text):,} characters, more than the limit of {MAX_CHARACTERS:,}")
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the number of values before it
    count = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            count += sizes.get(event.anchor or "", _MAX_NODES)  # an alias within its own anchor has no end
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = count - before
        if len(open_nodes) > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
        if count >= _MAX_NODES:
            raise ValueError(f"more than {_MAX_NODES:,} values, or an alias inside of what it stands for")
