"""The published datasets, as small archives in their true formats, made of real images."""

import json
import shutil
from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from pipnet.annotations.pts import write_pts
from pipnet.cli import main
from pipnet.datasets.celeba import read_celeba
from pipnet.datasets.load import check_faces, load_samples, recognize_dataset
from pipnet.datasets.prepare import SubsetReport, prepare
from pipnet.datasets.registry import DATASETS
from pipnet.datasets.unlabeled import read_boxes
from pipnet.datasets.vw300 import CLIPS
from pipnet.errors import DataError
from pipnet.io.image import read_image


def samples(shared, name):
    """Return (image, points) of the two real images of a dataset."""
    folder = shared / "data" / "samples" / name
    table = json.loads(next(folder.glob("*.json")).read_text())
    files = {image["id"]: image["file_name"] for image in table["images"]}
    loaded = {}
    for face in table["annotations"]:
        path = next(folder.rglob(files[face["image_id"]]))
        loaded.setdefault(path, np.float32(face["keypoints"]).reshape(-1, 3)[:, :2])
    return list(loaded.items())


def xywh(points):
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low, *(high - low)]


# -- COFW ----------------------------------------------------------------------------------------------


def write_cofw(root, faces, subset="train"):
    """Write Matlab 7.3: cells are references, arrays are transposed; the second image is gray."""
    end = {"train": "Tr", "test": "T"}[subset]
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / f"COFW_{subset}_color.mat", "w", userblock_size=512) as file:
        cells = file.create_dataset(f"Is{end}", (1, len(faces)), h5py.ref_dtype)
        for i, (path, _) in enumerate(faces):
            image = read_image(path)
            stored = image.transpose(2, 1, 0) if i == 0 else image.mean(axis=2).astype(np.uint8).T
            cells[0, i] = file.create_dataset(f"#refs#/{i}", data=stored).ref
        boxes = np.array([xywh(p) for _, p in faces]) + [-9, -9, 20, 20]
        hidden = np.zeros((len(faces), 29))
        hidden[0, 3] = 1
        phis = np.concatenate([[np.r_[p[:, 0], p[:, 1]] for _, p in faces], hidden], axis=1)
        file[f"bboxes{end}"], file[f"phis{end}"] = boxes.T, phis.T


@pytest.fixture
def cofw(tmp_path, shared):
    faces = samples(shared, "cofw")
    write_cofw(tmp_path / "COFW color", faces, "train")
    write_cofw(tmp_path / "COFW color", faces[:1], "test")
    return tmp_path / "COFW color"


