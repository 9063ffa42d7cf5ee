"""``pipnet benchmark``: how fast models are here, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from pipnet.benchmark.contenders import contenders
from pipnet.benchmark.report import draw, to_table
from pipnet.benchmark.run import benchmark as time_all
from pipnet.cli import say
from pipnet.config import Precision
from pipnet.evaluation.figure import require_figures
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.atomic import make_folder, write_text


def benchmark(
    models: list[str] | None = None,
    /,
    *,
    backend: list[str] | None = None,
    precision: list[Precision] | None = None,
    threads: list[int] | None = None,
    rounds: int = 10,
    picture: Path | None = None,
    data: Path | None = None,
    subset: str | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> int:
    """Time models on this machine: latency, throughput, memory; with labeled faces also their accuracy.

    Everything is timed in turns in one run, so that ratios hold while other work disturbs it; with torch
    installed there is a reference in the same run: the original's ResNet-18 in plain float32 PyTorch.
    Other landmark software (dlib, MediaPipe) is timed too where it is installed and a picture is given.

    Parameters
    ----------
    models
        Models by name, .onnx files; .safetensors checkpoints for the backend torch.
    backend
        onnxruntime, openvino, torch, or "torch compiled"; may be given several times.
    precision
        f32 or bf16; may be given several times.
    threads
        How many threads a network may use; may be given several times.
    rounds
        How many turns each gets.
    picture
        A photo with a face: times each stage from file to points.
    data
        A collection, or your own annotations, to measure accuracy on.
    subset
        Part of it; its test part if not given.
    output
        Folder for benchmark.json and the figure.
    """
    ways = contenders(
        models or [DEFAULT_MODEL], backend or ["onnxruntime"], precision or ["f32"], threads or [1]
    )
    if output is not None:
        make_folder(output)
        if data is not None:
            require_figures()
    report = time_all(ways, rounds, picture, data, subset)
    console = Console(stderr=True)
    console.print(to_table(report), width=max(console.width, 150))
    for name, of_one in report.stages.items():
        parts = ", ".join(f"{stage} {timing.median:.2f}" for stage, timing in of_one.items())
        console.print(f"{name}, ms: {parts}", soft_wrap=True, highlight=False)
    if output is not None:
        write_text(output / "benchmark.json", report.to_json() + "\n")
        if data is not None:
            draw(report, output / "speed.png")
        say(str(output / "benchmark.json"))
    for line in report.unreadable:
        say(f"error: {line}")
    return 1 if report.unreadable else 0
