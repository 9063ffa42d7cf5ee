"""Bulk annotation: every kind of input, damage as rows, and kills that change nothing."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipnet.annotations.formats import read_annotations
from pipnet.bulk.crash_journal import Attempt, Marks
from pipnet.bulk.inputs import find_pictures, find_sources
from pipnet.bulk.store import Store
from pipnet.cli import main
from pipnet.errors import MissingExtraError
from pipnet.io.image import read_image, write_image
from pipnet.scheme import LandmarkScheme

BAD = {"broken/cut.jpg": "truncated", "broken/empty.png": "empty file", "broken/text.jpg": "not a picture"}


@pytest.fixture(scope="module")
def album(tmp_path_factory, portrait):
    """A dozen readable pictures, one of them without a face, and three that are damaged."""
    folder = tmp_path_factory.mktemp("annotate") / "album"
    (folder / "broken").mkdir(parents=True)
    image = read_image(portrait)
    for number in range(11):
        x = 8 * number
        write_image(folder / f"{number:02}.jpg", image[: 260 + x, x : x + 320])
    PIL.Image.new("RGB", (300, 200), "gray").save(folder / "nobody.png")
    (folder / "broken/cut.jpg").write_bytes((folder / "03.jpg").read_bytes()[:5000])
    (folder / "broken/empty.png").touch()
    (folder / "broken/text.jpg").write_text("no picture\n" * 50)
    return folder


@pytest.fixture(scope="module")
def defer_signals(album, tmp_path_factory):
    """What one process makes of it, file by file."""
    return files(annotate(album, tmp_path_factory.mktemp("defer_signals") / "labels", "--workers", "1"))


def command(source, labels, *more):
    return ["annotate", str(source), "-o", str(labels), "--shard-size", "4", *map(str, more)]


def annotate(source, labels, *more):
    """Annotate in shards of four, and give the folder back."""
    assert main(command(source, labels, *more)) == 0
    return labels


def files(labels):
    """The content of all files of a finished job."""
    return {str(p.relative_to(labels)): p.read_bytes() for p in labels.rglob("*") if p.is_file()}


def rows(labels):
    return pq.read_table(labels / "shards").to_pylist()


def process(source, labels, *more, **environment):
    """The same in a process of its own, to be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipnet", *command(source, labels, *more)],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, running):
    """Wait until something is there while a process runs."""
    while not condition():
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.01)


def shards_in(labels):
    return len(list(labels.glob("shards/*")))


def workers_of(running):
    """The processes that annotate for it."""
    found = []
    for child in psutil.Process(running.pid).children():
        try:
            found += [child] if any("spawn_main" in word for word in child.cmdline()) else []
        except psutil.NoSuchProcess:
            continue
    return found


# -- what comes out ------------------------------------------------------------------------------------


def test_a_folder(album, tmp_path, landmarker, capsys):
    labels = annotate(album, tmp_path / "labels", "--workers", "1")
    err = capsys.readouterr().err
    assert f"{labels}: 15 pictures, 11 faces, 3 pictures with an error; " in err
    assert "faces a second" in err
    table = {row["image"]: row for row in rows(labels)}
    readable = [f"{number:02}.jpg" for number in range(11)]
    assert list(table) == [*readable, "nobody.png", *BAD]
    for name, found in zip(readable, landmarker([album / n for n in readable]), strict=True):
        row = table[name]
        assert (row["face"], row["error"]) == (0, None)
        assert (row["height"], row["width"]) == found.image.shape[:2]
        np.testing.assert_allclose(np.reshape(row["points"], (68, 2)), found.points[0], atol=0.05)
        np.testing.assert_allclose(row["scores"], found.scores[0], atol=0.01)
        np.testing.assert_allclose(row["box"], found.boxes[0], atol=1e-3)
        assert len(row["vote_std"]) == 68
        assert not any(row["tta_std"])
        assert row["quality"] == pytest.approx(found.quality[0], abs=0.01)
        assert 0.5 < row["box_score"] <= 1
    nobody = table["nobody.png"]
    assert (nobody["face"], nobody["points"], nobody["error"], nobody["width"]) == (None, None, None, 300)
    for name, words in BAD.items():
        assert words in table[name]["error"]
        assert table[name]["width"] is None
    manifest = json.loads((labels / "manifest.json").read_text())
    assert manifest["pictures"] == 15
    assert [shard["pictures"] for shard in manifest["shards"]] == [4, 4, 4, 3]
    assert manifest["model"]["name"] == landmarker.model.metadata.name
    assert LandmarkScheme.from_dict(manifest["model"]["scheme"]) == landmarker.model.metadata.scheme
    assert sorted(p.name for p in labels.iterdir()) == ["manifest.json", "shards"]


