"""The papers' crops of each dataset, and unlabeled faces that keep their crop in every round."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipnet.annotations.samples import FaceSample
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.datasets.paper_crops import keep_paper_crops, unlabeled_faces_of, without_label
from pipnet.datasets.pseudo_labels import PseudoLabel, read_pseudo_labels, write_pseudo_labels
from pipnet.datasets.registry import DATASETS
from pipnet.datasets.unlabeled import read_boxes, write_boxes
from pipnet.errors import DataError
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.geometry import CropConfig, tight_box
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.inference.tta import augmented_crops
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.config import ModelConfig
from pipnet.model.torch_model import TorchModel
from pipnet.training.crop_cache import FaceCrops
from pipnet.training.pseudo_labeling import label_faces

CROP = CropConfig(scale=1.3, square=False, clip=True)
"""The crop of v1's and of GSSL's 300-W."""


def sample(box, source_box=None):
    points = np.random.default_rng(0).uniform(40, 60, (68, 2)).astype(np.float32)
    return FaceSample(Path("a.jpg"), points, "a", "a", np.float32(box), source_box=source_box)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wflw", [80, 220, 320, 420]),  # sides and bottom by a tenth, the top moved down by as much
        ("cofw", [70, 170, 330, 430]),  # 1.3 times the box
        ("cofw68", [70, 170, 330, 430]),
    ],
)
def test_gssl_crop_is_the_authors(name, expected):
    face = sample([100, 200, 300, 400])
    (kept,) = keep_paper_crops([face], DATASETS[name], "gssl", CROP)
    np.testing.assert_allclose(CROP.region(kept.crop_box, 1000, 1000), expected, atol=1e-3)
    assert kept.box is face.box


def test_paper_crops_are_cut_around_the_datasets_own_landmarks():
    """Not around the 19 points to which v1 maps all datasets."""
    face = sample([0, 0, 9, 9], source_box=np.float32([100, 100, 200, 300]))
    (kept,) = keep_paper_crops([face], DATASETS["cofw"], "v1", CROP)
    np.testing.assert_allclose(CROP.region(kept.crop_box, 1000, 1000), [75, 50, 225, 350], atol=1e-3)
    (kept,) = keep_paper_crops([face], DATASETS["300w"], "gssl", CROP)
    np.testing.assert_allclose(CROP.region(kept.crop_box, 1000, 1000), [85, 70, 215, 330], atol=1e-3)
    assert keep_paper_crops([face], DATASETS["cofw"], "none", CROP) == [face]
    with pytest.raises(DataError, match="LaPa has no crop in IJCV's"):
        keep_paper_crops([face], DATASETS["lapa"], "gssl", CROP)


def test_unlabeled_faces_keep_their_crop_through_tables(small_300w, mean_face_checkpoint, tmp_path):
    """From a dataset without its labels to the crops of the training, by two tables."""
    faces = unlabeled_faces_of(small_300w, None, "gssl")
    write_boxes(tmp_path / "boxes.csv", faces)
    faces = read_boxes(tmp_path / "boxes.csv")
    assert {face.box_format for face in faces} == {"crop"}
    samples, _, spec = load_samples(small_300w)
    expected = [CROP.region(tight_box(s.points), 260, 230) for s in samples]
    config = ModelConfig("lcnet_050", input_size=64, stride=64, neighbors=0, reduction="coordinates")
    network, metadata = load_checkpoint(mean_face_checkpoint(config, shift=0.02))
    model = TorchModel(network, replace(metadata, crop=CROP))
    labels, dropped = label_faces(model, faces)
    assert not dropped
    for label, region in zip(labels, expected, strict=True):
        x0, y0, x1, y1 = CROP.region(label.sample.crop_box, 260, 230)
        np.testing.assert_allclose([x0, y0, x1, y1], region, atol=0.05)
        mean_face = [x0, y0] + (metadata.mean_face + 0.02) * [x1 - x0, y1 - y0]
        np.testing.assert_allclose(label.sample.points, mean_face, atol=0.05)  # predicted in this crop
    write_pseudo_labels(tmp_path / "labels.csv", labels)
    labels = read_pseudo_labels(tmp_path / "labels.csv")
    crops = FaceCrops([label.sample for label in labels], CROP, 64, 1.5)
    for i, region in enumerate(expected):
        np.testing.assert_allclose(crops.crop_region(i), region, atol=0.05)
    assert without_label(labels[0].sample, CROP).box_format == "crop"


def test_pseudo_labels_read_rows_with_and_without_a_kept_crop(tmp_path):
    points = np.random.default_rng(0).uniform(10, 90, (5, 2)).astype(np.float32)
    plain = PseudoLabel(FaceSample(tmp_path / "a.jpg", points, "a", "a"), 1, 0, 0)
    kept = replace(plain, sample=replace(plain.sample, crop_box=np.float32([1, 2, 30, 40])))
    weighted = [replace(label, weights=np.full(5, 0.5, np.float32)) for label in (kept, plain)]
    for labels in ([plain, kept], weighted):
        write_pseudo_labels(tmp_path / "labels.csv", labels)
        boxes = [label.sample.crop_box for label in read_pseudo_labels(tmp_path / "labels.csv")]
        assert [box is None for box in boxes] == [label.sample.crop_box is None for label in labels]
    text = (tmp_path / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text(text.replace("1.0,2.0,30.0,40.0", "1.0,2.0,1.0,40.0"))
    with pytest.raises(DataError, match="the box of the crop has no width or no height"):
        read_pseudo_labels(tmp_path / "labels.csv")


def test_evaluate_measures_in_the_papers_crops(shared, landmarker):
    """GSSL's crop of WFLW: other predictions, and errors in a frame that is this crop."""
    samples, _, spec = load_samples(shared / "data" / "wflw", "test", "300w", for_evaluation=True)
    samples = samples[:4]
    kept = keep_paper_crops(samples, spec, "gssl", landmarker.metadata.crop)
    plain, paper = (evaluate(landmarker, decoded(faces), spec) for faces in (samples, kept))
    assert np.abs(paper.nmes - plain.nmes).max() > 1e-4
    # The official frame is the crop itself: its width and height are the units.
    image, face = next(decoded(kept))
    x0, y0, x1, y1 = landmarker.metadata.crop.region(face.crop_box, image.shape[1], image.shape[0])
    true, predicted = ((p - [x0, y0]) / [x1 - x0, y1 - y0] for p in (face.points, paper.predicted[0]))
    expected = np.linalg.norm(predicted - true, axis=1) / np.linalg.norm(true[36] - true[45])
    np.testing.assert_allclose(paper.official[0], expected, rtol=1e-4)


