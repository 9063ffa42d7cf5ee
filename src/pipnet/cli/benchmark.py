"""``pipnet benchmark``: speed, memory and accuracy of models on this machine."""

from __future__ import annotations

from pathlib import Path

from pipnet.benchmark.candidates import list_candidates
from pipnet.benchmark.report import draw, to_table
from pipnet.benchmark.run import benchmark as run_benchmark
from pipnet.cli import say, say_errors
from pipnet.cli.options import OptionalOutput, TestSubset
from pipnet.cli.streams import print_table
from pipnet.config import Precision
from pipnet.evaluation.matplotlib_figure import require_figures
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.atomic import make_folder, write_text


def benchmark(
    models: list[str] | None = None,
    /,
    *,
    backend: list[str] | None = None,
    precision: list[Precision] | None = None,
    threads: list[int] | None = None,
    device: list[str] | None = None,
    rounds: int = 10,
    image: Path | None = None,
    data: Path | None = None,
    subset: TestSubset = None,
    output: OptionalOutput = None,
) -> int:
    """Measure latency, throughput and memory of models on this machine; with labeled faces also the NME.

    All candidates are timed interleaved in one run. If torch is installed, a reference is timed too: the
    original's ResNet-18 in plain float32 PyTorch. No ratios to it are printed if other processes disturb the
    run too much. Other landmark software (dlib, MediaPipe) is timed too if it is installed and an image is
    given.

    Parameters
    ----------
    models
        Models by name or .onnx file; for the backend torch, .safetensors checkpoints.
    backend
        onnxruntime, openvino, torch, or "torch compiled"; may be given several times.
    precision
        f32 or bf16; may be given several times.
    threads
        Number of threads of the network; may be given several times.
    device
        Where ONNX Runtime runs the models: cpu, cuda, cuda:N (the card with this number), coreml or directml;
        may be given several times. Other backends and the reference run on the CPU.
    rounds
        Number of rounds in which each candidate is timed.
    image
        An image with a face: times each stage from file to landmarks.
    data
        A dataset, or your own annotations, to measure the NME on.
    output
        Folder for benchmark.json and the figure.
    """
    candidates = list_candidates(
        models or [DEFAULT_MODEL],
        backend or ["onnxruntime"],
        precision or ["f32"],
        threads or [1],
        device or ["cpu"],
    )
    if output is not None:
        make_folder(output)
        if data is not None:
            require_figures()
    report = run_benchmark(candidates, rounds, image, data, subset)
    print_table(to_table(report))
    for name, timings in report.stages.items():
        parts = ", ".join(f"{stage} {timing.median:.2f}" for stage, timing in timings.items())
        say(f"{name}, ms: {parts}")
    if output is not None:
        write_text(output / "benchmark.json", report.to_json() + "\n")
        if data is not None:
            draw(report, output / "speed.png")
        say(str(output / "benchmark.json"))
    say_errors(report.unreadable)
    return 1 if report.unreadable else 0
