"""Images from bytes, file objects, data URLs, tensors, and arrays of every type."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
import zlib

import numpy as np
import PIL.Image
import pytest
import torch

from pipnet.errors import ImageError
from pipnet.geometry import Image
from pipnet.io.image import image_size, read_image
from pipnet.io.image_source import as_image


@pytest.fixture(scope="module")
def rgb(portrait) -> Image:
    return read_image(portrait)


def png(array: np.ndarray) -> bytes:
    """Pillow writes no color of 16 bits."""
    import cv2

    return cv2.imencode(".png", array if array.ndim == 2 else array[..., ::-1])[1].tobytes()


@pytest.mark.parametrize("source_type", [bytes, bytearray, memoryview, io.BytesIO])
def test_as_image_reads_the_content_of_a_file(portrait, rgb, source_type):
    np.testing.assert_array_equal(as_image(source_type(portrait.read_bytes())), rgb)


def test_as_image_reads_a_sliced_memoryview(portrait, rgb):
    content = np.repeat(np.frombuffer(portrait.read_bytes(), np.uint8), 2)
    np.testing.assert_array_equal(as_image(memoryview(content)[::2]), rgb)


def test_as_image_reads_file_objects_from_their_start(portrait, rgb):
    written = io.BytesIO()
    written.write(portrait.read_bytes())  # its position is the end
    np.testing.assert_array_equal(as_image(written), rgb)
    with portrait.open("rb") as file:
        for _ in range(2):
            np.testing.assert_array_equal(as_image(file), rgb)
        assert not file.closed


@pytest.mark.skipif(os.name == "nt", reason="needs os.pipe with a thread")
def test_as_image_reads_pipes(portrait, rgb):
    end, start = os.pipe()

    def write():
        with os.fdopen(start, "wb") as file:
            file.write(portrait.read_bytes())

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(end, "rb") as file:
        np.testing.assert_array_equal(as_image(file), rgb)
    writer.join()


def test_as_image_reports_file_objects_that_are_no_images(portrait, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with (tmp_path / "notes.txt").open() as file, pytest.raises(ImageError, match="open it in binary mode"):
        as_image(file)
    with pytest.raises(ImageError, match=r"notes.txt: cannot be read: I/O operation on closed file"):
        as_image(file)
    with pytest.raises(ImageError, match="the file object: empty file"):
        as_image(io.BytesIO())
    with pytest.raises(ImageError, match="the bytes: not an image of a supported format"):
        as_image(b"no image")
    with pytest.raises(ImageError, match="512 x 512 pixels, more than the limit of 1000"):
        as_image(portrait.read_bytes(), 1000)


@pytest.mark.parametrize("head", ["data:image/jpeg;base64,", "DATA:;base64,"])
def test_as_image_reads_data_urls(portrait, rgb, head):
    text = base64.b64encode(portrait.read_bytes()).decode()
    np.testing.assert_array_equal(as_image(head + text), rgb)
    np.testing.assert_array_equal(as_image(head + text.replace("+", "%2B").replace("/", "%2F")), rgb)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:image/svg+xml,<svg/>", "a data URL of an image begins with data:image/...;base64,"),
        ("data:image/png;base64", "a data URL of an image begins with data:image/...;base64,"),
        ("data:image/png;base64,abcde", "not base64: "),
        ("data:image/png;base64,aGVsbG8=", "not an image of a supported format"),
        ("https://example.com/face.jpg", "URLs are not supported: download the image first"),
        ("HTTP://example.com/" + "a" * 500, "URLs are not supported: download the image first"),
        ("rtsp://camera", "URLs are not supported"),
        ("/9j/4AAQSkZJRg" + "A" * 9999, "cannot be read: File name too long"),
        ("a\0b", "null"),
    ],
)
def test_as_image_reports_text_that_is_no_path(text, message):
    with pytest.raises(ImageError, match=message) as error:
        as_image(text)
    assert len(str(error.value)) < 220


def test_as_image_names_the_cause_of_none():
    with pytest.raises(ImageError, match="cv2.imread returns None for a file it cannot read"):
        as_image(None)


def test_landmarker_gives_equal_landmarks_for_all_image_sources(portrait, rgb, landmarker):
    expected = landmarker(rgb)
    content = portrait.read_bytes()
    with portrait.open("rb") as file:
        sources = [str(portrait), portrait, content, bytearray(content), memoryview(content), file]
        sources += [PIL.Image.open(portrait), torch.from_numpy(rgb.transpose(2, 0, 1).copy())]
        for source in sources:
            np.testing.assert_array_equal(landmarker(source).points, expected.points)
        for faces in landmarker(sources):  # in one batch, which rounds differently
            np.testing.assert_allclose(faces.points, expected.points, atol=1e-3)
    frame = rgb[..., ::-1]
    for faces in (landmarker(frame, bgr=True), *landmarker([frame, portrait], bgr=True)):
        np.testing.assert_allclose(faces.points, expected.points, atol=1e-3)
        np.testing.assert_array_equal(faces.image, rgb)
    assert np.abs(landmarker(frame).points - expected.points).max() > 0.01  # the channels matter


def test_landmarker_reports_none(portrait):
    """In a separate process: in this one types are checked before."""
    script = "from pipnet import FaceLandmarker, ImageError\ntry:\n FaceLandmarker()(None)\n"
    script += "except ImageError as error:\n print(error)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out == "None is not an image: cv2.imread returns None for a file it cannot read\n"


def test_as_image_reads_tensors_of_both_layouts(rgb):
    chw = torch.from_numpy(rgb.transpose(2, 0, 1).copy())
    np.testing.assert_array_equal(as_image(chw), rgb)
    np.testing.assert_array_equal(as_image(chw.permute(1, 2, 0)), rgb)
    np.testing.assert_array_equal(as_image(torch.nn.Parameter(chw / 255)), rgb)
    np.testing.assert_array_equal(as_image(chw.flip(0), bgr=True), rgb)
    np.testing.assert_array_equal(as_image(chw[:1]), np.repeat(rgb[..., :1], 3, axis=2))
    np.testing.assert_array_equal(as_image(chw[0]), np.repeat(rgb[..., :1], 3, axis=2))
    assert not np.shares_memory(as_image(chw), chw.numpy())


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "pass a batch as a list"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), r"not \(2, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "not int64"),
        (torch.zeros(3, 8, 8, dtype=torch.bfloat16), "the tensor cannot be read: "),
        (torch.zeros(3, 8, 8, device="meta"), "the tensor cannot be read: "),
        (torch.zeros(1, dtype=torch.uint8).expand(3, 10**5, 10**5), "more than the limit"),
    ],
)
def test_as_image_refuses_other_tensors(tensor, message):
    with pytest.raises(ImageError, match=message):
        as_image(tensor)


def test_reading_images_imports_no_torch():
    script = "import sys, numpy, pipnet.io.image_source as s; s.as_image(numpy.zeros((4, 4, 3), numpy.uint8))"
    subprocess.run([sys.executable, "-c", f"{script}; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("channels", ["gray", "color", "color and alpha"])
def test_as_image_scales_bits_by_the_maximum(rgb, bits, channels):
    white = 2**bits - 1
    deep = np.rint(rgb * (white / 255)).astype(np.uint16)
    expected = rgb
    if channels == "gray":
        deep, expected = deep[..., 0], np.repeat(rgb[..., :1], 3, axis=2)
    elif channels == "color and alpha":
        deep = np.dstack([deep, np.full(rgb.shape[:2], white, np.uint16)])
    assert int(deep.max()) > (white >> 1)
    for source in (deep, deep.astype(">u2")):
        np.testing.assert_allclose(as_image(source), expected, atol=1)
    if channels != "color and alpha":  # cv2 needs BGRA
        np.testing.assert_allclose(as_image(png(deep)), expected, atol=1)


@pytest.mark.parametrize("compression", [1, 5])  # none, LZW
def test_as_image_scales_tiff_color_of_12_bits(rgb, compression):
    import cv2

    content = cv2.imencode(
        ".tif", rgb[..., ::-1].astype(np.uint16) << 4, [cv2.IMWRITE_TIFF_COMPRESSION, compression]
    )[1]
    np.testing.assert_allclose(as_image(content.tobytes()), rgb, atol=1)


def test_as_image_applies_orientation_to_color_of_12_bits(rgb):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    part = rgb[:300, :200]
    content = png(part.astype(np.uint16) << 4)
    chunk = exif.tobytes()[6:]  # without "Exif\0\0"
    block = len(chunk).to_bytes(4, "big") + b"eXIf" + chunk + zlib.crc32(b"eXIf" + chunk).to_bytes(4, "big")
    np.testing.assert_allclose(as_image(content[:33] + block + content[33:]), np.rot90(part, -1), atol=1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_as_image_scales_floats_in_0_to_1(rgb, dtype):
    np.testing.assert_array_equal(as_image((rgb / 255).astype(dtype)), rgb)
    assert as_image(np.zeros((4, 4), dtype)).max() == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "finite and within \\[0, 1\\], not nan to nan"),
        (np.inf, "not 0 to inf"),
        (-0.001, "not -0.001 to 0"),
        (255.0, "not 0 to 255: divide it by its white, or convert it to uint8"),
    ],
)
def test_as_image_refuses_other_floats(value, message):
    image = np.zeros((4, 4, 3))
    image[1, 2] = value
    with pytest.raises(ImageError, match=message):
        as_image(image)


def test_as_image_reads_heic(rgb, tmp_path, portrait):
    pytest.importorskip("pillow_heif")
    script = """
