"""Reading faces of datasets and .pts files, and splitting them."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipnet.annotations.pts import read_pts, write_pts
from pipnet.annotations.samples import evenly_spaced, split_by_group
from pipnet.datasets.load import load_samples, recognize_dataset
from pipnet.datasets.pseudo_labels import is_pseudo_labels, read_pseudo_labels, write_pseudo_labels
from pipnet.errors import DataError

COUNTS = {
    "train": 24 - 12,
    "common": 8,
    "challenging": 4,
    "full": 12,
    "afw": 4,
    "helen+lfpw": 8,
}


@pytest.mark.parametrize(("subset", "count"), COUNTS.items())
def test_load_samples_reads_subsets_of_300w(small_300w, subset, count):
    samples, scheme, spec = load_samples(small_300w, subset)
    assert (len(samples), scheme.name, spec.title) == (count, "300w", "300-W")
    assert len({s.name for s in samples}) == count
    assert all(s.image.is_file() and s.points.shape == (68, 2) for s in samples)


def test_load_samples_counts_300w(shared):
    root = shared / "data" / "300w"
    counts = {
        "train": 2012,
        "common": 554,
        "common-deduplicated": 551,
        "train-deduplicated": 2009,
        "afw": 337,
    }
    for subset, count in counts.items():
        assert len(load_samples(root, subset)[0]) == count


def test_split_by_group_keeps_photos_together(shared):
    samples, _, _ = load_samples(shared / "data" / "300w", "afw")
    assert len({s.group for s in samples}) <= 185
    training, validation = split_by_group(samples, 0.3, seed=0)
    assert len(training) + len(validation) == len(samples)
    assert not {s.group for s in training} & {s.group for s in validation}
    assert 0.15 < len(validation) / len(samples) < 0.45


def test_evenly_spaced_returns_at_most_the_requested_number():
    assert evenly_spaced(range(10), 4) == [0, 2, 5, 7]
    assert evenly_spaced(range(3), 5) == [0, 1, 2]
    assert evenly_spaced([], 5) == []
    assert len(evenly_spaced(range(999), 500)) == 500


@pytest.mark.parametrize("subset", ["challenging", "full"])
def test_load_samples_names_missing_folders(small_300w, tmp_path, subset):
    root = tmp_path / "300w"
    shutil.copytree(small_300w, root)
    shutil.rmtree(root / "ibug")
    with pytest.raises(DataError, match=r"ibug.*ibug\.doc\.ic\.ac\.uk"):
        load_samples(root, subset)


def test_load_samples_counts_wflw(shared):
    root = shared / "data" / "wflw"
    counts = {"test": 114, "pose": 19, "expression": 16, "illumination": 45, "make-up": 12}
    counts |= {"occlusion": 29, "blur": 43}
    for subset, count in counts.items():
        samples, scheme, _ = load_samples(root, subset)
        assert len(samples) == count
        assert scheme.landmarks == 98
    mapped, scheme, _ = load_samples(root, "test", "300w")
    assert mapped[0].points.shape == (68, 2)
    assert scheme.name == "300w"


@pytest.mark.parametrize("line", ["1 2 3", " ".join(["x"] * 207), " ".join(["nan"] * 206) + " a.jpg"])
def test_load_samples_names_invalid_wflw_lines(tmp_path, line):
    folder = tmp_path / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    folder.mkdir(parents=True)
    (folder / "list_98pt_rect_attr_test.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=r"test\.txt:1"):
        load_samples(tmp_path, "test")


def test_load_samples_refuses_unknown_folders_and_subsets(tmp_path, small_300w):
    with pytest.raises(DataError, match="no such file or folder"):
        recognize_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="no labeled faces found"):
        recognize_dataset(tmp_path)
    with pytest.raises(DataError, match="no subset 'commn'"):
        load_samples(small_300w, "commn")


def test_read_pts_reads_write_pts(tmp_path):
    points = np.float32([[1.5, 2], [-3.25, 1000.125]])
    write_pts(tmp_path / "a.pts", points)
    np.testing.assert_allclose(read_pts(tmp_path / "a.pts", 2), points)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("version: 1\nn_points: 2\n{\n1 2\n", "no points between"),
        ("version: 1\nn_points: 2\n{\n1 2\n}", "n_points is 2, but the file has 1 points"),
        ("version: 1\nn_points: 1\n{\n1 two\n}", "two"),
        ("version: 1\nn_points: 1\n{\n1 nan\n}", "finite"),
        ("version: 1\nn_points: 1\n{\n1 2 3\n}", "pairs"),
        ("version: 1\nn_points: 1\n{\n1 2\n}", "1 points, expected 68"),
    ],
)
def test_read_pts_refuses_invalid_files(tmp_path, text, message):
    path = tmp_path / "bad.pts"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_pts(path, 68)


def test_read_pts_refuses_binary_files(tmp_path, portrait):
    shutil.copy(portrait, tmp_path / "a.pts")
    with pytest.raises(DataError):
        read_pts(tmp_path / "a.pts")


def test_load_samples_names_degenerate_labels_and_other_encodings(small_300w, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(small_300w, root)
    (root / "afw" / "._image_0_1.pts").write_bytes(b"\x00\xff")  # as in archives of macOS
    assert len(load_samples(root, "afw")[0]) == 4
    write_pts(root / "afw" / "image_0_1.pts", np.ones((68, 2), np.float32))
    with pytest.raises(DataError, match="afw/image_0_1: the landmarks lie on one"):
        load_samples(root, "afw")
    (root / "afw" / "image_0_1.pts").write_bytes("n_points: 68 \xe9 {1 2}".encode("latin-1"))
    with pytest.raises(DataError, match="image_0_1"):
        load_samples(root, "afw")


# -- pseudo-labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pseudo_labels.csv", "teacher_labels.csv"])
def test_read_pseudo_labels_reads_format_1(name, tmp_path):
    path = Path(__file__).parent / "format1" / name
    labels = read_pseudo_labels(path)
    assert is_pseudo_labels(path)
    with path.open(newline="") as file:
        row = next(csv.DictReader(file))
    first = labels[0]
    quality = [float(row[key]) for key in ("score", "spread", "disagreement")]
    assert [first.mean_score, first.vote_std, first.label_std] == quality
    assert (first.weights is not None) == ("w0" in row)
    write_pseudo_labels(tmp_path / "new.csv", labels)
    assert (tmp_path / "new.csv").read_text().startswith("image,name,mean_score,vote_std,label_std,x0,y0,")
    for old, new in zip(labels, read_pseudo_labels(tmp_path / "new.csv"), strict=True):
        assert old.sample.image.resolve() == new.sample.image.resolve()
        np.testing.assert_array_equal(old.sample.points, new.sample.points)
        assert quality == [new.mean_score, new.vote_std, new.label_std] or old is not first
