"""The position prior: black pictures, parts of photos without a face, and what models answer there."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.cli import main
from pipnet.cli.probe import from_collection, from_photos
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, ImageError, ModelError, RecipeError
from pipnet.geometry import CropConfig, tight_box
from pipnet.inference.detectors.load import load_detector
from pipnet.io.image import read_image, write_image
from pipnet.metadata import ModelMetadata
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.model.pipnet import ModelConfig, PIPNet
from pipnet.papers.backgrounds import find_backgrounds, head_boxes, texture
from pipnet.papers.blank_images import load_black, train_black
from pipnet.papers.position_prior import ask, probe_both, probed_landmarks, references, score_head
from pipnet.scheme import LandmarkScheme
from pipnet.training.augment import Augmentation
from pipnet.training.dataset import FaceDataset
from pipnet.training.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "checkpoints" / "pipnet-300w-mbv2.safetensors"
SMALL = ModelConfig(backbone="lcnet_050", input_size=64, stride=16, neck_width=32, neighbors=3)


def save_net(path: Path, config: ModelConfig, scheme: str = "300w") -> ModelMetadata:
    """A net that knows nothing."""
    torch.manual_seed(0)
    points = LandmarkScheme.load(scheme)
    face = np.random.default_rng(0).uniform(0.2, 0.8, (points.landmarks, 2))
    fits = {load_detector("auto").kind: (0.0, 0.2, 1.0, 1.0)}
    metadata = ModelMetadata("tiny", points, CropConfig(), config.input_size, face, asdict(config), fits)
    save_checkpoint(path, PIPNet(config, face), metadata)
    return metadata


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_net(path, SMALL)
    return path


@pytest.fixture(scope="module")
def black(tiny, small_300w, tmp_path_factory) -> Path:
    """A tiny net trained on black pictures."""
    _, metadata = load_checkpoint(tiny)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipnet.training.log.draw_curves", lambda *_: None)  # 50 short epochs
        return train_black(metadata, small_300w, tmp_path_factory.mktemp("black"), steps=150)


# -- training on black ---------------------------------------------------------------------------------


def test_black_takes_the_pixels_and_leaves_the_labels(small_300w):
    samples, scheme, _ = load_samples(small_300w, "train")
    plain = replace(Augmentation(), scale=0.5, color_jitter=1.0)
    seen, dark = (
        FaceDataset(samples, scheme, CropConfig(), 64, augmentation, seed=3)
        for augmentation in (plain, replace(plain, blank=True))
    )
    for i in range(len(samples)):
        image, points, *_ = seen[i]
        nothing, same, *_ = dark[i]
        assert image.any()
        assert not nothing.any()
        assert nothing.shape == image.shape
        np.testing.assert_array_equal(points, same)


def test_black_is_a_flag_of_every_recipe():
    recipe = load_recipe(ROOT / "recipes" / "ablation_128.yaml", ["--augment.blank"])
    assert recipe.augment.blank
    assert not load_recipe(ROOT / "recipes" / "ablation_128.yaml").augment.blank


def test_a_net_trained_on_black_answers_the_mean_face(black):
    model, metadata = load_black(black)
    dark = ask(model, [np.zeros((64, 64, 3), np.uint8)])
    assert dark.distances[0] < 0.03
    assert dark.numbers()["own"] < 8
    assert dark.distances[0] < references(metadata.mean_face)["all points at its center"] / 500


def test_a_net_trained_on_black_answers_as_it_was_trained(black):
    """With the statistics of the black picture, one answer is the same as in a batch while training."""
    model, _ = load_black(black)
    dark = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    alone = model.predict(dark[:1])
    trained = model.train().predict(dark)
    torch.testing.assert_close(alone.points[0], trained.points[0], atol=2e-3, rtol=0)
    torch.testing.assert_close(alone.scores[0], trained.scores[0], atol=2e-2, rtol=0)


def test_a_finished_training_on_black_is_not_repeated(black, tiny, small_300w):
    before = (black.parent / "metrics.jsonl").read_text(), black.read_bytes()
    _, metadata = load_checkpoint(tiny)
    assert train_black(metadata, small_300w, black.parent, steps=150) == black
    assert ((black.parent / "metrics.jsonl").read_text(), black.read_bytes()) == before
    with pytest.raises(RecipeError, match="another recipe"):
        train_black(metadata, small_300w, black.parent, steps=90)
    with pytest.raises(RecipeError, match="at least 1 step"):
        train_black(metadata, small_300w, black.parent, steps=0)


# -- parts without a face ------------------------------------------------------------------------------


def test_backgrounds_keep_off_faces_and_each_other(portrait, landmarker):
    image = read_image(portrait)
    faces = np.array([tight_box(landmarker(image)[0].points)])
    parts = find_backgrounds([("astronaut", image, faces)], 64, each=6, seed=1)
    assert 2 <= len(parts) <= 6
    boxes = np.array([part.box for part in parts])
    height, width = image.shape[:2]
    assert (boxes[:, :2] >= -0.5).all()
    assert (boxes[:, 2:] <= [width - 0.5, height - 0.5]).all()
    everything = np.concatenate([head_boxes(faces), boxes])
    for i, a in enumerate(everything):
        for b in everything[i + 1 :]:
            assert (np.maximum(a[:2], b[:2]) >= np.minimum(a[2:], b[2:])).any(), (a, b)
    assert [part.texture for part in parts] == sorted((part.texture for part in parts), reverse=True)
    assert all(part.crop.shape == (64, 64, 3) for part in parts)
    again = find_backgrounds([("astronaut", image, faces)], 64, each=6, seed=1)
    np.testing.assert_array_equal(boxes, [part.box for part in again])
    other = find_backgrounds([("astronaut", image, faces)], 64, each=6, seed=2)
    assert [part.box.tolist() for part in other] != boxes.tolist()


def test_heads_hold_faces():
    face = np.float32([[100, 100, 200, 200]])
    x0, y0, x1, y1 = head_boxes(face)[0]
    assert x0 < 100
    assert y0 < 70  # the forehead and hair
    assert x1 > 200
    assert y1 > 200


def test_black_padding_and_plain_walls_are_no_backgrounds():
    rng = np.random.default_rng(0)
    padded = np.zeros((200, 300, 3), np.uint8)
    padded[60:150, 80:220] = rng.integers(30, 255, (90, 140, 3))
    nobody = np.zeros((0, 4), np.float32)
    parts = find_backgrounds([("padded", padded, nobody)], 32, each=4)
    assert parts
    for part in parts:
        x0, y0, x1, y1 = part.box + 0.5
        assert (x0 >= 80, y0 >= 60, x1 <= 220, y1 <= 150) == (True,) * 4
    wall = np.full((200, 200, 3), 180, np.uint8)
    tiny = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
    assert find_backgrounds([(name, np.zeros_like(wall), nobody) for name in "a"], 32, each=4) == []
    assert find_backgrounds([("wall", wall, nobody), ("tiny", tiny, nobody)], 32, each=4) == []


def test_one_edge_is_no_texture():
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 30:] = 255
    assert texture(edge) == 0
    assert texture(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)) > 40


# -- what models answer --------------------------------------------------------------------------------


def test_the_shipped_model_is_surer_of_faces_than_of_their_surroundings(small_300w):
    model, metadata = load_checkpoint(SHIPPED)
    samples, _, _ = load_samples(small_300w, "common")
    faces, without = from_collection(samples, metadata, load_detector("auto"), count=2, seed=0)
    assert len(faces) == len(without) == 2
    seen, unseen = ask(model, faces), ask(model, without)
    assert seen.maps.shape == (2, 68, 8, 8)
    assert seen.scores.min(axis=1).mean() > unseen.scores.mean()
    assert seen.numbers()["peak"] > 3 * unseen.numbers()["peak"]
    assert (seen.distances < unseen.distances).all()
    np.testing.assert_allclose(seen.scores, seen.maps.max(axis=(2, 3)).clip(0, 1), atol=1e-6)
    assert np.abs(seen.own - seen.points).max() < 0.1
    # an own point lies in its map's best cell, or right beside it
    best = seen.maps.reshape(2, 68, 64).argmax(axis=2)
    cells = (np.stack([best % 8, best // 8], axis=2) + 0.5) / 8
    assert np.abs(seen.own - cells).max() < 1.5 / 8


def test_known_numbers(tiny):
    model, metadata = load_checkpoint(tiny)
    one = ask(model, [np.zeros((64, 64, 3), np.uint8)])
    shifted = metadata.mean_face[None].astype(np.float32) + np.float32([0.03, 0.04])
    numbers = one._replace(points=shifted, own=shifted).numbers()
    assert (numbers["pictures"], numbers["distance"], numbers["own"]) == (1, 5.0, 5.0)
    assert numbers["exchanged"] > 20
    guesses = references(np.full((5, 2), 0.5))
    assert guesses["all points at its center"] == 0
    assert guesses["points anywhere in the crop"] == pytest.approx(38.26, abs=0.02)  # known integral


@pytest.mark.parametrize("name", ["300w", "wflw", "cofw", "aflw"])
def test_four_landmarks_far_apart(name):
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
        ModelConfig("lcnet_050", 64, 4, head="map", neck_width=8),
        ModelConfig("lcnet_050", 64, 64, neck_width=8, neighbors=0, reduction="coordinates"),
    ],
    ids=["coord", "map", "one cell"],
)
def test_without_score_maps_one_line_says_so(config, tmp_path, small_300w, capsys):
    path = tmp_path / "other.safetensors"
    save_net(path, config)
    with pytest.raises(ModelError, match="only a pip head"):
        score_head(load_checkpoint(path)[0])
    assert main(["probe", str(path), "--data", str(small_300w), "-o", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: only a pip head")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# -- the command ---------------------------------------------------------------------------------------


def test_one_command_trains_measures_and_draws(tiny, small_300w, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["probe", str(tiny), "--data", str(small_300w), "-o", str(out), "--count", "4"]
    assert main([*command, "--steps", "6", "--pictures", str(pictures)]) == 0
    assert "position_prior.png" in capsys.readouterr().err
    height, width = read_image(out / "position_prior.png").shape[:2]
    assert width > 800
    assert height > 600
    assert (out / "position_prior.png").stat().st_size < 300_000
    result = json.loads((out / "position_prior.json").read_text())
    counts = [row["pictures"] for row in result["rows"].values()]
    assert counts[0] == 1
    assert counts[1] == counts[3] == 4
    assert result["landmarks shown"]["chin"] == 8
    assert result["data"] == "300-W common"
    assert "300-W" in result["trained on black"]["training"]
    # the net that was trained is a checkpoint like others, and can be given
    weights = out / "black" / "last.safetensors"
    again = tmp_path / "again"
    assert main([*command[:4], "-o", str(again), "--count", "4", "--black", str(weights)]) == 0
    assert not (again / "black").exists()
    other = json.loads((again / "position_prior.json").read_text())
    black = "trained on black, shown black"
    assert other["rows"][black] == result["rows"][black]


def test_what_goes_wrong_is_one_line(tiny, small_300w, tmp_path, capsys):
    wflw, plain, empty = tmp_path / "wflw.safetensors", tmp_path / "plain", tmp_path / "empty"
    save_net(wflw, SMALL, "wflw")
    plain.mkdir()
    empty.mkdir()
    write_image(plain / "wall.png", np.full((90, 90, 3), 200, np.uint8))
    base = ["--data", str(small_300w), "-o", str(tmp_path / "out"), "--count", "1"]
    for arguments, words in (
        ([str(tiny), *base[:-1], "0"], "--count"),
        ([str(tmp_path / "none.safetensors"), *base], "no such checkpoint"),
        ([str(tiny), *base, "--pictures", str(empty)], "no pictures"),
        ([str(tiny), *base, "--pictures", str(plain)], "no part without a face"),
        ([str(tiny), *base, "--black", str(wflw)], "98 landmarks"),
        ([str(tiny), *base, "--steps", "0"], "at least 1 step"),
    ):
        assert main(["probe", *arguments]) == 1, arguments
        err = capsys.readouterr().err
        assert words in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_photos_of_ones_own(pictures, tiny, tmp_path):
    _, metadata = load_checkpoint(tiny)
    detector = load_detector("auto")
    faces, without = from_photos(pictures, metadata, detector, count=3, seed=0)
    assert len(faces) == 1
    assert 1 <= len(without) <= 3
    unfitted = replace(metadata, box_adapters={})
    with pytest.raises(ModelError, match="does not know boxes"):
        from_photos(pictures, unfitted, detector, count=3, seed=0)
    with pytest.raises(ImageError, match="no such file"):
        from_photos(tmp_path / "none", metadata, detector, count=3, seed=0)


def test_nothing_beside_the_faces(small_300w, tiny):
    """Where faces fill their pictures there is nothing to show."""
    _, metadata = load_checkpoint(tiny)
    samples, _, _ = load_samples(small_300w, "common")

    class Everywhere:
        kind = "everywhere"

        def __call__(self, image):
            height, width = image.shape[:2]
            found = load_detector("whole")(image)
            assert found.boxes[0].tolist() == [-0.5, -0.5, width - 0.5, height - 0.5]
            return found

    with pytest.raises(DataError, match="--pictures"):
        from_collection(samples, metadata, Everywhere(), count=2, seed=0)


def test_a_model_of_ones_own_landmarks(tiny, small_300w, tmp_path):
    """Its scheme travels with it: nobody is asked for the file."""
    samples, scheme, _ = load_samples(small_300w, "full")
    write_annotations(tmp_path / "labels.csv", Annotations(samples, scheme.landmark_names))
    _, metadata = load_checkpoint(tiny)
    mine = replace(metadata, scheme=replace(metadata.scheme, name="mine"))
    path = train_black(mine, tmp_path / "labels.csv", tmp_path / "run", steps=3)
    assert load_black(path)[1].scheme.landmarks == 68


def test_two_nets_of_other_landmarks(tiny, tmp_path):
    save_net(tmp_path / "wflw.safetensors", SMALL, "wflw")
    other, _ = load_checkpoint(tmp_path / "wflw.safetensors")
    model, _ = load_checkpoint(tiny)
    with pytest.raises(ModelError, match="98 landmarks, the model 68"):
        probe_both(model, other, [], [])
