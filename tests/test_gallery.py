"""The gallery: the faces and values on the page, and names that are HTML."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.annotations.pts import write_pts
from pipnet.annotations.samples import FaceSample
from pipnet.cli import main
from pipnet.datasets.pseudo_labels import PseudoLabel, write_pseudo_labels
from pipnet.errors import MissingExtraError
from pipnet.io.image import read_image, write_image

EVIL = '<img src=x onerror="alert(1)">&amp; $title.jpg'


class Page(HTMLParser):
    """The parsed parts of a page."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.text = (folder / "index.html").read_text(encoding="utf-8")
        self.faces: list[dict[str, str]] = []
        self.names: list[str] = []
        self.images: list[str] = []
        self.tags: set[str] = set()
        self.sorts: list[str] = []
        self._in_name = False
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        self._in_name = attributes.get("class") in ("start", "end")
        if tag == "figure":
            self.faces.append(attributes)
        if tag == "img":
            assert attributes.keys() == {"src", "loading", "decoding", "alt"}
            self.images.append(attributes["src"])
        if tag == "option":
            self.sorts.append(attributes["value"])
        if attributes.get("class") == "name":
            self.names.append("")

    def handle_data(self, data):
        if self._in_name:
            self.names[-1] += data

    def handle_endtag(self, tag):
        self._in_name = False


@pytest.fixture
def own(tmp_path, portrait, landmarker) -> Path:
    """Own annotations of one real face in two images, one of them with a name that is HTML."""
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


def test_gallery_shows_the_errors_of_a_model_on_a_dataset(small_300w, tmp_path, capsys):
    out = tmp_path / "deep" / "sheet"
    arguments = ["--subset", "common", "--model", "pipnet-68", "--limit", "5", "-o", str(out)]
    assert main(["data", "view", str(small_300w), *arguments]) == 0
    assert "5 of 8 faces" in capsys.readouterr().err
    page = Page(out)
    assert len(page.faces) == 5
    assert page.sorts == ["nme", "quality", "mean_score", "vote_std", "order", "name"]
    assert all(0 <= float(face["data-nme"]) < 1 for face in page.faces)  # the labels are its own predictions
    assert all(0 < float(face["data-mean_score"]) <= 1 for face in page.faces)
    assert sorted(page.images) == sorted(str(p.relative_to(out)) for p in out.rglob("*.jpg"))
    assert page.text.count('<g class="label">') == page.text.count('<g class="predicted">') == 5
    assert "5 of 8 faces." in page.text
    assert "3 are left out" in page.text
    assert not out.with_name("sheet.partial").exists()


def test_gallery_draws_landmarks_on_the_face(small_300w, tmp_path, landmarker):
    """The drawn landmarks are those that the model predicts in the image of the page."""
    out = tmp_path / "sheet"
    assert main(["data", "view", str(small_300w), "--subset", "common", "--limit", "1", "-o", str(out)]) == 0
    page = Page(out)
    assert 'class="predicted"' not in page.text
    assert "data-nme" not in page.faces[0]
    dots = re.search(r'class="dots" d="([^"]*)"', page.text)
    drawn = np.array(re.findall(r"M(-?\d+) (-?\d+)h0", dots[1]), float)
    image = read_image(out / page.images[0])
    assert image.shape[0] == image.shape[1] <= 400
    points = landmarker(image)[0].points
    distance = np.linalg.norm(drawn / 1000 * len(image) - 0.5 - points, axis=1)
    assert distance.mean() < 0.02 * len(image)


def test_gallery_escapes_names(own, tmp_path):
    out = tmp_path / "sheet"
    assert main(["data", "view", str(own), "-o", str(out)]) == 0
    page = Page(out)
    assert page.names == [EVIL, "plain.jpg"]
    assert "2 faces: the complete dataset." in page.text
    assert '<path d=""/>' in page.text  # without a scheme there are no edges
    dots = [len(re.findall("h0", d)) for d in re.findall(r'class="dots" d="([^"]*)"', page.text)]
    assert dots == [68, 67]  # unknown landmarks are not drawn


def test_gallery_captions_keep_the_end_of_a_name(tmp_path, portrait, landmarker):
    name = "a folder with a name as long as they get/and-a-photo-2024-11-28-000123.jpg"
    (tmp_path / name).parent.mkdir()
    shutil.copy(portrait, tmp_path / name)
    write_pts((tmp_path / name).with_suffix(".pts"), landmarker(portrait)[0].points)
    out = tmp_path / "page"
    assert main(["data", "view", str(tmp_path), "-o", str(out)]) == 0
    page = Page(out)
    assert page.names == [name]
    assert re.search(r'class="end">([^<]*)<', page.text)[1] == "4-11-28-000123.jpg"


def test_gallery_draws_the_edges_of_a_scheme(own, tmp_path):
    out = tmp_path / "sheet"
    assert main(["data", "view", str(own), "--scheme", "300w", "-o", str(out)]) == 0
    complete, incomplete = re.findall(r'<g class="label"><path d="([^"]*)"/>', Page(out).text)
    assert complete.count("L") == incomplete.count("L") + 2  # both edges of the unknown landmark


def test_gallery_of_pseudo_labels_shows_their_values(own, tmp_path):
    points = np.random.default_rng(0).uniform(100, 200, (19, 2)).astype(np.float32)
    labels = [
        PseudoLabel(FaceSample(tmp_path / "plain.jpg", points, f"face {i}", ""), 0.5 + i / 10, 2.0 - i, 0.5)
        for i in range(2)
    ]
    write_pseudo_labels(tmp_path / "pseudo.csv", labels)
    out = tmp_path / "sheet"
    assert main(["data", "view", str(tmp_path / "pseudo.csv"), "--scheme", "aflw", "-o", str(out)]) == 0
    page = Page(out)
    assert page.sorts[:3] == ["mean_score", "vote_std", "label_std"]
    assert [face["data-vote_std"] for face in page.faces] == ["2.0000", "1.0000"]


