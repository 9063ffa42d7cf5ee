"""v1's two protocols for learning from unlabeled faces: TSD, on one dataset, and TMD, on several.

* TSD: a share of one dataset's faces keeps its labels, the other faces lose them.
* TMD: all datasets are mapped to the same landmarks. Some are labeled, the training subsets of others lose
  their labels, and each is tested on. Errors are in widths of the crops.

A face that loses its labels keeps its landmark box, or with the recipe's ``data.paper_crops`` its crop, as in
v1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pipnet.datasets.load import load_samples
from pipnet.datasets.paper_crops import PaperCrops, keep_paper_crops, without_label
from pipnet.datasets.unlabeled import BOXES, UnlabeledFace, load_unlabeled, write_boxes
from pipnet.errors import RecipeError
from pipnet.evaluation.evaluate import Norm, decoded, evaluate
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import write_text
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.device import torch_device
from pipnet.model.torch_model import TorchModel
from pipnet.progress import show_progress
from pipnet.training.recipe import Recipe
from pipnet.training.self_training import FRAMES, self_train
from pipnet.training.split import load_split
from pipnet.video.reader import VIDEO_SUFFIXES

Results = dict[str, dict[str, float]]
"""NME in percent, by round and then by evaluation set."""


class EvaluationSet(NamedTuple):
    """Labeled faces to evaluate on."""

    root: Path
    """A dataset, or the user's own annotations."""
    subset: str | None
    """Its subset; the test subset if None."""
    images: Path | None = None
    """The folder of the images of own annotations, if they are not in the same folder."""

    @classmethod
    def parse(cls, text: str) -> EvaluationSet:
        """Parse ``ROOT`` or ``ROOT:SUBSET``; an existing path may contain a colon itself."""
        root, _, subset = text.rpartition(":")
        return cls(Path(root), subset) if root and not Path(text).exists() else cls(Path(text), None)


def tsd(
    recipe: Recipe, share: float, run: Path, tests: Sequence[EvaluationSet], max_steps: int | None = None
) -> Results:
    """Train with a share of the labels, then with the other faces as unlabeled ones, and evaluate each round.

    Args:
        recipe: the training; its seed chooses the faces that keep their labels.
        share: share of the labels to keep, between 0 and 1.
        run: folder for all trainings and results.
        tests: the faces to evaluate each round on.
        max_steps: stop each round after this many steps, for trial runs.

    Returns:
        NME in percent by evaluation set, for each round; also written to ``results.json``.

    Raises:
        RecipeError: the share is out of range, or as `self_train`.
    """
    check_share(share)
    complete = load_split(recipe)
    count = round(share * (len(complete.training) + len(complete.validation)))
    limited = replace(recipe, data=replace(recipe.data, limit=count))
    labeled = load_split(limited)
    names = {sample.name for sample in (*labeled.training, *labeled.validation)}
    unlabeled = [without_label(s, recipe.crop) for s in complete.training if s.name not in names]
    return _run_rounds(limited, unlabeled, run, tests, "scheme", max_steps)


def check_share(share: float) -> None:
    """Refuse a share of the labels that is not between 0 and 1.

    Raises:
        RecipeError: it is not.
    """
    if not 0 < share < 1:
        raise RecipeError(f"the share of the labels must be between 0 and 1, not {share}")


def tmd(
    recipe: Recipe,
    unlabeled: Sequence[Path],
    run: Path,
    tests: Sequence[EvaluationSet],
    max_steps: int | None = None,
) -> Results:
    """Train on the recipe's datasets, then with other datasets as unlabeled faces, and evaluate each round.

    Args:
        recipe: the training; its ``data.scheme`` maps all datasets to the same landmarks.
        unlabeled: datasets, whose training subsets lose their labels; or, without labels, ``boxes.csv``
            tables, folders with one, ``.txt`` lists and videos (see `load_unlabeled`).
        run: folder for all trainings and results.
        tests: the faces to evaluate each round on, in widths of the datasets' crops.
        max_steps: stop each round after this many steps, for trial runs.

    Returns:
        NME in percent of the crop's width by evaluation set, for each round; also written to
        ``results.json``.

    Raises:
        RecipeError: as `self_train`.
    """
    faces = [face for path in unlabeled for face in _without_labels(path, recipe, run)]
    return _run_rounds(recipe, faces, run, tests, "width", max_steps)


