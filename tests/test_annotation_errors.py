"""Invalid annotation files: errors are one line and name the place in the file."""

import json

import pytest

from pipnet.annotations.formats import read_annotations
from pipnet.errors import DataError
from test_annotation_readers import YOLO, coco, cvat, labelme, point, read, region, skeleton, task

GOOD_CSV = "image,x0,y0,x1,y1\na b.png,1,2,3,4\n"
POINTS = '<points label="face" points="{}"/>'
TWO = [region("a"), region("b")]


def imglab(
    *parts: str, part: str = "", box: str = "top='1' left='2' width='9' height='8'", file="a b.png"
) -> str:
    inner = "".join(f"<part {text}/>" for text in (*parts, part) if text)
    return f"<dataset><images><image file='{file}'><box {box}>{inner}</box></image></images></dataset>"


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


@pytest.mark.parametrize(
    ("name", "text", "message"), BAD, ids=[f"{i}-{b[2][:20]}" for i, b in enumerate(BAD)]
)
def test_read_annotations_names_the_error_in_one_line(image_folder, name, text, message):
    with pytest.raises(DataError, match=message) as error:
        read(image_folder, name, text)
    assert str(error.value).startswith(str(image_folder / name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YOLO.replace(" 0 0 0\n", " 0 0\n"), r"a b\.txt:1: 10 numbers, but kpt_shape of data\.yaml needs 11"),
        (YOLO.replace(" 0 0 1\n", " 0 0 3\n"), r"a b\.txt:3: the third number"),
        (YOLO.replace(".25", "left"), r"a b\.txt:1: expected a number, not '0left'"),
        (YOLO.replace("0.25", "nan"), r"a b\.txt:1: expected a finite"),
        (b"\xff\xfe", r"a b\.txt: not UTF-8"),
    ],
)
def test_read_yolo_pose_names_invalid_labels(image_folder, text, message):
    (image_folder / "in/a b.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    (image_folder / "data.yaml").write_text("train: in\nval: in\nkpt_shape: [2, 3]\n")
    with pytest.raises(DataError, match=message):
        read_annotations(image_folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty file"), ("x", "no points"), ("{ 1 2 }", "1 landmarks, but"), ("{ 1 1e99 }", "finite")],
)
def test_read_pts_folder_names_invalid_files(image_folder, text, message):
    (image_folder / "in/a b.pts").write_text("{ 1 2 3 4 }")
    (image_folder / "in/c%20d.pts").write_text(text)
    with pytest.raises(DataError, match=f"c%20d.pts: .*{message}"):
        read_annotations(image_folder / "in")


def test_read_annotations_refuses_missing_paths(image_folder):
    for path in (image_folder / "none.json", image_folder / "none", image_folder / ("a" * 5000)):
        with pytest.raises(DataError, match="no such file"):
            read_annotations(path)
    with pytest.raises(DataError, match="no .pts files"):
        read_annotations(image_folder)
    with pytest.raises(DataError, match="no such folder of images"):
        read_annotations(image_folder, image_folder / "none")
