"""Proposing a landmark scheme for labeled faces: names, mean face, and mirror pairs by symmetry.

Only the person who labeled the faces knows what the points are. A proposal is therefore a start to be
checked, and lists its doubts.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from pipnet.annotations.annotation_set import placeholder_names
from pipnet.annotations.formats import Annotations
from pipnet.annotations.samples import FaceSample
from pipnet.box_adapter import fit_matched
from pipnet.config import DEFAULT_DETECTOR
from pipnet.errors import DataError, MissingExtraError, PipnetError
from pipnet.geometry import Image, tight_box, to_fraction
from pipnet.inference.detectors.load import load_detector
from pipnet.inference.scheme_figure import draw_scheme
from pipnet.io.image import read_image
from pipnet.progress import show_progress
from pipnet.scheme import LandmarkScheme

_MAX_LANDMARKS = 2000
"""Maximum number of landmarks; the search for mirror pairs takes time by its third power."""
_MAX_ASYMMETRY = 0.12
"""Distance of a point from the mirror image of its partner, in sizes of the face, above which a pair is
doubtful."""
_MAX_TIE = 0.5
"""Distance to the mirror image of the partner divided by that to the next nearest point, above which a pair
is doubtful."""
_DEFAULT_SCALE = 1.5
"""Crop over landmark box if no detector states the size of the faces."""
_MAX_DETECTED = 60
"""Number of images in which faces are detected, for the size of the crop."""
_SIDES = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "L": "R", "l": "r"}


@dataclass(frozen=True, eq=False)
class Proposal:
    """A proposed scheme."""

    scheme: LandmarkScheme
    mean_face: Float64[np.ndarray, "landmarks 2"]
    """Mean of all faces, as fractions of their landmark boxes."""
    neighbors: int
    """A number of neighbors C that fits this number of landmarks."""
    crop_scale: float
    """Crop over landmark box that shows the full face."""
    faces: int
    doubts: tuple[str, ...]
    """What the user must check."""

    def to_toml(self) -> str:
        """Return the scheme as a file for `LandmarkScheme.load`, with comments on what to check."""
        lines = [
            f"Proposed from {self.faces:,} labeled faces by pipnet data scheme: check it.",
            *(f"Doubtful: {doubt}" for doubt in self.doubts),
            'norm: two landmarks with the unit of errors as distance, such as [0, 1] for the eyes; or "box".',
            "flip: landmarks that change places in a mirror. All others are on the axis of symmetry.",
            'edges: lines to draw, such as ["0-4", "7,8,9,7"].',
            "Mean face, as fractions of the landmark box, for you to check (training computes its own):",
            *(f"  {i}: {x:.3f}, {y:.3f}" for i, (x, y) in enumerate(self.mean_face)),
        ]
        return "".join(f"# {line}\n" for line in lines) + self.scheme.to_toml()

    def draw(self) -> Image:
        """Return an image of the mean face with landmark numbers and lines between mirror pairs."""
        return draw_scheme(self.scheme, self.mean_face, mirror_lines=True)


def propose_scheme(annotations: Annotations, name: str) -> Proposal:
    """Propose a scheme for labeled faces.

    Args:
        annotations: the faces.
        name: the name of the scheme.

    Raises:
        DataError: no face has all its landmarks, or there are fewer than two or more than 2,000.
        MissingExtraError: SciPy is not installed.
    """
    samples = annotations.samples
    if len(samples[0].points) < 2:
        raise DataError("a scheme needs at least two landmarks: a single one has no size")
    if len(samples[0].points) > _MAX_LANDMARKS:
        raise DataError(f"schemes are proposed for at most {_MAX_LANDMARKS} landmarks: write the TOML")
    mean = _mean_shape(samples)
    landmarks = len(mean)
    names = annotations.names or placeholder_names(landmarks)
    pairs, doubts = mirror_pairs(mean)
    by_name = _pairs_by_name(names)
    for a, b in sorted(by_name - pairs):
        doubts.append(f"{names[a]!r} and {names[b]!r} are a pair by name, not by position")
    if by_name:
        named = {i for pair in by_name for i in pair}
        pairs = by_name | {pair for pair in pairs if not named & set(pair)}
    if len(samples) < 20:
        doubts.append(f"the mean face is computed from {len(samples)} faces only")
    scale, doubt = _crop_scale(samples)
    doubts += [doubt] if doubt else []
    scheme = LandmarkScheme(
        name=name,
        title=f"{name}, {landmarks} points",
        landmarks=landmarks,
        norm="box",
        flip=tuple(sorted(pairs)),
        edges=(),
        regions={"all": tuple(range(landmarks))},
        landmark_names=names,
    )
    scheme.check(name)
    return Proposal(scheme, mean, min(10, landmarks - 1), scale, len(samples), tuple(doubts))


def mirror_pairs(
    mean: Float64[np.ndarray, "landmarks 2"],
) -> tuple[set[tuple[int, int]], list[str]]:
    """Return the landmarks of a mean face that change places in a mirror, and the doubts about them.

    The axis of symmetry starts upright through the middle and is fitted to the pairs that it yields. Points
    are assigned to mirrored points so that the sum of squared distances is minimal.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingExtraError("scipy", "data") from None
    size = float(np.linalg.norm(np.ptp(mean, axis=0)))
    normal, offset = np.array([1.0, 0.0]), float(mean[:, 0].mean())
    indices = np.arange(len(mean))
    for _ in range(10):
        mirrored = mean - 2 * (mean @ normal - offset)[:, None] * normal
        distance = np.linalg.norm(mean[:, None] - mirrored[None], axis=2)
        partner: Int64[np.ndarray, " landmarks"] = linear_sum_assignment(distance**2)[1]
        mutual = partner[partner] == indices
        across = mean[mutual] - mean[partner[mutual]]
        if (across**2).sum() > 0:
            vector = np.linalg.eigh(across.T @ across)[1][:, -1]
            normal = vector * np.sign(vector[0] or 1.0)
        offset = float((mean[mutual] @ normal).mean())
    pairs = {(i, int(p)) for i, p in enumerate(partner) if mutual[i] and i < p}
    doubts = [f"point {i} has no clear mirror image" for i in np.flatnonzero(~mutual).tolist()]
    asymmetry = distance[indices, partner].copy()
    distance[indices, partner] = np.inf
    ties = np.flatnonzero(mutual & (asymmetry > _MAX_TIE * distance.min(axis=1))).tolist()
    doubts += [f"point {i}: {partner[i]} or {distance[i].argmin()} in the mirror?" for i in ties]
    for a, b in sorted(pairs):
        if asymmetry[a] > _MAX_ASYMMETRY * size:
            doubts.append(f"points {a} and {b} are a pair, but far from symmetric")
    if abs(normal[0]) < np.cos(np.deg2rad(25)):
        doubts.append("the axis of symmetry is far from upright")
    return pairs, doubts