import sys, PIL.Image, pillow_heif
pillow_heif.register_heif_opener()
for name, orientation in (("a", 1), ("b", 6)):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.open(sys.argv[1]).crop((0, 0, 512, 300)).save(f"{name}.heic", exif=exif.tobytes())
"""
    subprocess.run([sys.executable, "-c", script, portrait], cwd=tmp_path, check=True)
    for name, expected in (("a", rgb[:300]), ("b", np.rot90(rgb[:300], -1))):
        path = tmp_path / f"{name}.heic"
        assert image_size(path) == expected.shape[1::-1]
        for source in (path, path.read_bytes()):
            assert np.abs(as_image(source).astype(int) - expected).mean() < 3
    assert "HEIF" not in PIL.Image.OPEN  # Pillow is unchanged
    with pytest.raises(ImageError, match="more than the limit of 1000"):
        as_image(path, 1000)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ImageError, match="b.heic: cannot be read"):
        as_image(path)


def test_as_image_names_the_extra_for_heic(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"the bytes: HEIC needs pillow-heif: pip install '.*\[heic\]'"):
        as_image(b"\0\0\0\x18ftypheic" + bytes(99))


def test_as_image_uses_openers_registered_with_pillow(monkeypatch):
    from PIL import ImageFile

    class Plain(ImageFile.ImageFile):
        format = "PLAIN"

        def _open(self):
            self._size, self._mode = (2, 1), "RGB"
            self.tile = [ImageFile._Tile("raw", (0, 0, 2, 1), 5, "RGB")]

    monkeypatch.setattr(PIL.Image, "OPEN", dict(PIL.Image.OPEN))
    monkeypatch.setattr(PIL.Image, "ID", list(PIL.Image.ID))
    content = b"PLAIN" + bytes(range(6))
    with pytest.raises(ImageError, match="not an image"):
        as_image(content)
    PIL.Image.register_open("PLAIN", Plain, lambda start: start.startswith(b"PLAIN"))
    assert as_image(content).tolist() == [[[0, 1, 2], [3, 4, 5]]]


def detect(*arguments, **streams) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pipnet", "detect", *arguments]
    return subprocess.run(command, capture_output=True, **streams)


def test_detect_reads_standard_input(portrait, tmp_path, landmarker):
    done = detect("-", "--json", "-o", str(tmp_path), input=portrait.read_bytes())
    row = json.loads(done.stdout)
    assert row["image"] == "stdin"
    np.testing.assert_allclose(row["faces"][0]["points"], landmarker(portrait)[0].points, atol=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["stdin.png"]
    with portrait.open("rb") as file:
        assert detect("-", stdin=file).stderr == b"stdin: 1 face\n"


def test_detect_reports_standard_input_without_an_image():
    for content, message in ((b"", b"empty file"), (b"text", b"not an image of a supported format")):
        done = detect("-", input=content)
        assert done.returncode == 1
        assert done.stderr.startswith(b"error: <stdin>: " + message)


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_detect_reports_a_closed_standard_input():
    done = subprocess.run(
        f"{sys.executable} -m pipnet detect - <&-", shell=True, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "error: stdin: the file object: empty file\n")
