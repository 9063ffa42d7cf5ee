"""Every recipe can be read and built, and those of the papers have the papers' settings and numbers."""

import json
import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipnet.annotations.formats import Annotations, read_annotations, write_annotations
from pipnet.annotations.pts import read_pts
from pipnet.annotations.samples import FaceSample
from pipnet.datasets.load import PREPARED
from pipnet.datasets.registry import DATASETS
from pipnet.model.config import ModelConfig
from pipnet.model.pipnet import PIPNet, build_head
from pipnet.papers.paper_report import BACKBONES
from pipnet.papers.published import published
from pipnet.scheme import LandmarkScheme
from pipnet.training.dataset import FaceDataset
from pipnet.training.recipe import OptimConfig, Recipe, load_recipe
from pipnet.training.split import load_split

FOLDER = Path(__file__).parents[1] / "recipes"
FACE_DETECTOR = FOLDER / "face_detector.yaml"
"""Not a training of landmarks: `tests/test_face_detector.py` reads it."""
RECIPES = sorted(set(FOLDER.rglob("*.yaml")) - {FACE_DETECTOR})
OF_PAPERS = [path for path in RECIPES if path.parent.name in ("v1", "ijcv")]
OF_AUTHORS = [path for path in RECIPES if path.parent.name == "authors"]
"""Further runs at the papers' settings, without published numbers."""
ROUNDS = [path for path in OF_PAPERS if re.search("_t[sm]d_|^gssl_", path.stem)]
"""Trainings that also learn from unlabeled faces."""
SUPERVISED = re.compile(r"(PIP|Coord|Map)( stride \d+| \+ NRM| supervised)?")


FAKE = FakeTensorMode(allow_non_fake_inputs=True)
"""Shapes without numbers: ResNet-101 and heat maps of stride 1 take no time."""


@cache
def recipe_of(path: Path) -> Recipe:
    return load_recipe(path)


def name(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(""))


def header(path: Path) -> str:
    """Return the comment at the top of a file as one line."""
    comment = re.match(r"(?:#.*\n)*", path.read_text())
    assert comment
    return " ".join(line.removeprefix("# ") for line in comment[0].splitlines())


def dataset(path: Path) -> str:
    """Return the dataset that a recipe of the papers trains on, as the papers write it."""
    trained = re.search(r"trained on (\w+)( and \w+)?", header(path))
    assert trained
    return trained[1] + (trained[2] or "").replace(" and ", "+")


def registered(path: Path) -> str:
    """Return the name in `DATASETS` of the (first) dataset that a recipe trains on."""
    if path in OF_AUTHORS:
        return path.stem.partition("_")[2].replace("_", "-")
    return dataset(path).lower().partition("+")[0] if path in OF_PAPERS else "300w"


def landmarks(path: Path) -> int:
    scheme = recipe_of(path).data.scheme or DATASETS[registered(path)].scheme
    return LandmarkScheme.load(scheme).landmarks


@cache
def without_head(body: ModelConfig) -> tuple[PIPNet, torch.Tensor]:
    """Return a network, whose head is replaced, and the input of its head: many recipes share them."""
    network = PIPNet(body, np.zeros((5, 2))).eval()
    image = torch.zeros(2, body.input_size, body.input_size, 3, dtype=torch.uint8)
    return network, network.features(image)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_is_read_and_built(path):
    config = recipe_of(path).model
    count = landmarks(path)
    face = np.random.default_rng(0).uniform(0.1, 0.9, (count, 2))
    body = (
        "backbone",
        "input_size",
        "stride",
        "backbone_stride",
        "late_activation",
        "last_width",
        "neck_width",
    )
    with FAKE:
        model, features = without_head(
            ModelConfig(**{key: getattr(config, key) for key in body}, neighbors=0)
        )
        model.head = build_head(config, model.neck.out_channels, face).eval()
        output = model.head(features)
        assert model.head.decode(output).points.shape == (2, count, 2)
        assert all(term.shape == () for term in model.loss(output, torch.rand(2, count, 2)).values())
    assert header(path)


def test_recipe_flags_select_the_losses_of_v1():
    path = FOLDER / "v1" / "table1_stride32_300w.yaml"
    for score in ("l2", "l1", "focal"):
        recipe = load_recipe(path, ["--model.score-loss", score, "--model.offset-loss", "l2"])
        assert (recipe.model.score_loss, recipe.model.offset_loss) == (score, "l2")


