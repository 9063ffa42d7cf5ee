"""Results: templates of alignment, schemes, tables, drawing."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from pipnet import DataError, FaceLandmarks, MissingExtraError, PipnetError
from pipnet.annotations.csv_landmarks import read_csv
from pipnet.annotations.image_finder import ImageFinder
from pipnet.cli import main
from pipnet.geometry import affine
from pipnet.inference.align import alignment, arcface_points
from pipnet.inference.draw import draw_faces
from pipnet.io.image import read_image
from pipnet.scheme import LandmarkScheme
from pipnet.warp import warp

INSIGHTFACE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""``arcface_dst`` of insightface, in its crop of 112 px."""
MARGIN = 0.25


@pytest.fixture(scope="module")
def faces(landmarker, portrait) -> FaceLandmarks:
    return landmarker(portrait)


@pytest.fixture(scope="module")
def two_faces(landmarker, portrait) -> FaceLandmarks:
    image = read_image(portrait)[:260, 100:360]
    return landmarker(np.hstack([image, image]))


def matrix(faces, size, template):
    face = alignment(faces.points[0], faces.five_points[0], faces.metadata, size, MARGIN, template)
    return np.vstack([face, [0, 0, 1]])


# -- alignment -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [112, 128, 224, 256])
def test_arcface_template_equals_insightface(faces, size):
    """`insightface.utils.face_align.estimate_norm`, with its scikit-image, to 0.1 px."""
    transform = pytest.importorskip("skimage.transform")
    ratio, shift = (size / 112, 0) if size % 112 == 0 else (size / 128, 8 * size / 128)
    target = INSIGHTFACE * ratio + [shift, 0]
    expected = transform.SimilarityTransform.from_estimate(faces.five_points[0], target)
    corners = np.array([[150.0, 50], [280, 50], [280, 200], [150, 200]])
    ours = affine(corners, matrix(faces, size, "arcface")[:2])
    np.testing.assert_allclose(ours, expected(corners), atol=0.1)
    crop = faces.aligned(size, template="arcface")[0]
    np.testing.assert_array_equal(crop, warp(faces.image, matrix(faces, size, "arcface")[:2], size))


def test_arcface_template_scales_to_other_sizes(faces):
    np.testing.assert_allclose(arcface_points(100), INSIGHTFACE * 100 / 112)
    assert faces.aligned(100, template="arcface").shape == (1, 100, 100, 3)


def ffhq_quad(points):
    """The corners of the crop in ``recreate_aligned_images`` of NVlabs/ffhq-dataset, from 68 points."""
    eye_left, eye_right = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    eye_avg, eye_to_eye = (eye_left + eye_right) * 0.5, eye_right - eye_left
    eye_to_mouth = (points[48] + points[54]) * 0.5 - eye_avg
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y = np.flipud(x) * [-1, 1]
    c = eye_avg + eye_to_mouth * 0.1
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


def test_ffhq_template_equals_the_original_quad(faces):
    """The same pixels as Pillow's transform of the quad, as in the original."""
    quad, size = ffhq_quad(faces.points[0].astype(np.float64)), 256
    corners = affine(quad, matrix(faces, size, "ffhq")[:2])
    np.testing.assert_allclose(
        corners, [[-0.5, -0.5], [-0.5, 255.5], [255.5, 255.5], [255.5, -0.5]], atol=1e-3
    )
    expected = PIL.Image.fromarray(faces.image).transform(
        (size, size),
        PIL.Image.Transform.QUAD,
        (quad + 0.5).ravel().tolist(),
        PIL.Image.Resampling.BILINEAR,
    )
    difference = np.abs(
        faces.aligned(size, template="ffhq")[0].astype(int) - np.asarray(expected).astype(int)
    )
    assert difference.mean() < 1


def test_aligned_faces_are_upright_in_every_template(landmarker, portrait):
    image = PIL.Image.open(portrait).convert("RGB").crop((100, 20, 350, 270))
    faces = landmarker(image.rotate(25, PIL.Image.Resampling.BILINEAR))
    for template in ("arcface", "ffhq", "mean_face"):
        face = landmarker(faces.aligned(224, template=template)[0])
        assert abs(face.head_pose()[0, 2]) < 6


def test_aligned_refuses_margins_and_sizes_that_do_not_fit_the_template(faces):
    with pytest.raises(PipnetError, match="'arcface' has a fixed margin"):
        faces.aligned(112, 0.1, template="arcface")
    with pytest.raises(PipnetError, match="size must be 1 to 32767"):
        faces.aligned(0, template="ffhq")


# -- schemes -------------------------------------------------------------------------------------------


def test_five_points_are_eyes_nose_and_corners_of_the_mouth(faces):
    points = faces.points[0]
    expected = [points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]]
    np.testing.assert_allclose(faces.five_points[0], expected, atol=1e-3)
    assert faces[[]].five_points.shape == (0, 5, 2)


