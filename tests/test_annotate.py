"""Bulk annotation: outputs, all types of inputs, and unreadable images as rows with an error."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipnet.cli.annotate
from pipnet.annotations.formats import read_annotations
from pipnet.bulk.inputs import find_inputs, find_references
from pipnet.bulk.worker import Worker
from pipnet.cli import main
from pipnet.errors import PipnetError
from pipnet.scheme import LandmarkScheme

pytestmark = pytest.mark.usefixtures("loaded_once")
BAD = {"broken/cut.jpg": "truncated", "broken/empty.png": "empty file", "broken/text.jpg": "not an image"}


@pytest.fixture(scope="module")
def expected_files(damaged_album, tmp_path_factory):
    """The files of a job with one worker."""
    return files(annotate(damaged_album, tmp_path_factory.mktemp("expected") / "labels"))


def arguments(source, labels, *options):
    return ["annotate", str(source), "-o", str(labels), "--shard-size", "4", *map(str, options)]


class DirectEngine:
    """Runs the worker in this process, for tests that are not about processes: they start slowly."""

    size = 1

    def __init__(self, config, workers):
        self._worker = Worker(config)

    def submit(self, shard):
        self._shard = shard

    def wait(self):
        try:
            result = self._worker.annotate(self._shard)
        except Death:
            return self._shard, None
        if isinstance(result, str):
            raise PipnetError(result)
        return self._shard, result

    def stop(self):
        pass


class Death(BaseException):
    """The end of the worker's process."""


def run(source, labels, *options):
    """Run the command in shards of four, and its worker in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipnet.cli.annotate, "LocalEngine", DirectEngine)
        patch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)  # the worker sets it
        return main(arguments(source, labels, *options))


def annotate(source, labels, *options):
    """Annotate without processes, and return the folder."""
    assert run(source, labels, *options) == 0
    return labels


def files(labels):
    """Return the content of all files of a finished job."""
    return {str(p.relative_to(labels)): p.read_bytes() for p in labels.rglob("*") if p.is_file()}


def rows(labels):
    return pq.read_table(labels / "shards").to_pylist()


def process(source, labels, *options, **environment):
    """Start the command in its own process, to be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipnet", *arguments(source, labels, *options)],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


# -- output -------------------------------------------------------------------------------------------


def test_annotate_writes_faces_and_errors_of_a_folder(damaged_album, tmp_path, landmarker, capsys):
    labels = annotate(damaged_album, tmp_path / "labels")
    err = capsys.readouterr().err
    assert f"{labels}: 15 images, 11 faces, 3 images with an error; " in err
    assert "faces per second" in err
    table = {row["image"]: row for row in rows(labels)}
    readable = [f"{number:02}.jpg" for number in range(11)]
    assert list(table) == [*readable, "no_face.png", *BAD]
    for name, faces in zip(readable, landmarker([damaged_album / n for n in readable]), strict=True):
        row = table[name]
        assert (row["face"], row["error"]) == (0, None)
        assert (row["height"], row["width"]) == faces.image.shape[:2]
        np.testing.assert_allclose(np.reshape(row["points"], (68, 2)), faces.points[0], atol=0.05)
        np.testing.assert_allclose(row["scores"], faces.scores[0], atol=0.01)
        np.testing.assert_allclose(row["box"], faces.boxes[0], atol=1e-3)
        assert len(row["vote_std"]) == 68
        assert not any(row["tta_std"])
        assert row["quality"] == pytest.approx(faces.quality[0], abs=0.01)
        assert 0.5 < row["detection_score"] <= 1
    no_face = table["no_face.png"]
    assert (no_face["face"], no_face["points"], no_face["error"], no_face["width"]) == (None, None, None, 300)
    for name, message in BAD.items():
        assert message in table[name]["error"]
        assert table[name]["width"] is None
    manifest = json.loads((labels / "manifest.json").read_text())
    assert manifest["images"] == 15
    assert [shard["images"] for shard in manifest["shards"]] == [4, 4, 4, 3]
    assert manifest["model"]["name"] == landmarker.model.metadata.name
    assert LandmarkScheme.from_dict(manifest["model"]["scheme"]) == landmarker.model.metadata.scheme
    assert sorted(p.name for p in labels.iterdir()) == ["manifest.json", "shards"]


