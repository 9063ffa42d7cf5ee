"""Unlabeled faces of folders, tables and videos, and the pseudo-labels that a network gives them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipnet.annotations.samples import FaceSample
from pipnet.datasets.load import load_samples
from pipnet.datasets.pseudo_labels import PseudoLabel, read_pseudo_labels, write_pseudo_labels
from pipnet.datasets.unlabeled import UnlabeledFace, load_unlabeled, write_boxes
from pipnet.errors import DataError, ModelError, VideoError
from pipnet.evaluation.metrics import norm_distance
from pipnet.geometry import tight_box
from pipnet.io.image import read_image, write_image
from pipnet.training.pseudo_labeling import label_faces

NOWHERE = Path("/nowhere")
"""Folder for frames of videos, which these tests do not have."""


def test_load_unlabeled_reads_folder_table_and_list(unlabeled, portrait, tmp_path):
    assert (
        len(load_unlabeled(unlabeled, NOWHERE)) == len(load_unlabeled(unlabeled / "boxes.csv", NOWHERE)) == 14
    )
    (tmp_path / "list.txt").write_text(f"{portrait}\nunlabeled/0.jpg\n\n")
    listed = load_unlabeled(tmp_path / "list.txt", NOWHERE)
    assert [face.box for face in listed] == [None, None]
    (unlabeled / "boxes.csv").unlink()
    assert len(load_unlabeled(unlabeled, NOWHERE)) == 13
    (tmp_path / "rounds.yaml").touch()
    for bad, message in ((tmp_path / "none", "not a folder"), (tmp_path / "rounds.yaml", "not a folder")):
        with pytest.raises(DataError, match=message):
            load_unlabeled(bad, NOWHERE)


def test_load_unlabeled_takes_one_frame_a_second_of_video(tmp_path, torch_model, shared):
    clip = shared / "data" / "video" / "cap13_edit2.mp4"
    faces = load_unlabeled(clip, tmp_path)
    assert len(faces) == 31  # 765 frames, 25 a second
    labels, _ = label_faces(torch_model, faces[:3])
    assert [label.sample.points.shape for label in labels] == [(68, 2)] * 3
    written = {face.image: face.image.stat().st_mtime_ns for face in faces}
    again = load_unlabeled(clip, tmp_path)
    assert {face.image: face.image.stat().st_mtime_ns for face in again} == written
    (tmp_path / "damaged.mp4").write_bytes(clip.read_bytes()[:300_000])
    assert 5 < len(load_unlabeled(tmp_path / "damaged.mp4", tmp_path)) < 31
    shutil.copy(clip, tmp_path / "damaged.mp4")  # another video of the same name
    assert len(load_unlabeled(tmp_path / "damaged.mp4", tmp_path)) == 31
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, message in (("empty.mp4", "empty file"), ("none.mp4", "no such file")):
        with pytest.raises(VideoError, match=message):
            load_unlabeled(tmp_path / name, tmp_path)


@pytest.mark.parametrize(
    "text", ["", "image,x\n", "image,x,y,w,h\na.jpg,1,2,x,4\n", "image,x,y,w,h\na,1,2,0,4\n"]
)
def test_load_unlabeled_names_damaged_tables(tmp_path, text):
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(DataError, match=r"boxes\.csv"):
        load_unlabeled(tmp_path, NOWHERE)


@pytest.mark.parametrize("tta", ["none", "translation"])
def test_label_faces_is_near_the_truth(unlabeled, small_300w, torch_model, tta):
    truth, scheme, _ = load_samples(small_300w, "full")
    count = 12 if tta == "none" else 3
    faces = load_unlabeled(unlabeled, NOWHERE)
    labels, dropped = label_faces(torch_model, [*faces[:count], *faces[12:]], tta)
    assert dropped == {"image cannot be read": 1, "box is tiny or oblong": 1}
    for label, face in zip(labels, truth[:count], strict=True):
        distance = np.linalg.norm(label.sample.points - face.points, axis=1).mean()
        assert distance / norm_distance(face.points, scheme) < 0.06
        assert 0.3 < label.mean_score <= 1
        assert label.vote_std > 0
        assert (label.label_std > 0) == (tta != "none")


def test_label_faces_detects_in_regions_and_images(unlabeled, torch_model, tmp_path):
    faces = load_unlabeled(unlabeled, NOWHERE)[:3]
    height, width = read_image(faces[0].image).shape[:2]
    regions = [replace(face, box=np.float32([10, 10, width - 10, height - 10])) for face in faces]
    faceless = [replace(face, box=np.float32([0, 0, 12, 12])) for face in faces]
    without = [replace(face, box=None) for face in faces]
    write_image(tmp_path / "gray.png", np.full((90, 90, 3), 128, np.uint8))
    empty = UnlabeledFace(tmp_path / "gray.png", None, "gray")
    by_region, _ = label_faces(torch_model, regions, "none", "region")
    by_detector, dropped = label_faces(torch_model, [*without, empty])
    assert dropped == {"no face detected": 1}
    for a, b in zip(by_region, by_detector, strict=True):
        np.testing.assert_allclose(a.sample.points, b.sample.points, atol=0.01)
    assert label_faces(torch_model, faceless, "none", "region") == ([], {"no face detected": 3})


def test_label_faces_drops_boxes_outside_of_the_image(unlabeled, torch_model):
    """The network would predict the mean face, twice, on a black crop."""
    face = load_unlabeled(unlabeled, NOWHERE)[0]
    outside = [replace(face, box=np.float32([x, 10, x + 200, 210])) for x in (5000, -400)]
    assert label_faces(torch_model, outside) == ([], {"box is outside of the image": 2})


def test_read_boxes_finds_images_behind_a_link(unlabeled, tmp_path):
    face = load_unlabeled(unlabeled, NOWHERE)[0]
    (tmp_path / "disk" / "deep" / "runs").mkdir(parents=True)
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "runs").symlink_to(tmp_path / "disk" / "deep" / "runs")
    write_boxes(tmp_path / "proj" / "runs" / "boxes.csv", [face])
    (read,) = load_unlabeled(tmp_path / "proj" / "runs" / "boxes.csv", NOWHERE)
    assert read.image.samefile(face.image)


def test_label_faces_uses_box_formats_of_the_table(unlabeled, torch_model):
    faces = load_unlabeled(unlabeled, NOWHERE)[:2]
    (labels, _) = label_faces(torch_model, faces)
    tight = [
        replace(face, box=tight_box(label.sample.points), box_format="landmarks")
        for face, label in zip(faces, labels, strict=True)
    ]
    write_boxes(unlabeled / "boxes.csv", [tight[0], faces[1]])
    mixed = load_unlabeled(unlabeled, NOWHERE)
    assert [face.box_format for face in mixed] == ["landmarks", None]
    for a, b in zip(label_faces(torch_model, mixed)[0], labels, strict=True):
        assert np.abs(a.sample.points - b.sample.points).max() < 0.03 * np.ptp(b.sample.points[:, 0])
    text = (unlabeled / "boxes.csv").read_text().replace(",landmarks", ",tight")
    (unlabeled / "boxes.csv").write_text(text)
    with pytest.raises(ModelError, match="no adapter for boxes of format 'tight'"):
        label_faces(torch_model, load_unlabeled(unlabeled, NOWHERE))


def test_read_pseudo_labels_reads_write_pseudo_labels(unlabeled, torch_model, tmp_path):
    labels, _ = label_faces(torch_model, load_unlabeled(unlabeled, NOWHERE)[:2])
    write_pseudo_labels(tmp_path / "labels.csv", labels)
    for a, b in zip(read_pseudo_labels(tmp_path / "labels.csv"), labels, strict=True):
        assert a.sample.image.resolve() == b.sample.image.resolve()
        np.testing.assert_allclose(a.sample.points, b.sample.points, atol=1e-3)
        assert a.mean_score == pytest.approx(b.mean_score, abs=1e-4)
        np.testing.assert_allclose(a.landmark_std, b.landmark_std, atol=1e-3)
        assert b.landmark_std.mean() == pytest.approx(b.vote_std, rel=1e-4)
    for text in ("", "image,name\n", "image,name,score,spread,disagreement,x0,y0\na,b,1,2,3,4,nan\n"):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(DataError, match=r"labels\.csv"):
            read_pseudo_labels(tmp_path / "labels.csv")


def test_tiny_weights_of_landmarks_can_be_read_again(tmp_path):
    points = np.random.default_rng(0).uniform(10, 90, (5, 2)).astype(np.float32)
    face = FaceSample(tmp_path / "a.jpg", points, "a", "a")
    label = PseudoLabel(face, 1, 0, 0, weights=np.full(5, 1e-6, np.float32))
    write_pseudo_labels(tmp_path / "labels.csv", [label])
    (read,) = read_pseudo_labels(tmp_path / "labels.csv")
    assert (read.weights == np.float32(0.001)).all()


def test_torch_model_takes_any_number_of_crops(torch_model):
    crops = np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3), np.uint8)
    np.testing.assert_allclose(torch_model(crops).points[:1], torch_model(crops[:1]).points, atol=1e-4)
    assert torch_model(crops[:0]).points.shape == (0, 68, 2)
    assert torch.is_grad_enabled()