def test_cofw_prepares_and_loads(tmp_path, cofw, shared, capsys):
    with pytest.raises(DataError, match=r"unpack the dataset first: pipnet data prepare cofw"):
        load_samples(cofw)
    assert main(["data", "prepare", "cofw", str(cofw), str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err
    assert "missing  train: 2 of 1,345 faces" in errors
    assert "missing  test: 1 of 507 faces" in errors
    assert "https://data.caltech.edu" in errors
    faces, scheme, spec = load_samples(tmp_path / "out")
    assert (len(faces), scheme.landmarks, spec.title) == (2, 29, "COFW")
    for face, (path, points) in zip(faces, samples(shared, "cofw"), strict=True):
        np.testing.assert_allclose(face.points, points, atol=0.01)
        np.testing.assert_allclose(face.box[:2], points.min(axis=0) - 9, atol=0.01)
        assert read_image(face.image).shape == read_image(path).shape
    np.testing.assert_array_equal(read_image(faces[0].image), read_image(samples(shared, "cofw")[0][0]))
    assert faces[0].visible.tolist() == [i != 3 for i in range(29)]
    assert len(load_samples(tmp_path / "out", for_evaluation=True)[0]) == 1
    assert load_samples(tmp_path / "out", "train", "aflw")[0][0].points.shape == (19, 2)


def test_cofw68_prepares_and_loads(tmp_path, cofw, small_300w):
    with pytest.raises(DataError, match="needs cofw68_test_bboxes"):
        DATASETS["cofw68"].unpack(cofw, "test", tmp_path)
    points = load_samples(small_300w, "afw")[0][0].points.astype(float)
    folder = cofw / "cofw68" / "test_annotations"
    folder.mkdir(parents=True)
    savemat(folder / "1_points.mat", {"Points": points, "Occ": np.zeros((68, 1))})
    (folder / "1 copy_points.mat").touch()
    savemat(cofw / "cofw68" / "cofw68_test_bboxes.mat", {"bboxes": np.array([xywh(points)])})
    (part,) = prepare("cofw68", cofw, tmp_path / "out")
    assert (part.faces, part.published) == (1, 507)
    (face,), scheme, _ = load_samples(tmp_path / "out", for_evaluation=True)
    assert scheme.name == "300w"
    np.testing.assert_allclose(face.points, points, atol=0.01)
    with pytest.raises(DataError, match="is a test set without a training subset"):
        load_samples(tmp_path / "out")


@pytest.mark.parametrize("damage", ["empty", "text", "no phis", "short phis", "nan", "no image", "version 5"])
def test_cofw_reports_damage_in_one_line(tmp_path, cofw, damage):
    path = cofw / "COFW_train_color.mat"
    if damage in ("empty", "text"):
        path.write_bytes(b"" if damage == "empty" else b"MATLAB 5.0 MAT-file " * 9)
    elif damage == "version 5":
        savemat(path, {"IsTr": 1})
    else:
        with h5py.File(path, "a") as file:
            phis = file["phisTr"][()]
            del file["phisTr"]
            if damage == "nan":
                phis[5, 0] = np.nan
            if damage != "no phis":
                file["phisTr"] = phis[:, :1] if damage == "short phis" else phis
            if damage == "no image":
                del file["#refs#/1"]
                file["#refs#/1"] = "text"
                file["IsTr"][0, 1] = file["#refs#/1"].ref
    train, _ = prepare("cofw", cofw, tmp_path / "out")
    assert not train.complete
    assert str(path) in train.problem
    assert "\n" not in train.problem


# -- AFLW ----------------------------------------------------------------------------------------------


@pytest.fixture
def aflw(tmp_path, shared):
    faces = samples(shared, "aflw") * 2
    root = tmp_path / "aflw"
    names = np.empty((4, 1), object)
    for i, (path, _) in enumerate(faces):
        (root / "data/flickr/2").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / f"data/flickr/2/{path.name}")
        names[i, 0] = f"2/{path.name}"
    boxes = [[p[:, 0].min(), p[:, 0].max(), p[:, 1].min(), p[:, 1].max()] for _, p in faces]
    mask = np.ones((4, 19), np.uint8)
    mask[2, 7] = 0
    table = {
        "bbox": np.array(boxes, float),
        "data": np.array([np.r_[p[:, 0], p[:, 1]] for _, p in faces], float),
        "mask_new": mask,
        "nameList": names,
        "ra": np.array([[3, 1, 4, 2]], np.uint16),
    }
    savemat(root / "AFLWinfo_release.mat", table)
    return root


def test_aflw_loads(aflw, shared, monkeypatch):
    monkeypatch.setattr("pipnet.datasets.aflw.TRAINING", 1)
    (train,), scheme, spec = load_samples(aflw)
    path, points = samples(shared, "aflw")[0]
    assert train.image.name == path.name
    assert (scheme.name, spec.default_test) == ("aflw", "test")
    np.testing.assert_allclose(train.points, points, rtol=1e-6)
    np.testing.assert_allclose(train.box, [*points.min(axis=0), *points.max(axis=0)], rtol=1e-6)
    assert not train.visible[7]
    test = load_samples(aflw, "test")[0]
    assert [face.name.partition("#")[2] for face in test] == ["1", "4", "2"]
    assert len(load_samples(aflw, "frontal")[0]) == 3


def test_aflw_refuses_missing_images_and_variables(aflw, tmp_path):
    shutil.move(aflw / "data", tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"AFLW's images.*data/flickr.*available at"):
        load_samples(aflw)
    savemat(aflw / "AFLWinfo_release.mat", {"bbox": np.ones((4, 4))})
    with pytest.raises(DataError, match="holds no variable 'data'"):
        load_samples(aflw)


@pytest.mark.parametrize("key", ["bbox", "data", "mask_new", "ra"])
@pytest.mark.parametrize("wrong", ["cells", "text", "complex"])
def test_aflw_refuses_other_types(aflw, key, wrong):
    path = aflw / "AFLWinfo_release.mat"
    table = {name: values for name, values in loadmat(path).items() if not name.startswith("__")}
    shape = table[key].shape
    cells = np.empty(shape, object)
    cells.flat[:] = [np.zeros((1, 2)) for _ in range(cells.size)]
    values = {
        "cells": cells,
        "text": np.full(shape, "a"),
        "complex": np.full(shape, 1j),
    }
    savemat(path, {**table, key: values[wrong]})
    with pytest.raises(DataError, match=rf"{key} is"):
        load_samples(aflw)


def test_aflw_refuses_damaged_files(aflw):
    """Compressed, as Matlab writes it: zlib and SciPy raise many types of errors."""
    path = aflw / "AFLWinfo_release.mat"
    table = {name: values for name, values in loadmat(path).items() if not name.startswith("__")}
    savemat(path, table, do_compression=True)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(128, len(content), 60).tolist():
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            load_samples(aflw)
        except DataError:
            refused += 1
    assert refused > 30
    for length in (0, 100, 127, 200, len(content) - 9):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="AFLWinfo_release"):
            load_samples(aflw)