def test_annotate_tta_gives_tta_std(portrait, tmp_path):
    (row,) = rows(annotate(portrait, tmp_path / "labels", "--tta", "flip"))
    assert 0 < np.mean(row["tta_std"]) < 0.05


def test_annotate_two_workers_give_the_same_files(damaged_album, tmp_path, expected_files):
    labels = tmp_path / "labels"
    assert main(arguments(damaged_album, labels, "--workers", "2")) == 0
    assert files(labels) == expected_files


@pytest.mark.slow
def test_annotate_ray_gives_the_same_files(damaged_album, tmp_path, expected_files):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'pipnet[bulk]'")
    labels = tmp_path / "labels"
    with process(damaged_album, labels, "--engine", "ray", "--workers", "2") as running:
        err = running.communicate()[1]
    assert running.returncode == 0, err
    assert files(labels) == expected_files


def test_annotate_exports_a_finished_job(damaged_album, tmp_path, capsys):
    labels = annotate(damaged_album, tmp_path / "labels")
    annotate(damaged_album, labels, "--format", "jsonl", "--format", "coco")
    assert "all were annotated before" in capsys.readouterr().err
    lines = [json.loads(line) for line in (labels / "labels.jsonl").read_text().splitlines()]
    assert main(["detect", str(damaged_album / "00.jpg"), "--json"]) == 0
    (detected,) = json.loads(capsys.readouterr().out)["faces"]
    assert all(list(line) == ["image", "width", "height", "faces", "error"] for line in lines)
    assert list(lines[0]["faces"][0]) == list(detected)
    np.testing.assert_allclose(lines[0]["faces"][0]["points"], detected["points"], atol=0.05)
    unreadable = [line for line in lines if line["error"] is not None]
    assert [line["image"] for line in unreadable] == list(BAD)
    assert all((line["width"], line["height"], line["faces"]) == (None, None, []) for line in unreadable)
    table = json.loads((labels / "labels.coco.json").read_text())
    assert len(table["images"]) == 12
    assert [face["id"] for face in table["annotations"]] == list(range(1, 12))
    samples = read_annotations(labels / "labels.coco.json", damaged_album).samples
    assert [sample.image.name for sample in samples] == [f"{number:02}.jpg" for number in range(11)]


# -- inputs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(damaged_album, tmp_path_factory):
    """The album as a list, tar files and tables."""
    folder = tmp_path_factory.mktemp("sources")
    names = [f"{number:02}.jpg" for number in range(11)] + ["no_face.png", *BAD]
    paths = [damaged_album / name for name in names]
    (folder / "list.txt").write_text("".join(f"{os.path.relpath(p, folder)}\n\n" for p in paths))
    for number, part in enumerate((paths[:6], paths[6:])):
        with tarfile.open(folder / f"part-{number:03}.tar", "w") as tar:
            for path in part:
                tar.add(path, path.name)
                label = tarfile.TarInfo(path.stem + ".cls")  # as WebDataset has beside an image
                label.size = 1
                tar.addfile(label, io.BytesIO(b"7"))
    content = [p.read_bytes() for p in paths]
    tables = {
        "bytes": {"number": list(range(15)), "image": content},
        "hub": {"image": [{"bytes": c, "path": p.name} for c, p in zip(content, paths, strict=True)]},
        "paths": {"path": [os.path.relpath(p, folder) for p in paths]},
        "other": {"photo": content},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=7)
    return folder


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("list.txt", None),
        ("part-*.tar", "part-000.tar/00.jpg"),
        ("part-{000..001}.tar", "part-000.tar/00.jpg"),
        ("bytes.parquet", "bytes.parquet#0"),
        ("hub.parquet", "hub.parquet#0"),
        ("paths.parquet", None),
        ("other.parquet --column photo", "other.parquet#0"),
    ],
)
def test_annotate_labels_lists_tars_and_tables_like_a_folder(
    sources, damaged_album, expected_files, name, first, tmp_path
):
    name, *options = name.split()
    table = rows(annotate(sources / name, tmp_path / "labels", *options))
    expected = tmp_path / "expected"
    for file, content in expected_files.items():
        (expected / file).parent.mkdir(parents=True, exist_ok=True)
        (expected / file).write_bytes(content)
    assert table[0]["image"] == (first or os.path.relpath(damaged_album / "00.jpg", sources))
    for row, expected_row in zip(table, rows(expected), strict=True):
        assert bool(row.pop("error")) == bool(expected_row.pop("error"))
        row.pop("image")
        expected_row.pop("image")
        assert row == expected_row


