"""Steady video: flicker, lag, and what following faces saves.

    python benchmarks/video.py --shared ../shared --cache CACHE

Flicker is the root mean square of the second difference of each landmark over frames, in % of the
inter-ocular distance; it is measured on the two clips, where nobody knows the truth, and on rendered motion,
where it is known: labelled faces moved as sinusoids of 0.5 to 2 Hz by 10 to 40 % of their width, with roll
and the noise of a sensor. Lag is the shift in time at which the smoothed path of the whole face fits the true
one best. Settings were chosen by ``--tune``, on rendered validation faces and the flicker of the clips; the
page's rendered faces are of 300-W Common.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from pipnet import FaceLandmarker
from pipnet.benchmark.timing import time_in_turns
from pipnet.data.samples import FaceSample, split_by_group
from pipnet.data.sources import load_faces
from pipnet.geometry import Image, affine, tight_box
from pipnet.images import read_image
from pipnet.progress import track
from pipnet.video.reader import VideoReader
from pipnet.video.smoothing import FaceSmoother, OneEuro, Prediction, Smoothing
from pipnet.video.tracker import FaceTracker

HERE = Path(__file__).parent
FPS, FRAMES, SIDE = 25.0, 75, 320
MOTIONS = list(product((0.5, 1.0, 2.0), (0.1, 0.2, 0.4)))
"""Frequency in Hz and amplitude in widths of the face."""
Path3 = Float[np.ndarray, "frames landmarks 2"]


def main() -> None:
    """Measure, or tune."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--cache", type=Path, required=True, help="folder for raw landmarks")
    parser.add_argument("--tune", action="store_true", help="print flicker and lag of many settings")
    parser.add_argument("--faces", type=int, default=9, help="faces for the rendered motion")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    data = arguments.shared / "data"
    landmarker = FaceLandmarker.from_pretrained(threads=1)
    clips = {path.stem: raw_clip(landmarker, path, arguments.cache) for path in sorted(data.glob("video/*"))}
    common, _, _ = load_faces(data / "300w", "common")
    held_out = split_by_group(load_faces(data / "300w", "train")[0], 0.05, seed=0)[1]
    samples = held_out if arguments.tune else common
    name = "tuning" if arguments.tune else "common"
    moved = rendered(
        landmarker, samples, arguments.faces, arguments.cache / f"{name}-{landmarker.model.info.name}.npz"
    )
    if arguments.tune:
        return tune(landmarker, clips, moved)
    result = measure(landmarker, clips, moved, Smoothing())
    result["following"] = following(landmarker, sorted(data.glob("video/*")))
    result["model"] = landmarker.model.info.name
    (HERE / "video.json").write_text(json.dumps(result, indent=1) + "\n")
    return report(result)


def raw_clip(landmarker: FaceLandmarker, path: Path, cache: Path) -> Path3:
    """Landmarks of a clip's one face as found in each frame, computed once."""
    kept = cache / f"{path.stem}-{landmarker.model.info.name}.npy"
    if not kept.is_file():
        reader, tracker = VideoReader(path), FaceTracker(landmarker, smoothing=None)
        found = [tracker(f.image, f.time).faces for f in track(reader, reader.frames, path.name)]
        np.save(kept, np.array([faces.points[0] for faces in found if len(faces)]))
    return np.asarray(np.load(kept))


def rendered(
    landmarker: FaceLandmarker, samples: list[FaceSample], count: int, kept: Path
) -> list[tuple[Path3, Path3]]:
    """Paths of moved faces: as found in each frame, and the truth. One motion a face, in turn."""
    if not kept.is_file():
        chosen = np.random.default_rng(0).permutation(len(samples))[:count]
        paths = []
        for number, i in enumerate(track(chosen.tolist(), count, "rendered motion")):
            frames, truth = render(samples[i], *MOTIONS[number % len(MOTIONS)], seed=number)
            tracker = FaceTracker(landmarker, smoothing=None)
            found = [tracker(frame, k / FPS).faces for k, frame in enumerate(frames)]
            if all(len(faces) == 1 for faces in found):
                paths.append((np.array([faces.points[0] for faces in found]), truth))
        np.savez(kept, *[np.stack(pair) for pair in paths])
    with np.load(kept) as content:
        return [(pair[0], pair[1]) for pair in content.values()]


