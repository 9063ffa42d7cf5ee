"""Landmark schemes: names, regions, mirror pairs, files, and mappings between schemes."""

import json
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from pipnet.errors import DataError
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.inference.scheme_figure import mean_face
from pipnet.scheme import BUILT_IN, LandmarkScheme, SchemeMapping

SIZES = {"300w": 68, "wflw": 98, "cofw": 29, "aflw": 19, "lapa": 106, "menpo39": 39, "five": 5}
MIDDLE = {"300w": 10, "wflw": 10, "cofw": 7, "aflw": 3, "lapa": 12}
"""Landmarks on the symmetry axis: each scheme's other points come in pairs."""


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_scheme_has_one_name_and_region_per_landmark(name):
    scheme = LandmarkScheme.load(name)
    assert scheme.landmarks == SIZES[name]
    assert len(set(scheme.landmark_names)) == scheme.landmarks
    members = sorted(i for region in scheme.regions.values() for i in region)
    assert members == list(range(scheme.landmarks))


@pytest.mark.parametrize("name", BUILT_IN)
def test_flip_permutation_is_its_own_inverse(name):
    order = LandmarkScheme.load(name).flip_permutation
    np.testing.assert_array_equal(order[order], np.arange(len(order)))


@pytest.mark.parametrize("name", MIDDLE)
def test_flip_permutation_mirrors_the_mean_face(name, shared):
    """In the golden mean faces, each landmark is close to the mirror image of its partner."""
    scheme = LandmarkScheme.load(name)
    face = np.load(shared / "reference" / "golden" / f"{name}.npz")["mean_face"]
    mirrored = face[scheme.flip_permutation] * [-1, 1] + [2 * face[:, 0].mean(), 0]
    # Datasets are not quite symmetric; a wrong pair would differ several times more.
    assert np.linalg.norm(mirrored - face, axis=1).max() < 0.06


@pytest.mark.parametrize("name", BUILT_IN)
def test_scheme_from_dict_reads_json(name):
    scheme = LandmarkScheme.load(name)
    assert LandmarkScheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme


@pytest.mark.parametrize("name", BUILT_IN)
def test_scheme_load_reads_to_toml(name, tmp_path):
    scheme = replace(LandmarkScheme.load(name), name="mine")
    own = replace(scheme, landmark_names=tuple(f"p{i}" for i in range(scheme.landmarks)))
    assert (own.has_own_names, scheme.has_own_names) == (True, name == "five")
    for one in (own, replace(scheme, norm="box", title='"quoted" und Ä \x7f')):
        (tmp_path / "mine.toml").write_text(one.to_toml(), encoding="utf-8")
        assert LandmarkScheme.load(tmp_path / "mine.toml") == one


@pytest.mark.parametrize("name", MIDDLE)
def test_scheme_regions_tell_left_from_right(name, shared):
    """The person's left is on the right of the image, and the two sides are mirror images."""
    scheme = LandmarkScheme.load(name)
    face = np.load(shared / "reference" / "golden" / f"{name}.npz")["mean_face"]
    assert {"left_eye", "right_eye", "left_brow", "right_brow"} <= set(scheme.regions)
    for region in (key.removeprefix("left_") for key in scheme.regions if key.startswith("left_")):
        left, right = (list(scheme.regions[f"{side}_{region}"]) for side in ("left", "right"))
        assert face[left, 0].min() > face[right, 0].max()
        assert sorted(scheme.flip_permutation[left]) == sorted(right)
    if name != "aflw":  # its one point of the lips is the center of the mouth
        outer, inner = (face[list(scheme.regions[f"{part}_lips"]), 1] for part in ("outer", "inner"))
        assert outer.min() < inner.min() < inner.max() < outer.max()


def earlier_table(name: str) -> dict:
    """The scheme as version 0.1 stored it."""
    text = (resources.files("pipnet.schemes") / "previous_regions.toml").read_text()
    regions = {
        key: LandmarkScheme.from_dict({**BARE, "regions": {"all": value}}).regions["all"]
        for key, value in tomllib.loads(text)[name].items()
    }
    table = LandmarkScheme.load(name).to_dict()
    del table["landmark_names"]
    return json.loads(json.dumps({**table, "regions": regions, "names": []}))


BARE = {"name": "x", "title": "x", "landmarks": 106, "norm": "box", "flip": [], "edges": []}


@pytest.mark.parametrize("name", MIDDLE)
def test_scheme_from_dict_reads_version_0_1(name):
    scheme, earlier = LandmarkScheme.load(name), earlier_table(name)
    assert LandmarkScheme.from_dict(earlier) == scheme
    assert json.loads(scheme.digest_text()) == earlier
    own = LandmarkScheme.from_dict({**earlier, "name": "mine"})
    assert "eyes" in own.regions
    assert scheme.current_names(own.landmark_names) == scheme.landmark_names
    assert own.current_names(own.landmark_names) == own.landmark_names


def test_metadata_of_version_0_1_has_the_regions_of_today():
    path = Path(__file__).parent / "format1" / "model.onnx"
    assert OnnxModel(path, "cpu").metadata.scheme == LandmarkScheme.load("aflw")


