"""Bulk annotation with kills, crashes, full disks and other settings: finished work is kept."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import PIL.Image
import psutil
import pytest

import pipnet.cli.annotate
from pipnet.bulk.crash_journal import Attempt, CrashJournal
from pipnet.bulk.store import Store
from pipnet.cli import main
from pipnet.errors import MissingExtraError
from pipnet.hub import packaged_detector
from test_annotate import Death, annotate, arguments, files, process, rows, run

pytestmark = pytest.mark.usefixtures("loaded_once")


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


@pytest.fixture(scope="module")
def crowd(damaged_album, tmp_path_factory):
    """60 images in 15 shards, enough to kill the job meanwhile, and the files of an undisturbed job."""
    folder = tmp_path_factory.mktemp("crowd")
    (folder / "images").mkdir()
    for number in range(60):
        name = "broken/cut.jpg" if number % 30 == 7 else f"{number % 11:02}.jpg"
        (folder / "images" / f"{number:03}.jpg").symlink_to(damaged_album / name)
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


def test_annotate_quarantines_an_image_that_needs_too_much_memory(damaged_album, tmp_path, monkeypatch):
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
        shutil.copy(damaged_album / "00.jpg", images / name)
    PIL.Image.new("RGB", (30, 30)).save(images / "large.png")
    table = rows(annotate(images, tmp_path / "labels"))
    assert len(calls) == 3
    assert [row["face"] for row in table] == [0, None, 0]
    assert "3 times" in table[1]["error"]


@pytest.mark.slow
def test_annotate_quarantines_images_that_crash_or_hang(damaged_album, tmp_path):
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
    shutil.copy(damaged_album / "00.jpg", images / "a.jpg")
    PIL.Image.new("RGB", (30, 30)).save(images / "crashes.png")
    PIL.Image.new("RGB", (40, 40)).save(images / "hangs.png")
    shutil.copy(damaged_album / "01.jpg", images / "z.jpg")
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


def test_annotate_missing_image_of_a_list_is_an_error_row(damaged_album, tmp_path):
    (tmp_path / "list.txt").write_text(
        f"{damaged_album}/00.jpg\n{damaged_album}/gone.jpg\n{damaged_album}/01.jpg\n"
    )
    table = rows(annotate(tmp_path / "list.txt", tmp_path / "labels"))
    assert [row["error"] for row in table] == [None, f"{damaged_album}/gone.jpg: no such file", None]


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


def test_annotate_unwritable_output_is_one_line(damaged_album, capsys):
    assert main(arguments(damaged_album, "/proc/labels")) == 1
    assert main(arguments(damaged_album, "/dev/null/labels")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("cannot be written" in line for line in lines)


def test_annotate_refuses_other_settings_and_other_folders(damaged_album, tmp_path, capsys):
    labels = annotate(damaged_album, tmp_path / "labels")
    before = files(labels)
    for options, message in (
        (["--detector-size", "320"], "started with detector_size 640, not 320"),
        (["--refine-steps", "1"], "started with refine_steps 0, not 1"),
        (["--column", "x"], "started with column None, not x"),
    ):
        capsys.readouterr()
        assert main(arguments(damaged_album, labels, *options)) == 1
        assert message in capsys.readouterr().err
    assert main(arguments(damaged_album / "00.jpg", labels)) == 1
    assert "started with inputs" in capsys.readouterr().err
    assert {k: v for k, v in files(labels).items() if not k.startswith(".work")} == before
    with Store(labels):
        assert main(arguments(damaged_album, labels)) == 1
    assert "another job is writing to this folder" in capsys.readouterr().err
    assert main(arguments(damaged_album, damaged_album)) == 1
    assert "not empty, and without the manifest of a job" in capsys.readouterr().err
    (labels / "shards" / "00001.parquet").unlink()
    assert main(arguments(damaged_album, labels)) == 1
    assert "missing, though the job is finished" in capsys.readouterr().err


def test_annotate_ends_if_no_worker_can_write_a_shard(damaged_album, tmp_path, monkeypatch, capsys):
    """The system kills each worker that makes the file."""

    def fail(_):
        raise MemoryError

    def kill(_):
        raise Death

    monkeypatch.setattr("pipnet.bulk.worker.to_parquet", fail)
    monkeypatch.setattr("os._exit", kill)
    assert run(damaged_album, tmp_path / "labels") == 1
    assert "cannot be written: its worker died 3 times" in capsys.readouterr().err


def test_annotate_refuses_another_detector_of_the_same_name(damaged_album, tmp_path, capsys):
    detector = tmp_path / "detector.onnx"
    detector.write_bytes(packaged_detector().read_bytes())
    options = ["--detector", f"pipnet-face:{detector}"]
    labels = annotate(damaged_album, tmp_path / "labels", *options)
    assert main(arguments(damaged_album, labels, *options)) == 0
    producer = b"\x12\x01x"
    detector.write_bytes(detector.read_bytes() + producer)
    capsys.readouterr()
    assert main(arguments(damaged_album, labels, *options)) == 1
    assert "started with sha256" in capsys.readouterr().err


def test_annotate_repeats_shards_of_truncated_records(crowd, killed_job):
    images, expected = crowd
    done = killed_job / ".work" / "done.jsonl"
    done.write_bytes(done.read_bytes()[:-20])
    next(killed_job.glob("shards/*")).unlink()
    (killed_job / ".work" / "0.partial").write_bytes(b"half")
    assert files(annotate(images, killed_job)) == expected


def test_annotate_ignores_the_progress_of_a_removed_job(damaged_album, tmp_path, capsys):
    labels = annotate(damaged_album, tmp_path / "labels")
    expected = files(labels)
    (labels / "manifest.json").unlink()
    assert main(arguments(damaged_album, labels)) == 1
    assert "without the manifest" in capsys.readouterr().err
    shutil.rmtree(labels / "shards")
    (labels / ".work").mkdir(exist_ok=True)
    record = {"number": 0, "images": 9, "faces": 9, "errors": 9, "rows": 9, "sha256": "0"}
    (labels / ".work" / "done.jsonl").write_text(json.dumps(record) + "\n")
    assert files(annotate(damaged_album, labels)) == expected


def test_annotate_without_pyarrow_names_the_extra(damaged_album, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(arguments(damaged_album, tmp_path / "labels")) == 1
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
