"""Reading and writing of images: all formats, orientations and array types, and files that are not images."""

import io
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipnet.errors import ImageError, WriteError
from pipnet.io.image import ignore_pillow_warnings, image_size, read_image, write_image
from pipnet.io.image_source import as_image

BAD = {
    "missing": None,
    "empty": b"",
    "text": b"this is not an image at all\n" * 20,
    "zeros": bytes(5000),
}


@pytest.mark.parametrize("damage", BAD)
def test_read_image_refuses_files_that_are_no_images(tmp_path, damage):
    path = tmp_path / f"{damage}.jpg"
    if BAD[damage] is not None:
        path.write_bytes(BAD[damage])
    with pytest.raises(ImageError, match=str(path)) as error:
        read_image(path)
    assert "\n" not in str(error.value)
    other = "not an image of a supported format: JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM, AVIF, TGA, HEIC"
    reason = {"missing": "no such file", "empty": "empty file"}.get(damage, other)
    assert str(error.value) == f"{path}: {reason}"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tif"])
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.95])
def test_read_image_refuses_truncated_files(tmp_path, portrait, suffix, fraction):
    complete = io.BytesIO()
    image = PIL.Image.open(portrait)
    image.save(complete, {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper()))
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(complete.getvalue()[: int(len(complete.getvalue()) * fraction)])
    with pytest.raises(ImageError):
        read_image(path)


def test_read_image_refuses_a_folder(tmp_path):
    with pytest.raises(ImageError):
        read_image(tmp_path)


def test_read_image_refuses_huge_images_before_decoding(tmp_path):
    path = tmp_path / "huge.png"
    PIL.Image.new("1", (20_000, 20_000)).save(path)  # 400 megapixels in 50 kilobytes
    with pytest.raises(ImageError, match="more (pixels )?than"):
        read_image(path)


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_as_image_refuses_large_and_truncated_pil_images(tmp_path, portrait):
    PIL.Image.new("1", (12_000, 12_000)).save(tmp_path / "large.png")
    with PIL.Image.open(tmp_path / "large.png") as image, pytest.raises(ImageError, match="limit"):
        as_image(image)
    (tmp_path / "cut.jpg").write_bytes(portrait.read_bytes()[:20_000])
    with PIL.Image.open(tmp_path / "cut.jpg") as image, pytest.raises(ImageError, match="cannot be read"):
        as_image(image)


def test_read_image_scales_floats(tmp_path, portrait):
    gray = np.asarray(PIL.Image.open(portrait).convert("L"), np.float32)
    for white in (1, 255, 65535):
        PIL.Image.fromarray(gray / 255 * white).save(tmp_path / "f.tif")
        np.testing.assert_allclose(read_image(tmp_path / "f.tif")[..., 0], gray, atol=1.01)


def test_read_image_refuses_more_than_max_pixels(portrait):
    with pytest.raises(ImageError, match="512 x 512 pixels, more than the limit of 1000"):
        read_image(portrait, max_pixels=1000)
    with pytest.raises(ImageError, match="limit"):
        as_image(np.zeros((50, 50, 3), np.uint8), max_pixels=1000)


def test_read_image_reads_one_pixel(tmp_path):
    path = tmp_path / "one.png"
    PIL.Image.new("RGB", (1, 1), (1, 2, 3)).save(path)
    assert read_image(path).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_read_image_reads_every_pil_mode(portrait, mode, tmp_path):
    gray = PIL.Image.open(portrait).convert("L").resize((64, 64))
    if mode == "I;16":
        image = PIL.Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    elif mode == "CMYK":
        image = gray.convert("RGB").convert("CMYK")
    else:
        image = gray.convert(mode)
    path = tmp_path / ("p.jpg" if mode in ("CMYK", "YCbCr") else "p.tif")
    image.save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape == (64, 64, 3)
    difference = np.abs(image.mean(axis=2) - np.asarray(gray)).mean()
    assert difference < {"1": 90, "CMYK": 8, "YCbCr": 8}.get(mode, 2)