def test_scheme_fills_in_names():
    scheme = LandmarkScheme.from_dict({**BARE, "landmarks": 3, "regions": {"nose": "1-2"}})
    assert scheme.landmark_names == ("point_0", "nose_0", "nose_1")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *[("wflw", "300w"), ("300w", "aflw"), ("cofw", "aflw"), ("wflw", "aflw")],
        *[(name, "five") for name in MIDDLE],
    ],
)
def test_scheme_mapping_commutes_with_flips(source, target):
    mapping = SchemeMapping.load(source, target)
    here, there = (LandmarkScheme.load(name).flip_permutation for name in (source, target))
    points = np.random.default_rng(0).normal(size=(len(here), 2))
    np.testing.assert_allclose(mapping(points)[there], mapping(points[here]))
    np.testing.assert_allclose(mapping.x_weights.sum(axis=1), 1)
    np.testing.assert_allclose(mapping.y_weights.sum(axis=1), 1)


@pytest.mark.parametrize("name", MIDDLE)
def test_scheme_mapping_to_five_points_agrees_between_schemes(name):
    """The same places on each mean face, but for its proportions: crops may be stretched."""
    positions = []
    for source in (name, "300w"):
        points = SchemeMapping.load(source, "five")(mean_face(LandmarkScheme.load(source)))
        points -= points[:2].mean(axis=0)
        positions.append(points / [points[1, 0], points[3:, 1].mean()])
    np.testing.assert_allclose(*positions, atol=0.15)


def test_scheme_mapping_to_19_points_has_known_values():
    points = np.random.default_rng(0).normal(size=(68, 2))
    out = SchemeMapping.load("300w", "aflw")(points)
    np.testing.assert_allclose(out[7], points[36:42].mean(axis=0))
    np.testing.assert_allclose(out[16], points[[62, 66]].mean(axis=0))
    np.testing.assert_allclose(out[18], points[8])
    wide = np.random.default_rng(1).normal(size=(98, 2))
    through = SchemeMapping.load("300w", "aflw")(SchemeMapping.load("wflw", "300w")(wide))
    np.testing.assert_allclose(SchemeMapping.load("wflw", "aflw")(wide), through)


def test_scheme_mapping_of_98_to_68_points_has_known_values():
    points = np.random.default_rng(0).normal(size=(98, 2))
    out = SchemeMapping.load("wflw", "300w")(points)
    np.testing.assert_allclose(out[8], points[16])
    np.testing.assert_allclose(out[37], (2 * points[61] + points[62]) / 3)
    np.testing.assert_allclose(out[19], [points[35, 0], (points[35, 1] + points[40, 1]) / 2])
    np.testing.assert_allclose(out[67], points[95])


def test_scheme_load_reads_a_file(tmp_path):
    path = tmp_path / "five.toml"
    path.write_text(
        'title = "five points"\nlandmarks = 5\nnorm = [0, 1]\nflip = [[0, 1], [3, 4]]\n'
        'edges = ["3,2,4"]\n[regions]\neyes = "0-1"\nrest = "2-4"\n'
    )
    scheme = LandmarkScheme.load(path)
    assert scheme.name == "five"
    assert scheme.edges == ((3, 2, 4),)
    assert scheme.landmark_names[2] == "rest_0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = [", "not a landmark scheme"),
        ('title = "x"', "has no 'landmarks'"),
        ('title="x"\nlandmarks=2\nnorm=[0,5]\nflip=[]\nedges=[]\n[regions]\n', r"\[5\]"),
        ('title="x"\nlandmarks=3\nnorm=[0,1]\nflip=[[0,1],[1,2]]\nedges=[]\n[regions]\n', "two flip"),
        ('title="x"\nlandmarks=3\nnorm="eye"\nflip=[]\nedges=[]\n[regions]\n', "norm is"),
        ('title="x"\nlandmarks=4\nnorm=[3,3]\nflip=[]\nedges=[]\n[regions]\n', r"norm is.*\(3, 3\)"),
        ('title="x"\nlandmarks=0\nnorm="box"\nflip=[]\nedges=[]\n[regions]\n', "0 landmarks"),
        ('title="x"\nlandmarks=1000000000\nnorm="box"\nflip=[]\nedges=[]\n[regions]\n', "10,000"),
        ('title="x"\nlandmarks=inf\nnorm=[0,1]\nflip=[]\nedges=[]\n[regions]\n', "not a landmark scheme"),
        ("x = " + "[" * 20000, "not a landmark scheme"),
        (
            'title="x"\nlandmarks=2\nnorm=[0,1]\nflip=[]\nedges=[]\nnames=["a","a","b"]\n[regions]\n',
            "2 landmarks, 3 names, 2 of them",
        ),
        ('title="x"\nlandmarks=3\nflipp=[]\n', "no key 'flipp'; did you mean 'flip'"),
        ('title="x"\nlandmarks=3\ncolor=1\n', "no key 'color'; there are title, landmarks, norm"),
    ],
)
def test_scheme_load_refuses_invalid_files(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        LandmarkScheme.load(path)


def test_scheme_load_suggests_names(tmp_path):
    with pytest.raises(DataError, match="did you mean 'wflw'"):
        LandmarkScheme.load("wfwl")
    with pytest.raises(DataError, match="no such scheme file"):
        LandmarkScheme.load(tmp_path / "none.toml")
    with pytest.raises(DataError, match="no mapping"):
        SchemeMapping.load("300w", "wflw")
