"""Smoothed video: flicker, lag, and the time that tracking saves.

    python benchmarks/robustness/video/run.py --cache CACHE

Flicker is the root mean square of the second difference of each landmark over frames, in % of the
inter-ocular distance. It is measured on the two clips, without ground truth, and on rendered motion, with
ground truth: labeled faces that move as sinusoids of 0.5 to 2 Hz by 10 to 40 % of their width, with roll and
sensor noise, and faces that stand still. Lag is the shift in time at which the smoothed path of the face's
center fits the true one best. Both smoothers are measured: the one of files uses the frames before and
after, the one of cameras only earlier frames. Settings were chosen with ``--tune``, on rendered validation
faces and the flicker of the clips; the page's rendered faces are of 300-W Common.

Raw landmarks and times are kept in the cache by the checksum of the model's file, with their commit. A rerun
with the same arguments resumes, and smooths again. After a change of the tracker, use another cache.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from pipnet import FaceLandmarker
from pipnet.annotations.samples import FaceSample, split_by_group
from pipnet.datasets.load import load_samples
from pipnet.geometry import Image
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.io.atomic import atomic_write, write_text
from pipnet.progress import show_progress
from pipnet.video.causal_smoother import AlphaBetaConfig, CausalSmoother, OneEuroConfig
from pipnet.video.reader import VideoReader
from pipnet.video.savgol_smoother import SavgolSmoother
from pipnet.video.tracker import FaceTracker

sys.path.append(str(Path(__file__).parents[2]))
from _common import compare_speed, new_parser, provenance, read_results, table, write_report, write_results
from robustness.video.sinusoids import (
    FPS,
    FRAMES,
    MOTIONS,
    Path3,
    Smoother,
    flicker,
    lag,
    nme,
    render,
    smooth,
)

HERE = Path(__file__).parent
TRACKED = 250
"""Frames of each clip on which tracking is compared with detection in every frame."""
Motion = tuple[float, float]
SMOOTHERS: dict[str, Smoother] = {"raw": None, "file": SavgolSmoother(), "camera": CausalSmoother}
"""The measured smoothers, by name."""


def main() -> None:
    """Measure, or tune."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--cache", type=Path, default=Path("video"), help="folder for raw landmarks and times"
    )
    parser.add_argument("--tune", action="store_true", help="print flicker and lag of many settings")
    parser.add_argument("--faces", type=int, default=50, help="faces for the rendered motion, ten or more")
    parser.add_argument("--frames", type=int, default=None, help="of each clip; all of them if not given")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for report.md and results.json")
    arguments = parser.parse_args()
    if arguments.report:
        return write_report(arguments.out, report(read_results(arguments.out)))
    data, weights = arguments.shared / "data", find_model(DEFAULT_MODEL)
    cache = arguments.cache / f"{weights.stem}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}"
    commit_file = cache / "commit.txt"
    if not commit_file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        commit_file.write_text(provenance()["commit"])
    landmarker = FaceLandmarker(threads=1)
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
        **provenance(),
        "found by": commit_file.read_text(),
        **measure(landmarker, clips, rendered_paths, SMOOTHERS),
        "tracking": {
            path.stem: measure_tracking(landmarker, path, cache, arguments.frames)
            for path in sorted(data.glob("video/*"))
        },
    }
    write_results(arguments.out, result)
    return write_report(arguments.out, report(result))


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
        timings, meter = compare_speed(runs, rounds=5, seconds=0)
        faster = timings["tracking"].times_faster(timings["detecting every frame"])
        eyes = np.linalg.norm(detected[:, 36] - detected[:, 45], axis=1)
        points = np.array([frame.faces.points[0] for frame in tracked])
        difference = np.linalg.norm(points - detected, axis=2).mean(axis=1) / eyes
        result = {
            "frames": len(images),
            "searches": sum(frame.detected for frame in tracked),
            "times_faster": None if meter.noise().problem else faster,
            "noise": meter.noise().to_dict(),
            "ms_a_frame": {name: timing.median / min(25, count) for name, timing in timings.items()},
            "difference_percent": float(100 * difference.mean()),
        }
        write_text(file, json.dumps(result, indent=1) + "\n")
    return dict(json.loads(file.read_text()))