@pytest.mark.parametrize("path", [*OF_PAPERS, *OF_AUTHORS], ids=name)
def test_recipe_of_the_papers_has_their_settings(path):
    recipe, v1 = recipe_of(path), path.parent.name == "v1"
    optim, augment, model = recipe.optim, recipe.augment, recipe.model
    assert (optim.name, optim.lr, optim.weight_decay, optim.schedule) == ("adam", 1e-4, 0, "step")
    assert (optim.ema, optim.clip, recipe.data.validation, recipe.initial.pretrained) == (None, None, 0, True)
    assert recipe.data.label_offset == (0, 0)
    long = model.head == "coord" or model.backbone.startswith("mobilenetv3")
    assert (optim.epochs, optim.milestones) == ((120, (60, 100)) if long else (60, (30, 50)))
    assert optim.batch_size == (32 if model.head == "coord" else 16)
    probabilities = (augment.translate, augment.rotate, augment.flip, augment.occlude, augment.blur)
    assert probabilities == (0.5, 0.5, 0.5, 0.5, 0.3)
    pixels = (augment.translate_by, augment.occlude_by, augment.blur_by)
    assert pixels == (29 / 256, 102 / 256, 5 / 256)
    assert (augment.scale, augment.color_jitter, augment.rotate_by) == (0, 0, 30)
    assert augment.grayscale == (0 if v1 else 0.2)
    if model.head == "pip":
        swept = re.fullmatch(r"neighbors(\d+)_wflw", path.stem)
        neighbors = int(swept[1]) if swept else 0 if v1 else 10
        assert (model.neighbors, model.offset_loss, model.score_weight) == (neighbors, "l1", None)
        assert v1 or model.merge == "official"
    spec = DATASETS[registered(path)]
    if path.stem.startswith("gssl"):
        assert (recipe.crop.scale, recipe.crop.box, recipe.data.paper_crops) == (1.3, "landmarks", "gssl")
    else:
        assert recipe.crop == (spec.v1_crop if v1 else spec.official_crop)
    assert recipe.name == f"{path.parent.name}-{path.stem.replace('_', '-')}"


@pytest.mark.parametrize("path", ROUNDS, ids=name)
def test_recipe_of_rounds_has_the_papers_rounds(path):
    recipe, v1 = recipe_of(path), path.parent.name == "v1"
    rounds = recipe.self_training
    assert rounds.tasks == (("full",) * 3 if v1 else ("quarter", "half", "full", "full", "full"))
    assert (rounds.box_format, recipe.data.paper_crops) == ("crop", "v1" if v1 else "gssl")
    assert recipe.model.curriculum == ("none" if v1 else "published")
    view = re.search("table7_t[sm]d_([a-z]+)_", path.stem)
    assert rounds.tta == (view[1] if view else "translation" if v1 else "none")


def test_recipe_headers_of_rounds_state_all_published_numbers():
    """Each row of v1's tables 5 to 7 that learns from unlabeled faces."""
    stated = set()
    for path in ROUNDS:
        numbers = re.findall(r"(\d\.\d\d) % on ([\w -]+?) \(", header(path))
        assert bool(numbers) == (path.parent.name == "v1"), path
        stated |= {(float(value), test) for value, test in numbers}
    rows = {
        (row.value, row.test)
        for row in published()
        if row.table in ("5 TSD", "6 TMD", "7 TSD", "7 TMD")
        and re.match("PIP$|PIP \\+ distillation|self-training", row.method)
    }
    assert stated == rows


def test_recipe_headers_state_all_published_numbers():
    """Each supervised row of PIP, Coord and Map."""
    stated = set()
    for path in sorted(set(OF_PAPERS) - set(ROUNDS)):
        text, config = header(path), recipe_of(path).model
        source = "v1" if path.parent.name == "v1" else "IJCV"
        assert text.startswith(source)
        numbers = re.findall(r"(\d\.\d\d) % on ([\w -]+?)(?: \(|[,.])", text)
        assert numbers, path
        backbone = BACKBONES[config.backbone.partition(".")[0]]
        for value, test in numbers:
            stated.add((source, config.head, backbone, dataset(path), test, float(value)))
    rows = {
        (row.source, method[1].lower(), row.backbone, row.train, row.test, row.value)
        for row in published()
        if row.metric.startswith("NME") and (method := SUPERVISED.fullmatch(row.method))
        if row.train in ("300W", "COFW", "AFLW", "WFLW", "300W+COFW")
    }
    assert stated == rows


def test_recipes_readme_lists_every_recipe():
    text = (FOLDER / "README.md").read_text()
    linked = set(re.findall(r"\]\((.+?\.yaml)\)", text))
    assert linked == {f"{name(path)}.yaml" for path in (*RECIPES, FACE_DETECTOR)}


