"""Files that are whole or not at all, on disks that are full."""

import contextlib
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

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "pipnet-300w-mbv2.safetensors"


@contextlib.contextmanager
def written_at_most(size: int) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes, as if the disk were full."""
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
def test_a_full_disk_leaves_what_was_there_and_nothing_else(write, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with written_at_most(100_000), pytest.raises(WriteError, match="file: cannot be written: ") as error:
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
def test_any_other_error_leaves_nothing_either(tmp_path, error):
    def write() -> None:
        with atomic_write(tmp_path / "new" / "file") as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


def test_folders_too(tmp_path):
    """Also in the place of an empty one, and where a kill left a part behind."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.partial" / "old").mkdir(parents=True)
    with atomic_write(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "file").write_text("all")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        sample_frames(tmp_path / "no.mp4", tmp_path / "frames")
    assert not list((tmp_path / "frames").iterdir())


def test_what_is_no_text(tmp_path):
    with pytest.raises(DataError, match="not UTF-8 text"):
        write_text(tmp_path / "file", "\ud800")
    assert not list(tmp_path.iterdir())


def test_a_link_stays_one_and_what_is_no_name_is_said(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    for name in (".", "/", ".."):
        with pytest.raises(WriteError, match="not the name of a file"):
            write_text(Path(name), "")


@pytest.mark.parametrize("write", [pseudo_labels, boxes])
def test_names_that_are_no_text_are_one_line(write, tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.relpath", lambda *_: "a\udcff.jpg")
    with pytest.raises(DataError, match="a name in it is not UTF-8 text"):
        write(tmp_path / "file.csv")
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_read_meanwhile_is_named(tmp_path):
    named = pytest.raises(WriteError, match=r"out: cannot be written: .*input\.txt: No such file")
    with named, atomic_write(tmp_path / "out"):
        (tmp_path / "input.txt").read_text()
