"""Contact sheets as pages: what is on them, what is said of the rest, and that names do no harm."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.annotations.samples import FaceSample, evenly_spaced
from pipnet.cli import main
from pipnet.datasets.pseudo_labels import PseudoLabel, write_pseudo_labels
from pipnet.errors import MissingExtraError
from pipnet.io.image import read_image, write_image

EVIL = '<img src=x onerror="alert(1)">&amp; $title.jpg'


class Page(HTMLParser):
    """The parts of a page that tests ask for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.text = (folder / "index.html").read_text(encoding="utf-8")
        self.faces: list[dict[str, str]] = []
        self.names: list[str] = []
        self.pictures: list[str] = []
        self.tags: set[str] = set()
        self.sorts: list[str] = []
        self._in_name = False
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self._in_name = given.get("class") == "name"
        if tag == "figure":
            self.faces.append(given)
        if tag == "img":
            assert given.keys() == {"src", "loading", "decoding", "alt"}
            self.pictures.append(given["src"])
        if tag == "option":
            self.sorts.append(given["value"])
        if self._in_name:
            self.names.append("")

    def handle_data(self, data):
        if self._in_name:
            self.names[-1] += data

    def handle_endtag(self, tag):
        self._in_name = False


@pytest.fixture
def own(tmp_path, portrait, landmarker) -> Path:
    """Own annotations of one real face in two pictures, one of them with a name that is HTML."""
    shutil.copy(portrait, tmp_path / EVIL)
    shutil.copy(portrait, tmp_path / "plain.jpg")
    points = landmarker(portrait)[0].points
    hidden = points.copy()
    hidden[28] = np.nan
    samples = [
        FaceSample(tmp_path / EVIL, points, EVIL, EVIL),
        FaceSample(tmp_path / "plain.jpg", hidden, "plain.jpg", "plain.jpg"),
    ]
    write_annotations(tmp_path / "labels.json", Annotations(samples, None))
    return tmp_path / "labels.json"


def test_a_collection_with_a_model(small_300w, tmp_path, capsys):
    out = tmp_path / "deep" / "sheet"
    arguments = ["--subset", "common", "--model", "pipnet-wild-mbv2", "--limit", "5", "-o", str(out)]
    assert main(["data", "view", str(small_300w), *arguments]) == 0
    assert "5 of 8 faces" in capsys.readouterr().err
    page = Page(out)
    assert len(page.faces) == 5
    assert page.sorts == ["nme", "confidence", "score", "vote_std", "order", "name"]
    assert all(0 <= float(face["data-nme"]) < 1 for face in page.faces)  # its own landmarks, shifted crops
    assert all(0 < float(face["data-score"]) <= 1 for face in page.faces)
    assert sorted(page.pictures) == sorted(str(p.relative_to(out)) for p in out.rglob("*.jpg"))
    assert page.text.count('<g class="label">') == page.text.count('<g class="found">') == 5
    assert "5 of 8 faces." in page.text
    assert "3 are left out" in page.text
    assert not out.with_name("sheet.partial").exists()


def test_landmarks_lie_on_the_face(small_300w, tmp_path, landmarker):
    """The drawn landmarks are those that the model finds in the page's own picture."""
    out = tmp_path / "sheet"
    assert main(["data", "view", str(small_300w), "--subset", "common", "--limit", "1", "-o", str(out)]) == 0
    page = Page(out)
    assert 'class="found"' not in page.text
    assert "data-nme" not in page.faces[0]
    dots = re.search(r'class="dots" d="([^"]*)"', page.text)
    drawn = np.array(re.findall(r"M(-?\d+) (-?\d+)h0", dots[1]), float)
    picture = read_image(out / page.pictures[0])
    assert picture.shape[0] == picture.shape[1] <= 400
    found = landmarker(picture)[0].points
    off = np.linalg.norm(drawn / 1000 * len(picture) - 0.5 - found, axis=1)
    assert off.mean() < 0.02 * len(picture)


def test_names_are_text(own, tmp_path):
    out = tmp_path / "sheet"
    assert main(["data", "view", str(own), "-o", str(out)]) == 0
    page = Page(out)
    assert page.names == [EVIL, "plain.jpg"]
    assert "2 faces: all there are." in page.text
    assert '<path d=""/>' in page.text  # nobody said which landmarks to join
    dots = [len(re.findall("h0", d)) for d in re.findall(r'class="dots" d="([^"]*)"', page.text)]
    assert dots == [68, 67]  # what is unknown is not drawn


def test_a_scheme_joins_the_landmarks(own, tmp_path):
    out = tmp_path / "sheet"
    assert main(["data", "view", str(own), "--scheme", "300w", "-o", str(out)]) == 0
    whole, broken = re.findall(r'<g class="label"><path d="([^"]*)"/>', Page(out).text)
    assert whole.count("L") == broken.count("L") + 2  # on both sides of a point of the nose


def test_pseudo_labels_bring_their_quality(own, tmp_path):
    points = np.random.default_rng(0).uniform(100, 200, (19, 2)).astype(np.float32)
    labels = [
        PseudoLabel(FaceSample(tmp_path / "plain.jpg", points, f"face {i}", ""), 0.5 + i / 10, 2.0 - i, 0.0)
        for i in range(2)
    ]
    write_pseudo_labels(tmp_path / "pseudo.csv", labels)
    out = tmp_path / "sheet"
    assert main(["data", "view", str(tmp_path / "pseudo.csv"), "--scheme", "aflw", "-o", str(out)]) == 0
    page = Page(out)
    assert page.sorts[:3] == ["score", "vote_std", "tta_std"]
    assert [face["data-spread"] for face in page.faces] == ["2.0000", "1.0000"]


