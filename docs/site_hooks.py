"""Hooks of mkdocs: pages of the site that have their source elsewhere in the repository.

* A file outside of ``docs/`` that a page links to becomes a page of the site: Markdown as it is, any other
  text as a listing, and a folder as the list of its files. Links work in both.
* ``<!-- include: ../README.md#results -->`` is replaced by the part of that file between ``<!-- results -->``
  and ``<!-- /results -->``, or below its heading "Results"; without ``#`` by the whole file. So numbers are
  written once.
* ``<!-- commands -->`` is replaced by the reference of the command line.
* Parts between ``<!-- repository -->`` and ``<!-- /repository -->`` are for readers of the repository.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command_reference import command_reference
from markdown.extensions.toc import slugify
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
ROOT = DOCS.parent
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
_FENCE = re.compile(r"(^(`{3,})[^\n]*\n.*?^\2`*$)", re.DOTALL | re.MULTILINE)
_INCLUDE = re.compile(r"^<!-- include: ([^\s#]+)(?:#([\w-]+))? -->$", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_REPOSITORY = re.compile(r"<!-- repository -->.*?<!-- /repository -->\n*", re.DOTALL)
_COMMANDS = "<!-- commands -->"
_AS_THEY_ARE = (".md", ".png", ".jpg", ".webp", ".svg")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json"}


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside of ``docs/`` that pages link to, and those that these link to."""
    pages = [DOCS / file.src_uri for file in files.documentation_pages()]
    while pages:
        page = pages.pop()
        for path in linked_files(expand(page.read_text(encoding="utf-8"), page), page):
            if files.get_file_from_path(site_uri(path)) is None:
                files.append(site_file(path, config))
                if path.suffix == ".md":
                    pages.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Insert what a page includes, and direct its links to pages of the site."""
    if page.file.abs_src_path is None:
        return markdown
    path = Path(page.file.abs_src_path)
    text = replace_links(expand(markdown, path), lambda target: site_link(target, path))
    return text.replace(_COMMANDS, command_reference()) if _COMMANDS in text else text


def on_page_content(html: str, **_: Any) -> str:
    """Show the literal blocks of docstrings as what they are."""
    return html.replace("<p>Example::</p>", "<p>Example:</p>")


def expand(markdown: str, page: Path) -> str:
    """Return the text of a page with all that it includes."""

    def included(match: re.Match[str]) -> str:
        source = page.parent / match[1]
        text = source.read_text(encoding="utf-8")
        text = part(text, match[2]) if match[2] else text
        return replace_links(text, lambda link: os.path.relpath(source.parent / link, page.parent))

    return _INCLUDE.sub(included, _REPOSITORY.sub("", markdown))


def part(text: str, name: str) -> str:
    """Return the part of a text between two comments, or below a heading.

    Raises:
        PluginError: it has neither.
    """
    between = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    if between:
        return between[1].strip()
    headings = [*_HEADING.finditer(text)]
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=True):
        if slugify(heading[1], "-") == name:
            return text[heading.end() : end].strip()
    raise PluginError(f"no part {name} to include, neither comments nor a heading")


def replace_links(markdown: str, new: Callable[[str], str]) -> str:
    """Return a text with its relative links replaced, except for those in code blocks."""
    parts = _FENCE.split(markdown)  # text, block, the block's backticks, text, ...
    texts = [_LINK.sub(lambda match: new(match[1]), text) for text in parts[::3]]
    blocks = [*parts[1::3], ""]
    return "".join(part for pair in zip(texts, blocks, strict=True) for part in pair)


def linked_files(markdown: str, page: Path) -> list[Path]:
    """Return the files outside of ``docs/`` that a text of a page links to."""
    paths: list[Path] = []

    def note(target: str) -> str:
        path = Path(os.path.normpath(page.parent / target))
        if path.exists() and not path.is_relative_to(DOCS):
            paths.append(path)
        return target

    replace_links(markdown, note)
    return paths


def site_uri(path: Path) -> str:
    """Return the address of a file of the repository among the sources of the site."""
    if path == ROOT / "README.md":
        return "index.md"
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    uri = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        return f"{uri}/files.md"
    return uri if path.suffix in _AS_THEY_ARE else f"{uri}.md"


def site_link(target: str, page: Path) -> str:
    """Return a link of a page as one between sources of the site."""
    path = Path(os.path.normpath(page.parent / target))
    if not path.exists():
        return target  # mkdocs reports it
    return os.path.relpath(site_uri(path), Path(site_uri(page)).parent)


def site_file(path: Path, config: Any) -> File:
    """Return a file outside of ``docs/`` as one of the site."""
    if path.suffix in _AS_THEY_ARE:
        return File.generated(config, site_uri(path), abs_src_path=str(path))
    if path.is_dir():
        text = "\n".join(f"* `{file.name}`" for file in sorted(path.iterdir()) if file.name != "__pycache__")
    else:
        language = _LANGUAGES.get(path.suffix, "text")
        text = f"``````{language}\n{path.read_text(encoding='utf-8').rstrip()}\n``````"
    listing = f"---\nsearch:\n  exclude: true\n---\n# {path.relative_to(ROOT).as_posix()}\n\n{text}\n"
    return File.generated(config, site_uri(path), content=listing)
