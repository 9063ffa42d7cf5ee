"""Smoothing of landmarks on videos that its settings were not chosen on.

    python benchmarks/robustness/smoothing/run.py --shared ../shared --cache CACHE

Rendered videos: photos that pan, zoom and turn smoothly at 30 frames a second, with sensor noise. A
landmark's true path is exact: the render's transform of one point, which is the mean over the frames of the
raw landmark, transformed back. So the network's constant error on a photo plays no part. Settings are chosen
on photos of 300-W's training set and on one clip; the report is of the London photos, which took part in no
training or choice, and of the other clip.

Jitter is the root mean square of the second difference over frames of the distance to the true path; in
clips, where the true path is unknown, of the landmarks themselves, which includes true movement. The error is
the mean distance to the true path, which lag increases as noise does. Both are in % of the inter-ocular
distance. Lag is the shift in time, in frames, at which the path of the face's center fits the true one best.

Raw landmarks are kept in the cache; after a change of the model or the tracker, use another one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipnet import FaceLandmarker
from pipnet.geometry import affine
from pipnet.io.atomic import atomic_write
from pipnet.io.discovery import images_below
from pipnet.progress import show_progress
from pipnet.video.causal_smoother import AlphaBetaConfig, CausalSmoother
from pipnet.video.reader import VideoReader
from pipnet.video.savgol_smoother import SavgolSmoother
from pipnet.video.tracker import FaceTracker

sys.path.append(str(Path(__file__).parents[2]))
from _common import new_parser, provenance, read_results, write_report, write_results
from robustness.smoothing.rendered_motion import eye_distance, jitter, lag, motions, render

HERE = Path(__file__).parent
FPS, FRAMES = 30.0, 90
"""Frame rate and number of frames of rendered videos."""
NOISES = (3.0, 8.0)
"""Standard deviations of the sensor noise in gray levels: a good camera, and a webcam in a dim room."""
TUNING_CLIP, HELD_OUT_CLIP = "cap12_edit", "cap13_edit2"
BEFORE = AlphaBetaConfig(min_gain=0.25, error_scale=0.04, error_gain=0.3, max_shift=0.04)
"""The settings of cameras before this measurement."""
HISTORY = (
    "Known bias: this is the third search. Two earlier ones tried 204 settings, and grid and limits were set"
    " with knowledge of their results; `camera`, their choice, was measured on the held-out half once, with"
    " the weights before `pipnet-68`. `camera chosen` is what the search chooses with the weights of this"
    " page."
)
"""What was tried before the search that the page describes: state it, for the grid is not all of it."""
LIMITS = (
    "Known limits: four videos for each motion, without intervals. The new settings are a trade: they follow"
    " better, and are less steady on the clip and where the face zooms, turns or is filmed by hand. The clip"
    " has no true path, and the earlier settings were chosen on it. Photos do not talk or blink, so lag of"
    " the shape is not measured."
)
"""What the page does not show."""
Smoother = SavgolSmoother | Callable[[np.ndarray], CausalSmoother] | None
GRID = {
    "min_gain": (0.15, 0.2, 0.25),
    "error_scale": (0.015, 0.02, 0.03, 0.04),
    "error_gain": (0.3, 0.4, 0.5),
    "max_shift": (0.02, 0.04),
}
"""Settings of the pose of `AlphaBetaConfig`. Photos do not move their mouths, so those of the shape stay."""
MAX_ERROR_RATIO = 1.25
"""Of chosen settings: the largest mean error of rendered videos, relative to the raw landmarks' error."""
MIN_REPEATED = 2.0
"""Of chosen settings: how many times steadier a moving face must be whose camera repeats each frame."""


