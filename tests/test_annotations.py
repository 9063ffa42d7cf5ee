"""Annotation formats: writing and reading every format, and the errors of invalid files."""

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

from pipnet.annotations.formats import Annotations, ImageFinder, read_annotations, write_annotations
from pipnet.annotations.samples import FaceSample
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, ImageError, WriteError
from pipnet.geometry import tight_box
from pipnet.io.image import write_image

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


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images of 200 x 100 pixels: two in one folder, one in a subfolder."""
    for name in ("in/a b.png", "in/c%20d.png", "in/deep/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name, np.zeros((100, 200, 3), np.uint8))
    return tmp_path


def face(image: Path, *points, **more) -> FaceSample:
    points = points or ((10.25, 20), (50, 21.125), (30, 40), (31, -5.5))
    return FaceSample(image, np.float32(points), more.pop("name", ""), more.pop("group", ""), **more)


@pytest.fixture
def complete(folder) -> Annotations:
    """Three faces with known and visible landmarks; two in one image."""
    first = face(folder / "in/a b.png", box=np.float32([5, 1, 60, 80]))
    second = face(folder / "in/a b.png", (110, 20), (150, 21), (130, 40), (131, 60))
    return Annotations([first, second, face(folder / "in/deep/e.png")], NAMES)


@pytest.fixture
def incomplete(folder, complete) -> Annotations:
    """Faces with an unknown and a hidden landmark, the unknown one first."""
    seen = np.array([False, True, False, True])
    lacking = face(folder / "in/c%20d.png", UNKNOWN, (50, 21), (30, 40), (31, 60), visible=seen)
    return Annotations([lacking, *complete.samples], NAMES)


def inside(annotations: Annotations) -> Annotations:
    """Return the faces with the landmarks above their image moved into it."""
    return replace(annotations, samples=[replace(s, points=abs(s.points)) for s in annotations.samples])


def round_trip(annotations: Annotations, kind: str, folder: Path, images: Path | None = None) -> Annotations:
    path = folder / FILES[kind]
    write_annotations(path, annotations, kind)
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
def test_write_annotations_converts_every_format_to_every_other(complete, folder, first, second):
    if "yolo-pose" in (first, second):
        complete = inside(complete)
    middle = round_trip(complete, first, folder / "x/one", folder / "in")
    assert_same(middle, complete, KEPT[first], first != "imglab")
    last = round_trip(middle, second, folder / "two", folder / "in")
    assert_same(last, complete, KEPT[first] & KEPT[second], "imglab" not in (first, second))


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "pts"])
def test_write_annotations_keeps_unknown_and_hidden_landmarks(incomplete, folder, kind):
    if kind == "yolo-pose":
        incomplete = inside(incomplete)
    unnamed = replace(incomplete, names=None)
    seen = replace(unnamed, samples=[replace(s, visible=None) for s in unnamed.samples])
    for annotations in (incomplete, unnamed, seen):
        loaded = round_trip(annotations, kind, folder / "out")
        assert_same(loaded, annotations, KEPT[kind], kind != "imglab")


def test_write_pts_refuses_unknown_landmarks(incomplete, folder):
    incomplete.samples[0] = replace(incomplete.samples[0], name="the face")
    with pytest.raises(DataError, match="the face has an unknown landmark"):
        write_annotations(folder / "out", incomplete)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(("name", "landmarks"), {"wflw": 98, "cofw": 29, "aflw": 19, "lapa": 106}.items())
def test_write_annotations_keeps_real_datasets(shared, tmp_path, name, landmarks, kind):
    real = read_annotations(shared / "data/samples" / name / f"test_{name}.json")
    assert {len(s.points) for s in real.samples} == {landmarks}
    hidden = [0 if s.visible is None else int((~s.visible).sum()) for s in real.samples]
    assert hidden == ([6, 9] if name == "cofw" else [0] * len(real.samples))
    images = shared / "data/samples" / (name if kind == "pts" else "")
    assert_same(round_trip(real, kind, tmp_path, images), real, KEPT[kind] - {"names"}, kind != "imglab")


def test_read_annotations_reads_300w_as_a_pts_folder(small_300w):
    theirs, _, _ = load_samples(small_300w, "full")
    loaded = {s.image: s for s in read_annotations(small_300w).samples}
    assert len(loaded) == 24
    for sample in theirs:
        np.testing.assert_array_equal(loaded[sample.image].points, sample.points)


def test_write_coco_keeps_name_group_and_attributes(folder, complete):
    more = {"name": "ibug/1", "group": "photo", "attributes": frozenset({"pose", "blur"})}
    sample = replace(complete.samples[0], **more)
    again = round_trip(Annotations([sample], None), "coco", folder / "out").samples[0]
    assert {key: getattr(again, key) for key in more} == more
    table = json.loads((folder / "out/faces.json").read_text())
    image = {"id": 1, "file_name": "../in/a b.png", "width": 200, "height": 100}
    assert table["images"] == [image]
    assert table["categories"][0]["keypoints"] == [f"point_{i}" for i in range(4)]
    assert table["annotations"][0]["bbox"] == [5, 1, 55, 79]


def test_write_csv_keeps_subsets_and_groups(folder, complete):
    parts = ({"test", "pose"}, {"test"}, ())
    samples = [replace(s, attributes=frozenset(p)) for s, p in zip(complete.samples, parts, strict=True)]
    loaded = round_trip(Annotations(samples, NAMES), "csv", folder)
    assert [s.attributes for s in loaded.samples] == [set(p) for p in parts]
    assert (folder / "faces.csv").read_text().splitlines()[0].endswith(",box_h,subset")
    samples = [replace(s, group="one, photo", name=f"{i}") for i, s in enumerate(complete.samples)]
    loaded = round_trip(Annotations(samples, NAMES), "csv", folder)
    assert {s.group for s in loaded.samples} == {"one, photo"}
    loaded = read(folder, "f.csv", "image;subset;x0;y0;group\na b.png;1,5|test;1,5;20;\n")
    assert (loaded.samples[0].attributes, loaded.samples[0].group) == ({"1,5", "test"}, "in/a b.png")
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([(1.5, 20)]))
    for name in ("a|b", " a"):
        samples[0] = replace(samples[0], attributes=frozenset({name}))
        with pytest.raises(DataError, match="this subset name cannot be written to CSV"):
            write_annotations(folder / "f.csv", Annotations(samples, NAMES))


@pytest.mark.parametrize("kind", ["cvat", "label-studio", "pts", "imglab", "labelme"])
def test_write_annotations_never_loses_a_split(folder, complete, kind, caplog):
    samples = [replace(s, group=str(s.image), attributes=frozenset({"pose"})) for s in complete.samples]
    samples[2] = replace(samples[2], group=samples[0].group)
    write_annotations(folder / "out", Annotations(samples, NAMES), kind)
    message = f"left out, because {kind} cannot express it: pose, which images are cut from one photo"
    assert message in caplog.text
    caplog.clear()
    bare = Annotations([replace(s, box=None, points=np.floor(s.points)) for s in complete.samples], None)
    write_annotations(folder / "plain", bare, kind)
    assert not caplog.text
    for part in ("train", "test"):
        samples[0] = replace(samples[0], attributes=frozenset({part}))
        with pytest.raises(
            DataError, match=rf"{kind} cannot express the subset of a face \({part}\): write COCO or"
        ):
            write_annotations(folder / "none", Annotations(samples, NAMES), kind)
    assert not (folder / "none").exists()


@pytest.mark.parametrize("kind", FILES)
def test_write_annotations_logs_what_a_format_cannot_express(incomplete, folder, kind, caplog):
    samples = [replace(s, points=abs(np.nan_to_num(s.points, nan=1.0))) for s in incomplete.samples]
    write_annotations(folder / FILES[kind], Annotations(samples, NAMES), kind)
    fields = {"box": "boxes", "visible": "which landmarks are hidden", "names": "landmark names"}
    lost = [text for field, text in fields.items() if field not in KEPT[kind]]
    lost += ["fractions of pixels"] if kind == "imglab" else []
    message = f"{folder / FILES[kind]}: left out, because {kind} cannot express it: {', '.join(lost)}"
    assert caplog.messages == ([message] if lost else [])


def test_read_annotations_names_faces_after_their_image(complete, folder):
    samples = round_trip(complete, "csv", folder).samples
    assert [s.name for s in samples] == ["in/a b.png", "in/a b.png#2", "in/deep/e.png"]
    assert [s.group for s in samples] == ["in/a b.png", "in/a b.png", "in/deep/e.png"]


def test_write_pts_names_files_like_detect(complete, folder):
    write_annotations(folder / "out", complete)
    files = sorted(p.relative_to(folder / "out").as_posix() for p in (folder / "out").rglob("*.*"))
    assert files == ["a b.pts", "a b_face2.pts", "deep/e.pts"]
    shutil.copytree(folder / "out", folder / "in", dirs_exist_ok=True)
    assert_same(read_annotations(folder / "in"), complete, set())
    (folder / "in/a b_face10.pts").write_text("{ 9 9 9 9 9 9 9 9 }")
    assert [s.points[0, 0] for s in read_annotations(folder / "in").samples[:3]] == [10.25, 110, 9]


@pytest.mark.parametrize("name", ["in/a b.jpg", "in/A B.png", "in/a b_face2.png"])
def test_write_pts_refuses_faces_with_the_same_file(complete, folder, name):
    clash = Annotations([*complete.samples, face(folder / name)], None)
    with pytest.raises(DataError, match="rename an image"):
        write_annotations(folder / "out", clash)
    assert not (folder / "out").exists()


def test_write_coco_applies_exif_orientation(folder):
    import PIL.Image

    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (200, 100)).save(folder / "side.jpg", exif=exif)
    write_annotations(folder / "f.json", Annotations([face(folder / "side.jpg")], None))
    image = json.loads((folder / "f.json").read_text())["images"][0]
    assert (image["width"], image["height"]) == (100, 200)


def test_write_csv_resolves_symbolic_links(folder, complete):
    (folder / "far/away").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "far/away")
    write_annotations(folder / "link/f.csv", complete)
    assert "\n../../in/a b.png," in (folder / "far/away/f.csv").read_text()
    assert_same(read_annotations(folder / "link/f.csv"), complete, KEPT["csv"])


@pytest.mark.parametrize("kind", ["coco", "cvat", "label-studio", "imglab"])
def test_write_annotations_keeps_the_old_file_if_an_image_is_missing(folder, kind):
    path = folder / "old"
    path.write_text("old")
    with pytest.raises(ImageError, match="none.png: no such file"):
        write_annotations(path, Annotations([face(folder / "none.png")], None), kind)
    assert path.read_text() == "old"


def test_write_annotations_refuses_invalid_sets(complete, folder):
    for annotations, words in (
        (Annotations([], None), "no faces"),
        (replace(complete, names=("a", "b")), "2 names for 4"),
        (replace(complete, names=("a", "b", "a", "c")), "two landmarks are called 'a'"),
        (Annotations([*complete.samples, face(folder / "in/a b.png", (1, 2))], None), "1 landmarks"),
        (Annotations([face(folder / "in/a b.png", UNKNOWN, UNKNOWN)], None), "no known landmark"),
    ):
        with pytest.raises(DataError, match=words):
            write_annotations(folder / "f.csv", annotations)
    with pytest.raises(DataError, match="cannot be column titles"):
        write_annotations(folder / "f.csv", replace(complete, names=("box", " ", "a", "b")))
    with pytest.raises(DataError, match="XML does not allow"):
        write_annotations(folder / "f.xml", replace(complete, names=("\x01", "a", "b", "c")))
    with pytest.raises(DataError, match="not UTF-8"):
        write_annotations(folder / "f.json", replace(complete, names=("\ud800", "a", "b", "c")))
    with pytest.raises(DataError, match="not .json"):
        write_annotations(folder / "f.txt", complete)
    with pytest.raises(WriteError, match="cannot be written"):
        write_annotations(folder / "in", complete, "csv")
    assert sorted(p.name for p in folder.iterdir()) == ["in"]


# -- files as other tools write them -------------------------------------------------------------------


def read(folder: Path, name: str, text: str | bytes) -> Annotations:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_annotations(path)


def cvat(*shapes: str, name: str = "a b.png") -> str:
    return f'<annotations><image id="0" name="{name}">{"".join(shapes)}</image></annotations>'


def skeleton(*points: tuple[str, str, str]) -> str:
    inner = "".join(f'<points label="{label}" points="{xy}" {flags}/>' for label, xy, flags in points)
    return f'<skeleton label="face">{inner}</skeleton>'


def region(label: str, x: float = 50, y: float = 50, **more) -> dict:
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}
    sides = {"original_width": 200, "original_height": 100}
    return {"id": f"{label}{x}", "type": "keypointlabels", "value": value, **sides, **more}


def task(*regions, image: str = "/data/upload/3/0a1b2c3d-a%20b.png") -> dict:
    return {"id": 7, "data": {"image": image}, "annotations": [{"result": list(regions)}]}


def coco(**changes) -> str:
    """A valid table of one face with two landmarks, or one changed at keys such as image__id."""
    image = {"id": 4, "file_name": "a b.png"}
    annotation = {"image_id": 4, "category_id": 1, "keypoints": [1, 2, 2, 3, 4, 1]}
    rows = {"image": image, "annotation": annotation, "category": {"id": 1, "keypoints": ["l", "r"]}}
    for place, value in changes.items():
        row, _, key = place.partition("__")
        rows[row] = rows[row] | {key: value} if key else value
    lists = {"images": [rows["image"]], "annotations": [rows["annotation"]], "categories": [rows["category"]]}
    return json.dumps({key: value for key, value in lists.items() if value != ["none"]})


def test_read_coco_handles_visibility_and_categories(folder):
    loaded = read(
        folder,
        "f.json",
        "\ufeff" + coco(annotation__keypoints=[9, 9, 0, 3, 4, 1, 5, 6, 2], category__keypoints=[]),
    )
    assert loaded.names is None
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([UNKNOWN, (3, 4), (5, 6)]))
    np.testing.assert_array_equal(loaded.samples[0].visible, [False, False, True])
    for flags in ((1, 1), (2, 2), (0, 2)):  # never 2; all visible; all known ones visible
        values = [1, 2, flags[0], 3, 4, flags[1]]
        sample = read(
            folder, "f.json", coco(annotation__keypoints=values, annotation__bbox=[1, 2, 0, 0])
        ).samples[0]
        assert (sample.visible, sample.box) == (None, None)
    table = json.loads(coco())
    table["categories"].append({"id": 2, "keypoints": ["tail"]})
    table["annotations"] += [{"image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4]}]  # a box is not a face
    assert read(folder, "f.json", json.dumps(table)).names == ("l", "r")
    table["annotations"][1]["keypoints"] = [1, 2, 2, 3, 4, 2]
    with pytest.raises(DataError, match="categories with different landmarks"):
        read(folder, "f.json", json.dumps(table))


def test_read_cvat_skeletons(folder):
    points = [("10", "1,2", 'outside="0" occluded="1"'), ("9", "3,4", ""), ("1", "0,0", 'outside="1"')]
    loaded = read(folder, "f.xml", cvat(skeleton(*points), '<box label="x" xtl="1"/>'))
    assert loaded.names == ("1", "9", "10")  # by number
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([UNKNOWN, (3, 4), (1, 2)]))
    np.testing.assert_array_equal(loaded.samples[0].visible, [False, True, False])


def test_read_cvat_points(folder):
    shape = '<points label="face" occluded="1" points="1.5,2;3,4"><attribute name="x">y</attribute></points>'
    loaded = read(folder, "f.xml", cvat(shape, shape))
    assert (loaded.names, len(loaded.samples), loaded.samples[0].visible) == (None, 2, None)
    np.testing.assert_array_equal(loaded.samples[1].points, np.float32([(1.5, 2), (3, 4)]))


def test_read_label_studio_groups_by_parent(folder):
    parent = {"id": "P", "type": "rectanglelabels", "original_width": 200, "original_height": 100}
    parent["value"] = {"x": 10, "y": 20, "width": 50, "height": 60}
    regions = [region("b", 20, parentID="P"), region("a", 30, 10, parentID="P"), parent]
    chained = [region("a", 1), region("b", 2, parentID="a1")]  # a landmark that is the parent of another
    assert [s.box for s in read(folder, "f.json", json.dumps([task(*chained)])).samples] == [None]
    loaded = read(folder, "f.json", json.dumps([task(*regions, region("a", 90, parentID="Q")), task()]))
    assert loaded.names == ("b", "a")
    np.testing.assert_allclose(loaded.samples[0].points, [(40, 50), (60, 10)])
    np.testing.assert_allclose(loaded.samples[0].box, [20, 20, 120, 80])
    np.testing.assert_allclose(loaded.samples[1].points, [UNKNOWN, (180, 50)])
    assert loaded.samples[0].group == loaded.samples[1].group == "in/a b.png"
    parent["value"]["rotation"] = 5
    assert read(folder, "f.json", json.dumps([task(*regions)])).samples[0].box is None


def test_read_label_studio_prefers_the_ground_truth(folder):
    twice = task(region("a"))
    twice["annotations"] += [
        {"result": [region("a", 10)]},
        {"result": [region("a", 20)], "was_cancelled": True},
    ]
    with pytest.raises(DataError, match="task 1: 2 annotations"):
        read(folder, "f.json", json.dumps([twice]))
    twice["annotations"][1]["ground_truth"] = True
    assert read(folder, "f.json", json.dumps([twice])).samples[0].points[0, 0] == 20


@pytest.mark.parametrize("title", ["image", "file", "File_Name", "filename", "path"])
def test_read_csv_accepts_common_dialects(folder, title):
    loaded = read(folder, "f.csv", f"{title},y0,x0,x10,y10,x9,y9\r\na b.png,2,1,10,11,,\r\n\r\n")
    assert loaded.names is None
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([(1, 2), UNKNOWN, (10, 11)]))
    loaded = read(folder, "f.csv", f"{title};box_x;box_y;nose_x;nose_y\na b.png;1;2;3;4\n")
    assert (loaded.names, loaded.samples[0].box) == (("box", "nose"), None)  # a point called box
    loaded = read(folder, "f.csv", f"{title};x0;y0\na b.png;1,5;20\n")  # where the decimal sign is a comma
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([(1.5, 20)]))


def test_read_imglab_files_of_dlib(folder):
    """As dlib writes them: parts in alphabetical order, without those that are hidden."""
    boxes = [
        "<box top='5' left='3' width='10' height='20'><label>x</label>"
        "<part name='01' x='4' y='6'/><part name='00' x='5' y='7'/></box>",
        "<box top='1' left='1' width='2' height='2' ignore='1'><part name='00' x='1' y='1'/></box>",
        "<box top='1' left='1' width='2' height='2'/>",
        "<box top='7' left='9' width='1' height='1'><part name='00' x='9' y='7'/></box>",
    ]
    text = f"<dataset><name>n</name><images><image file='a b.png'>{''.join(boxes)}</image></images></dataset>"
    loaded = read(folder, "f.xml", "<?xml version='1.0' encoding='ISO-8859-1'?>" + text)
    assert loaded.names is None
    np.testing.assert_array_equal([s.points for s in loaded.samples], [[(5, 7), (4, 6)], [(9, 7), UNKNOWN]])
    np.testing.assert_array_equal(loaded.samples[0].box, [3, 5, 12, 24])
    assert loaded.samples[1].box is None


def test_read_labelme_files_of_other_tools(folder):
    """Two faces by groups, a hidden landmark, and shapes that are neither landmarks nor boxes."""
    rectangle = {"label": "x", "shape_type": "rectangle", "points": [[9, 8], [1, 2]], "group_id": 7}
    shapes = [
        point("nose", group_id=7, flags={"occluded": True}),
        point("eye", group_id=7, points=[[3, 4.5]]),
        point("eye", group_id=8),
        rectangle,
        {"label": "hair", "shape_type": "polygon", "points": [[1, 2], [2, 3], [4, 4]], "group_id": None},
    ]
    (folder / "other.json").write_text('{"a": 1}')
    (folder / "in/a b.json").write_text(labelme(*shapes, imagePath="a b.png", imageData="iVBOR"))
    loaded = read_annotations(folder)
    assert loaded.names == ("nose", "eye")
    np.testing.assert_array_equal([s.points for s in loaded.samples], [[(1, 2), (3, 4.5)], [UNKNOWN, (1, 2)]])
    np.testing.assert_array_equal(loaded.samples[0].box, [1, 2, 9, 8])
    np.testing.assert_array_equal(loaded.samples[0].visible, [False, True])


YOLO = "0 0.5 0.5 0.5 0.5 0.25 0.5 2 0 0 0\n\n1 .5 .5 1 1 1 1 1 0 0 1\n"


def test_read_yolo_pose_files_of_ultralytics(folder):
    (folder / "labels").mkdir()
    (folder / "in").rename(folder / "images")
    (folder / "labels/a b.txt").write_text(YOLO)
    (folder / "labels/c%20d.txt").write_text("")
    config = "path: ../datasets/mine\ntrain: images\nval: images\nkpt_shape: [2, 3]\nnames: {0: face, 1: x}\n"
    (folder / "data.yaml").write_text(config)
    loaded = read_annotations(folder)
    np.testing.assert_array_equal(
        [s.points for s in loaded.samples], [[(50, 50), UNKNOWN], [(200, 100), (0, 0)]]
    )
    np.testing.assert_array_equal(loaded.samples[0].box, [50, 25, 150, 75])
    assert [s.box is None for s in loaded.samples] == [False, True]
    np.testing.assert_array_equal(loaded.samples[1].visible, [False, False])
    assert {s.attributes for s in loaded.samples} == {frozenset()}
    (folder / "list.txt").write_text("./images/a b.png\n")
    (folder / "labels/a b.txt").write_text("0 0.5 0.5 0.5 0.5 0.25 0.5 -1 -1\n")
    (folder / "data.yml").write_text("test: list.txt\nkpt_shape: [2, 2]\nkpt_names: {0: [l, r]}\n")
    loaded = read_annotations(folder / "data.yml")
    assert (loaded.names, loaded.samples[0].attributes) == (("l", "r"), {"test"})
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([(50, 50), UNKNOWN]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (YOLO.replace(" 0 0 0\n", " 0 0\n"), r"a b\.txt:1: 10 numbers, but kpt_shape of data\.yaml needs 11"),
        (YOLO.replace(" 0 0 1\n", " 0 0 3\n"), r"a b\.txt:3: the third number"),
        (YOLO.replace(".25", "left"), r"a b\.txt:1: expected a number, not '0left'"),
        (YOLO.replace("0.25", "nan"), r"a b\.txt:1: expected a finite"),
        (b"\xff\xfe", r"a b\.txt: not UTF-8"),
    ],
)
def test_read_yolo_pose_names_invalid_labels(folder, text, words):
    (folder / "in/a b.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    (folder / "data.yaml").write_text("train: in\nval: in\nkpt_shape: [2, 3]\n")
    with pytest.raises(DataError, match=words):
        read_annotations(folder)


def test_write_yolo_pose_keeps_subsets(folder, complete, caplog):
    """Landmarks outside the image are written as unknown: Ultralytics would leave out the whole image."""
    parts = [{"test"}, {"test"}, {"train"}]
    samples = [replace(s, attributes=frozenset(p)) for s, p in zip(complete.samples, parts, strict=True)]
    loaded = round_trip(Annotations(samples, NAMES), "yolo-pose", folder)
    assert {s.image.name: s.attributes for s in loaded.samples} == {"a b.png": {"test"}, "e.png": {"train"}}
    assert "2 landmarks outside their image are written as unknown" in caplog.text
    assert (folder / "yolo/images/test/a b.png").is_file()
    config = yaml.safe_load((folder / "yolo/data.yaml").read_text())
    assert config["kpt_shape"] == [4, 3]
    assert {config["train"], config["val"]} == {"images/train", "images/test"}
    samples[1] = replace(samples[1], attributes=frozenset())
    with pytest.raises(DataError, match=r"a b\.png: has faces of several subsets: test, train"):
        write_annotations(folder / "new", Annotations(samples, NAMES), "yolo-pose")


coordinates = st.floats(0, 99, width=32)
labels = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=9)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), names=st.lists(labels, min_size=1, max_size=6, unique=True))
@pytest.mark.parametrize("kind", ["imglab", "labelme", "yolo-pose"])
def test_write_annotations_keeps_any_faces(folder, kind, data, names):
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
        seen = None if visible[known].all() else visible & known
        samples.append(face(folder / name, *points, box=box, visible=seen))
    expected = Annotations(samples, tuple(names))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        loaded = round_trip(expected, kind, Path(place))
        if names[0] == "00" or names[0] == "point_0":  # names without meaning are not kept
            expected = replace(expected, names=loaded.names)
        assert_same(loaded, expected, KEPT[kind], kind != "imglab")


# -- images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("in/a b.png", "in/a b.png"),
        ("./in/../in/a b.png", "in/../in/a b.png"),
        ("{root}/in/a b.png", "in/a b.png"),
        ("/home/me/pictures/e.png", "in/deep/e.png"),
        (r"C:\me\in\a b.png", "in/a b.png"),
        ("in/c%20d.png", "in/c%20d.png"),  # an existing file has priority
        ("/data/local-files/?d=in/a%20b.png", "in/a b.png"),
        ("http://localhost:8080/data/local-files/?d=x/deep/e.png&t=1", "in/deep/e.png"),
        ("/data/upload/1/1a2b3c4d-e.png", "in/deep/e.png"),
        ("s3://bucket/x/a%20b.png?token=1", "in/a b.png"),
    ],
)
def test_image_finder_resolves_names(folder, name, expected):
    assert ImageFinder(folder).find(name.format(root=folder), "here") == folder / expected


def test_image_finder_refuses_two_names_for_one_image(folder):
    """The labels of a missing folder of numbered frames must not be used for another folder."""
    pairs = [("lost/e.png", "in/deep/e.png"), ("in/deep/e.png", "lost/e.png"), ("x/e.png", "y/e.png")]
    for first, second in pairs:
        finder = ImageFinder(folder)
        assert finder.find(first, "here") == finder.find(first, "here") == folder / "in/deep/e.png"
        with pytest.raises(
            DataError, match=rf"{first}.*{second}.*would both be in/deep/e.png: one image is missing"
        ):
            finder.find(second, "here")
    finder = ImageFinder(folder)
    assert finder.find("in/deep/e.png", "here") != finder.find("in/deep/../deep/e.png", "here")
    uploads = [finder.find(f"/data/upload/1/{made}-a b.png", "here") for made in ("1a2b3c4d", "5a6b7c8d")]
    assert uploads == [folder / "in/a b.png"] * 2


def test_image_finder_refuses_missing_and_ambiguous_names(folder):
    shutil.copytree(folder / "in", folder / "too")
    finder = ImageFinder(folder)
    with pytest.raises(
        DataError, match=r"^here: several images match 'e.png': in/deep/e.png, too/deep/e.png$"
    ):
        finder.find("e.png", "here")
    assert finder.find("gone/too/deep/e.png", "here") == folder / "too/deep/e.png"
    for name in (
        "none.png",
        "",
        ".",
        "in",
        "a" * 5000,
        "\0",
        "\ud800.png",
        "data:image/png;base64," + "A" * 999,
    ):
        with pytest.raises(DataError, match="^here: no image ") as error:
            finder.find(name, "here")
        assert len(str(error.value)) < 300


def test_read_pts_folder_needs_one_image_per_file(folder, complete):
    write_annotations(folder / "in/deep", Annotations(complete.samples[2:], None), "pts")
    assert read_annotations(folder / "in").samples[0].image == folder / "in/deep/e.png"
    shutil.copy(folder / "in/deep/e.png", folder / "in/deep/e.JPG")
    with pytest.raises(DataError, match=r"e.pts: several images: e.JPG, e.png"):
        read_annotations(folder / "in")
    with pytest.raises(DataError, match=r"e.pts: no image deep/e\.\* in"):
        read_annotations(folder / "in", folder)


# -- invalid files -------------------------------------------------------------------------------------

GOOD_CSV = "image,x0,y0,x1,y1\na b.png,1,2,3,4\n"
POINTS = '<points label="face" points="{}"/>'
TWO = [region("a"), region("b")]


def imglab(
    *parts: str, part: str = "", box: str = "top='1' left='2' width='9' height='8'", file="a b.png"
) -> str:
    inner = "".join(f"<part {text}/>" for text in (*parts, part) if text)
    return f"<dataset><images><image file='{file}'><box {box}>{inner}</box></image></images></dataset>"


def labelme(*shapes: dict, **changes) -> str:
    return json.dumps({"version": "5", "imagePath": "a b.png", "shapes": list(shapes), **changes})


def point(label: str, **changes) -> dict:
    return {"label": label, "shape_type": "point", "points": [[1, 2]], "group_id": None, **changes}


def tasks(*items, **changes) -> str:
    """Tasks as JSON; keywords change the regions' values."""
    for item in items:
        done = item["annotations"][0]
        done["result"] = [one | changes for one in done["result"]]
    return json.dumps(items)


