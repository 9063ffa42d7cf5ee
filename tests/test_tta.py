"""Test-time augmentation: augmented crops are undone exactly, averaged, and no worse on real faces."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from pipnet import FaceLandmarker
from pipnet.cli import main
from pipnet.config import TTA
from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.geometry import CropConfig
from pipnet.inference.backends.base import CropLandmarks
from pipnet.inference.predict import predict_crops
from pipnet.inference.tta import augmented_crops
from pipnet.io.image import read_image, write_image
from pipnet.model.checkpoint import load_checkpoint
from pipnet.papers.tta_maps import tta_maps

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "pipnet-68.safetensors"
CHOICES = get_args(TTA)


class BrightnessModel:
    """A model that puts all landmarks at the centroid of a crop's brightness."""

    def __init__(self, metadata):
        self.metadata = replace(metadata, crop=CropConfig(scale=2), input_size=128)

    def __call__(self, crops):
        weights = crops[..., 0].astype(float)
        fractions = (np.arange(128) + 0.5) / 128
        total = weights.sum(axis=(1, 2))
        x, y = (weights.sum(axis=axis) @ fractions / total for axis in (1, 2))
        points = np.stack([x, y], axis=1)[:, None].repeat(68, axis=1).astype(np.float32)
        constant = np.full((len(crops), 68), 0.5, np.float32)
        return CropLandmarks(points, constant, constant)


@pytest.mark.parametrize("tta", CHOICES)
def test_predict_tta_undoes_every_view(landmarker, tta):
    y, x = np.mgrid[:200, :200]
    spot = (255 * np.exp(-((x - 92) ** 2 + (y - 113) ** 2) / 50)).astype(np.uint8)[..., None].repeat(3, 2)
    box = np.float32([[60, 75, 120, 135]])
    prediction = predict_crops(BrightnessModel(landmarker.metadata), [spot, spot], [box, box + 3], tta)
    np.testing.assert_allclose(prediction.points, np.broadcast_to([92, 113], (2, 68, 2)), atol=0.1)
    assert (prediction.tta_std < 2e-3).all()
    np.testing.assert_array_equal(prediction.crop_boxes, np.concatenate([box, box + 3]))


def test_prediction_splits_by_image(landmarker, portrait):
    image = read_image(portrait)
    boxes = np.float32([[179, 88, 268, 183], [1, 1, 99, 99], [20, 20, 80, 80]])
    together = predict_crops(landmarker.model, [image, image, image], [boxes[:2], boxes[:0], boxes[2:]])
    parts = together.split([2, 0, 1])
    assert [len(part.points) for part in parts] == [2, 0, 1]
    for field, first, last in zip(together, parts[0], parts[2], strict=True):
        np.testing.assert_array_equal(field, np.concatenate([first, last]))


def test_number_of_augmented_crops_by_choice():
    assert [len(augmented_crops(tta, 256)) for tta in CHOICES] == [1, 2, 5, 8, 4, 16, 24]


@pytest.mark.parametrize("tta", CHOICES[1:])
def test_tta_is_near_the_prediction_without_it(landmarker, portrait, tta):
    """Landmarks of mirrored crops are renamed: left stays left."""
    image = read_image(portrait)
    plain, averaged = landmarker(image), FaceLandmarker(landmarker.model, tta=tta)(image)
    width = np.ptp(plain.points[0, :, 0])
    assert 0 < np.linalg.norm(averaged.points - plain.points, axis=2).mean() / width < 0.03
    assert (plain.tta_std == 0).all()
    assert 0 < averaged.tta_std.mean() < 0.05
    np.testing.assert_array_equal(averaged.crop_boxes, plain.crop_boxes)


def test_flip_improves_the_nme(shared, landmarker):
    samples, scheme, spec = load_samples(shared / "data" / "300w", "afw")
    flipping = FaceLandmarker(landmarker.model, tta="flip")
    nmes = [
        evaluate(model, decoded(samples[::6]), spec).summary(scheme)["pixels"]["nme"]
        for model in (landmarker, flipping)
    ]
    assert nmes[1] < nmes[0]


def test_landmarker_gives_equal_results_for_a_list_and_single_images(landmarker, portrait, small_300w):
    images = [
        portrait,
        *(sample.image for sample in load_samples(small_300w, "train")[0]),
        np.zeros((40, 50, 3), np.uint8),
    ] * 2
    results = landmarker(images)
    assert len(results) == len(images) == 28
    for result, expected in zip(results, map(landmarker, images), strict=True):
        assert len(result) == len(expected)
        np.testing.assert_allclose(result.points, expected.points, atol=2e-3)
        np.testing.assert_array_equal(result.boxes, expected.boxes)
    assert landmarker([]) == []


def test_detect_command_accepts_tta(portrait, capsys):
    assert main(["detect", str(portrait), "--tta", "flip", "--json"]) == 0
    assert np.mean(json.loads(capsys.readouterr().out)["faces"][0]["tta_std"]) > 0
    assert main(["detect", str(portrait), "--tta", "upside-down"]) == 2


# -- v1's figure 4 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tta", ["translation", "all"])
def test_tta_maps_peak_at_the_landmarks(portrait, landmarker, tta):
    """The mean map has its peak at the landmark, for rotated and mirrored crops too."""
    model, metadata = load_checkpoint(CHECKPOINT)
    faces = landmarker(portrait)
    indices = {"eye": 36, "nose": 30, "chin": 8}
    crop, landmark_maps = tta_maps(model, metadata, faces.image, faces.crop_boxes[0], tta, indices)
    expected = landmarker.model(crop[None]).points[0] * 256 - 0.5
    for landmark, maps in zip(indices.values(), landmark_maps, strict=True):
        # The shipped ONNX file stores its weights in half precision.
        np.testing.assert_allclose(maps.plain_point, expected[landmark], atol=0.3)
        assert np.linalg.norm(maps.mean_point - maps.plain_point) < 0.03 * 256
        for score_map in (maps.plain_map, maps.mean_map):
            y, x = np.unravel_index(score_map.argmax(), score_map.shape)
            assert np.abs(np.array([x, y]) - expected[landmark]).max() < 40  # one cell is 32 pixels
        assert len(np.unique(maps.mean_map)) > len(np.unique(maps.plain_map))


def test_tta_maps_command_writes_the_figure(portrait, tmp_path, capsys):
    command = ["tta-maps", str(CHECKPOINT), str(portrait), "-o", str(tmp_path / "new" / "maps.png")]
    assert main([*command, "--tta", "flip"]) == 0
    assert read_image(tmp_path / "new" / "maps.png").shape[1] > 600
    write_image(tmp_path / "gray.png", np.full((90, 90, 3), 128, np.uint8))
    assert main(["tta-maps", str(CHECKPOINT), str(tmp_path / "gray.png"), "-o", str(tmp_path / "x.png")]) == 1
    assert "no face found" in capsys.readouterr().err
