"""The gain from unlabeled faces: curriculum, plain self-training, distillation, TSD, TMD; equal steps.

    python benchmarks/training/unlabeled/run.py choices --runs RUNS      (resumes; Ctrl-C at any time)
    python benchmarks/training/unlabeled/run.py tests --runs RUNS
    python benchmarks/training/unlabeled/run.py protocols --runs RUNS
    python benchmarks/training/unlabeled/run.py controlled --runs RUNS
    python benchmarks/training/unlabeled/run.py controlled --runs RUNS --seeds 0 1 2 --only ROW
    python benchmarks/training/unlabeled/run.py --report

``choices`` trains on HELEN and LFPW and evaluates on AFW: every choice is made there. ``tests`` trains on all
of 300-W's training faces and evaluates on 300-W Common and on WFLW as 68 points, which are not used for
choices. ``controlled`` compares with trainings of as many steps on the labels alone, on faces that are
measured repeatedly (`training.unlabeled.controlled`). ``protocols`` are v1's TSD and TMD.

The rows of a part run in order; in ``controlled`` those come first that a row needs. A row in
``results.json`` is skipped, and the page is written after each round. The NME of every face is in
``faces.npz``, by part, row, round (in ``controlled`` the seed) and evaluation set. Runs stay outside the
checkout.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipnet.datasets.load import load_samples
from pipnet.datasets.pseudo_labels import LABELING_RECORD
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.evaluation.metrics import paired_gain
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.torch_model import TorchModel
from pipnet.papers.protocols import EvaluationSet, tmd, tsd
from pipnet.training.recipe import load_recipe
from pipnet.training.self_training import round_recipe, self_train
from pipnet.training.trainer import train

sys.path.append(str(Path(__file__).parents[2]))
from _common import ROOT, new_parser, photo_of, provenance, read_results, table, write_report, write_results
from training.unlabeled import controlled
from training.unlabeled.controlled import slug
from training.unlabeled.controlled_report import report as controlled_report

HERE = Path(__file__).parent
RECIPES = ROOT / "recipes"
FACES = "faces.npz"
SHIFTS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "choices": ("helen+lfpw", (("300w", "afw"),)),
    "tests": ("train", (("300w", "common"), ("wflw", "test"))),
}
"""By part: the labeled subset of 300-W, and folder and subset of each evaluation set."""


class Row(NamedTuple):
    """A training in rounds; without tasks, one on the labeled faces alone."""

    name: str
    tasks: str = ""
    flags: str = ""
    start: str = "supervised"
    """The row whose training is round 0."""
    profiles: bool = False
    """Also train on 300W-LP's profile views of half of AFW's photos, and evaluate on the other half."""


class Protocol(NamedTuple):
    """One of v1's protocols."""

    name: str
    share: float = 0.0
    """Share of the labels, in TSD; 0 for TMD."""
    paper: str = ""
    """NME of v1's rounds, with ResNet-18 at 256 px."""
    flags: str = ""


PLAIN, STC = "full full full", "quarter half full full full"
STRONGER = "--augment.stretch 0.5 --augment.downscale 0.3 --augment.rotate-by 40 --augment.scale-by 0.25"
CHOICES = (
    Row("supervised"),
    Row("supervised, stronger augmentation", flags=STRONGER),
    Row("plain self-training, one round", "full"),
    Row("supervised, with profile views", profiles=True),
    Row("plain self-training, one round, vote_std at most 3 %", "full", "--pseudo.max-std 3"),
    Row("plain self-training", PLAIN),
    Row("STC", STC),
)
TESTS = (
    Row("supervised"),
    Row("STC", STC),
    Row("plain self-training", PLAIN),
    Row("distillation, translation", PLAIN, "--self-training.tta translation"),
    Row("distillation, flip", PLAIN, "--self-training.tta flip"),
    Row("distillation, rotation", PLAIN, "--self-training.tta rotation"),
    Row("distillation, all", PLAIN, "--self-training.tta all"),
    Row("supervised, seed 1", flags="--seed 1"),
    Row("STC, seed 1", STC, "--seed 1", "supervised, seed 1"),
    Row("plain self-training, seed 1", PLAIN, "--seed 1", "supervised, seed 1"),
)
ONE_ROUND = "--self-training.tasks full"
"""One of the recipes' three rounds; without it, and after its result is deleted, a row resumes."""
PROTOCOLS = (
    Protocol("TSD, 10 % of the labels", 0.1, "3.95 after three (300W full)", ONE_ROUND),
    Protocol("TSD, 20 % of the labels", 0.2, "3.75", ONE_ROUND),
    Protocol("TSD, 50 % of the labels", 0.5, "3.56", ONE_ROUND),
    Protocol("TMD, 300-W labeled, WIDER unlabeled", flags=ONE_ROUND),
)
ROWS: dict[str, Sequence[Row | Protocol]] = {"choices": CHOICES, "tests": TESTS, "protocols": PROTOCOLS}
TRIAL = (
    "--data.limit {faces} --optim.epochs 1 --optim.batch-size 8 --workers 0 --model.last-width 640"
    " --initial.checkpoint {root}/checkpoints/pipnet-68.safetensors"
)
"""Flags of a trial; from these weights pseudo-labels are usable after a few steps."""

