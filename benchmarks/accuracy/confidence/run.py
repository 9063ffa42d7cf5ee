"""The quality of the confidence of the shipped weights.

    python benchmarks/accuracy/confidence/run.py

The calibration was fitted when the weights were made (`benchmarks/training/weights/run.py`), on faces held
out of training. Here it is evaluated on 300-W Common, WFLW and its occlusion subset, faces with a part
hidden or outside the image, and crops without a face. All boxes are true boxes. A landmark is wrong if its
error is more than 5 % of the face. The predicted and true errors of all landmarks are kept in
``landmarks.npz``, from which ``--report`` draws the figure again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipnet import FaceLandmarker
from pipnet.annotations.samples import FaceSample
from pipnet.confidence import MAX_ERROR
from pipnet.datasets.load import load_samples
from pipnet.geometry import Image, tight_box
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import read_image
from pipnet.papers.face_free_crops import find_backgrounds
from pipnet.progress import show_progress

sys.path.append(str(Path(__file__).parents[2]))
from _common import measured_on, new_parser, provenance, read_results, table, write_report, write_results
from accuracy.confidence.reliability import (
    ReliabilityData,
    auroc,
    bootstrap_interval,
    calibration_error,
    draw_reliability,
    gain_of_dropping,
    load_reliability,
    save_reliability,
)

HERE = Path(__file__).parent
RAW = HERE / "landmarks.npz"
HIDDEN_SIDE = 0.4
"""Side of the rectangle that hides a part of a face, over that of the face."""
MEASURES: dict[str, Callable[[ReliabilityData], float]] = {
    "AUROC": auroc,
    "ECE": calibration_error,
    "gain": gain_of_dropping,
}


def main() -> None:
    """Measure, and write the page."""
    parser = new_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or .onnx file")
    arguments = parser.parse_args()
    result = read_results(HERE)
    if not arguments.report:
        result = measure(arguments.model, arguments.shared / "data")
        write_results(HERE, result)
    if RAW.is_file():
        draw_reliability(load_reliability(RAW), HERE / "reliability.png")
    write_report(HERE, report(result))


def measure(model: str, data: Path) -> dict[str, Any]:
    """Return all results, and keep the errors of all landmarks."""
    landmarker = FaceLandmarker(model)
    common, _, _ = load_samples(data / "300w", "common")
    wflw, _, _ = load_samples(data / "wflw", "test", "300w")
    occlusion, _, _ = load_samples(data / "wflw", "occlusion", "300w")
    sets = {
        "300-W Common": observe(landmarker, common),
        "WFLW-68": observe(landmarker, wflw),
        "WFLW-68, occlusion": observe(landmarker, occlusion),
    }
    save_reliability(sets, RAW)
    return {
        "model": landmarker.model.metadata.name,
        "file": model if model == DEFAULT_MODEL else Path(model).name,
        "sets": {name: summary(reliability) for name, reliability in sets.items()},
        "hidden": without_visibility(landmarker, common, hide),
        "beyond the border": without_visibility(landmarker, common, cut_off),
        "no face": without_face(landmarker, common),
        **provenance(),
    }


def observe(landmarker: FaceLandmarker, samples: Sequence[FaceSample]) -> ReliabilityData:
    """Return the predicted and true errors of faces."""
    rows = []
    for sample in show_progress(samples, len(samples), "faces"):
        box = sample.face_box(landmarker.model.metadata.crop)
        faces = landmarker(read_image(sample.image), boxes=box, box_format="model")
        errors = np.linalg.norm(faces.points[0] - sample.points, axis=1) / _size(sample)
        rows.append((1 - faces.confidence[0], faces.expected_error[0], errors, errors > MAX_ERROR))
    return ReliabilityData(*(np.array(part) for part in zip(*rows, strict=True)))


def summary(reliability: ReliabilityData) -> dict[str, Any]:
    """Return all measures with their intervals over faces."""
    result: dict[str, Any] = {
        "faces": len(reliability.errors),
        "wrong": float(reliability.wrong.mean()),
        "predicted": float(reliability.error_probability.mean()),
    }
    for name, measure in MEASURES.items():
        result[name] = [measure(reliability), *bootstrap_interval(reliability, measure)]
    return result


def hide(image: Image, sample: FaceSample, rng: np.random.Generator) -> tuple[Image, np.ndarray]:
    """Return the image with a rectangle of one color on the face, and which landmarks it hides."""
    x0, y0, x1, y1 = tight_box(sample.points)
    side = np.array([x1 - x0, y1 - y0]) * HIDDEN_SIDE
    low = np.array([x0, y0]) + rng.random(2) * (np.array([x1 - x0, y1 - y0]) - side)
    a, b = low.round().astype(int).clip(0), (low + side).round().astype(int)
    image = image.copy()
    image[a[1] : b[1], a[0] : b[0]] = rng.integers(0, 256, 3)
    return image, np.all((sample.points > a) & (sample.points < b), axis=1)


def cut_off(image: Image, sample: FaceSample, rng: np.random.Generator) -> tuple[Image, np.ndarray]:
    """Return the image without the lower or the left part of the face, and which landmarks are lost."""
    x0, y0, x1, y1 = tight_box(sample.points)
    image = image.copy()
    if rng.random() < 0.5:
        border = int(y1 - 0.3 * (y1 - y0))
        image[border:] = 0
        return image, sample.points[:, 1] >= border
    border = int(x0 + 0.3 * (x1 - x0))
    image[:, :border] = 0
    return image, sample.points[:, 0] < border


def without_visibility(
    landmarker: FaceLandmarker,
    samples: Sequence[FaceSample],
    change: Callable[[Image, FaceSample, np.random.Generator], tuple[Image, np.ndarray]],
) -> dict[str, float]:
    """Return mean confidence and share of right landmarks, for invisible and for other landmarks."""
    rng = np.random.default_rng(0)
    confidence: dict[bool, list[np.ndarray]] = {True: [], False: []}
    right: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for sample in show_progress(samples, len(samples), change.__name__):
        image, invisible = change(read_image(sample.image), sample, rng)
        box = sample.face_box(landmarker.model.metadata.crop)
        faces = landmarker(image, boxes=box, box_format="model")
        errors = np.linalg.norm(faces.points[0] - sample.points, axis=1) / _size(sample)
        for hidden in (True, False):
            confidence[hidden].append(faces.confidence[0][invisible == hidden])
            right[hidden].append(errors[invisible == hidden] <= MAX_ERROR)
    return {
        f"{name}, {group}": float(np.concatenate(values[hidden]).mean())
        for name, values in (("confidence", confidence), ("right", right))
        for hidden, group in ((True, "not visible"), (False, "others"))
    }


def without_face(landmarker: FaceLandmarker, samples: Sequence[FaceSample]) -> dict[str, float]:
    """Return statistics of the quality of faces and of background crops of the same photos."""
    metadata = landmarker.model.metadata
    photos = ((s.name, read_image(s.image), tight_box(s.points)[None]) for s in samples)
    backgrounds = find_backgrounds(show_progress(photos, len(samples), "backgrounds"), metadata.input_size, 1)
    crop_box = np.array([[0, 0, metadata.input_size, metadata.input_size]], np.float32) - 0.5
    without = [
        landmarker(background.crop, boxes=crop_box, box_format="full_image").quality[0]
        for background in backgrounds
    ]
    faces = []
    for sample in show_progress(samples, len(samples), "faces"):
        box = sample.face_box(metadata.crop)
        faces.append(landmarker(read_image(sample.image), boxes=box, box_format="model").quality[0])
    low = float(np.percentile(faces, 1))
    ranks = np.searchsorted(np.sort(without), faces) / len(without)
    return {
        "backgrounds": len(without),
        "AUROC": float(ranks.mean()),
        "quality that 99 % of the faces have": low,
        "backgrounds below it": float((np.array(without) < low).mean()),
        "median quality of faces": float(np.median(faces)),
        "median quality of backgrounds": float(np.median(without)),
    }


def report(result: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    rows = []
    for name, row in result["sets"].items():
        cells = [f"{row[key][0]:.3f} ({row[key][1]:.3f} to {row[key][2]:.3f})" for key in ("AUROC", "ECE")]
        cells.append("{:.1f} ({:.1f} to {:.1f})".format(*(100 * v for v in row["gain"])))
        rows.append(
            [name, row["faces"], f"{100 * row['wrong']:.1f}", f"{100 * row['predicted']:.1f}", *cells]
        )
    hidden = [
        [title, *(f"{value:.3f}" for value in result[name].values())]
        for name, title in (
            ("hidden", "hidden by a rectangle of 0.4 face sides"),
            ("beyond the border", "outside the image"),
        )
    ]
    no_face = result["no face"]
    return [
        "# Confidence",
        "",
        f"`{result['model']}`, `python benchmarks/accuracy/confidence/run.py --model {result['file']}`,",
        f"{measured_on(result)}.",
        "Wrong: error of more than 5 % of the face. Intervals: 95 % over faces. Gain: decrease of the mean",
        "error if the fifth of the landmarks with the largest expected error is left out. Probabilities",
        "are half way between those on the training dataset and on another",
        "([measured](../calibration/report.md)).",
        "",
        *table(["faces", "n", "wrong %", "predicted %", "AUROC", "ECE", "gain %"], rows),
        "",
        "![reliability and risk-coverage](reliability.png)",
        "",
        "## Landmarks that are not visible (300-W Common)",
        "",
        *table(["", "confidence: not visible", "others", "right: not visible", "others"], hidden),
        "",
        "Confidence is the probability that a landmark is right, not that it is visible: it stays high where",
        "the visible part of a face determines the hidden landmark.",
        "",
        "## Without a face",
        "",
        f"A face's `quality` against that of {no_face['backgrounds']} background crops of the same photos:",
        f"AUROC {no_face['AUROC']:.3f}; median {no_face['median quality of faces']:.2f} and"
        f" {no_face['median quality of backgrounds']:.2f}. 99 % of the faces have at least"
        f" {no_face['quality that 99 % of the faces have']:.2f};",
        f"{100 * no_face['backgrounds below it']:.1f} % of the backgrounds have less.",
    ]


def _size(sample: FaceSample) -> float:
    box = tight_box(sample.points)
    return float((box[2:] - box[:2]).max())


if __name__ == "__main__":
    main()