def _without_labels(path: Path, recipe: Recipe, run: Path) -> list[UnlabeledFace]:
    if path.name == BOXES or (path / BOXES).is_file() or path.suffix.lower() in {".txt", *VIDEO_SUFFIXES}:
        return load_unlabeled(path, run / FRAMES)
    samples, _, spec = load_samples(path, None, recipe.data.scheme)
    samples = keep_paper_crops(samples, spec, recipe.data.paper_crops, recipe.crop)
    return [without_label(sample, recipe.crop) for sample in samples]


def _run_rounds(
    recipe: Recipe,
    unlabeled: Sequence[UnlabeledFace],
    run: Path,
    tests: Sequence[EvaluationSet],
    norm: Norm,
    max_steps: int | None,
) -> Results:
    """Self-train on a table of the unlabeled faces, evaluate every round and write the results."""
    data, settings = recipe.data, recipe.self_training
    if settings.unlabeled:
        raise RecipeError("a protocol chooses its unlabeled faces itself: remove self_training.unlabeled")
    tests = [test._replace(images=data.images if test.root == data.root else None) for test in tests]
    titles = [_title(test, data.scheme) for test in tests]
    if len(set(titles)) < len(titles):
        duplicate = max(titles, key=titles.count)
        raise RecipeError(f"two evaluation sets have the same title, {duplicate:.80}: rename a folder")
    table = _write_table(unlabeled, run)
    self_train(replace(recipe, self_training=replace(settings, unlabeled=(table,))), run, max_steps)
    checkpoints = {} if settings.teacher is None else {"teacher": settings.teacher}
    for number in range(len(checkpoints), len(settings.tasks) + 1):
        folder = run / f"round{number}"
        best = folder / "best.safetensors"
        checkpoints[folder.name] = best if best.is_file() else folder / "last.safetensors"
    results = {
        name: {
            title: _nme(path, test, norm, data.paper_crops) for title, test in zip(titles, tests, strict=True)
        }
        for name, path in checkpoints.items()
    }
    summary = {"labeled": data.limit, "unlabeled": len(unlabeled), "norm": norm, "rounds": results}
    write_text(run / "results.json", json.dumps(summary, indent=1) + "\n")
    return results


def _write_table(unlabeled: Sequence[UnlabeledFace], run: Path) -> Path:
    """Write the table of the unlabeled faces, or check that a resumed run has the same one."""
    table, rerun = run / BOXES, run / f"rerun_{BOXES}"
    run.mkdir(parents=True, exist_ok=True)
    write_boxes(rerun, unlabeled)
    if table.is_file() and table.read_bytes() != rerun.read_bytes():
        rerun.unlink()
        raise RecipeError(f"{run} holds a run with other unlabeled faces: choose another folder")
    rerun.replace(table)
    return table


def _title(test: EvaluationSet, scheme: str | None) -> str:
    """Return the title of an evaluation set; its labels are read, so that errors come before the training."""
    _, _, spec = load_samples(test.root, test.subset, scheme, for_evaluation=True, images=test.images)
    return f"{spec.title} {test.subset or spec.default_test}"


def _nme(checkpoint: Path, test: EvaluationSet, norm: Norm, crops: PaperCrops) -> float:
    """Return the NME on an evaluation set in percent, with true boxes."""
    model = TorchModel(*load_checkpoint(checkpoint), device=torch_device())
    metadata = model.metadata
    samples, _, spec = load_samples(
        test.root, test.subset, metadata.scheme, for_evaluation=True, images=test.images
    )
    samples = keep_paper_crops(samples, spec, crops, metadata.crop)
    images = show_progress(decoded(samples), len(samples), spec.title)
    errors = evaluate(FaceLandmarker(model), images, spec, norm=norm)
    return float(errors.summary(metadata.scheme)["pixels"]["nme"])
