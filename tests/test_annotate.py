"""Bulk annotation: all kinds of inputs, errors as rows, and results that kills do not change."""

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

import pipnet.cli.annotate
from pipnet.annotations.formats import read_annotations
from pipnet.bulk.crash_journal import Attempt, CrashJournal
from pipnet.bulk.inputs import find_inputs, find_references
from pipnet.bulk.store import Store
from pipnet.bulk.worker import Worker
from pipnet.cli import main
from pipnet.errors import MissingExtraError, PipnetError
from pipnet.io.image import read_image, write_image
from pipnet.scheme import LandmarkScheme

pytestmark = pytest.mark.usefixtures("loaded_once")
BAD = {"broken/cut.jpg": "truncated", "broken/empty.png": "empty file", "broken/text.jpg": "not an image"}


@pytest.fixture(scope="module")
def album(tmp_path_factory, portrait):
    """Twelve readable images, one of them without a face, and three that are damaged."""
    folder = tmp_path_factory.mktemp("annotate") / "album"
    (folder / "broken").mkdir(parents=True)
    image = read_image(portrait)
    for number in range(11):
        x = 8 * number
        write_image(folder / f"{number:02}.jpg", image[: 260 + x, x : x + 320])
    PIL.Image.new("RGB", (300, 200), "gray").save(folder / "nobody.png")
    (folder / "broken/cut.jpg").write_bytes((folder / "03.jpg").read_bytes()[:5000])
    (folder / "broken/empty.png").touch()
    (folder / "broken/text.jpg").write_text("not an image\n" * 50)
    return folder


@pytest.fixture(scope="module")
def expected_files(album, tmp_path_factory):
    """The files of a job with one worker."""
    return files(annotate(album, tmp_path_factory.mktemp("expected") / "labels"))


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


def wait_for(condition, running):
    """Wait until a condition is true while a process runs."""
    while not condition():
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.01)


def shards_in(labels):
    return len(list(labels.glob("shards/*")))


def workers_of(running):
    """Return the worker processes of a job."""
    workers = []
    for child in psutil.Process(running.pid).children():
        try:
            workers += [child] if any("spawn_main" in word for word in child.cmdline()) else []
        except psutil.NoSuchProcess:
            continue
    return workers


# -- output -------------------------------------------------------------------------------------------


def test_annotate_folder(album, tmp_path, landmarker, capsys):
    labels = annotate(album, tmp_path / "labels")
    err = capsys.readouterr().err
    assert f"{labels}: 15 images, 11 faces, 3 images with an error; " in err
    assert "faces per second" in err
    table = {row["image"]: row for row in rows(labels)}
    readable = [f"{number:02}.jpg" for number in range(11)]
    assert list(table) == [*readable, "nobody.png", *BAD]
    for name, faces in zip(readable, landmarker([album / n for n in readable]), strict=True):
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
    nobody = table["nobody.png"]
    assert (nobody["face"], nobody["points"], nobody["error"], nobody["width"]) == (None, None, None, 300)
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


def test_annotate_two_workers_give_the_same_files(album, tmp_path, expected_files):
    labels = tmp_path / "labels"
    assert main(arguments(album, labels, "--workers", "2")) == 0
    assert files(labels) == expected_files


@pytest.mark.slow
def test_annotate_ray_gives_the_same_files(album, tmp_path, expected_files):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'pipnet[bulk]'")
    labels = tmp_path / "labels"
    with process(album, labels, "--engine", "ray", "--workers", "2") as running:
        err = running.communicate()[1]
    assert running.returncode == 0, err
    assert files(labels) == expected_files


def test_annotate_exports_a_finished_job(album, tmp_path, capsys):
    labels = annotate(album, tmp_path / "labels")
    annotate(album, labels, "--format", "jsonl", "--format", "coco")
    assert "all were annotated before" in capsys.readouterr().err
    lines = [json.loads(line) for line in (labels / "labels.jsonl").read_text().splitlines()]
    assert main(["detect", str(album / "00.jpg"), "--json"]) == 0
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
    samples = read_annotations(labels / "labels.coco.json", album).samples
    assert [sample.image.name for sample in samples] == [f"{number:02}.jpg" for number in range(11)]


