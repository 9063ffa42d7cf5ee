"""The HTML of the gallery's pages: one template, filled with tiles that sort and filter in the browser."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pipnet.errors import printable
from pipnet.scheme import LandmarkScheme

_NAME_END = 18
"""Characters at the end of a name that the smallest tile shows."""


class Sort(NamedTuple):
    """An order that the page offers, by the attribute ``data-KEY`` of the tiles."""

    key: str
    title: str
    largest_first: bool = False


@dataclass(frozen=True)
class PageContent:
    """What a page shows."""

    title: str
    facts: Sequence[str]
    """Sentences below the title."""
    sorts: Sequence[Sort]
    layers: Mapping[str, str]
    """Titles of the drawn layers, which can be hidden, and the class of each."""
    tiles: Sequence[str]
    """The tiles as HTML."""
    is_self_contained: bool = False
    """Whether all images are in the page, which then may load nothing at all."""
    has_quality_filter: bool = False
    """Whether tiles can be filtered by the attribute ``data-quality``."""


def render_page(content: PageContent) -> str:
    """Return a page as HTML."""
    template = Template((resources.files(__package__) / "page.html").read_text(encoding="utf-8"))
    sorts = [
        f'<option value="{sort.key}" data-largest="{int(sort.largest_first)}">{escape(sort.title)}</option>'
        for sort in content.sorts
    ]
    toggles = [
        f'<label class="{layer}"><input type="checkbox" data-layer="{layer}" checked> {title}</label>'
        for title, layer in content.layers.items()
    ]
    page = template.substitute(
        policy="$policy",
        title=escape(printable(content.title)),
        facts=" ".join(f"<span>{escape(printable(fact))}</span>" for fact in content.facts),
        sorts="\n".join(sorts),
        filters=_QUALITY_FILTER if content.has_quality_filter else "",
        toggles="\n".join(toggles),
        tiles="\n".join(content.tiles),
    )
    return page.replace("$policy", _policy(page) if content.is_self_contained else "", 1)


_QUALITY_FILTER = """<label>quality at most
<input type="number" id="quality" min="0" max="1" step="0.05" placeholder="1"></label>"""


def _policy(page: str) -> str:
    """Return the element by which browsers load nothing, and run only the script and style of the page."""
    sources = []
    for kind in ("script", "style"):
        text = re.search(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        assert text is not None
        digest = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        sources.append(f"{kind}-src 'sha256-{digest}'")
    policy = f"default-src 'none'; img-src data:; {'; '.join(sources)}; base-uri 'none'; form-action 'none'"
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">'


def caption(name: str) -> str:
    """Return a name as HTML, escaped, in two parts: a small tile cuts the first one, and shows the end."""
    name = printable(name)
    start, end = escape(name[:-_NAME_END]), escape(name[-_NAME_END:])
    parts = f'<span class="start">{start}</span><span class="end">{end}</span>'
    return f'<span class="name" title="{escape(name)}">{parts}</span>'


def layer(name: str, places: Float[np.ndarray, "landmarks 2"], scheme: LandmarkScheme) -> str:
    """Return edges and points as two SVG paths. A line of length 0 with round ends is a dot.

    Args:
        name: class of the layer.
        places: of the landmarks in the drawing; NaN for unknown ones.
        scheme: the scheme of the landmarks.
    """
    known = np.isfinite(places).all(axis=1)
    x, y = np.where(known[:, None], places, 0).round().astype(int).T.tolist()
    lines = []
    for chain in scheme.edges:
        command = "M"
        for i in chain:
            if known[i]:
                lines.append(f"{command}{x[i]} {y[i]}")
            command = "L" if known[i] else "M"
    dots = [f"M{x[i]} {y[i]}h0" for i in np.flatnonzero(known)]
    return f'<g class="{name}"><path d="{"".join(lines)}"/><path class="dots" d="{"".join(dots)}"/></g>'
