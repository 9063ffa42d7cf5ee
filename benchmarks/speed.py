"""How fast it is: inference, training, memory. The page is `benchmarks/speed.md`; nothing else should run.

    python benchmarks/speed.py network --work WORK      (about ten minutes)
    python benchmarks/speed.py training --work WORK     (about ten minutes)
    python benchmarks/speed.py memory --work WORK
    python benchmarks/speed.py peers --work WORK        (where dlib or MediaPipe is installed)

Everything that is compared is timed in turns in one run, so that ratios hold. Each part leaves its numbers
in `benchmarks/speed/`, those of a processor without bf16 units apart, and writes the page from all that is
there. WORK is a folder outside the checkout for what is made on the way.
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

import cv2
import numpy as np

from pipnet import FaceLandmarker
from pipnet.benchmark.contenders import Contender
from pipnet.benchmark.report import draw, table_lines
from pipnet.benchmark.run import benchmark
from pipnet.datasets.load import load_samples
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import read_image, write_image
from speed_training import training

HERE = Path(__file__).parent
CHECKPOINT = HERE.parent / "checkpoints" / f"{DEFAULT_MODEL}.safetensors"
INT8, TINY = f"{DEFAULT_MODEL}-int8", "pipnet-tiny"
PICTURES = 2000
ROUNDS = 15
WITHOUT = "_without_bf16"


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
        name = arguments.part if _has_bf16() else f"{arguments.part}{WITHOUT}"
        (HERE / "speed" / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    report()


# -- inference ----------------------------------------------------------------------------------------


def network(data: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Our models on every backend, in every precision, beside the reference; stages of a 1080p photo."""
    ways = [
        Contender(model, backend, precision, threads)
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
    found = benchmark(ways, rounds, None, data / "300w", "common")
    figure = "speed.png" if _has_bf16() else f"speed{WITHOUT}.png"
    draw(found, HERE / figure)
    plain = [Contender(model, "onnxruntime", "f32", 2) for model in (DEFAULT_MODEL, INT8, TINY)]
    photographed = benchmark(plain, rounds, photo(work))
    of_stages = json.loads(photographed.to_json())
    facts = {key: of_stages[key] for key in ("stages", "picture")}
    return {"table": table_lines(found), **json.loads(found.to_json()), **facts, "figure": figure}


def peers(data: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Our models beside other landmark software, on one thread each."""
    ways = [Contender(model, "onnxruntime", "f32", 1) for model in (DEFAULT_MODEL, INT8, TINY)]
    found = [benchmark(ways, rounds, photo(work), data / name, part) for name, part in COLLECTIONS]
    return {name: table_lines(one) for (name, _), one in zip(COLLECTIONS, found, strict=True)}


COLLECTIONS = (("300w", "common"), ("wflw", "test"))


def photo(work: Path) -> Path:
    """A 1080p JPEG file with one face, which is 380 pixels wide: the portrait on a blurred ground."""
    path = work / "1080p.jpg"
    if not path.is_file():
        portrait = read_image(HERE.parent / "examples" / "astronaut.jpg")
        canvas = cv2.GaussianBlur(cv2.resize(portrait, (1920, 1080)), (0, 0), 8)
        canvas[:, 420:1500] = cv2.resize(portrait, (1080, 1080), interpolation=cv2.INTER_CUBIC)
        write_image(path, np.asarray(canvas, dtype=np.uint8))
    return path


# -- memory -------------------------------------------------------------------------------------------


def memory(data: Path) -> dict[str, Any]:
    """Megabytes in memory while 2,000 pictures are annotated one after another, at every hundredth."""
    landmarker = FaceLandmarker.from_pretrained()
    files = [sample.image for sample in load_samples(data / "300w", "common")[0]]
    megabytes, faces = [], 0
    started = time.perf_counter()
    for number in range(PICTURES):
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
    """Write the page from the parts that are there."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted((HERE / "speed").glob("*.json"))}
    lines = ["# Speed", "", "Medians; what is compared was timed in turns in one run.", ""]
    writers = {
        "network": _network_lines,
        "training": _training_lines,
        "memory": _memory_lines,
        "peers": _peer_lines,
    }
    for part, write in writers.items():
        for name in (part, f"{part}{WITHOUT}"):
            if name in found:
                one = found[name]
                rounds = f" --rounds {one['rounds']}" if one.get("rounds", ROUNDS) != ROUNDS else ""
                made = f"`python benchmarks/speed.py {part}{rounds}`, {one['commit']}, {one['processor']}."
                title, *rest = write(one)
                title += " (a processor without bf16 units)" if name != part else ""
                lines += [title, *rest, "", made, ""]
    (HERE / "speed.md").write_text("\n".join(lines))


HEAD = [
    "| | ms | 95 % | times the reference | best ms a face (batch) | memory MB | file MB | NME % |",
    "|---|---|---|---|---|---|---|---|",
]


def _network_lines(one: dict[str, Any]) -> list[str]:
    lines = ["## One crop to landmarks", "", *HEAD]
    lines += ["| " + " | ".join(cells) + " |" for cells in one["table"]]
    lines += [
        "",
        "Batch 1, network and decode. The reference is ResNet-18 with five separate convolutions and",
        "a decode of many small operations in plain float32 PyTorch, as the original runs it, with as",
        "many threads; the precision of an int8 file is that of what is not quantized. NME: 300-W",
        "Common, true boxes. Memory: of a process of its own, Python and libraries included.",
        "",
        f"![speed and accuracy]({one['figure']})",
        "",
        "### Cost by batch, ms a face",
        "",
        "| | " + " | ".join(one["rows"][-1]["per_face"]) + " |",
        "|---" * (1 + len(one["rows"][-1]["per_face"])) + "|",
    ]
    for row in one["rows"]:
        if row["per_face"]:
            lines.append(
                f"| {row['name']} | " + " | ".join(f"{v:.2f}" for v in row["per_face"].values()) + " |"
            )
    stages = list(dict.fromkeys(stage for of_one in one["stages"].values() for stage in of_one))
    lines += [
        "",
        f"### From file to points, ms: a photo of {one['picture']} with one face, warm",
        "",
        "| | " + " | ".join(stages) + " |",
        "|---" * (1 + len(stages)) + "|",
    ]
    for name, of_one in one["stages"].items():
        cells = [f"{of_one[stage]['median']:.2f}" if stage in of_one else "" for stage in stages]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _training_lines(one: dict[str, Any]) -> list[str]:
    lines = [
        "## Training, pictures a second",
        "",
        "| | plain float32, channels first | ours | times | loader alone |",
        "|---|---|---|---|---|",
    ]
    for name, row in one["rows"].items():
        cells = f"{row['plain']:.1f} | {row['ours']:.1f} | {row['ratio']:.2f} | {row['loader']:.0f}"
        lines.append(f"| {name} | {cells} |")
    return [*lines, "", f"Batch {one['batch']}, one process that prepares faces, data included."]


def _memory_lines(one: dict[str, Any]) -> list[str]:
    megabytes = one["megabytes"]
    return [
        f"## Memory over {PICTURES:,} pictures",
        "",
        f"{megabytes[1]:.0f} MB after 100 pictures, {megabytes[len(megabytes) // 2]:.0f} halfway,"
        f" {megabytes[-1]:.0f} at the end; {one['faces'] / one['seconds']:.1f} faces a second.",
    ]


def _peer_lines(one: dict[str, Any]) -> list[str]:
    lines = ["## Others, one thread each, in a run of their own"]
    for name, part in COLLECTIONS:
        lines += ["", f"NME on {name} {part}.", "", *HEAD]
        lines += ["| " + " | ".join(cells) + " |" for cells in one[name]]
    return [
        *lines,
        "",
        "`pip install dlib-bin face_recognition_models mediapipe==0.10.21`. dlib's predictor saw Common in",
        "its training, and gets its own detector's box, or one as it would draw it. MediaPipe has other",
        "points: those of its mesh are taken that lie nearest, and part of its error is that they mean",
        "something else.",
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
