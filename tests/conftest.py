"""Fixtures of several files: real images and videos, a small dataset of real faces, models, commands."""

from __future__ import annotations

import csv
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
import PIL.Image
import pytest

from pipnet import FaceLandmarker
from pipnet.annotations.pts import write_pts
from pipnet.geometry import tight_box
from pipnet.io.image import read_image, write_image
from pipnet.video.reader import VideoReader
from pipnet.video.writer import VideoWriter

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("PIPNET_SHARED", ROOT.parent / "shared"))
SMALL_RECIPE = """
name: small
workers: 0
precision: float32
data: {validation: 0.3}
initial: {pretrained: false}
model: {backbone: lcnet_050, input_size: 64, neighbors: 3}
optim: {batch_size: 4, epochs: 2, lr: 0.002}
"""


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Use a temporary cache, not the user's."""
    os.environ["PIPNET_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def start():
    """Return a function that starts a command that Ctrl-C reaches, also in a shell's background."""

    def run(*command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipnet", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (no threads)
        )

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the shared data; tests that need it are skipped if it does not exist."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data: {SHARED} does not exist (set PIPNET_SHARED)")
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
    """The default model and the default detector."""
    return FaceLandmarker()


@pytest.fixture(scope="session")
def small_300w(tmp_path_factory: pytest.TempPathFactory, portrait: Path, landmarker: FaceLandmarker) -> Path:
    """A dataset in 300-W's folders, with all subsets: shifted crops of one real photo."""
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
def mean_face_checkpoint(tmp_path_factory: pytest.TempPathFactory, small_300w: Path) -> Callable[..., Path]:
    """Return a function that writes checkpoints of networks that predict the mean face for every image.

    Features and the head's weights are zero, and stay so in training. Only the head's biases, which are the
    prediction, are trained, with the same result on every processor.
    """
    import torch
    from torch import nn

    from pipnet.datasets.load import load_samples
    from pipnet.geometry import CropConfig, to_fraction
    from pipnet.metadata import ModelMetadata
    from pipnet.model.checkpoint import save_checkpoint
    from pipnet.model.config import ModelConfig
    from pipnet.model.neighbors import mean_face
    from pipnet.model.pipnet import PIPNet

    def write(config: ModelConfig, scheme: str | None = None, shift: float = 0.0) -> Path:
        """Write a checkpoint; ``shift`` moves its predictions by a fraction of the crop."""
        samples, landmarks, _ = load_samples(small_300w, None, scheme)
        crops = [CropConfig().region(tight_box(s.points), 1, 1) for s in samples]
        face = mean_face([to_fraction(s.points, crop) for s, crop in zip(samples, crops, strict=True)])
        network = PIPNet(config, face)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.zeros_(layer.weight)
        head = network.head
        nn.init.zeros_(head.conv.weight)
        # All cells have the same score, so the first one is chosen: that at the top left.
        head.conv.bias.data.fill_(0.5)
        prediction = np.concatenate([face[:, None], face[head.neighbors.numpy()]], axis=1) + shift
        head.conv.bias.data[head.offset_channels] = torch.from_numpy(prediction * head.grid).float()
        path = tmp_path_factory.mktemp("mean_face") / "mean_face.safetensors"
        metadata = ModelMetadata("mean-face", landmarks, CropConfig(), config.input_size, face, vars(config))
        save_checkpoint(path, network, metadata)
        return path

    return write


@pytest.fixture
def portrait_folder(tmp_path: Path, portrait: Path) -> Path:
    """A folder with one image, the portrait, as good.jpg."""
    shutil.copy(portrait, tmp_path / "good.jpg")
    return tmp_path


@pytest.fixture(scope="session")
def damaged_album(tmp_path_factory: pytest.TempPathFactory, portrait: Path) -> Path:
    """A folder with twelve readable images, one of them without a face, and three damaged files."""
    folder = tmp_path_factory.mktemp("annotate") / "album"
    (folder / "broken").mkdir(parents=True)
    image = read_image(portrait)
    for number in range(11):
        x = 8 * number
        write_image(folder / f"{number:02}.jpg", image[: 260 + x, x : x + 320])
    PIL.Image.new("RGB", (300, 200), "gray").save(folder / "no_face.png")
    (folder / "broken/cut.jpg").write_bytes((folder / "03.jpg").read_bytes()[:5000])
    (folder / "broken/empty.png").touch()
    (folder / "broken/text.jpg").write_text("not an image\n" * 50)
    return folder


