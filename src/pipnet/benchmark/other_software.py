"""Other landmark software, if it is installed: timed and evaluated on the same faces.

Each peer is given the box that suits it best. The name of a peer tells if its time includes a detector that
it cannot run without.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipnet.box_adapter import match_overlapping
from pipnet.errors import PipnetError
from pipnet.geometry import Box, Image, Points, from_fraction
from pipnet.warp import crop

_MESH_AS_68 = [
    *(127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
]
"""The vertices of MediaPipe's face mesh that are nearest to 300-W's 68 points."""


@runtime_checkable
class Peer(Protocol):
    """Software that predicts 300-W's 68 points."""

    name: str

    def adapt(self, image: Image, box: Box) -> Box:
        """Return the peer's box of the face with a tight landmark box, both in pixels of the image."""
        ...

    def __call__(self, image: Image, box: Box) -> Points | None:
        """Return the landmarks of the face in the peer's box, in pixels; None if the peer misses the face."""
        ...


class Dlib:
    """dlib's 68 points by an ensemble of regression trees, with the model of ``face_recognition_models``."""

    name = "dlib"
    _SHIFT_UP = 0.09
    """The boxes of its detector are squares of the landmarks' longer side, shifted up by this fraction of it:
    the median over the 74 faces of 300-W's training subset that it detects."""

    def __init__(self) -> None:
        import dlib

        # Importing the package fails with newer setuptools; only its file is needed.
        package = importlib.util.find_spec("face_recognition_models")
        if package is None or package.origin is None:
            raise PipnetError("dlib's model is missing: pip install face_recognition_models")
        model = Path(package.origin).parent / "models" / "shape_predictor_68_face_landmarks.dat"
        self._predict, self._rectangle = dlib.shape_predictor(str(model)), dlib.rectangle
        self._detect = dlib.get_frontal_face_detector()

    def adapt(self, image: Image, box: Box) -> Box:
        """Return the box of its own detector; if it does not detect the face, a box of the same kind."""
        detections = [(r.left(), r.top(), r.right(), r.bottom()) for r in self._detect(image, 0)]
        boxes = np.array(detections, np.float32).reshape(-1, 4)
        match = match_overlapping(boxes, box)
        if match is not None:
            return np.asarray(boxes[match])
        side = float((box[2:] - box[:2]).max())
        low = (box[:2] + box[2:]) / 2 - [0, self._SHIFT_UP * side] - side / 2
        return np.concatenate([low, low + side]).astype(np.float32)

    def __call__(self, image: Image, box: Box) -> Points | None:
        """Return the landmarks of the face in a box of its detector."""
        shape = self._predict(image, self._rectangle(*(round(v) for v in box.tolist())))
        return np.array([(p.x, p.y) for p in shape.parts()], np.float32)


class MediaPipe:
    """MediaPipe's face mesh with its built-in detector, on the part of the image around the face."""

    name = "MediaPipe face mesh, with its detector"
    _SCALE, _SIZE = 2.0, 256

    def __init__(self) -> None:
        import mediapipe

        self._mesh: Any = mediapipe.solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=1, min_detection_confidence=0.1
        )

    def adapt(self, image: Image, box: Box) -> Box:  # noqa: ARG002
        """Return a square of twice the landmarks' box."""
        center, half = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * self._SCALE / 2
        return np.concatenate([center - half, center + half]).astype(np.float32)

    def __call__(self, image: Image, box: Box) -> Points | None:
        """Return the landmarks of the face that its detector finds in a box."""
        faces = self._mesh.process(crop(image, box, self._SIZE)).multi_face_landmarks
        if not faces:
            return None
        mesh = np.array([(p.x, p.y) for p in faces[0].landmark], np.float32)
        return from_fraction(mesh[_MESH_AS_68], box)


def installed_peers() -> list[Peer]:
    """Return the peers that are installed and can be loaded."""
    peers: list[Peer] = []
    factories: tuple[tuple[str, Callable[[], Peer]], ...] = (("dlib", Dlib), ("mediapipe", MediaPipe))
    for package, factory in factories:
        if importlib.util.find_spec(package) is None:
            continue
        try:
            peers.append(factory())
        except (ImportError, AttributeError, RuntimeError, PipnetError):
            continue  # installed without its model, or in a version that does not have it
    return peers
