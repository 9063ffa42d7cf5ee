"""Speed and memory of inference. Nothing else should run on the machine.

    python benchmarks/speed/inference/run.py network --work WORK      (about ten minutes)
    python benchmarks/speed/inference/run.py memory --work WORK
    python benchmarks/speed/inference/run.py peers --work WORK        (where dlib or MediaPipe is installed)
    python benchmarks/speed/inference/run.py --report

Everything that is compared is timed in one run, interleaved; a run that other processes disturb too much has
no ratios. Each part writes its numbers into ``results.json``, those of a processor without bf16 units under a
separate key, and writes the page from all parts. WORK is a folder outside the checkout for intermediate
files.
"""

from __future__ import annotations

import json
import os
import sys
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
from pipnet.benchmark.report import table_lines
from pipnet.benchmark.run import benchmark
from pipnet.config import Precision
from pipnet.datasets.load import load_samples
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import read_image, write_image
from pipnet.training.runtime import resolve_precision
from pipnet.warp import resize

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    COLORS,
    ROOT,
    label_line,
    new_figure,
    new_parser,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)

HERE = Path(__file__).parent
CHECKPOINT = ROOT / "checkpoints" / f"{DEFAULT_MODEL}.safetensors"
INT8, TINY = f"{DEFAULT_MODEL}-int8", "pipnet-tiny"
IMAGES = 2000
ROUNDS = 15
WITHOUT_BF16 = "_without_bf16"


def main() -> None:
    """Measure a part."""
    parser = new_parser(__doc__)
    parser.add_argument("part", nargs="?", choices=["network", "memory", "peers"], default="network")
    parser.add_argument("--work", type=Path, default=Path("speed"), help="folder outside the checkout")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    data, work, results = arguments.shared / "data", arguments.work, read_results(HERE)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "network": partial(network, data, work, arguments.rounds),
        "memory": partial(memory, data),
        "peers": partial(peers, data, work, arguments.rounds),
    }
    if not arguments.report:
        work.mkdir(parents=True, exist_ok=True)
        name = arguments.part if _has_bf16() else f"{arguments.part}{WITHOUT_BF16}"
        results[name] = {**parts[arguments.part](), **provenance(), "rounds": arguments.rounds}
        write_results(HERE, results)
    write_report(HERE, report(results))
    draw_peers(results)


# -- inference ----------------------------------------------------------------------------------------