def rendered_paths(landmarker: FaceLandmarker, photos: list[Path], faces: int, cache: Path) -> dict[str, Any]:
    """Return the raw and the true path of a face for each motion and noise, from ``faces`` photos each."""
    pairs: dict[str, Any] = {}
    paths = motions(np.arange(FRAMES) / FPS)
    jobs = [(name, noise) for _ in range(faces) for name, noise in product(paths, NOISES)]
    order = np.random.default_rng(0).permutation(len(photos))
    for number, (name, noise) in enumerate(show_progress(jobs, len(jobs), cache.name)):
        file = cache / f"{number}.npy"
        if not file.is_file():
            photo = photos[int(order[number % len(photos)])]
            _save(file, _raw_and_true(landmarker, photo, paths[name], noise, number))
        pair = np.load(file)
        if len(pair):
            pairs.setdefault(name, []).append((pair[0], pair[1]))
    return pairs


def _raw_and_true(
    landmarker: FaceLandmarker, photo: Path, path: np.ndarray, noise: float, seed: int
) -> np.ndarray:
    """Return the raw and the true path of a photo's face; an empty array if it is not in all frames."""
    found = landmarker(photo)
    if len(found) != 1:
        return np.zeros(0)
    tracker, raw, matrices = FaceTracker(landmarker.pipeline), [], []
    for number, (frame, matrix) in enumerate(render(photo, found.points[0], path, noise, seed)):
        faces = tracker(frame, number / FPS).faces
        if len(faces) != 1:
            return np.zeros(0)
        raw.append(faces.points[0])
        matrices.append(matrix)
    backward = [affine(points, cv2.invertAffineTransform(m)) for points, m in zip(raw, matrices, strict=True)]
    shape = np.mean(backward, axis=0)
    return np.array([raw, [affine(shape, matrix) for matrix in matrices]])


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as partial_file, partial_file.open("wb") as file:
        np.save(file, array)


def clip_path(landmarker: FaceLandmarker, path: Path, frames: int, cache: Path) -> tuple[np.ndarray, float]:
    """Return the raw landmarks of a clip's only face in each frame, and the frame rate."""
    file, reader = cache / f"{path.stem}.npy", VideoReader(path)
    if not file.is_file():
        tracker = FaceTracker(landmarker.pipeline)
        tracked = [tracker(f.image, f.time).faces for f in islice(reader, frames)]
        _save(file, np.array([faces.points[0] for faces in tracked if len(faces)]))
    return np.load(file), 25.0


def smooth(points: np.ndarray, mean_face: np.ndarray, smoother: Smoother, fps: float) -> np.ndarray:
    """Return the smoothed path."""
    points = points.astype(np.float32)
    if smoother is None:
        return points
    times = np.arange(len(points)) / fps
    if isinstance(smoother, SavgolSmoother):
        near = [np.flatnonzero(np.abs(times - now) <= smoother.reach + 1e-9) for now in times]
        return np.array([smoother(points[k], points[n], times[n] - times[k]) for k, n in enumerate(near)])
    causal = smoother(mean_face)
    return np.array([causal(face, float(time)) for face, time in zip(points, times, strict=True)])


def measure(
    pairs: dict[str, Any], clip: tuple[np.ndarray, float], mean_face: np.ndarray, smoother: Smoother
) -> dict[str, Any]:
    """Return jitter, error and lag of a smoother by motion, and the jitter of the clip."""
    result: dict[str, Any] = {}
    for name, paths in pairs.items():
        smoothed = [(smooth(raw, mean_face, smoother, FPS), truth) for raw, truth in paths]
        rows = [
            (
                jitter(points, truth, eye_distance(truth)),
                100 * np.linalg.norm(points - truth, axis=2).mean() / eye_distance(truth),
                lag(points, truth) if name not in ("still", "zoom") else np.nan,
            )
            for points, truth in smoothed
        ]
        values = np.mean(rows, axis=0)
        result[name] = {"videos": len(rows), "jitter": values[0], "error": values[1], "lag": values[2]}
    points = smooth(clip[0], mean_face, smoother, clip[1])
    result["clip"] = {"jitter": jitter(points, 0.0, eye_distance(points))}
    return result


