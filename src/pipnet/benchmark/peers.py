"""Other landmark software, where it is installed: timed and measured on the same faces.

Each is shown the face at the place that suits it best. Where it has a detector that it cannot do without,
that is said in its name.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipnet.box_adapter import match_overlapping
from pipnet.errors import PipnetError
from pipnet.geometry import Box, Image, Points, crop, from_fraction

_MESH_AS_68 = [
    *(127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
]
"""MediaPipe's face mesh as 300-W's 68 points: the vertices nearest to each of them."""


@runtime_checkable
class Peer(Protocol):
    """Another landmark predictor of 300-W's 68 points."""

    name: str

    def place(self, image: Image, box: Box) -> Box:
        """The box that suits it best, for the face with a tight landmark box in pixels of the picture."""
        ...

    def __call__(self, image: Image, place: Box) -> Points | None:
        """Landmarks of the face at a place, in pixels of the picture; None if not found."""
        ...


class Dlib:
    """dlib's 68 points, an ensemble of regression trees; the model is in ``face_recognition_models``."""

    name = "dlib"
    _ABOVE = 0.09
    """Its detector's boxes are squares of the landmarks' longer side, so much higher: the median over 74
    faces of 300-W's training part that it finds."""

    def __init__(self) -> None:
        import dlib

        # The package itself imports what newer setuptools no longer have; only its file is needed.
        package = importlib.util.find_spec("face_recognition_models")
        if package is None or package.origin is None:
            raise PipnetError("dlib's model is in the package face_recognition_models, which is not there")
        model = Path(package.origin).parent / "models" / "shape_predictor_68_face_landmarks.dat"
        self._predict, self._rectangle = dlib.shape_predictor(str(model)), dlib.rectangle
        self._detect = dlib.get_frontal_face_detector()

    def place(self, image: Image, box: Box) -> Box:
        """Its own detector's box of the face; where it finds none, one as it would draw it."""
        own = [(r.left(), r.top(), r.right(), r.bottom()) for r in self._detect(image, 0)]
        boxes = np.array(own, np.float32).reshape(-1, 4)
        match = match_overlapping(boxes, box)
        if match is not None:
            return np.asarray(boxes[match])
        side = float((box[2:] - box[:2]).max())
        low = (box[:2] + box[2:]) / 2 - [0, self._ABOVE * side] - side / 2
        return np.concatenate([low, low + side]).astype(np.float32)

    def __call__(self, image: Image, place: Box) -> Points | None:
        """Landmarks of the face in a box of its detector."""
        found = self._predict(image, self._rectangle(*(round(v) for v in place.tolist())))
        return np.array([(p.x, p.y) for p in found.parts()], np.float32)


class MediaPipe:
    """MediaPipe's face mesh, with the detector inside it, on the part of the picture around the face."""

    name = "MediaPipe face mesh, with its detector"
    _AROUND, _SIZE = 2.0, 256

    def __init__(self) -> None:
        import mediapipe

        self._mesh: Any = mediapipe.solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=1, min_detection_confidence=0.1
        )

    def place(self, image: Image, box: Box) -> Box:  # noqa: ARG002
        """A square of twice the landmarks' box."""
        center, half = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * self._AROUND / 2
        return np.concatenate([center - half, center + half]).astype(np.float32)

    def __call__(self, image: Image, place: Box) -> Points | None:
        """Landmarks of the face that its detector finds at a place."""
        found = self._mesh.process(crop(image, place, self._SIZE)).multi_face_landmarks
        if not found:
            return None
        mesh = np.array([(p.x, p.y) for p in found[0].landmark], np.float32)
        return from_fraction(mesh[_MESH_AS_68], place)


def installed_peers() -> list[Peer]:
    """Those that can be loaded here."""
    peers: list[Peer] = []
    kinds: tuple[tuple[str, Callable[[], Peer]], ...] = (("dlib", Dlib), ("mediapipe", MediaPipe))
    for package, kind in kinds:
        if importlib.util.find_spec(package) is None:
            continue
        try:
            peers.append(kind())
        except (ImportError, AttributeError, RuntimeError, PipnetError):
            continue  # there, but without its model, or in a version that has none
    return peers
