"""What the first crop costs: fewer pixels in a reduced copy of a photo, and faces that lean.

    python benchmarks/robustness/first_crop/run.py            (two minutes)

Two settings are chosen by it, on AFW's faces, which are no test set: how far a photo may be reduced, and from
which angle on the five points of pipnet-face rotate the first crop.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from pipnet.annotations.samples import FaceSample, evenly_spaced
from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import decoded
from pipnet.geometry import Image, box_iou, tight_box
from pipnet.inference.detectors.base import Detections
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.warp import resize

sys.path.append(str(Path(__file__).parents[2]))
from _common import measured_on, new_parser, provenance, read_results, table, write_report, write_results

HERE = Path(__file__).parent
FACES = 100
SIDES = (1.0, 0.75, 0.625, 0.5)
"""Sides of the crop in the reduced copy over the model's input."""
ANGLES = (0, 10, 20, 30, 45)


def main() -> None:
    """Measure, and write the page."""
    arguments = new_parser(__doc__).parse_args()
    results = read_results(HERE)
    if not arguments.report:
        faces = evenly_spaced(load_samples(arguments.shared / "data" / "300w", "afw")[0], FACES)
        results = {"sides": by_side(faces), "angles": by_angle(faces)} | provenance()
        write_results(HERE, results)
    write_report(HERE, report(results))


def by_side(faces: Sequence[FaceSample]) -> dict[str, float]:
    """Return the NME for crops with fewer pixels than the model's input."""
    landmarker = FaceLandmarker(detector="full_image")
    size = landmarker.metadata.input_size * np.array(SIDES)
    errors: dict[str, list[float]] = {str(side): [] for side in SIDES}
    for image, face in decoded(faces):
        box = tight_box(face.points)
        crop_side = landmarker.metadata.crop.scale * (box[2:] - box[:2]).max()
        for name, side in zip(errors, size, strict=True):
            factor = min(side / crop_side, 1.0)
            shape = np.array([max(round(length * factor), 1) for length in image.shape[1::-1]])
            scale = shape / image.shape[1::-1]
            reduced = resize(image, *shape.tolist()) if factor < 1 else image
            small = ((box.reshape(2, 2) + 0.5) * scale - 0.5).reshape(1, 4).astype(np.float32)
            points = (landmarker(reduced, small, "landmarks").points[0] + 0.5) / scale - 0.5
            errors[name].append(error(points, face.points))
    return {name: round(100 * float(np.mean(values)), 3) for name, values in errors.items()}


def by_angle(faces: Sequence[FaceSample]) -> dict[str, dict[str, float]]:
    """Return the NME of rotated faces without and with a rotated first crop, and how many are missed."""
    pipeline = FaceLandmarker(detector="pipnet-face").pipeline
    rows: dict[str, dict[str, float]] = {}
    for angle in ANGLES:
        errors: dict[str, list[float]] = {"upright crop": [], "rotated crop": []}
        for image, face in decoded(faces):
            turned, points = rotate(image, face.points, angle)
            detections = pipeline.detector(turned)
            boxes = pipeline.adapt(detections.boxes, pipeline.detector.box_format)
            overlaps = box_iou(boxes, tight_box(points)) if len(boxes) else np.zeros(1)
            if overlaps.max() < 0.3:
                continue
            best = detections.take(np.array([overlaps.argmax()]))
            plain = Detections(best.boxes, best.detection_score)
            for name, chosen in zip(errors, (plain, best), strict=True):
                result = pipeline.run([turned], [chosen], pipeline.detector.box_format)[0]
                errors[name].append(error(result.points[0], points))
        rows[str(angle)] = {name: round(100 * float(np.mean(e)), 3) for name, e in errors.items()}
        rows[str(angle)]["missed"] = len(faces) - len(errors["upright crop"])
    return rows


def rotate(image: Image, points: np.ndarray, angle: float) -> tuple[Image, np.ndarray]:
    """Return an image and its points rotated clockwise about the center by degrees."""
    turned = PIL.Image.fromarray(image).rotate(-angle, PIL.Image.Resampling.BILINEAR)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    center = np.array(image.shape[1::-1]) / 2 - 0.5
    moved = (points - center) @ np.array([[cos, sin], [-sin, cos]]) + center
    return np.asarray(turned), moved.astype(np.float32)


def error(points: np.ndarray, true: np.ndarray) -> float:
    """Return the mean distance over the distance of the outer corners of the eyes."""
    return float(np.linalg.norm(points - true, axis=1).mean() / np.linalg.norm(true[36] - true[45]))


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    lines = [
        "# The first crop",
        "",
        f"NME (normalized mean error) in %, {FACES} faces of AFW, `pipnet-68`, labels as filed.",
        "",
    ]
    sides = [[name, f"{value:.2f}"] for name, value in results["sides"].items()]
    lines += [*table(["side of the crop over the model's input", "NME"], sides), ""]
    names = ("upright crop", "rotated crop", "missed")
    angles = [[name, *(row[key] for key in names)] for name, row in results["angles"].items()]
    lines += table(["degrees by which the photo is rotated", *names], angles)
    return [*lines, "", f"`python benchmarks/robustness/first_crop/run.py`, {measured_on(results)}."]


if __name__ == "__main__":
    main()
