"""The position prior: blank images, parts of photos without a face, and what models predict on them."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.box_adapter import BoxAdapter
from pipnet.cli import main
from pipnet.config import DEFAULT_DETECTOR
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, ImageError, ModelError, RecipeError
from pipnet.geometry import CropConfig, tight_box
from pipnet.inference.detectors.load import load_detector
from pipnet.io.image import read_image, write_image
from pipnet.metadata import ModelMetadata
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.model.config import ModelConfig
from pipnet.model.pipnet import PIPNet
from pipnet.papers.blank_images import load_blank_checkpoint, train_on_blank_images
from pipnet.papers.face_free_crops import (
    dataset_crops,
    find_backgrounds,
    head_boxes,
    image_crops,
    texture,
)
from pipnet.papers.position_prior import (
    check_score_maps,
    predict_score_maps,
    probe_models,
    probed_landmarks,
    reference_distances,
)
from pipnet.scheme import LandmarkScheme
from pipnet.training.augment import Augmentation
from pipnet.training.dataset import FaceDataset
from pipnet.training.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "checkpoints" / "pipnet-68.safetensors"
SMALL = ModelConfig(backbone="lcnet_050", input_size=64, stride=16, neck_width=32, neighbors=3)


def save_random_model(path: Path, config: ModelConfig, scheme: str = "300w") -> ModelMetadata:
    """Write a checkpoint with random weights."""
    torch.manual_seed(0)
    points = LandmarkScheme.load(scheme)
    face = np.random.default_rng(0).uniform(0.2, 0.8, (points.landmarks, 2))
    adapters = {load_detector(DEFAULT_DETECTOR).box_format: BoxAdapter(0.0, 0.2, 1.0, 1.0)}
    metadata = ModelMetadata("tiny", points, CropConfig(), config.input_size, face, asdict(config), adapters)
    save_checkpoint(path, PIPNet(config, face), metadata)
    return metadata


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_random_model(path, SMALL)
    return path


@pytest.fixture(scope="module")
def blank_checkpoint(tiny, small_300w, tmp_path_factory) -> Path:
    """Return a tiny network trained on blank images for a moment."""
    _, metadata = load_checkpoint(tiny)
    return train_on_blank_images(metadata, small_300w, tmp_path_factory.mktemp("blank"), steps=6)


# -- training on blank images --------------------------------------------------------------------------


def test_blank_augmentation_keeps_the_labels(small_300w):
    samples, scheme, _ = load_samples(small_300w, "train")
    plain = replace(Augmentation(), scale=0.5, color_jitter=1.0)
    plain_dataset, blank_dataset = (
        FaceDataset(samples, scheme, CropConfig(), 64, augmentation, seed=3)
        for augmentation in (plain, replace(plain, blank=True))
    )
    for i in range(len(samples)):
        image, points, *_ = plain_dataset[i]
        blank, blank_points, *_ = blank_dataset[i]
        assert image.any()
        assert not blank.any()
        assert blank.shape == image.shape
        np.testing.assert_array_equal(points, blank_points)


def test_blank_augmentation_is_a_flag_of_every_recipe():
    recipe = load_recipe(ROOT / "recipes" / "ablation_128.yaml", ["--augment.blank"])
    assert recipe.augment.blank
    assert not load_recipe(ROOT / "recipes" / "ablation_128.yaml").augment.blank


@pytest.mark.slow
def test_blank_model_predicts_the_mean_face(tiny, small_300w, tmp_path):
    path = train_on_blank_images(load_checkpoint(tiny)[1], small_300w, tmp_path / "blank", steps=150)
    model, metadata = load_blank_checkpoint(path)
    result = predict_score_maps(model, [np.zeros((64, 64, 3), np.uint8)])
    assert result.distances[0] < 0.03
    assert result.summary()["unmerged"] < 8
    assert result.distances[0] < reference_distances(metadata.mean_face)["all points at its center"] / 500


def test_recalibrate_batchnorm_predicts_as_in_training(blank_checkpoint):
    """With the statistics of the blank image, one prediction equals that of a batch in training mode."""
    model, _ = load_blank_checkpoint(blank_checkpoint)
    blank = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    with torch.no_grad():
        alone, trained = model(blank[:1]), model.train()(blank)
    torch.testing.assert_close(alone.score[0], trained.score[0], atol=2e-3, rtol=0)


def test_train_on_blank_images_does_not_repeat_a_finished_run(blank_checkpoint, tiny, small_300w):
    before = (blank_checkpoint.parent / "metrics.jsonl").read_text(), blank_checkpoint.read_bytes()
    _, metadata = load_checkpoint(tiny)
    assert train_on_blank_images(metadata, small_300w, blank_checkpoint.parent, steps=6) == blank_checkpoint
    assert ((blank_checkpoint.parent / "metrics.jsonl").read_text(), blank_checkpoint.read_bytes()) == before
    with pytest.raises(RecipeError, match="another recipe"):
        train_on_blank_images(metadata, small_300w, blank_checkpoint.parent, steps=9)
    with pytest.raises(RecipeError, match="at least 1 step"):
        train_on_blank_images(metadata, small_300w, blank_checkpoint.parent, steps=0)


# -- parts without a face ------------------------------------------------------------------------------


def test_find_backgrounds_avoids_faces_and_overlaps(portrait, landmarker):
    image = read_image(portrait)
    faces = np.array([tight_box(landmarker(image)[0].points)])
    backgrounds = find_backgrounds([("astronaut", image, faces)], 64, max_per_image=6, seed=1)
    assert 2 <= len(backgrounds) <= 6
    boxes = np.array([background.box for background in backgrounds])
    height, width = image.shape[:2]
    assert (boxes[:, :2] >= -0.5).all()
    assert (boxes[:, 2:] <= [width - 0.5, height - 0.5]).all()
    all_boxes = np.concatenate([head_boxes(faces), boxes])
    for i, a in enumerate(all_boxes):
        for b in all_boxes[i + 1 :]:
            assert (np.maximum(a[:2], b[:2]) >= np.minimum(a[2:], b[2:])).any(), (a, b)
    assert [background.texture for background in backgrounds] == sorted(
        (background.texture for background in backgrounds), reverse=True
    )
    assert all(background.crop.shape == (64, 64, 3) for background in backgrounds)
    again = find_backgrounds([("astronaut", image, faces)], 64, max_per_image=6, seed=1)
    np.testing.assert_array_equal(boxes, [background.box for background in again])
    other = find_backgrounds([("astronaut", image, faces)], 64, max_per_image=6, seed=2)
    assert [background.box.tolist() for background in other] != boxes.tolist()


def test_head_boxes_contain_the_faces():
    face = np.float32([[100, 100, 200, 200]])
    x0, y0, x1, y1 = head_boxes(face)[0]
    assert x0 < 100
    assert y0 < 70  # the forehead and hair
    assert x1 > 200
    assert y1 > 200


def test_find_backgrounds_skips_padding_and_plain_walls():
    rng = np.random.default_rng(0)
    padded = np.zeros((200, 300, 3), np.uint8)
    padded[60:150, 80:220] = rng.integers(30, 255, (90, 140, 3))
    no_faces = np.zeros((0, 4), np.float32)
    backgrounds = find_backgrounds([("padded", padded, no_faces)], 32, max_per_image=4)
    assert backgrounds
    for background in backgrounds:
        x0, y0, x1, y1 = background.box + 0.5
        assert (x0 >= 80, y0 >= 60, x1 <= 220, y1 <= 150) == (True,) * 4
    wall = np.full((200, 200, 3), 180, np.uint8)
    tiny = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
    assert find_backgrounds([("padding", np.zeros_like(wall), no_faces)], 32, max_per_image=4) == []
    assert find_backgrounds([("wall", wall, no_faces), ("tiny", tiny, no_faces)], 32, max_per_image=4) == []


def test_texture_ignores_a_single_edge():
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 30:] = 255
    assert texture(edge) == 0
    assert texture(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)) > 40


# -- model predictions ---------------------------------------------------------------------------------


def test_probe_shipped_model_scores_faces_above_backgrounds(small_300w):
    model, metadata = load_checkpoint(SHIPPED)
    samples, _, _ = load_samples(small_300w, "common")
    faces, backgrounds = dataset_crops(samples, metadata, load_detector(DEFAULT_DETECTOR), count=2, seed=0)
    assert len(faces) == len(backgrounds) == 2
    on_faces, on_backgrounds = predict_score_maps(model, faces), predict_score_maps(model, backgrounds)
    assert on_faces.score_maps.shape == (2, 68, 8, 8)
    assert on_faces.scores.min(axis=1).mean() > on_backgrounds.scores.mean()
    assert on_faces.summary()["peak"] > 3 * on_backgrounds.summary()["peak"]
    assert (on_faces.distances < on_backgrounds.distances).all()
    np.testing.assert_allclose(on_faces.scores, on_faces.score_maps.max(axis=(2, 3)).clip(0, 1), atol=1e-6)
    assert np.abs(on_faces.unmerged_points - on_faces.points).max() < 0.1
    # an unmerged point is in its map's best cell, or right beside it
    best = on_faces.score_maps.reshape(2, 68, 64).argmax(axis=2)
    cells = (np.stack([best % 8, best // 8], axis=2) + 0.5) / 8
    assert np.abs(on_faces.unmerged_points - cells).max() < 1.5 / 8


def test_probe_result_summary_has_known_values(tiny):
    model, metadata = load_checkpoint(tiny)
    one = predict_score_maps(model, [np.zeros((64, 64, 3), np.uint8)])
    shifted = metadata.mean_face[None].astype(np.float32) + np.float32([0.03, 0.04])
    numbers = one._replace(points=shifted, unmerged_points=shifted).summary()
    assert (numbers["images"], numbers["distance"], numbers["unmerged"]) == (1, 5.0, 5.0)
    assert numbers["any_landmark"] > 20
    guesses = reference_distances(np.full((5, 2), 0.5))
    assert guesses["all points at its center"] == 0
    assert guesses["points anywhere in the crop"] == pytest.approx(38.26, abs=0.02)  # known integral


@pytest.mark.parametrize("name", ["300w", "wflw", "cofw", "aflw"])
def test_probed_landmarks_are_far_apart(name):
    scheme = LandmarkScheme.load(name)
    face = np.random.default_rng(1).uniform(0, 1, (scheme.landmarks, 2))
    chosen = probed_landmarks(scheme, face)
    assert len(set(chosen.values())) == 4
    if name == "300w":
        assert set(chosen.values()) == {36, 30, 54, 8}
    else:
        assert list(chosen) == [scheme.landmark_names[i] for i in chosen.values()]
        points = face[list(chosen.values())]
        away = np.linalg.norm(points[:, None] - points, axis=2) + np.eye(4)
        assert away.min() > 0.3


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig("lcnet_050", 64, head="coord"),
        ModelConfig("lcnet_050", 64, 64, neck_width=8, neighbors=0, reduction="coordinates"),
    ],
    ids=["coord", "one cell"],
)
def test_probe_refuses_heads_without_score_maps(config, tmp_path, small_300w, capsys):
    path = tmp_path / "other.safetensors"
    save_random_model(path, config)
    with pytest.raises(ModelError, match="without score maps"):
        check_score_maps(load_checkpoint(path)[0])
    assert main(["probe", str(path), "--data", str(small_300w), "-o", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "without score maps" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# -- the command ---------------------------------------------------------------------------------------


def test_probe_command_trains_measures_and_draws(tiny, small_300w, portrait_folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["probe", str(tiny), "--data", str(small_300w), "-o", str(out), "--count", "4"]
    assert main([*command, "--steps", "3", "--images", str(portrait_folder)]) == 0
    assert "position_prior.png" in capsys.readouterr().err
    height, width = read_image(out / "position_prior.png").shape[:2]
    assert width > 800
    assert height > 600
    result = json.loads((out / "position_prior.json").read_text())
    counts = [row["images"] for row in result["rows"].values()]
    assert counts[0] == 1
    assert counts[1] == counts[3] == 4
    assert result["landmarks"]["chin"] == 8
    assert result["data"] == "300-W common"
    assert "300-W" in result["blank_model"]["training"]
    # the trained network is an ordinary checkpoint, which another run can take
    weights = out / "blank" / "last.safetensors"
    again = tmp_path / "again"
    assert main([*command[:4], "-o", str(again), "--count", "4", "--blank-checkpoint", str(weights)]) == 0
    assert not (again / "blank").exists()
    other = json.loads((again / "position_prior.json").read_text())
    name = "trained on blank images, shown a blank image"
    assert other["rows"][name] == result["rows"][name]


def test_probe_command_reports_errors_in_one_line(tiny, small_300w, tmp_path, capsys):
    wflw, plain, empty = tmp_path / "wflw.safetensors", tmp_path / "plain", tmp_path / "empty"
    save_random_model(wflw, SMALL, "wflw")
    plain.mkdir()
    empty.mkdir()
    write_image(plain / "wall.png", np.full((90, 90, 3), 200, np.uint8))
    base = ["--data", str(small_300w), "-o", str(tmp_path / "out"), "--count", "1"]
    for arguments, message in (
        ([str(tiny), *base[:-1], "0"], "--count"),
        ([str(tmp_path / "none.safetensors"), *base], "no such checkpoint"),
        ([str(tiny), *base, "--images", str(empty)], "no images"),
        ([str(tiny), *base, "--images", str(plain)], "no part without a face"),
        ([str(tiny), *base, "--blank-checkpoint", str(wflw)], "98 landmarks"),
        ([str(tiny), *base, "--steps", "0"], "at least 1 step"),
    ):
        assert main(["probe", *arguments]) == 1, arguments
        err = capsys.readouterr().err
        assert message in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_image_crops_cuts_faces_and_backgrounds_of_own_photos(portrait_folder, tiny, tmp_path):
    _, metadata = load_checkpoint(tiny)
    detector = load_detector(DEFAULT_DETECTOR)
    faces, backgrounds = image_crops(portrait_folder, metadata, detector, count=3, seed=0)
    assert len(faces) == 1
    assert 1 <= len(backgrounds) <= 3
    unfitted = replace(metadata, box_adapters={})
    with pytest.raises(ModelError, match="no adapter for boxes"):
        image_crops(portrait_folder, unfitted, detector, count=3, seed=0)
    with pytest.raises(ImageError, match="no such file"):
        image_crops(tmp_path / "none", metadata, detector, count=3, seed=0)


def test_dataset_crops_refuses_photos_full_of_faces(small_300w, tiny):
    """Where faces fill their images, there is no background."""
    _, metadata = load_checkpoint(tiny)
    samples, _, _ = load_samples(small_300w, "common")

    class FullImage:
        box_format = "everywhere"

        def __call__(self, image):
            height, width = image.shape[:2]
            detections = load_detector("full_image")(image)
            assert detections.boxes[0].tolist() == [-0.5, -0.5, width - 0.5, height - 0.5]
            return detections

    with pytest.raises(DataError, match="--images"):
        dataset_crops(samples, metadata, FullImage(), count=2, seed=0)


def test_train_on_blank_images_accepts_a_custom_scheme(tiny, small_300w, tmp_path):
    """The scheme is in the model's metadata: its file is not needed."""
    samples, scheme, _ = load_samples(small_300w, "full")
    write_annotations(tmp_path / "labels.csv", Annotations(samples, scheme.landmark_names))
    _, metadata = load_checkpoint(tiny)
    mine = replace(metadata, scheme=replace(metadata.scheme, name="mine"))
    path = train_on_blank_images(mine, tmp_path / "labels.csv", tmp_path / "run", steps=3)
    assert load_blank_checkpoint(path)[1].scheme.landmarks == 68


def test_probe_models_refuses_different_schemes(tiny, tmp_path):
    save_random_model(tmp_path / "wflw.safetensors", SMALL, "wflw")
    other, _ = load_checkpoint(tmp_path / "wflw.safetensors")
    model, _ = load_checkpoint(tiny)
    with pytest.raises(ModelError, match="98 landmarks, the model 68"):
        probe_models(model, other, [], [])