INTRODUCTION = """
MobileNetV2 (ImageNet) at **128 px**, 8x8 cells of a dilated backbone, NRM with C = 10, 12 epochs a round,
last weights (`recipes/stc_300w_wider.yaml`), bf16 where the machine has it, seed 0 unless the row names
one. The unlabeled faces are the 1,170 of WIDER. STC is the self-training with curriculum of IJCV 2021; v1 is
arXiv v1 (2020); its distillation without test-time augmentation is plain self-training, TSD and TMD are its
protocols. NME (normalized mean error) in % of the inter-ocular distance, true boxes.
The gain is that of the last round over the labeled faces alone with the same seed, with a paired
bootstrap interval over the faces. `python benchmarks/training/unlabeled/run.py choices | tests | protocols
--runs RUNS`; commit and machine are in `results.json`, every face's error in `faces.npz`.
"""


def main() -> None:
    """Train and measure the missing rows."""
    parser = new_parser(__doc__)
    parser.add_argument("part", nargs="?", choices=[*ROWS, "controlled"], default="tests")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder outside the checkout")
    parser.add_argument("--only", default="", help="run only rows whose name contains this")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the part controlled")
    parser.add_argument("-o", "--output", type=Path, default=HERE, help="folder of results and page")
    parser.add_argument(
        "--trial", type=int, help="try the part controlled on so many faces of each set, for one epoch"
    )
    arguments = parser.parse_args()
    output: Path = arguments.output
    if arguments.trial and (output.resolve() == HERE.resolve() or arguments.part != "controlled"):
        parser.error("--trial is for the part controlled, and not for the results of this folder: use -o")
    output.mkdir(parents=True, exist_ok=True)
    if arguments.part == "controlled":
        if not arguments.report:
            run_controlled(arguments, output)
    else:
        run_part(arguments, output)
    write_report(output, report(read_results(output), output / FACES))


def run_part(arguments: argparse.Namespace, output: Path) -> None:
    """Train and measure the missing rows of a part other than ``controlled``."""
    part, results = arguments.part, read_results(output)
    done = results.setdefault(part, {})
    for row in () if arguments.report else ROWS[part]:
        if arguments.only not in row.name or is_done(row, done.get(row.name)):
            continue
        print(f"== {part}: {row.name}", flush=True)
        runs = arguments.runs.resolve() / part / slug(row.name)
        data = arguments.shared.resolve() / "data"
        if isinstance(row, Protocol):
            rows = iter([run_protocol(row, data, runs)])
        else:
            rows = run_rounds(row, part, data, runs, output / FACES)
        for result in rows:
            done[row.name] = result | {"flags": row.flags, **provenance()}
            write_results(output, results)
            write_report(output, report(results, output / FACES))


def run_controlled(arguments: argparse.Namespace, output: Path) -> None:
    """Train and measure the missing rows of ``controlled``, a seed after the other."""
    results = read_results(output)
    done = results.setdefault("controlled", {})
    experiment = controlled.Experiment(
        arguments.shared.resolve() / "data",
        arguments.runs.resolve() / "controlled",
        output / FACES,
        RECIPES / "stc_300w_wider.yaml",
        sorted((RECIPES / "teachers").glob("*.toml")),
        done,
        TRIAL.format(faces=arguments.trial, root=ROOT).split() if arguments.trial else (),
        arguments.trial,
    )
    for seed in arguments.seeds:
        for row in controlled.required_rows(arguments.only, done):
            if str(seed) in done.get(row.name, {}):
                continue
            print(f"== controlled: {row.name}, seed {seed}", flush=True)
            done.setdefault(row.name, {})[str(seed)] = experiment.run(row, seed) | provenance()
            write_results(output, results)
            write_report(output, report(results, output / FACES))


