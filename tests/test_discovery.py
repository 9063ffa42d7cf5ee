"""Finding files and images below folders, and in patterns."""

import os

import pytest

from pipnet.errors import DataError
from pipnet.io.discovery import FoundImage, files_below, find_images, images_below


@pytest.fixture
def album(tmp_path):
    """A folder with a hidden file and folder, links to another folder, and one to the album itself."""
    for name in ("album/b.jpg", "album/._b.jpg", "album/.cache/c.jpg", "album/in/a.jpg", "far/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "album/link").symlink_to(tmp_path / "far")
    (tmp_path / "album/link again").symlink_to(tmp_path / "far")
    (tmp_path / "album/in/up").symlink_to(tmp_path / "album")
    (tmp_path / "far/back").symlink_to(tmp_path / "album/in")
    return tmp_path / "album"


def test_files_below_follows_each_link_once(album):
    names = [path.relative_to(album).as_posix() for path in files_below(album)]
    assert names == ["b.jpg", "in/a.jpg", "link/d.jpg"]
    assert [item.path for item in find_images([str(album)])] == [album / name for name in names]


def test_images_below_ignores_other_files(album):
    (album / "a.txt").touch()
    assert [path.name for path in images_below(album)] == ["b.jpg", "a.jpg", "d.jpg"]


def test_find_images_skips_the_folder_of_results(album):
    (album / "link/e.jpg").touch()
    paths = [item.path for item in find_images([str(album)], skip=album / "in")]
    assert paths == [album / "b.jpg", album / "link/d.jpg", album / "link/e.jpg"]


def test_find_images_expands_patterns(album):
    assert list(find_images([str(album / "*.jpg")])) == [FoundImage(album / "b.jpg", album)]


@pytest.mark.parametrize("pattern", ["*", "**"])
def test_find_images_searches_the_folders_of_a_pattern(tmp_path, pattern):
    for name in ("a.jpg", "in/b.jpg", "in/deep/c.jpg", "out/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([str(tmp_path / pattern)], skip=tmp_path / "out")
    names = [item.path.relative_to(tmp_path).as_posix() for item in found]
    assert names == ["a.jpg", "in/b.jpg", "in/deep/c.jpg"]


def test_files_below_leaves_out_links_to_folders_that_are_walked(album):
    (album / "a link before its target").symlink_to(album / "in")
    assert [path.relative_to(album).as_posix() for path in files_below(album)] == [
        "b.jpg",
        "in/a.jpg",
        "link/d.jpg",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "the name of an image is empty"),
        ("https://example.com/a.jpg", "URLs are not supported"),
        ("*.png", "no file matches"),
        ("empty", "no images in this folder"),
        ("raw", "1 image in unsupported formats, such as raw/a.cr3: convert"),
    ],
)
def test_find_images_reports_names_that_are_no_image(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.cr3").touch()
    (item,) = find_images([name])
    assert item.error is not None
    assert message in item.error


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads every folder")
def test_files_below_refuses_unreadable_folders(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o000)
    with pytest.raises(DataError, match="locked: cannot be read"):
        list(files_below(tmp_path))
