"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import re

from pipnet.cli import COMMANDS, _build


def command_reference() -> str:
    """Return a Markdown section for each command: usage, help, arguments and flags."""
    return "\n\n".join(describe_command(name) for name, *_ in COMMANDS)


def describe_command(name: str) -> str:
    """Return the section of a command."""
    root = _build(name.split())
    app = root
    for word in name.split():
        app = app[word]
    app.default_parameter = root.default_parameter  # which only a run inherits
    text = app.generate_docs(usage_name=f"pipnet {name}", heading_level=2)
    body = text.split("\n", 1)[1].replace("```console", "```text", 1)
    joined = re.sub(r"\n {4,}(?=\S)", " ", body)  # wrapped help of a flag
    return f"## pipnet {name}\n\n{joined.strip()}"
