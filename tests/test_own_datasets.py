"""Users' own landmarks, from labels to a detector, without code changes."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipnet import FaceLandmarker
from pipnet.annotations.formats import Annotations, read_annotations, write_annotations
from pipnet.annotations.samples import FaceSample
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.datasets.scheme_proposal import propose_scheme
from pipnet.errors import BoxError, DataError
from pipnet.evaluation.composite_images import composites
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.geometry import CropConfig, tight_box
from pipnet.inference.backends.base import CropLandmarks
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.io.image import read_image
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.model.torch_model import TorchModel
from pipnet.scheme import LandmarkScheme, SchemeMapping
from test_teachers import write_constant_network

pytestmark = pytest.mark.usefixtures("no_curves")

ROOT = Path(__file__).parents[1]
FIVE = {"left_eye": [36, 39], "right_eye": [42, 45], "nose": [30], "left_mouth": [48], "right_mouth": [54]}
FOUR = {"eye_a": [36], "eye_b": [45], "mouth_a": [48], "mouth_b": [54]}
TINY = "--initial.pretrained=false --model.backbone lcnet_050 --model.input-size 64 --optim.batch-size 4 "
TINY += "--optim.epochs 2 --workers 0 --data.validation 0.3"


def own_annotations(small_300w, points) -> Annotations:
    """The faces of the small 300-W with other landmarks."""
    faces = load_samples(small_300w, "full")[0]
    samples = [
        FaceSample(
            face.image,
            np.float32([face.points[members].mean(axis=0) for members in points.values()]),
            face.name,
            face.group,
        )
        for face in faces
    ]
    return Annotations(samples, tuple(points))


def propose_and_train(labels: Path, run: Path, capsys) -> None:
    """Propose a scheme, and train as the command suggests, but on the smallest network."""
    scheme = labels.with_name("mine.toml")
    assert main(["data", "scheme", str(labels), "-o", str(scheme)]) == 0
    errors = capsys.readouterr().err
    assert labels.with_name("mine_mean_face.png").is_file()
    command = next(line for line in errors.splitlines() if line.startswith("then: pipnet train"))
    arguments = command.removeprefix("then: pipnet ").replace(
        "recipes/own.yaml", str(ROOT / "recipes/own.yaml")
    )
    tiny = TINY.replace("--optim.batch-size 4 ", "")  # the command names one for so few faces
    assert main([*arguments.split(), "-o", str(run), *tiny.split()]) == 0


def predict_the_mean_face(checkpoint: Path) -> None:
    """Change a network so that it predicts the mean face for every image, whatever it has learned."""
    network, metadata = load_checkpoint(checkpoint)
    head, face = network.head, metadata.require_mean_face("a test")
    prediction = np.concatenate([face[:, None], face[head.neighbors.numpy()]], axis=1)
    nn.init.zeros_(head.conv.weight)
    head.conv.bias.data.fill_(0.5)  # all scores are equal: the first cell is chosen, at the top left
    head.conv.bias.data[head.offset_channels] = torch.from_numpy(prediction * head.grid).float()
    save_checkpoint(checkpoint, network, metadata)


@pytest.fixture
def trained(tmp_path, small_300w, capsys) -> tuple[Path, Path]:
    """The labels of five landmarks, and a network for them that predicts the mean face."""
    labels, run = tmp_path / "five.csv", tmp_path / "run"
    write_annotations(labels, own_annotations(small_300w, FIVE))
    propose_and_train(labels, run, capsys)
    predict_the_mean_face(run / "best.safetensors")
    return labels, run / "best.safetensors"


def assert_is_on_the_portrait(points, portrait, landmarker) -> None:
    """Check that a mean face of five landmarks is on the face, so the network got the crop of the face."""
    expected = np.array([landmarker(portrait).points[0][members].mean(axis=0) for members in FIVE.values()])
    np.testing.assert_allclose(points, expected, atol=0.2 * np.ptp(expected[:, 0]))


def test_own_landmarks_are_trained_evaluated_and_detected(trained, portrait, landmarker):
    labels, weights = trained
    proposed = LandmarkScheme.load(labels.with_name("mine.toml"))
    assert proposed.landmark_names == tuple(FIVE)
    assert len(proposed.flip) == 2
    fitted = FaceLandmarker(TorchModel(*load_checkpoint(weights)))
    assert fitted.metadata.scheme == proposed
    samples, _, spec = load_samples(labels, None, proposed)
    errors = evaluate(fitted, decoded(samples), spec)
    assert len(errors.nmes) == 12
    assert errors.nmes.mean() < 0.1
    assert_is_on_the_portrait(fitted(portrait).points[0], portrait, landmarker)


@pytest.mark.slow
def test_commands_make_a_detector_of_own_labels(trained, portrait, landmarker, tmp_path, capsys):
    """Propose a scheme, train, export, evaluate and detect on the command line."""
    labels, weights = trained
    assert main(["export", str(weights)]) == 0
    model = str(weights.with_suffix(".onnx"))
    assert OnnxModel(Path(model)).metadata.name == "own"
    out = tmp_path / "measured"
    assert main(["evaluate", model, "--data", str(labels), "-o", str(out), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["faces"] == 12
    assert measured["pixels"]["nme"] < 10
    assert main(["detect", str(portrait), "--model", model, "--json"]) == 0
    (face,) = json.loads(capsys.readouterr().out)["faces"]
    assert_is_on_the_portrait(face["points"], portrait, landmarker)


def test_train_accepts_own_landmarks_of_label_studio(tmp_path, small_300w, capsys):
    labels = tmp_path / "four.json"
    write_annotations(labels, own_annotations(small_300w, FOUR), "label-studio")
    propose_and_train(labels, tmp_path / "run", capsys)
    _, metadata = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert metadata.scheme.landmark_names == tuple(FOUR)
    assert len(metadata.scheme.flip) == 2


def test_load_samples_needs_a_fitting_scheme(tmp_path, small_300w, capsys):
    labels = tmp_path / "five.csv"
    write_annotations(labels, own_annotations(small_300w, FIVE))
    with pytest.raises(DataError, match="pipnet data scheme .*five.csv proposes one"):
        load_samples(labels)
    with pytest.raises(DataError, match="5 landmarks per face, but scheme 'aflw' has 19"):
        load_samples(labels, None, "aflw")
    scheme = propose_scheme(own_annotations(small_300w, FIVE), "five").scheme
    with pytest.raises(DataError, match="no subset 'train'; it has all"):
        load_samples(labels, "train", scheme)
    assert main(["data", "scheme", str(labels), "-o", str(tmp_path / "mine.txt")]) == 1
    assert "a scheme is a .toml file" in capsys.readouterr().err


def test_load_samples_reorders_landmarks_by_name(tmp_path, small_300w):
    annotations = own_annotations(small_300w, FIVE)
    labels, scheme = tmp_path / "five.csv", tmp_path / "mine.toml"
    write_annotations(labels, annotations)
    text = propose_scheme(annotations, "mine").to_toml()
    names = list(FIVE)
    scheme.write_text(text.replace(json.dumps(names), json.dumps(names[::-1])))
    np.testing.assert_allclose(
        load_samples(labels, None, str(scheme))[0][0].points, annotations.samples[0].points[::-1], atol=0.01
    )
    scheme.write_text(text.replace('"nose"', '"beak"'))
    with pytest.raises(
        DataError, match="the landmark names .*nose.* differ from those of scheme 'mine', .*beak"
    ):
        load_samples(labels, None, str(scheme))


def test_load_samples_reorders_landmarks_of_a_built_in_scheme(tmp_path, small_300w, caplog):
    """Tools list the points of a skeleton in any order; the names that `convert` wrote tell them apart."""
    samples, scheme, _ = load_samples(small_300w, "train")
    sample = replace(samples[0], box=None)
    shuffled = np.random.default_rng(0).permutation(68)
    names = tuple(scheme.landmark_names[i] for i in shuffled)
    reordered = replace(sample, points=sample.points[shuffled])
    write_annotations(tmp_path / "labels.csv", Annotations([reordered], names))
    loaded = load_samples(tmp_path / "labels.csv", None, "300w")[0][0]
    np.testing.assert_allclose(loaded.points, sample.points, atol=0.01)
    assert not caplog.text
    names = tuple(f"point_{i}" for i in range(68))  # in version 0.1, the eyes and the brows were one region
    for region, start, end in [("jaw", 0, 17), ("brows", 17, 27), ("nose", 27, 36), ("eyes", 36, 48)]:
        names = (*names[:start], *(f"{region}_{i}" for i in range(end - start)), *names[end:])
    names = (*names[:48], *(f"mouth_{i}" for i in range(20)))
    write_annotations(tmp_path / "earlier.csv", Annotations([reordered], tuple(names[i] for i in shuffled)))
    loaded = load_samples(tmp_path / "earlier.csv", None, "300w")[0][0]
    np.testing.assert_allclose(loaded.points, sample.points, atol=0.01)
    assert not caplog.text
    write_annotations(tmp_path / "other.csv", Annotations([sample], tuple(f"p{i}" for i in range(68))))
    load_samples(tmp_path / "other.csv", None, "300w")
    assert "the landmark names p0, p1, p2, ... are not those of scheme '300w'" in caplog.text


@pytest.mark.parametrize(("name", "what"), [("300w", "5 landmarks"), ("aflw", "mirror pairs")])
def test_load_samples_refuses_the_name_of_a_built_in_scheme(tmp_path, small_300w, name, what):
    own = tmp_path / f"{name}.toml"
    flip = "[[0, 1], [3, 4]]"
    text = f'title = "mine"\nlandmarks = 5\nnorm = "box"\nflip = {flip}\nedges = []\n[regions]\n'
    own.write_text(text if name == "300w" else text.replace("= 5", "= 19"))
    with pytest.raises(DataError, match=f"scheme '{name}': its {what} differ from those of the built-in"):
        load_samples(small_300w, "afw", str(own))
    if name == "300w":  # own annotations may use the name
        write_annotations(tmp_path / "five.csv", own_annotations(small_300w, FIVE))
        assert len(load_samples(tmp_path / "five.csv", None, str(own))[0]) == 12


# -- crops around boxes of the dataset -----------------------------------------------------------------


def test_own_landmarks_with_crops_around_dataset_boxes(tmp_path, small_300w, portrait, capsys):
    """Trains, evaluates and runs on crops around the boxes of the labels (here wide ones)."""
    annotations = own_annotations(small_300w, FIVE)
    wide = np.float32([-60, -80, 60, 60])
    samples = [
        FaceSample(s.image, s.points, s.name, s.group, tight_box(s.points) + wide)
        for s in annotations.samples
    ]
    labels, run = tmp_path / "boxes.csv", tmp_path / "run"
    write_annotations(labels, Annotations(samples, annotations.names))
    scheme = tmp_path / "five.toml"
    scheme.write_text(propose_scheme(annotations, "five").to_toml())
    command = f"train {ROOT / 'recipes/own.yaml'} --data {labels} --data.scheme {scheme} -o {run} {TINY} "
    assert main((command + "--crop.box dataset --crop.scale 1.0 --max-steps 1").split()) == 0
    weights = run / "best.safetensors"
    predict_the_mean_face(weights)
    capsys.readouterr()
    assert main(["info", str(weights), "--json"]) == 0
    metadata = json.loads(capsys.readouterr().out)
    assert metadata["crop"]["box"] == "dataset"
    left, top, right, bottom = metadata["box_adapters"]["landmarks"]
    assert left < -0.3
    assert top < -0.3
    assert right > 1.3
    assert bottom > 1.3
    model = TorchModel(*load_checkpoint(weights))
    boxed, _, spec = load_samples(labels, None, str(scheme))
    assert evaluate(FaceLandmarker(model), decoded(boxed[:3]), spec).nmes.mean() < 0.1
    (once,) = FaceLandmarker(model)(portrait)
    (refined,) = FaceLandmarker(model, refine_steps=1)(portrait)
    # The mean face fills the same part of the crop around its own box.
    np.testing.assert_allclose(refined.points, once.points, atol=0.2 * np.ptp(once.points[:, 0]))
    write_annotations(tmp_path / "none.csv", annotations)
    without, _, _ = load_samples(tmp_path / "none.csv", None, str(scheme))
    with pytest.raises(BoxError, match="the dataset has no face boxes"):
        evaluate(FaceLandmarker(model), decoded(without[:1]), spec)


def test_face_box_is_that_of_landmarks_or_dataset():
    points, box = np.float32([[1, 2], [5, 9]]), np.float32([0, 0, 10, 10])
    assert CropConfig().face_box(points, box).tolist() == [1, 2, 5, 9]
    assert CropConfig(box="dataset").face_box(points, box).tolist() == [0, 0, 10, 10]
    with pytest.raises(BoxError, match="has no face boxes"):
        CropConfig(box="dataset").face_box(points, None)


def test_evaluate_width_norm_uses_the_datasets_own_landmarks(small_300w, landmarker):
    """v1 maps points, not crops: 300-W's crop is 1.3 x the box of all 68 landmarks, with the jaw."""
    (plain, *_), _, spec = load_samples(small_300w, "afw")
    (mapped, *_), scheme, _ = load_samples(small_300w, "afw", "aflw")
    np.testing.assert_array_equal(mapped.source_box, tight_box(plain.points))
    assert np.ptp(mapped.points[:, 0]) < np.ptp(plain.points[:, 0])
    nineteen = SchemeMapping.load("300w", "aflw")

    class Mapped:
        metadata = replace(
            landmarker.model.metadata, scheme=scheme, mean_face=np.zeros((19, 2)), calibration=None
        )

        def __call__(self, crops):
            out = landmarker.model(crops)
            points = np.array([nineteen(face) for face in out.points], np.float32)
            return CropLandmarks(points, out.scores[:, :19], out.vote_std[:, :19])

    errors = evaluate(FaceLandmarker(Mapped()), decoded([mapped]), spec, norm="width")
    width = np.ptp(plain.points[:, 0]) * 1.3
    image = read_image(plain.image)
    box = CropConfig(1.3, square=False, clip=True).region(
        tight_box(plain.points), image.shape[1], image.shape[0]
    )
    assert box[2] - box[0] <= width + 0.01
    expected = np.linalg.norm(errors.predicted[0] - mapped.points, axis=1) / (box[2] - box[0])
    np.testing.assert_allclose(errors.pixels[0], expected, rtol=1e-5)


