"""The page in the browser, in Chromium."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from pipnet import FaceLandmarker
from pipnet.cli.demo import make_server
from pipnet.geometry import CropConfig
from pipnet.inference.pose import head_pose
from test_demo import running

ROOT = Path(__file__).parents[1]
WEB, PORTRAIT = ROOT / "web", ROOT / "examples" / "astronaut.jpg"
MAX_DISTANCE = 0.3
"""Largest distance between a point of the page and that of Python, in pixels of the crop."""
TIMEOUT = 120_000
"""Milliseconds for a model to load, or for an image to be searched."""
DONE = re.compile(r" in \d+ ms ")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built page, with the models."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("the page cannot be built: Node.js is not installed")
    if not (WEB / "node_modules").is_dir():
        install = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=WEB, capture_output=True)
        if install.returncode:
            pytest.skip("the page cannot be built: npm ci failed in web/")
    folder = tmp_path_factory.mktemp("site")
    for command in (["npm", "run", "check"], ["npm", "run", "build", "--", str(folder)]):
        result = subprocess.run(command, cwd=WEB, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    with running(make_server(folder=site)) as url:
        yield url


@pytest.fixture(scope="module")
def camera_file(tmp_path_factory) -> Path:
    """Frames of a photo that moves to the right and back, as a camera of Chromium."""
    path = tmp_path_factory.mktemp("camera") / "camera.y4m"
    photo = PIL.Image.open(PORTRAIT).convert("RGB")
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W640 H480 F30:1 Ip A1:1 C420jpeg\n")
        for i in [*range(10), *range(10, 0, -1)]:
            frame = photo.crop((40 + 2 * i, 0, 424 + 2 * i, 288)).resize((640, 480))
            y, cb, cr = frame.convert("YCbCr").split()
            chroma = [plane.resize((320, 240)).tobytes() for plane in (cb, cr)]
            file.write(b"FRAME\n" + y.tobytes() + b"".join(chroma))
    return path


@pytest.fixture(scope="module")
def chromium(camera_file):
    """Chromium with a camera that shows a photo."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("PIPNET_CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.skip("Chromium is not installed (or set PIPNET_CHROMIUM to its path)")
    camera = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera_file}"]
    gpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", *camera, *gpu]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