def _track(landmarker: FaceLandmarker, frames: list[Image]) -> None:
    tracker = FaceTracker(landmarker.pipeline)
    for number, frame in enumerate(frames):
        tracker(frame, number / FPS)


def report(result: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    return [
        "# Smoothed video",
        "",
        f"`{result['model']}`;",
        f"`python benchmarks/robustness/video/run.py --cache CACHE --faces {result['faces']}`,",
        f"commit {result['commit']}, {result['machine']}; raw landmarks and times are of commit",
        f"{result['found by']}; all numbers are in `results.json`. Flicker is the root",
        "mean square of the second difference of each landmark over frames, in % of the inter-ocular",
        "distance. In files, landmarks are smoothed with the frames before and after",
        "(`pipnet.video.savgol_smoother`), of cameras with earlier frames only",
        "(`pipnet.video.causal_smoother`).",
        "",
        *_clip_lines(result["clips"]),
        "",
        *_motion_lines(result["rendered"], result["moving"]),
        "",
        *_tracking_lines(result["tracking"]),
    ]


def _clip_lines(clips: dict[str, Any]) -> list[str]:
    rows = [
        [name, clip["frames"], f"{clip['raw']:.2f}"]
        + [
            cell
            for key in ("file", "camera")
            for cell in (f"{clip[key]:.2f}", f"{clip['raw'] / clip[key]:.1f} times")
        ]
        for name, clip in clips.items()
    ]
    return [
        "## The clips",
        "",
        "Where a head moves fast, many frames repeat the one before, as if the camera had fewer than 25",
        "frames per second. Raw landmarks move in steps there, which is most of the flicker. Videos that",
        "took no part in the choice of the settings: [smoothing](../smoothing/report.md).",
        "",
        *table(["clip", "frames", "flicker raw", "file", "reduction", "camera", "reduction"], rows),
    ]


def _motion_lines(rows: list[dict[str, Any]], moving: dict[str, Any]) -> list[str]:
    head = "motion | faces | true flicker | flicker raw | file | camera | NME % raw | file | camera"
    cells: list[list[object]] = []
    for row in rows:
        motion = f"{row['frequency']:g} Hz, {100 * row['amplitude']:.0f} %" if row["amplitude"] else "none"
        cells.append([motion, row["faces"], f"{row['true flicker']:.2f}", *_cells(row)])
    cells.append(["mean of the moving", None, None, *_cells(moving)])
    return [
        "## Rendered motion",
        "",
        f"{sum(row['faces'] for row in rows)} labeled faces of 300-W Common, oscillating by a part of their"
        " width, with 10 degrees of",
        f"roll and sensor noise, {FRAMES} frames each. Lag, in frames of 1/25 s, is the maximum of all",
        "faces.",
        "",
        *table([*head.split(" | "), "lag file", "camera"], cells),
    ]


def _tracking_lines(tracking: dict[str, Any]) -> list[str]:
    rows = []
    for name, row in tracking.items():
        detection, tracked = row["ms_a_frame"].values()
        speedup = None if row["times_faster"] is None else f"{row['times_faster']:.1f}"
        searches = f"{row['searches']} of {row['frames']}"
        times = f"{detection:.1f}, {tracked:.1f}"
        rows.append([name, speedup, times, searches, f"{row['difference_percent']:.2f}"])
    head = "clip | speed-up | ms per frame: detection, tracking | searches | difference, %"
    return [
        "## Time that tracking saves",
        "",
        "Against detection in every frame: time on the same 25 frames, interleaved; searches of the",
        "detector; and the difference of the landmarks, in % of the inter-ocular distance.",
        "",
        *table(head.split(" | "), rows),
    ]


def _cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of flicker, NME and lag."""
    cells = [f"{row[key][measure]:.2f}" for measure in ("flicker", "nme") for key in SMOOTHERS]
    lags = [row[key]["lag"] for key in ("file", "camera")]
    return cells + ["" if lag is None else f"{lag:.2f}" for lag in lags]


if __name__ == "__main__":
    main()
