"""Trainings on one GPU in at most ten minutes: the published recipe, self-training, and their speed.

    make gpu-check
    python benchmarks/training/gpu_check/run.py --data out/gpu_check.zip
    python benchmarks/training/gpu_check/run.py --steps 3 -o OUT    (a trial, on any CPU)

The faces come from a bundle (``pipnet data bundle``, see the Makefile). A part that does not fit into the
minutes that are left, by the speed measured first, is skipped and named. Results are written after every
part. The exit code is 1 if the device predicts other landmarks than the CPU, or a part was skipped.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipnet.datasets.load import load_samples
from pipnet.datasets.unlabeled import load_unlabeled
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.config import Task
from pipnet.model.device import autocast_dtype, torch_device
from pipnet.model.torch_model import TorchModel
from pipnet.training.recipe import Recipe, load_recipe
from pipnet.training.runtime import environment, resolve_workers
from pipnet.training.self_training import self_train
from pipnet.training.split import load_split
from pipnet.training.trainer import Trainer, train
from pipnet.warp import crop

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    ROOT,
    measured_on,
    new_parser,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)

HERE = Path(__file__).parent
RECIPES = ROOT / "recipes"
CPU_SPEED = ROOT / "benchmarks" / "speed" / "training"
PUBLISHED, ROUNDS = RECIPES / "ijcv" / "mobilenetv2_300w.yaml", RECIPES / "stc_300w_wider.yaml"
TRAININGS = (
    ("resnet18", 256),
    ("mobilenetv2_100", 256),
    ("mobilenetv2_100", 128),
    ("tf_efficientnet_lite0", 256),
)
"""Backbones and sides of the crop of the speed table, see benchmarks/speed/training."""
STC: tuple[Task, ...] = ("quarter", "half", "full", "full", "full")
PLAIN: tuple[Task, ...] = ("full", "full", "full")
"""The tasks of the rounds of IJCV's self-training with curriculum, and of plain self-training."""
LABELED = "128 px, labeled faces alone"
SELF_TRAININGS = {"128 px, STC, five rounds": STC, "128 px, plain self-training, three rounds": PLAIN}
"""Names of the rows that start from `LABELED`, and their rounds."""
SUBSETS = ("common", "challenging")
MAX_DIFFERENCE = 1e-3
"""Maximum mean difference between landmarks predicted on the device and on the CPU, over the crop."""
ALLOWANCE = 1.3
"""Factor of the time of a part over that of its steps: labeling, evaluation and saving."""


class Check:
    """The settings of a run, its clock and its results."""

    def __init__(self, arguments: Any, runs: Path) -> None:
        self.arguments, self.runs, self.started = arguments, runs, time.perf_counter()
        self.device = torch_device()
        self.results: dict[str, Any] = {
            "device": environment()["gpu"] or "CPU",
            "precision": str(autocast_dtype("auto", self.device)).removeprefix("torch."),
            "workers": resolve_workers("auto", self.device),
            "trial_steps": arguments.steps,
            "speed": {},
            "rows": {},
            "skipped": {},
            **provenance(),
        }

    def save(self) -> None:
        """Write the results so far, and their page."""
        self.results["seconds"] = round(time.perf_counter() - self.started)
        write_results(self.arguments.output, self.results)
        write_report(self.arguments.output, report(self.results))

    def recipe(self, path: Path, *flags: str, pretrained: bool = True) -> Recipe:
        """Return a recipe on the faces of the bundle; algorithms need not be deterministic."""
        arguments = self.arguments
        flags = ("--data.root", str(arguments.data), "--data.validation", "0", *flags)
        initial = ["--initial.folder", str(arguments.backbones)]
        if arguments.random_weights or not pretrained:
            initial = ["--initial.pretrained=false"]
        return load_recipe(path, [*flags, "--deterministic=false", *initial])

    def part(self, name: str, seconds: float, run: Callable[[], None]) -> None:
        """Run a part unless it takes longer than the time that is left."""
        left = 60 * self.arguments.minutes - (time.perf_counter() - self.started)
        if seconds > left:
            self.results["skipped"][name] = f"needs {seconds:.0f} s, {max(left, 0):.0f} s are left"
            print(f"{name}: skipped: {self.results['skipped'][name]}", file=sys.stderr)
        else:
            run()
        self.save()

    def seconds(self, recipe: Recipe, faces: int, speed: str) -> float:
        """Return the expected time of a training; that of a trial is not limited."""
        if self.arguments.steps is not None:
            return 0.0
        images = recipe.optim.epochs * faces
        return ALLOWANCE * images / float(self.results["speed"][speed]["images_per_second"])