BAD = [
    ("f.json", b"", "empty"),
    ("f.csv", b"\xef\xbb\xbf \n", "empty"),
    ("f.xml", b"\xff\xfe<\0a\0", "not UTF-8"),
    ("f.json", b'{"images": "\xe9"}', "not UTF-8"),
    ("f.txt", b"x", "annotations are"),
    # JSON of the wrong shape
    ("f.json", coco()[:-20], "cut off"),
    ("f.json", "[" * 100_000, "nested"),
    ("f.json", "1", "expected an object"),
    ("f.json", "{}", "neither COCO"),
    ("f.json", '{"images": {}, "annotations": []}', "images: expected a list"),
    ("f.json", '{"images": [], "annotations": 5}', "annotations: expected a list"),
    ("f.json", '{"images": [], "annotations": []}', "no faces"),
    ("f.json", coco(image=3), "image 1: expected an object"),
    ("f.json", coco(image__id=None), "image 1: id"),
    ("f.json", coco(image__id=[1]), "image 1: id"),
    ("f.json", coco(image__file_name=5), "file_name: expected a text, not 5"),
    ("f.json", coco(image__file_name="none.png"), "annotation 1: no image 'none.png'"),
    ("f.json", coco(annotation="x"), "annotation 1: expected an object"),
    ("f.json", coco(annotation__image_id=5), "annotation 1: image 5 is not"),
    ("f.json", coco(annotation__image_id={}), "annotation 1: image_id"),
    ("f.json", coco(annotation__category_id=2), "category 2 is not"),
    ("f.json", coco(annotation__category_id=None), "category_id"),
    ("f.json", coco(annotation__keypoints="1 2 2"), "keypoints: expected a list"),
    ("f.json", coco(annotation__keypoints=[1, 2, 2, 3]), "4 numbers"),
    ("f.json", coco(annotation__keypoints=[1, 2, 3]), "0, 1 or 2"),
    ("f.json", coco(annotation__keypoints=[1, "2", 2]), "number, not '2'"),
    ("f.json", coco(annotation__keypoints=[1, True, 2]), "number, not True"),
    ("f.json", coco(annotation__keypoints=[1, [[]], 2]), "number, not a list"),
    ("f.json", coco(annotation__keypoints=[1, float("nan"), 2]), "finite"),
    ("f.json", coco(annotation__keypoints=[1, float("inf"), 2]), "finite"),
    ("f.json", coco(annotation__keypoints=[1, 1e300, 2]), "finite"),
    ("f.json", coco(annotation__keypoints=[1, 10**400, 2]), "finite"),
    ("f.json", coco().replace("[1, 2, 2", "[1, 2" + "0" * 9999 + ", 2"), "not JSON"),
    ("f.json", coco(annotation__keypoints=[1, 2, 2]), "2 names for 1 landmarks"),
    ("f.json", coco(annotation__keypoints=[]), "no faces"),
    ("f.json", coco(annotation__keypoints=[0] * 6), "no faces"),
    ("f.json", coco(annotation__bbox=[1, 2]), "bbox: expected x, y, width, height"),
    ("f.json", coco(annotation__bbox=[1, 2, None, 3]), "bbox: expected a number"),
    ("f.json", coco(category__keypoints=["l", 2]), "category 1: keypoints: expected a text"),
    ("f.json", coco(category__keypoints=["l", "l"]), "two landmarks are called 'l'"),
    ("f.json", coco(category=[]), "category 1"),
    # Label Studio
    ("f.json", "[]", "no faces"),
    ("f.json", '[{"image": "a b.png", "kp": []}]', "task 1: data .is this the JSON export"),
    ("f.json", '[{"data": {"image": "a b.png"}}]', "annotations: expected a list"),
    ("f.json", tasks(task()), "no faces"),
    ("f.json", tasks(task(*TWO, image="")), "task 1: image"),
    ("f.json", tasks(task(region("a"), region("a", 10))), "region 2: a second 'a'"),
    ("f.json", tasks(task(region("a"), region("b", parentID="P"))), "without parent"),
    ("f.json", tasks(task(region("a"), region("b")), parentID=[1]), "parentID"),
    ("f.json", tasks(task(*TWO), original_width=0), "must be positive"),
    ("f.json", tasks(task(*TWO), original_width=None), "original_width: expected a number"),
    ("f.json", tasks(task(*TWO), image_rotation=90), "was rotated"),
    ("f.json", tasks(task(*TWO), value=None), "value: expected an object"),
    ("f.json", tasks(task(*TWO), value={"x": "1", "y": 2, "keypointlabels": ["a"]}), "x: expected a number"),
    ("f.json", tasks(task(*TWO), value={"x": 1, "y": 2, "keypointlabels": ["a", "b"]}), "2 labels"),
    ("f.json", tasks(task(*TWO), value={"x": 1, "y": 2, "keypointlabels": [{}]}), "expected a text"),
    # CVAT
    ("f.xml", cvat(POINTS.format("1,2;3,4"))[:-15], "cut off"),
    ("f.xml", '<!DOCTYPE a [<!ENTITY b "c">]>' + cvat(), "DOCTYPE or ENTITY"),
    ("f.xml", "<html/>", "root is <html>"),
    ("f.xml", '<!DOCTYPE d [<!ENTITY a "b">]><dataset/>', "DOCTYPE or ENTITY"),
    ("f.xml", "<dataset><images><image/></images></dataset>", "image 1: file: expected a text"),
    ("f.xml", imglab(), "no faces"),
    ("f.xml", imglab(part="x='1'"), "box 1: name of a part: expected a text"),
    ("f.xml", imglab("name='a' x='1'"), "box 1: part 'a': y: expected a text, not a missing"),
    ("f.xml", imglab("name='a' x='1' y='two'"), "box 1: part 'a': expected a number, not 'two'"),
    ("f.xml", imglab("name='a' x='1' y='2'", "name='a' x='1' y='2'"), "box 1: two parts are called 'a'"),
    ("f.xml", imglab("name='a' x='1' y='2'", box="top='1'"), "box 1: left: expected a text"),
    ("f.xml", imglab("name='a' x='1' y='2'", file="x.png"), "box 1: no image 'x.png'"),
    # LabelMe
    ("f.json", labelme(shapes=5), "shapes: expected a list"),
    ("f.json", labelme(), "no faces"),
    ("f.json", labelme(point("a"), imagePath=None), "imagePath: expected a text"),
    ("f.json", labelme(point("a"), imagePath="x.png"), "face 1: no image 'x.png'"),
    ("f.json", labelme(point("a"), point("a")), "shape 2: a second 'a'; several faces need a group_id"),
    ("f.json", labelme(point("a"), point("b", group_id=1)), "a point without group_id"),
    ("f.json", labelme(point("a", group_id=[1])), "shape 1: group_id: expected a number or a text"),
    ("f.json", labelme(point("a", points=[[1, 2], [3, 4]])), "shape 1: points: expected 1 x"),
    ("f.json", labelme(point("a", points=[[1]])), "shape 1: points: expected 1 x"),
    ("f.json", labelme(point("a", points=[[1, "2"]])), "shape 1: points: expected a number, not '2'"),
    ("f.json", labelme(point("a", flags=[1])), "shape 1: flags: expected an object"),
    # YOLO-pose
    ("f.yaml", "train: [", "not YAML"),
    ("f.yaml", "a: &a [1]\nb: " + "[" * 5000, "nested more than 20 deep"),
    ("f.yaml", "#" * 1_000_001 + "\na: 1", "more than the limit"),
    ("f.yaml", "[1]", "expected an object"),
    ("f.yaml", "train: in\n", "kpt_shape: expected a list"),
    ("f.yaml", "train: in\nkpt_shape: [2, 5]", "kpt_shape: expected .landmarks, 2 or 3"),
    ("f.yaml", "train: in\nkpt_shape: [1000000, 3]", "1000000 landmarks, not 1 to"),
    ("f.yaml", "kpt_shape: [2, 3]", "none of train, val and test"),
    ("f.yaml", "train: none\nkpt_shape: [2, 3]", "train: no such folder or list of images"),
    ("f.yaml", "train: in\nkpt_shape: [2, 3]", "no faces"),
    ("f.yaml", "train: in\nkpt_shape: [2, 3]\nkpt_names: {0: [a], 1: [b]}", "classes with different"),
    ("f.xml", "<a>" * 100_000 + "</a>" * 100_000, "root is <a>"),
    ("f.xml", "<annotations><track/></annotations>", "CVAT for images"),
    ("f.xml", cvat(), "no faces"),
    ("f.xml", cvat(POINTS.format("1,2;3,4"), name=""), "image 1: name"),
    ("f.xml", cvat(POINTS.format("1,2;3,4"), name="x.png"), "no image 'x.png'"),
    ("f.xml", cvat(POINTS.format("1,2;3")), "face 1: points: expected x,y"),
    ("f.xml", cvat(POINTS.format("")), "face 1: points"),
    ("f.xml", cvat("<points/>"), "face 1: points: expected a text, not a missing value"),
    ("f.xml", cvat(POINTS.format("1,nan;3,4")), "finite"),
    ("f.xml", cvat(POINTS.format("1,1_0;3,4")), "not '1_0'"),
    ("f.xml", cvat(POINTS.format("1,2")), "one point"),
    (
        "f.xml",
        cvat(POINTS.format("1,2;3,4"), POINTS.format("1,2;3,4").replace("face", "eye")),
        "several labels, 'eye, face': draw each face as one",
    ),
    (
        "f.xml",
        cvat(POINTS.format("1,2;3,4"), POINTS.format("1,2;3,4;5,6")),
        "face 2: 3 landmarks, but .* has 2",
    ),
    ("f.xml", cvat(POINTS.format("1,2;3,4"), skeleton(("1", "1,2", ""))), "keep the faces of one type"),
    ("f.xml", cvat(skeleton()), "without points"),
    ("f.xml", cvat(skeleton(("1", "1,2", ""), ("1", "1,2", ""))), "two landmarks are called '1'"),
    ("f.xml", cvat(skeleton(("1", "1,2;3,4", ""))), "landmark '1' has 2 points"),
    ("f.xml", cvat(skeleton(("1", "1,2", "")), skeleton(("2", "1,2", ""))), "face 1: no landmark '2'"),
    # CSV
    ("f.csv", GOOD_CSV[:-3], "f.csv:2: 4 cells, but the header has 5"),
    ("f.csv", GOOD_CSV + "a b.png,1,2,3,4,5\n", "f.csv:3: 6 cells"),
    ("f.csv", "image,x0,y0,x1,y1\n", "no faces"),
    ("f.csv", "\nimage,x0,y0\n", "first title"),
    ("f.csv", "name,x0,y0\n", "first title"),
    ("f.csv", "image\na b.png\n", "NAME_x,NAME_y"),
    ("f.csv", "image,x0,y0,age\na b.png,1,2,3\n", "'age' is unknown or missing"),
    ("f.csv", "image,nose_x,eye_y\na b.png,1,2\n", "is unknown or missing"),
    ("f.csv", "image,x0,y0,x0,y0\n", "two columns are called 'x0'"),
    ("f.csv", "image,x0,y0,box_x,box_y,box_w\n", "a box has"),
    ("f.csv", GOOD_CSV.replace("3", "three"), "f.csv:2: landmark 2: expected a number, not 'three'"),
    ("f.csv", GOOD_CSV.replace("3", "inf"), "f.csv:2: landmark 2: expected a finite"),
    ("f.csv", GOOD_CSV.replace("a b.png", ""), "f.csv:2: first column"),
    ("f.csv", GOOD_CSV.replace("a b.png", "x.png"), "f.csv:2: no image 'x.png'"),
    ("f.csv", GOOD_CSV.replace("a b", '"a b'), "not CSV"),
    ("f.csv", GOOD_CSV + "x" * 200_000, "not CSV"),
    ("f.csv", "image,x0,y0,box_x,box_y,box_w,box_h\na b.png,1,2,3,4,,5\n", "box: expected a number"),
]


@pytest.mark.parametrize(("name", "text", "words"), BAD, ids=[f"{i}-{b[2][:20]}" for i, b in enumerate(BAD)])
def test_read_annotations_names_the_error_in_one_line(folder, name, text, words):
    with pytest.raises(DataError, match=words) as error:
        read(folder, name, text)
    assert str(error.value).startswith(str(folder / name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "empty file"), ("x", "no points"), ("{ 1 2 }", "1 landmarks, but"), ("{ 1 1e99 }", "finite")],
)
def test_read_pts_folder_names_invalid_files(folder, text, words):
    (folder / "in/a b.pts").write_text("{ 1 2 3 4 }")
    (folder / "in/c%20d.pts").write_text(text)
    with pytest.raises(DataError, match=f"c%20d.pts: .*{words}"):
        read_annotations(folder / "in")


def test_read_annotations_refuses_missing_paths(folder):
    for path in (folder / "none.json", folder / "none", folder / ("a" * 5000)):
        with pytest.raises(DataError, match="no such file"):
            read_annotations(path)
    with pytest.raises(DataError, match="no .pts files"):
        read_annotations(folder)
    with pytest.raises(DataError, match="no such folder of images"):
        read_annotations(folder, folder / "none")