def is_done(row: Row | Protocol, result: dict[str, Any] | None) -> bool:
    """Return whether all rounds of a row are measured."""
    rounds = 1 + len(row.tasks.split()) if isinstance(row, Row) else 1
    return result is not None and len(result["rounds"]) >= rounds


def run_rounds(row: Row, part: str, data: Path, folder: Path, faces_file: Path) -> Iterator[dict[str, Any]]:
    """Train the missing rounds of a row, and yield all results so far after each of them."""
    labeled, tests = SHIFTS[part]
    flags = ["--data.root", str(data / "300w"), "--data.subset", labeled, *row.flags.split()]
    if row.tasks:
        flags += ["--self-training.unlabeled", str(data / "unlabelled" / "wider")]
        flags += [word for task in row.tasks.split() for word in ("--self-training.tasks", task)]
    if row.profiles:
        photos = half_of_profiles(data / "300w_lp_afw", folder / "profiles")
        flags += ["--data.also", str(folder / "profiles")]
    recipe = load_recipe(RECIPES / "stc_300w_wider.yaml", flags)
    if row.tasks:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "round0").exists():
            start = folder.parent / slug(row.start) / "round0"
            start.mkdir(parents=True, exist_ok=True)  # trained below if it does not exist yet
            (folder / "round0").symlink_to(start)
    train(round_recipe(recipe, 0), folder / "round0", resume=True)
    unseen = None
    if row.profiles:
        faces = load_samples(data / "300w", "afw")[0]
        unseen = [i for i, face in enumerate(faces) if photo_of(face.image.stem) not in photos]
    first = folder / "round0" / "last.safetensors"
    rounds = [measure(first, data, tests, f"{part}/{row.name}/0", faces_file)]
    labeling: list[Any] = []
    for number in range(1 + len(row.tasks.split())):
        if number:
            tasks = recipe.self_training.tasks[:number]
            weights = self_train(
                replace(recipe, self_training=replace(recipe.self_training, tasks=tasks)), folder
            )
            rounds.append(measure(weights, data, tests, f"{part}/{row.name}/{number}", faces_file))
            labeling.append(json.loads((folder / f"round{number}" / LABELING_RECORD).read_text()))
        yield {
            "unseen": unseen,
            "tasks": row.tasks.split(),
            "labeled": labeled,
            "rounds": rounds,
            "labeling": labeling,
        }


def half_of_profiles(source: Path, target: Path) -> set[str]:
    """Link the views of every other photo into a folder, and return the names of these photos."""
    views = sorted(source.glob("*.pts"))
    photos = sorted({photo_of(view.stem) for view in views})[::2]
    target.mkdir(parents=True, exist_ok=True)
    for view in views:
        for file in (view, view.with_suffix(".jpg")):
            link = target / file.name
            if photo_of(view.stem) in photos and not link.is_symlink():
                link.symlink_to(file.resolve())
    return set(photos)


def run_protocol(row: Protocol, data: Path, folder: Path) -> dict[str, Any]:
    """Run TSD if the row has a share of the labels, otherwise TMD."""
    datasets = [data / "300w", data / "wflw"]
    name = "tsd_300w.yaml" if row.share else "tmd_300w.yaml"
    recipe = load_recipe(RECIPES / name, ["--data.root", str(datasets[0]), *row.flags.split()])
    if row.share:
        rounds = tsd(recipe, row.share, folder, [EvaluationSet(datasets[0], None)])
    else:
        # WFLW's training subset is not available; its images are of WIDER.
        table = [data / "unlabelled" / "wider"]
        rounds = tmd(recipe, table, folder, [EvaluationSet(root, None) for root in datasets])
    return {"share": row.share, "rounds": list(rounds.values())}


