"""Folders of pictures as people keep them."""

import pytest

from pipnet.annotations.image_finder import files_below
from pipnet.cli.detect import find_pictures


@pytest.fixture
def album(tmp_path):
    """A folder with a hidden file and folder, links to a folder elsewhere, and one to the album itself."""
    for name in ("album/b.jpg", "album/._b.jpg", "album/.cache/c.jpg", "album/in/a.jpg", "far/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "album/link").symlink_to(tmp_path / "far")
    (tmp_path / "album/link again").symlink_to(tmp_path / "far")
    (tmp_path / "album/in/up").symlink_to(tmp_path / "album")
    (tmp_path / "far/back").symlink_to(tmp_path / "album/in")
    return tmp_path / "album"


def test_links_are_followed_once_and_never_in_a_circle(album):
    found = [path.relative_to(album).as_posix() for path in files_below(album)]
    assert found == ["b.jpg", "in/a.jpg", "link/d.jpg"]
    assert [item.path for item in find_pictures([str(album)])] == [album / name for name in found]


def test_a_folder_of_results_is_not_searched(album):
    (album / "link/e.jpg").touch()
    found = [item.path for item in find_pictures([str(album)], skip=album / "in")]
    assert found == [album / "b.jpg", album / "link/d.jpg", album / "link/e.jpg"]
