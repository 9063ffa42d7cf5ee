"""Head pose from landmarks: ``report.md``.

    python benchmarks/accuracy/head_pose/run.py

Three checks, with the landmarks of the default model: frontal photos (London, the half that the 3D mean face
was not fitted to), real profiles (CFP, people 351 to 400) and rendered turns (300W-LP of AFW). None has
measured angles. London's people look into the camera; CFP states the side; 300W-LP turns each photo in steps
of 5 degrees, so that differences within a photo are known.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipnet import FaceLandmarker
from pipnet.annotations.pts import read_pts
from pipnet.datasets.load import load_samples
from pipnet.geometry import Points, tight_box
from pipnet.inference.results import FaceLandmarks
from pipnet.io.csv_file import CsvReader
from pipnet.progress import show_progress

sys.path.append(str(Path(__file__).parents[2]))
from _common import new_parser, provenance, read_results, write_report, write_results

HERE = Path(__file__).parent
CAMERAS = {"far away (default)": None, "the image's longer side": 1.0}
"""Focal lengths as fractions of the image's longer side."""
STEP = 5.0
"""Degrees between two neighboring views of 300W-LP."""


def main() -> None:
    """Measure, and write the report."""
    parser = new_parser(__doc__)
    arguments = parser.parse_args()
    if arguments.report:
        write_report(HERE, report(read_results(HERE)))
        return
    data = arguments.shared / "data"
    landmarker = FaceLandmarker()
    sets = {
        "london": detected(landmarker, sorted((data / "london").glob("*.jpg"))[51:]),
        "cfp": profiles(landmarker, data / "cfp_profile"),
        "turns": turns(landmarker, data / "300w_lp_afw"),
    }
    result: dict[str, Any] = {"model": landmarker.metadata.name, "cameras": {}, **provenance()}
    for camera, fraction in CAMERAS.items():
        result["cameras"][camera] = {
            "london": frontal_errors([pose(faces, fraction) for _, faces in sets["london"]]),
            "cfp": profile_errors([(side, pose(faces, fraction)) for side, faces in sets["cfp"]]),
            "turns": turn_errors([(name, pose(faces, fraction)) for name, faces in sets["turns"]]),
        }
    write_results(HERE, result)
    write_report(HERE, report(result))


def pose(faces: FaceLandmarks, fraction: float | None) -> np.ndarray:
    """Return yaw, pitch and roll of the first face."""
    focal = None if fraction is None else fraction * max(faces.image.shape[:2])
    return np.asarray(faces.head_pose(focal)[0])


def detected(landmarker: FaceLandmarker, photos: Sequence[Path]) -> list[tuple[str, FaceLandmarks]]:
    """Return the faces of photos that the default detector finds."""
    found = [(photo.stem, landmarker(photo)) for photo in show_progress(photos, len(photos), "London")]
    return [(name, faces) for name, faces in found if len(faces)]


def profiles(landmarker: FaceLandmarker, folder: Path) -> list[tuple[str, FaceLandmarks]]:
    """Return the test faces of CFP in their true boxes, and the side of the image that each looks to."""
    facing = {row["image"]: row["facing"] for _, row in CsvReader(folder / "cfp.csv").records()}
    samples = load_samples(folder, "test")[0]
    return [
        (facing[s.image.name], boxed(landmarker, s.image, s.points))
        for s in show_progress(samples, len(samples), "CFP")
    ]


def turns(landmarker: FaceLandmarker, folder: Path) -> list[tuple[str, FaceLandmarks]]:
    """Return the rendered views in their true boxes, by name."""
    labels = sorted(folder.glob("*.pts"))
    return [
        (path.stem, boxed(landmarker, path.with_suffix(".jpg"), read_pts(path, 68)))
        for path in show_progress(labels, len(labels), "300W-LP")
    ]


def boxed(landmarker: FaceLandmarker, image: Path, points: Points) -> FaceLandmarks:
    """Return the face in the tight box of its labels."""
    return landmarker(image, boxes=tight_box(points)[None], box_format="landmarks")


