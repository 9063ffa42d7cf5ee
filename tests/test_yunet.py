"""YuNet in ONNX Runtime gives the boxes of YuNet in OpenCV."""

import numpy as np
import onnx
import pytest

from pipnet import FaceLandmarker
from pipnet.errors import ModelError
from pipnet.geometry import box_iou
from pipnet.hub import YUNET, cached_download
from pipnet.inference.detectors.yunet import YuNetDetector
from pipnet.io.image import read_image
from pipnet.warp import resize

SIDE = 320


@pytest.fixture(scope="module")
def file(shared):
    return shared / "models" / "yunet_n_dynamic.onnx"


@pytest.fixture(scope="module")
def photos(shared):
    """100 real images, of which some have no face or several."""
    sources = [("300w/helen/testset", 3), ("wflw", 3), ("unlabelled/wider", 33), ("unlabelled/helen", 44)]
    photos = []
    for folder, step in sources:
        for path in sorted((shared / "data" / folder).rglob("*.jpg"))[::step][:25]:
            image = read_image(path)
            height, width = (round(side * SIDE / max(image.shape)) for side in image.shape[:2])
            photos.append(resize(image, width, height))
    assert len(photos) == 100
    return photos


def test_yunet_boxes_equal_opencv(file, photos):
    cv2 = pytest.importorskip("cv2")
    network = cv2.FaceDetectorYN.create(
        "onnx", np.fromfile(file, np.uint8), np.zeros(0, np.uint8), (320, 320), 0.6
    )
    detector = YuNetDetector(file, SIDE)
    count = 0
    for image in photos:
        network.setInputSize(image.shape[1::-1])
        rows = network.detect(np.ascontiguousarray(image[..., ::-1]))[1]
        rows = np.zeros((0, 15)) if rows is None else rows[np.argsort(-rows[:, 14], kind="stable")]
        detected = detector(image)
        assert len(detected.boxes) == len(rows)
        np.testing.assert_allclose(detected.boxes[:, :2], rows[:, :2], atol=0.5)
        np.testing.assert_allclose(detected.boxes[:, 2:] - detected.boxes[:, :2], rows[:, 2:4], atol=0.5)
        np.testing.assert_allclose(detected.detection_score, rows[:, 14], atol=0.01)
        count += len(rows)
    assert count > 100


def test_yunet_with_a_fixed_input_size_finds_the_same_faces(file, photos, tmp_path):
    """OpenCV's copies of YuNet have one; smaller images are padded with black."""
    model = onnx.load(file)
    for dimension, size in zip(
        model.graph.input[0].type.tensor_type.shape.dim, (1, 3, SIDE, SIDE), strict=True
    ):
        dimension.dim_value = size
    fixed = tmp_path / "fixed.onnx"
    onnx.save(model, fixed)
    detector, flexible = YuNetDetector(fixed, size=640), YuNetDetector(file, SIDE)
    assert detector.size == SIDE
    counts = []
    for image in photos[::10]:
        detected, expected = detector(image), flexible(image)
        counts.append((len(detected.boxes), len(expected.boxes)))
        if len(expected.boxes):
            assert box_iou(detected.boxes, expected.boxes[0]).max() > 0.8
    assert np.abs(np.diff(counts)).sum() <= 1


def test_yunet_download_is_the_file_of_the_box_adapters(file, monkeypatch, tmp_path):
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path))
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / YUNET.name).write_bytes(file.read_bytes())
    assert cached_download(YUNET).read_bytes() == file.read_bytes()  # the checksum is right
    monkeypatch.delenv("PIPNET_YUNET", raising=False)
    assert YuNetDetector().size == 640


def test_yunet_uses_the_threads_of_the_runtime(file):
    detector = FaceLandmarker(detector=f"yunet:{file}", threads=1).detector
    assert detector._session.get_session_options().intra_op_num_threads == 1


def test_yunet_finds_no_face_in_tiny_images(file):
    assert not len(YuNetDetector(file)(np.zeros((5, 40, 3), np.uint8)).boxes)
    assert not len(YuNetDetector(file)(np.zeros((9, 1000, 3), np.uint8)).boxes)


def test_yunet_refuses_other_networks(landmarker):
    with pytest.raises(ModelError, match="not a YuNet model"):
        YuNetDetector(landmarker.model.path)