def check_mirror_pairs(samples: Sequence[FaceSample], scheme: LandmarkScheme) -> str | None:
    """Return a message if the mirror pairs of a scheme differ from those of the faces; None if not clear.

    Raises:
        DataError: no face has all its landmarks.
        MissingExtraError: SciPy is not installed.
    """
    pairs, doubts = mirror_pairs(_mean_shape(samples))
    different = sorted(pairs ^ {(min(pair), max(pair)) for pair in scheme.flip})
    if doubts or not different:
        return None
    count, first = len(different), different[0]
    return f"{count} flip pairs differ between scheme {scheme.name!r} and the mean face, such as {first}"


def _mean_shape(samples: Sequence[FaceSample]) -> Float64[np.ndarray, "landmarks 2"]:
    """Return the mean of the complete faces, as fractions of their landmark boxes."""
    complete = [sample.points for sample in samples if sample.is_complete and sample.has_area]
    if not complete:
        raise DataError("no face has all its landmarks and spans a width and a height: a mean face needs one")
    return np.asarray(np.mean([to_fraction(p, tight_box(p)) for p in complete], axis=0))


def _pairs_by_name(names: Sequence[str]) -> set[tuple[int, int]]:
    """Return the pairs with names that differ in left and right only."""
    swap = _SIDES | {right: left for left, right in _SIDES.items()}
    # "left" anywhere, "l" only as a separate word: l_eye, eye_l. A name may contain both sides, such as
    # LeftEyeRightCorner, the partner of RightEyeLeftCorner.
    sides = re.compile(r"left|right|Left|Right|LEFT|RIGHT|(?<![a-zA-Z])[lrLR](?![a-zA-Z])")
    partner = [sides.sub(lambda match: swap[match[0]], name) for name in names]
    index = {name: i for i, name in enumerate(names)}
    return {(i, index[p]) for i, p in enumerate(partner) if index.get(p, -1) > i}


def _crop_scale(samples: Sequence[FaceSample]) -> tuple[float, str | None]:
    """Return the crop over landmark box that shows a detected face in full, and any doubt about it."""
    detector = load_detector(DEFAULT_DETECTOR)
    detections, boxes = [], []
    chosen = samples[:: max(len(samples) // _MAX_DETECTED, 1)]
    for sample in show_progress(chosen, len(chosen), "detecting faces"):
        with contextlib.suppress(PipnetError):  # training reports unreadable images
            detections.append(detector(read_image(sample.image)).boxes)
            boxes.append(tight_box(sample.points))
    try:
        (left, top, right, bottom), _ = fit_matched(detections, boxes)
    except PipnetError:
        return _DEFAULT_SCALE, f"crop.scale {_DEFAULT_SCALE} is a guess: no face was detected in the images"
    x, y = (left + right) / 2, (top + bottom) / 2
    needed = 2 * max(x, 1 - x, y, 1 - y) / max(right - left, bottom - top)
    return round(float(np.clip(needed, 1.1, 4.0)), 1), None
