"""The face detector of pipnet: the network, its training on scenes, and the exported file."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from pipnet import FaceLandmarker
from pipnet.annotations.samples import evenly_spaced, without_label_offset
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, DivergenceError, ModelError, RecipeError
from pipnet.export.face_detector import export_face_detector
from pipnet.geometry import box_iou, tight_box
from pipnet.inference.detectors.load import load_detector
from pipnet.inference.detectors.pipnet_face import PipnetFaceDetector
from pipnet.io.image import read_image
from pipnet.model.config import FaceDetectorConfig
from pipnet.model.face_detector import STRIDES, FaceDetectorNet, load_face_detector
from pipnet.training.face_detector import train
from pipnet.training.face_detector.labels import (
    LabeledPhoto,
    label_photo,
    label_photos,
    load_photos,
    save_photos,
)
from pipnet.training.face_detector.loss import collate, encode, loss
from pipnet.training.face_detector.recipe import FaceDetectorRecipe, SceneConfig
from pipnet.training.face_detector.scenes import Scene, SceneComposer
from pipnet.training.face_detector.train import train_face_detector
from pipnet.training.face_detector.validation import detect, match
from pipnet.training.recipe import OptimConfig

ROOT = Path(__file__).parents[1]
PORTRAIT = ROOT / "examples" / "astronaut.jpg"


@pytest.fixture(scope="module")
def photos(shared, tmp_path_factory):
    """A table of 44 labeled photos."""
    samples = evenly_spaced(load_samples(shared / "data" / "300w", "train")[0], 44)
    items = [(s.image, "300w", None, without_label_offset(s)) for s in samples]
    table = tmp_path_factory.mktemp("photos") / "photos.jsonl"
    save_photos(table, label_photos(items, [load_detector("pipnet-face", 320)], FaceLandmarker(), len(items)))
    return table


def small_recipe(table, **changes):
    options = {
        "photos": table,
        "scenes": 4,
        "validation": 2,
        "workers": 0,
        "scene": SceneConfig(size=128, max_face=100),
        "optim": OptimConfig(batch_size=2, epochs=2),
    }
    return FaceDetectorRecipe(**(options | changes))


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    return train_face_detector(small_recipe(photos), run)


def test_photos_of_labeled_faces_have_their_boxes_and_points(photos, shared):
    loaded = load_photos(photos)
    samples = {s.image: without_label_offset(s) for s in load_samples(shared / "data" / "300w", "train")[0]}
    adapter = FaceLandmarker().metadata.box_adapter("face")
    assert len(loaded) == 44
    for photo in loaded:
        sample = samples[photo.image]
        assert not photo.ignored[0]
        expected = tight_box(sample.points)
        assert box_iou(adapter.apply(photo.boxes[:1]), expected)[0] > 0.99
        np.testing.assert_allclose(photo.points[0, 2], sample.points[30], atol=0.02)


def test_label_photo_finds_a_face_without_labels():
    image = read_image(PORTRAIT)
    boxes, points, ignored = label_photo(image, [load_detector("pipnet-face")], FaceLandmarker())
    assert box_iou(boxes, np.array([178, 63, 267, 175], np.float32)).max() > 0.5
    assert len(boxes) == len(points) == len(ignored)


def test_load_photos_refuses_other_files(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"image": 1}\n')
    with pytest.raises(DataError, match="no table of labeled photos"):
        load_photos(tmp_path / "other.jsonl")


def test_scenes_are_deterministic_and_contain_their_faces(photos):
    config = SceneConfig(size=256, no_faces=0, upside_down=0, dark=0)
    composer = SceneComposer(load_photos(photos), [], config, seed=3)
    for index in range(12):
        scene, again = composer.scene(0, index), composer.scene(0, index)
        np.testing.assert_array_equal(scene.image, again.image)
        np.testing.assert_array_equal(scene.boxes, again.boxes)
        certain = scene.boxes[~scene.ignored]
        center = (certain[:, :2] + certain[:, 2:]) / 2
        assert ((center > -30) & (center < 286)).all()
    assert not np.array_equal(composer.scene(1, 0).image, composer.scene(0, 0).image)


def test_scenes_without_faces_have_no_boxes(photos):
    composer = SceneComposer(load_photos(photos), [], SceneConfig(size=128, no_faces=1), seed=0)
    assert all(len(composer.scene(0, index).boxes) == 0 for index in range(5))


def test_encode_puts_a_face_into_the_cell_of_its_center():
    image = np.zeros((128, 128, 3), np.uint8)
    box = np.array([[50, 40, 78, 72]], np.float32)
    scene = Scene(image, box, np.full((1, 5, 2), np.nan, np.float32), np.array([False]))
    targets = encode(scene)
    cells = [(128 // stride) ** 2 for stride in STRIDES]
    assert targets.score.shape == (sum(cells),)
    peak = int(targets.score.argmax())
    assert peak < cells[0]  # a face of 30 px belongs to the map at stride 8
    assert divmod(peak, 16) == (7, 8)  # its center is at row 56.5, column 64.5
    np.testing.assert_allclose(targets.box[peak], box[0] + 0.5)
    ignored = encode(scene._replace(ignored=np.array([True])))
    assert ignored.score.max() == 0
    assert ignored.weight[peak] == 0


def test_training_may_start_from_a_checkpoint(photos, trained, tmp_path):
    still = small_recipe(photos, initial=trained, optim=OptimConfig(lr=1e-12, batch_size=2, epochs=1))
    before, _ = load_face_detector(trained)
    after, _ = load_face_detector(train_face_detector(still, tmp_path))
    torch.testing.assert_close(dict(after.named_parameters()), dict(before.named_parameters()))
    narrow = small_recipe(photos, initial=trained, model=FaceDetectorConfig(widths=(32, 64, 64)))
    with pytest.raises(RecipeError, match="of another size than the model"):
        train_face_detector(narrow, tmp_path / "narrow")


def test_loss_is_low_for_perfect_predictions():
    scene = Scene(
        np.zeros((128, 128, 3), np.uint8),
        np.array([[50, 40, 78, 72]], np.float32),
        np.full((1, 5, 2), 60, np.float32),
        np.array([False]),
    )
    targets = collate([encode(scene)])
    with torch.no_grad():
        output = FaceDetectorNet()(torch.zeros(1, 3, 128, 128))
    right = output._replace(
        logits=torch.where(targets.score == 1, 9.0, -9.0), boxes=targets.box, points=targets.points
    )
    terms, wrong = loss(right, targets), loss(output, targets)
    assert all(float(terms[name]) < 0.02 for name in terms)
    assert all(float(wrong[name]) > 0.02 for name in terms)


def test_training_writes_a_detector_for_images_of_any_size(trained, tmp_path):
    exported = tmp_path / "mine.onnx"
    export_face_detector(trained, exported)
    detector = PipnetFaceDetector(exported, threshold=0)
    for shape in ((5, 3, 3), (33, 57, 3), (480, 641, 3)):
        detections = detector(np.zeros(shape, np.uint8))
        assert detections.boxes.shape == (len(detections.detection_score), 4)
        assert detections.points.shape == (len(detections.detection_score), 5, 2)


def test_exported_detector_equals_the_network(tmp_path):
    torch.manual_seed(0)
    network = FaceDetectorNet().eval()
    for head in network.heads:
        torch.nn.init.normal_(head[-1].weight, std=0.3)
        torch.nn.init.constant_(head[-1].bias[:1], -1.0)
    recipe = {"model": asdict(FaceDetectorConfig())}
    checkpoint, exported = tmp_path / "face.safetensors", tmp_path / "face.onnx"
    from safetensors.torch import save_file

    save_file(network.state_dict(), checkpoint, {"recipe": json.dumps(recipe)})
    export_face_detector(checkpoint, exported)
    image = read_image(PORTRAIT)[:160, :192]
    expected = detect(network, image, threshold=0.2)
    result = PipnetFaceDetector(exported, threshold=0.2)(image)
    count = min(len(expected), len(result.detection_score), 20)
    assert count > 3
    np.testing.assert_allclose(result.detection_score[:count], expected[:count, 4], atol=1e-4)


def test_training_is_deterministic_and_not_overwritten(photos, trained, tmp_path):
    full, _ = load_face_detector(trained)
    train_face_detector(small_recipe(photos), tmp_path)
    again, _ = load_face_detector(tmp_path / "pipnet-face.safetensors")
    for name, value in full.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, msg=name)
    with pytest.raises(RecipeError, match="use --resume"):
        train_face_detector(small_recipe(photos), tmp_path)
    train_face_detector(small_recipe(photos), tmp_path, resume=True)  # nothing is left to do
    with pytest.raises(RecipeError, match="another recipe; it differs in seed"):
        train_face_detector(small_recipe(photos, seed=1), tmp_path, resume=True)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(photos.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RecipeError, match="was trained on other photos"):
        train_face_detector(small_recipe(fewer), tmp_path, resume=True)
    (tmp_path / "last.pt").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="last.pt: cannot be resumed from"):
        train_face_detector(small_recipe(photos), tmp_path, resume=True)
    (tmp_path / "last.pt").unlink()
    with pytest.raises(RecipeError, match=r"holds a training \(pipnet-face.safetensors\)"):
        train_face_detector(small_recipe(photos), tmp_path)


def test_training_stopped_between_epochs_resumes_to_the_same_weights(photos, trained, tmp_path, monkeypatch):
    validate = train._Training._validate

    def stop_in_the_second_epoch(training):
        if training.epoch == 1:
            raise KeyboardInterrupt
        return validate(training)

    monkeypatch.setattr(train._Training, "_validate", stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        train_face_detector(small_recipe(photos), tmp_path)
    monkeypatch.undo()
    resumed, _ = load_face_detector(train_face_detector(small_recipe(photos), tmp_path, resume=True))
    full, _ = load_face_detector(trained)
    for name, value in full.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_training_that_diverges_ends_in_an_error(photos, tmp_path):
    optim = OptimConfig(batch_size=2, epochs=2, lr=1e30, clip=None)
    with pytest.raises(DivergenceError, match="Lower the learning rate"):
        train_face_detector(small_recipe(photos, optim=optim), tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_match_counts_ignored_faces_neither_as_found_nor_as_false():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]], np.float32)
    scene = Scene(
        np.zeros((64, 64, 3), np.uint8),
        boxes,
        np.zeros((3, 5, 2), np.float32),
        np.array([False, True, False]),
    )
    detections = np.array([[0, 0, 10, 10, 1], [21, 21, 31, 31, 0.9], [40, 0, 50, 10, 0.8]], np.float32)
    assert match([scene], [detections]) == {"recall": 0.5, "precision": 0.5, "iou": 1.0}


def test_pipnet_face_finds_the_face_of_the_portrait():
    detector = load_detector("pipnet-face")
    detections = detector(read_image(PORTRAIT))
    best = detections.boxes[0]
    assert box_iou(best[None], np.array([178, 63, 267, 175], np.float32))[0] > 0.5
    right_eye, left_eye, nose, right_mouth, left_mouth = detections.points[0]
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_mouth[1] > nose[1] > right_eye[1]
    assert left_mouth[0] > right_mouth[0]
    copy = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(copy(read_image(PORTRAIT)).boxes, detections.boxes)


def test_detectors_refuse_other_files(tmp_path):
    model = ROOT / "src" / "pipnet" / "weights" / "pipnet-tiny.onnx"
    with pytest.raises(ModelError, match="not a face detector"):
        load_detector(f"pipnet-face:{model}")
    with pytest.raises(ModelError, match="no such face detector"):
        load_detector(f"pipnet-face:{tmp_path / 'none.onnx'}")
    with pytest.raises(ModelError, match="not a face detector"):
        load_face_detector(ROOT / "checkpoints" / "pipnet-tiny.safetensors")


def test_detector_train_command_writes_a_detector(photos, tmp_path, capsys):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "scenes: 2\nvalidation: 0\nworkers: 0\nscene:\n  size: 64\n  max_face: 50\noptim:\n  batch_size: 2\n"
    )
    run = tmp_path / "run"
    flags = ["--photos", str(photos), "--optim.epochs", "1", "--run", str(run)]
    assert main(["detector", "train", str(recipe), *flags]) == 0, capsys.readouterr().err
    assert (run / "pipnet-face.onnx").is_file()
    assert "--detector pipnet-face:" in capsys.readouterr().err
    assert main(["detector", "train", str(recipe), "--run", str(tmp_path / "other")]) == 1
    assert "photos is missing" in capsys.readouterr().err


def test_recipe_refuses_sizes_that_do_not_fit():
    with pytest.raises(RecipeError, match="multiple of 32"):
        FaceDetectorRecipe(scene=SceneConfig(size=100))
    with pytest.raises(RecipeError, match="above"):
        FaceDetectorRecipe(scene=SceneConfig(min_face=90, max_face=80))


def test_composer_leaves_out_photos_without_a_certain_face():
    nothing = LabeledPhoto(
        PORTRAIT, np.zeros((1, 4), np.float32), np.zeros((1, 5, 2), np.float32), np.array([True])
    )
    assert SceneComposer([nothing], [], SceneConfig(), 0).photos == []
