"""Head pose: yaw, pitch and roll of a face from its landmarks, by a rigid 3D mean face.

Frame: x to the right of the image, y down, z away from the camera, as in OpenCV. A face with the angles
(0, 0, 0) looks straight into a camera in front of it. The signs are those that a viewer of the image sees:

* yaw is positive if the face looks to the right of the image (the person's left),
* pitch is positive if it looks up,
* roll is positive if the head is tilted clockwise.

The rotation is yaw about the vertical axis, applied last, after pitch about the axis through the ears and
roll about the axis through the nose. So yaw and pitch are the direction that the nose points to, and a
profile has its usual pitch and roll. Only at a pitch of 90 degrees are yaw and roll ambiguous.

By default the camera is assumed to be far away: the angles are those to the line from the camera to the face,
and crops of larger photos need no attention. With a focal length it is a pinhole with its center in the
image's center, and the angles are those to its optical axis. ``benchmarks/accuracy/head_pose`` has the fit of
the 3D mean face and the measured errors.
"""

from __future__ import annotations

import functools
import tomllib
from importlib import resources
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from pipnet.errors import DataError, PipnetError
from pipnet.scheme import LandmarkScheme, SchemeMapping

_SCHEME = "300w"
"""The scheme of the 3D mean face."""
_START_YAWS = (-60.0, 0.0, 60.0)
"""Yaws that the search starts from, in degrees; the best end counts."""
_STEPS = 15
_DAMPING = 1e-3
"""Damping of the steps, as a fraction of the diagonal of the normal equations."""


class MeanFace3d(NamedTuple):
    """A rigid 3D face."""

    points: Float64[np.ndarray, "landmarks 3"]
    """Landmarks of a face that looks into the camera; the unit is the face's height from brows to chin."""
    std: Float64[np.ndarray, " landmarks"]
    """Standard deviation of the landmarks of people and expressions around it, in the same unit; infinite for
    landmarks without a fixed place on the face, such as those of the jaw, which are ignored."""


class Poses(NamedTuple):
    """Poses of some faces, as a pinhole camera sees them."""

    rotation: Float64[np.ndarray, "faces 3 3"]
    """Rotation of the 3D mean face."""
    shift: Float64[np.ndarray, "faces 2"]
    """Position of its origin, in units of the 3D face from the camera's axis."""
    scale: Float64[np.ndarray, " faces"]
    """Pixels per unit of the 3D face, at the depth of its origin."""
    cost: Float64[np.ndarray, " faces"]
    """Mean square of the weighted residuals in units of the 3D face."""


@functools.cache
def mean_face_3d(scheme: str = _SCHEME) -> MeanFace3d:
    """Return the 3D mean face in a scheme that 300-W's 68 points map to.

    Raises:
        DataError: there is no such mapping.
    """
    if scheme == _SCHEME:
        text = (resources.files("pipnet.inference") / "mean_face_3d.toml").read_text(encoding="utf-8")
        table = tomllib.loads(text)
        return MeanFace3d(np.array(table["points"]), np.array(table["std"]))
    face, mapping = mean_face_3d(), SchemeMapping.load(_SCHEME, scheme)
    with np.errstate(divide="ignore"):
        std = 1 / mapping.average(1 / face.std).astype(np.float64)
    xz, yz = mapping(face.points[:, ::2]), mapping(face.points[:, 1:])
    return MeanFace3d(np.column_stack([xz[:, 0], yz]), std)


def head_pose(
    points: Float[np.ndarray, "faces landmarks 2"],
    scheme: LandmarkScheme,
    image_size: tuple[int, int],
    focal_length: float | None = None,
) -> Float64[np.ndarray, "faces 3"]:
    """Return yaw, pitch and roll of faces in degrees; see the module for their signs.

    Args:
        points: landmarks in pixels of the image.
        scheme: their scheme.
        image_size: width and height of the image in pixels.
        focal_length: of the camera in pixels; a camera far away if None.

    Raises:
        PipnetError: the focal length is not above 0.
        DataError: the scheme and 300-W's 68 points have no mapping to common landmarks.
    """
    if focal_length is not None and not focal_length > 0:
        raise PipnetError(f"focal_length is in pixels and above 0, not {focal_length}")
    mapped, face = _common_landmarks(points, scheme)
    weights = np.broadcast_to(1 / face.std**2, mapped.shape[:2])
    focal = np.inf if focal_length is None else float(focal_length)
    return angles(fit_poses(mapped - (np.array(image_size) - 1) / 2, face.points, weights, focal).rotation)


