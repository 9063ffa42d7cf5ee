"""Smoothed video: flicker, lag, and the time that tracking saves.

    python benchmarks/video.py --shared ../shared --cache CACHE

Flicker is the root mean square of the second difference of each landmark over frames, in % of the
inter-ocular distance. It is measured on the two clips, without ground truth, and on rendered motion, with
ground
truth: labeled faces that move as sinusoids of 0.5 to 2 Hz by 10 to 40 % of their width, with roll and sensor
    noise,
and faces that stand still. Lag is the shift in time at which the smoothed path of the face's center fits the
true one best. Both smoothers are measured: the one of files uses the frames before and after, the one of
cameras only earlier frames. Settings were chosen with ``--tune``, on rendered validation faces and the
flicker of the clips; the page's rendered faces are of 300-W Common.

Raw landmarks and times are kept in the cache by the checksum of the model's file, with their commit. A rerun
with the same arguments resumes, and smooths again. After a change of the tracker, use another cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pipnet import FaceLandmarker
from pipnet.annotations.samples import FaceSample, split_by_group
from pipnet.benchmark.timing import time_interleaved
from pipnet.datasets.load import load_samples
from pipnet.geometry import Image, affine, tight_box, warp
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.io.atomic import atomic_write, write_text
from pipnet.io.image import read_image
from pipnet.progress import show_progress
from pipnet.video.causal_smoother import AlphaBetaConfig, CausalSmoother, OneEuroConfig
from pipnet.video.reader import VideoReader
from pipnet.video.savgol_smoother import SavgolSmoother
from pipnet.video.tracker import FaceTracker

HERE = Path(__file__).parent
FPS, FRAMES, SIDE = 25.0, 75, 320
MOTIONS = [(0.0, 0.0), *product((0.5, 1.0, 2.0), (0.1, 0.2, 0.4))]
"""Frequency in Hz and amplitude in widths of the face; first, a face that stands still."""
TRACKED = 250
"""Frames of each clip on which tracking is compared with detection in every frame."""
Path3 = Float[np.ndarray, "frames landmarks 2"]
Motion = tuple[float, float]
Smoother = SavgolSmoother | Callable[[np.ndarray], CausalSmoother] | None
"""Smooths as in a file; or returns what smooths as for a camera, for a mean face; or nothing."""
SMOOTHERS: dict[str, Smoother] = {"raw": None, "file": SavgolSmoother(), "camera": CausalSmoother}
"""The measured smoothers, by name."""


def main() -> None:
    """Measure, or tune."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--cache", type=Path, required=True, help="folder for raw landmarks and times")
    parser.add_argument("--tune", action="store_true", help="print flicker and lag of many settings")
    parser.add_argument("--faces", type=int, default=50, help="faces for the rendered motion, ten or more")
    parser.add_argument("--frames", type=int, default=None, help="of each clip; all of them if not given")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for video.md and video.json")
    arguments = parser.parse_args()
    data, weights = arguments.shared / "data", find_model(DEFAULT_MODEL)
    cache = arguments.cache / f"{weights.stem}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}"
    commit_file = cache / "commit.txt"
    if not commit_file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        commit_file.write_text(_commit())
    landmarker = FaceLandmarker.from_pretrained(threads=1)
    clips = {
        path.stem: raw_clip(landmarker, path, cache, arguments.frames)
        for path in sorted(data.glob("video/*"))
    }
    common, _, _ = load_samples(data / "300w", "common")
    held_out = split_by_group(load_samples(data / "300w", "train")[0], 0.05, seed=0)[1]
    name, samples = ("tuning", held_out) if arguments.tune else ("common", common)
    rendered_paths = rendered(landmarker, samples, arguments.faces, cache / name)
    if arguments.tune:
        return tune(landmarker, clips, rendered_paths)
    result = {
        "model": landmarker.model.metadata.name,
        "faces": arguments.faces,
        "commit": _commit(),
        "found by": commit_file.read_text(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread",
        **measure(landmarker, clips, rendered_paths, SMOOTHERS),
        "tracking": {
            path.stem: measure_tracking(landmarker, path, cache, arguments.frames)
            for path in sorted(data.glob("video/*"))
        },
    }
    write_text(arguments.out / "video.json", json.dumps(result, indent=1) + "\n")
    return report(result, arguments.out)


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


def raw_clip(landmarker: FaceLandmarker, path: Path, cache: Path, frames: int | None) -> Path3:
    """Return the raw landmarks of a clip's only face in each frame; they are computed once."""
    file = cache / f"{path.stem}-{frames or 'all'}.npy"
    if not file.is_file():
        reader, tracker = VideoReader(path), FaceTracker(landmarker.pipeline)
        frame_faces = [
            tracker(frame.image, frame.time).faces
            for frame in show_progress(islice(reader, frames), frames or reader.frames, path.name)
        ]
        save(file, np.array([faces.points[0] for faces in frame_faces if len(faces)]))
    return np.asarray(np.load(file))


def save(path: Path, array: np.ndarray) -> None:
    """Write an array atomically."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def rendered(
    landmarker: FaceLandmarker, samples: Sequence[FaceSample], count: int, folder: Path
) -> dict[Motion, list[tuple[Path3, Path3]]]:
    """Return the raw and the true path of each rendered face, by motion; each face has one motion.

    A face is left out if a frame has no detection, or more than one.
    """
    chosen = np.random.default_rng(0).permutation(len(samples))[:count]
    paths: dict[Motion, list[tuple[Path3, Path3]]] = {motion: [] for motion in MOTIONS}
    for number, i in enumerate(show_progress(chosen.tolist(), len(chosen), "rendered motion")):
        motion, file = MOTIONS[number % len(MOTIONS)], folder / f"{number}.npy"
        if not file.is_file():
            frames, truth = render(samples[i], *motion, seed=number)
            tracker = FaceTracker(landmarker.pipeline)
            frame_faces = [tracker(frame, k / FPS).faces for k, frame in enumerate(frames)]
            complete = all(len(faces) == 1 for faces in frame_faces)
            raw = [faces.points[0] for faces in frame_faces if len(faces)]
            save(file, np.array([raw, truth]) if complete else np.zeros(0))
        pair = np.load(file)
        if len(pair):
            paths[motion].append((pair[0], pair[1]))
    return paths


def render(sample: FaceSample, frequency: float, amplitude: float, seed: int) -> tuple[list[Image], Path3]:
    """Return frames of a face that oscillates and rolls, and its landmarks in each."""
    rng = np.random.default_rng(seed)
    image, box = read_image(sample.image), tight_box(sample.points)
    center, width = (box[:2] + box[2:]) / 2, float(box[2] - box[0])
    scale = 0.4 * SIDE / width
    direction = rng.uniform(0, 2 * np.pi)
    frames, truth = [], []
    for k in range(FRAMES):
        phase = np.sin(2 * np.pi * frequency * k / FPS)
        cos, sin = scale * np.cos(np.deg2rad(10 * phase)), scale * np.sin(np.deg2rad(10 * phase))
        linear = np.array([[cos, sin], [-sin, cos]])
        shift = amplitude * 0.4 * SIDE * phase * np.array([np.cos(direction), np.sin(direction)])
        matrix = np.hstack([linear, (SIDE / 2 + shift - linear @ center)[:, None]])
        frame = warp(image, matrix, SIDE)
        frames.append((frame + rng.normal(0, 4, frame.shape)).clip(0, 255).astype(np.uint8))
        truth.append(affine(sample.points, matrix))
    return frames, np.array(truth)


def measure(
    landmarker: FaceLandmarker,
    clips: dict[str, Path3],
    rendered_paths: dict[Motion, list[tuple[Path3, Path3]]],
    smoothers: dict[str, Smoother],
) -> dict[str, Any]:
    """Return flicker on the clips, and flicker, lag and NME on the rendered motions, by smoother."""
    mean_face = landmarker.model.metadata.mean_face
    result: dict[str, Any] = {"clips": {}, "rendered": []}
    for name, points in clips.items():
        flickers = {key: flicker(smooth(points, mean_face, smoother)) for key, smoother in smoothers.items()}
        result["clips"][name] = {"frames": len(points), **flickers}
    for (frequency, amplitude), pairs in rendered_paths.items():
        if not pairs:
            continue
        row: dict[str, Any] = {"frequency": frequency, "amplitude": amplitude, "faces": len(pairs)}
        row["true flicker"] = float(np.mean([flicker(truth) for _, truth in pairs]))
        for key, smoother in smoothers.items():
            paths = [(smooth(points, mean_face, smoother), truth) for points, truth in pairs]
            row[key] = {
                "flicker": float(np.mean([flicker(points) for points, _ in paths])),
                "nme": float(np.mean([nme(points, truth) for points, truth in paths])),
                "lag": max(lag(points, truth) for points, truth in paths) if amplitude else None,
            }
        result["rendered"].append(row)
    moving = [row for row in result["rendered"] if row["amplitude"]]
    result["moving"] = {
        key: {
            "flicker": float(np.mean([row[key]["flicker"] for row in moving])),
            "nme": float(np.mean([row[key]["nme"] for row in moving])),
            "lag": max(row[key]["lag"] for row in moving),
        }
        for key in smoothers
    }
    return result


def smooth(points: Path3, mean_face: np.ndarray, smoother: Smoother) -> Path3:
    """Return the smoothed path."""
    if smoother is None:
        return points
    if isinstance(smoother, SavgolSmoother):
        times, path = np.arange(len(points)) / FPS, points.astype(np.float32)
        near = [np.flatnonzero(np.abs(times - now) <= smoother.reach + 1e-9) for now in times]
        frames = zip(path, near, times, strict=True)
        return np.array([smoother(raw, path[n], times[n] - now) for raw, n, now in frames])
    causal = smoother(mean_face)
    return np.array([causal(frame.astype(np.float32), k / FPS) for k, frame in enumerate(points)])


def flicker(points: Path3) -> float:
    """Return the root mean square of the second difference, in % of the inter-ocular distance."""
    second = np.diff(points, n=2, axis=0)
    eyes = np.linalg.norm(points[:, 36] - points[:, 45], axis=1).mean()
    return float(100 * np.sqrt((second**2).sum(axis=2).mean()) / eyes)


def lag(points: Path3, truth: Path3) -> float:
    """Return the frames by which the path of the face's center is late, to a twentieth."""
    times = np.arange(len(points))
    shifts = np.arange(-1, 4, 0.05)
    center, true = points.mean(axis=1), truth.mean(axis=1)
    center, true = center - center.mean(axis=0), true - true.mean(axis=0)
    inner = slice(10, -5)
    errors = []
    for shift in shifts:
        shifted = np.stack([np.interp(times - shift, times, true[:, k]) for k in (0, 1)], axis=1)
        errors.append(float(np.linalg.norm(center[inner] - shifted[inner], axis=1).mean()))
    return float(shifts[int(np.argmin(errors))])


def nme(points: Path3, truth: Path3) -> float:
    """Return the mean over frames, in % of the inter-ocular distance."""
    eyes = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)
    return float(100 * (np.linalg.norm(points - truth, axis=2).mean(axis=1) / eyes).mean())


