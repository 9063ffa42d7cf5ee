"""``pipnet protocol``: v1's TSD and TMD, learning with labels taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pipnet.cli import cannot_import, say
from pipnet.io.atomic import write_text

if TYPE_CHECKING:
    from pipnet.papers.protocols import HeldOut, Results
    from pipnet.training.recipe import Recipe


def tsd(
    recipe: Path,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    data: Path,
    run: Annotated[Path, Parameter(alias="-o")],
    share: list[float] | None = None,
    test: list[str] | None = None,
    max_steps: int | None = None,
) -> None:
    """Keep a share of the labels, learn from the rest as unlabeled faces (v1's TSD).

    Writes results.md and results.png into the run folder. Run again, it goes on where it stopped.

    Parameters
    ----------
    recipe
        A YAML file with a self_training section; see recipes/tsd_300w.yaml. Its seed chooses the faces.
    data
        The collection.
    run
        Folder for all trainings and results.
    share
        Share of the labels to keep; may be given several times. 0.1, 0.2 and 0.5 if not given.
    test
        What to measure on, ROOT or ROOT:SUBSET; the collection's test part if not given.
    max_steps
        Stop each round after this many steps, to try things out.
    """
    protocols, loaded = _load(recipe, data, settings)
    tests, shares = _tests(test or [str(data)]), share or [0.1, 0.2, 0.5]
    for part in shares:  # before the first of them takes long
        protocols.check_share(part)
    results = {}
    for part in shares:
        name = f"{100 * part:g}% of the labels"
        results[name] = protocols.tsd(loaded, part, run / f"share{part:g}", tests, max_steps)
    _write(results, run, "TSD")


def tmd(
    recipe: Path,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    data: Path,
    unlabeled: list[Path],
    run: Annotated[Path, Parameter(alias="-o")],
    test: list[str] | None = None,
    max_steps: int | None = None,
) -> None:
    """Learn from other collections with their labels taken away, on the same points (v1's TMD).

    Errors are in widths of each collection's crop. Writes results.md and results.png into the run folder.
    Run again, it goes on where it stopped.

    Parameters
    ----------
    recipe
        A YAML file with data.scheme and a self_training section; see recipes/tmd_300w.yaml.
    data
        The labeled collection; further ones with --data.also.
    unlabeled
        A collection, whose training part is used without its labels, a boxes.csv, a folder with one, a
        .txt list of pictures, or a video; may be given several times.
    run
        Folder for all trainings and results.
    test
        What to measure on, ROOT or ROOT:SUBSET; the labeled collection's test part if not given.
    max_steps
        Stop each round after this many steps, to try things out.
    """
    protocols, loaded = _load(recipe, data, settings)
    results = protocols.tmd(loaded, unlabeled, run, _tests(test or [str(data)]), max_steps)
    _write({f"from {data.name}": results}, run, "TMD")


def _load(recipe: Path, data: Path, settings: Sequence[str]) -> tuple[ModuleType, Recipe]:
    """The protocols, which need the training packages, and the recipe."""
    try:
        from pipnet.papers import protocols
        from pipnet.training.recipe import load_recipe
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    return protocols, load_recipe(recipe, ["--data.root", str(data), *settings])


def _tests(texts: list[str]) -> list[HeldOut]:
    from pipnet.papers.protocols import HeldOut

    parts = [text.rpartition(":") for text in texts]
    # A path may hold a colon itself.
    return [
        HeldOut(Path(root), subset) if root and not Path(text).exists() else HeldOut(Path(text), None)
        for text, (root, _, subset) in zip(texts, parts, strict=True)
    ]


def _write(results: Mapping[str, Results], run: Path, title: str) -> None:
    """The results as a table and a figure."""
    from pipnet.evaluation.report import plot_rounds

    tests = list(
        dict.fromkeys(test for rounds in results.values() for row in rounds.values() for test in row)
    )
    lines = [f"# {title}", "", "NME in %, true boxes. round0 has labels only.", ""]
    lines += [f"| | round | {' | '.join(tests)} |", "|---" * (len(tests) + 2) + "|"]
    for name, rounds in results.items():
        for number, row in rounds.items():
            lines.append(f"| {name} | {number} | {' | '.join(f'{row[test]:.3f}' for test in tests)} |")
    write_text(run / "results.md", "\n".join(lines) + "\n")
    curves = {
        f"{name}, {test}": [row[test] for row in r.values()] for name, r in results.items() for test in tests
    }
    plot_rounds(curves, list(next(iter(results.values()))), run / "results.png")
    say(f"{run / 'results.md'}\n{run / 'results.png'}")
