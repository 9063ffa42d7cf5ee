"""JPEG photos at reduced scale: what is decoded, and that points stay where they are."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipnet import FaceLandmarker
from pipnet.errors import ImageError
from pipnet.io.image import decode_image, decode_jpeg
from pipnet.io.photo import Photo, open_photo, read_photo

PORTRAIT = Path("examples/astronaut.jpg")


@pytest.fixture(scope="module")
def large() -> PIL.Image.Image:
    """The portrait at four times its size."""
    image = PIL.Image.open(PORTRAIT).convert("RGB")
    return image.resize((image.width * 4, image.height * 4))


def jpeg(image: PIL.Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "min_side", "factor"),
    [((2048, 2048), 640, 2), ((2048, 1024), 512, 4), ((2050, 1026), 512, 2), ((2049, 1024), 512, 1),
     ((4096, 2048), 320, 8), ((600, 600), 640, 1)],
)  # fmt: skip
def test_smallest_sufficient_scale_that_divides_both_sides_is_decoded(large, size, min_side, factor):
    content = jpeg(large.resize(size))
    image, chosen = decode_jpeg(content, "photo", 10**8, min_side)
    assert chosen == factor
    assert image.shape == (size[1] // factor, size[0] // factor, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_reduced_copy_shows_the_same_image(large, mode):
    content = jpeg(large.convert(mode))
    photo = open_photo(content, "photo", 10**8, 512)
    assert isinstance(photo, Photo)
    small = PIL.Image.fromarray(photo.pixels).reduce(photo.factor)
    assert photo.pixels.shape == photo.shape
    assert [len(photo.at(factor)) for factor in (1, 2, 4)] == [2048, 1024, 512]
    assert np.abs(np.asarray(small, int) - photo.reduced).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_copy_is_upright(large, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(large.resize((2560, 1920)), exif=exif)
    photo = open_photo(content, "photo", 10**8, 640)
    assert photo.shape == decode_image(content, "photo").shape
    small = PIL.Image.fromarray(photo.pixels).reduce(photo.factor)
    assert np.abs(np.asarray(small, int) - photo.reduced).mean() < 2


def test_other_formats_are_decoded_at_full_scale(large, tmp_path):
    large.resize((1280, 1280)).save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png", 10**8, 320).shape == (1280, 1280, 3)
    with pytest.raises(ImageError, match="no such file"):
        read_photo(tmp_path / "b.jpg", 10**8, 320)
    with pytest.raises(ImageError, match="pixels"):
        open_photo(jpeg(large), "photo", 10**6, 320)
    with pytest.raises(ImageError, match=r"^photo: "):
        open_photo(jpeg(large)[:50_000], "photo", 10**8, 320)


def test_points_of_a_large_face_are_the_same_from_a_reduced_copy(large):
    content = jpeg(large)
    faces = FaceLandmarker(detector="pipnet-face", detector_size=512)(content)
    full = FaceLandmarker(detector="pipnet-face", detector_size=512, reduced_decoding=False)(content)
    assert len(faces) == len(full) == 1
    assert "image" not in vars(faces), "the full photo was not needed"
    assert isinstance(faces.photo, Photo)
    assert "pixels" not in vars(faces.photo)
    side = np.ptp(full.points[0], axis=0).max()
    assert np.linalg.norm(faces.points - full.points, axis=2).mean() < 0.01 * side
    assert np.abs(faces.boxes - full.boxes).max() < 0.03 * side
    assert faces.image_size == large.size == full.image_size
    assert faces.image.shape == full.image.shape


def test_small_faces_are_cropped_from_the_full_photo(large):
    canvas = PIL.Image.new("RGB", (2048, 2048), "gray")
    canvas.paste(large.resize((700, 700)), (600, 900))
    faces = FaceLandmarker(detector="pipnet-face", detector_size=512)(jpeg(canvas))
    full = FaceLandmarker(detector="pipnet-face", detector_size=512, reduced_decoding=False)(jpeg(canvas))
    assert len(faces) == len(full) == 1
    assert isinstance(faces.photo, Photo)
    assert "pixels" in vars(faces.photo)
    assert np.abs(faces.points - full.points).max() < 1.5


def test_own_detectors_get_the_full_photo(large):
    shapes = []

    def detect(image):
        shapes.append(image.shape)
        return np.zeros((0, 4))

    FaceLandmarker(detector=detect)(jpeg(large))
    assert shapes == [(2048, 2048, 3)]
