"""Speed of training: our training loop and a plain one, interleaved. Nothing else should run on the machine.

    python benchmarks/speed/training/run.py            (about ten minutes)

The results of a processor without bf16 units are stored beside those of one with them.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipnet.benchmark.noise import NoiseMeter

sys.path.append(str(Path(__file__).parents[2]))
from _common import ROOT, new_parser, provenance, read_results, table, write_report, write_results

if TYPE_CHECKING:
    from torch import Tensor

    from pipnet.model.heads.pip import PipOutput
    from pipnet.model.pipnet import PIPNet

HERE = Path(__file__).parent
RECIPES = ROOT / "recipes"
ROUNDS = 15
WITHOUT_BF16 = "_without_bf16"
BATCH_SIZE = 16
TRAININGS = (
    ("resnet18", 256),
    ("mobilenetv2_100", 256),
    ("mobilenetv2_100", 128),
    ("tf_efficientnet_lite0", 256),
)


def main() -> None:
    """Measure, and write the page."""
    parser = new_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    results = read_results(HERE)
    if not arguments.report:
        from pipnet.training.runtime import resolve_precision

        shared = arguments.shared
        measured = training(shared / "data", shared / "backbones", arguments.rounds)
        name = "training" if resolve_precision("auto", on_cuda=False) else f"training{WITHOUT_BF16}"
        results[name] = {**measured, **provenance(), "rounds": arguments.rounds}
        write_results(HERE, results)
    write_report(HERE, report(results))


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    lines = ["# Speed of training", "", "Medians; both loops were timed in one run, interleaved.", ""]
    head = ["", "plain float32, channels first", "ours", "ratio", "loader alone"]
    for name, title in (("training", ""), (f"training{WITHOUT_BF16}", " (a processor without bf16 units)")):
        if name not in results:
            continue
        result = results[name]
        rows = [
            [
                row,
                f"{r['plain']:.1f}",
                f"{r['ours']:.1f}",
                r["ratio"] and f"{r['ratio']:.2f}",
                f"{r['loader']:.0f}",
            ]
            for row, r in result["rows"].items()
        ]
        rounds = f" --rounds {result['rounds']}" if result.get("rounds", ROUNDS) != ROUNDS else ""
        machine = result.get("processor") or f"{result['machine']}, {result['versions']}"
        lines += [
            f"## Images per second{title}",
            "",
            *table(head, rows),
            "",
            f"Batch {result['batch']}, one process that prepares faces, loading included."
            " A row without a ratio was disturbed by other processes.",
            "",
            f"`python benchmarks/speed/training/run.py{rounds}`, {result['commit']}, {machine}.",
            "",
        ]
    return lines


def training(data: Path, backbones: Path, rounds: int) -> dict[str, Any]:
    """Measure images per second of our loop and of a plain one, interleaved, and of the loader alone.

    Each loop runs in a separate process, because the memory settings of our loop apply to a complete process.
    """
    rows = {}
    for backbone, size in TRAININGS:
        meter = NoiseMeter()
        meter.sample()
        loops = {
            name: Stepper(data, backbones, backbone, size, name == "plain") for name in ("ours", "plain")
        }
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for stepper in loops.values():
            stepper.steps(3)
        for _ in range(max(rounds // 2, 3)):
            for name, stepper in loops.items():
                seconds[name] += stepper.steps(2)
            meter.sample()
        for stepper in loops.values():
            stepper.stop()
        meter.sample()  # the CPU time of the loops is known when their processes have ended
        speeds = {name: BATCH_SIZE / float(np.median(durations)) for name, durations in seconds.items()}
        rows[f"{backbone}, {size} px"] = {
            **speeds,
            "ratio": None if meter.noise().problem else speeds["ours"] / speeds["plain"],
            "noise": meter.noise().to_dict(),
            "loader": loader_alone(data, backbone, size),
        }
        print(rows, flush=True)
    return {"batch": BATCH_SIZE, "rows": rows}


class Stepper:
    """A training in a separate process, which waits between the requested steps."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, process_end = context.Pipe()
        self.process = context.Process(target=_run_steps, args=(process_end, *arguments))
        self.process.start()

    def steps(self, count: int) -> list[float]:
        """Run `count` steps and return the seconds of each."""
        self.pipe.send(count)
        seconds: list[float] = self.pipe.recv()
        return seconds

    def stop(self) -> None:
        """Stop the process."""
        self.pipe.send(0)
        self.process.join()