def tune(
    landmarker: FaceLandmarker,
    clips: dict[str, Path3],
    rendered_paths: dict[Motion, list[tuple[Path3, Path3]]],
) -> None:
    """Print flicker, lag and NME of many settings."""
    smoothers: list[Smoother] = [
        SavgolSmoother(width, degree) for width, degree in product((0.08, 0.1, 0.12, 0.14, 0.16), (2, 4))
    ]
    shapes = [(0.3, 2), (0.5, 5), (1, 5)]
    poses = product((0.2, 0.25, 0.3), (0.015, 0.025, 0.04), (0.3, 0.45), (0.02, 0.04))
    smoothers += [
        partial(CausalSmoother, pose=AlphaBetaConfig(*pose), shape=OneEuroConfig(*shape))
        for pose, shape in product(poses, shapes)
    ]
    for smoother in smoothers:
        result = measure(landmarker, clips, rendered_paths, {"raw": None, "smoothed": smoother})
        steadier = [clip["raw"] / clip["smoothed"] for clip in result["clips"].values()]
        raw, smoothed = result["moving"]["raw"], result["moving"]["smoothed"]
        print(
            f"{smoother}: clips steadier {', '.join(f'{s:.2f}' for s in steadier)};"
            f" lag at most {smoothed['lag']:.2f}, NME {smoothed['nme']:.3f} (raw {raw['nme']:.3f})",
            flush=True,
        )