@pytest.fixture
def annotated(tmp_path, portrait) -> Path:
    """A job of ``pipnet annotate``: three images, one of which is damaged, in shards of two."""
    folder = tmp_path / "album"
    folder.mkdir()
    image = read_image(portrait)
    write_image(folder / "a.jpg", image)
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:2000])
    write_image(folder / "c.png", image[:300])
    options = ["-o", str(tmp_path / "labels"), "--workers", "1", "--shard-size", "2"]
    assert main(["annotate", str(folder), *options]) == 0
    return tmp_path / "labels"


def test_gallery_shows_a_job_of_annotate(annotated, tmp_path, landmarker, capsys):
    out = tmp_path / "sheet"
    capsys.readouterr()
    assert main(["data", "view", str(annotated), "-o", str(out)]) == 0
    assert "2 of 2 faces; 1 image with an error" in capsys.readouterr().err
    page = Page(out)
    assert page.names == ["a.jpg", "c.png"]
    assert page.sorts == ["quality", "mean_score", "vote_std", "order", "name"]
    assert "1 image could not be read when it was annotated." in page.text
    faces = landmarker(tmp_path / "album" / "a.jpg")
    assert float(page.faces[0]["data-quality"]) == pytest.approx(faces.quality[0], abs=0.01)
    assert float(page.faces[0]["data-vote_std"]) == pytest.approx(100 * faces.vote_std.mean(), abs=0.05)
    assert '<path d=""/>' not in page.text  # the scheme is in its manifest


def test_gallery_shows_shards_limited_jobs_and_moved_images(annotated, tmp_path, capsys):
    (tmp_path / "album").rename(tmp_path / "moved")
    shard = annotated / "shards" / "00001.parquet"
    for number, (source, options, names) in enumerate(
        [(shard, [], ["c.png"]), (annotated, ["--limit", "1", "--model", "pipnet-tiny"], ["a.jpg"])]
    ):
        out = tmp_path / f"sheet {number}"
        arguments = ["-o", str(out), "--images", str(tmp_path / "moved"), *options]
        assert main(["data", "view", str(source), *arguments]) == 0
        assert Page(out).names == names
    assert "1 of 2 faces" in Page(out).text
    assert float(Page(out).faces[0]["data-nme"]) < 10
    (annotated / "manifest.json").rename(tmp_path / "manifest.json")
    capsys.readouterr()
    assert main(["data", "view", str(shard), "-o", str(tmp_path / "none")]) == 1
    assert "manifest.json: missing" in capsys.readouterr().err


def test_gallery_of_a_job_without_pyarrow_or_with_a_damaged_shard_is_one_line(
    annotated, tmp_path, monkeypatch, capsys
):
    shard = annotated / "shards" / "00001.parquet"
    arguments = ["data", "view", str(annotated), "-o", str(tmp_path / "sheet")]
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        assert main(arguments) == 1
    assert capsys.readouterr().err == f"error: {MissingExtraError('pyarrow', 'bulk')}\n"
    assert main([*arguments, "--subset", "train"]) == 1
    assert "no subsets" in capsys.readouterr().err
    assert main([*arguments, "--scheme", "wflw"]) == 1
    assert "68 landmarks per face, but scheme 'wflw' has 98" in capsys.readouterr().err
    shard.write_bytes(shard.read_bytes()[:500])
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {shard}: cannot be read: ")
    assert error.count("\n") == 1
    shard.unlink()
    assert main(arguments) == 1
    assert "missing, though the job is finished" in capsys.readouterr().err


def test_gallery_names_an_unreadable_image_and_shows_the_others(own, tmp_path, capsys):
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
    ("arguments", "message"),
    [
        (["nothing"], "no such file or folder"),
        (["labels.json", "--limit", "0"], "at least 1"),
        (["labels.json", "--scheme", "wflw"], "98"),
        (["labels.json", "--model", "pipnet-68", "--scheme", "300w"], "--scheme"),
        (["labels.json", "--model", "none.onnx"], "none.onnx"),
        (["empty.csv"], "empty.csv"),
        (["labels.json", "-o", "plain.jpg"], "exists already"),
        (["labels.json", "-o", "/proc/sheet"], "/proc/sheet"),
        (["gone.json"], "gone.jpg"),
        (["pseudo.csv"], "nothing to show.*nowhere.jpg"),
        (["pseudo.csv", "--subset", "train"], "no subsets"),
        (["pseudo.csv", "--scheme", "300w"], "2 landmarks"),
    ],
)
def test_gallery_refuses_invalid_input_in_one_line_and_writes_nothing(
    own, tmp_path, arguments, message, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "pseudo.csv").write_text(
        "image,name,score,spread,disagreement,x0,y0,x1,y1\nnowhere.jpg,a,1,1,0,1,1,30,30\n"
    )
    table = json.loads(own.read_text())
    for image in table["images"]:
        image["file_name"] = "gone.jpg"
    (tmp_path / "gone.json").write_text(json.dumps(table))
    before = sorted(tmp_path.iterdir())
    output = [] if "-o" in arguments else ["-o", "sheet"]
    assert main(["data", "view", *arguments, *output]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.match(f"error: .*{message}", error)
    assert sorted(tmp_path.iterdir()) == before