def _run_steps(pipe: Any, *arguments: Any) -> None:
    training = loop(*arguments)
    while count := pipe.recv():
        pipe.send(list(islice(training, count)))


def loop(data: Path, backbones: Path, backbone: str, size: int, plain: bool) -> Iterator[float]:
    """Train without end, and yield the seconds of each step, including its data.

    The plain loop is that of a tutorial: float32, channels first, complete offset maps, an optimizer without
    fusion. Ours is that of the trainer: bf16 where the processor has it, channels last, offsets in the true
    cells only, a fused optimizer, and `pipnet.training.cpu_speedups`. Both have the same gradient clipping,
    weight decay, EMA and loader.
    """
    import torch
    from timm.utils.model_ema import ModelEmaV3

    from pipnet.model.pipnet import PIPNet
    from pipnet.training.cpu_speedups import FastDepthwise, keep_freed_memory
    from pipnet.training.optim import build_optimizer
    from pipnet.training.runtime import resolve_precision

    recipe, (face, batches) = _loader(data, backbone, size)
    file = backbones / f"{backbone}.safetensors"
    weights = file if file.is_file() else None
    model = PIPNet(recipe.model, face, weights is not None, weights).train()
    if plain:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=False)
    else:
        model = model.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(recipe.optim, model)
    ema = ModelEmaV3(model, 0.998)
    bf16 = not plain and resolve_precision("auto")
    with nullcontext() if plain else keep_freed_memory():
        while True:
            started = time.perf_counter()
            image, points, *_ = next(batches)
            kernels = nullcontext() if plain else FastDepthwise()
            with kernels, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = complete_maps(model, image) if plain else model(image)
            loss = torch.stack(list(model.loss(output, points).values())).sum()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
            yield time.perf_counter() - started


def complete_maps(model: PIPNet, image: Tensor) -> PipOutput:
    """Return the output with offset maps of all cells, as in the original, and let the head read them."""
    from pipnet.model.heads.pip import PipHead, PipOutput

    head = model.head
    assert isinstance(head, PipHead)
    maps = head.conv(model.features(image))

    def read_offsets(output: PipOutput, cell: Tensor) -> Tensor:
        index = head.offset_channels * head.grid**2 + cell[:, :, None, None]
        return output.features.float().flatten(1).gather(1, index.flatten(1)).reshape(index.shape)

    head.offsets_at = read_offsets  # type: ignore[method-assign]
    return PipOutput(maps[:, : head.landmarks], maps)


def loader_alone(data: Path, backbone: str, size: int) -> float:
    """Return the images per second of the loader without training."""
    _, (_, batches) = _loader(data, backbone, size)
    for _ in range(4):
        next(batches)
    started = time.perf_counter()
    for _ in range(20):
        next(batches)
    return 20 * BATCH_SIZE / (time.perf_counter() - started)


def _loader(data: Path, backbone: str, size: int) -> tuple[Any, tuple[np.ndarray, Iterator[Any]]]:
    """Return a recipe, the mean face, and endless batches, as in the trainer."""
    from torch.utils.data import DataLoader

    from pipnet.geometry import to_fraction
    from pipnet.model.neighbors import mean_face
    from pipnet.training.dataset import FaceDataset, ShuffledEpochs
    from pipnet.training.recipe import load_recipe
    from pipnet.training.split import load_split

    flags = ["--data.root", str(data / "300w"), "--model.backbone", backbone, "--model.input-size", str(size)]
    recipe = load_recipe(RECIPES / "300w_mbv2.yaml", flags)
    split = load_split(recipe)
    dataset = FaceDataset(split.training, split.scheme, recipe.crop, size, recipe.augment)
    boxes = [dataset.crops.crop_region(i) for i in range(len(dataset))]
    mean = mean_face([to_fraction(s.points, box) for s, box in zip(split.training, boxes, strict=True)])

    def batches() -> Iterator[Any]:
        sampler = ShuffledEpochs(len(dataset), 0)
        loader = DataLoader(dataset, BATCH_SIZE, sampler=sampler, drop_last=True, num_workers=1)
        while True:
            yield from loader

    return recipe, (mean, batches())


if __name__ == "__main__":
    main()
