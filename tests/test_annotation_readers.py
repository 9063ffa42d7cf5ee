"""Annotation files as other tools write them."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipnet.annotations.annotation_set import Annotations
from pipnet.annotations.formats import read_annotations
from pipnet.errors import DataError
from test_annotations import UNKNOWN


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


def labelme(*shapes: dict, **changes) -> str:
    return json.dumps({"version": "5", "imagePath": "a b.png", "shapes": list(shapes), **changes})


def point(label: str, **changes) -> dict:
    return {"label": label, "shape_type": "point", "points": [[1, 2]], "group_id": None, **changes}


def test_read_coco_handles_visibility_and_categories(image_folder):
    loaded = read(
        image_folder,
        "f.json",
        "\ufeff" + coco(annotation__keypoints=[9, 9, 0, 3, 4, 1, 5, 6, 2], category__keypoints=[]),
    )
    assert loaded.names is None
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([UNKNOWN, (3, 4), (5, 6)]))
    np.testing.assert_array_equal(loaded.samples[0].visible, [False, False, True])
    for flags in ((1, 1), (2, 2), (0, 2)):  # never 2; all visible; all known ones visible
        values = [1, 2, flags[0], 3, 4, flags[1]]
        sample = read(
            image_folder, "f.json", coco(annotation__keypoints=values, annotation__bbox=[1, 2, 0, 0])
        ).samples[0]
        assert (sample.visible, sample.box) == (None, None)
    table = json.loads(coco())
    table["categories"].append({"id": 2, "keypoints": ["tail"]})
    table["annotations"] += [{"image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4]}]  # a box is not a face
    assert read(image_folder, "f.json", json.dumps(table)).names == ("l", "r")
    table["annotations"][1]["keypoints"] = [1, 2, 2, 3, 4, 2]
    with pytest.raises(DataError, match="categories with different landmarks"):
        read(image_folder, "f.json", json.dumps(table))


def test_read_cvat_reads_skeletons(image_folder):
    points = [("10", "1,2", 'outside="0" occluded="1"'), ("9", "3,4", ""), ("1", "0,0", 'outside="1"')]
    loaded = read(image_folder, "f.xml", cvat(skeleton(*points), '<box label="x" xtl="1"/>'))
    assert loaded.names == ("1", "9", "10")  # by number
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([UNKNOWN, (3, 4), (1, 2)]))
    np.testing.assert_array_equal(loaded.samples[0].visible, [False, True, False])


def test_read_cvat_reads_points(image_folder):
    shape = '<points label="face" occluded="1" points="1.5,2;3,4"><attribute name="x">y</attribute></points>'
    loaded = read(image_folder, "f.xml", cvat(shape, shape))
    assert (loaded.names, len(loaded.samples), loaded.samples[0].visible) == (None, 2, None)
    np.testing.assert_array_equal(loaded.samples[1].points, np.float32([(1.5, 2), (3, 4)]))


def test_read_label_studio_groups_by_parent(image_folder):
    parent = {"id": "P", "type": "rectanglelabels", "original_width": 200, "original_height": 100}
    parent["value"] = {"x": 10, "y": 20, "width": 50, "height": 60}
    regions = [region("b", 20, parentID="P"), region("a", 30, 10, parentID="P"), parent]
    chained = [region("a", 1), region("b", 2, parentID="a1")]  # a landmark that is the parent of another
    assert [s.box for s in read(image_folder, "f.json", json.dumps([task(*chained)])).samples] == [None]
    loaded = read(image_folder, "f.json", json.dumps([task(*regions, region("a", 90, parentID="Q")), task()]))
    assert loaded.names == ("b", "a")
    np.testing.assert_allclose(loaded.samples[0].points, [(40, 50), (60, 10)])
    np.testing.assert_allclose(loaded.samples[0].box, [20, 20, 120, 80])
    np.testing.assert_allclose(loaded.samples[1].points, [UNKNOWN, (180, 50)])
    assert loaded.samples[0].group == loaded.samples[1].group == "in/a b.png"
    parent["value"]["rotation"] = 5
    assert read(image_folder, "f.json", json.dumps([task(*regions)])).samples[0].box is None


def test_read_label_studio_prefers_the_ground_truth(image_folder):
    twice = task(region("a"))
    twice["annotations"] += [
        {"result": [region("a", 10)]},
        {"result": [region("a", 20)], "was_cancelled": True},
    ]
    with pytest.raises(DataError, match="task 1: 2 annotations"):
        read(image_folder, "f.json", json.dumps([twice]))
    twice["annotations"][1]["ground_truth"] = True
    assert read(image_folder, "f.json", json.dumps([twice])).samples[0].points[0, 0] == 20


@pytest.mark.parametrize("title", ["image", "file", "File_Name", "filename", "path"])
def test_read_csv_accepts_common_dialects(image_folder, title):
    loaded = read(image_folder, "f.csv", f"{title},y0,x0,x10,y10,x9,y9\r\na b.png,2,1,10,11,,\r\n\r\n")
    assert loaded.names is None
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([(1, 2), UNKNOWN, (10, 11)]))
    loaded = read(image_folder, "f.csv", f"{title};box_x;box_y;nose_x;nose_y\na b.png;1;2;3;4\n")
    assert (loaded.names, loaded.samples[0].box) == (("box", "nose"), None)  # a point called box
    # In countries where the decimal sign is a comma.
    loaded = read(image_folder, "f.csv", f"{title};x0;y0\na b.png;1,5;20\n")
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([(1.5, 20)]))


def test_read_csv_reads_subsets_and_decimal_commas(image_folder):
    loaded = read(image_folder, "f.csv", "image;subset;x0;y0;group\na b.png;1,5|test;1,5;20;\n")
    assert (loaded.samples[0].attributes, loaded.samples[0].group) == ({"1,5", "test"}, "in/a b.png")
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([(1.5, 20)]))


def test_read_imglab_reads_files_of_dlib(image_folder):
    """As dlib writes them: parts in alphabetical order, without those that are hidden."""
    boxes = [
        "<box top='5' left='3' width='10' height='20'><label>x</label>"
        "<part name='01' x='4' y='6'/><part name='00' x='5' y='7'/></box>",
        "<box top='1' left='1' width='2' height='2' ignore='1'><part name='00' x='1' y='1'/></box>",
        "<box top='1' left='1' width='2' height='2'/>",
        "<box top='7' left='9' width='1' height='1'><part name='00' x='9' y='7'/></box>",
    ]
    text = f"<dataset><name>n</name><images><image file='a b.png'>{''.join(boxes)}</image></images></dataset>"
    loaded = read(image_folder, "f.xml", "<?xml version='1.0' encoding='ISO-8859-1'?>" + text)
    assert loaded.names is None
    np.testing.assert_array_equal([s.points for s in loaded.samples], [[(5, 7), (4, 6)], [(9, 7), UNKNOWN]])
    np.testing.assert_array_equal(loaded.samples[0].box, [3, 5, 12, 24])
    assert loaded.samples[1].box is None


def test_read_labelme_reads_files_of_other_tools(image_folder):
    """Two faces by groups, a hidden landmark, and shapes that are neither landmarks nor boxes."""
    rectangle = {"label": "x", "shape_type": "rectangle", "points": [[9, 8], [1, 2]], "group_id": 7}
    shapes = [
        point("nose", group_id=7, flags={"occluded": True}),
        point("eye", group_id=7, points=[[3, 4.5]]),
        point("eye", group_id=8),
        rectangle,
        {"label": "hair", "shape_type": "polygon", "points": [[1, 2], [2, 3], [4, 4]], "group_id": None},
    ]
    (image_folder / "other.json").write_text('{"a": 1}')
    (image_folder / "in/a b.json").write_text(labelme(*shapes, imagePath="a b.png", imageData="iVBOR"))
    loaded = read_annotations(image_folder)
    assert loaded.names == ("nose", "eye")
    np.testing.assert_array_equal([s.points for s in loaded.samples], [[(1, 2), (3, 4.5)], [UNKNOWN, (1, 2)]])
    np.testing.assert_array_equal(loaded.samples[0].box, [1, 2, 9, 8])
    np.testing.assert_array_equal(loaded.samples[0].visible, [False, True])


YOLO = "0 0.5 0.5 0.5 0.5 0.25 0.5 2 0 0 0\n\n1 .5 .5 1 1 1 1 1 0 0 1\n"


def test_read_yolo_pose_reads_files_of_ultralytics(image_folder):
    (image_folder / "labels").mkdir()
    (image_folder / "in").rename(image_folder / "images")
    (image_folder / "labels/a b.txt").write_text(YOLO)
    (image_folder / "labels/c%20d.txt").write_text("")
    config = "path: ../datasets/mine\ntrain: images\nval: images\nkpt_shape: [2, 3]\nnames: {0: face, 1: x}\n"
    (image_folder / "data.yaml").write_text(config)
    loaded = read_annotations(image_folder)
    np.testing.assert_array_equal(
        [s.points for s in loaded.samples], [[(50, 50), UNKNOWN], [(200, 100), (0, 0)]]
    )
    np.testing.assert_array_equal(loaded.samples[0].box, [50, 25, 150, 75])
    assert [s.box is None for s in loaded.samples] == [False, True]
    np.testing.assert_array_equal(loaded.samples[1].visible, [False, False])
    assert {s.attributes for s in loaded.samples} == {frozenset()}
    (image_folder / "list.txt").write_text("./images/a b.png\n")
    (image_folder / "labels/a b.txt").write_text("0 0.5 0.5 0.5 0.5 0.25 0.5 -1 -1\n")
    (image_folder / "data.yml").write_text("test: list.txt\nkpt_shape: [2, 2]\nkpt_names: {0: [l, r]}\n")
    loaded = read_annotations(image_folder / "data.yml")
    assert (loaded.names, loaded.samples[0].attributes) == (("l", "r"), {"test"})
    np.testing.assert_array_equal(loaded.samples[0].points, np.float32([(50, 50), UNKNOWN]))
