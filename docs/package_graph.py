"""Write the graph of pipnet's packages into docs/architecture.md.

python docs/package_graph.py
"""

from __future__ import annotations

from pathlib import Path

import grimp

PAGE = Path(__file__).with_name("architecture.md")
START, END = "<!-- graph: written by package_graph.py -->", "<!-- end of graph -->"


def main() -> None:
    """Find what imports what, refuse cycles, and write the arrows that no longer way implies."""
    edges = package_imports()
    reachable = {package: reach(package, edges) for package in edges}
    cycles = [package for package in edges if package in reachable[package]]
    if cycles:
        raise SystemExit(f"cycles of imports: {', '.join(cycles)}")
    lines = ["```mermaid", "graph TD"]
    for package in sorted(edges):
        implied = set().union(*(reachable[other] for other in edges[package]))
        lines += [f"  {package} --> {other}" for other in sorted(edges[package] - implied)]
    lines.append("```")
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    PAGE.write_text("\n".join([before + START, *lines, END]) + after, encoding="utf-8")


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


if __name__ == "__main__":
    main()