def test_composites_move_all_boxes(small_300w):
    """The source box of a mapped face is moved and scaled with the face."""
    (mapped, *_), _, spec = load_samples(small_300w, "afw", "aflw")
    for _, moved in composites([mapped, mapped]):
        factor = np.ptp(moved.points[:, 0]) / np.ptp(mapped.points[:, 0])
        sides = moved.source_box[2:] - moved.source_box[:2]
        np.testing.assert_allclose(sides, factor * (mapped.source_box[2:] - mapped.source_box[:2]), rtol=0.02)
        assert (moved.source_box[:2] <= moved.points.min(axis=0) + 0.01).all()
        assert (moved.source_box[2:] >= moved.points.max(axis=0) - 0.01).all()


def test_faces_without_a_norm_are_counted_in_training_and_evaluation(tmp_path, small_300w, capsys):
    annotations = own_annotations(small_300w, FIVE)
    for sample in annotations.samples[::3]:
        sample.points[0] = np.nan
    labels, scheme, run = tmp_path / "a.json", tmp_path / "five.toml", tmp_path / "run"
    write_annotations(labels, annotations)
    text = propose_scheme(annotations, "five").to_toml()
    scheme.write_text(text.replace('norm = "box"', "norm = [0, 1]"))
    command = f"train {ROOT / 'recipes/own.yaml'} --data {labels} --data.scheme {scheme} -o {run} {TINY}"
    assert main([*command.split(), "--max-steps", "1"]) == 0
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert row["nme"] > 0
    _, metadata = load_checkpoint(run / "last.safetensors")
    write_constant_network(tmp_path / "m.onnx", metadata.mean_face)
    model = tmp_path / "m.toml"
    model.write_text(f'model = "m.onnx"\nscheme = "{scheme}"\ninput_size = 32\n')
    capsys.readouterr()
    assert main(["evaluate", str(model), "--data", str(labels), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert (measured["faces"], measured["without_norm"]) == (8, 4)
    assert measured["pixels"]["nme"] > 0


def test_load_samples_logs_unusable_faces_and_boxes(tmp_path, small_300w, caplog):
    samples = own_annotations(small_300w, FIVE).samples
    samples[0].points[1:] = np.nan
    samples[1] = replace(samples[1], box=tight_box(samples[1].points) + np.float32([-9, -9, 9, 9]))
    write_annotations(tmp_path / "a.json", Annotations(samples, tuple(FIVE)))
    scheme = propose_scheme(Annotations(samples[2:], tuple(FIVE)), "five").scheme
    faces = load_samples(tmp_path / "a.json", None, scheme)[0]
    assert len(faces) == 11
    assert all(face.box is None for face in faces)
    assert "1 face left out" in caplog.text
    assert "only 1 of 11 faces have a box" in caplog.text


def test_load_samples_uses_attributes_as_subsets(tmp_path, small_300w):
    samples = own_annotations(small_300w, FIVE).samples
    marked = [
        replace(s, attributes=frozenset({"test"} if i < 5 else {"train"})) for i, s in enumerate(samples)
    ]
    write_annotations(tmp_path / "a.json", Annotations(marked, tuple(FIVE)))
    scheme = propose_scheme(Annotations(samples, tuple(FIVE)), "five").scheme
    path = tmp_path / "a.json"
    assert len(load_samples(path, None, scheme)[0]) == 7
    assert len(load_samples(path, None, scheme, for_evaluation=True)[0]) == 5
    assert len(load_samples(path, "all", scheme)[0]) == 12
    marked = [replace(s, attributes=frozenset({"test"} if i < 5 else ())) for i, s in enumerate(samples)]
    write_annotations(tmp_path / "b.json", Annotations(marked, tuple(FIVE)))
    path = tmp_path / "b.json"
    assert len(load_samples(path, None, scheme)[0]) == 7, "test faces are not trained on"
    assert len(load_samples(path, None, scheme, for_evaluation=True)[0]) == 5


def test_load_samples_reads_boxes_and_19_points_from_csv(tmp_path, shared):
    """The authors' own annotation was never released: a table with a box and AFLW's points."""
    real = read_annotations(shared / "data/samples/aflw/test_aflw.json").samples
    boxed = [replace(s, box=tight_box(s.points) + np.float32([-20, -40, 20, 20])) for s in real]
    write_annotations(tmp_path / "uccs.csv", Annotations(boxed, LandmarkScheme.load("aflw").landmark_names))
    faces, scheme, _ = load_samples(tmp_path / "uccs.csv", None, "aflw")
    assert scheme.landmarks == 19
    np.testing.assert_allclose(faces[0].box, boxed[0].box, atol=0.01)


def test_own_landmarks_with_separate_images_and_spaces_in_names(tmp_path, small_300w, capsys):
    images, labels = tmp_path / "my images", tmp_path / "my labels" / "a b.csv"
    shutil.copytree(small_300w / "afw", images)
    faces = [replace(s, image=images / s.image.name) for s in load_samples(small_300w, "afw")[0]]
    write_annotations(labels, Annotations(faces, None))
    labels.write_text(labels.read_text().replace("../my images/", ""))
    scheme = tmp_path / "my scheme.toml"
    assert main(["data", "scheme", str(labels), "--images", str(images), "-o", str(scheme)]) == 0
    command = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("then: "))
    arguments = shlex.split(command)[2:]
    arguments[1] = str(ROOT / "recipes/own.yaml")
    tiny = TINY.replace("--optim.batch-size 4 ", "").replace("--data.validation 0.3", "").split()
    more = [*tiny, "--data.validation", "0", "--max-steps", "1"]
    assert main([*arguments, "-o", str(tmp_path / "run"), *more]) == 0


def test_training_keeps_the_license_of_initial_weights(tmp_path, small_300w, capsys):
    labels, scheme = tmp_path / "a.json", tmp_path / "five.toml"
    write_annotations(labels, own_annotations(small_300w, FIVE))
    scheme.write_text(propose_scheme(own_annotations(small_300w, FIVE), "five").to_toml())
    checkpoint = ROOT / "checkpoints" / "pipnet-68.safetensors"
    command = (
        f"train {ROOT / 'recipes/own.yaml'} --data {labels} --data.scheme {scheme} -o {tmp_path / 'run'} "
    )
    command += f"{TINY} --max-steps 1 --model.last-width 640 --initial.checkpoint {checkpoint}".replace(
        "lcnet_050", "mobilenetv2_100"
    )
    assert main(command.split()) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "run" / "last.safetensors"), "--json"]) == 0
    metadata = json.loads(capsys.readouterr().out)
    assert "research use only: trained on 300-W" in metadata["license"]
    assert metadata["training"].startswith("a.json all: ")
    assert "started from pipnet-68" in metadata["training"]


