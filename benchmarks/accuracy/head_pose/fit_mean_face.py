"""Fit the rigid 3D mean face of `pipnet.inference.pose`.

    python benchmarks/accuracy/head_pose/fit_mean_face.py --shared ../shared

Structure from motion: the 68 points of 300-W's training faces and of 300W-LP's turned views of AFW are taken
for one rigid, symmetric face in front of cameras far away. Poses and face are fitted in turn. No 3D data is
used. The pitch of 0 is the median of the first half of the London photos, in which people look into the
camera.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pipnet import FaceLandmarker
from pipnet.annotations.pts import read_pts
from pipnet.datasets.load import load_samples
from pipnet.inference.pose import Poses, angles, fit_poses, rotation
from pipnet.io.atomic import write_text
from pipnet.scheme import LandmarkScheme

ROOT = Path(__file__).parents[3]
TARGET = ROOT / "src" / "pipnet" / "inference" / "mean_face_3d.toml"
ROUNDS = 12
EVERY = 3
"""One in so many faces of 300-W is used, to have about as many near-frontal as turned ones."""
JAW = [*range(7), *range(10, 17)]
"""Labels of the jaw follow the outline of the face in the image, which is no fixed place on a turned face."""
MIN_STD, MAX_RESIDUAL = 0.02, 0.15
"""Limits of the residuals. Without a minimum the corners of the eyes alone would determine the poses."""
MIRRORED = LandmarkScheme.load("300w").flip_permutation


def main() -> None:
    """Fit the face, and write the file of the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    data = parser.parse_args().shared / "data"
    frontal = [s.points for s in load_samples(data / "300w", "train")[0]][::EVERY]
    turned = [read_pts(path, 68) for path in sorted((data / "300w_lp_afw").glob("*.pts"))]
    points = np.array([*frontal, *turned], np.float64)
    points -= points.mean(axis=1, keepdims=True)
    points = np.concatenate([points, points[:, MIRRORED] * [-1, 1]])
    face, std = initial_face(np.array(frontal, np.float64)), np.full(68, 0.05)
    for number in range(ROUNDS):
        std[JAW] = np.inf
        poses = fit_poses(points, face, np.tile(1 / std**2, (len(points), 1)), np.inf)
        face, std = fit_face(points, poses, face, std)
        yaw = np.abs(angles(poses.rotation)[:, 0])
        print(
            f"round {number + 1}: yaw {yaw.mean():.1f} on the mean, residual {np.median(std):.4f}", flush=True
        )
    std[JAW] = np.inf
    face = face @ rotation(np.array([[0, london_pitch(data, face, std), 0]]))[0].T
    write(face, std)


def initial_face(frontal: np.ndarray) -> np.ndarray:
    """Return the mean of frontal faces on a paraboloid, with a nose that sticks out."""
    face = (frontal / np.ptp(frontal[..., 1], axis=1)[:, None, None]).mean(axis=0)
    face = (face + face[MIRRORED] * [-1, 1]) / 2
    face[:, 0] -= face[:, 0].mean()
    depth = 1.2 * face[:, 0] ** 2
    depth[27:36] -= np.linspace(0, 0.25, 9).clip(0, 0.2)
    return np.column_stack([face, depth])


def fit_face(
    points: np.ndarray, poses: Poses, face: np.ndarray, std: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the symmetric face that is nearest to the points in their poses, of height 1, and its residuals.

    Large residuals weigh less (Cauchy).
    """
    seen = points / poses.scale[:, None, None] - poses.shift[:, None]
    camera = poses.rotation[:, :2]
    residual = np.linalg.norm(seen - face @ camera.transpose(0, 2, 1), axis=2)
    weight = 1 / (1 + (residual / (2 * np.minimum(std, 0.05))) ** 2)
    normal = np.einsum("fl,fai,faj->lij", weight, camera, camera)
    face = np.linalg.solve(normal, np.einsum("fl,fai,fla->li", weight, camera, seen)[..., None])[..., 0]
    face = (face + face[MIRRORED] * [-1, 1, 1]) / 2
    face -= face.mean(axis=0)
    height = np.ptp(face[:, 1])
    square = ((seen - face @ camera.transpose(0, 2, 1)) ** 2).sum(axis=2) / height**2 / 2
    std = np.sqrt(square.clip(0, MAX_RESIDUAL**2).mean(axis=0)).clip(MIN_STD)
    return face / height, (std + std[MIRRORED]) / 2


def london_pitch(data: Path, face: np.ndarray, std: np.ndarray) -> float:
    """Return the median pitch of the first half of the London photos."""
    photos = sorted((data / "london").glob("*.jpg"))[:51]
    points = np.concatenate([faces.points for faces in FaceLandmarker()(photos)]).astype(np.float64)
    poses = fit_poses(points, face, np.tile(1 / std**2, (len(points), 1)), np.inf)
    return float(np.median(angles(poses.rotation)[:, 1]))


def write(face: np.ndarray, std: np.ndarray) -> None:
    """Write the face as TOML."""
    rows = ",\n".join("  [" + ", ".join(f"{v:.4f}" for v in row) + "]" for row in face)
    lines = [
        "# A rigid 3D mean face in 300-W's 68 points. Frame: x to the right of the image, y down, z away",
        "# from the camera; the unit is its height. Fitted to labels of 300-W and 300W-LP (AFW) by",
        "# benchmarks/accuracy/head_pose/fit_mean_face.py, which uses no 3D data.",
        f"points = [\n{rows},\n]",
        "# Standard deviation around it; infinite for the jaw, which has no fixed place on a turned face.",
        "std = [\n  "
        + ",\n  ".join(", ".join(f"{v:.4f}" for v in std[i : i + 10]) for i in range(0, 68, 10))
        + ",\n]",
    ]
    write_text(TARGET, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