# -- inputs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(album, tmp_path_factory):
    """The album as a list, tar files and tables."""
    folder = tmp_path_factory.mktemp("sources")
    names = [f"{number:02}.jpg" for number in range(11)] + ["nobody.png", *BAD]
    paths = [album / name for name in names]
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
def test_annotate_lists_tars_and_tables_as_a_folder(sources, album, expected_files, name, first, tmp_path):
    name, *options = name.split()
    table = rows(annotate(sources / name, tmp_path / "labels", *options))
    expected = tmp_path / "expected"
    for file, content in expected_files.items():
        (expected / file).parent.mkdir(parents=True, exist_ok=True)
        (expected / file).write_bytes(content)
    assert table[0]["image"] == (first or os.path.relpath(album / "00.jpg", sources))
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


def test_annotate_reads_the_intact_part_of_damaged_containers(sources, tmp_path):
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


def test_annotate_takes_any_file_name(portrait, tmp_path):
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
def test_annotate_refuses_other_inputs_in_one_line(tmp_path, name, message, capsys):
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


def test_annotate_exits_with_1_if_no_image_can_be_read(album, tmp_path):
    assert run(album / "broken", tmp_path / "labels") == 1
    assert len(rows(tmp_path / "labels")) == 3
    (tmp_path / "lost.txt").write_text("one.jpg\ntwo.jpg\n")
    assert run(tmp_path / "lost.txt", tmp_path / "lost") == 1
    assert [row["error"] for row in rows(tmp_path / "lost")] == [
        "one.jpg: no such file",
        "two.jpg: no such file",
    ]


# -- kills and failures -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(album, tmp_path_factory):
    """60 images in 15 shards, enough to kill the job meanwhile, and the files of an undisturbed job."""
    folder = tmp_path_factory.mktemp("crowd")
    (folder / "images").mkdir()
    for number in range(60):
        name = "broken/cut.jpg" if number % 30 == 7 else f"{number % 11:02}.jpg"
        (folder / "images" / f"{number:03}.jpg").symlink_to(album / name)
    annotate(folder / "images", folder / "labels")
    return folder / "images", files(folder / "labels")


@pytest.fixture(scope="module")
def killed(crowd, tmp_path_factory):
    """The folder of a job that was killed with some shards finished, and its workers."""
    labels = tmp_path_factory.mktemp("killed") / "labels"
    done = labels / ".work" / "done.jsonl"
    with process(crowd[0], labels, "--workers", "1") as running:
        wait_for(lambda: done.is_file() and done.read_text().count("\n") >= 2, running)
        workers = workers_of(running)
        running.kill()
    psutil.wait_procs(workers, timeout=300)
    return labels, workers


@pytest.fixture
def killed_job(killed, tmp_path):
    """A copy of the folder of the killed job."""
    return shutil.copytree(killed[0], tmp_path / "labels")


@pytest.mark.slow
def test_annotate_killed_workers_do_not_change_the_files(crowd, tmp_path):
    images, expected = crowd
    labels = tmp_path / "labels"
    with process(images, labels, "--workers", "2") as running:
        for count in (1, 4, 7):
            wait_for(lambda count=count: shards_in(labels) >= count, running)
            wait_for(lambda: workers_of(running), running)
            workers_of(running)[0].kill()
        err = running.communicate(timeout=300)[1]
    assert running.returncode == 0, err
    assert files(labels) == expected


def test_annotate_workers_of_a_killed_job_end(killed):
    workers = killed[1]
    assert workers
    assert not any(worker.is_running() for worker in workers)


def test_annotate_resumes_a_killed_job(crowd, killed_job, capsys):
    images, expected = crowd
    kept = {path.name: path.stat().st_mtime_ns for path in killed_job.glob("shards/*")}
    recorded = len((killed_job / ".work" / "done.jsonl").read_text().splitlines())
    assert 2 <= recorded <= len(kept) < 15
    annotate(images, killed_job)
    assert f"{4 * recorded} images were annotated before" in capsys.readouterr().err
    now = {path.name: path.stat().st_mtime_ns for path in killed_job.glob("shards/*")}
    assert sum(now[name] == time for name, time in kept.items()) == recorded
    assert files(killed_job) == expected


