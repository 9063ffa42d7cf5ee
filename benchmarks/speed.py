"""Speed and memory of inference and training: `benchmarks/speed.md`. Nothing else should run on the machine.

    python benchmarks/speed.py network --work WORK      (about ten minutes)
    python benchmarks/speed.py training --work WORK     (about ten minutes)
    python benchmarks/speed.py memory --work WORK
    python benchmarks/speed.py peers --work WORK        (where dlib or MediaPipe is installed)

Everything that is compared is timed in one run, interleaved, so that ratios are reliable. Each part writes
its numbers into `benchmarks/speed/`, those of a processor without bf16 units into a separate file, and writes
the page from all available files. WORK is a folder outside the checkout for intermediate files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter

from pipnet import FaceLandmarker
from pipnet.benchmark.candidates import Candidate
from pipnet.benchmark.report import draw, table_lines
from pipnet.benchmark.run import benchmark
from pipnet.datasets.load import load_samples
from pipnet.geometry import resize
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import read_image, write_image
from speed_training import training

HERE = Path(__file__).parent
CHECKPOINT = HERE.parent / "checkpoints" / f"{DEFAULT_MODEL}.safetensors"
INT8, TINY = f"{DEFAULT_MODEL}-int8", "pipnet-tiny"
IMAGES = 2000
ROUNDS = 15
WITHOUT_BF16 = "_without_bf16"


def main() -> None:
    """Measure a part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["network", "training", "memory", "peers", "report"])
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--work", type=Path, default=Path("speed"), help="folder outside the checkout")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    data, work = arguments.shared / "data", arguments.work
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "network": partial(network, data, work, arguments.rounds),
        "training": partial(training, data, arguments.shared / "backbones", arguments.rounds),
        "memory": partial(memory, data),
        "peers": partial(peers, data, work, arguments.rounds),
    }
    if arguments.part in parts:
        work.mkdir(parents=True, exist_ok=True)
        result = {**parts[arguments.part](), "commit": _commit(), "processor": _processor()}
        result["rounds"] = arguments.rounds
        (HERE / "speed").mkdir(exist_ok=True)
        name = arguments.part if _has_bf16() else f"{arguments.part}{WITHOUT_BF16}"
        (HERE / "speed" / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    report()


# -- inference ----------------------------------------------------------------------------------------


def network(data: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Time our models on every backend in every precision, the reference, and the stages of a 1080p photo."""
    contenders = [
        Candidate(model, backend, precision, threads)
        for threads, model, backend, precision in (
            (2, DEFAULT_MODEL, "onnxruntime", "f32"),
            (2, DEFAULT_MODEL, "openvino", "f32"),
            (2, DEFAULT_MODEL, "openvino", "bf16"),
            (2, INT8, "onnxruntime", "f32"),
            (2, INT8, "openvino", "f32"),
            (2, INT8, "openvino", "bf16"),
            (2, TINY, "onnxruntime", "f32"),
            (2, TINY, "openvino", "bf16"),
            (2, str(CHECKPOINT), "torch", "f32"),
            (2, str(CHECKPOINT), "torch", "bf16"),
            (1, DEFAULT_MODEL, "onnxruntime", "f32"),
            (1, DEFAULT_MODEL, "openvino", "bf16"),
            (1, INT8, "onnxruntime", "f32"),
            (1, INT8, "openvino", "bf16"),
            (1, TINY, "onnxruntime", "f32"),
            (1, TINY, "openvino", "f32"),
            (1, TINY, "openvino", "bf16"),
        )
        if precision == "f32" or _has_bf16()
    ]
    result = benchmark(contenders, rounds, None, data / "300w", "common")
    figure = "speed.png" if _has_bf16() else f"speed{WITHOUT_BF16}.png"
    draw(result, HERE / figure)
    plain = [Candidate(model, "onnxruntime", "f32", 2) for model in (DEFAULT_MODEL, INT8, TINY)]
    on_photo = json.loads(benchmark(plain, rounds, photo(work)).to_json())
    stages = {key: on_photo[key] for key in ("stages", "image")}
    return {"table": table_lines(result), **json.loads(result.to_json()), **stages, "figure": figure}


def peers(data: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Time our models and other landmark software, on one thread each."""
    contenders = [Candidate(model, "onnxruntime", "f32", 1) for model in (DEFAULT_MODEL, INT8, TINY)]
    return {
        name: table_lines(benchmark(contenders, rounds, photo(work), data / name, subset))
        for name, subset in DATASETS
    }


DATASETS = (("300w", "common"), ("wflw", "test"))


def photo(work: Path) -> Path:
    """Return a 1080p JPEG file with one face 380 pixels wide: the portrait on a blurred background."""
    path = work / "1080p.jpg"
    if not path.is_file():
        portrait = read_image(HERE.parent / "examples" / "astronaut.jpg")
        face = PIL.Image.fromarray(portrait).resize((1080, 1080), PIL.Image.Resampling.BICUBIC)
        canvas = PIL.Image.fromarray(resize(portrait, 1920, 1080)).filter(PIL.ImageFilter.GaussianBlur(8))
        canvas.paste(face, (420, 0))
        write_image(path, np.asarray(canvas))
    return path


# -- memory -------------------------------------------------------------------------------------------


def memory(data: Path) -> dict[str, Any]:
    """Measure the resident memory while 2,000 images are annotated, at every hundredth image."""
    landmarker = FaceLandmarker.from_pretrained()
    files = [sample.image for sample in load_samples(data / "300w", "common")[0]]
    megabytes, faces = [], 0
    started = time.perf_counter()
    for number in range(IMAGES):
        if number % 100 == 0:
            megabytes.append(_resident())
        faces += len(landmarker(files[number % len(files)]))
    megabytes.append(_resident())
    return {"megabytes": megabytes, "faces": faces, "seconds": time.perf_counter() - started}


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


# -- the page -----------------------------------------------------------------------------------------


def report() -> None:
    """Write the page from the parts that were measured."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted((HERE / "speed").glob("*.json"))}
    lines = ["# Speed", "", "Medians; all rows of a table were timed in one run, interleaved.", ""]
    writers = {
        "network": _network_lines,
        "training": _training_lines,
        "memory": _memory_lines,
        "peers": _peer_lines,
    }
    for part, write in writers.items():
        for name in (part, f"{part}{WITHOUT_BF16}"):
            if name in results:
                result = results[name]
                rounds = f" --rounds {result['rounds']}" if result.get("rounds", ROUNDS) != ROUNDS else ""
                provenance = (
                    f"`python benchmarks/speed.py {part}{rounds}`, {result['commit']}, {result['processor']}."
                )
                title, *rest = write(result)
                title += " (a processor without bf16 units)" if name != part else ""
                lines += [title, *rest, "", provenance, ""]
    (HERE / "speed.md").write_text("\n".join(lines))


HEAD = [
    "| | ms | 95 % | ratio to the reference | best ms per face (batch) | memory MB | file MB | NME % |",
    "|---|---|---|---|---|---|---|---|",
]


def _network_lines(result: dict[str, Any]) -> list[str]:
    lines = ["## One crop to landmarks", "", *HEAD]
    lines += ["| " + " | ".join(cells) + " |" for cells in result["table"]]
    lines += [
        "",
        "Batch 1, network and decode. The reference is the original's: ResNet-18 with five separate",
        "convolutions and a decode of many small operations in plain float32 PyTorch, with the same number",
        "of threads. The precision of an int8 file is that of its layers that are not quantized. NME: 300-W",
        "Common, true boxes. Memory: of a separate process, including Python and libraries.",
        "",
        f"![speed and accuracy]({result['figure']})",
        "",
        "### Cost by batch size, ms per face",
        "",
        "| | " + " | ".join(result["rows"][-1]["per_face"]) + " |",
        "|---" * (1 + len(result["rows"][-1]["per_face"])) + "|",
    ]
    for row in result["rows"]:
        if row["per_face"]:
            lines.append(
                f"| {row['name']} | " + " | ".join(f"{v:.2f}" for v in row["per_face"].values()) + " |"
            )
    stages = list(dict.fromkeys(stage for row in result["stages"].values() for stage in row))
    lines += [
        "",
        f"### From file to points, ms: a photo of {result['image']} with one face, warm",
        "",
        "| | " + " | ".join(stages) + " |",
        "|---" * (1 + len(stages)) + "|",
    ]
    for name, row in result["stages"].items():
        cells = [f"{row[stage]['median']:.2f}" if stage in row else "" for stage in stages]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _training_lines(result: dict[str, Any]) -> list[str]:
    lines = [
        "## Training, images per second",
        "",
        "| | plain float32, channels first | ours | ratio | loader alone |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        cells = f"{row['plain']:.1f} | {row['ours']:.1f} | {row['ratio']:.2f} | {row['loader']:.0f}"
        lines.append(f"| {name} | {cells} |")
    return [*lines, "", f"Batch {result['batch']}, one process that prepares faces, loading included."]


def _memory_lines(result: dict[str, Any]) -> list[str]:
    megabytes = result["megabytes"]
    return [
        f"## Memory over {IMAGES:,} images",
        "",
        f"{megabytes[1]:.0f} MB after 100 images, {megabytes[len(megabytes) // 2]:.0f} halfway,"
        f" {megabytes[-1]:.0f} at the end; {result['faces'] / result['seconds']:.1f} faces per second.",
    ]


def _peer_lines(result: dict[str, Any]) -> list[str]:
    lines = ["## Other software, one thread each, in a separate run"]
    for name, subset in DATASETS:
        lines += ["", f"NME on {name} {subset}.", "", *HEAD]
        lines += ["| " + " | ".join(cells) + " |" for cells in result[name]]
    return [
        *lines,
        "",
        "`pip install dlib-bin face_recognition_models mediapipe==0.10.21`. dlib's predictor was trained on",
        "Common, and gets its own detector's box, or one as that detector would give. MediaPipe has other",
        "points: the nearest ones of its mesh are compared, and a part of its error is their different",
        "definition.",
    ]


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


def _has_bf16() -> bool:
    from pipnet.training.runtime import resolve_precision

    return resolve_precision("auto", on_cuda=False)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {os.cpu_count()} threads, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
