"""Every recipe can be read and built, and those of the papers have the papers' settings and numbers."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipnet.datasets.registry import DATASETS
from pipnet.model.pipnet import PIPNet
from pipnet.papers.paper_report import BACKBONES
from pipnet.papers.published import published
from pipnet.scheme import LandmarkScheme
from pipnet.training.recipe import load_recipe

FOLDER = Path(__file__).parents[1] / "recipes"
FACE_DETECTOR = FOLDER / "face_detector.yaml"
"""Not a training of landmarks: `tests/test_face_detector.py` reads it."""
RECIPES = sorted(set(FOLDER.rglob("*.yaml")) - {FACE_DETECTOR})
OF_PAPERS = [path for path in RECIPES if path.parent.name in ("v1", "ijcv")]
SUPERVISED = re.compile(r"(PIP|Coord|Map)( stride \d+| \+ NRM| supervised)?")


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


def landmarks(path: Path) -> int:
    scheme = load_recipe(path).data.scheme
    if scheme is None:
        scheme = dataset(path).lower() if path in OF_PAPERS else "300w"
    return LandmarkScheme.load(scheme).landmarks


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_is_read_and_built(path):
    config = load_recipe(path).model
    count = landmarks(path)
    face = np.random.default_rng(0).uniform(0.1, 0.9, (count, 2))
    # Shapes without numbers: ResNet-101 and heat maps of stride 1 take no time.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = PIPNet(config, face).eval()
        image = torch.zeros(2, config.input_size, config.input_size, 3, dtype=torch.uint8)
        output = model(image)
        assert model.head.decode(output).points.shape == (2, count, 2)
        assert all(term.shape == () for term in model.loss(output, torch.rand(2, count, 2)).values())
    assert header(path)


def test_recipe_losses_of_v1_are_flags():
    path = FOLDER / "v1" / "table1_stride32_300w.yaml"
    for score in ("l2", "l1", "focal"):
        recipe = load_recipe(path, ["--model.score-loss", score, "--model.offset-loss", "l2"])
        assert (recipe.model.score_loss, recipe.model.offset_loss) == (score, "l2")


@pytest.mark.parametrize("path", OF_PAPERS, ids=name)
def test_recipe_of_the_papers_has_their_settings(path):
    recipe, v1 = load_recipe(path), path.parent.name == "v1"
    optim, augment, model = recipe.optim, recipe.augment, recipe.model
    assert (optim.name, optim.lr, optim.weight_decay, optim.schedule) == ("adam", 1e-4, 0, "step")
    assert (optim.ema, optim.clip, recipe.data.validation, recipe.initial.pretrained) == (None, None, 0, True)
    assert recipe.data.label_offset == (0, 0)
    long = model.head == "coord" or model.backbone.startswith("mobilenetv3")
    assert (optim.epochs, optim.milestones) == ((120, (60, 100)) if long else (60, (30, 50)))
    assert optim.batch_size == (32 if model.head == "coord" else 16)
    chances = (augment.translate, augment.rotate, augment.flip, augment.occlude, augment.blur)
    assert chances == (0.5, 0.5, 0.5, 0.5, 0.3)
    pixels = (augment.translate_by, augment.occlude_by, augment.blur_by)
    assert pixels == (29 / 256, 102 / 256, 5 / 256)
    assert (augment.scale, augment.color_jitter, augment.rotate_by) == (0, 0, 30)
    assert augment.grayscale == (0 if v1 else 0.2)
    if model.head == "pip":
        assert (model.neighbors, model.offset_loss, model.score_weight) == (0 if v1 else 10, "l1", None)
        assert v1 or model.merge == "official"
    spec = DATASETS[dataset(path).lower().partition("+")[0]]
    assert recipe.crop == (spec.v1_crop if v1 else spec.official_crop)
    assert recipe.name == f"{path.parent.name}-{path.stem.replace('_', '-')}"


def test_recipe_headers_state_all_published_numbers():
    """Each supervised row of PIP, Coord and Map."""
    stated = set()
    for path in OF_PAPERS:
        text, config = header(path), load_recipe(path).model
        source = "v1" if path.parent.name == "v1" else "IJCV"
        assert text.startswith(source)
        assert len(path.read_text().splitlines()) < 15
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