def _common_landmarks(
    points: Float[np.ndarray, "faces landmarks 2"], scheme: LandmarkScheme
) -> tuple[Float64[np.ndarray, "faces common 2"], MeanFace3d]:
    """Return the faces and the 3D mean face in the scheme with the most landmarks that both map to."""
    for target in (_SCHEME, scheme.name, "aflw", "five"):
        try:
            face = mean_face_3d(target)
            mapping = SchemeMapping.load(scheme.name, target) if target != scheme.name else None
        except DataError:
            continue
        if mapping is None:
            return points.astype(np.float64), face
        return mapping(points.astype(np.float64)), face
    raise DataError(
        f"scheme {scheme.name[:80]!r}: head pose needs a mapping to the landmarks of 300w, aflw or five"
    )


def fit_poses(
    points: Float64[np.ndarray, "faces landmarks 2"],
    face: Float64[np.ndarray, "landmarks 3"],
    weights: Float64[np.ndarray, "faces landmarks"],
    focal: float,
) -> Poses:
    """Return the poses in which a 3D face is nearest to the landmarks of each face, by Gauss-Newton steps.

    Args:
        points: landmarks in pixels from the image's center; NaN if unknown.
        face: the 3D face.
        weights: of the squared residuals.
        focal: focal length of the camera in pixels.
    """
    known = np.isfinite(points).all(axis=2)
    points, weights = np.where(known[..., None], points, 0), np.where(known, weights, 0)
    ends = [_descend(_start(points, face, weights, yaw), points, face, weights, focal) for yaw in _START_YAWS]
    best = np.argmin([end.cost for end in ends], axis=0)
    faces = np.arange(len(points))
    return Poses(*(np.stack(part)[best, faces] for part in zip(*ends, strict=True)))


def _start(
    points: Float64[np.ndarray, "faces landmarks 2"],
    face: Float64[np.ndarray, "landmarks 3"],
    weights: Float64[np.ndarray, "faces landmarks"],
    yaw: float,
) -> Poses:
    """Return roll, shift and scale that fit best to the face at a yaw, seen from far away."""
    turned = face @ rotation(np.array([[yaw, 0.0, 0.0]]))[0].T
    share = (weights / weights.sum(axis=1, keepdims=True))[..., None]
    source_mean, target_mean = (share * turned[:, :2]).sum(axis=1), (share * points).sum(axis=1)
    source, target = turned[:, :2] - source_mean[:, None], points - target_mean[:, None]
    norm = (share * source**2).sum(axis=(1, 2))
    cos = (share * source * target).sum(axis=(1, 2)) / norm
    sin = (share[..., 0] * (source[..., 0] * target[..., 1] - source[..., 1] * target[..., 0])).sum(
        axis=1
    ) / norm
    scale, roll = np.hypot(cos, sin), np.rad2deg(np.arctan2(sin, cos))
    zero = np.zeros_like(roll)
    tilted = rotation(np.stack([zero, zero, roll], axis=1))
    shift = target_mean / scale[:, None] - np.einsum("fij,fj->fi", tilted[:, :2, :2], source_mean)
    return Poses(tilted @ rotation(np.array([[yaw, 0.0, 0.0]])), shift, scale, zero)