def measure_tracking(
    landmarker: FaceLandmarker, path: Path, cache: Path, frames: int | None
) -> dict[str, Any]:
    """Compare tracking with detection in every frame: time, searches, and difference of the landmarks."""
    count = min(frames or TRACKED, TRACKED)
    file = cache / f"{path.stem}-following-{count}.json"
    if not file.is_file():
        images = [frame.image for frame in islice(VideoReader(path), count)]
        tracker = FaceTracker(landmarker.pipeline)
        tracked = [tracker(image, k / FPS) for k, image in enumerate(images)]
        detected = np.array(
            [landmarker(image).points[0] for image in show_progress(images, count, "detecting")]
        )
        runs = {
            "detecting every frame": lambda: [landmarker(image) for image in images[:25]],
            "tracking": lambda: _track(landmarker, images[:25]),
        }
        timings = time_interleaved(runs, rounds=5, seconds=0)
        eyes = np.linalg.norm(detected[:, 36] - detected[:, 45], axis=1)
        points = np.array([frame.faces.points[0] for frame in tracked])
        difference = np.linalg.norm(points - detected, axis=2).mean(axis=1) / eyes
        result = {
            "frames": len(images),
            "searches": sum(frame.detected for frame in tracked),
            "times_faster": timings["tracking"].times_faster(timings["detecting every frame"]),
            "ms_a_frame": {name: timing.median / min(25, count) for name, timing in timings.items()},
            "difference_percent": float(100 * difference.mean()),
        }
        write_text(file, json.dumps(result, indent=1) + "\n")
    return dict(json.loads(file.read_text()))


