"""Unusual arrays: views of hundreds of gigabytes, masks, objects, strides, byte orders."""

import tracemalloc
from collections import deque

import numpy as np
import pytest

from pipnet.errors import BoxError, ImageError
from pipnet.geometry import check_boxes
from pipnet.inference.detectors.callable import CallableDetector
from pipnet.io.image_source import as_image

RGB = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
GRAY = np.ascontiguousarray(RGB[..., 0])
HUGE = np.broadcast_to(np.uint8(7), (10**6, 10**6, 3))
BOX = np.array([[1, 2, 30, 40.0]])
RECORDS = np.zeros((4, 4), [("r", "u1"), ("g", "u1")])
MAX_MEMORY = 100_000_000


class Subclass(np.ndarray):
    """A subclass without a behavior of its own."""


@pytest.fixture(autouse=True)
def bounded_memory():
    """No test may take more memory than a few copies of its image."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MAX_MEMORY


# -- images --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_as_image_accepts_arrays_of_any_layout_and_byte_order():
    read_only = np.frombuffer(RGB.tobytes(), np.uint8).reshape(RGB.shape)
    for name, array, expected in (
        ("matrix", np.matrix(GRAY), np.stack([GRAY] * 3, axis=2)),
        ("masked array without masked pixels", np.ma.array(RGB, mask=np.zeros(RGB.shape, bool)), RGB),
        ("negative strides", RGB[::-1, ::-1, ::-1], np.ascontiguousarray(RGB[::-1, ::-1, ::-1])),
        ("steps", RGB[::3, ::7], RGB[::3, ::7].copy()),
        ("columns first", np.asfortranarray(RGB), RGB),
        ("read-only", read_only, RGB),
        ("zero strides", np.broadcast_to(RGB[:1, :1], RGB.shape), np.tile(RGB[0, 0], (40, 50, 1))),
        ("subclass", RGB.view(Subclass), RGB),
        ("big-endian uint16", RGB.astype(">u2") * 257, RGB),
        ("little-endian uint16", RGB.astype("<u2") * 257, RGB),
        ("big-endian float64", (RGB / 255).astype(">f8"), RGB),
        ("long double", (RGB / 255).astype(np.longdouble), RGB),
        (
            "float32, in several blocks",
            np.tile(RGB / np.float32(255), (30, 30, 1)),
            np.tile(RGB, (30, 30, 1)),
        ),
    ):
        image = as_image(array)
        assert (type(image), image.dtype, image.flags.c_contiguous) == (np.ndarray, np.uint8, True), name
        np.testing.assert_array_equal(image, expected, name)
        assert not np.shares_memory(image, array), name


def test_as_image_limits_memory_of_wide_and_high_images():
    for shape in ((1, 1_000_000, 3), (1_000_000, 1, 3), (1_000_000, 1)):
        image = as_image(np.broadcast_to(0.5, shape))
        assert image.shape == (*shape[:2], 3)
        assert (image == 128).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (HUGE, "1000000 x 1000000 pixels"),
        (np.broadcast_to(np.uint16(7), (10**6, 10**6, 3)), "1000000 x 1000000 pixels"),
        (np.broadcast_to(np.True_, (10**6, 10**6, 3)), "1000000 x 1000000 pixels"),
        (np.broadcast_to(0.5, (10**6, 10**6)), "1000000 x 1000000 pixels"),
        (np.broadcast_to(np.array(None, object), (10**6, 10**6)), "1000000 x 1000000 pixels"),
        (np.ma.array(HUGE, copy=False), "1000000 x 1000000 pixels"),
        (memoryview(HUGE), "3,000,000,000,000 bytes, more than the limit"),
        (np.ma.array(RGB, mask=RGB > 9), r"must not have masked pixels: fill them, array.filled\(0\)"),
        (RGB.astype(object), "not object"),
        (RGB.astype(int), "not int64"),
        (RECORDS, "must be uint8, uint16, bool or float"),
        (RECORDS.view(np.recarray), "must be uint8, uint16, bool or float"),
        (np.zeros((4, 4), "M8[s]"), "not datetime64"),
        (np.zeros((4, 4), complex), "not complex128"),
        (np.array([["a"]]), "not <U1"),
        (RGB[:0], "no pixels: 50 x 0"),
        (np.zeros((0, 0, 3), np.uint8), "no pixels: 0 x 0"),
        (np.zeros((4, 4, 0), np.uint8), "must have shape"),
        (np.zeros((4, 4, 2), np.uint8), "must have shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), "must have shape"),
        (np.array(5, np.uint8), "must have shape"),
        (np.zeros((2,) * 32, np.uint8), "must have shape"),
        (np.full((4, 4), np.nan), "finite and within"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_as_image_refuses_other_arrays_before_it_copies(array, message):
    with pytest.raises(ImageError, match=message) as caught:
        as_image(array)
    assert "\n" not in str(caught.value)


def test_as_image_refuses_pipes_without_an_end(monkeypatch):
    class Endless:
        def read(self, size=-1):
            return b"\xff\xd8" * (size // 2)

    monkeypatch.setattr("pipnet.io.image.MAX_FILE_BYTES", 5_000_000)
    with pytest.raises(ImageError, match="more than the limit of 5,000,000 bytes"):
        as_image(Endless())


def test_landmarker_accepts_sequences_that_cannot_be_sliced(landmarker):
    tracemalloc.stop()  # of the network
    tracemalloc.start()
    results = landmarker(deque([RGB] * 17))
    assert [len(faces) for faces in results] == [0] * 17
    assert landmarker(deque()) == []


# -- boxes and scores ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_check_boxes_accepts_any_array_of_numbers():
    views = (BOX.astype(">f8"), BOX[:, ::-1][:, ::-1], BOX.astype(object), np.ma.array(BOX), np.matrix(BOX))
    for boxes in (*views, BOX.astype(np.int8), BOX.tolist()):
        checked = check_boxes(boxes, 50, 40)
        assert (type(checked), checked.dtype) == (np.ndarray, np.float32)
        np.testing.assert_array_equal(checked, BOX)
    assert check_boxes(np.broadcast_to(BOX, (3, 4)), 50, 40).shape == (3, 4)


MALFORMED_BOXES = [
    (np.broadcast_to(BOX, (10**9, 4)), "boxes must be at most 100,000, not of shape"),
    (np.broadcast_to(np.float64(0), (10**9, 10**9)), "boxes must be at most 100,000, not of shape"),
    (np.ma.array(BOX, mask=[[1, 0, 0, 0]]), "must not be masked"),
    (BOX.astype(complex), "must be numbers"),
    (BOX.astype("M8[s]"), "must be numbers"),
    (RECORDS, "must be numbers"),
    (np.array([[None] * 4]), "not finite"),
    ([[1e300] * 4], "not finite"),
    ([[10**400] * 4], "must be numbers"),
    ([[1, 2], [3]], "must be numbers"),
    ({1: 2}, "must be numbers"),
    ("abc", "must be numbers"),
    (BOX[:, ::-1], "is empty"),
    (BOX[None], "must have shape"),
    (5.0, "must have shape"),
]


@pytest.mark.parametrize(("boxes", "message"), MALFORMED_BOXES, ids=range(len(MALFORMED_BOXES)))
def test_invalid_boxes_are_refused_before_they_are_copied(boxes, message):
    for check in (
        lambda: check_boxes(boxes, 50, 40),
        lambda: CallableDetector(lambda image: boxes, "face")(RGB),
        lambda: CallableDetector(lambda image: (boxes, [0.5]), "face")(RGB),
    ):
        with pytest.raises(BoxError, match=message) as caught:
            check()
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.broadcast_to(0.5, (10**10,)), "scores must be at most 100,000, not of shape"),
        (np.ma.array([0.5], mask=[1]), "must not be masked"),
        ([None], "returned 1 boxes but these scores"),
        (["x"], "must be numbers"),
        ({0.5}, "must be numbers"),
        (np.array([[0.5], [0.5]]), "returned 1 boxes but these scores"),
    ],
    ids=range(6),
)
def test_invalid_scores_of_a_detector_are_refused(scores, message):
    with pytest.raises(BoxError, match=message) as caught:
        CallableDetector(lambda image: (BOX, scores), "face")(RGB)
    assert "\n" not in str(caught.value)
