"""A landmark scheme proposed from labeled faces: names, the mean face, mirror pairs by symmetry.

Nobody but the labeller knows what the points are, so this is a start to be checked, and it says of what it
is not sure.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, Int64

from pipnet.annotations.formats import Annotations
from pipnet.annotations.samples import FaceSample
from pipnet.box_adapter import fit_matched
from pipnet.errors import DataError, MissingExtraError, PipnetError
from pipnet.geometry import Image, tight_box, to_fraction
from pipnet.inference.detectors.load import load_detector
from pipnet.io.image import read_image
from pipnet.progress import track
from pipnet.scheme import LandmarkScheme

_ASYMMETRIC = 0.12
"""Distance of a point from the mirror image of its partner, in sizes of the face, that raises doubt."""
_TIE = 0.5
"""Distance to the partner's mirror image over that to the next nearest that raises doubt."""
_WIDE = 1.5
"""Crop over landmark box where no detector says how large the faces are."""
_LOOKED_AT = 60
"""Pictures that are searched for faces, for the size of the crop."""
_SIDES = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "L": "R", "l": "r"}


@dataclass(frozen=True, eq=False)
class Proposal:
    """A scheme to start from."""

    scheme: LandmarkScheme
    mean_face: Float64[np.ndarray, "landmarks 2"]
    """Mean of all faces, as fractions of their landmarks' box."""
    neighbors: int
    """A number of neighbors C that fits this many landmarks."""
    crop_scale: float
    """Crop over landmark box that shows the whole face."""
    faces: int
    doubts: tuple[str, ...]
    """What to look at."""

    def to_toml(self) -> str:
        """The scheme as a file that `LandmarkScheme.load` reads, with what to check as comments."""
        scheme = self.scheme
        lines = [f"# Proposed from {self.faces:,} labeled faces by pipnet data scheme: check it."]
        lines += [f"# Doubtful: {doubt}" for doubt in self.doubts]
        lines += [
            f"title = {_toml(scheme.title)}",
            f"landmarks = {scheme.landmarks}",
            '# Two landmarks whose distance is the unit of errors, such as [0, 1] for the eyes; or "box".',
            f"norm = {json.dumps(scheme.norm)}",
            f"names = {_toml(list(scheme.names))}",
            "# Landmarks that change places in a mirror. All others lie on the middle line.",
            f"flip = {json.dumps([list(pair) for pair in scheme.flip])}",
            '# Lines to draw, such as ["0-4", "7,8,9,7"].',
            "edges = []",
            "# Mean face, as fractions of the landmarks' box (for you to look at; training makes its own):",
            *(f"#   {i}: {x:.3f}, {y:.3f}" for i, (x, y) in enumerate(self.mean_face)),
            "",
            "[regions]",
            f'all = "0-{scheme.landmarks - 1}"',
        ]
        return "\n".join(lines) + "\n"

    def draw(self, size: int = 640) -> Image:
        """The mean face with its numbers, mirror pairs joined by lines."""
        canvas = np.full((size, size, 3), 255, np.uint8)
        box = tight_box(self.mean_face)
        side = float((box[2:] - box[:2]).max()) or 1.0
        places = (self.mean_face - (box[:2] + box[2:]) / 2) / side * 0.8 * size + size / 2
        spots = [(round(x), round(y)) for x, y in places.tolist()]
        for a, b in self.scheme.flip:
            cv2.line(canvas, spots[a], spots[b], (190, 215, 240), 1, cv2.LINE_AA)
        paired = {i for pair in self.scheme.flip for i in pair}
        for i, spot in enumerate(spots):
            color = (30, 110, 190) if i in paired else (200, 60, 40)
            cv2.circle(canvas, spot, 4, color, -1, cv2.LINE_AA)
            at = (spot[0] + 6, spot[1] - 5)
            cv2.putText(canvas, str(i), at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (60, 60, 60), 1, cv2.LINE_AA)
        return canvas