@pytest.fixture
def annotated(tmp_path, portrait) -> Path:
    """What ``pipnet annotate`` makes of three pictures, one of which is damaged, in shards of two."""
    folder = tmp_path / "album"
    folder.mkdir()
    image = read_image(portrait)
    write_image(folder / "a.jpg", image)
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:2000])
    write_image(folder / "c.png", image[:300])
    words = ["-o", str(tmp_path / "labels"), "--workers", "1", "--shard-size", "2"]
    assert main(["annotate", str(folder), *words]) == 0
    return tmp_path / "labels"


def test_what_annotate_wrote_can_be_looked_at(annotated, tmp_path, landmarker, capsys):
    out = tmp_path / "sheet"
    capsys.readouterr()
    assert main(["data", "view", str(annotated), "-o", str(out)]) == 0
    assert "2 of 2 faces; 1 pictures were annotated with an error" in capsys.readouterr().err
    page = Page(out)
    assert page.names == ["a.jpg", "c.png"]
    assert page.sorts == ["confidence", "score", "vote_std", "order", "name"]
    assert "1 pictures could not be read when they were annotated." in page.text
    found = landmarker(tmp_path / "album" / "a.jpg")
    assert float(page.faces[0]["data-confidence"]) == pytest.approx(found.quality[0], abs=0.01)
    assert float(page.faces[0]["data-spread"]) == pytest.approx(100 * found.vote_std.mean(), abs=0.05)
    assert '<path d=""/>' not in page.text  # its manifest says which landmarks to join


def test_some_faces_of_a_job_one_shard_and_pictures_that_were_moved(annotated, tmp_path, capsys):
    (tmp_path / "album").rename(tmp_path / "moved")
    shard = annotated / "shards" / "00001.parquet"
    for number, (source, more, names) in enumerate(
        [(shard, [], ["c.png"]), (annotated, ["--limit", "1", "--model", "pipnet-tiny"], ["a.jpg"])]
    ):
        out = tmp_path / f"sheet {number}"
        arguments = ["-o", str(out), "--images", str(tmp_path / "moved"), *more]
        assert main(["data", "view", str(source), *arguments]) == 0
        assert Page(out).names == names
    assert "1 of 2 faces" in Page(out).text
    assert float(Page(out).faces[0]["data-nme"]) < 10
    (annotated / "manifest.json").rename(tmp_path / "manifest.json")
    capsys.readouterr()
    assert main(["data", "view", str(shard), "-o", str(tmp_path / "none")]) == 1
    assert "manifest.json: not there" in capsys.readouterr().err


def test_a_job_without_pyarrow_or_with_a_damaged_shard_is_one_line(annotated, tmp_path, monkeypatch, capsys):
    shard = annotated / "shards" / "00001.parquet"
    words = ["data", "view", str(annotated), "-o", str(tmp_path / "sheet")]
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        assert main(words) == 1
    assert capsys.readouterr().err == f"error: {MissingExtraError('pyarrow', 'bulk')}\n"
    assert main([*words, "--subset", "train"]) == 1
    assert "no subsets" in capsys.readouterr().err
    assert main([*words, "--scheme", "wflw"]) == 1
    assert "68 landmarks a face, scheme 'wflw' has 98" in capsys.readouterr().err
    shard.write_bytes(shard.read_bytes()[:500])
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {shard}: cannot be read: ")
    assert error.count("\n") == 1
    shard.unlink()
    assert main(words) == 1
    assert "gone since it was made" in capsys.readouterr().err


def test_one_bad_picture_is_named_and_the_others_shown(own, tmp_path, capsys):
    (tmp_path / "plain.jpg").write_bytes((tmp_path / "plain.jpg").read_bytes()[:2000])
    out = tmp_path / "sheet"
    assert main(["data", "view", str(own), "-o", str(out)]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "plain.jpg" in errors[0]
    page = Page(out)
    assert page.names == [EVIL]
    assert "1 could not be shown." in page.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "no such file or folder"),
        (["labels.json", "--limit", "0"], "at least 1"),
        (["labels.json", "--scheme", "wflw"], "98"),
        (["labels.json", "--model", "pipnet-300w-mbv2", "--scheme", "300w"], "--scheme"),
        (["labels.json", "--model", "none.onnx"], "none.onnx"),
        (["empty.csv"], "empty.csv"),
        (["labels.json", "-o", "plain.jpg"], "is there already"),
        (["labels.json", "-o", "/proc/sheet"], "/proc/sheet"),
        (["gone.json"], "gone.jpg"),
        (["pseudo.csv"], "nothing to show.*nowhere.jpg"),
        (["pseudo.csv", "--subset", "train"], "no subsets"),
        (["pseudo.csv", "--scheme", "300w"], "2 landmarks"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(own, tmp_path, arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "pseudo.csv").write_text(
        "image,name,score,spread,disagreement,x0,y0,x1,y1\nnowhere.jpg,a,1,1,0,1,1,30,30\n"
    )
    table = json.loads(own.read_text())
    for picture in table["images"]:
        picture["file_name"] = "gone.jpg"
    (tmp_path / "gone.json").write_text(json.dumps(table))
    before = sorted(tmp_path.iterdir())
    output = [] if "-o" in arguments else ["-o", "sheet"]
    assert main(["data", "view", *arguments, *output]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.match(f"error: .*{words}", error)
    assert sorted(tmp_path.iterdir()) == before


def test_evenly_spread():
    assert evenly_spaced(range(10), 4) == [0, 2, 5, 7]
    assert evenly_spaced(range(3), 5) == [0, 1, 2]
    assert evenly_spaced([], 5) == []
    assert len(evenly_spaced(range(999), 500)) == 500
