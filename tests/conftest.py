"""What tests share: real pictures, a small real collection, the shipped model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipnet import FaceLandmarker
from pipnet.annotations.pts import write_pts
from pipnet.io.image import read_image, write_image
from pipnet.video.reader import VideoReader
from pipnet.video.writer import VideoWriter

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("PIPNET_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Tests neither use nor fill the user's cache."""
    os.environ["PIPNET_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def start():
    """Starts a command of pipnet that Ctrl-C reaches, also where a shell runs the tests in the background."""

    def run(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipnet", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (no threads)
        )

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared data; tests of it skip where it is not."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared data is not here: {SHARED} (set PIPNET_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def portrait() -> Path:
    """A real photo with one face."""
    return ROOT / "examples" / "astronaut.jpg"


@pytest.fixture(scope="session")
def photo(portrait: Path) -> bytes:
    """The content of the portrait's file."""
    return portrait.read_bytes()


@pytest.fixture(scope="session")
def landmarker() -> FaceLandmarker:
    """The model that ships, with the default detector."""
    return FaceLandmarker.from_pretrained()


@pytest.fixture(scope="session")
def small_300w(tmp_path_factory: pytest.TempPathFactory, portrait: Path, landmarker: FaceLandmarker) -> Path:
    """300-W's folders with all parts, made of one real photo: shifted crops with landmarks."""
    root = tmp_path_factory.mktemp("300w")
    image = read_image(portrait)
    points = landmarker(image)[0].points
    rng = np.random.default_rng(0)
    folders = {
        "afw": ".jpg",
        "helen/trainset": ".jpg",
        "lfpw/trainset": ".png",
        "helen/testset": ".jpg",
        "lfpw/testset": ".png",
        "ibug": ".jpg",
    }
    for folder, suffix in folders.items():
        (root / folder).mkdir(parents=True)
        for number in range(4):
            x, y = (int(v) for v in rng.integers(60, 120, 2) * [1, 0.3])
            name = f"image {number}_1" if folder == "ibug" else f"image_{number}_1"
            write_image(root / folder / f"{name}{suffix}", image[y : y + 230, x : x + 260])
            write_pts(root / folder / f"{name}.pts", points - np.float32([x, y]))
    return root


@pytest.fixture(scope="session")
def blind_checkpoint(tmp_path_factory: pytest.TempPathFactory, small_300w: Path) -> Callable[..., Path]:
    """Writes checkpoints of networks that see nothing: each gives the mean face, whatever the picture.

    Features and the head's weights are zero, and stay so in training. Only the head's biases, which are the
    answer, can be learned, and that goes alike on every processor.
    """
    import torch
    from torch import nn

    from pipnet.datasets.load import load_samples
    from pipnet.geometry import CropConfig, tight_box, to_fraction
    from pipnet.metadata import ModelMetadata
    from pipnet.model.checkpoint import save_checkpoint
    from pipnet.model.config import ModelConfig
    from pipnet.model.neighbors import mean_face
    from pipnet.model.pipnet import PIPNet

    def write(config: ModelConfig, scheme: str | None = None, shift: float = 0.0) -> Path:
        """A checkpoint for 300-W's or other landmarks, its answer shifted by a fraction of the crop."""
        samples, landmarks, _ = load_samples(small_300w, None, scheme)
        crops = [CropConfig().region(tight_box(s.points), 1, 1) for s in samples]
        face = mean_face([to_fraction(s.points, crop) for s, crop in zip(samples, crops, strict=True)])
        network = PIPNet(config, face)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.zeros_(layer.weight)
        head = network.head
        nn.init.zeros_(head.conv.weight)
        # All cells have the same score, and of equal ones the first counts: the crop's top left one.
        head.conv.bias.data.fill_(0.5)
        answer = np.concatenate([face[:, None], face[head.neighbors.numpy()]], axis=1) + shift
        head.conv.bias.data[head.offset_channels] = torch.from_numpy(answer * head.grid).float()
        path = tmp_path_factory.mktemp("blind") / "blind.safetensors"
        metadata = ModelMetadata("blind", landmarks, CropConfig(), config.input_size, face, vars(config))
        save_checkpoint(path, network, metadata)
        return path

    return write


@pytest.fixture
def pictures(tmp_path: Path, portrait: Path) -> Path:
    """A folder with one good picture."""
    shutil.copy(portrait, tmp_path / "good.jpg")
    return tmp_path


@pytest.fixture(scope="session")
def clip(shared):
    """A real one: a talking head, 765 frames."""
    return shared / "data" / "video" / "cap13_edit2.mp4"


@pytest.fixture(scope="session")
def short(clip, tmp_path_factory):
    """Its first second."""
    path = tmp_path_factory.mktemp("video") / "short.mp4"
    with VideoWriter(path, 25) as writer:
        for frame in islice(VideoReader(clip), 25):
            writer.write(frame.image, frame.time)
    return path


@pytest.fixture
def moving(portrait):
    """50 small pictures that differ a little from one to the next."""
    image = cv2.resize(read_image(portrait), (256, 256))
    return [np.ascontiguousarray(image[i : i + 96, i : i + 128]) for i in range(50)]


@pytest.fixture(scope="session")
def exported_network(tmp_path_factory):
    """Exports an untrained network with given settings, once for each; returns the network and the file."""
    import torch
    from torch import nn

    from pipnet.export.onnx import export_onnx
    from pipnet.model.config import ModelConfig
    from pipnet.model.pipnet import PIPNet
    from test_model import described, face

    @cache
    def export(**settings: object) -> tuple[PIPNet, Path]:
        torch.manual_seed(0)
        config = ModelConfig(**{"backbone": "test_resnet", "input_size": 128, **settings})
        network = PIPNet(config, face()).eval()
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
            if config.head == "pip":  # an untrained head's scores nearly tie; trained ones do not
                network.head.conv.weight.mul_(30)
        path = tmp_path_factory.mktemp("exported") / "model.onnx"
        export_onnx(network, described(config, face()), path)
        return network, path

    return export


@pytest.fixture(scope="module")
def loaded_once():
    """Commands that run in this process load each packaged model once for a file of tests."""
    from pipnet.hub import packaged_models
    from pipnet.inference.backends import load

    plain, once, packaged = load.OnnxModel, cache(load.OnnxModel), packaged_models().values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "OnnxModel", lambda path, *how: (once if path in packaged else plain)(path, *how))
        yield


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with black images of 200 x 100 pixels: two in one folder, one in a subfolder."""
    for name in ("in/a b.png", "in/c%20d.png", "in/deep/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name, np.zeros((100, 200, 3), np.uint8))
    return tmp_path