def test_annotate_unsupported_formats_are_error_rows(portrait, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(portrait, folder / "a.jpg")
    (folder / "b.CR3").write_bytes(b"ftypcrx ")
    (folder / "notes.txt").write_text("not an image")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(folder, "in")
    for source, within in ((folder, ""), (tmp_path / "photos.tar", "photos.tar/in/")):
        table = rows(annotate(source, tmp_path / f"labels{source.suffix}"))
        assert [(row["image"], row["error"] is None) for row in table] == [
            (f"{within}a.jpg", True),
            (f"{within}b.CR3", False),
        ]
        assert "convert it to JPEG" in table[1]["error"]


def test_annotate_reads_the_intact_part_of_damaged_files(sources, tmp_path):
    cut = tmp_path / "part-cut.tar"
    content = (sources / "part-000.tar").read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    (tmp_path / "text.parquet").write_text("no table")
    table = rows(annotate(f"{tmp_path}/{{part-cut.tar,text.parquet}}", tmp_path / "labels"))
    assert table[0]["image"] == "part-cut.tar/00.jpg"
    assert sum(row["face"] == 0 for row in table) >= 2
    assert [row["image"] for row in table if "damaged" in str(row["error"])] == [
        "part-cut.tar",
        "text.parquet",
    ]


def test_annotate_accepts_any_file_name(portrait, tmp_path):
    """A byte that is not UTF-8, a line break, and brackets that are not a pattern."""
    folder = tmp_path / "a[1]{b}"
    folder.mkdir()
    for name in (b"\xff.jpg", b"a\nb.jpg", b"*.jpg"):
        shutil.copy(portrait, folder / os.fsdecode(name))
    labels = annotate(folder, tmp_path / "labels", "--format", "jsonl", "--format", "coco")
    assert [(row["image"], row["error"]) for row in rows(labels)] == [
        ("*.jpg", None),
        ("a\nb.jpg", None),
        ("\\xff.jpg", None),
    ]
    inputs = find_inputs([str(folder)])
    assert inputs == [folder]
    assert len(list(find_references(inputs, folder, None))) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file or folder"),
        ("*.tar", "no file matches"),
        ("folder", "no images in it"),
        ("list.txt", "no images in this list"),
        ("word.doc", "not a folder, a .txt list"),
        ("numbers.parquet", "neither images nor paths"),
        ("columns.parquet", "name the --column with the images, one of a, b"),
    ],
)
def test_annotate_refuses_unsupported_inputs_in_one_line(tmp_path, name, message, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "list.txt").write_text("\n\n")
    (tmp_path / "word.doc").touch()
    pq.write_table(pa.table({"image": [1, 2]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"a": [1, 2], "b": [1, 2]}), tmp_path / "columns.parquet")
    assert main(arguments(tmp_path / name, tmp_path / "labels")) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_annotate_exits_with_1_if_no_image_can_be_read(damaged_album, tmp_path):
    assert run(damaged_album / "broken", tmp_path / "labels") == 1
    assert len(rows(tmp_path / "labels")) == 3
    (tmp_path / "lost.txt").write_text("one.jpg\ntwo.jpg\n")
    assert run(tmp_path / "lost.txt", tmp_path / "lost") == 1
    assert [row["error"] for row in rows(tmp_path / "lost")] == [
        "one.jpg: no such file",
        "two.jpg: no such file",
    ]