def _track(landmarker: FaceLandmarker, frames: list[Image]) -> None:
    tracker = FaceTracker(landmarker.pipeline)
    for number, frame in enumerate(frames):
        tracker(frame, number / FPS)


def report(result: dict[str, Any], folder: Path) -> None:
    """Write the page."""
    faces = sum(row["faces"] for row in result["rendered"])
    lines = [
        "# Smoothed video",
        "",
        f"`{result['model']}`; `python benchmarks/video.py --cache CACHE --faces {result['faces']}`,",
        f"commit {result['commit']}, {result['machine']}; raw landmarks and times are of commit",
        f"{result['found by']}; all numbers are in `video.json`. Flicker is the root",
        "mean square of the second difference of each landmark over frames, in % of the inter-ocular",
        "distance. In files, landmarks are smoothed with the frames before and after",
        "(`pipnet.video.savgol_smoother`), of cameras with earlier frames only",
        "(`pipnet.video.causal_smoother`).",
        "",
        "## The clips",
        "",
        "Where a head moves fast, many frames repeat the one before, as if the camera had fewer than 25",
        "frames per second. Raw landmarks move in steps there, which is most of the flicker.",
        "",
        "| clip | frames | flicker raw | file | reduction | camera | reduction |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, clip in result["clips"].items():
        cells = [f"{clip[key]:.2f} | {clip['raw'] / clip[key]:.1f} times" for key in ("file", "camera")]
        lines.append(f"| {name} | {clip['frames']} | {clip['raw']:.2f} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Rendered motion",
        "",
        f"{faces} labeled faces of 300-W Common, oscillating by a part of their width, with 10 degrees of",
        f"roll and sensor noise, {FRAMES} frames each. Lag, in frames of 1/25 s, is the maximum of all",
        "faces.",
        "",
        "| motion | faces | true flicker | flicker raw | file | camera | NME % raw | file | camera "
        "| lag file | camera |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rendered"]:
        motion = f"{row['frequency']:g} Hz, {100 * row['amplitude']:.0f} %" if row["amplitude"] else "none"
        true = f"{row['true flicker']:.2f}"
        lines.append(f"| {motion} | {row['faces']} | {true} | {_cells(row)} |")
    lines += [
        f"| mean of the moving | | | {_cells(result['moving'])} |",
        "",
        "## Time that tracking saves",
        "",
        "Against detection in every frame: time on the same 25 frames, interleaved; searches of the",
        "detector; and the difference of the landmarks, in % of the inter-ocular distance.",
        "",
        "| clip | speed-up | ms per frame: detection, tracking | searches | difference, % |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["tracking"].items():
        detection, tracking = row["ms_a_frame"].values()
        lines.append(
            f"| {name} | {row['times_faster']:.1f} | {detection:.1f}, {tracking:.1f} | {row['searches']} of"
            f" {row['frames']} | {row['difference_percent']:.2f} |"
        )
    write_text(folder / "video.md", "\n".join(lines) + "\n")


def _cells(row: dict[str, Any]) -> str:
    """Return the cells of flicker, NME and lag."""
    cells = [f"{row[key][measure]:.2f}" for measure in ("flicker", "nme") for key in SMOOTHERS]
    lags = [row[key]["lag"] for key in ("file", "camera")]
    return " | ".join(cells + ["" if lag is None else f"{lag:.2f}" for lag in lags])


if __name__ == "__main__":
    main()