def _toml(value: str | list[str]) -> str:
    """Texts as TOML, which is JSON here but for surrogate pairs and one more character to escape."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def propose_scheme(annotations: Annotations, name: str) -> Proposal:
    """Propose a scheme for labeled faces.

    Args:
        annotations: the faces.
        name: what to call the scheme.

    Raises:
        DataError: no face has all its landmarks, or they are too few.
        MissingExtraError: SciPy is not installed.
    """
    samples = annotations.samples
    if len(samples[0].points) < 2:
        raise DataError("a scheme needs at least two landmarks: one alone has no size")
    mean = _mean_shape(samples)
    landmarks = len(mean)
    names = annotations.names or tuple(f"point_{i}" for i in range(landmarks))
    pairs, doubts = mirror_pairs(mean)
    by_name = _pairs_by_name(names)
    for pair in sorted(by_name - pairs):
        doubts.append(f"{names[pair[0]]!r} and {names[pair[1]]!r} are a pair by name, not by place")
    if by_name:
        settled = {i for pair in by_name for i in pair}
        pairs = by_name | {pair for pair in pairs if not settled & set(pair)}
    if len(samples) < 20:
        doubts.append(f"the mean face is one of {len(samples)} faces only")
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
        names=tuple(names),
    )
    scheme.check(name)
    return Proposal(scheme, mean, min(10, landmarks - 1), scale, len(samples), tuple(doubts))


def mirror_pairs(
    mean: Float64[np.ndarray, "landmarks 2"],
) -> tuple[set[tuple[int, int]], list[str]]:
    """Landmarks that change places in a mirror, found on the mean face, and what is doubtful about them.

    The mirror's line starts upright through the middle and is fitted to the pairs that it makes; points are
    matched to mirrored points such that the distances are smallest in all.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingExtraError("scipy", "data") from None
    size = float(np.linalg.norm(np.ptp(mean, axis=0)))
    normal, offset = np.array([1.0, 0.0]), float(mean[:, 0].mean())
    for _ in range(10):
        mirrored = mean - 2 * (mean @ normal - offset)[:, None] * normal
        distance = np.linalg.norm(mean[:, None] - mirrored[None], axis=2)
        partner: Int64[np.ndarray, " landmarks"] = linear_sum_assignment(distance**2)[1]
        mutual = partner[partner] == np.arange(len(mean))
        across = mean[mutual] - mean[partner[mutual]]
        if (across**2).sum() > 0:
            vector = np.linalg.eigh(across.T @ across)[1][:, -1]
            normal = vector * np.sign(vector[0] or 1.0)
        offset = float((mean[mutual] @ normal).mean())
    pairs = {(i, int(p)) for i, p in enumerate(partner) if mutual[i] and i < p}
    doubts = [f"point {i} has no clear mirror image" for i in np.flatnonzero(~mutual).tolist()]
    here = np.arange(len(mean))
    off = distance[here, partner].copy()
    distance[here, partner] = np.inf
    ties = np.flatnonzero(mutual & (off > _TIE * distance.min(axis=1))).tolist()
    doubts += [f"point {i}: {partner[i]} or {distance[i].argmin()} in the mirror?" for i in ties]
    crooked = [(a, b) for a, b in sorted(pairs) if off[a] > _ASYMMETRIC * size]
    doubts += [f"points {a} and {b} are a pair, but far from symmetric" for a, b in crooked]
    if abs(normal[0]) < np.cos(np.deg2rad(25)):
        doubts.append("the line of symmetry is far from upright")
    return pairs, doubts


def odd_pairs(samples: Sequence[FaceSample], scheme: LandmarkScheme) -> str | None:
    """A line if the scheme's mirror pairs are not those of the mean face; None if that is not clear.

    Raises:
        DataError: no face has all its landmarks.
        MissingExtraError: SciPy is not installed.
    """
    found, doubts = mirror_pairs(_mean_shape(samples))
    given = {(min(pair), max(pair)) for pair in scheme.flip}
    odd = sorted(found ^ given)
    if doubts or not odd:
        return None
    return f"{len(odd)} flip pairs differ between scheme {scheme.name!r} and the mean face, such as {odd[0]}"


def _mean_shape(samples: Sequence[FaceSample]) -> Float64[np.ndarray, "landmarks 2"]:
    """Mean of the faces that are whole, as fractions of their landmarks' box."""
    whole = [s.points for s in samples if np.isfinite(s.points).all() and s.has_area]
    if not whole:
        raise DataError("no face has all its landmarks, apart in both directions: a mean face needs one")
    return np.asarray(np.mean([to_fraction(p, tight_box(p)) for p in whole], axis=0))


def _pairs_by_name(names: Sequence[str]) -> set[tuple[int, int]]:
    """Pairs whose names differ in left and right only."""
    swap = _SIDES | {right: left for left, right in _SIDES.items()}
    # "left" anywhere, "l" only as a word of its own: l_eye, eye_l. A name may hold both sides, such as
    # LeftEyeRightCorner, whose partner is RightEyeLeftCorner.
    sides = re.compile(r"left|right|Left|Right|LEFT|RIGHT|(?<![a-zA-Z])[lrLR](?![a-zA-Z])")
    partner = [sides.sub(lambda found: swap[found[0]], name) for name in names]
    place = {name: i for i, name in enumerate(names)}
    return {(i, place[p]) for i, p in enumerate(partner) if place.get(p, -1) > i}


def _crop_scale(samples: Sequence[FaceSample]) -> tuple[float, str | None]:
    """Crop over landmark box that shows the whole face, as a detector finds it, and any doubt of it."""
    try:
        detector = load_detector("auto")
    except PipnetError as error:
        return _WIDE, f"crop.scale {_WIDE} is a guess: no face detector here ({error})"
    found, boxes = [], []
    chosen = samples[:: max(len(samples) // _LOOKED_AT, 1)]
    for sample in track(chosen, len(chosen), "looking at the pictures"):
        with contextlib.suppress(PipnetError):  # who trains on it, hears of it
            found.append(detector(read_image(sample.image)).boxes)
            boxes.append(tight_box(sample.points))
    try:
        (left, top, right, bottom), _ = fit_matched(found, boxes)
    except PipnetError:
        return _WIDE, f"crop.scale {_WIDE} is a guess: no face was found in the pictures"
    x, y = (left + right) / 2, (top + bottom) / 2
    needed = 2 * max(x, 1 - x, y, 1 - y) / max(right - left, bottom - top)
    return round(float(np.clip(needed, 1.1, 4.0)), 1), None
