"""v1's two protocols for learning from unlabeled faces: TSD, on one collection, and TMD, on several.

* TSD: of one collection a share of the faces keeps its labels, the rest has none.
* TMD: all collections are brought to the same points; some are labeled, the training parts of others are
  not, and all are tested on, in widths of their crops.

Faces whose labels are taken away come with their landmark boxes, as in v1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pipnet.annotations.samples import FaceSample
from pipnet.datasets.load import load_samples
from pipnet.datasets.unlabeled import BOXES, UnlabeledFace, load_unlabeled, write_boxes
from pipnet.errors import RecipeError
from pipnet.evaluation.evaluate import Norm, decoded, evaluate
from pipnet.geometry import tight_box
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import write_text
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.predictor import TorchModel
from pipnet.progress import track
from pipnet.training.recipe import Recipe
from pipnet.training.self_training import FRAMES, self_train
from pipnet.training.split import load_split
from pipnet.video.reader import VIDEO_SUFFIXES

Results = dict[str, dict[str, float]]
"""NME in percent, by round and then by test."""


class HeldOut(NamedTuple):
    """Faces to measure on."""

    root: Path
    """A collection, or users' own annotations."""
    subset: str | None
    """Its part; the test part if None."""
    images: Path | None = None
    """The folder of its pictures, where they do not lie beside users' own annotations."""


def tsd(
    recipe: Recipe, share: float, run: Path, tests: Sequence[HeldOut], max_steps: int | None = None
) -> Results:
    """Train with a share of the labels, then with the rest as unlabeled faces, and measure each round.

    Args:
        recipe: the training; which faces keep their labels follows from its seed.
        share: of the labels, in (0, 1).
        run: folder for all of it.
        tests: what to measure each round on.
        max_steps: stop each round after this many steps, for trying things out.

    Returns:
        NME in percent by test, for each round; also written to ``results.json``.

    Raises:
        RecipeError: an impossible share, or as `self_train`.
    """
    check_share(share)
    everything = load_split(recipe)
    count = round(share * (len(everything.training) + len(everything.validation)))
    limited = replace(recipe, data=replace(recipe.data, limit=count))
    labeled = load_split(limited)
    kept = {s.name for s in (*labeled.training, *labeled.validation)}
    rest = [_without_label(s) for s in everything.training if s.name not in kept]
    return _rounds(limited, rest, run, tests, "scheme", max_steps)


def check_share(share: float) -> None:
    """See whether a share of the labels can be kept.

    Raises:
        RecipeError: it is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise RecipeError(f"a share of the labels is between 0 and 1, not {share}")


def tmd(
    recipe: Recipe,
    unlabeled: Sequence[Path],
    run: Path,
    tests: Sequence[HeldOut],
    max_steps: int | None = None,
) -> Results:
    """Train on the recipe's collections, then with other collections as unlabeled faces, and measure.

    Args:
        recipe: the training; its ``data.scheme`` brings all collections to the same points.
        unlabeled: collections, whose training parts have their labels taken away; ``boxes.csv`` tables,
            folders with one, ``.txt`` lists and videos (see `load_unlabeled`), which have none.
        run: folder for all of it.
        tests: what to measure each round on, in widths of the collections' crops.
        max_steps: stop each round after this many steps, for trying things out.

    Returns:
        NME in percent of the crop's width by test, for each round; also written to ``results.json``.

    Raises:
        RecipeError: as `self_train`.
    """
    rest = [face for path in unlabeled for face in _without_labels(path, recipe.data.scheme, run)]
    return _rounds(recipe, rest, run, tests, "width", max_steps)


def _without_labels(path: Path, scheme: str | None, run: Path) -> list[UnlabeledFace]:
    if path.name == BOXES or (path / BOXES).is_file() or path.suffix.lower() in {".txt", *VIDEO_SUFFIXES}:
        return load_unlabeled(path, run / FRAMES)
    return [_without_label(sample) for sample in load_samples(path, None, scheme)[0]]


def _without_label(sample: FaceSample) -> UnlabeledFace:
    return UnlabeledFace(sample.image, tight_box(sample.points), sample.name, "landmarks")


def _rounds(
    recipe: Recipe,
    rest: Sequence[UnlabeledFace],
    run: Path,
    tests: Sequence[HeldOut],
    norm: Norm,
    max_steps: int | None,
) -> Results:
    tests = [
        test._replace(images=recipe.data.images if test.root == recipe.data.root else None) for test in tests
    ]
    if recipe.self_training.unlabeled:
        raise RecipeError("a protocol takes its unlabeled faces elsewhere: no self_training.unlabeled")
    titles = [_title(test, recipe.data.scheme) for test in tests]
    if len(set(titles)) < len(titles):
        raise RecipeError(f"two tests are called the same, {max(titles, key=titles.count)}: rename a folder")
    table, again = run / BOXES, run / f"again_{BOXES}"
    run.mkdir(parents=True, exist_ok=True)
    write_boxes(again, rest)
    if table.is_file() and table.read_bytes() != again.read_bytes():
        again.unlink()
        raise RecipeError(f"{run} was begun with other unlabeled faces: choose another folder")
    again.replace(table)
    config = replace(recipe.self_training, unlabeled=(table,))
    self_train(replace(recipe, self_training=config), run, max_steps)

    def measured(weights: Path) -> dict[str, float]:
        return {title: _measure(weights, test, norm) for title, test in zip(titles, tests, strict=True)}

    results = {}
    if config.teacher is not None:
        results["teacher"] = measured(config.teacher)
    first = 0 if config.teacher is None else 1
    for number in range(first, len(config.tasks) + 1):
        folder = run / f"round{number}"
        best = folder / "best.safetensors"
        weights = best if best.is_file() else folder / "last.safetensors"
        results[folder.name] = measured(weights)
    facts = {"labeled": recipe.data.limit, "unlabelled": len(rest), "norm": norm, "rounds": results}
    write_text(run / "results.json", json.dumps(facts, indent=1) + "\n")
    return results


def _title(test: HeldOut, scheme: str | None) -> str:
    """What a test is called in the results; it is read before anything is trained."""
    _, _, spec = load_samples(test.root, test.subset, scheme, for_evaluation=True, images=test.images)
    return f"{spec.title} {test.subset or spec.default_test}"


def _measure(weights: Path, test: HeldOut, norm: Norm) -> float:
    """NME on a test in percent, from true boxes."""
    network, metadata = load_checkpoint(weights)
    samples, _, spec = load_samples(
        test.root, test.subset, metadata.scheme, for_evaluation=True, images=test.images
    )
    pictures = track(decoded(samples), len(samples), spec.title)
    errors = evaluate(FaceLandmarker(TorchModel(network, metadata)), pictures, spec, norm=norm)
    return float(errors.summary(metadata.scheme)["pixels"]["nme"])
