"""What benchmarks/speed.py measures of training: our loop and a plain one, in turns."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

RECIPES = Path(__file__).parents[1] / "recipes"
BATCH = 16
TRAININGS = (
    ("resnet18", 256),
    ("mobilenetv2_100", 256),
    ("mobilenetv2_100", 128),
    ("tf_efficientnet_lite0", 256),
)


def training(data: Path, backbones: Path, rounds: int) -> dict[str, Any]:
    """Pictures a second of our loop and of a plain one, in turns; and of the loader alone.

    Each loop has a process of its own: what ours asks of the C library holds for a whole process.
    """
    rows = {}
    for backbone, size in TRAININGS:
        ways = {name: Stepper(data, backbones, backbone, size, name == "plain") for name in ("ours", "plain")}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way.steps(3)
        for _ in range(max(rounds // 2, 3)):
            for name, way in ways.items():
                seconds[name] += way.steps(2)
        for way in ways.values():
            way.end()
        speeds = {name: BATCH / float(np.median(taken)) for name, taken in seconds.items()}
        rows[f"{backbone}, {size} px"] = {
            **speeds,
            "ratio": speeds["ours"] / speeds["plain"],
            "loader": loader_alone(data, backbone, size),
        }
        print(rows, flush=True)
    return {"batch": BATCH, "rows": rows}


class Stepper:
    """A training in a process of its own, which stands still between steps that are asked for."""

    def __init__(self, *what: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_step_when_asked, args=(theirs, *what))
        self.process.start()

    def steps(self, count: int) -> list[float]:
        """Take so many steps; the seconds of each."""
        self.pipe.send(count)
        seconds: list[float] = self.pipe.recv()
        return seconds

    def end(self) -> None:
        """Stop the process."""
        self.pipe.send(0)
        self.process.join()


def _step_when_asked(pipe: Any, *what: Any) -> None:
    training = loop(*what)
    while count := pipe.recv():
        pipe.send(list(islice(training, count)))


def loop(data: Path, backbones: Path, backbone: str, size: int, plain: bool) -> Iterator[float]:
    """Train for ever; gives the seconds of each step, its data included.

    Plain is what a tutorial writes: float32, channels first, all maps whole, an optimizer that goes weight
    by weight. Ours is what the trainer does: bf16 where the processor has it, channels last, offsets in the
    true cells alone, a fused optimizer, and what `pipnet.training.cpu` holds. Both clip, decay, and average
    weights alike, and are fed by the same loader.
    """
    import torch
    from timm.utils.model_ema import ModelEmaV3

    from pipnet.model.pipnet import PIPNet
    from pipnet.training.cpu import FastDepthwise, keep_freed_memory
    from pipnet.training.optim import build_optimizer
    from pipnet.training.runtime import resolve_precision

    recipe, (face, batches) = _loader(data, backbone, size)
    weights = backbones / f"{backbone}.safetensors"
    there = weights if weights.is_file() else None
    model = PIPNet(recipe.model, face, there is not None, there).train()
    if plain:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=False)
    else:
        keep_freed_memory()
        model = model.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(recipe.optim, model)
    average = ModelEmaV3(model, 0.998)
    bf16 = not plain and resolve_precision("auto")
    while True:
        started = time.perf_counter()
        image, points, *_ = next(batches)
        quick = nullcontext() if plain else FastDepthwise()
        with quick, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            # plain: whole maps of offsets, as the original makes them
            output = model.head.conv(model.features(image)) if plain else model(image)
        loss = torch.stack(list(model.loss(output, points).values())).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        yield time.perf_counter() - started


def loader_alone(data: Path, backbone: str, size: int) -> float:
    """Pictures a second that the loader gives, when nobody trains."""
    _, (_, batches) = _loader(data, backbone, size)
    for _ in range(4):
        next(batches)
    started = time.perf_counter()
    for _ in range(20):
        next(batches)
    return 20 * BATCH / (time.perf_counter() - started)


def _loader(data: Path, backbone: str, size: int) -> tuple[Any, tuple[np.ndarray, Iterator[Any]]]:
    """A recipe, the mean face, and batches without end, as the trainer makes them."""
    from torch.utils.data import DataLoader

    from pipnet.geometry import to_fraction
    from pipnet.model.neighbors import mean_face
    from pipnet.training.dataset import FaceDataset, ShuffledEpochs
    from pipnet.training.recipe import load_recipe
    from pipnet.training.split import load_split

    flags = ["--data.root", str(data / "300w"), "--model.backbone", backbone, "--model.input-size", str(size)]
    recipe = load_recipe(RECIPES / "300w_mbv2.yaml", flags)
    faces = load_split(recipe)
    dataset = FaceDataset(faces.training, faces.scheme, recipe.crop, size, recipe.augment)
    boxes = [dataset.crops.crop_box(i, recipe.crop) for i in range(len(dataset))]
    mean = mean_face([to_fraction(s.points, box) for s, box in zip(faces.training, boxes, strict=True)])

    def batches() -> Iterator[Any]:
        sampler = ShuffledEpochs(len(dataset), 0)
        loader = DataLoader(dataset, BATCH, sampler=sampler, drop_last=True, num_workers=recipe.workers)
        while True:
            yield from loader

    return recipe, (mean, batches())