class Tab:
    """A tab with the page, and what went wrong in it."""

    def __init__(self, chromium: Any, address: str, **options: Any) -> None:
        self.context = chromium.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        self.context.set_default_timeout(TIMEOUT)
        self.page = self.context.new_page()
        self.address, self.problems = address, list[str]()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._on_console)
        self.page.on("request", self._on_request)

    def _on_console(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def _on_request(self, request: Any) -> None:
        is_ours = request.url.startswith((self.address, f"blob:{self.address}"))
        if not is_ours or request.method != "GET":
            self.problems.append(f"{request.method} {request.url}")

    def open(self) -> None:
        self.page.goto(self.address)
        self.expect("status", re.compile("^Ready$"))

    def expect(self, name: str, text: str | re.Pattern[str]) -> None:
        """Wait until an element contains a text."""
        from playwright.sync_api import expect

        expect(self.page.locator(f"#{name}")).to_contain_text(text, timeout=TIMEOUT)

    def forget(self) -> None:
        """Clear the status, so that the next one can be waited for."""
        self.page.evaluate("document.getElementById('status').textContent = ''")

    def choose(self, file: Path) -> None:
        """Choose a file."""
        self.forget()
        self.page.set_input_files("#file", file)

    def json(self) -> dict[str, Any]:
        """Return the content of the saved JSON file."""
        with self.page.expect_download() as download:
            self.page.click("#save-json")
        table: dict[str, Any] = json.loads(Path(download.value.path()).read_text())
        return table


@pytest.fixture
def tab(chromium, address):
    tab = Tab(chromium, address)
    yield tab
    tab.context.close()
    assert tab.problems == []


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> dict[str, Path]:
    """Images that take every way through the geometry."""
    folder = tmp_path_factory.mktemp("images")
    photo = PIL.Image.open(PORTRAIT).convert("RGB")
    face = photo.crop((60, 0, 380, 280))
    variants = {
        "large": photo.resize((4100, 4100), PIL.Image.Resampling.BICUBIC),  # reduced twice for the detector
        "medium": photo.resize((1000, 1000), PIL.Image.Resampling.BICUBIC),
        "leaning": face.rotate(35, expand=True),  # a crop rotated by the detector's five points
        "corner": photo.crop((190, 80, 420, 320)),  # a crop beyond the image
        "wide": face.resize((901, 613)),  # a side that is rounded, halves to even
    }
    paths = {"plain": PORTRAIT}
    for name, image in variants.items():
        paths[name] = folder / f"{name}.png"
        image.save(paths[name])
    exif = PIL.Image.Exif()
    exif[0x112] = 6  # to be rotated by 90 degrees
    paths["exif"] = folder / "exif.jpg"
    face.rotate(90, expand=True).save(paths["exif"], exif=exif, quality=95, subsampling=0)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("model", ["pipnet-68", "pipnet-tiny"])
def test_page_points_equal_python(tab, images, model):
    tab.open()
    landmarker = FaceLandmarker(model, "pipnet-face", reduced_decoding=False)
    tab.page.check(f"input[value={model}]", force=True)
    for name, path in images.items():
        expected = landmarker(path)
        assert len(expected), name
        tab.choose(path)
        tab.expect("status", DONE)
        table = tab.json()
        assert (table["image"], table["model"]) == (path.name, model)
        assert (table["width"], table["height"]) == expected.image_size
        assert len(table["faces"]) == len(expected), name
        for face, true in zip(table["faces"], expected, strict=True):
            region = CropConfig().region(true.crop_box, *expected.image_size)
            pixel = (region[2] - region[0]) / landmarker.metadata.input_size
            points = np.array(face["points"])
            distances = np.linalg.norm(points - true.points, axis=1) / pixel
            assert distances.max() <= MAX_DISTANCE, (name, distances.max())
            np.testing.assert_allclose(face["box"], true.box, atol=0.3 * pixel)
            np.testing.assert_allclose(face["confidence"], true.confidence, atol=0.02)
            np.testing.assert_allclose(face["expected_error"], true.expected_error, atol=0.01)
            pose = head_pose(points[None], expected.scheme, expected.image_size)[0]
            np.testing.assert_allclose(face["head_pose"], pose, atol=0.1)


@pytest.mark.slow
def test_page_saves_image(tab):
    tab.open()
    tab.page.click("#example")
    tab.expect("status", DONE)
    with tab.page.expect_download() as download:
        tab.page.click("#save-image")
    assert download.value.suggested_filename == "example_landmarks.png"
    drawn, photo = PIL.Image.open(download.value.path()).convert("RGB"), PIL.Image.open(PORTRAIT)
    assert drawn.size == photo.size
    changed = np.abs(np.asarray(drawn, int) - np.asarray(photo, int)).max(axis=2) > 60
    assert 0.001 < changed.mean() < 0.1  # the landmarks, and nothing else


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_page_takes_pasted_and_dropped_images(tab, kind):
    tab.open()
    event = {"paste": "ClipboardEvent", "drop": "DragEvent"}[kind]
    key = {"paste": "clipboardData", "drop": "dataTransfer"}[kind]
    tab.page.evaluate(
        """async ([kind, event, key]) => {
            const blob = await (await fetch("example.jpg")).blob();
            const transfer = new DataTransfer();
            transfer.items.add(new File([blob], "mine.jpg", {type: "image/jpeg"}));
            document.dispatchEvent(new window[event](kind, {[key]: transfer}));
        }""",
        [kind, event, key],
    )
    tab.expect("status", DONE)
    assert tab.json()["image"] == "mine.jpg"


@pytest.mark.slow
def test_page_tracks_the_face_of_a_camera(tab):
    tab.context.grant_permissions(["camera"])
    tab.open()
    tab.page.click("#camera")
    tab.expect("badge", re.compile(r"[1-9]\d* frames a second"))
    tab.expect("status", "Camera: 1 face")
    tab.expect("faces", re.compile(r"quality 0\.[6-9]"))
    first, second = tab.json(), tab.json()
    assert (first["width"], first["height"]) == (640, 480)
    assert np.ptp([face["faces"][0]["points"][30][1] for face in (first, second)]) < 5  # it moves sideways
    tab.page.click("#camera")
    tab.expect("status", "The camera has stopped")
    assert tab.page.evaluate("document.getElementById('video').srcObject") is None


@pytest.mark.slow
def test_page_explains_denied_camera(tab):
    tab.open()
    tab.page.click("#camera")
    tab.expect("alert", "The camera is not allowed for this page")
    tab.page.click("#example")  # it works on
    tab.expect("status", DONE)
    assert not tab.page.is_visible("#alert")


@pytest.mark.slow
def test_page_explains_unusable_images(tab, tmp_path):
    tab.open()
    huge, text, empty = tmp_path / "huge.png", tmp_path / "text.jpg", tmp_path / "gray.png"
    PIL.Image.new("1", (12_000, 10_000)).save(huge)
    text.write_text("not an image")
    PIL.Image.new("RGB", (640, 480), "gray").save(empty)
    tab.choose(huge)
    tab.expect("alert", "huge.png has 120 megapixels; at most 50")
    tab.choose(text)
    tab.expect("alert", "text.jpg is not an image that this browser can read")
    tab.choose(empty)
    tab.expect("status", "No face found")
    assert not tab.page.is_visible("#alert")
    assert tab.json()["faces"] == []


@pytest.mark.slow
def test_page_explains_missing_webassembly(tab):
    tab.page.add_init_script("delete globalThis.WebAssembly")
    tab.page.goto(tab.address)
    tab.expect("alert", "This browser has no WebAssembly with SIMD")
    assert tab.page.is_disabled("#choose")


@pytest.mark.slow
def test_page_works_by_keyboard_alone(tab):
    tab.open()
    keyboard = tab.page.keyboard

    def focused() -> str:
        return str(tab.page.evaluate("document.activeElement.id || document.activeElement.value"))

    for _ in range(3):
        keyboard.press("Tab")
    assert focused() == "example"
    keyboard.press("Enter")
    tab.expect("status", DONE)
    for _ in range(3):  # both buttons that save, then the model
        keyboard.press("Tab")
    assert focused() == "pipnet-68"
    tab.forget()
    keyboard.press("ArrowRight")
    tab.expect("status", DONE)
    assert tab.json()["model"] == "pipnet-tiny"
    tab.page.focus("input[name=points]")
    keyboard.press("Space")
    assert not tab.page.is_checked("input[name=points]")


@pytest.mark.slow
def test_page_has_names_for_screen_readers(tab):
    tab.open()
    tab.page.click("#example")
    tab.expect("status", DONE)
    label = tab.page.get_attribute("#canvas", "aria-label")
    assert re.match(r"\d faces?; face 1: quality 0\.\d\d, yaw .?\d+°, pitch .?\d+°, roll .?\d+°", label)
    tree = tab.page.locator("body").aria_snapshot()
    names = re.findall(r'(?:button|radio|checkbox) "([^"]+)"', tree)
    assert {"Choose a photo", "Use the camera", "Standard", "Fast", "Points", "Head pose"} <= set(names)
    assert "status" in tree
    assert "list" in tree


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 360, 768])
def test_page_fits_narrow_screens(chromium, address, width):
    tab = Tab(
        chromium, address, viewport={"width": width, "height": 740}, has_touch=True, device_scale_factor=2
    )
    tab.open()
    tab.page.click("#example")
    tab.expect("status", DONE)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    sides = tab.page.evaluate(
        "[...document.querySelectorAll('button')].map((b) => [b.clientWidth, b.scrollWidth, b.clientHeight])"
    )
    assert all(visible >= needed and height >= 40 for visible, needed, height in sides)
    tab.context.close()
    assert tab.problems == []