# -- WFLW, LaPa, Menpo ---------------------------------------------------------------------------------


def test_wflw_loads_and_prepares(tmp_path, shared):
    lists = tmp_path / "WFLW_annotations/list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    (tmp_path / "WFLW_images/36--Football").mkdir(parents=True)
    lines = []
    for number, (path, points) in enumerate(samples(shared, "wflw")):
        shutil.copy(path, tmp_path / "WFLW_images/36--Football" / path.name)
        x, y, w, h = xywh(points)
        values = [*points.ravel(), *np.round([x, y, x + w, y + h]).astype(int), 0, number, 0, 0, 0, 1]
        lines.append(" ".join(map(str, values)) + f" 36--Football/{path.name}")
    (lists / "list_98pt_rect_attr_test.txt").write_text("\n".join(lines) + "\n")
    faces, scheme, _ = load_samples(tmp_path, for_evaluation=True)
    assert (len(faces), scheme.landmarks) == (2, 98)
    np.testing.assert_allclose(faces[1].points, samples(shared, "wflw")[1][1], rtol=1e-5)
    assert [len(load_samples(tmp_path, s)[0]) for s in ("blur", "expression", "pose")] == [2, 1, 0]
    parts = {part.subset: part for part in prepare("wflw", tmp_path, tmp_path / "out")}
    assert parts["blur"].faces == 2
    assert "list_98pt_rect_attr_train.txt" in parts["train"].problem
    assert load_samples(tmp_path / "out", "blur", "300w")[0][0].points.shape == (68, 2)
    with pytest.raises(DataError, match="'train' is not in this folder"):
        load_samples(tmp_path / "out", "train")


def test_lapa_loads(tmp_path, shared):
    for folder in ("images", "landmarks", "labels"):
        (tmp_path / "test" / folder).mkdir(parents=True)
    for path, points in samples(shared, "lapa"):
        shutil.copy(path, tmp_path / "test/images" / path.name)
        rows = "\n".join(f"{x} {y}" for x, y in points)
        (tmp_path / "test/landmarks" / f"{path.stem}.txt").write_text(f"106\n{rows}\n")
    faces, scheme, _ = load_samples(tmp_path, for_evaluation=True)
    assert (len(faces), scheme.landmarks) == (2, 106)
    np.testing.assert_allclose(sorted(faces[0].points[:, 0])[0], min(
        p[:, 0].min() for path, p in samples(shared, "lapa") if path.stem == faces[0].image.stem
    ), rtol=1e-6)  # fmt: skip
    with pytest.raises(DataError, match=r"train.*landmarks.*github\.com/JDAI-CV"):
        load_samples(tmp_path, "train")
    file = next((tmp_path / "test/landmarks").glob("*.txt"))
    for text in ("", "106\n1 2\n", "105\n" + "1 2\n" * 106, "106\n" + "1 nan\n" * 106, "106 x"):
        file.write_text(text)
        with pytest.raises(DataError, match=file.name):
            load_samples(tmp_path, "test")