def main() -> int:
    """Train and measure, and write ``results.json`` and ``report.md``."""
    parser = new_parser(__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "out" / "gpu_check.zip", help="the bundle")
    parser.add_argument("--steps", type=int, help="stop each training after so many steps: a trial")
    parser.add_argument("--minutes", type=float, default=10, help="time for all parts")
    parser.add_argument("--backbones", type=Path, help="folder of ImageNet weights; downloaded if missing")
    parser.add_argument("--random-weights", action="store_true", help="start from random weights instead")
    parser.add_argument("-o", "--output", type=Path, help="folder of the results; this one if not given")
    arguments = parser.parse_args()
    arguments.backbones = arguments.backbones or arguments.shared / "backbones"
    if arguments.steps is not None and arguments.output is None:
        parser.error("the results of a trial (--steps) are not those of this folder: use -o")
    arguments.output = arguments.output or HERE
    if arguments.report:
        write_report(arguments.output, report(read_results(arguments.output)))
        return 0
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as runs:
        check = Check(arguments, Path(runs))
        run_all(check)
    results = check.results
    print("\n".join(report(results)))
    return int(bool(results["skipped"]) or results["difference"] > MAX_DIFFERENCE)


def run_all(check: Check) -> None:
    """Run all parts."""
    for backbone, size in TRAININGS:
        measure_speed(check, backbone, size)
        check.save()
    published, rounds = check.recipe(PUBLISHED), check.recipe(ROUNDS)
    faces = len(load_split(published).training)
    check.part(
        "ijcv/mobilenetv2_300w",
        check.seconds(published, faces, "mobilenetv2_100, 256 px"),
        partial(train_published, check, published),
    )
    check.part(
        LABELED, check.seconds(rounds, faces, "mobilenetv2_100, 128 px"), partial(train_labeled, check)
    )
    if LABELED not in check.results["rows"]:
        return
    unlabeled = len(load_unlabeled(check.arguments.data, check.runs / "frames"))
    round_seconds = check.results["rows"][LABELED]["seconds"] * (1 + unlabeled / faces)
    for name, tasks in SELF_TRAININGS.items():
        check.part(name, len(tasks) * round_seconds, partial(train_rounds, check, name, tasks))


def measure_speed(check: Check, backbone: str, size: int) -> None:
    """Measure a training of three epochs at the papers' batch size, and its loader alone."""
    steps, name = check.arguments.steps, f"{backbone}, {size} px"
    recipe = check.recipe(PUBLISHED, pretrained=False)
    recipe = replace(
        recipe,
        model=replace(recipe.model, backbone=backbone, input_size=size),
        optim=replace(recipe.optim, epochs=3, milestones=(1, 2)),
    )
    run = check.runs / name
    train(recipe, run, max_steps=steps)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = rows[0]["step"]
    speeds = [
        (first if i == 0 else row["step"] - rows[i - 1]["step"]) / max(row["seconds"], 0.05)
        for i, row in enumerate(rows)
    ]
    per_second = max(speeds[1:] or speeds)  # the first epoch starts workers and chooses algorithms
    check.results["speed"][name] = {
        "images_per_second": round(per_second * recipe.optim.batch_size, 1),
        "loader_images_per_second": round(loader_speed(check, recipe, steps), 1),
        **predict_speed(check, run / "last.safetensors"),
    }
    print(name, check.results["speed"][name], file=sys.stderr, flush=True)


def loader_speed(check: Check, recipe: Recipe, steps: int | None) -> float:
    """Return the images per second of the loader without a training, in its second epoch."""
    trainer = Trainer(recipe, check.runs / "loader" / recipe.model.backbone / str(recipe.model.input_size))
    count, started = 0, 0.0
    for epoch in range(2):
        started, count = time.perf_counter(), 0
        trainer.sampler.epoch = epoch
        for image, *_ in trainer.loader:
            count += len(image)
            if steps is not None and count >= steps * recipe.optim.batch_size:
                break
    return count / (time.perf_counter() - started)


def predict_speed(check: Check, weights: Path) -> dict[str, float]:
    """Return the milliseconds per face of a network on the device, at batch sizes of 1 and 64."""
    model = TorchModel(*load_checkpoint(weights), autocast_dtype("auto", check.device), check.device)
    size, seconds = model.metadata.input_size, {}
    repeats = 20 if check.arguments.steps is None else 1
    for batch in (1, 64) if check.arguments.steps is None else (1,):
        crops = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        model(crops)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            model(crops)
            times.append(time.perf_counter() - started)
        seconds[f"ms_per_face_batch_{batch}"] = round(1e3 * float(np.median(times)) / batch, 3)
    return seconds


