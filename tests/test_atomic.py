"""Atomic writes: complete files or none, also on full disks."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipnet.annotations.samples import FaceSample
from pipnet.datasets.pseudo_labels import PseudoLabel, write_pseudo_labels
from pipnet.datasets.unlabeled import UnlabeledFace, write_boxes
from pipnet.errors import DataError, VideoError, WriteError
from pipnet.io.atomic import atomic_write, write_text
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.video.sampling import sample_frames

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "pipnet-68.safetensors"


@contextlib.contextmanager
def max_file_size(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes, in bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def checkpoint(path: Path) -> None:
    save_checkpoint(path, *load_checkpoint(SHIPPED))


def pseudo_labels(path: Path) -> None:
    face = FaceSample(path, np.zeros((68, 2), np.float32), "a", "a")
    write_pseudo_labels(path, [PseudoLabel(face, 1, 0, 0)] * 1000)


def boxes(path: Path) -> None:
    write_boxes(path, [UnlabeledFace(path, np.float32([0, 0, 9, 9]), "a")] * 20_000)


def text(path: Path) -> None:
    write_text(path, 200_000 * " ")


@pytest.mark.parametrize("write", [checkpoint, pseudo_labels, boxes, text])
def test_atomic_write_on_a_full_disk_keeps_the_previous_version(write, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with max_file_size(100_000), pytest.raises(WriteError, match="file: cannot be written: ") as error:
        write(path)
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    with pytest.raises(WriteError, match="below: cannot be written"):
        write(path / "below")
    write(path)
    assert path.stat().st_size > 100_000
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_atomic_write_removes_the_temporary_file_on_any_error(tmp_path, error):
    def write() -> None:
        with atomic_write(tmp_path / "new" / "file") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


def test_atomic_write_writes_folders(tmp_path):
    """Also if the target is an empty folder, and if a killed process left a temporary folder behind."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.partial" / "old").mkdir(parents=True)
    with atomic_write(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("all")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        sample_frames(tmp_path / "no.mp4", tmp_path / "frames")
    assert not list((tmp_path / "frames").iterdir())


def test_write_text_refuses_text_that_is_not_utf_8(tmp_path):
    with pytest.raises(DataError, match="not UTF-8 text"):
        write_text(tmp_path / "file", "\ud800")
    assert not list(tmp_path.iterdir())


def test_write_text_keeps_symbolic_links(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


@pytest.mark.parametrize("name", [".", "/", ".."])
def test_write_text_refuses_paths_without_a_file_name(name):
    with pytest.raises(WriteError, match="not a file name"):
        write_text(Path(name), "")


def test_atomic_write_sets_the_permissions_of_the_umask(tmp_path):
    """Some libraries write files that only their owner can read."""
    before = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "file") as temporary:
            temporary.touch(mode=0o600)
        checkpoint(tmp_path / "checkpoint")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "file": 0o644,
        "checkpoint": 0o644,
    }


@pytest.mark.parametrize("write", [pseudo_labels, boxes])
def test_tables_refuse_file_names_that_are_not_utf_8(write, tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.relpath", lambda *_: "a\udcff.jpg")
    with pytest.raises(DataError, match="a name in it is not UTF-8 text"):
        write(tmp_path / "file.csv")
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_names_another_file_that_failed(tmp_path):
    refused = pytest.raises(WriteError, match=r"out: cannot be written: .*input\.txt: No such file")
    with refused, atomic_write(tmp_path / "out"):
        (tmp_path / "input.txt").read_text()