def render(sample: FaceSample, frequency: float, amplitude: float, seed: int) -> tuple[list[Image], Path3]:
    """Frames of a face that moves to and fro and rolls, and its landmarks in each."""
    rng = np.random.default_rng(seed)
    image, box = read_image(sample.image), tight_box(sample.points)
    centre, width = (box[:2] + box[2:]) / 2, float(box[2] - box[0])
    scale = 0.4 * SIDE / width
    way = rng.uniform(0, 2 * np.pi)
    frames, truth = [], []
    for k in range(FRAMES):
        phase = np.sin(2 * np.pi * frequency * k / FPS)
        matrix = cv2.getRotationMatrix2D(tuple(centre.tolist()), 10 * phase, scale)
        shift = amplitude * 0.4 * SIDE * phase * np.array([np.cos(way), np.sin(way)])
        matrix[:, 2] += SIDE / 2 - centre + shift
        frame = cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_AREA)
        frames.append((frame + rng.normal(0, 4, frame.shape)).clip(0, 255).astype(np.uint8))
        truth.append(affine(sample.points, matrix))
    return frames, np.array(truth)


def measure(
    landmarker: FaceLandmarker, clips: dict[str, Path3], moved: list[tuple[Path3, Path3]], settings: Smoothing
) -> dict[str, Any]:
    """Flicker of the clips; flicker, lag and NME of rendered motion; raw and smoothed."""
    mean_face = landmarker.model.info.mean_face
    result: dict[str, Any] = {"clips": {}, "rendered": {}}
    for name, points in clips.items():
        steady = smooth(points, mean_face, settings)
        result["clips"][name] = {"raw": flicker(points), "smoothed": flicker(steady), "frames": len(points)}
    for name in ("raw", "smoothed"):
        paths = [(p if name == "raw" else smooth(p, mean_face, settings), t) for p, t in moved]
        lags = [lag(points, truth) for points, truth in paths]
        result["rendered"][name] = {
            "flicker": float(np.mean([flicker(points) for points, _ in paths])),
            "lag_mean": float(np.mean(lags)),
            "lag_max": float(np.max(lags)),
            "nme": float(np.mean([nme(points, truth) for points, truth in paths])),
            "faces": len(paths),
        }
    result["rendered"]["truth"] = {"flicker": float(np.mean([flicker(truth) for _, truth in moved]))}
    return result


def smooth(points: Path3, mean_face: np.ndarray, settings: Smoothing) -> Path3:
    """A path as the filter would give it, frame by frame."""
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
    centre, true = points.mean(axis=1), truth.mean(axis=1)
    centre, true = centre - centre.mean(axis=0), true - true.mean(axis=0)
    inner = slice(10, -5)
    errors = []
    for shift in late:
        shifted = np.stack([np.interp(times - shift, times, true[:, k]) for k in (0, 1)], axis=1)
        errors.append(float(np.linalg.norm(centre[inner] - shifted[inner], axis=1).mean()))
    return float(late[int(np.argmin(errors))])


def nme(points: Path3, truth: Path3) -> float:
    """Mean over frames, in % of the inter-ocular distance."""
    eyes = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)
    return float(100 * (np.linalg.norm(points - truth, axis=2).mean(axis=1) / eyes).mean())