def summary(result: dict[str, Any], raw: dict[str, Any]) -> dict[str, float]:
    """Return how many times steadier videos are, the error relative to the raw one, and the largest lag."""
    steadier = {name: raw[name]["jitter"] / row["jitter"] for name, row in result.items()}
    rendered = [name for name in result if name != "clip"]
    return {
        "clip_steadier": steadier["clip"],
        "rendered_steadier": float(np.exp(np.mean([np.log(steadier[name]) for name in rendered]))),
        "error_ratio": float(np.mean([result[n]["error"] / raw[n]["error"] for n in rendered])),
        "max_error_ratio": float(max(result[n]["error"] / raw[n]["error"] for n in rendered)),
        "max_lag": float(np.nanmax([result[n]["lag"] for n in rendered])),
    }


def repeated_frames(mean_face: np.ndarray, smoother: Smoother) -> float:
    """Return how many times steadier a face is that moves steadily, in a camera that repeats each frame."""
    face = (mean_face - mean_face.mean(axis=0)) / np.ptp(mean_face[:, 0]) * 100
    position = 6.0 * (np.arange(200) // 2)
    points = face + np.stack([position, 0 * position], axis=1)[:, None]
    smoothed = smooth(points, mean_face, smoother, 25.0)
    return float(jitter(points[50:], 0.0, 1.0) / jitter(smoothed[50:], 0.0, 1.0))


def tune(pairs: dict[str, Any], clip: tuple[np.ndarray, float], mean_face: np.ndarray) -> dict[str, Any]:
    """Return the settings that are steadiest within the limits above, and what the earlier ones reach."""
    raw = measure(pairs, clip, mean_face, None)
    rows = []
    options = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    for option in show_progress([asdict(BEFORE), *options], len(options) + 1, "settings"):
        smoother = partial(CausalSmoother, pose=AlphaBetaConfig(**option))
        values = summary(measure(pairs, clip, mean_face, smoother), raw)
        rows.append((option, {**values, "repeated_frames": repeated_frames(mean_face, smoother)}))
    allowed = [
        (option, values)
        for option, values in rows[1:]
        if values["error_ratio"] <= MAX_ERROR_RATIO and values["repeated_frames"] >= MIN_REPEATED
    ]
    settings, best = max(allowed, key=lambda row: row[1]["rendered_steadier"] * row[1]["clip_steadier"])
    return {"tried": len(options), "before": rows[0][1], "best": best, "settings": settings}


def main() -> None:
    """Choose settings on one half, and report both halves."""
    parser = new_parser(__doc__)
    parser.add_argument("--cache", type=Path, help="folder for raw landmarks; needed to measure")
    parser.add_argument("--faces", type=int, default=2, help="photos for each motion and noise")
    parser.add_argument("--frames", type=int, default=500, help="of each clip")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for report.md and results.json")
    arguments = parser.parse_args()
    if arguments.report:
        write_report(arguments.out, report(read_results(arguments.out)))
        return
    if arguments.cache is None:
        parser.error("--cache: where are raw landmarks to be kept?")
    data, cache = arguments.shared / "data", arguments.cache
    landmarker = FaceLandmarker(threads=1)
    mean_face = landmarker.model.metadata.mean_face
    photos = {
        "tuning": sorted(images_below(data / "300w" / "helen" / "trainset")),
        "held_out": sorted(images_below(data / "london")),
    }
    clips = {"tuning": TUNING_CLIP, "held_out": HELD_OUT_CLIP}
    sets = {
        name: (
            rendered_paths(landmarker, photos[name], arguments.faces, cache / name),
            clip_path(landmarker, data / "video" / f"{clips[name]}.mp4", arguments.frames, cache),
        )
        for name in clips
    }
    chosen = tune(*sets["tuning"], mean_face)
    smoothers: dict[str, Smoother] = {
        "raw": None,
        "file": SavgolSmoother(),
        "camera": CausalSmoother,
        "camera before": partial(CausalSmoother, pose=BEFORE),
    }
    pose = AlphaBetaConfig(**chosen["settings"])
    if pose != AlphaBetaConfig():
        smoothers["camera chosen"] = partial(CausalSmoother, pose=pose)
    held_out = {name: measure(*sets["held_out"], mean_face, s) for name, s in smoothers.items()}
    result = {
        **provenance(),
        "model": landmarker.model.metadata.name,
        "tuning": chosen,
        "held_out": held_out,
        "summary": {
            name: {
                **summary(row, held_out["raw"]),
                "repeated_frames": repeated_frames(mean_face, smoothers[name]),
            }
            for name, row in held_out.items()
        },
    }
    write_results(arguments.out, result)
    write_report(arguments.out, report(result))


def report(result: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    kinds, motion_names = list(result["held_out"]), [n for n in result["held_out"]["raw"] if n != "clip"]
    lines = [
        "# Smoothing on videos that its settings were not chosen on",
        "",
        "Rendered pans, zooms and turns of London photos with sensor noise, and the clip"
        f" {HELD_OUT_CLIP}. `camera` is the default of cameras and of `VideoLandmarker.update`, `file` that"
        " of files. `camera before` has earlier settings, which were chosen on sinusoids and on both clips,"
        " this one too. Jitter and error are in % of the inter-ocular distance.",
        "",
        "| | rendered: times steadier | clip: times steadier | error / raw error | largest lag, frames |"
        " repeated frames: times steadier |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["summary"].items():
        if name != "raw":
            lines.append(
                f"| {name} | {row['rendered_steadier']:.2f} | {row['clip_steadier']:.2f} |"
                f" {row['error_ratio']:.2f} | {row['max_lag']:.2f} | {row['repeated_frames']:.1f} |"
            )
    for title, key in (("Jitter", "jitter"), ("Error", "error"), ("Lag in frames", "lag")):
        lines += ["", f"## {title}", "", f"| motion | videos | {' | '.join(kinds)} |"]
        lines.append("|---|---|" + "---|" * len(kinds))
        for motion in motion_names:
            rows = [result["held_out"][kind][motion] for kind in kinds]
            if np.isfinite(rows[0][key]):
                values = " | ".join(f"{row[key]:.2f}" for row in rows)
                lines.append(f"| {motion} | {rows[0]['videos']} | {values} |")
    clip = " | ".join(f"{result['held_out'][kind]['clip']['jitter']:.2f}" for kind in kinds)
    before, best = result["tuning"]["before"], result["tuning"]["best"]
    settings = ", ".join(f"{key} {value:g}" for key, value in result["tuning"]["settings"].items())
    return [
        *lines,
        "",
        f"Jitter of the clip, which includes true movement ({', '.join(kinds)}): {clip.replace(' |', ',')}.",
        "",
        "## How the settings were chosen",
        "",
        f"Of {result['tuning']['tried']} settings on photos of 300-W's training set and the clip"
        f" {TUNING_CLIP}: the steadiest whose mean error is at most {MAX_ERROR_RATIO:g} times the raw"
        f" one, and that keep a camera that repeats frames {MIN_REPEATED:g} times steadier. It chooses"
        f" {settings}. There, rendered videos and the clip are {best['rendered_steadier']:.2f} and"
        f" {best['clip_steadier']:.2f} times steadier, and the error is {best['error_ratio']:.2f} times"
        f" the raw one; with the earlier settings {before['rendered_steadier']:.2f},"
        f" {before['clip_steadier']:.2f} and {before['error_ratio']:.2f}.",
        "",
        HISTORY,
        "",
        LIMITS,
        "",
        f"`python benchmarks/robustness/smoothing/run.py --cache CACHE`; {result['model']}, commit"
        f" {result['commit']}, {result['machine']}.",
    ]


if __name__ == "__main__":
    main()
