"""Published numbers, the comparison with them, and the comparison of two evaluations."""

import json
import re

import numpy as np
import pytest

from pipnet.cli import main
from pipnet.datasets.registry import DATASETS
from pipnet.errors import DataError
from pipnet.evaluation.metrics import paired_gain
from pipnet.evaluation.record import read_records
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import read_image
from pipnet.papers.paper_report import compare, markdown
from pipnet.papers.published import (
    BENCHMARKS,
    TRAINING_FACES,
    benchmarks_of,
    filter_rows,
    published,
    published_nmes,
)

FRAME = {"nme": 3.3423, "nme_ci": [3.26, 3.42], "fr10": 0.0, "auc10": 66.6, "median": 3.2, "p95": 5.3}
COMMON = {
    "model": "ours",
    "data": "300-W",
    "subset": "common",
    "detector": None,
    "composites": False,
    "refine_steps": 0,
    "tta": "none",
    "training": "300-W train: 1,910 faces",
    "network": {"backbone": "mobilenetv2_100", "head": "pip", "neighbors": 10},
    "input_size": 256,
    "landmarks": 68,
    "norm": [36, 45],
    "faces": 554,
    "missed": 0,
    "pixels": FRAME,
    "official": {**FRAME, "nme": 3.3714},
}


@pytest.fixture
def result(tmp_path):
    """Return a function that writes an evaluation record with some values changed and returns its folder."""

    def write(name="result", **changes):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text(json.dumps({**COMMON, **changes}))
        return folder

    return write


def only_row(folder, text=""):
    """Return our row of the only section."""
    (section,) = compare(read_records([folder]), text)
    (row,) = [row for row in section.rows if row.ours]
    return row


# -- published numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "method", "backbone", "test", "value"),
    [
        ("v1", "PIP stride 128", "ResNet-18", "300W full", 4.90),
        ("v1", "Map stride 1", "ResNet-18", "300W full", 3.54),
        ("v1", "Coord", "ResNet-18", "300W full", 5.31),
        ("v1", "PIP", "ResNet-18", "300W challenging", 5.26),
        ("v1", "PIP", "ResNet-50", "COFW", 3.08),
        ("v1", "PIP", "ResNet-50", "WFLW full", 4.55),
        ("IJCV", "PIP + NRM", "ResNet-101", "WFLW pose", 7.51),
        ("IJCV", "PIP + NRM", "MobileNetV2", "AFLW", 1.52),
        ("IJCV", "PIP + NRM", "MobileNetV3-L", "WFLW full", 4.65),
        ("IJCV", "Map", "ResNet-18", "WFLW full", 4.70),
    ],
)
def test_published_nmes_contain_the_papers_numbers(source, method, backbone, test, value):
    values = {
        row.value
        for row in published_nmes([test])
        if (row.source, row.method, row.backbone) == (source, method, backbone)
    }
    assert values == {value}


def test_published_rows_name_known_test_sets():
    rows = published()
    assert {row.test for row in rows} == {*BENCHMARKS, ""}
    assert all(row.value > 0 for row in rows)
    (speed,) = [
        r
        for r in rows
        if (r.table, r.backbone, r.metric) == ("8", "ResNet-50", "FPS GPU") and r.method == "PIP"
    ]
    assert speed.value == 61
    assert all("PIP" in row.method for row in filter_rows(rows, "pip"))


def test_published_csv_equals_the_shared_file(shared):
    from importlib import resources

    packaged = resources.files("pipnet.papers") / "published.csv"
    assert packaged.read_text() == (shared / "reference" / "published.csv").read_text()


def test_benchmarks_of_subsets_are_the_papers_test_sets():
    assert benchmarks_of("300-W", "common-deduplicated", 68) == ("300W common",)
    assert benchmarks_of("300-W", "full", 19) == ("300W 19 points",)
    assert benchmarks_of("300-W", "afw", 68) == ()
    assert benchmarks_of("WFLW", "test", 68) == ("WFLW full",)
    assert benchmarks_of("WFLW", "make-up", 98) == ("WFLW make-up",)
    assert benchmarks_of("COFW-68", "test", 68) == ()
    assert benchmarks_of("AFLW", "test", 19) == ("AFLW", "AFLW 19 points")
    for spec in DATASETS.values():
        points = {"300w": 68, "wflw": 98, "cofw": 29, "aflw": 19}.get(spec.scheme, 0)
        for subset, faces in spec.subsets.items():
            for name in benchmarks_of(spec.title, subset, points):
                assert BENCHMARKS[name].faces == faces or subset == "common-deduplicated"
    for key in ("300w", "cofw", "aflw", "wflw"):
        assert TRAINING_FACES[key.upper()] == DATASETS[key].subsets["train"]