def measure(
    weights: Path, data: Path, tests: Sequence[tuple[str, str]], name: str, faces_file: Path
) -> dict[str, float]:
    """Return the mean NME of each evaluation set in percent, true boxes, and keep that of every face."""
    network, metadata = load_checkpoint(weights)
    landmarker = FaceLandmarker(TorchModel(network, metadata))
    faces = dict(np.load(faces_file)) if faces_file.is_file() else {}
    result = {}
    for folder, subset in tests:
        samples, _, spec = load_samples(data / folder, subset, metadata.scheme, for_evaluation=True)
        nmes = 100 * evaluate(landmarker, decoded(samples), spec).nmes
        faces[f"{name}/{folder} {subset}"] = nmes.astype(np.float32)
        result[f"{folder} {subset}"] = round(float(nmes.mean()), 4)
    np.savez_compressed(faces_file, **faces)
    return result


def report(results: dict[str, Any], faces_file: Path) -> list[str]:
    """Return the lines of the page, from the finished rows and the file with the errors of every face."""
    with np.load(faces_file) as stored:
        faces = {key: stored[key].astype(float).round(3) for key in stored.files}
    return [
        "# Unlabeled faces",
        "",
        *INTRODUCTION.strip().splitlines(),
        "",
        "## Choices: HELEN and LFPW (1,675 faces) labeled, evaluated on AFW (337 faces)",
        "",
        *_table("choices", results, faces),
        "",
        "## Tests: 300-W (2,012 faces) labeled, evaluated on 300-W Common (554) and WFLW-68 (114)",
        "",
        *_table("tests", results, faces),
        "",
        "## Controls with equal steps",
        "",
        *controlled_report(results, faces),
        "",
        "## v1's protocols",
        "",
        *_protocol_table(results.get("protocols", {})),
        "",
        *(HERE / "notes.md").read_text().strip().splitlines(),
    ]


def _table(part: str, results: dict[str, Any], faces: dict[str, np.ndarray]) -> list[str]:
    """Return a line for each row: NME after every round, and the gain of the last round over labels only."""
    tests = [" ".join(test) for test in SHIFTS[part][1]]
    titles = [title for test in tests for title in (f"{test}, by round", "gain %")]
    head = ["row", *titles, "labeled, dropped"]
    rows: list[list[object]] = []
    for row in ROWS[part]:
        assert isinstance(row, Row)
        result = results.get(part, {}).get(row.name)
        if result is None or row.start not in results[part]:
            continue
        cells = [cell for test in tests for cell in _test_cells(part, row, result, test, faces)]
        record = result["labeling"][-1] if result["labeling"] else None
        cells.append(f"{record['labeled']}, {record['unlabeled'] - record['labeled']}" if record else "")
        rows.append([row.name, *cells])
    return table(head, rows)


def _test_cells(
    part: str, row: Row, result: dict[str, Any], test: str, faces: dict[str, np.ndarray]
) -> tuple[str, str]:
    """Return the NME by round, and the gain."""
    rounds = len(result["rounds"])
    by_round = [faces[f"{part}/{row.name}/{number}/{test}"] for number in range(rounds)]
    missing = 1 + len(result["tasks"]) - rounds
    nmes = ", ".join(f"{nme.mean():.2f}" for nme in by_round)
    nmes += f" (of {len(result['tasks'])} rounds)" if missing else ""
    # The first round is trained on labeled faces only, on the same machine.
    after = by_round[-1]
    before = faces[f"{part}/{row.name if row.tasks else row.start}/0/{test}"]
    if result["unseen"] is not None:
        after, before = after[result["unseen"]], before[result["unseen"]]
        nmes = f"{after.mean():.2f} ({len(after)} faces; supervised {before.mean():.2f})"
    if (part == "tests" and not row.tasks) or row.name == row.start:
        return nmes, ""
    gain, (low, high) = paired_gain(before, after)
    return nmes, f"{gain:.1f} ({low:.1f} to {high:.1f})"


def _protocol_table(results: dict[str, Any]) -> list[str]:
    rows: list[list[object]] = []
    for row in PROTOCOLS:
        rounds = results[row.name]["rounds"] if row.name in results else []
        for test in rounds[0] if rounds else ():
            numbers = ", ".join(f"{one[test]:.2f}" for one in rounds)
            unit = "" if row.share else ", of the crop's width"
            rows.append([row.name, f"{test}{unit}", numbers, row.paper])
    return table(["protocol", "test", "NME by round, %", "published by round"], rows)


if __name__ == "__main__":
    main()
