"""Draw the graph of pipnet's packages: ``docs/package_graph.svg``.

python docs/package_graph.py

An arrow means "imports"; arrows that a longer way implies are left out. Packages are in rows, so that all
arrows lead down.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import grimp

TARGET = Path(__file__).with_suffix(".svg")
COLUMN, ROW, WIDTH, HEIGHT = 132, 76, 112, 30
"""Distances of the centers of boxes, and their size, in pixels."""
TORCH = {"benchmark", "cli", "export", "model", "papers", "training"}
"""Packages that import torch, or packages that do."""
BOX, TORCH_BOX, LINE, TEXT = "#dce8f4", "#f9e0c7", "#7f8fa0", "#202830"


def main() -> None:
    """Find what imports what, refuse cycles, and draw the arrows that no longer way implies."""
    edges = package_imports()
    reachable = {package: reach(package, edges) for package in edges}
    cycles = [package for package in edges if package in reachable[package]]
    if cycles:
        raise SystemExit(f"cycles of imports: {', '.join(cycles)}")
    direct = {
        package: sorted(edges[package] - set().union(*(reachable[other] for other in edges[package])))
        for package in sorted(edges)
        if edges[package] or any(package in others for others in edges.values())
    }
    TARGET.write_text(draw(direct, rows_of(direct)), encoding="utf-8")


def package_imports() -> dict[str, set[str]]:
    """Return which of pipnet's packages and top-level modules each of them imports, lazily or not."""
    graph = grimp.build_graph("pipnet")
    edges: dict[str, set[str]] = {}
    for module in graph.modules - {"pipnet", "pipnet.__main__"}:
        package = module.split(".")[1]
        imported = graph.find_modules_directly_imported_by(module) - {"pipnet"}
        edges.setdefault(package, set()).update({name.split(".")[1] for name in imported} - {package})
    return edges


def reach(package: str, edges: dict[str, set[str]]) -> set[str]:
    """Return all that a package imports, directly or not."""
    found: set[str] = set()
    todo = list(edges[package])
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += edges[name]
    return found


def rows_of(edges: dict[str, list[str]]) -> list[list[str]]:
    """Return the packages in rows from the top: each below all that import it."""
    importers = {name: [other for other in edges if name in edges[other]] for name in edges}
    depth: dict[str, int] = {}

    def depth_of(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max(map(depth_of, importers[name]), default=-1)
        return depth[name]

    rows: list[list[str]] = [[] for _ in range(1 + max(map(depth_of, edges)))]
    for name in edges:
        rows[depth[name]].append(name)
    return rows


def draw(edges: dict[str, list[str]], rows: list[list[str]]) -> str:
    """Return the graph as SVG."""
    chains = add_bends(edges, rows)
    order_rows(chains, rows)
    width, height = COLUMN * max(map(len, rows)), ROW * len(rows)
    centers = {
        node: (width / 2 + COLUMN * (i - (len(row) - 1) / 2), ROW * (k + 0.5))
        for k, row in enumerate(rows)
        for i, node in enumerate(row)
    }
    head = f'<path d="M 0 0 L 8 4 L 0 8 z" fill="{LINE}"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
            ' font-family="sans-serif" font-size="13" text-anchor="middle">',
            f'<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">{head}'
            "</marker></defs>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *(arrow([centers[node] for node in chain]) for chain in chains),
            *(box(name, *centers[name]) for name in edges),
            "</svg>\n",
        ]
    )


def add_bends(edges: dict[str, list[str]], rows: list[list[str]]) -> list[list[str]]:
    """Return each arrow as its nodes from row to row, with a bend in each row that it passes, added there."""
    row_of = {name: k for k, row in enumerate(rows) for name in row}
    chains = []
    for name, others in edges.items():
        for other in others:
            bends = {k: f"{name} > {other}, row {k}" for k in range(row_of[name] + 1, row_of[other])}
            for k, bend in bends.items():
                rows[k].append(bend)
            chains.append([name, *bends.values(), other])
    return chains


def order_rows(chains: list[list[str]], rows: list[list[str]]) -> None:
    """Sort each row by the mean place of the nodes above or below that it is linked to, a few times over."""
    links: dict[str, list[str]] = {}
    for chain in chains:
        for upper, lower in itertools.pairwise(chain):
            links.setdefault(upper, []).append(lower)
            links.setdefault(lower, []).append(upper)
    place = {node: i - (len(row) - 1) / 2 for row in rows for i, node in enumerate(row)}
    for row in [*rows, *rows[::-1]] * 8:
        row.sort(key=lambda node: sum(place[other] for other in links[node]) / len(links[node]))
        place |= {node: i - (len(row) - 1) / 2 for i, node in enumerate(row)}


def arrow(points: list[tuple[float, float]]) -> str:
    """Return a curve from the bottom of a box, through the bends, to the top of another."""
    (x, y), *bends, end = points
    path = f"M {x:g} {y + HEIGHT / 2:g}"
    for to_x, to_y in [*bends, (end[0], end[1] - HEIGHT)]:
        middle = (y + to_y) / 2
        path += f" C {x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"
        x, y = to_x, to_y
    path += f" L {end[0]:g} {end[1] - HEIGHT / 2:g}"
    return f'<path d="{path}" fill="none" stroke="{LINE}" marker-end="url(#head)"/>'


def box(name: str, x: float, y: float) -> str:
    """Return a package's box."""
    color = TORCH_BOX if name in TORCH else BOX
    corner = f'x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}"'
    rect = f'<rect {corner} width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{color}" stroke="{LINE}"/>'
    return f'{rect}<text x="{x:g}" y="{y + 4:g}" fill="{TEXT}">{name}</text>'


if __name__ == "__main__":
    main()