def _descend(
    start: Poses,
    points: Float64[np.ndarray, "faces landmarks 2"],
    face: Float64[np.ndarray, "landmarks 3"],
    weights: Float64[np.ndarray, "faces landmarks"],
    focal: float,
) -> Poses:
    """Return the poses after some damped Gauss-Newton steps."""
    pose = start
    for _ in range(_STEPS):
        residual, jacobian = _linearize(pose, points, face, focal)
        shape = (len(points), 2 * len(face), 6)
        transposed = (jacobian * weights[..., None, None]).reshape(shape).transpose(0, 2, 1)
        normal = transposed @ jacobian.reshape(shape)
        normal += np.eye(6) * (_DAMPING * normal + np.finfo(np.float64).eps)
        step = np.linalg.solve(normal, transposed @ residual.reshape(*shape[:2], 1))[..., 0]
        pose = Poses(
            _rotation_of(step[:, :3]) @ pose.rotation,
            pose.shift + step[:, 3:5],
            pose.scale * np.exp(step[:, 5].clip(-1, 1)),
            pose.cost,
        )
    residual, _ = _linearize(pose, points, face, focal)
    cost = (weights * (residual**2).sum(axis=2)).sum(axis=1) / weights.sum(axis=1)
    return pose._replace(cost=cost)


def _linearize(
    pose: Poses,
    points: Float64[np.ndarray, "faces landmarks 2"],
    face: Float64[np.ndarray, "landmarks 3"],
    focal: float,
) -> tuple[Float64[np.ndarray, "faces landmarks 2"], Float64[np.ndarray, "faces landmarks 2 6"]]:
    """Return points minus projection in units of the 3D face, and the derivatives of the projection.

    They are by a rotation after the pose's own (3), by the shift (2) and by the logarithm of the scale.
    """
    scale = pose.scale[:, None]
    turned = face @ pose.rotation.transpose(0, 2, 1)
    # Depth over that of the origin. It stays positive for faces that reach behind the camera.
    depth = np.maximum(1 + scale * turned[..., 2] / focal, 0.1)
    position = turned[..., :2] + pose.shift[:, None]
    projected = position / depth[..., None]
    jacobian = np.zeros((*projected.shape, 6))
    by_z = -projected * (scale / focal / depth)[..., None]
    x, y, z = np.moveaxis(turned, 2, 0)
    for axis, (dx, dy, dz) in enumerate(((0 * x, -z, y), (z, 0 * x, -x), (-y, x, 0 * x))):
        jacobian[..., 0, axis] = dx / depth + by_z[..., 0] * dz
        jacobian[..., 1, axis] = dy / depth + by_z[..., 1] * dz
    jacobian[..., 0, 3] = jacobian[..., 1, 4] = 1 / depth
    jacobian[..., 5] = projected / depth[..., None]
    return points / scale[..., None] - projected, jacobian


def rotation(degrees: Float64[np.ndarray, "faces 3"]) -> Float64[np.ndarray, "faces 3 3"]:
    """Return the rotations of yaw, pitch and roll in degrees."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(np.deg2rad(degrees)).T, np.sin(np.deg2rad(degrees)).T
    zero, one = np.zeros_like(cy), np.ones_like(cy)

    def matrices(*rows: list[np.ndarray]) -> Float64[np.ndarray, "faces 3 3"]:
        return np.asarray(np.moveaxis(np.array(rows), 2, 0))

    yaw = matrices([cy, zero, -sy], [zero, one, zero], [sy, zero, cy])
    pitch = matrices([one, zero, zero], [zero, cp, sp], [zero, -sp, cp])
    roll = matrices([cr, -sr, zero], [sr, cr, zero], [zero, zero, one])
    return np.asarray(yaw @ pitch @ roll)


def angles(rotations: Float64[np.ndarray, "faces 3 3"]) -> Float64[np.ndarray, "faces 3"]:
    """Return yaw, pitch and roll in degrees of rotations."""
    yaw = np.arctan2(-rotations[:, 0, 2], rotations[:, 2, 2])
    pitch = np.arcsin(rotations[:, 1, 2].clip(-1, 1))
    roll = np.arctan2(rotations[:, 1, 0], rotations[:, 1, 1])
    return np.asarray(np.rad2deg(np.stack([yaw, pitch, roll], axis=1)))


def _rotation_of(vectors: Float64[np.ndarray, "faces 3"]) -> Float64[np.ndarray, "faces 3 3"]:
    """Return the rotations of rotation vectors in radians (Rodrigues)."""
    angle = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)[:, None, None]
    x, y, z = (vectors / angle[:, 0]).T
    zero = np.zeros_like(x)
    cross = np.moveaxis(np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]), 2, 0)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)