# -- the comparison ------------------------------------------------------------------------------------


def test_compare_sorts_rows_by_nme(result):
    (section,) = compare(read_records([result()]))
    assert section.title == "300W common"
    assert section.remark == (
        "The papers: 554 faces, 68 points, inter-ocular norm, 3,148 training faces in 300W."
    )
    values = [row.nme for row in section.rows]
    assert values == sorted(values)
    place = [row.ours for row in section.rows].index(True)
    assert section.rows[place - 1].nme <= 3.3423 <= section.rows[place + 1].nme
    ours = section.rows[place]
    assert (ours.method, ours.backbone) == ("ours (PIP + NRM)", "MobileNetV2")
    assert ours.train == "300-W train: 1,910 faces"
    assert ours.differs == (
        "in the image's pixels; 3.37 in the papers' stretched crop; "
        "the papers' PIP here: ResNet-18, ResNet-50, ResNet-101"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"faces": 100}, "100 faces, not 554"),
        ({"detector": "pipnet-face", "missed": 2}, "end to end with the detector pipnet-face, 2 missed"),
        ({"composites": True}, "pasted onto other photos"),
        ({"refine_steps": 1}, "1 refine steps"),
        ({"tta": "flip"}, "test-time augmentation (flip)"),
        ({"input_size": 128}, "128 px crops, not 256"),
        ({"norm": "box"}, "norm: side of the face's box, not inter-ocular"),
        ({"norm": [39, 42]}, "norm: landmarks 39 to 42, not inter-ocular"),
        ({"norm": "image width"}, "norm: image width, not inter-ocular"),
        ({"data": "WFLW", "subset": "test"}, "68 points, not 98"),
    ],
)
def test_differences_name_what_is_not_as_in_the_papers(result, changes, text):
    assert text not in only_row(result("unchanged")).differs
    assert text in only_row(result(**changes)).differs


def test_differences_of_the_papers_network_and_norm_are_the_frame_only(result):
    network = {"backbone": "resnet101.tv_in1k", "head": "pip", "neighbors": 0}
    row = only_row(result(network=network))
    assert (row.method, row.backbone) == ("ours (PIP)", "ResNet-101")
    assert row.differs == "in the image's pixels; 3.37 in the papers' stretched crop"
    aflw = {"data": "AFLW", "subset": "test", "landmarks": 19, "norm": "image width", "faces": 4386}
    assert "norm" not in only_row(result("aflw", **aflw)).differs


def test_compare_merges_numbers_that_tables_repeat(result):
    (section,) = compare(read_records([result(data="WFLW", subset="test")]), "PIP + NRM")
    sources = {row.backbone: row.source for row in section.rows if not row.ours}
    assert sources["ResNet-101"] == "IJCV supervised, speed chart"
    assert sources["ResNet-18"] == "IJCV supervised, speed chart (read off the chart)"
    assert sources["MobileNetV2"] == "IJCV supervised"
    assert len(section.rows) == 6


def test_compare_lists_faces_without_published_numbers(result):
    (section,) = compare(read_records([result(subset="afw")]))
    assert section.title == "300-W afw"
    assert "no numbers" in section.remark
    assert len(section.rows) == 1
    (section,) = compare(read_records([result("two")]), "nobody's")
    assert "No published row" in section.remark
    assert len(section.rows) == 1


def test_markdown_escapes_names(result):
    evil = "a|b\n# c \x1b[31m **d** <script> $x$"
    text = markdown(compare(read_records([result(model=evil, training=evil)])))
    (line,) = [line for line in text.splitlines() if "<" in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == 7
    assert "\x1b" not in text


# -- the command ---------------------------------------------------------------------------------------


def test_report_command_compares_evaluations_with_the_papers(small_300w, tmp_path, capsys):
    for subset in ("common", "challenging"):
        arguments = ["evaluate", DEFAULT_MODEL, "--data", str(small_300w), "--subset", subset]
        assert main([*arguments, "-o", str(tmp_path / "runs" / subset)]) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "runs"), "--row", "PIP"]) == 0
    out = capsys.readouterr().out
    assert out.index("## 300W challenging") < out.index("## 300W common")
    assert f"**{DEFAULT_MODEL} (PIP + NRM)** | MobileNetV2 | 300-W train" in out
    assert "8 faces, not 554" in out
    assert "norm:" not in out
    assert "points, not" not in out
    assert "HRNet" not in out
    folder = tmp_path / "report"
    assert main(["report", str(tmp_path / "runs" / "common" / "evaluation.json"), "-o", str(folder)]) == 0
    assert capsys.readouterr().out == ""
    assert "HRNet" in (folder / "report.md").read_text()
    assert min(read_image(folder / "report.png").shape[:2]) > 200