def network(data: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Time our models on every backend in every precision, the reference, and the stages of a 1080p photo."""
    rows: tuple[tuple[int, str, str, Precision], ...] = (
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
    contenders = [
        Candidate(model, backend, precision, threads)
        for threads, model, backend, precision in rows
        if precision == "f32" or _has_bf16()
    ]
    result = benchmark(contenders, rounds, None, data / "300w", "common")
    plain = [Candidate(model, "onnxruntime", "f32", 2) for model in (DEFAULT_MODEL, INT8, TINY)]
    on_photo = json.loads(benchmark(plain, rounds, photo(work)).to_json())
    stages = {key: on_photo[key] for key in ("stages", "image")}
    return {"table": table_lines(result), **json.loads(result.to_json()), **stages}


def peers(data: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Time our models and other landmark software, on one thread each."""
    contenders = [Candidate(model, "onnxruntime", "f32", 1) for model in (DEFAULT_MODEL, INT8, TINY)]
    runs = {n: benchmark(contenders, rounds, photo(work), data / n, subset) for n, subset in DATASETS}
    noise = {name: run.noise and run.noise.to_dict() for name, run in runs.items()}
    return {**{name: table_lines(run) for name, run in runs.items()}, "noise by dataset": noise}


DATASETS = (("300w", "common"), ("wflw", "test"))


def photo(work: Path) -> Path:
    """Return a 1080p JPEG file with one face 380 pixels wide: the portrait on a blurred background."""
    path = work / "1080p.jpg"
    if not path.is_file():
        portrait = read_image(ROOT / "examples" / "astronaut.jpg")
        face = PIL.Image.fromarray(portrait).resize((1080, 1080), PIL.Image.Resampling.BICUBIC)
        canvas = PIL.Image.fromarray(resize(portrait, 1920, 1080)).filter(PIL.ImageFilter.GaussianBlur(8))
        canvas.paste(face, (420, 0))
        write_image(path, np.asarray(canvas))
    return path


# -- memory -------------------------------------------------------------------------------------------


def memory(data: Path) -> dict[str, Any]:
    """Measure the resident memory while 2,000 images are annotated, at every hundredth image."""
    landmarker = FaceLandmarker()
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

HEAD = [
    "",
    "ms",
    "95 %",
    "ratio to the reference",
    "best ms per face (batch)",
    "memory MB",
    "file MB",
    "NME %",
]


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page, from the parts that were measured."""
    lines = [
        "# Speed of inference",
        "",
        "Medians; all rows of a table were timed in one run, interleaved.",
        "",
    ]
    writers = {"network": _network_lines, "memory": _memory_lines, "peers": _peer_lines}
    for part, write in writers.items():
        for name in (part, f"{part}{WITHOUT_BF16}"):
            if name in results:
                result = results[name]
                rounds = f" --rounds {result['rounds']}" if result.get("rounds", ROUNDS) != ROUNDS else ""
                command = f"`python benchmarks/speed/inference/run.py {part}{rounds}`"
                machine = result.get("processor") or f"{result['machine']}, {result['versions']}"
                title, *rest = write(result)
                title += " (a processor without bf16 units)" if name != part else ""
                lines += [title, *rest, "", f"{command}, {result['commit']}, {machine}.", ""]
    return lines


def _network_lines(result: dict[str, Any]) -> list[str]:
    problem = (result.get("noise") or {}).get("problem")
    batches = result["rows"][-1]["per_face"]
    stages = list(dict.fromkeys(stage for row in result["stages"].values() for stage in row))
    stage_rows = [
        [name, *(f"{row[stage]['median']:.2f}" if stage in row else "" for stage in stages)]
        for name, row in result["stages"].items()
    ]
    per_face = [
        [row["name"], *(f"{v:.2f}" for v in row["per_face"].values())]
        for row in result["rows"]
        if row["per_face"]
    ]
    return [
        "## One crop to landmarks",
        "",
        *table(HEAD, result["table"]),
        "",
        *([f"**{problem}**", ""] if problem else []),
        "Batch 1, network and decode. The reference is the original's: ResNet-18 with five separate",
        "convolutions and a decode of many small operations in plain float32 PyTorch, with the same number",
        "of threads. The precision of an int8 file is that of its layers that are not quantized. NME: 300-W",
        "Common, true boxes. Memory: of a separate process, including Python and libraries.",
        "",
        "### Cost by batch size, ms per face",
        "",
        *table(["", *batches], per_face),
        "",
        f"### From file to points, ms: a photo of {result['image']} with one face, warm",
        "",
        *table(["", *stages], stage_rows),
    ]


def _memory_lines(result: dict[str, Any]) -> list[str]:
    megabytes = result["megabytes"]
    return [
        f"## Memory over {IMAGES:,} images",
        "",
        f"{megabytes[1]:.0f} MB after 100 images, {megabytes[len(megabytes) // 2]:.0f} halfway,"
        f" {megabytes[-1]:.0f} at the end; {result['faces'] / result['seconds']:.1f} faces per second.",
    ]


def _peer_lines(result: dict[str, Any]) -> list[str]:
    lines = ["## Other software, one thread each, in a separate run", "", "![time and error](peers.png)"]
    for name, subset in DATASETS:
        lines += ["", f"NME on {name} {subset}.", "", *table(HEAD, result[name])]
    return [
        *lines,
        "",
        "`pip install dlib-bin face_recognition_models mediapipe==0.10.21`. dlib's predictor was trained on",
        "Common, and gets its own detector's box, or one as that detector would give. MediaPipe has other",
        "points: the nearest ones of its mesh are compared, and a part of its error is their different",
        "definition.",
    ]


def draw_peers(results: dict[str, Any]) -> None:
    """Draw time and NME of our models and of other software, on an easy and on a hard dataset."""
    result = results.get("peers") or results.get(f"peers{WITHOUT_BF16}")
    if result is None:
        return
    titles = {"300w": "300-W Common", "wflw": "WFLW as 68 points (hard: profiles, blur, occlusion)"}
    with new_figure(HERE / "peers.png", 10, 3.8, columns=len(titles)) as panels:
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            for row, milliseconds, *_, nme in (line for line in result[name] if line[-1]):
                x, y = float(milliseconds), float(nme.split()[0])
                color = COLORS[0] if row.startswith("pipnet") else COLORS[1]
                axes.plot(x, y, "o", color=color)
                text = f"{row.partition(',')[0]} {nme.partition(' ')[2]}".strip()
                label_line(axes, x, y, text, color, (-20, -11) if "int8" in row else (-4, 10))
            axes.set(xscale="log", xlim=(0.6, 90), title=title, xlabel="ms a face, one thread, batch 1")
            axes.set(ylabel="NME, % of the inter-ocular distance", ylim=(0, 1.12 * axes.get_ylim()[1]))
            axes.set_xticks([1, 3, 10, 30], ["1", "3", "10", "30"])


def _has_bf16() -> bool:
    return resolve_precision("auto", on_cuda=False)


if __name__ == "__main__":
    main()
