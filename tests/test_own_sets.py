"""Own landmarks, from labels to a detector, with no code touched."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipnet.cli import main
from pipnet.data.formats import Annotations, read_annotations, write_annotations
from pipnet.data.proposal import mirror_pairs, propose_scheme
from pipnet.data.samples import FaceSample
from pipnet.data.sources import load_faces
from pipnet.errors import BoxError, DataError
from pipnet.geometry import CropRule, tight_box
from pipnet.scheme import LandmarkScheme

ROOT = Path(__file__).parents[1]
FIVE = {"left_eye": [36, 39], "right_eye": [42, 45], "nose": [30], "left_mouth": [48], "right_mouth": [54]}
FOUR = {"eye_a": [36], "eye_b": [45], "mouth_a": [48], "mouth_b": [54]}
TINY = "--initial.pretrained=false --model.backbone lcnet_050 --model.input-size 64 --optim.batch-size 4 "
TINY += "--optim.epochs 2 --workers 0 --data.validation 0.3"


def own_set(small_300w, points) -> Annotations:
    """The faces of the small 300-W with other landmarks, as someone would label them."""
    faces = load_faces(small_300w, "full")[0]
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


@pytest.mark.parametrize(
    ("points", "file", "kind"),
    [(FIVE, "five.csv", None), (FOUR, "four.json", "label-studio")],
    ids=["5 points in CSV", "4 points in Label Studio"],
)
def test_from_labels_to_a_detector(tmp_path, small_300w, portrait, capsys, points, file, kind):
    labels, scheme, run = tmp_path / file, tmp_path / "mine.toml", tmp_path / "run"
    write_annotations(labels, own_set(small_300w, points), kind)
    assert main(["data", "scheme", str(labels), "-o", str(scheme)]) == 0
    said = capsys.readouterr().err
    assert (tmp_path / "mine.png").is_file()
    command = next(line for line in said.splitlines() if line.startswith("then: pipnet train"))
    proposed = LandmarkScheme.load(scheme)
    assert proposed.names == tuple(points)
    assert len(proposed.flip) == 2

    words = command.removeprefix("then: pipnet ").replace("recipes/own.yaml", str(ROOT / "recipes/own.yaml"))
    assert main([*words.split(), "-o", str(run), *TINY.split()]) == 0
    model = str(tmp_path / "mine.onnx")
    assert main(["export", str(run / "best.safetensors"), "-o", model]) == 0
    out = tmp_path / "measured"
    assert main(["evaluate", model, "--data", str(labels), "-o", str(out), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["faces"] == 12
    assert 0 < measured["pixels"]["nme"] < 100
    assert main(["detect", str(portrait), "--model", model, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert np.shape(row["faces"][0]["points"]) == (len(points), 2)
    x0, y0, x1, y1 = row["faces"][0]["box"]
    inside = np.mean([x0 < x < x1 and y0 < y < y1 for x, y in row["faces"][0]["points"]])
    assert inside > 0.5  # the crop that it was shown is of the face


def test_the_scheme_must_be_named_and_fit(tmp_path, small_300w, capsys):
    labels = tmp_path / "five.csv"
    write_annotations(labels, own_set(small_300w, FIVE))
    with pytest.raises(DataError, match="pipnet data scheme .*five.csv proposes one"):
        load_faces(labels)
    with pytest.raises(DataError, match="5 landmarks a face, scheme 'aflw' has 19"):
        load_faces(labels, None, "aflw")
    with pytest.raises(DataError, match="no subset 'train'; it has all"):
        load_faces(labels, "train", "aflw")
    assert main(["data", "scheme", str(labels), "-o", str(tmp_path / "mine.txt")]) == 1
    assert "a scheme is a .toml file" in capsys.readouterr().err


def test_landmarks_are_put_in_the_scheme_s_order(tmp_path, small_300w):
    annotations = own_set(small_300w, FIVE)
    labels, scheme = tmp_path / "five.csv", tmp_path / "mine.toml"
    write_annotations(labels, annotations)
    text = propose_scheme(annotations, "mine").to_toml()
    names = list(FIVE)
    scheme.write_text(text.replace(json.dumps(names), json.dumps(names[::-1])))
    np.testing.assert_allclose(
        load_faces(labels, None, str(scheme))[0][0].points, annotations.samples[0].points[::-1], atol=0.01
    )
    scheme.write_text(text.replace('"nose"', '"beak"'))
    with pytest.raises(DataError, match="its landmarks are called.*nose.*beak"):
        load_faces(labels, None, str(scheme))


# -- the proposal --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["300w", "wflw", "cofw", "aflw", "lapa"])
def test_symmetry_finds_the_published_pairs(shared, name):
    mean = np.load(shared / "reference" / "golden" / f"{name}.npz")["mean_face"].astype(np.float64)
    pairs, doubts = mirror_pairs(mean)
    assert pairs == {tuple(sorted(pair)) for pair in LandmarkScheme.load(name).flip}
    if name == "lapa":  # pupils and the middles of the eyes lie on one another
        assert [doubt.partition(":")[0] for doubt in doubts] == [
            "point 74",
            "point 83",
            "point 104",
            "point 105",
        ]
    else:
        assert not doubts


def test_a_profile_is_doubtful():
    profile = np.array([[0.9, 0.1], [0.95, 0.4], [0.7, 0.5], [0.3, 0.2], [0.1, 0.9], [0.6, 0.95]])
    assert mirror_pairs(profile)[1]


def test_names_decide_where_they_say_left_and_right(small_300w):
    annotations = own_set(small_300w, FIVE)
    crossed = ("left_eye", "nose", "right_eye", "left_mouth", "right_mouth")
    proposal = propose_scheme(Annotations(annotations.samples, crossed), "mine")
    assert (0, 2) in proposal.scheme.flip
    assert any("left_eye and right_eye are a pair by name, not by place" in d for d in proposal.doubts)


def test_what_is_proposed_for_68_points_is_what_we_use(shared):
    samples, scheme, _ = load_faces(shared / "data" / "300w", "afw")
    proposal = propose_scheme(Annotations(samples, None), "mine")
    assert {*proposal.scheme.flip} == {tuple(sorted(pair)) for pair in scheme.flip}
    assert (proposal.neighbors, proposal.faces) == (10, 337)
    assert 1.2 <= proposal.crop_scale <= 1.5
    assert LandmarkScheme.parse("mine", proposal.to_toml(), "mine") == proposal.scheme


def test_faces_without_one_whole_face_have_no_mean(small_300w):
    samples = own_set(small_300w, FOUR).samples[:2]
    for i, sample in enumerate(samples):
        sample.points[i] = np.nan
    with pytest.raises(DataError, match="no face has all its landmarks"):
        propose_scheme(Annotations(samples, None), "mine")


# -- converting ----------------------------------------------------------------------------------------


def test_a_collection_as_other_points_in_another_format(tmp_path, small_300w, capsys):
    target = tmp_path / "19.json"
    assert main(["data", "convert", str(small_300w), str(target), "--subset", "afw", "--scheme", "aflw"]) == 0
    assert "4 faces" in capsys.readouterr().err
    found = read_annotations(target)
    expected = load_faces(small_300w, "afw", "aflw")[0]
    np.testing.assert_allclose(found.samples[2].points, expected[2].points, atol=0.01)
    assert found.names == LandmarkScheme.load("aflw").point_names
    assert main(["data", "convert", str(target), str(tmp_path / "cvat.xml")]) == 0
    assert main(["data", "convert", str(target), str(tmp_path / "x.json"), "--scheme", "aflw"]) == 1
    assert "are for collections" in capsys.readouterr().err


# -- crops around boxes that a collection gives --------------------------------------------------------


def test_a_model_of_given_boxes(tmp_path, small_300w, portrait, capsys):
    """Trained, measured and run on crops around the labels' own boxes (here wide ones)."""
    annotations = own_set(small_300w, FIVE)
    wide = np.float32([-60, -80, 60, 60])
    samples = [
        FaceSample(s.image, s.points, s.name, s.group, tight_box(s.points) + wide)
        for s in annotations.samples
    ]
    labels, run = tmp_path / "boxes.csv", tmp_path / "run"
    write_annotations(labels, Annotations(samples, annotations.names))
    scheme = tmp_path / "five.toml"
    scheme.write_text(propose_scheme(annotations, "five").to_toml())
    words = f"train {ROOT / 'recipes/own.yaml'} --data {labels} --data.scheme {scheme} -o {run} {TINY} "
    assert main((words + "--crop.box given --crop.scale 1.0").split()) == 0
    model = str(tmp_path / "given.onnx")
    assert main(["export", str(run / "best.safetensors"), "-o", model]) == 0
    assert main(["info", model, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["crop"]["box"] == "given"
    left, top, right, bottom = info["detector_fits"]["landmarks"]
    assert left < -0.3
    assert top < -0.3
    assert right > 1.3
    assert bottom > 1.3
    assert main(["evaluate", model, "--data", str(labels), "--json"]) == 0
    assert main(["detect", str(portrait), "--model", model, "--passes", "2"]) == 0
    capsys.readouterr()
    write_annotations(tmp_path / "none.csv", annotations)
    assert main(["evaluate", model, "--data", str(tmp_path / "none.csv")]) == 1
    assert "the collection gives no face boxes" in capsys.readouterr().err


def test_the_box_of_a_crop():
    points, given = np.float32([[1, 2], [5, 9]]), np.float32([0, 0, 10, 10])
    assert CropRule().face_box(points, given).tolist() == [1, 2, 5, 9]
    assert CropRule(box="given").face_box(points, given).tolist() == [0, 0, 10, 10]
    with pytest.raises(BoxError, match="gives no face boxes"):
        CropRule(box="given").face_box(points, None)
