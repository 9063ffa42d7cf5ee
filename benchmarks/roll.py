"""Faces turned in the picture: `benchmarks/roll.md`.

    python benchmarks/roll.py --shared ../shared

Pictures of 300-W Common, turned about their center, with and without ``any_rotation``; from true boxes (of
the turned landmarks) and from the default detector. A face counts as missed if none was found on it.
What it costs is counted (crops the model saw, pictures the detector searched) and timed, in turns, on some
of the faces. Large yaw stands apart: the pose part of WFLW, as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipnet import FaceLandmarker
from pipnet.annotations.samples import FaceSample, evenly_spaced
from pipnet.benchmark.timing import time_in_turns
from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import LabeledPicture, decoded, evaluate
from pipnet.geometry import Image, affine
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.base import CropLandmarks, CropModel
from pipnet.inference.backends.load import load_model
from pipnet.inference.detectors.base import Detections, FaceDetector
from pipnet.inference.detectors.load import load_detector
from pipnet.io.atomic import write_text
from pipnet.io.image import read_image
from pipnet.progress import track

HERE = Path(__file__).parent
ANGLES = range(0, 181, 30)
TIMED = 16
"""Faces on which time is taken."""


class Counted:
    """A model that counts the crops it is shown."""

    def __init__(self, model: CropModel) -> None:
        self.model, self.metadata, self.count = model, model.metadata, 0

    def __call__(self, crops: np.ndarray) -> CropLandmarks:
        """What the model finds on crops."""
        self.count += len(crops)
        return self.model(crops)


class CountedDetector:
    """A detector that counts the pictures it searches."""

    def __init__(self, detector: FaceDetector) -> None:
        self.detector, self.kind, self.count = detector, detector.box_format, 0

    def __call__(self, image: Image) -> Detections:
        """What the detector finds in a picture."""
        self.count += 1
        return self.detector(image)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--faces", type=int, default=554, help="how many of Common's faces")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for roll.md and roll.json")
    arguments = parser.parse_args()
    data = arguments.shared / "data"
    samples, _, spec = load_samples(data / "300w", "common")
    samples = evenly_spaced(samples, arguments.faces)
    model, detector = Counted(load_model(find_model(DEFAULT_MODEL))), CountedDetector(load_detector("auto"))
    ways = {roll: FaceLandmarker(model, detector, any_rotation=roll) for roll in (False, True)}
    rows = []
    for angle in ANGLES:
        row: dict[str, Any] = {"angle": angle}
        for any_rotation, landmarker in ways.items():
            for true_boxes in (True, False):
                model.count = detector.count = 0
                pictures = track(turned(samples, angle), len(samples), f"{angle} degrees")
                found = evaluate(landmarker, pictures, spec, true_boxes)
                row[f"any_rotation {any_rotation}, {'true boxes' if true_boxes else 'detector'}"] = {
                    "nme": 100 * float(found.nmes.mean()),
                    "missed": len(found.missed),
                    "crops": model.count / len(samples),
                    "searches": detector.count / len(samples),
                }
        rows.append({**row, "ms": timed(ways, samples, angle)})
        print(rows[-1], flush=True)
    pose, _, other = load_samples(data / "wflw", "pose", "300w")
    yaw = {
        str(roll): 100 * float(evaluate(one, decoded(pose), other).nmes.mean()) for roll, one in ways.items()
    }
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    result = {
        "model": model.metadata.name,
        "faces": len(samples),
        "rows": rows,
        "timed on": min(TIMED, len(samples)),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "WFLW pose": {"faces": len(pose), "nme": yaw},
        "commit": commit,
    }
    write_text(arguments.out / "roll.json", json.dumps(result, indent=1) + "\n")
    report(result, arguments.out)


def timed(
    ways: dict[bool, FaceLandmarker], samples: Sequence[FaceSample], angle: float
) -> dict[str, dict[str, float]]:
    """Milliseconds a picture, of detector and landmarks together, and how many times as long it takes."""
    images = [image for image, _ in turned(evenly_spaced(samples, TIMED), angle)]

    def find_all(landmarker: FaceLandmarker) -> None:
        for image in images:
            landmarker(image)

    runs = {f"any_rotation {roll}": partial(find_all, one) for roll, one in ways.items()}
    plain, rolled = time_in_turns(runs, rounds=3, seconds=0).values()
    return {
        "any_rotation False": {"ms": plain.median / len(images)},
        "any_rotation True": {"ms": rolled.median / len(images), "times": plain.times_faster(rolled)},
    }


def turned(samples: Sequence[FaceSample], angle: float) -> Iterator[LabeledPicture]:
    """Each picture turned clockwise about its center, with its landmarks; black beyond its border."""
    for sample in samples:
        image = read_image(sample.image)
        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -angle, 1)
        whole = np.asarray(cv2.warpAffine(image, matrix, (width, height)), dtype=np.uint8)
        points = affine(sample.points, matrix).astype(np.float32)
        yield whole, replace(sample, points=points, box=None, source_box=None)


def report(result: dict[str, Any], folder: Path) -> None:
    """Write the page."""
    rows = result["rows"]
    ways = [name for name in rows[0] if name not in ("angle", "ms")]
    lines = [
        "# Faces turned in the picture",
        "",
        f"`{result['model']}`, {result['faces']} faces of 300-W Common turned about the picture's center;",
        f"`python benchmarks/roll.py`, commit {result['commit']}. NME in % of the inter-ocular distance",
        "over the faces found; in brackets those missed.",
        "",
        "| degrees | " + " | ".join(ways) + " |",
        "|---" * (1 + len(ways)) + "|",
    ]
    for row in rows:
        cells = [f"{row[way]['nme']:.2f} ({row[way]['missed']})" for way in ways]
        lines.append(f"| {row['angle']} | {' | '.join(cells)} |")
    upright, over = rows[0], rows[-1]
    apart = {way: 100 * (over[way]["nme"] / upright[way]["nme"] - 1) for way in ways}
    lines += [
        "",
        "Upside down, the error is larger than upright by "
        + "; ".join(f"{apart[way]:.0f} % ({way})" for way in ways)
        + ".",
        "",
        "## Cost",
        "",
        "Crops that the model saw for each face, and searches of the detector for each picture;",
        "milliseconds a picture from the detector on, in turns on"
        f" {result['timed on']} of the faces ({result['machine']}), and how many times as long it takes",
        "with any_rotation.",
        "",
        "| degrees | crops: "
        + " | ".join(ways)
        + " | searches: without | with | ms without | with | times |",
        "|---" * (6 + len(ways)) + "|",
    ]
    for row in rows:
        crops = [f"{row[way]['crops']:.1f}" for way in ways]
        searches = [f"{row[way]['searches']:.1f}" for way in ways if "detector" in way]
        plain, rolled = row["ms"].values()
        times = [f"{plain['ms']:.1f}", f"{rolled['ms']:.1f}", f"{rolled['times']:.2f}"]
        lines.append(f"| {row['angle']} | {' | '.join([*crops, *searches, *times])} |")
    pose = result["WFLW pose"]
    plain, rolled = pose["nme"].values()
    lines += [
        "",
        "## Large yaw",
        "",
        f"Turning cannot mend it: the {pose['faces']} faces of WFLW's pose part as 68 points, true boxes:",
        f"{plain:.2f}, with any_rotation {rolled:.2f}.",
    ]
    write_text(folder / "roll.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