def test_report_command_draws_names_that_look_like_formulas(result, tmp_path):
    folder = result(model="$\\frac{$ " + "x" * 500)
    assert main(["report", str(folder), "-o", str(tmp_path / "out")]) == 0
    assert read_image(tmp_path / "out" / "report.png").shape[1] < 2000


def test_report_command_has_help_and_requires_results(capsys):
    assert main(["report", "--help"]) == 0
    assert "Usage: pipnet" in capsys.readouterr().out
    assert main(["report"]) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"[" * 200_000,
        b'{"model": "x"}',
        *(
            json.dumps({**COMMON, **change}).encode()
            for change in (
                {"pixels": 3},
                {"pixels": {"nme": "low"}},
                {"pixels": {"nme": float("nan")}},
                {"official": {"nme": -1}},
                {"official": {"nme": 10**400}},
                {"faces": "many"},
                {"faces": True},
                {"model": ["x"]},
                {"norm": [1]},
                {"norm": {"a": 1}},
                {"landmarks": []},
                {"network": None},
                {"network": {"backbone": "resnet18"}},
            )
        ),
    ],
    ids=range(19),
)
def test_read_records_refuses_other_files_in_one_line(content, tmp_path, capsys):
    path = tmp_path / "evaluation.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not an evaluation\.json of this version"):
        read_records([path])
    assert main(["report", str(path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_report_command_names_missing_results_and_unwritable_outputs(result, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "none", "cannot be read"), (tmp_path / "empty", "pipnet evaluate")):
        assert main(["report", str(path)]) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    (tmp_path / "file").touch()
    assert main(["report", str(result()), "-o", str(tmp_path / "file" / "out")]) == 1
    assert "cannot be written" in capsys.readouterr().err


# -- two evaluations ---------------------------------------------------------------------------------


def test_compare_command_prints_the_paired_gain(result, capsys):
    """The error of each face is halved, so the interval has no width."""
    faces = {f"face{i}": 2.0 + i for i in range(30)}

    def rows(nmes):
        return [{"face": name, "nme": nme} for name, nme in nmes.items()]

    first = result("first", per_face=rows(faces))
    second = result("second", per_face=rows({name: nme / 2 for name, nme in list(faces.items())[5:]}))
    result("first/a", data="WFLW")  # a record in a subfolder is not read
    assert main(["compare", str(first), str(second / "evaluation.json")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^faces +25 in both, up to 5 in one alone$", out, re.MULTILINE)
    assert re.search(r"^NME +19.000 %, then 9.500 %$", out, re.MULTILINE)
    assert re.search(r"^gain +50.0 % \(50.0 to 50.0\)$", out, re.MULTILINE)
    other = result("other", per_face=rows({"nobody": 1.0}))
    assert main(["compare", str(first), str(other)]) == 1
    assert "no face in common" in capsys.readouterr().err
    for key, changes in (
        ("norm", {"norm": "box"}),
        ("data", {"data": "WFLW"}),
        ("landmarks", {"landmarks": 98}),
    ):
        differs = result(f"other_{key}", per_face=rows(faces), **changes)
        assert main(["compare", str(first), str(differs)]) == 1
        assert f"cannot be compared: their {key} are " in capsys.readouterr().err
    assert main(["compare", str(first), str(first / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_paired_gain_interval_ignores_what_the_faces_share():
    """Hard faces are hard in both evaluations, so the paired interval is narrow."""
    rng = np.random.default_rng(1)
    before = rng.uniform(2, 20, 200)
    after = before * 0.97 + rng.normal(0, 0.1, 200)
    gain, (low, high) = paired_gain(before, after)
    assert low < gain < high
    assert gain == pytest.approx(3, abs=0.2)
    assert low > 2.5