def test_to_scheme_keeps_a_consistent_result(two_faces):
    mapped = two_faces.to_scheme("aflw")
    assert mapped.scheme == LandmarkScheme.load("aflw")
    assert mapped.points.shape == (2, 19, 2)
    assert mapped.metadata.mean_face.shape == (19, 2)
    for name in ("scores", "vote_std", "tta_std", "confidence", "expected_error"):
        assert getattr(mapped, name).shape == (2, 19)
        np.testing.assert_allclose(getattr(mapped, name)[:, 18], getattr(two_faces, name)[:, 8], rtol=1e-5)
    np.testing.assert_allclose(
        mapped.confidence[:, 7], two_faces.confidence[:, 36:42].mean(axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(mapped.quality, mapped.confidence.mean(axis=1))
    np.testing.assert_array_equal(mapped.boxes, two_faces.boxes)
    one = mapped[1:]
    np.testing.assert_array_equal(one.confidence, mapped.confidence[1:])
    assert one.to_dict()["faces"][0]["confidence"] is not None
    assert mapped.aligned(64).shape == (2, 64, 64, 3)
    np.testing.assert_allclose(mapped.to_scheme("five").points, two_faces.five_points, atol=1e-3)
    assert mapped.to_scheme("aflw") is mapped


def test_to_scheme_of_an_uncalibrated_result_stays_uncalibrated(faces):
    uncalibrated = replace(faces, metadata=replace(faces.metadata, calibration=None)).to_scheme("five")
    assert not uncalibrated.is_calibrated
    assert np.isnan(uncalibrated.quality).all()
    assert uncalibrated.to_dict()["faces"][0]["quality"] is None


def test_to_scheme_refuses_schemes_without_a_mapping(faces):
    with pytest.raises(DataError, match="no mapping from scheme '300w' to 'wflw'; those from it: aflw, five"):
        faces.to_scheme("wflw")


# -- tables --------------------------------------------------------------------------------------------


def test_to_dataframe_has_a_row_per_face(two_faces):
    pytest.importorskip("pandas")
    frame = two_faces.to_dataframe()
    assert frame["face"].tolist() == [0, 1]
    assert list(frame.columns[:5]) == ["face", "box_x", "box_y", "box_w", "box_h"]
    assert list(frame.columns[5:7]) == ["detection_score", "quality"]
    names = two_faces.scheme.landmark_names
    points = frame[[f"{name}_{axis}" for name in names for axis in "xy"]].to_numpy().reshape(2, 68, 2)
    np.testing.assert_allclose(points, two_faces.points, atol=1e-3)
    confidence = frame[[f"{name}_confidence" for name in names]].to_numpy()
    np.testing.assert_allclose(confidence, two_faces.confidence, atol=1e-4)
    assert two_faces[[]].to_dataframe().shape == (0, 7 + 3 * 68)


def test_to_dataframe_has_a_row_per_landmark(two_faces):
    pytest.importorskip("pandas")
    frame = two_faces.to_dataframe("landmark")
    assert len(frame) == 2 * 68
    tip = frame[(frame["face"] == 1) & (frame["landmark"] == 30)].iloc[0]
    assert tip["name"] == "nose_3"
    np.testing.assert_allclose([tip["x"], tip["y"]], two_faces.points[1, 30])
    np.testing.assert_allclose(tip["expected_error"], two_faces.expected_error[1, 30])


def test_to_dataframe_names_a_missing_package(faces, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="^pandas is not installed: pip install pandas$"):
        faces.to_dataframe()


def test_to_supervision_can_be_drawn_by_supervision(two_faces):
    supervision = pytest.importorskip("supervision")
    key_points = two_faces.to_supervision()
    np.testing.assert_array_equal(key_points.xy, two_faces.points)
    np.testing.assert_array_equal(key_points.keypoint_confidence, two_faces.confidence)
    assert len(key_points[1:]) == 1
    drawn = supervision.VertexAnnotator(radius=2).annotate(two_faces.image.copy(), key_points)
    assert (drawn != two_faces.image).any()
    assert len(two_faces[[]].to_supervision()) == 0


def test_detect_writes_csv_and_coco_of_many_images(portrait, two_faces, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    PIL.Image.open(portrait).save(folder / "one.png")
    PIL.Image.fromarray(two_faces.image).save(folder / "two.png")
    PIL.Image.new("RGB", (90, 60)).save(folder / "empty.png")
    csv, coco = tmp_path / "out" / "faces.csv", tmp_path / "out" / "faces.json"
    assert main(["detect", str(folder), "--csv", str(csv), "--coco", str(coco)]) == 0
    annotations = read_csv(csv, ImageFinder(csv.parent))
    assert [sample.image.name for sample in annotations.samples] == ["one.png", "two.png", "two.png"]
    np.testing.assert_allclose(annotations.samples[2].points, two_faces.points[1], atol=2e-3)
    table = json.loads(coco.read_text())
    assert sorted(image["file_name"] for image in table["images"]) == [
        f"../images/{name}.png" for name in ("empty", "one", "two")
    ]
    assert [row["id"] for row in table["annotations"]] == [1, 2, 3]
    names = {image["id"]: image["file_name"] for image in table["images"]}
    assert names[table["annotations"][2]["image_id"]] == "../images/two.png"
    assert len(table["categories"][0]["keypoints"]) == 68


@pytest.mark.parametrize(("flag", "suffix"), [("--csv", ".csv"), ("--coco", ".json")])
def test_detect_refuses_a_table_with_another_suffix(flag, suffix, portrait_folder, capsys):
    image = portrait_folder / "good.jpg"
    before = image.read_bytes()
    assert main(["detect", str(image), flag, str(image)]) == 1
    assert f"expected the name of a file that ends in {suffix}" in capsys.readouterr().err
    assert image.read_bytes() == before


# -- drawing -------------------------------------------------------------------------------------------


def changed(faces, **options):
    """Return where a drawing differs from the image."""
    return (np.asarray(faces.plot(**options)) != faces.image).any(axis=2)


def test_plot_returns_a_pillow_image_with_dots_on_the_landmarks(faces):
    image = faces.plot()
    assert isinstance(image, PIL.Image.Image)
    assert image.size == faces.image.shape[1::-1]
    marked = changed(faces, boxes=False)
    x, y = faces.points[0].round().astype(int).T
    assert marked[y, x].all()
    x0, y0, x1, y1 = faces.boxes[0].round().astype(int)
    assert marked[y0, x0:x1].mean() < 0.1
    assert changed(faces)[y0, x0:x1].mean() > 0.9
    image.save(io.BytesIO(), "PNG")


def test_plot_scales_dots_with_the_face(faces):
    """Twice the face: almost four times the pixels, but for the smooth edges."""
    scaled = [
        replace(
            faces,
            points=faces.points * scale,
            boxes=faces.boxes * scale,
            photo=np.zeros((512 * scale, 512 * scale, 3), np.uint8),
        )
        for scale in (8, 16)
    ]
    small, large = (changed(one).sum() for one in scaled)
    assert 3 < large / small < 5


def test_plot_applies_color_thickness_and_numbers(faces):
    red = np.asarray(faces.plot(color="red", boxes=False))
    nose = faces.points[0, 30].round().astype(int)
    assert tuple(red[nose[1], nose[0]]) == (255, 0, 0)
    np.testing.assert_array_equal(red, np.asarray(faces.plot(color=(255, 0, 0), boxes=False)))
    assert changed(faces, thickness=5).sum() > 2 * changed(faces).sum()
    assert changed(faces, numbers=True).sum() > 1.5 * changed(faces).sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color": "no color"}, "no color 'no color': use a name, '#rrggbb' or three numbers"),
        ({"color": (0, 0, 256)}, "three numbers from 0 to 255"),
        ({"thickness": 0.0}, "thickness is above 0 and at most 100, not 0"),
        ({"thickness": 1000.0}, "thickness is above 0"),
    ],
)
def test_plot_refuses_invalid_options(faces, options, message):
    with pytest.raises(PipnetError, match=message):
        faces.plot(**options)


def test_plot_dashes_faces_of_low_quality(faces):
    """In another color, and with gaps in the outline of the box."""
    empty = np.zeros_like(faces.image)
    drawings = [
        np.asarray(draw_faces(empty, faces.points, faces.boxes, faces.scheme, np.float32([quality])))
        for quality in (0.9, 0.1)
    ]
    x0, y0, x1, _ = faces.boxes[0].round().astype(int)
    sure, doubtful = ((drawing[y0, x0:x1] > 60).any(axis=1) for drawing in drawings)
    assert sure.mean() > 0.95
    assert 0.3 < doubtful.mean() < 0.8
    assert not (drawings[0] == drawings[1]).all()
    unknown = draw_faces(empty, faces.points, faces.boxes, faces.scheme, np.float32([np.nan]))
    np.testing.assert_array_equal(np.asarray(unknown), drawings[0])


def test_plot_accepts_faces_far_outside(faces):
    far = replace(faces, points=faces.points * 1e6, boxes=faces.boxes * 1e6)
    assert far.plot().size == faces.image.shape[1::-1]
    beside = replace(faces, points=faces.points + 5000, boxes=faces.boxes + 5000)
    np.testing.assert_array_equal(np.asarray(beside.plot(numbers=True)), faces.image)
