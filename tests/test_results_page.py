"""The page of ``pipnet detect --html``: one file with everything, that loads nothing and names no folder."""

import base64
import hashlib
import io
import re
import shutil
from dataclasses import replace
from html import unescape

import numpy as np
import PIL.Image
import pytest

from pipnet.cli import main
from pipnet.evaluation.gallery.results_page import MAX_IMAGES, ResultsPage
from pipnet.io.image import read_image

EVIL = '<img src=x onerror="alert(1)">&amp; $title.jpg'


@pytest.fixture
def album(tmp_path, portrait):
    """A photo with a face and GPS data, one without a face, and a corrupt one."""
    folder = tmp_path / "private folder" / "album"
    (folder / "sub").mkdir(parents=True)
    exif = PIL.Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    PIL.Image.open(portrait).save(folder / EVIL, "JPEG", exif=exif, quality=95)
    PIL.Image.new("RGB", (3000, 1000)).save(folder / "sub" / "black.png")
    (folder / "z.jpg").write_bytes(portrait.read_bytes()[:2000])
    return folder


def tiles(page: str) -> list[str]:
    return re.findall(r"<figure.*?</figure>", page, re.DOTALL)


def test_page_shows_faces_and_errors_of_a_folder(album, tmp_path, capsys, landmarker):
    out = tmp_path / "deep" / "page.html"
    assert main(["detect", str(album), "--html", str(out)]) == 1
    assert "z.jpg" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    page = out.read_text(encoding="utf-8")
    face, corrupt, black = tiles(page)
    assert "3 images, 1 face, found by pipnet" in page
    assert "1 image could not be read." in page
    assert 'data-faces="1" data-quality="0.9' in face
    assert 'data-faces="0"' in black
    assert "data-quality" not in black
    assert "data-faces" not in corrupt
    assert "sub/black.png, faces 0" in unescape(black)
    assert "z.jpg: cannot be read" in unescape(corrupt)
    assert "private folder" not in page  # the page does not contain the paths of the images
    assert str(tmp_path) not in page

    faces = landmarker(album / EVIL)
    dots = re.findall(r"M(-?\d+) (-?\d+)h0", face)
    drawn = np.array(dots, float) / 4000 * 512 - 0.5
    assert np.abs(drawn - faces.points[0]).max() < 0.2
    assert re.search(r'viewBox="0 0 4000 1333"', black)


def test_page_contains_its_images_without_exif(album, tmp_path, landmarker):
    out = tmp_path / "page.html"
    main(["detect", str(album), "--html", str(out)])
    page = out.read_text(encoding="utf-8")
    contents = re.findall(r'src="([^"]*)"', page)
    assert len(contents) == 2
    images = []
    for content in contents:
        assert content.startswith("data:image/webp;base64,")
        images.append(PIL.Image.open(io.BytesIO(base64.b64decode(content.partition(",")[2]))))
        assert not images[-1].getexif()
    assert [image.size for image in images] == [(512, 512), (1280, 427)]
    shown = landmarker(images[0])  # the photo has its original size
    assert np.abs(shown.points - landmarker(album / EVIL).points).mean() < 2


def test_page_loads_and_runs_nothing_else(album, tmp_path):
    """The policy forbids all but images in the page and its own script and style, whose hashes it states."""
    out = tmp_path / "page.html"
    main(["detect", str(album), "--html", str(out)])
    page = out.read_text(encoding="utf-8")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert policy.startswith("default-src 'none'; img-src data:; script-src 'sha256-")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert not re.search(
        r"https?:|\bsrc=\"(?!data:)|href|url\(|@import|\bstyle=|\son\w+=\"", page.replace(EVIL, "")
    )
    assert EVIL not in page
    assert unescape(page).count(EVIL) == 2  # its label and title; the caption has it in two parts


def test_page_can_be_used_with_the_keyboard(album, tmp_path):
    out = tmp_path / "page.html"
    main(["detect", str(album), "--html", str(out)])
    page = out.read_text(encoding="utf-8")
    for tile in tiles(page):
        assert re.search(r'<button type="button" class="face photo" aria-label="[^"]+', tile)
    for control in re.findall(r"<(?:input|select|button)[^>]*>", page):
        assert re.search(r"aria-label|type=\"(?:checkbox|number|range|button)\"|id=\"sort\"", control), (
            control
        )
    assert 'id="quality"' in page
    assert '<option value="quality" data-largest="0">' in page


def test_page_marks_faces_of_low_quality(portrait, landmarker, tmp_path):
    faces = landmarker(portrait)
    low = replace(faces, scores=np.zeros_like(faces.scores), vote_std=np.full_like(faces.vote_std, 0.3))
    assert low.quality[0] < 0.25
    page = ResultsPage(tmp_path / "page.html", 2, landmarker.metadata)
    page.add("good", faces)
    page.add("bad", low)
    page.write()
    good, bad = tiles((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert 'class="label low"' not in good
    assert 'class="label low"' in bad
    assert 'class="box low"' in bad


def test_page_of_1000_images_takes_less_than_30_megabytes(shared, landmarker, tmp_path):
    """1,000 images take less than 30 MB: real ones, of which 12 stand for all."""
    images = sorted((shared / "data" / "300w" / "helen" / "testset").glob("*.jpg"))[:12]
    page = ResultsPage(tmp_path / "page.html", 1000, landmarker.metadata)
    for path in images:
        image = read_image(path)
        page.add(path.name, landmarker(np.concatenate([image, image[:, ::-1]], axis=1)))
    page.write()
    assert len(images) == 12
    assert (tmp_path / "page.html").stat().st_size / 12 * 1000 < 30e6


def test_page_shows_at_most_1000_images(landmarker, tmp_path):
    page = ResultsPage(tmp_path / "page.html", 1500, landmarker.metadata)
    faces = landmarker(np.zeros((16, 16, 3), np.uint8))
    for i in range(1500):
        page.add(f"image {i}", faces)
    page.write()
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(tiles(text)) == MAX_IMAGES
    assert "1,000 of the images are shown, evenly spaced, not selected." in text
    assert "image 1498<" in text


def test_page_replaces_an_earlier_one_and_refuses_other_names(portrait, tmp_path, capsys):
    out = tmp_path / "page.html"
    shutil.copy(portrait, tmp_path / "a.jpg")
    for _ in range(2):
        assert main(["detect", str(tmp_path / "a.jpg"), "--html", str(out)]) == 0
        assert len(tiles(out.read_text(encoding="utf-8"))) == 1
    capsys.readouterr()
    assert main(["detect", str(portrait), "--html", str(tmp_path / "page.txt")]) == 1
    assert capsys.readouterr().err.endswith("expected the name of a file that ends in .html\n")
    assert not (tmp_path / "page.txt").exists()