def test_views_bring_their_disagreement(portrait, tmp_path):
    found = rows(annotate(portrait, tmp_path / "labels", "--tta", "flip"))
    assert 0 < np.mean(found[0]["tta_std"]) < 0.05


def test_two_workers_are_as_one(album, tmp_path, defer_signals):
    assert files(annotate(album, tmp_path / "labels", "--workers", "2")) == defer_signals


def test_a_ray_cluster_is_as_one_process(album, tmp_path, defer_signals):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'pipnet[bulk]'")
    labels = tmp_path / "labels"
    with process(album, labels, "--engine", "ray", "--workers", "2") as running:
        err = running.communicate()[1]
    assert running.returncode == 0, err
    assert files(labels) == defer_signals


def test_other_formats_may_be_asked_for_later(album, tmp_path, capsys):
    labels = annotate(album, tmp_path / "labels")
    annotate(album, labels, "--format", "jsonl", "--format", "coco")
    assert "all done before" in capsys.readouterr().err
    lines = [json.loads(line) for line in (labels / "labels.jsonl").read_text().splitlines()]
    assert main(["detect", str(album / "00.jpg"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert set(lines[0]) == set(alone)
    assert set(lines[0]["faces"][0]) == set(alone["faces"][0])
    np.testing.assert_allclose(lines[0]["faces"][0]["points"], alone["faces"][0]["points"], atol=0.05)
    assert [line["image"] for line in lines if "error" in line] == list(BAD)
    table = json.loads((labels / "labels.coco.json").read_text())
    assert len(table["images"]) == 12
    assert [face["id"] for face in table["annotations"]] == list(range(1, 12))
    samples = read_annotations(labels / "labels.coco.json", album).samples
    assert [sample.image.name for sample in samples] == [f"{number:02}.jpg" for number in range(11)]


# -- what goes in --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(album, tmp_path_factory):
    """The album as lists, tar files and tables."""
    folder = tmp_path_factory.mktemp("sources")
    names = [f"{number:02}.jpg" for number in range(11)] + ["nobody.png", *BAD]
    paths = [album / name for name in names]
    (folder / "list.txt").write_text("".join(f"{os.path.relpath(p, folder)}\n\n" for p in paths))
    for number, part in enumerate((paths[:6], paths[6:])):
        with tarfile.open(folder / f"part-{number:03}.tar", "w") as tar:
            for path in part:
                tar.add(path, path.name)
                label = tarfile.TarInfo(path.stem + ".cls")  # as WebDataset puts beside a picture
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
def test_the_same_pictures_from_elsewhere(sources, album, defer_signals, name, first, tmp_path):
    name, *more = name.split()
    found = rows(annotate(sources / name, tmp_path / "labels", *more))
    plain = tmp_path / "plain"
    for file, content in defer_signals.items():
        (plain / file).parent.mkdir(parents=True, exist_ok=True)
        (plain / file).write_bytes(content)
    assert found[0]["image"] == (first or os.path.relpath(album / "00.jpg", sources))
    for row, same in zip(found, rows(plain), strict=True):
        assert bool(row.pop("error")) == bool(same.pop("error"))
        row.pop("image")
        same.pop("image")
        assert row == same


def test_pictures_of_kinds_that_cannot_be_read_are_rows(portrait, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(portrait, folder / "a.jpg")
    (folder / "b.HEIC").write_bytes(b"ftypheic")
    (folder / "notes.txt").write_text("no picture")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(folder, "in")
    for source, within in ((folder, ""), (tmp_path / "photos.tar", "photos.tar/in/")):
        found = rows(annotate(source, tmp_path / f"labels{source.suffix}", "--workers", "1"))
        assert [(row["image"], row["error"] is None) for row in found] == [
            (f"{within}a.jpg", True),
            (f"{within}b.HEIC", False),
        ]
        assert "turn it into JPEG" in found[1]["error"]


def test_damaged_tar_files_and_tables_keep_what_can_be_read(sources, tmp_path):
    cut = tmp_path / "part-cut.tar"
    content = (sources / "part-000.tar").read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    (tmp_path / "text.parquet").write_text("no table")
    found = rows(annotate(f"{tmp_path}/{{part-cut.tar,text.parquet}}", tmp_path / "labels"))
    assert found[0]["image"] == "part-cut.tar/00.jpg"
    assert sum(row["face"] == 0 for row in found) >= 2
    assert [row["image"] for row in found if "not a whole" in str(row["error"])] == [
        "part-cut.tar",
        "text.parquet",
    ]


def test_names_are_taken_as_they_are(portrait, tmp_path):
    """A byte that is no UTF-8, a new line, and brackets that are no pattern."""
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
    sources = find_sources([str(folder)])
    assert sources == [folder]
    assert len(list(find_pictures(sources, folder, None))) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "no such file or folder"),
        ("*.tar", "nothing matches"),
        ("folder", "no pictures in it"),
        ("list.txt", "no pictures in this list"),
        ("word.doc", "not a folder, a .txt list"),
        ("numbers.parquet", "neither pictures nor paths"),
        ("columns.parquet", "which --column holds the pictures? There are a, b"),
    ],
)
def test_what_cannot_be_annotated_is_one_line(tmp_path, name, words, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "list.txt").write_text("\n\n")
    (tmp_path / "word.doc").touch()
    pq.write_table(pa.table({"image": [1, 2]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"a": [1, 2], "b": [1, 2]}), tmp_path / "columns.parquet")
    assert main(command(tmp_path / name, tmp_path / "labels")) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


def test_where_no_picture_can_be_read_the_exit_code_says_so(album, tmp_path):
    assert main(command(album / "broken", tmp_path / "labels")) == 1
    assert len(rows(tmp_path / "labels")) == 3
    (tmp_path / "lost.txt").write_text("one.jpg\ntwo.jpg\n")
    assert main(command(tmp_path / "lost.txt", tmp_path / "lost")) == 1
    assert [row["error"] for row in rows(tmp_path / "lost")] == [
        "one.jpg: no such file",
        "two.jpg: no such file",
    ]


# -- nothing is lost, nothing is twice -----------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(album, tmp_path_factory):
    """Enough pictures to be killed in: 90, in 23 shards; and what one process makes of them."""
    folder = tmp_path_factory.mktemp("crowd")
    (folder / "pictures").mkdir()
    for number in range(90):
        name = "broken/cut.jpg" if number % 30 == 7 else f"{number % 11:02}.jpg"
        (folder / "pictures" / f"{number:03}.jpg").symlink_to(album / name)
    annotate(folder / "pictures", folder / "labels")
    return folder / "pictures", files(folder / "labels")


def test_killed_workers_change_nothing(crowd, tmp_path):
    pictures, expected = crowd
    labels = tmp_path / "labels"
    with process(pictures, labels, "--workers", "2") as running:
        for count in (1, 5, 9):
            wait_for(lambda count=count: shards_in(labels) >= count, running)
            wait_for(lambda: workers_of(running), running)
            workers_of(running)[0].kill()
        err = running.communicate(timeout=300)[1]
    assert running.returncode == 0, err
    assert files(labels) == expected


def test_a_killed_job_goes_on_and_its_processes_are_gone(crowd, tmp_path, capsys):
    pictures, expected = crowd
    labels = tmp_path / "labels"
    with process(pictures, labels, "--workers", "2") as running:
        wait_for(lambda: shards_in(labels) >= 3, running)
        workers = workers_of(running)
        running.kill()
    assert workers
    psutil.wait_procs(workers, timeout=300)
    assert not any(worker.is_running() for worker in workers)
    kept = {path.name: path.stat().st_mtime_ns for path in labels.glob("shards/*")}
    noted = len((labels / ".work" / "done.jsonl").read_text().splitlines())
    assert 1 <= noted <= len(kept) < 23
    annotate(pictures, labels)
    assert f"{4 * noted} of the pictures done before" in capsys.readouterr().err
    assert (
        sum(kept[p.name] == p.stat().st_mtime_ns for p in labels.glob("shards/*") if p.name in kept) == noted
    )
    assert files(labels) == expected


def test_ctrl_c_keeps_what_is_done(crowd, tmp_path, start):
    pictures, expected = crowd
    labels = tmp_path / "labels"
    with start(*command(pictures, labels)) as running:
        wait_for(lambda: shards_in(labels) >= 2, running)
        running.send_signal(2)
        _, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert files(annotate(pictures, labels)) == expected


def test_pictures_that_crash_or_hang_are_given_up(album, tmp_path):
    """No decoder here can be made to crash by a file, so one is put in its place that does."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time, pipnet.io.image as images\n"
        "plain = images._decode\n"
        "def decode(picture, most):\n"
        "    if picture.size == (30, 30): os.kill(os.getpid(), 9)\n"
        "    if picture.size == (40, 40): time.sleep(1000)\n"
        "    return plain(picture, most)\n"
        "images._decode = decode\n"
    )
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    shutil.copy(album / "00.jpg", pictures / "a.jpg")
    PIL.Image.new("RGB", (30, 30)).save(pictures / "crashes.png")
    PIL.Image.new("RGB", (40, 40)).save(pictures / "hangs.png")
    shutil.copy(album / "01.jpg", pictures / "z.jpg")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with process(pictures, tmp_path / "labels", "--timeout", "10", PYTHONPATH=path) as running:
        err = running.communicate(timeout=300)[1]
    assert running.returncode == 0, err
    found = rows(tmp_path / "labels")
    assert [row["face"] for row in found] == [0, None, None, 0]
    assert [bool(row["error"]) for row in found] == [False, True, True, False]
    assert "3 times" in found[1]["error"]


def test_pictures_that_are_gone_stop_the_job_until_they_are_back(crowd, tmp_path, capsys):
    pictures, expected = crowd
    labels = tmp_path / "labels"
    with process(pictures, labels) as running:
        wait_for(lambda: shards_in(labels) >= 2, running)
        running.kill()
    kept = shards_in(labels)
    pictures.rename(tmp_path / "away")
    try:
        assert main(command(pictures, labels)) == 1
    finally:
        (tmp_path / "away").rename(pictures)
    err = capsys.readouterr().err
    assert "are the pictures still there?" in err
    assert err.count("\n") == 1
    assert shards_in(labels) == kept < 23
    assert files(annotate(pictures, labels)) == expected


def test_a_picture_that_went_since_it_was_listed_is_a_row(album, tmp_path):
    (tmp_path / "list.txt").write_text(f"{album}/00.jpg\n{album}/gone.jpg\n{album}/01.jpg\n")
    found = rows(annotate(tmp_path / "list.txt", tmp_path / "labels"))
    assert [row["error"] for row in found] == [None, f"{album}/gone.jpg: no such file", None]


def test_a_full_disk_is_one_line_and_keeps_what_is_done(crowd, tmp_path, capsys):
    pictures, expected = crowd
    labels = tmp_path / "labels"
    done = labels / ".work" / "done.jsonl"
    with process(pictures, labels) as running:
        wait_for(done.is_file, running)
        running.kill()
    kept = {path.name for path in labels.glob("shards/*")}
    done.rename(tmp_path / "done.jsonl")
    done.symlink_to("/dev/full")
    assert main(command(pictures, labels)) == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert kept <= {path.name for path in labels.glob("shards/*")}
    (tmp_path / "done.jsonl").replace(done)
    assert files(annotate(pictures, labels)) == expected


def test_a_target_that_cannot_be_written(album, capsys):
    assert main(command(album, "/proc/labels")) == 1
    assert main(command(album, "/dev/null/labels")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("cannot be written" in line for line in lines)


def test_other_settings_and_other_jobs_are_refused(album, tmp_path, capsys):
    labels = annotate(album, tmp_path / "labels")
    before = files(labels)
    for more, words in (
        (["--detector-size", "320"], "begun with detector_size 640, not 320"),
        (["--refine-steps", "1"], "begun with refine_steps 0, not 1"),
        (["--column", "x"], "begun with column None, not x"),
    ):
        capsys.readouterr()
        assert main(command(album, labels, *more)) == 1
        assert words in capsys.readouterr().err
    assert main(command(album / "00.jpg", labels)) == 1
    assert "begun with inputs" in capsys.readouterr().err
    assert {k: v for k, v in files(labels).items() if not k.startswith(".work")} == before
    with Store(labels):
        assert main(command(album, labels)) == 1
    assert "another job is writing there" in capsys.readouterr().err
    assert main(command(album, album)) == 1
    assert "not empty, and without the manifest of a job" in capsys.readouterr().err
    (labels / "shards" / "00001.parquet").unlink()
    assert main(command(album, labels)) == 1
    assert "gone since it was made" in capsys.readouterr().err


def test_lines_cut_off_by_a_power_cut_mean_that_a_shard_is_done_again(crowd, tmp_path):
    pictures, expected = crowd
    labels = tmp_path / "labels"
    with process(pictures, labels) as running:
        wait_for(lambda: shards_in(labels) >= 4, running)
        running.kill()
    done = labels / ".work" / "done.jsonl"
    done.write_bytes(done.read_bytes()[:-20])
    next(labels.glob("shards/*")).unlink()
    (labels / ".work" / "0.partial").write_bytes(b"half")
    assert files(annotate(pictures, labels)) == expected


def test_what_is_left_of_a_job_that_was_thrown_away_is_not_taken_for_done(
    album, tmp_path, defer_signals, capsys
):
    labels = annotate(album, tmp_path / "labels")
    (labels / "manifest.json").unlink()
    assert main(command(album, labels)) == 1
    assert "without the manifest" in capsys.readouterr().err
    shutil.rmtree(labels / "shards")
    (labels / ".work").mkdir(exist_ok=True)
    record = {"number": 0, "pictures": 9, "faces": 9, "errors": 9, "rows": 9, "sha256": "0"}
    (labels / ".work" / "done.jsonl").write_text(json.dumps(record) + "\n")
    assert files(annotate(album, labels)) == defer_signals


def test_without_the_extra_one_line_says_what_to_install(album, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(command(album, tmp_path / "labels")) == 1
    assert capsys.readouterr().err == f"error: {MissingExtraError('pyarrow', 'bulk')}\n"
    assert not Path(tmp_path / "labels").exists()


def test_a_shard_in_which_nothing_can_be_read_is_rows(portrait, tmp_path):
    gone = "".join(f"{tmp_path}/gone/{number}.jpg\n" for number in range(4))
    (tmp_path / "list.txt").write_text(f"{gone}{portrait}\n{gone}")
    labels = annotate(tmp_path / "list.txt", tmp_path / "labels", "--workers", "1")
    assert sum(bool(row["error"]) for row in rows(labels)) == 8


def test_a_job_that_was_killed_too_does_not_blame_its_picture(tmp_path):
    marks = Marks(tmp_path / "marks")
    for end in (None, None, None, "died", "died", "stopped"):
        with marks.path.open("a") as file:
            file.write("begin\na.jpg\n")
        if end is not None:
            getattr(marks, end)()
    assert marks.strikes() == {"a.jpg": 2}
    with marks.path.open("a") as file:
        file.write("begin\na.jpg\n")
    assert marks.strikes() == {"a.jpg": 3}, "so many deaths that nobody saw are one"


def test_a_folder_of_that_name_that_is_somebody_s_is_left_alone(portrait, tmp_path, capsys):
    kept = tmp_path / "labels" / ".work" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    assert main(command(portrait, tmp_path / "labels")) == 1
    assert "not empty" in capsys.readouterr().err
    assert kept.read_text() == "precious"


def test_a_group_of_pictures_has_the_time_of_all_of_them(tmp_path, monkeypatch):
    seconds = []
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda time, **_: seconds.append(time))
    with Attempt(tmp_path / "marks", timeout=20) as attempt:
        assert attempt.step("0")
        assert attempt.step("0-15", 16)
    assert seconds == [20, 320]