def frontal_errors(poses: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean and the mean absolute angles of people who look into the camera."""
    angles = np.array(poses)
    result = {"faces": float(len(angles))}
    for i, name in enumerate(("yaw", "pitch", "roll")):
        result |= {f"{name} mean": angles[:, i].mean(), f"{name} absolute": np.abs(angles[:, i]).mean()}
    return {name: round(float(value), 2) for name, value in result.items()}


def profile_errors(poses: Sequence[tuple[str, np.ndarray]]) -> dict[str, float]:
    """Return how often the side is right, and quantiles of the yaw to that side."""
    yaw = np.array([angles[0] if side == "right" else -angles[0] for side, angles in poses])
    quantiles = dict(zip(("5 %", "50 %", "95 %"), np.quantile(yaw, (0.05, 0.5, 0.95)), strict=True))
    result = {"faces": len(yaw), "right side": (yaw > 0).mean(), "above 45": (yaw > 45).mean(), **quantiles}
    return {name: round(float(value), 3) for name, value in result.items()}


def turn_errors(poses: Sequence[tuple[str, np.ndarray]]) -> dict[str, float]:
    """Compare differences of yaw within each photo with the steps of 5 degrees between its views."""
    photos = defaultdict(list)
    for name, angles in poses:
        photo, view = name.rsplit("_", 1)
        photos[photo].append((STEP * int(view), angles[0], angles[1], angles[2]))
    groups = [np.array(views) for views in photos.values() if len(views) > 2]
    turned, found, others = [], [], []
    for views in groups:
        side = np.sign(views[:, 1].mean())
        turned.append(views[:, 0] - views[:, 0].mean())
        found.append(side * views[:, 1] - (side * views[:, 1]).mean())
        others.append(np.abs(views[:, 2:] - views[:, 2:].mean(axis=0)))
    x, y = np.concatenate(turned), np.concatenate(found)
    pitch, roll = np.concatenate(others).mean(axis=0)
    result = {
        "photos": len(groups),
        "views": len(x),
        "correlation": np.corrcoef(x, y)[0, 1],
        "degrees per degree": (x @ y) / (x @ x),
        "error": np.abs(y - x).mean(),
        "change of pitch": pitch,
        "change of roll": roll,
    }
    return {name: round(float(value), 3) for name, value in result.items()}


def report(result: dict[str, Any]) -> list[str]:
    """Return the page."""
    lines = ["# Head pose", ""]
    lines += ["| | " + " | ".join(f"focal length: {camera}" for camera in result["cameras"]) + " |"]
    lines += ["|---" * (len(result["cameras"]) + 1) + "|"]
    cameras = list(result["cameras"].values())
    london, cfp, turned = (cameras[0][key] for key in ("london", "cfp", "turns"))
    rows = {
        f"London, {london['faces']:.0f} frontal photos: mean absolute yaw": ("london", "yaw absolute"),
        "pitch": ("london", "pitch absolute"),
        "roll": ("london", "roll absolute"),
        f"CFP, {cfp['faces']:.0f} profiles: share with yaw to the right side": ("cfp", "right side"),
        "yaw, median": ("cfp", "50 %"),
        "yaw, 5 %": ("cfp", "5 %"),
        "yaw, 95 %": ("cfp", "95 %"),
        f"300W-LP, {turned['views']:.0f} turned views: correlation of yaw": ("turns", "correlation"),
        "mean error of the turn between views": ("turns", "error"),
        "degrees found per degree turned": ("turns", "degrees per degree"),
        "mean change of pitch between views (should be small)": ("turns", "change of pitch"),
    }
    for title, (key, name) in rows.items():
        lines.append(f"| {title} | " + " | ".join(f"{camera[key][name]:.2f}" for camera in cameras) + " |")
    lines += [
        "",
        f"Degrees; landmarks of `{result['model']}`, which saw the 300W-LP views in the first of its four",
        "rounds of training. No set has measured angles: people in London's photos look into the camera",
        "but do not hold their heads exactly straight, and 300W-LP's views are 5 degrees apart by",
        "construction. Many faces of CFP are full profiles: near 90 degrees the yaw is too small, because",
        "hidden landmarks follow the outline.",
        "",
        "CFP and 300W-LP are crops of larger photos: their longer side says nothing about the camera.",
        "",
        f"`python benchmarks/accuracy/head_pose/run.py`, commit {result['commit']}, {result['machine']};",
        "all numbers are in `results.json`. `fit_mean_face.py` fits the 3D mean face.",
    ]
    return lines


if __name__ == "__main__":
    main()