@pytest.mark.slow
def test_page_cannot_reach_other_hosts(chromium, address):
    tab = Tab(chromium, address)
    tab.open()
    blocked = tab.page.evaluate(
        """() => new Promise((resolve) => {
            const listener = (event) => resolve(event.effectiveDirective);
            document.addEventListener("securitypolicyviolation", listener);
            fetch("http://127.0.0.2:9/").catch(() => {});
        })"""
    )
    tab.context.close()
    assert blocked == "connect-src"


@pytest.mark.slow
def test_page_works_without_isolation(chromium, site):
    handler = functools.partial(_QuietHandler, directory=site)
    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        tab = Tab(chromium, url)
        tab.open()
        assert tab.page.evaluate("crossOriginIsolated") is False
        tab.page.click("#example")
        tab.expect("status", "(1 thread)")
        tab.context.close()
    assert tab.problems == []


@pytest.mark.slow
def test_page_uses_graphics_card_only_where_points_agree(chromium, address):
    tab = Tab(chromium, address)
    tab.open()
    if tab.page.is_disabled("input[name=gpu]"):
        pytest.skip("this Chromium has no WebGPU or no JavaScript Promise Integration")
    tab.page.click("#example")
    tab.expect("status", DONE)
    before = tab.json()
    tab.forget()
    tab.page.check("input[name=gpu]")
    tab.expect("status", DONE)
    after = tab.json()
    is_used = tab.page.is_checked("input[name=gpu]")
    assert is_used == ("graphics card" in tab.page.inner_text("#status"))
    assert is_used or "the processor is used" in tab.page.inner_text("#alert")
    for face, other in zip(before["faces"], after["faces"], strict=True):
        np.testing.assert_allclose(face["points"], other["points"], atol=0.1)
    tab.context.close()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
