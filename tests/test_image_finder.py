"""Images that annotation files name: found by relative, absolute, foreign and encoded names."""

import shutil

import pytest

from pipnet.annotations.formats import ImageFinder
from pipnet.errors import DataError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("in/a b.png", "in/a b.png"),
        ("./in/../in/a b.png", "in/../in/a b.png"),
        ("{root}/in/a b.png", "in/a b.png"),
        ("/home/me/pictures/e.png", "in/deep/e.png"),
        (r"C:\me\in\a b.png", "in/a b.png"),
        ("in/c%20d.png", "in/c%20d.png"),  # an existing file has priority
        ("/data/local-files/?d=in/a%20b.png", "in/a b.png"),
        ("http://localhost:8080/data/local-files/?d=x/deep/e.png&t=1", "in/deep/e.png"),
        ("/data/upload/1/1a2b3c4d-e.png", "in/deep/e.png"),
        ("s3://bucket/x/a%20b.png?token=1", "in/a b.png"),
    ],
)
def test_image_finder_resolves_names(image_folder, name, expected):
    assert ImageFinder(image_folder).find(name.format(root=image_folder), "here") == image_folder / expected


def test_image_finder_refuses_two_names_for_one_image(image_folder):
    """The labels of a missing folder of numbered frames must not be used for another folder."""
    pairs = [("lost/e.png", "in/deep/e.png"), ("in/deep/e.png", "lost/e.png"), ("x/e.png", "y/e.png")]
    for first, second in pairs:
        finder = ImageFinder(image_folder)
        assert finder.find(first, "here") == finder.find(first, "here") == image_folder / "in/deep/e.png"
        with pytest.raises(
            DataError, match=rf"{first}.*{second}.*would both be in/deep/e.png: one image is missing"
        ):
            finder.find(second, "here")
    finder = ImageFinder(image_folder)
    assert finder.find("in/deep/e.png", "here") != finder.find("in/deep/../deep/e.png", "here")
    uploads = [finder.find(f"/data/upload/1/{made}-a b.png", "here") for made in ("1a2b3c4d", "5a6b7c8d")]
    assert uploads == [image_folder / "in/a b.png"] * 2


def test_image_finder_refuses_missing_and_ambiguous_names(image_folder):
    shutil.copytree(image_folder / "in", image_folder / "too")
    finder = ImageFinder(image_folder)
    with pytest.raises(
        DataError, match=r"^here: several images match 'e.png': in/deep/e.png, too/deep/e.png$"
    ):
        finder.find("e.png", "here")
    assert finder.find("gone/too/deep/e.png", "here") == image_folder / "too/deep/e.png"
    for name in (
        "none.png",
        "",
        ".",
        "in",
        "a" * 5000,
        "\0",
        "\ud800.png",
        "data:image/png;base64," + "A" * 999,
    ):
        with pytest.raises(DataError, match="^here: no image ") as error:
            finder.find(name, "here")
        assert len(str(error.value)) < 300
