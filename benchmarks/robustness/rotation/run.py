"""Rotated faces.

    python benchmarks/robustness/rotation/run.py
    python benchmarks/robustness/rotation/run.py --model pipnet-tiny --faces 200

Images of 300-W Common, rotated about their center, with and without ``any_rotation``; from true boxes (of
the rotated landmarks) and from the default detector. A face counts as missed if no detection matches it. The
cost is counted (crops of the model, images that the detector searched) and timed, interleaved, on some of the
faces. Large yaw is measured separately, on the pose subset of WFLW without rotation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipnet import FaceLandmarker
from pipnet.annotations.samples import FaceSample, evenly_spaced
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError
from pipnet.evaluation.evaluate import LabeledImage, decoded, evaluate
from pipnet.geometry import Image, affine
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.base import CropLandmarks, CropModel
from pipnet.inference.backends.load import load_model
from pipnet.inference.detectors.base import Detections
from pipnet.inference.detectors.pipnet_face import PipnetFaceDetector
from pipnet.io.image import read_image
from pipnet.progress import show_progress
from pipnet.warp import warp

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
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
ANGLES = range(0, 181, 30)
TIMED_FACES = 16
"""Faces on which time is measured."""


class CountingModel:
    """A model that counts its crops."""

    def __init__(self, model: CropModel) -> None:
        self.model, self.metadata, self.count = model, model.metadata, 0

    def __call__(self, crops: np.ndarray) -> CropLandmarks:
        """Return the landmarks of crops."""
        self.count += len(crops)
        return self.model(crops)


class CountingDetector:
    """A detector that counts the images it searches."""

    def __init__(self, detector: PipnetFaceDetector) -> None:
        self.detector, self.box_format, self.count = detector, detector.box_format, 0

    def __call__(self, image: Image) -> Detections:
        """Return the faces in an image."""
        self.count += 1
        return self.detector(image)

    def candidates(self, image: Image) -> Detections:
        """Return the faces in an image, and places that may be faces."""
        self.count += 1
        return self.detector.candidates(image)


def main() -> None:
    """Measure, and write the page."""
    parser = new_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="its results replace earlier ones of it")
    parser.add_argument("--faces", type=int, default=554, help="how many of Common's faces")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for report.md and results.json")
    arguments = parser.parse_args()
    results = read_results(arguments.out)
    if not arguments.report:
        results[arguments.model] = measure(arguments.model, arguments.shared / "data", arguments.faces)
        write_results(arguments.out, results)
    write_report(arguments.out, report(results))


def measure(name: str, data: Path, faces: int) -> dict[str, Any]:
    """Return errors, counts and times of a model by angle."""
    samples, _, spec = load_samples(data / "300w", "common")
    samples = evenly_spaced(samples, faces)
    model = CountingModel(load_model(find_model(name)))
    detector = CountingDetector(PipnetFaceDetector())
    landmarkers = {
        rotation: FaceLandmarker(model, detector, any_rotation=rotation) for rotation in (False, True)
    }
    rows = []
    for angle in ANGLES:
        row: dict[str, Any] = {"angle": angle}
        for any_rotation, landmarker in landmarkers.items():
            for true_boxes in (True, False):
                model.count = detector.count = 0
                images = show_progress(rotated(samples, angle), len(samples), f"{angle} degrees")
                try:
                    errors = evaluate(landmarker, images, spec, true_boxes)
                    nme, missed = 100 * float(errors.nmes.mean()), len(errors.missed)
                except DataError:  # no face was found
                    nme, missed = None, len(samples)
                row[f"any_rotation {any_rotation}, {'true boxes' if true_boxes else 'detector'}"] = {
                    "nme": nme,
                    "missed": missed,
                    "crops": model.count / len(samples),
                    "searches": detector.count / len(samples),
                }
        rows.append({**row, "ms": measure_time(landmarkers, samples, angle)})
        print(rows[-1], flush=True)
    pose, _, wflw = load_samples(data / "wflw", "pose", "300w")
    yaw = {
        str(rotation): 100 * float(evaluate(landmarker, decoded(pose), wflw).nmes.mean())
        for rotation, landmarker in landmarkers.items()
    }
    return {
        "faces": len(samples),
        "rows": rows,
        "WFLW pose": {"faces": len(pose), "nme": yaw},
        **provenance(),
    }


def measure_time(
    landmarkers: dict[bool, FaceLandmarker], samples: Sequence[FaceSample], angle: float
) -> dict[str, Any]:
    """Return milliseconds per image of detector and landmarks, and their ratio unless it is too noisy."""
    images = [image for image, _ in rotated(evenly_spaced(samples, TIMED_FACES), angle)]

    def find_all(landmarker: FaceLandmarker) -> None:
        for image in images:
            landmarker(image)

    runs = {f"any_rotation {name}": partial(find_all, one) for name, one in landmarkers.items()}
    timings, meter = compare_speed(runs, rounds=3, seconds=0)
    without, with_rotation = timings.values()
    noise = meter.noise()
    return {
        "any_rotation False": {"ms": without.median / len(images)},
        "any_rotation True": {
            "ms": with_rotation.median / len(images),
            "times": None if noise.problem else without.times_faster(with_rotation),
            "noise": noise.to_dict(),
        },
    }


def rotated(samples: Sequence[FaceSample], angle: float) -> Iterator[LabeledImage]:
    """Yield each image, rotated clockwise about its center, with its landmarks; black beyond its border."""
    for sample in samples:
        image = read_image(sample.image)
        height, width = image.shape[:2]
        center, radians = np.array([width - 1, height - 1]) / 2, np.deg2rad(angle)
        linear = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        matrix = np.hstack([linear, (center - linear @ center)[:, None]])
        rotated_image = warp(image, matrix, max(width, height))[:height, :width]
        points = affine(sample.points, matrix).astype(np.float32)
        yield rotated_image, replace(sample, points=points, box=None, source_box=None)


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    lines = [
        "# Rotated faces",
        "",
        "Faces of 300-W Common, rotated about the image's center;",
        "`python benchmarks/robustness/rotation/run.py --model MODEL --faces FACES`.",
        "NME (normalized mean error) in % of the inter-ocular distance over the detected faces; missed faces",
        "in brackets.",
    ]
    for name, result in results.items():
        runs = _runs(result)
        errors = [[row["angle"], *(_error(row[run]) for run in runs)] for row in result["rows"]]
        origin = f"`{name}`, {result['faces']} faces; {measured_on(result)}:"
        lines += ["", origin, "", *table(["degrees", *runs], errors)]
    lines += [
        "",
        "## Cost",
        "",
        "Crops of the model for each face, and searches of the detector for each image; milliseconds per",
        f"image of detector and landmarks, interleaved on at most {TIMED_FACES} faces, and the ratio of",
        "both times (none where other processes disturbed it).",
    ]
    for name, result in results.items():
        runs = _runs(result)
        head = ["degrees", "crops: " + runs[0], *runs[1:], "searches: without", "with"]
        costs = [_cost(row, runs) for row in result["rows"]]
        lines += ["", f"`{name}`:", "", *table([*head, "ms without", "with", "times"], costs)]
    lines += [
        "",
        "## Large yaw",
        "",
        "Rotation does not help here. NME on the faces of WFLW's pose subset as 68 points, true boxes:",
        "",
    ]
    yaws = [
        [name, result["WFLW pose"]["faces"], *(f"{nme:.2f}" for nme in result["WFLW pose"]["nme"].values())]
        for name, result in results.items()
    ]
    return [*lines, *table(["model", "faces", "any_rotation False", "True"], yaws)]


def _error(measured: dict[str, Any]) -> str:
    """Return NME and number of missed faces."""
    nme = "" if measured["nme"] is None else f"{measured['nme']:.2f} "
    return f"{nme}({measured['missed']})"


def _runs(result: dict[str, Any]) -> list[str]:
    """Return the names of the measurements of an angle."""
    return [name for name in result["rows"][0] if name not in ("angle", "ms")]


def _cost(row: dict[str, Any], runs: list[str]) -> list[object]:
    """Return the cells of crops, searches and times."""
    crops = [f"{row[run]['crops']:.1f}" for run in runs]
    searches = [f"{row[run]['searches']:.1f}" for run in runs if "detector" in run]
    without, with_rotation = row["ms"].values()
    times = with_rotation["times"]
    ratio = "" if times is None else f"{times:.2f}"
    return [row["angle"], *crops, *searches, f"{without['ms']:.1f}", f"{with_rotation['ms']:.1f}", ratio]


if __name__ == "__main__":
    main()