def test_read_image_reads_16_bit_color_png(tmp_path, portrait):
    import cv2

    rgb = read_image(portrait)
    cv2.imwrite(str(tmp_path / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_allclose(read_image(tmp_path / "deep.png"), rgb, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_applies_exif_orientation(tmp_path, portrait, orientation):
    upright = PIL.Image.open(portrait).crop((100, 0, 400, 250))
    stored = {
        1: upright,
        2: upright.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(PIL.Image.Transpose.ROTATE_180),
        4: upright.transpose(PIL.Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(PIL.Image.Transpose.TRANSPOSE),
        6: upright.transpose(PIL.Image.Transpose.ROTATE_90),
        7: upright.transpose(PIL.Image.Transpose.TRANSVERSE),
        8: upright.transpose(PIL.Image.Transpose.ROTATE_270),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "rotated.png"
    stored.save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("damage", ["a long unit", "text for a number", "cut off"])
def test_read_image_applies_orientation_with_malformed_exif(portrait, tmp_path, damage):
    """Pillow's own function rewrites all of EXIF and fails on such tags, which exist in real photos."""
    orientation = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    tag = struct.pack("<HHI", 0x128, 4, 1) + struct.pack("<I", 70000)
    if damage == "text for a number":
        tag = struct.pack("<HHI", 0x11A, 2, 4) + b"abc\0"
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + orientation + tag + bytes(4)
    path = tmp_path / "rotated.jpg"
    with PIL.Image.open(portrait) as image:
        image.crop((0, 0, 300, 512)).save(path, exif=exif[:-9] if damage == "cut off" else exif)
    assert read_image(path).shape[:2] == image_size(path)[::-1] == (300, 512)


def test_read_image_ignores_corrupt_exif(portrait, tmp_path):
    path = tmp_path / "upright.jpg"
    with PIL.Image.open(portrait) as image:
        image.crop((0, 0, 300, 512)).save(path, exif=b"Exif\0\0XX*\0" + bytes(20))
    assert read_image(path).shape[:2] == image_size(path)[::-1] == (512, 300)


@pytest.mark.parametrize("size", [(0, 9), (9, 0), (0, 0)])
def test_as_image_refuses_pil_images_without_pixels(size):
    with pytest.raises(ImageError, match="no pixels"):
        as_image(PIL.Image.new("RGB", size))


def test_as_image_passes_memory_errors_on(portrait, monkeypatch):
    def load(*_):
        raise MemoryError

    monkeypatch.setattr(PIL.Image.Image, "load", load)
    for source in (portrait, PIL.Image.new("RGB", (4, 4))):
        with pytest.raises(MemoryError):
            as_image(source)


def test_read_image_reads_the_first_frame_of_an_animation(tmp_path):
    frames = [PIL.Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[5, 5].tolist() == [255, 0, 0]


def test_as_image_accepts_paths_arrays_and_pil_images(portrait):
    rgb = read_image(portrait)
    np.testing.assert_array_equal(as_image(PIL.Image.open(portrait)), rgb)
    np.testing.assert_array_equal(as_image(rgb), rgb)
    np.testing.assert_array_equal(as_image(str(portrait)), rgb)
    np.testing.assert_array_equal(as_image(np.dstack([rgb, rgb[..., :1]])), rgb)
    np.testing.assert_array_equal(as_image(rgb.astype(np.uint16) * 257), rgb)
    assert as_image(rgb[..., 0]).shape == rgb.shape


@pytest.mark.parametrize("source", [3, [1], np.zeros((4, 4), int), np.zeros((4, 4, 2), np.uint8)])
def test_as_image_refuses_other_objects(source):
    with pytest.raises(ImageError):
        as_image(source)


def test_write_image_reports_why_it_fails(tmp_path):
    with pytest.raises(
        ImageError, match="a.nosuchformat: cannot be written: '.nosuchformat' is not an image suffix"
    ):
        write_image(tmp_path / "a.nosuchformat", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ImageError, match="cannot be written: .* \\(66000 x 4 pixels as JPEG\\)"):
        write_image(tmp_path / "a.jpg", np.zeros((4, 66_000, 3), np.uint8))
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.jpg", np.zeros((4, 4, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_write_image_reports_a_full_disk(tmp_path, portrait):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "full.png").symlink_to("/dev/full")
    with pytest.raises(WriteError, match="No space left"):
        write_image(tmp_path / "full.png", read_image(portrait))
    assert not Path("/dev/full").is_file()


def test_image_module_does_not_change_warning_filters(portrait):
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_image, [portrait] * 40))
    assert list(warnings.filters) == before
    script = "import warnings, pipnet.io.image; assert 'PIL' not in str(warnings.filters)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.filterwarnings("error")
def test_ignore_pillow_warnings_ignores_corrupt_exif(portrait, tmp_path):
    with PIL.Image.open(portrait) as image:
        image.save(tmp_path / "cut.jpg", exif=b"Exif\0\0II*\0" + struct.pack("<IH", 8, 9) + bytes(4))
    ignore_pillow_warnings()
    assert read_image(tmp_path / "cut.jpg").shape == (512, 512, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_image_size_is_the_size_that_read_image_returns(tmp_path, suffix, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.new("RGB", (40, 20)).save(tmp_path / f"a{suffix}", exif=exif)
    height, width = read_image(tmp_path / f"a{suffix}").shape[:2]
    assert image_size(tmp_path / f"a{suffix}") == (width, height)


def test_read_image_refuses_icons(tmp_path):
    """Pillow decodes the content of an icon before its size is known."""
    PIL.Image.new("L", (256, 256)).save(tmp_path / "a.ico")
    (tmp_path / "a.ico").rename(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="not an image"):
        read_image(tmp_path / "a.jpg")


def test_as_image_tolerates_a_few_floats_above_white():
    values = np.full((20, 20), 0.5, np.float32)
    values[0, 0] = 1.02
    assert (as_image(PIL.Image.fromarray(values))[5:] == 128).all()


def test_write_image_keeps_pixels(tmp_path, portrait):
    write_image(tmp_path / "a.png", read_image(portrait))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), read_image(portrait))
