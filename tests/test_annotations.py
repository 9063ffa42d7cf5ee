"""Annotation formats: what is written is read back, from every format to every other."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipnet.annotations.formats import Annotations, read_annotations, write_annotations
from pipnet.annotations.samples import FaceSample
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, ImageError, WriteError
from pipnet.geometry import tight_box

FILES = {
    "coco": "faces.json",
    "cvat": "faces.xml",
    "label-studio": "tasks.json",
    "csv": "faces.csv",
    "pts": "pts",
    "imglab": "imglab.xml",
    "labelme": "labelme",
    "yolo-pose": "yolo",
}
KEPT = {"coco": {"names", "box", "visible"}, "cvat": {"names", "visible"}, "label-studio": {"names", "box"}}
KEPT |= {"csv": {"names", "box"}, "pts": set(), "imglab": {"names", "box"}}
KEPT |= {"labelme": {"names", "box", "visible"}, "yolo-pose": {"names", "box", "visible"}}
NAMES = ("left eye", "right eye", "nose, tip", "chin")
UNKNOWN = (np.nan, np.nan)


def face_sample(image: Path, *points, **more) -> FaceSample:
    points = points or ((10.25, 20), (50, 21.125), (30, 40), (31, -5.5))
    return FaceSample(image, np.float32(points), more.pop("name", ""), more.pop("group", ""), **more)


@pytest.fixture
def complete(image_folder) -> Annotations:
    """Three faces with known and visible landmarks; two in one image."""
    first = face_sample(image_folder / "in/a b.png", box=np.float32([5, 1, 60, 80]))
    second = face_sample(image_folder / "in/a b.png", (110, 20), (150, 21), (130, 40), (131, 60))
    return Annotations([first, second, face_sample(image_folder / "in/deep/e.png")], NAMES)


@pytest.fixture
def incomplete(image_folder, complete) -> Annotations:
    """Faces with an unknown and a hidden landmark, the unknown one first."""
    visible = np.array([False, True, False, True])
    sample = face_sample(
        image_folder / "in/c%20d.png", UNKNOWN, (50, 21), (30, 40), (31, 60), visible=visible
    )
    return Annotations([sample, *complete.samples], NAMES)


def inside(annotations: Annotations) -> Annotations:
    """Return the faces with the landmarks above their image moved into it."""
    return replace(annotations, samples=[replace(s, points=abs(s.points)) for s in annotations.samples])


def round_trip(
    annotations: Annotations, file_format: str, folder: Path, images: Path | None = None
) -> Annotations:
    path = folder / FILES[file_format]
    write_annotations(path, annotations, file_format)
    assert not list(folder.rglob("*.incomplete"))
    return read_annotations(path, images)


def assert_same(loaded: Annotations, expected: Annotations, kept: set[str], fractions: bool = True) -> None:
    """Check for the same faces, in any order of the images, and for what the format can express."""
    assert loaded.names == (expected.names if "names" in kept else None)
    a, b = (sorted(x.samples, key=lambda s: str(s.image.resolve())) for x in (loaded, expected))
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.image.resolve() == other.image.resolve()
        np.testing.assert_allclose(one.points, other.points, atol=0.01 if fractions else 0.51)
        for field in ("box", "visible"):
            value, required = getattr(one, field), getattr(other, field) if field in kept else None
            if field == "box" and value is None and required is not None:
                value = tight_box(one.points)  # Label Studio's rectangle around the landmarks is no box
            assert (value is None) == (required is None), field
            if required is not None:
                np.testing.assert_allclose(value, required, atol=0.01 if fractions else 0.51)
    assert len({s.name for s in loaded.samples}) == len(b)


# -- round trips ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in FILES for b in FILES])
def test_write_annotations_converts_every_format_to_every_other(complete, image_folder, first, second):
    if "yolo-pose" in (first, second):
        complete = inside(complete)
    middle = round_trip(complete, first, image_folder / "x/one", image_folder / "in")
    assert_same(middle, complete, KEPT[first], first != "imglab")
    last = round_trip(middle, second, image_folder / "two", image_folder / "in")
    assert_same(last, complete, KEPT[first] & KEPT[second], "imglab" not in (first, second))


@pytest.mark.parametrize("file_format", [name for name in FILES if name != "pts"])
def test_write_annotations_keeps_unknown_and_hidden_landmarks(incomplete, image_folder, file_format):
    if file_format == "yolo-pose":
        incomplete = inside(incomplete)
    unnamed = replace(incomplete, names=None)
    all_visible = replace(unnamed, samples=[replace(s, visible=None) for s in unnamed.samples])
    for annotations in (incomplete, unnamed, all_visible):
        loaded = round_trip(annotations, file_format, image_folder / "out")
        assert_same(loaded, annotations, KEPT[file_format], file_format != "imglab")


def test_write_pts_refuses_unknown_landmarks(incomplete, image_folder):
    incomplete.samples[0] = replace(incomplete.samples[0], name="the face")
    with pytest.raises(DataError, match="the face has an unknown landmark"):
        write_annotations(image_folder / "out", incomplete)
    assert not (image_folder / "out").exists()


@pytest.mark.parametrize("file_format", FILES)
@pytest.mark.parametrize(("name", "landmarks"), {"wflw": 98, "cofw": 29, "aflw": 19, "lapa": 106}.items())
def test_write_annotations_keeps_real_datasets(shared, tmp_path, name, landmarks, file_format):
    real = read_annotations(shared / "data/samples" / name / f"test_{name}.json")
    assert {len(s.points) for s in real.samples} == {landmarks}
    hidden = [0 if s.visible is None else int((~s.visible).sum()) for s in real.samples]
    assert hidden == ([6, 9] if name == "cofw" else [0] * len(real.samples))
    images = shared / "data/samples" / (name if file_format == "pts" else "")
    assert_same(
        round_trip(real, file_format, tmp_path, images),
        real,
        KEPT[file_format] - {"names"},
        file_format != "imglab",
    )


def test_read_annotations_reads_300w_as_a_pts_folder(small_300w):
    theirs, _, _ = load_samples(small_300w, "full")
    loaded = {s.image: s for s in read_annotations(small_300w).samples}
    assert len(loaded) == 24
    for sample in theirs:
        np.testing.assert_array_equal(loaded[sample.image].points, sample.points)


def test_write_coco_keeps_name_group_and_attributes(image_folder, complete):
    more = {"name": "ibug/1", "group": "photo", "attributes": frozenset({"pose", "blur"})}
    sample = replace(complete.samples[0], **more)
    again = round_trip(Annotations([sample], None), "coco", image_folder / "out").samples[0]
    assert {key: getattr(again, key) for key in more} == more
    table = json.loads((image_folder / "out/faces.json").read_text())
    image = {"id": 1, "file_name": "../in/a b.png", "width": 200, "height": 100}
    assert table["images"] == [image]
    assert table["categories"][0]["keypoints"] == [f"point_{i}" for i in range(4)]
    assert table["annotations"][0]["bbox"] == [5, 1, 55, 79]


def test_write_csv_keeps_subsets_and_groups(image_folder, complete):
    parts = ({"test", "pose"}, {"test"}, ())
    samples = [replace(s, attributes=frozenset(p)) for s, p in zip(complete.samples, parts, strict=True)]
    loaded = round_trip(Annotations(samples, NAMES), "csv", image_folder)
    assert [s.attributes for s in loaded.samples] == [set(p) for p in parts]
    assert (image_folder / "faces.csv").read_text().splitlines()[0].endswith(",box_h,subset")
    samples = [replace(s, group="one, photo", name=f"{i}") for i, s in enumerate(complete.samples)]
    loaded = round_trip(Annotations(samples, NAMES), "csv", image_folder)
    assert {s.group for s in loaded.samples} == {"one, photo"}
    for name in ("a|b", " a"):
        samples[0] = replace(samples[0], attributes=frozenset({name}))
        with pytest.raises(DataError, match="this subset name cannot be written to CSV"):
            write_annotations(image_folder / "f.csv", Annotations(samples, NAMES))


@pytest.mark.parametrize("file_format", ["cvat", "label-studio", "pts", "imglab", "labelme"])
def test_write_annotations_refuses_to_drop_a_split(image_folder, complete, file_format, caplog):
    samples = [replace(s, group=str(s.image), attributes=frozenset({"pose"})) for s in complete.samples]
    samples[2] = replace(samples[2], group=samples[0].group)
    write_annotations(image_folder / "out", Annotations(samples, NAMES), file_format)
    message = f"left out, because {file_format} cannot express it: pose, which images are cut from one photo"
    assert message in caplog.text
    caplog.clear()
    bare = Annotations([replace(s, box=None, points=np.floor(s.points)) for s in complete.samples], None)
    write_annotations(image_folder / "plain", bare, file_format)
    assert not caplog.text
    for part in ("train", "test"):
        samples[0] = replace(samples[0], attributes=frozenset({part}))
        with pytest.raises(
            DataError, match=rf"{file_format} cannot express the subset of a face \({part}\): write COCO or"
        ):
            write_annotations(image_folder / "none", Annotations(samples, NAMES), file_format)
    assert not (image_folder / "none").exists()


@pytest.mark.parametrize("file_format", FILES)
def test_write_annotations_logs_what_a_format_cannot_express(incomplete, image_folder, file_format, caplog):
    samples = [replace(s, points=abs(np.nan_to_num(s.points, nan=1.0))) for s in incomplete.samples]
    write_annotations(image_folder / FILES[file_format], Annotations(samples, NAMES), file_format)
    fields = {"box": "boxes", "visible": "which landmarks are hidden", "names": "landmark names"}
    lost = [text for field, text in fields.items() if field not in KEPT[file_format]]
    lost += ["fractions of pixels"] if file_format == "imglab" else []
    path = image_folder / FILES[file_format]
    message = f"{path}: left out, because {file_format} cannot express it: {', '.join(lost)}"
    assert caplog.messages == ([message] if lost else [])


def test_read_annotations_names_faces_after_their_image(complete, image_folder):
    samples = round_trip(complete, "csv", image_folder).samples
    assert [s.name for s in samples] == ["in/a b.png", "in/a b.png#2", "in/deep/e.png"]
    assert [s.group for s in samples] == ["in/a b.png", "in/a b.png", "in/deep/e.png"]


def test_write_pts_names_files_like_detect(complete, image_folder):
    write_annotations(image_folder / "out", complete)
    files = sorted(
        p.relative_to(image_folder / "out").as_posix() for p in (image_folder / "out").rglob("*.*")
    )
    assert files == ["a b.pts", "a b_face2.pts", "deep/e.pts"]
    shutil.copytree(image_folder / "out", image_folder / "in", dirs_exist_ok=True)
    assert_same(read_annotations(image_folder / "in"), complete, set())
    (image_folder / "in/a b_face10.pts").write_text("{ 9 9 9 9 9 9 9 9 }")
    assert [s.points[0, 0] for s in read_annotations(image_folder / "in").samples[:3]] == [10.25, 110, 9]


@pytest.mark.parametrize("name", ["in/a b.jpg", "in/A B.png", "in/a b_face2.png"])
def test_write_pts_refuses_faces_with_the_same_file(complete, image_folder, name):
    clash = Annotations([*complete.samples, face_sample(image_folder / name)], None)
    with pytest.raises(DataError, match="rename an image"):
        write_annotations(image_folder / "out", clash)
    assert not (image_folder / "out").exists()


def test_write_coco_applies_exif_orientation(image_folder):
    import PIL.Image

    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (200, 100)).save(image_folder / "side.jpg", exif=exif)
    write_annotations(image_folder / "f.json", Annotations([face_sample(image_folder / "side.jpg")], None))
    image = json.loads((image_folder / "f.json").read_text())["images"][0]
    assert (image["width"], image["height"]) == (100, 200)


def test_write_csv_resolves_symbolic_links(image_folder, complete):
    (image_folder / "far/away").mkdir(parents=True)
    (image_folder / "link").symlink_to(image_folder / "far/away")
    write_annotations(image_folder / "link/f.csv", complete)
    assert "\n../../in/a b.png," in (image_folder / "far/away/f.csv").read_text()
    assert_same(read_annotations(image_folder / "link/f.csv"), complete, KEPT["csv"])


@pytest.mark.parametrize("file_format", ["coco", "cvat", "label-studio", "imglab"])
def test_write_annotations_keeps_the_old_file_if_an_image_is_missing(image_folder, file_format):
    path = image_folder / "old"
    path.write_text("old")
    with pytest.raises(ImageError, match="none.png: no such file"):
        write_annotations(path, Annotations([face_sample(image_folder / "none.png")], None), file_format)
    assert path.read_text() == "old"


def test_write_annotations_refuses_invalid_sets(complete, image_folder):
    for annotations, message in (
        (Annotations([], None), "no faces"),
        (replace(complete, names=("a", "b")), "2 names for 4"),
        (replace(complete, names=("a", "b", "a", "c")), "two landmarks are called 'a'"),
        (
            Annotations([*complete.samples, face_sample(image_folder / "in/a b.png", (1, 2))], None),
            "1 landmarks",
        ),
        (
            Annotations([face_sample(image_folder / "in/a b.png", UNKNOWN, UNKNOWN)], None),
            "no known landmark",
        ),
    ):
        with pytest.raises(DataError, match=message):
            write_annotations(image_folder / "f.csv", annotations)
    with pytest.raises(DataError, match="cannot be column titles"):
        write_annotations(image_folder / "f.csv", replace(complete, names=("box", " ", "a", "b")))
    with pytest.raises(DataError, match="XML does not allow"):
        write_annotations(image_folder / "f.xml", replace(complete, names=("\x01", "a", "b", "c")))
    with pytest.raises(DataError, match="not UTF-8"):
        write_annotations(image_folder / "f.json", replace(complete, names=("\ud800", "a", "b", "c")))
    with pytest.raises(DataError, match="not .json"):
        write_annotations(image_folder / "f.txt", complete)
    with pytest.raises(WriteError, match="cannot be written"):
        write_annotations(image_folder / "in", complete, "csv")
    assert sorted(p.name for p in image_folder.iterdir()) == ["in"]


def test_write_yolo_pose_keeps_subsets(image_folder, complete, caplog):
    """Landmarks outside the image are written as unknown: Ultralytics would leave out the whole image."""
    parts = [{"test"}, {"test"}, {"train"}]
    samples = [replace(s, attributes=frozenset(p)) for s, p in zip(complete.samples, parts, strict=True)]
    loaded = round_trip(Annotations(samples, NAMES), "yolo-pose", image_folder)
    assert {s.image.name: s.attributes for s in loaded.samples} == {"a b.png": {"test"}, "e.png": {"train"}}
    assert "2 landmarks outside their image are written as unknown" in caplog.text
    assert (image_folder / "yolo/images/test/a b.png").is_file()
    config = yaml.safe_load((image_folder / "yolo/data.yaml").read_text())
    assert config["kpt_shape"] == [4, 3]
    assert {config["train"], config["val"]} == {"images/train", "images/test"}
    samples[1] = replace(samples[1], attributes=frozenset())
    with pytest.raises(DataError, match=r"a b\.png: has faces of several subsets: test, train"):
        write_annotations(image_folder / "new", Annotations(samples, NAMES), "yolo-pose")


coordinates = st.floats(0, 99, width=32)
labels = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=9)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), names=st.lists(labels, min_size=1, max_size=6, unique=True))
@pytest.mark.parametrize("file_format", ["imglab", "labelme", "yolo-pose"])
def test_write_annotations_keeps_any_faces(image_folder, file_format, data, names):
    samples = []
    for name in ("in/a b.png", "in/a b.png", "in/deep/e.png"):
        count = len(names)
        points = np.float32(
            data.draw(st.lists(st.tuples(coordinates, coordinates), min_size=count, max_size=count))
        )
        known = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
        known[0] = True
        visible = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
        visible[0] = True
        points[~known] = np.nan
        box = np.float32([1, 2, 150, 90]) if data.draw(st.booleans()) else None
        visible_or_none = None if visible[known].all() else visible & known
        samples.append(face_sample(image_folder / name, *points, box=box, visible=visible_or_none))
    expected = Annotations(samples, tuple(names))
    with tempfile.TemporaryDirectory(dir=image_folder) as place:
        loaded = round_trip(expected, file_format, Path(place))
        if names[0] == "00" or names[0] == "point_0":  # names without meaning are not kept
            expected = replace(expected, names=loaded.names)
        assert_same(loaded, expected, KEPT[file_format], file_format != "imglab")


def test_read_pts_folder_needs_one_image_per_file(image_folder, complete):
    write_annotations(image_folder / "in/deep", Annotations(complete.samples[2:], None), "pts")
    assert read_annotations(image_folder / "in").samples[0].image == image_folder / "in/deep/e.png"
    shutil.copy(image_folder / "in/deep/e.png", image_folder / "in/deep/e.JPG")
    with pytest.raises(DataError, match=r"e.pts: several images: e.JPG, e.png"):
        read_annotations(image_folder / "in")
    with pytest.raises(DataError, match=r"e.pts: no image deep/e\.\* in"):
        read_annotations(image_folder / "in", image_folder)
