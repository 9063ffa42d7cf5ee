"""``pipnet protocol``: v1's TSD and TMD, which learn from faces whose labels are removed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import cyclopts

from pipnet.cli import say, training_imports
from pipnet.cli.options import Output, RecipeFile, RoundSteps
from pipnet.cli.train import with_data
from pipnet.evaluation.report import plot_rounds
from pipnet.io.atomic import write_text
from pipnet.training.recipe import Recipe, RecipeFlags, with_recipe_file

tsd_app = cyclopts.App(name="tsd", config=with_recipe_file)
tmd_app = cyclopts.App(name="tmd", config=with_recipe_file)


@tsd_app.default
def tsd(
    recipe_file: RecipeFile,  # noqa: ARG001  (read by with_recipe_file)
    /,
    *,
    data: Path,
    run: Output,
    share: list[float] | None = None,
    test: list[str] | None = None,
    max_steps: RoundSteps = None,
    recipe: RecipeFlags = None,
) -> None:
    """Keep a share of the labels, learn from the other faces as unlabeled ones (v1's TSD).

    Writes results.md and results.png into the run folder. A rerun with the same arguments resumes.

    Parameters
    ----------
    recipe_file
        A YAML file with a self_training section; see recipes/tsd_300w.yaml. Its seed chooses the faces.
    data
        The dataset.
    run
        Folder for all trainings and results.
    share
        Share of the labels to keep; may be given several times. 0.1, 0.2 and 0.5 if not given.
    test
        Faces to evaluate on, ROOT or ROOT:SUBSET; the dataset's test subset if not given.
    """
    protocols, recipe = _protocols(), with_data(recipe or Recipe(), data)
    tests = [protocols.EvaluationSet.parse(text) for text in test or [str(data)]]
    shares = share or [0.1, 0.2, 0.5]
    for value in shares:
        protocols.check_share(value)
    results = {
        f"{100 * value:g}% of the labels": protocols.tsd(
            recipe, value, run / f"share{value:g}", tests, max_steps
        )
        for value in shares
    }
    _write(results, run, "TSD")


@tmd_app.default
def tmd(
    recipe_file: RecipeFile,  # noqa: ARG001  (read by with_recipe_file)
    /,
    *,
    data: Path,
    unlabeled: list[Path],
    run: Output,
    test: list[str] | None = None,
    max_steps: RoundSteps = None,
    recipe: RecipeFlags = None,
) -> None:
    """Learn from other datasets without their labels, on the same landmarks (v1's TMD).

    Errors are in widths of each dataset's crop. Writes results.md and results.png into the run folder. A
    rerun with the same arguments resumes.

    Parameters
    ----------
    recipe_file
        A YAML file with data.scheme and a self_training section; see recipes/tmd_300w.yaml.
    data
        The labeled dataset; further ones with --data.also.
    unlabeled
        A dataset, whose training subset is used without its labels, a boxes.csv, a folder with one, a
        .txt list of images, or a video; may be given several times.
    run
        Folder for all trainings and results.
    test
        Faces to evaluate on, ROOT or ROOT:SUBSET; the labeled dataset's test subset if not given.
    """
    protocols, recipe = _protocols(), with_data(recipe or Recipe(), data)
    tests = [protocols.EvaluationSet.parse(text) for text in test or [str(data)]]
    results = protocols.tmd(recipe, unlabeled, run, tests, max_steps)
    _write({f"from {data.name}": results}, run, "TMD")


def _protocols() -> ModuleType:
    """Return `pipnet.papers.protocols`, which imports torch."""
    with training_imports():
        from pipnet.papers import protocols
    return protocols


def _write(results: Mapping[str, dict[str, dict[str, float]]], run: Path, title: str) -> None:
    """Write the results as a table and a figure."""
    rounds = next(iter(results.values()))
    tests = list(next(iter(rounds.values())))
    lines = [f"# {title}", "", "NME in %, with true boxes. round0 is trained on labels only.", ""]
    lines += [f"| | round | {' | '.join(tests)} |", "|---" * (len(tests) + 2) + "|"]
    for name, rows in results.items():
        for number, row in rows.items():
            lines.append(f"| {name} | {number} | {' | '.join(f'{row[test]:.3f}' for test in tests)} |")
    write_text(run / "results.md", "\n".join(lines) + "\n")
    curves = {
        f"{name}, {test}": [row[test] for row in rows.values()]
        for name, rows in results.items()
        for test in tests
    }
    plot_rounds(curves, list(rounds), run / "results.png")
    say(f"{run / 'results.md'}", f"{run / 'results.png'}")