def tune(landmarker: FaceLandmarker, clips: dict[str, Path3], moved: list[tuple[Path3, Path3]]) -> None:
    """Print what many settings give."""
    shapes = [(0.3, 2), (0.5, 5), (1, 5), (1, 10)]
    poses = product((0.2, 0.3, 0.4), (0.03, 0.04), (0.3, 0.4), (0.02, 0.04))
    for pose, shape in product(poses, shapes):
        settings = Smoothing(Prediction(*pose), OneEuro(*shape))
        facts = measure(landmarker, clips, moved, settings)
        steadier = [clip["raw"] / clip["smoothed"] for clip in facts["clips"].values()]
        ours = facts["rendered"]["smoothed"]
        print(
            f"pose {pose} shape {shape}: clips steadier "
            f"{', '.join(f'{s:.2f}' for s in steadier)}; lag {ours['lag_mean']:.2f} (at most "
            f"{ours['lag_max']:.2f}), NME {ours['nme']:.3f} (raw {facts['rendered']['raw']['nme']:.3f})",
            flush=True,
        )


def following(landmarker: FaceLandmarker, clips: list[Path]) -> dict[str, Any]:
    """What following saves over detecting in every frame, and how far the points differ."""
    result = {}
    for path in clips:
        frames = [frame.image for frame in VideoReader(path)][:250]
        trackers = {every: FaceTracker(landmarker, every, None) for every in (1, 25)}
        points: dict[int, list[np.ndarray]] = {}
        for every, tracker in trackers.items():
            points[every] = [tracker(frame, k / FPS).faces.points[0] for k, frame in enumerate(frames)]
        each = np.array([landmarker(frame).points[0] for frame in frames])
        ways = {
            "detecting every frame": lambda frames=frames: [landmarker(frame) for frame in frames[:25]],
            "following": lambda frames=frames: _follow(landmarker, frames[:25]),
        }
        timings = time_in_turns(ways, rounds=5, seconds=0)
        eyes = np.linalg.norm(each[:, 36] - each[:, 45], axis=1)
        away = np.linalg.norm(np.array(points[25]) - each, axis=2).mean(axis=1) / eyes
        result[path.stem] = {
            "times_faster": timings["following"].times_faster(timings["detecting every frame"]),
            "ms_a_frame": {name: timing.median / 25 for name, timing in timings.items()},
            "difference_percent": float(100 * away.mean()),
        }
    return result


def _follow(landmarker: FaceLandmarker, frames: list[Image]) -> None:
    tracker = FaceTracker(landmarker, smoothing=None)
    for number, frame in enumerate(frames):
        tracker(frame, number / FPS)


def report(result: dict[str, Any]) -> None:
    """Write the page."""
    lines = [
        "# Steady video",
        "",
        f"`{result['model']}`; `python benchmarks/video.py --cache CACHE`, numbers in `video.json`.",
        "",
        "| clip | frames | flicker raw | smoothed | times steadier |",
        "|---|---|---|---|---|",
    ]
    for name, clip in result["clips"].items():
        steadier = clip["raw"] / clip["smoothed"]
        lines.append(
            f"| {name} | {clip['frames']} | {clip['raw']:.2f} | {clip['smoothed']:.2f} | {steadier:.1f} |"
        )
    lines += ["", "| rendered motion | flicker | lag, frames (largest) | NME % |", "|---|---|---|---|"]
    for name in ("raw", "smoothed"):
        row = result["rendered"][name]
        late = f"{row['lag_mean']:.2f} ({row['lag_max']:.2f})"
        lines.append(f"| {name} | {row['flicker']:.2f} | {late} | {row['nme']:.3f} |")
    lines.append(f"| truth | {result['rendered']['truth']['flicker']:.2f} | | |")
    lines += [
        "",
        "| clip | times faster than detecting | ms a frame: detecting, following | difference, % |",
        "|---|---|---|---|",
    ]
    for name, row in result["following"].items():
        each, follow = row["ms_a_frame"].values()
        times, away = row["times_faster"], row["difference_percent"]
        lines.append(f"| {name} | {times:.1f} | {each:.1f}, {follow:.1f} | {away:.2f} |")
    (HERE / "video.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