def test_papers_page_lists_every_recipe_with_its_published_numbers():
    page = (FOLDER.parent / "docs" / "papers.md").read_text()
    rows = dict(re.findall(r"^\| \[[\w-]+\]\(\.\./recipes/(.+?)\.yaml\) \| (.*)$", page, re.MULTILINE))
    assert set(rows) == {name(path) for path in (*OF_PAPERS, *OF_AUTHORS)}
    for path in (*OF_PAPERS, *OF_AUTHORS):
        numbers = re.findall(r"\d\.\d\d(?= % on)", header(path))
        published_cell = rows[name(path)].split(" | ")[1]
        assert re.findall(r"\d\.\d\d", published_cell) == numbers
        assert bool(numbers) != (published_cell == "not in our sources")


# -- each recipe of the papers with a small part of its dataset ------------------------------------------


def _prepare(root: Path, name: str, samples: list[FaceSample]) -> None:
    """Write faces as the training subset of a prepared dataset."""
    names = LandmarkScheme.load(DATASETS[name].scheme).landmark_names
    write_annotations(root / "train.json", Annotations(samples, names), "coco")
    description = {"dataset": name, "source": str(root), "faces": {"train": len(samples)}}
    (root / PREPARED).write_text(json.dumps(description))


def _copies(labels: Path, folder: Path, count: int) -> list[FaceSample]:
    """Return copies of the faces of a file, each in an image of its own."""
    samples = []
    for sample in read_annotations(labels).samples:
        box = np.concatenate([sample.points.min(axis=0), sample.points.max(axis=0)])
        for number in range(count):
            image = folder / f"{number}_{sample.image.name}"
            shutil.copy(sample.image, image)
            samples.append(FaceSample(image, sample.points, image.stem, image.stem, box))
    return samples


@pytest.fixture(scope="module")
def small_datasets(shared, tmp_path_factory):
    """A folder for each dataset with a few real faces of it, or of 300-W where there are none."""
    root = tmp_path_factory.mktemp("datasets")
    for part in ("afw", "helen/trainset", "lfpw/trainset"):
        folder = root / "300w" / part
        folder.mkdir(parents=True)
        for pts in sorted((shared / "data" / "300w" / part).glob("*.pts"))[:12]:
            shutil.copy(pts, folder)
            shutil.copy(pts.with_suffix(".jpg"), folder)
    files = sorted((root / "300w" / "afw").glob("*.jpg")) * 2
    points = [read_pts(file.with_suffix(".pts")) for file in files]
    for name in ("wflw", "cofw", "aflw", "lapa", "300vw", "menpo", "menpo-profile"):
        (root / name).mkdir()
    for name, count in (("300vw", 68), ("menpo", 68), ("menpo-profile", 39)):
        faces = [
            FaceSample(file, face[:count], f"{number}", f"{number}")
            for number, (file, face) in enumerate(zip(files, points, strict=True))
        ]
        _prepare(root / name, name, faces)
    for name in ("wflw", "cofw", "aflw", "lapa"):
        labels = shared / "data" / "samples" / name / f"test_{name}.json"
        _prepare(root / name, name, _copies(labels, root / name, 16))
    return root


@cache
def first_step(data: Recipe) -> tuple[int, int, tuple[int, ...], np.ndarray]:
    """Return the numbers of training and validation faces, and crop and labels of an example."""
    split = load_split(data)
    faces = FaceDataset(split.training, split.scheme, data.crop, data.model.input_size, data.augment)
    example = faces[0]
    return len(split.training), len(split.validation), example.crop.shape, example.points


@pytest.mark.parametrize("path", [*OF_PAPERS, *OF_AUTHORS], ids=name)
def test_recipe_makes_training_examples_of_its_dataset(path, small_datasets):
    """Faces, crops and labels of the first step, as the training takes them."""
    names = dataset(path).lower().split("+") if path in OF_PAPERS else [registered(path)]
    root, *also = (small_datasets / name for name in names)
    recipe = recipe_of(path)
    data = replace(recipe.data, root=root, also=tuple(also))
    # What the faces depend on, without the network and the schedule: many recipes share it.
    size = ModelConfig(input_size=recipe.model.input_size)
    share = Recipe(
        data=data, crop=recipe.crop, augment=recipe.augment, model=size, optim=OptimConfig(batch_size=1)
    )
    training, validation, shape, points = first_step(share)
    assert training >= recipe.optim.batch_size
    assert not validation
    assert shape == (256, 256, 3)
    assert points.shape == (landmarks(path), 2)
    inside = ((points >= 0) & (points < 1)).all(axis=1)
    assert inside.mean() > 0.5
