"""Landmark schemes that are proposed from labels: mirror pairs, names and the file."""

from dataclasses import replace

import numpy as np
import pytest

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.datasets.scheme_proposal import mirror_pairs, propose_scheme
from pipnet.errors import DataError
from pipnet.scheme import LandmarkScheme
from test_own_datasets import FIVE, FOUR, own_annotations


@pytest.mark.parametrize("name", ["300w", "wflw", "cofw", "aflw", "lapa"])
def test_mirror_pairs_finds_the_published_pairs(shared, name):
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


def test_mirror_pairs_reports_doubts_for_a_profile():
    profile = np.array([[0.9, 0.1], [0.95, 0.4], [0.7, 0.5], [0.3, 0.2], [0.1, 0.9], [0.6, 0.95]])
    assert mirror_pairs(profile)[1]


def test_propose_scheme_prefers_pairs_by_name(small_300w):
    annotations = own_annotations(small_300w, FIVE)
    crossed = ("left_eye", "nose", "right_eye", "left_mouth", "right_mouth")
    proposal = propose_scheme(Annotations(annotations.samples, crossed), "mine")
    assert (0, 2) in proposal.scheme.flip
    assert any("'left_eye' and 'right_eye' are a pair by name, not by position" in d for d in proposal.doubts)


def test_proposal_file_keeps_any_text(small_300w):
    names = ("left\n\x7f", "nose", "right\n\x7f", "\\", '"😀')
    proposal = propose_scheme(Annotations(own_annotations(small_300w, FIVE).samples, names), "mine")
    proposal = replace(proposal, scheme=replace(proposal.scheme, title="Faces 😀 \x7f"))
    assert any("by name" in doubt for doubt in proposal.doubts)
    assert LandmarkScheme.parse("mine", proposal.to_toml(), "mine") == proposal.scheme


def test_data_view_reports_differing_mirror_pairs(tmp_path, small_300w, capsys):
    labels, scheme = tmp_path / "five.csv", tmp_path / "five.toml"
    write_annotations(labels, own_annotations(small_300w, FIVE))
    right = propose_scheme(own_annotations(small_300w, FIVE), "five").to_toml()
    flip = "flip = [[0, 1], [3, 4]]"
    assert flip in right
    for number, text in enumerate((right, right.replace(flip, "flip = []"))):
        scheme.write_text(text)
        command = ["view", str(labels), "-o", str(tmp_path / f"sheet{number}"), "--scheme", str(scheme)]
        assert main(["data", *command]) == 0
        errors = capsys.readouterr().err
        line = "check: 2 flip pairs differ between scheme 'five' and the mean face, such as (0, 1)"
        assert (line in errors) == (number == 1)


def test_propose_scheme_agrees_with_300w(shared):
    samples, scheme, _ = load_samples(shared / "data" / "300w", "afw")
    proposal = propose_scheme(Annotations(samples, None), "mine")
    assert {*proposal.scheme.flip} == {tuple(sorted(pair)) for pair in scheme.flip}
    assert (proposal.neighbors, proposal.faces) == (10, 337)
    assert 1.2 <= proposal.crop_scale <= 1.5
    assert LandmarkScheme.parse("mine", proposal.to_toml(), "mine") == proposal.scheme


def test_propose_scheme_needs_a_complete_face(small_300w):
    samples = own_annotations(small_300w, FOUR).samples[:2]
    for i, sample in enumerate(samples):
        sample.points[i] = np.nan
    with pytest.raises(DataError, match="no face has all its landmarks"):
        propose_scheme(Annotations(samples, None), "mine")


def test_propose_scheme_pairs_names_with_both_sides(small_300w):
    """AFLW's official names: the partner of LeftEyeRightCorner is RightEyeLeftCorner."""
    corners = {
        "LeftEyeLeftCorner": [36], "LeftEyeRightCorner": [39], "RightEyeLeftCorner": [42],
        "RightEyeRightCorner": [45], "chin\n": [8], "mouth_l": [48], "mouth_r": [54], "[/red]": [30],
    }  # fmt: skip
    annotations = own_annotations(small_300w, corners)
    proposal = propose_scheme(annotations, "mine")
    assert proposal.scheme.flip == ((0, 3), (1, 2), (5, 6))
    assert not [doubt for doubt in proposal.doubts if "by name" in doubt]
    assert LandmarkScheme.parse("mine", proposal.to_toml(), "mine") == proposal.scheme


@pytest.mark.parametrize("points", [{"nose": [30]}, {"eye": [36], "same": [36]}])
def test_propose_scheme_refuses_too_few_landmarks(small_300w, points):
    with pytest.raises(DataError):
        propose_scheme(own_annotations(small_300w, points), "mine")


def test_propose_scheme_refuses_too_many_landmarks(small_300w):
    points = {f"point_{i}": [i % 68] for i in range(2001)}
    with pytest.raises(DataError, match="at most 2000 landmarks"):
        propose_scheme(own_annotations(small_300w, points), "mine")