def test_menpo_prepares_68_and_39_landmarks(tmp_path, small_300w):
    faces = load_samples(small_300w, "afw")[0]
    for number, face in enumerate(faces):
        (tmp_path / "train" / "a b").mkdir(parents=True, exist_ok=True)
        shutil.copy(face.image, tmp_path / "train" / "a b" / f"{number}.jpg")
        points = face.points if number % 2 else face.points[:39]
        write_pts(tmp_path / "train" / "a b" / f"{number}.pts", points)
    for name, landmarks in {"menpo": 68, "menpo-profile": 39}.items():
        parts = {part.subset: part for part in prepare(name, tmp_path, tmp_path / name)}
        assert (parts["all"].faces, parts["train"].faces, parts["test"].faces) == (2, 2, 0)
        loaded, scheme, _ = load_samples(tmp_path / name)
        assert scheme.landmarks == landmarks == len(loaded[0].points)
    assert scheme.norm == "diagonal"


def test_menpo_refuses_other_datasets_and_has_no_published_size(tmp_path, small_300w, capsys):
    assert main(["data", "prepare", "menpo", str(small_300w), str(tmp_path / "out")]) == 1
    assert "this is 300-W, not menpo" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    shutil.copytree(small_300w / "afw", tmp_path / "menpo" / "mine")
    assert main(["data", "prepare", "menpo", str(tmp_path / "menpo"), str(tmp_path / "out")]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert "ok       all: 4 faces (not checked: the number was never published)" in errors
    assert "optional train: missing, but optional" in errors
    assert not SubsetReport("all", 0, None).complete


# -- 300-VW, CelebA ------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path, shared, landmarker):
    """A clip of 5 real frames, of which 2 and 4 are labeled."""
    folder = tmp_path / "300VW_Dataset_2015_12_14" / "203"
    (folder / "annot").mkdir(parents=True)
    capture = cv2.VideoCapture(str(next((shared / "data/video").glob("*.*"))))
    frames = [capture.read()[1] for _ in range(5)]
    size = (frames[0].shape[1], frames[0].shape[0])
    video = cv2.VideoWriter(str(folder / "vid.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, size)
    for number, frame in enumerate(frames, start=1):
        video.write(frame)
        if number in (2, 4):
            points = landmarker(np.ascontiguousarray(frame[..., ::-1]))[0].points
            write_pts(folder / "annot" / f"{number:06d}.pts", points)
    video.release()
    return folder


def test_300vw_prepares_labeled_frames(tmp_path, clip, monkeypatch):
    monkeypatch.setitem(CLIPS, "category-2", "203")
    parts = {part.subset: part for part in prepare("300vw", clip.parents[1], tmp_path / "out")}
    assert parts["category-2"].faces == 2
    assert "114, 124" in parts["category-1"].problem
    faces, scheme, _ = load_samples(tmp_path / "out", "category-2")
    assert (scheme.name, [f.name for f in faces]) == ("300w", ["203/000002", "203/000004"])
    assert {face.group for face in faces} == {"203"}
    assert read_image(faces[0].image).shape[2] == 3
    write_pts(clip / "annot" / "000009.pts", faces[0].points)
    parts = {part.subset: part for part in prepare("300vw", clip.parents[1], tmp_path / "again")}
    assert "ends before frame 9" in parts["category-2"].problem


def test_celeba_prepares_boxes(tmp_path, portrait, capsys):
    (tmp_path / "Anno").mkdir()
    (tmp_path / "Img" / "img_celeba").mkdir(parents=True)
    shutil.copy(portrait, tmp_path / "Img/img_celeba/000001.jpg")
    table = tmp_path / "Anno" / "list_bbox_celeba.txt"
    rows = "000001.jpg    95  71 226 313\n000002.jpg 72 94 221 306\n000003.jpg 0 0 0 0\n"
    table.write_text(f"3\nimage_id x_1 y_1 width height\n{rows}")
    assert main(["data", "prepare", "celeba", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "1 of 202,599 faces (1 images missing, 1 empty boxes)" in capsys.readouterr().err
    (face,) = read_boxes(tmp_path / "out" / "boxes.csv")
    assert face.image.resolve() == (tmp_path / "Img/img_celeba/000001.jpg").resolve()
    assert face.box.tolist() == [95, 71, 321, 384]
    table.write_text("1\nheader\n000001.jpg 1 2 x 4\n")
    with pytest.raises(DataError, match=r"list_bbox_celeba\.txt:3"):
        read_celeba(tmp_path)


@pytest.mark.parametrize("box", [[1, 2, 1, 9], [1, 2, 9, 1], [1, 2, np.nan, 9], [1, 2, np.inf, 9]])
def test_check_faces_refuses_degenerate_boxes(small_300w, box):
    faces = load_samples(small_300w, "afw")[0]
    check_faces(faces)
    faces[1] = replace(faces[1], box=np.float32(box))
    with pytest.raises(DataError, match=rf"{faces[1].name}: the face box .* has no width or no height"):
        check_faces(faces)


# -- preparing -----------------------------------------------------------------------------------------


def test_prepare_reports_what_is_missing(tmp_path, small_300w, capsys):
    root = tmp_path / "300w copy"
    shutil.copytree(small_300w, root)
    shutil.rmtree(root / "ibug")
    (root / "lfpw/trainset/image_1_1.png").write_bytes(b"no image")
    (root / "helen/trainset/image_2_1.jpg").write_bytes(b"")
    assert main(["data", "prepare", "300w", str(root), str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err
    assert "train: 10 of 3,148 faces (0 images missing, 2 damaged: " in errors
    assert "image_1_1.png" in errors
    assert f"challenging: 0 of 135 faces (300-W 'challenging' needs the folder {root / 'ibug'})" in errors
    assert recognize_dataset(tmp_path / "out") == "300w"
    prepared, official = load_samples(tmp_path / "out", "common")[0], load_samples(root, "common")[0]
    for a, b in zip(prepared, official, strict=True):
        assert (a.name, a.group, a.image.resolve()) == (b.name, b.group, b.image.resolve())
        np.testing.assert_allclose(a.points, b.points, atol=1e-3)


def test_prepare_allows_moving_the_folder(tmp_path, cofw):
    list(prepare("cofw", cofw, tmp_path / "out"))
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert read_image(load_samples(tmp_path / "moved")[0][0].image).size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cofww", ".", "out"], "no dataset 'cofww'; there are 300w, cfp, wflw"),
        (["cofw", "nowhere", "out"], "nowhere: no such folder"),
        (["cofw", ".", "file/below"], "cannot be written"),
    ],
)
def test_prepare_refuses_wrong_arguments(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["data", "prepare", *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", '{"dataset": 3}', '{"dataset": "x", "faces": {}}', "[" * 100_000])
def test_load_samples_refuses_invalid_descriptions(tmp_path, text):
    (tmp_path / "pipnet.json").write_text(text)
    with pytest.raises(DataError, match=r"pipnet\.json"):
        load_samples(tmp_path)


def test_load_samples_reads_descriptions_of_format_1(tmp_path, small_300w):
    list(prepare("300w", small_300w, tmp_path))
    description = json.loads((tmp_path / "pipnet.json").read_text())
    description["collection"] = description.pop("dataset")
    (tmp_path / "pipnet.json").write_text(json.dumps(description))
    assert len(load_samples(tmp_path, "afw")[0]) == 4


def test_published_sizes_of_subsets_add_up():
    sizes = DATASETS["300w"].subsets
    assert sizes["full"] == sizes["common"] + sizes["challenging"]
    assert sizes["train"] == sizes["afw"] + sizes["helen+lfpw"]
    assert DATASETS["aflw"].subsets["train"] + DATASETS["aflw"].subsets["test"] == 24_386