def train_published(check: Check, recipe: Recipe) -> None:
    """Train IJCV's MobileNetV2 on 300-W's labeled faces."""
    started = time.perf_counter()
    weights = train(recipe, check.runs / "published", max_steps=check.arguments.steps)
    check.results["difference"] = difference(check, weights)
    add_row(
        check, "ijcv/mobilenetv2_300w", weights, time.perf_counter() - started, "3.40 (full, 3,148 faces)"
    )


def train_labeled(check: Check) -> None:
    """Train on labels alone."""
    started = time.perf_counter()
    weights = train(check.recipe(ROUNDS), check.runs / "supervised", max_steps=check.arguments.steps)
    add_row(check, LABELED, weights, time.perf_counter() - started)


def train_rounds(check: Check, name: str, tasks: tuple[Task, ...]) -> None:
    """Train in rounds, from the weights of `train_labeled`."""
    started = time.perf_counter()
    recipe = check.recipe(ROUNDS)
    rounds = replace(
        recipe.self_training,
        teacher=check.runs / "supervised" / "last.safetensors",
        unlabeled=(check.arguments.data,),
        tasks=tasks,
    )
    weights = self_train(replace(recipe, self_training=rounds), check.runs / name, check.arguments.steps)
    add_row(check, name, weights, time.perf_counter() - started)


def add_row(check: Check, name: str, weights: Path, seconds: float, published: str = "") -> None:
    """Evaluate weights on all test faces of the bundle, from true boxes, and keep the row."""
    model = TorchModel(*load_checkpoint(weights), device=check.device)
    nmes, nme = [], {}
    for subset in SUBSETS:
        samples, _, spec = load_samples(check.arguments.data, subset, for_evaluation=True)
        errors = evaluate(FaceLandmarker(model), decoded(samples), spec)
        nme[subset] = round(100 * float(errors.nmes.mean()), 3)
        nmes += errors.nmes.tolist()
    nme["full"] = round(100 * float(np.mean(nmes)), 3)
    check.results["rows"][name] = {"nme": nme, "seconds": round(seconds, 1), "published": published}
    print(name, check.results["rows"][name], file=sys.stderr, flush=True)


def difference(check: Check, weights: Path) -> float:
    """Return the mean difference of landmarks between the device and the CPU, in float32, over the crop."""
    samples = load_samples(check.arguments.data, SUBSETS[0], for_evaluation=True)[0][:16]
    points = []
    for device in ("cpu", check.device):
        model = TorchModel(*load_checkpoint(weights), device=device)
        size = model.metadata.input_size
        crops = np.stack(
            [
                crop(image, sample.crop_region(model.metadata.crop, image), size)
                for image, sample in decoded(samples)
            ]
        )
        points.append(model(crops).points)
    return float(np.abs(points[0] - points[1]).mean())


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    trial = results.get("trial_steps")
    lines = ["# Trainings on one GPU", ""]
    if trial is not None:
        lines += [f"**A trial: every training stopped after {trial} steps. The numbers mean nothing.**", ""]
    cpu = read_results(CPU_SPEED).get("training", {}).get("rows", {})
    head = [
        "training, batch 16",
        f"{results['device']}, {results['precision']}: images/s",
        "CPU, 2 cores: images/s",
    ]
    head += [f"its loader alone, {results['workers']} workers", "ms per face, batch 1", "batch 64"]
    rows = [
        [
            name,
            row["images_per_second"],
            round(cpu[name]["ours"], 1) if name in cpu else None,
            row["loader_images_per_second"],
            row["ms_per_face_batch_1"],
            row.get("ms_per_face_batch_64"),
        ]
        for name, row in results["speed"].items()
    ]
    lines += [*table(head, rows), ""]
    rows = [
        [name, *(row["nme"][key] for key in ("full", *SUBSETS)), row["published"] or None, row["seconds"]]
        for name, row in results["rows"].items()
    ]
    lines += table(["recipe", "full", *SUBSETS, "published", "seconds"], rows)
    lines += ["", "NME in % of the inter-ocular distance, true boxes, faces of the bundle."]
    if "difference" in results:
        lines += [f"Device and CPU differ by {100 * results['difference']:.4f} % of the crop in float32."]
    lines += [f"Skipped: {name}: {reason}." for name, reason in results["skipped"].items()]
    return [*lines, "", f"`make gpu-check`, {results['seconds']} s, {measured_on(results)}."]


if __name__ == "__main__":
    sys.exit(main())