def test_evaluate_command_accepts_paper_crops(shared, tmp_path, capsys):
    command = [
        "evaluate",
        "pipnet-tiny",
        "--data",
        str(shared / "data" / "wflw"),
        "--subset",
        "blur",
        "--json",
    ]
    assert main([*command, "--paper-crops", "gssl"]) == 0
    assert '"faces": 43' in capsys.readouterr().out
    assert main([*command, "--paper-crops", "gssl", "--detector", "pipnet-face"]) == 1
    assert "--paper-crops: leave --detector" in capsys.readouterr().err


def test_data_boxes_writes_celebas_crops(tmp_path, portrait, capsys):
    """Of the authors' boxes, which include their last pixel: the top is moved down by 0.15."""
    (tmp_path / "img_celeba").mkdir()
    shutil.copy(portrait, tmp_path / "img_celeba" / "000001.jpg")
    (tmp_path / "celeba_bboxes.txt").write_text("000001.jpg 100 200 199 299\n")
    table = tmp_path / "boxes.csv"
    assert main(["data", "boxes", str(tmp_path), "--crops", "gssl", "-o", str(table)]) == 0
    assert "1 face" in capsys.readouterr().err
    (face,) = read_boxes(table)
    assert (face.box_format, face.box.tolist()) == ("crop", [90, 215, 210, 310])
    assert main(["data", "boxes", str(tmp_path), "--crops", "gssl", "-o", str(table)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["data", "boxes", str(tmp_path), "-o", str(tmp_path / "plain.csv")]) == 0
    assert read_boxes(tmp_path / "plain.csv")[0].box.tolist() == [100, 200, 200, 300]
    (tmp_path / "celeba_bboxes.txt").write_text("000001.jpg 100 200 199\n")
    assert main(["data", "boxes", str(tmp_path), "-o", str(tmp_path / "bad.csv")]) == 1
    assert "celeba_bboxes.txt:1: expected a name and x0, y0, x1, y1" in capsys.readouterr().err
    (tmp_path / "celeba_bboxes.txt").rename(tmp_path / "list_bbox_celeba.txt")
    assert main(["data", "boxes", str(tmp_path), "--crops", "gssl", "-o", str(tmp_path / "bad.csv")]) == 1
    assert "celeba_bboxes.txt is missing" in capsys.readouterr().err


def test_tta_translation_10_has_the_shifts_of_v1s_figure_4():
    shifts = {
        tuple(np.round(augmented.matrix[:, 2]).tolist())
        for augmented in augmented_crops("translation-10", 256)
    }
    assert shifts == {(0, -10), (0, 10), (-10, 0), (10, 0)}
    augmentations = augmented_crops("translation-10", 128)
    np.testing.assert_allclose([abs(augmented.matrix[:, 2]).max() for augmented in augmentations], 5)


def test_landmarker_averages_shifts_of_10_pixels(landmarker, portrait):
    plain = landmarker(portrait)
    face = FaceLandmarker(tta="translation-10")(portrait)
    side = np.ptp(plain.points[0], axis=0).max()
    assert 0 < np.abs(face.points - plain.points).max() < 0.05 * side
    assert (face.tta_std > 0).all()
