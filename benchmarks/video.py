"""Steady video: flicker, lag, and what following faces saves.

    python benchmarks/video.py --shared ../shared --cache CACHE

Flicker is the root mean square of the second difference of each landmark over frames, in % of the
inter-ocular distance; it is measured on the two clips, where nobody knows the truth, and on rendered motion,
where it is known: labeled faces moved as sinusoids of 0.5 to 2 Hz by 10 to 40 % of their width, with roll
and the noise of a sensor; and faces that stand still. Lag is the shift in time at which the smoothed path of
the whole face fits the true one best. Both ways to smooth are measured: of files, by the frames before and
after, and of cameras, frame by frame. Settings were chosen by ``--tune``, on rendered validation faces and
the flicker of the clips; the page's rendered faces are of 300-W Common.

Landmarks as they were found, and times, are kept in the cache by the checksum of the model's file, with the
commit that found them; run again, it goes on, and smooths anew. After a change of the tracker, take another.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from pipnet import FaceLandmarker
from pipnet.annotations.samples import FaceSample, split_by_group
from pipnet.benchmark.timing import time_in_turns
from pipnet.datasets.load import load_samples
from pipnet.geometry import Image, affine, tight_box
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.io.atomic import atomic_write, write_text
from pipnet.io.image import read_image
from pipnet.progress import track
from pipnet.video.causal_smoother import AlphaBetaConfig, CausalSmoother, FaceSmoother, OneEuroConfig
from pipnet.video.reader import VideoReader
from pipnet.video.savgol_smoother import SavgolSmoother
from pipnet.video.tracker import FaceTracker

HERE = Path(__file__).parent
FPS, FRAMES, SIDE = 25.0, 75, 320
MOTIONS = [(0.0, 0.0), *product((0.5, 1.0, 2.0), (0.1, 0.2, 0.4))]
"""Frequency in Hz and amplitude in widths of the face; first, a face that stands still."""
FOLLOWED = 250
"""Frames of each clip in which following is compared with detecting."""
Path3 = Float[np.ndarray, "frames landmarks 2"]
Motion = tuple[float, float]
Settings = SavgolSmoother | CausalSmoother | None
WAYS: dict[str, Settings] = {"raw": None, "file": SavgolSmoother(), "camera": CausalSmoother()}
"""How landmarks are smoothed."""


def main() -> None:
    """Measure, or tune."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--cache", type=Path, required=True, help="folder for what was measured")
    parser.add_argument("--tune", action="store_true", help="print flicker and lag of many settings")
    parser.add_argument("--faces", type=int, default=50, help="faces for the rendered motion, ten or more")
    parser.add_argument("--frames", type=int, default=None, help="of each clip; all of them if not given")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for video.md and video.json")
    arguments = parser.parse_args()
    data, weights = arguments.shared / "data", find_model(DEFAULT_MODEL)
    cache = arguments.cache / f"{weights.stem}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}"
    found_by = cache / "commit.txt"
    if not found_by.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        found_by.write_text(_commit())
    landmarker = FaceLandmarker.from_pretrained(threads=1)
    clips = {
        path.stem: raw_clip(landmarker, path, cache, arguments.frames)
        for path in sorted(data.glob("video/*"))
    }
    common, _, _ = load_samples(data / "300w", "common")
    held_out = split_by_group(load_samples(data / "300w", "train")[0], 0.05, seed=0)[1]
    name, samples = ("tuning", held_out) if arguments.tune else ("common", common)
    moved = rendered(landmarker, samples, arguments.faces, cache / name)
    if arguments.tune:
        return tune(landmarker, clips, moved)
    result = {
        "model": landmarker.model.metadata.name,
        "faces": arguments.faces,
        "commit": _commit(),
        "found by": found_by.read_text(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread",
        **measure(landmarker, clips, moved, WAYS),
        "following": {
            path.stem: following(landmarker, path, cache, arguments.frames)
            for path in sorted(data.glob("video/*"))
        },
    }
    write_text(arguments.out / "video.json", json.dumps(result, indent=1) + "\n")
    return report(result, arguments.out)


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


def raw_clip(landmarker: FaceLandmarker, path: Path, cache: Path, frames: int | None) -> Path3:
    """Landmarks of a clip's one face as found in each frame, computed once."""
    kept = cache / f"{path.stem}-{frames or 'all'}.npy"
    if not kept.is_file():
        reader, tracker = VideoReader(path), FaceTracker(landmarker, smoothing=None)
        found = [
            tracker(frame.image, frame.time).faces
            for frame in track(islice(reader, frames), frames or reader.frames, path.name)
        ]
        keep(kept, np.array([faces.points[0] for faces in found if len(faces)]))
    return np.asarray(np.load(kept))


def keep(path: Path, array: np.ndarray) -> None:
    """Keep what was found, whole or not at all."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def rendered(
    landmarker: FaceLandmarker, samples: Sequence[FaceSample], count: int, folder: Path
) -> dict[Motion, list[tuple[Path3, Path3]]]:
    """Paths of moved faces: as found in each frame, and the truth. One motion a face, in turn.

    A face that is not found in every frame, or with another, is left out.
    """
    chosen = np.random.default_rng(0).permutation(len(samples))[:count]
    paths: dict[Motion, list[tuple[Path3, Path3]]] = {motion: [] for motion in MOTIONS}
    for number, i in enumerate(track(chosen.tolist(), len(chosen), "rendered motion")):
        motion, kept = MOTIONS[number % len(MOTIONS)], folder / f"{number}.npy"
        if not kept.is_file():
            frames, truth = render(samples[i], *motion, seed=number)
            tracker = FaceTracker(landmarker, smoothing=None)
            found = [tracker(frame, k / FPS).faces for k, frame in enumerate(frames)]
            alone = all(len(faces) == 1 for faces in found)
            keep(kept, np.array([[faces.points[0] for faces in found], truth]) if alone else np.zeros(0))
        pair = np.load(kept)
        if len(pair):
            paths[motion].append((pair[0], pair[1]))
    return paths


def render(sample: FaceSample, frequency: float, amplitude: float, seed: int) -> tuple[list[Image], Path3]:
    """Frames of a face that moves to and fro and rolls, and its landmarks in each."""
    rng = np.random.default_rng(seed)
    image, box = read_image(sample.image), tight_box(sample.points)
    center, width = (box[:2] + box[2:]) / 2, float(box[2] - box[0])
    scale = 0.4 * SIDE / width
    way = rng.uniform(0, 2 * np.pi)
    frames, truth = [], []
    for k in range(FRAMES):
        phase = np.sin(2 * np.pi * frequency * k / FPS)
        matrix = cv2.getRotationMatrix2D(tuple(center.tolist()), 10 * phase, scale)
        shift = amplitude * 0.4 * SIDE * phase * np.array([np.cos(way), np.sin(way)])
        matrix[:, 2] += SIDE / 2 - center + shift
        frame = cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_AREA)
        frames.append((frame + rng.normal(0, 4, frame.shape)).clip(0, 255).astype(np.uint8))
        truth.append(affine(sample.points, matrix))
    return frames, np.array(truth)


def measure(
    landmarker: FaceLandmarker,
    clips: dict[str, Path3],
    moved: dict[Motion, list[tuple[Path3, Path3]]],
    ways: dict[str, Settings],
) -> dict[str, Any]:
    """Flicker of the clips; flicker, lag and NME of each rendered motion and on the mean; each by way."""
    mean_face = landmarker.model.metadata.mean_face
    result: dict[str, Any] = {"clips": {}, "rendered": []}
    for name, points in clips.items():
        flickers = {way: flicker(smooth(points, mean_face, how)) for way, how in ways.items()}
        result["clips"][name] = {"frames": len(points), **flickers}
    for (frequency, amplitude), pairs in moved.items():
        if not pairs:
            continue
        row: dict[str, Any] = {"frequency": frequency, "amplitude": amplitude, "faces": len(pairs)}
        row["true flicker"] = float(np.mean([flicker(truth) for _, truth in pairs]))
        for way, how in ways.items():
            paths = [(smooth(points, mean_face, how), truth) for points, truth in pairs]
            row[way] = {
                "flicker": float(np.mean([flicker(points) for points, _ in paths])),
                "nme": float(np.mean([nme(points, truth) for points, truth in paths])),
                "lag": max(lag(points, truth) for points, truth in paths) if amplitude else None,
            }
        result["rendered"].append(row)
    moving = [row for row in result["rendered"] if row["amplitude"]]
    result["moving"] = {
        way: {
            "flicker": float(np.mean([row[way]["flicker"] for row in moving])),
            "nme": float(np.mean([row[way]["nme"] for row in moving])),
            "lag": max(row[way]["lag"] for row in moving),
        }
        for way in ways
    }
    return result


def smooth(points: Path3, mean_face: np.ndarray, settings: Settings) -> Path3:
    """A path as it is smoothed."""
    if settings is None:
        return points
    if isinstance(settings, SavgolSmoother):
        times, path = np.arange(len(points)) / FPS, points.astype(np.float32)
        near = [np.flatnonzero(np.abs(times - now) <= settings.reach + 1e-9) for now in times]
        frames = zip(path, near, times, strict=True)
        return np.array([settings(found, path[n], times[n] - now) for found, n, now in frames])
    smoother = FaceSmoother(settings, mean_face)
    return np.array([smoother(frame.astype(np.float32), k / FPS) for k, frame in enumerate(points)])


def flicker(points: Path3) -> float:
    """Root mean square of the second difference, in % of the inter-ocular distance."""
    second = np.diff(points, n=2, axis=0)
    eyes = np.linalg.norm(points[:, 36] - points[:, 45], axis=1).mean()
    return float(100 * np.sqrt((second**2).sum(axis=2).mean()) / eyes)


def lag(points: Path3, truth: Path3) -> float:
    """Frames by which the path of the whole face is late, to a twentieth."""
    times = np.arange(len(points))
    late = np.arange(-1, 4, 0.05)
    center, true = points.mean(axis=1), truth.mean(axis=1)
    center, true = center - center.mean(axis=0), true - true.mean(axis=0)
    inner = slice(10, -5)
    errors = []
    for shift in late:
        shifted = np.stack([np.interp(times - shift, times, true[:, k]) for k in (0, 1)], axis=1)
        errors.append(float(np.linalg.norm(center[inner] - shifted[inner], axis=1).mean()))
    return float(late[int(np.argmin(errors))])


def nme(points: Path3, truth: Path3) -> float:
    """Mean over frames, in % of the inter-ocular distance."""
    eyes = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)
    return float(100 * (np.linalg.norm(points - truth, axis=2).mean(axis=1) / eyes).mean())


def tune(
    landmarker: FaceLandmarker, clips: dict[str, Path3], moved: dict[Motion, list[tuple[Path3, Path3]]]
) -> None:
    """Print what many settings give."""
    tried: list[Settings] = [
        SavgolSmoother(width, degree) for width, degree in product((0.08, 0.1, 0.12, 0.14, 0.16), (2, 4))
    ]
    shapes = [(0.3, 2), (0.5, 5), (1, 5)]
    poses = product((0.2, 0.25, 0.3), (0.015, 0.025, 0.04), (0.3, 0.45), (0.02, 0.04))
    tried += [
        CausalSmoother(AlphaBetaConfig(*pose), OneEuroConfig(*shape))
        for pose, shape in product(poses, shapes)
    ]
    for settings in tried:
        facts = measure(landmarker, clips, moved, {"raw": None, "smoothed": settings})
        steadier = [clip["raw"] / clip["smoothed"] for clip in facts["clips"].values()]
        raw, ours = facts["moving"]["raw"], facts["moving"]["smoothed"]
        print(
            f"{settings}: clips steadier {', '.join(f'{s:.2f}' for s in steadier)};"
            f" lag at most {ours['lag']:.2f}, NME {ours['nme']:.3f} (raw {raw['nme']:.3f})",
            flush=True,
        )


def following(landmarker: FaceLandmarker, path: Path, cache: Path, frames: int | None) -> dict[str, Any]:
    """What following saves over detecting in every frame, and how far the points differ."""
    count = min(frames or FOLLOWED, FOLLOWED)
    kept = cache / f"{path.stem}-following-{count}.json"
    if not kept.is_file():
        images = [frame.image for frame in islice(VideoReader(path), count)]
        tracker = FaceTracker(landmarker, smoothing=None)
        found = [tracker(image, k / FPS) for k, image in enumerate(images)]
        each = np.array([landmarker(image).points[0] for image in track(images, count, "detecting")])
        ways = {
            "detecting every frame": lambda: [landmarker(image) for image in images[:25]],
            "following": lambda: _follow(landmarker, images[:25]),
        }
        timings = time_in_turns(ways, rounds=5, seconds=0)
        eyes = np.linalg.norm(each[:, 36] - each[:, 45], axis=1)
        followed = np.array([one.faces.points[0] for one in found])
        away = np.linalg.norm(followed - each, axis=2).mean(axis=1) / eyes
        facts = {
            "frames": len(images),
            "searches": sum(one.detected for one in found),
            "times_faster": timings["following"].times_faster(timings["detecting every frame"]),
            "ms_a_frame": {name: timing.median / min(25, count) for name, timing in timings.items()},
            "difference_percent": float(100 * away.mean()),
        }
        write_text(kept, json.dumps(facts, indent=1) + "\n")
    return dict(json.loads(kept.read_text()))


def _follow(landmarker: FaceLandmarker, frames: list[Image]) -> None:
    tracker = FaceTracker(landmarker, smoothing=None)
    for number, frame in enumerate(frames):
        tracker(frame, number / FPS)


def report(result: dict[str, Any], folder: Path) -> None:
    """Write the page."""
    faces = sum(row["faces"] for row in result["rendered"])
    lines = [
        "# Steady video",
        "",
        f"`{result['model']}`; `python benchmarks/video.py --cache CACHE --faces {result['faces']}`,",
        f"commit {result['commit']}, {result['machine']}; raw landmarks and times are of commit",
        f"{result['found by']}; all numbers in `video.json`. Flicker is the root",
        "mean square of the second difference of each landmark over frames, in % of the inter-ocular",
        "distance. In a file, landmarks are smoothed by the frames before and after",
        "(`pipnet.video.savgol_smoother`), a camera's frame by frame (`pipnet.video.causal_smoother`).",
        "",
        "## The clips",
        "",
        "Where a head moves fast, many frames show it where it was in the one before, as of a camera with",
        "fewer than 25 pictures a second: raw landmarks go in steps there, most of the flicker.",
        "",
        "| clip | frames | flicker raw | as a file | times steadier | as of a camera | times steadier |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, clip in result["clips"].items():
        cells = [f"{clip[way]:.2f} | {clip['raw'] / clip[way]:.1f}" for way in ("file", "camera")]
        lines.append(f"| {name} | {clip['frames']} | {clip['raw']:.2f} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Rendered motion",
        "",
        f"{faces} labeled faces of 300-W Common, moved to and fro by a part of their width, with 10 degrees",
        f"of roll and the noise of a sensor, {FRAMES} frames each. Lag, in frames of a 25th of a second, is",
        "that of the face for which it is largest.",
        "",
        "| motion | faces | true flicker | flicker raw | file | camera | NME % raw | file | camera "
        "| lag file | camera |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rendered"]:
        moves = f"{row['frequency']:g} Hz, {100 * row['amplitude']:.0f} %" if row["amplitude"] else "none"
        true = f"{row['true flicker']:.2f}"
        lines.append(f"| {moves} | {row['faces']} | {true} | {_by_way(row)} |")
    lines += [
        f"| mean of the moving | | | {_by_way(result['moving'])} |",
        "",
        "## What following saves",
        "",
        "Over detecting in every frame: time over the same 25 frames, in turns; searches of the detector;",
        "and how far landmarks then lie from those found by detecting, in % of the inter-ocular distance.",
        "",
        "| clip | times faster | ms a frame: detecting, following | searches | difference, % |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["following"].items():
        each, follow = row["ms_a_frame"].values()
        lines.append(
            f"| {name} | {row['times_faster']:.1f} | {each:.1f}, {follow:.1f} | {row['searches']} of"
            f" {row['frames']} | {row['difference_percent']:.2f} |"
        )
    write_text(folder / "video.md", "\n".join(lines) + "\n")


def _by_way(row: dict[str, Any]) -> str:
    """Cells of flicker, NME and lag."""
    cells = [f"{row[way][what]:.2f}" for what in ("flicker", "nme") for way in WAYS]
    lags = [row[way]["lag"] for way in ("file", "camera")]
    return " | ".join(cells + ["" if late is None else f"{late:.2f}" for late in lags])


if __name__ == "__main__":
    main()