def test_load_samples_reads_pseudo_labels():
    """A network for other landmarks is trained on the labels of teachers alone."""
    table = Path(__file__).parent / "format1" / "teacher_labels.csv"
    samples, scheme, spec = load_samples(table, None, "aflw")
    assert (len(samples), scheme.landmarks, spec.default_test) == (3, 19, "all")
    with pytest.raises(DataError, match="19 landmarks"):
        load_samples(table, None, "300w")


def test_load_samples_logs_the_datasets_that_it_does_not_read(shared, tmp_path, caplog):
    both = tmp_path / "both"
    both.mkdir()
    for part in ("afw", "helen", "lfpw", "ibug"):
        (both / part).symlink_to(shared / "data" / "300w" / part)
    for part in ("WFLW_annotations", "WFLW_images"):
        (both / part).symlink_to(shared / "data" / "wflw" / part)
    (both / "profiles").symlink_to(shared / "data" / "cfp_profile")
    samples, _, spec = load_samples(both, for_evaluation=True)
    assert (len(samples), spec.title) == (554, "300-W")
    assert f"{both}: read as 300-W, without WFLW, CFP profile in profiles: name the folder" in caplog.text
    caplog.clear()
    load_samples(shared / "data" / "wflw", for_evaluation=True)
    assert not caplog.text