@pytest.mark.slow
def test_annotate_ctrl_c_keeps_finished_shards(crowd, tmp_path, start):
    images, expected = crowd
    labels = tmp_path / "labels"
    with start(*arguments(images, labels)) as running:
        wait_for(lambda: shards_in(labels) >= 2, running)
        running.send_signal(2)
        _, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert files(annotate(images, labels)) == expected


def test_annotate_quarantines_an_image_that_needs_too_much_memory(album, tmp_path, monkeypatch):
    """The system kills the worker three times."""
    calls = []

    def kill(_):
        calls.append("kill")
        raise Death

    def decode(image, max_pixels):
        if image.size == (30, 30):
            raise MemoryError
        return plain(image, max_pixels)

    plain = pipnet.io.image._decode
    monkeypatch.setattr("pipnet.io.image._decode", decode)
    monkeypatch.setattr("os._exit", kill)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.jpg", "z.jpg"):
        shutil.copy(album / "00.jpg", images / name)
    PIL.Image.new("RGB", (30, 30)).save(images / "large.png")
    table = rows(annotate(images, tmp_path / "labels"))
    assert len(calls) == 3
    assert [row["face"] for row in table] == [0, None, 0]
    assert "3 times" in table[1]["error"]


@pytest.mark.slow
def test_annotate_quarantines_images_that_crash_or_hang(album, tmp_path):
    """The decoder is replaced by one that crashes and hangs."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time, pipnet.io.image as images\n"
        "plain = images._decode\n"
        "def decode(image, max_pixels):\n"
        "    if image.size == (30, 30): os.kill(os.getpid(), 9)\n"
        "    if image.size == (40, 40): time.sleep(1000)\n"
        "    return plain(image, max_pixels)\n"
        "images._decode = decode\n"
    )
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(album / "00.jpg", images / "a.jpg")
    PIL.Image.new("RGB", (30, 30)).save(images / "crashes.png")
    PIL.Image.new("RGB", (40, 40)).save(images / "hangs.png")
    shutil.copy(album / "01.jpg", images / "z.jpg")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with process(images, tmp_path / "labels", "--timeout", "10", PYTHONPATH=path) as running:
        err = running.communicate(timeout=300)[1]
    assert running.returncode == 0, err
    table = rows(tmp_path / "labels")
    assert [row["face"] for row in table] == [0, None, None, 0]
    assert [bool(row["error"]) for row in table] == [False, True, True, False]
    assert "3 times" in table[1]["error"]


def test_annotate_stops_while_the_image_folder_is_missing(crowd, killed_job, tmp_path, capsys):
    images, expected = crowd
    kept = shards_in(killed_job)
    images.rename(tmp_path / "away")
    try:
        assert run(images, killed_job) == 1
    finally:
        (tmp_path / "away").rename(images)
    err = capsys.readouterr().err
    assert "are the images still available?" in err
    assert err.count("\n") == 1
    assert shards_in(killed_job) == kept < 15
    assert files(annotate(images, killed_job)) == expected


def test_annotate_missing_image_of_a_list_is_an_error_row(album, tmp_path):
    (tmp_path / "list.txt").write_text(f"{album}/00.jpg\n{album}/gone.jpg\n{album}/01.jpg\n")
    table = rows(annotate(tmp_path / "list.txt", tmp_path / "labels"))
    assert [row["error"] for row in table] == [None, f"{album}/gone.jpg: no such file", None]


def test_annotate_full_disk_is_one_line_and_keeps_finished_shards(crowd, killed_job, tmp_path, capsys):
    images, expected = crowd
    done = killed_job / ".work" / "done.jsonl"
    kept = {path.name for path in killed_job.glob("shards/*")}
    done.rename(tmp_path / "done.jsonl")
    done.symlink_to("/dev/full")
    assert run(images, killed_job) == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert kept <= {path.name for path in killed_job.glob("shards/*")}
    (tmp_path / "done.jsonl").replace(done)
    assert files(annotate(images, killed_job)) == expected


def test_annotate_unwritable_output_is_one_line(album, capsys):
    assert main(arguments(album, "/proc/labels")) == 1
    assert main(arguments(album, "/dev/null/labels")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("cannot be written" in line for line in lines)


def test_annotate_refuses_other_settings_and_other_folders(album, tmp_path, capsys):
    labels = annotate(album, tmp_path / "labels")
    before = files(labels)
    for options, message in (
        (["--detector-size", "320"], "started with detector_size 640, not 320"),
        (["--refine-steps", "1"], "started with refine_steps 0, not 1"),
        (["--column", "x"], "started with column None, not x"),
    ):
        capsys.readouterr()
        assert main(arguments(album, labels, *options)) == 1
        assert message in capsys.readouterr().err
    assert main(arguments(album / "00.jpg", labels)) == 1
    assert "started with inputs" in capsys.readouterr().err
    assert {k: v for k, v in files(labels).items() if not k.startswith(".work")} == before
    with Store(labels):
        assert main(arguments(album, labels)) == 1
    assert "another job is writing to this folder" in capsys.readouterr().err
    assert main(arguments(album, album)) == 1
    assert "not empty, and without the manifest of a job" in capsys.readouterr().err
    (labels / "shards" / "00001.parquet").unlink()
    assert main(arguments(album, labels)) == 1
    assert "missing, though the job is finished" in capsys.readouterr().err


def test_annotate_repeats_shards_of_truncated_records(crowd, killed_job):
    images, expected = crowd
    done = killed_job / ".work" / "done.jsonl"
    done.write_bytes(done.read_bytes()[:-20])
    next(killed_job.glob("shards/*")).unlink()
    (killed_job / ".work" / "0.partial").write_bytes(b"half")
    assert files(annotate(images, killed_job)) == expected


def test_annotate_ignores_the_progress_of_a_removed_job(album, tmp_path, expected_files, capsys):
    labels = annotate(album, tmp_path / "labels")
    (labels / "manifest.json").unlink()
    assert main(arguments(album, labels)) == 1
    assert "without the manifest" in capsys.readouterr().err
    shutil.rmtree(labels / "shards")
    (labels / ".work").mkdir(exist_ok=True)
    record = {"number": 0, "images": 9, "faces": 9, "errors": 9, "rows": 9, "sha256": "0"}
    (labels / ".work" / "done.jsonl").write_text(json.dumps(record) + "\n")
    assert files(annotate(album, labels)) == expected_files


def test_annotate_without_pyarrow_names_the_extra(album, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(arguments(album, tmp_path / "labels")) == 1
    assert capsys.readouterr().err == f"error: {MissingExtraError('pyarrow', 'bulk')}\n"
    assert not Path(tmp_path / "labels").exists()


def test_annotate_unreadable_shard_is_error_rows(portrait, tmp_path):
    gone = "".join(f"{tmp_path}/gone/{number}.jpg\n" for number in range(4))
    (tmp_path / "list.txt").write_text(f"{gone}{portrait}\n{gone}")
    labels = annotate(tmp_path / "list.txt", tmp_path / "labels")
    assert sum(bool(row["error"]) for row in rows(labels)) == 8


def test_crash_journal_counts_interruptions_less_than_deaths(tmp_path):
    journal = CrashJournal(tmp_path / "a.journal")
    for end in (None, None, None, "record_death", "record_death", "record_stop"):
        with journal.path.open("a") as file:
            file.write("begin\na.jpg\n")
        if end is not None:
            getattr(journal, end)()
    assert journal.failure_counts() == {"a.jpg": 2}
    with journal.path.open("a") as file:
        file.write("begin\na.jpg\n")
    assert journal.failure_counts() == {"a.jpg": 3}, "four interruptions are one failure"


def test_annotate_refuses_a_work_folder_with_other_files(portrait, tmp_path, capsys):
    kept = tmp_path / "labels" / ".work" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    assert main(arguments(portrait, tmp_path / "labels")) == 1
    assert "not empty" in capsys.readouterr().err
    assert kept.read_text() == "precious"


def test_attempt_timeout_is_per_image(tmp_path, monkeypatch):
    seconds = []
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda time, **_: seconds.append(time))
    with Attempt(tmp_path / "a.journal", timeout=20) as attempt:
        assert attempt.start_step("0")
        assert attempt.start_step("0-15", 16)
    assert seconds == [20, 320]


def test_annotate_refuses_a_folder_of_an_older_format(portrait, tmp_path, capsys):
    labels = tmp_path / "labels"
    shutil.copytree(Path(__file__).parent / "format1" / "job", labels)
    before = files(labels)
    assert main(arguments(portrait, labels)) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.endswith(f"; convert it: pipnet migrate {labels}\n")
    assert files(labels) == before