@pytest.fixture(scope="session")
def clip(shared):
    """A real video: a talking head, 765 frames."""
    return shared / "data" / "video" / "cap13_edit2.mp4"


@pytest.fixture(scope="session")
def short_clip(clip, tmp_path_factory):
    """The first second of the clip."""
    path = tmp_path_factory.mktemp("video") / "short.mp4"
    with VideoWriter(path, 25) as writer:
        for frame in islice(VideoReader(clip), 25):
            writer.write(frame.image, frame.time)
    return path


@pytest.fixture
def moving_images(portrait):
    """50 small images, each shifted by a pixel from the one before."""
    image = cv2.resize(read_image(portrait), (256, 256))
    return [np.ascontiguousarray(image[i : i + 96, i : i + 128]) for i in range(50)]


@pytest.fixture(scope="session")
def exported_network(tmp_path_factory):
    """Return a function that exports an untrained network and returns it with its file."""
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
    """Load each packaged model once for all commands that a file of tests runs in this process."""
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


@pytest.fixture
def unlabeled(tmp_path: Path, small_300w: Path) -> Path:
    """A folder of real images with inexact boxes, like WIDER's; one image is damaged, one box is oblong."""
    from pipnet.datasets.load import load_samples

    folder = tmp_path / "unlabeled"
    folder.mkdir()
    rows = [["image", "x", "y", "w", "h"]]
    for number, face in enumerate(load_samples(small_300w, "full")[0]):
        shutil.copy(face.image, folder / f"{number}{face.image.suffix}")
        x0, y0, x1, y1 = (tight_box(face.points) + [-5, -25, 5, 5]).tolist()
        rows.append([f"{number}{face.image.suffix}", x0, y0, x1 - x0, y1 - y0])
    rows.append([rows[1][0], 0, 0, 200, 3])
    (folder / "damaged.jpg").write_bytes(b"not an image")
    rows.append(["damaged.jpg", 5, 5, 60, 60])
    with (folder / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture(scope="session")
def torch_model():
    """The default model as a network of torch."""
    from pipnet.model.checkpoint import load_checkpoint
    from pipnet.model.torch_model import TorchModel

    network, metadata = load_checkpoint(ROOT / "checkpoints" / "pipnet-68.safetensors")
    return TorchModel(network, metadata)


@pytest.fixture
def no_curves(monkeypatch):
    """Draw no curves of trainings: a figure takes longer than a small training."""
    monkeypatch.setattr("pipnet.training.log.draw_curves", lambda *_: None)


@pytest.fixture(scope="session")
def small_recipe_file(tmp_path_factory) -> Path:
    """The recipe of a training of two epochs, with two steps each."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(SMALL_RECIPE)
    return path


@pytest.fixture(scope="session")
def small_recipe(small_recipe_file, small_300w):
    """The same recipe for the small dataset."""
    from pipnet.training.recipe import load_recipe

    return load_recipe(small_recipe_file, ["--data.root", str(small_300w)])


@pytest.fixture(scope="session")
def finished_run(small_recipe, tmp_path_factory) -> Path:
    """The run folder of a finished training."""
    from pipnet.training.trainer import train

    return train(small_recipe, tmp_path_factory.mktemp("finished") / "run").parent


@pytest.fixture(scope="session")
def first_epoch_run(small_recipe, tmp_path_factory) -> Path:
    """The run folder of the same training after its first epoch."""
    from pipnet.training.trainer import train

    run = tmp_path_factory.mktemp("first_epoch") / "run"
    train(small_recipe, run, max_steps=2)
    return run


@pytest.fixture
def resumable_run(first_epoch_run, tmp_path) -> Path:
    """A copy of the run folder after the first epoch."""
    return Path(shutil.copytree(first_epoch_run, tmp_path / "resumable"))
