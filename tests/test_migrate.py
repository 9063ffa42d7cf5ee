"""Files of format 1: they load, or are converted by ``pipnet migrate``."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipnet import FaceLandmarker
from pipnet.cli import main
from pipnet.model.checkpoint import load_checkpoint
from pipnet.training.recipe import load_recipe

FORMAT1 = Path(__file__).parent / "format1"


@pytest.fixture
def copy(tmp_path, portrait):
    """A copy of the files, beside the image that their labels name."""
    target = tmp_path / "tests" / "format1"
    shutil.copytree(FORMAT1, target)
    (tmp_path / "examples").mkdir()
    shutil.copy(portrait, tmp_path / "examples" / "astronaut.jpg")
    return target


def test_format_1_model_and_checkpoint_load(portrait):
    faces = FaceLandmarker(FORMAT1 / "model.onnx")(portrait)
    assert faces.points.shape == (1, 19, 2)
    network, metadata = load_checkpoint(FORMAT1 / "run" / "last.safetensors")
    size = metadata.input_size
    crops = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    points = network.predict(torch.from_numpy(crops)).points
    assert points.shape == (2, metadata.scheme.landmarks, 2)
    assert points.isfinite().all()
    assert metadata.license == faces.metadata.license
    assert metadata.box_adapters == faces.metadata.box_adapters != {}


def test_migrate_recipe_keeps_comments(copy, capsys):
    path = copy / "recipe.yaml"
    path.write_text("# my recipe\n" + path.read_text() + "crop: {box: given} # as the papers\n")
    assert main(["train", str(path), "--data", str(copy / "labels.csv"), "-o", str(copy / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.endswith(f"convert it: pipnet migrate {path}\n")
    assert main(["migrate", str(path)]) == 0
    text = path.read_text()
    assert text.startswith("# my recipe\n")
    assert text.endswith("crop: {box: dataset} # as the papers\n")
    path.write_text(text.replace("crop: {box: dataset} # as the papers\n", ""))
    recipe = load_recipe(path)
    assert (recipe.pseudo.min_score, recipe.pseudo.max_std) == (0.1, 5.0)
    assert (recipe.self_training.tta, recipe.augment.grayscale) == ("flip", 0.1)
    assert main(["migrate", str(path)]) == 0
    assert "0 names converted" in capsys.readouterr().err


def test_migrated_run_folder_resumes(copy, capsys):
    run = copy / "run"
    command = [
        "train",
        str(copy / "recipe.yaml"),
        "--data",
        str(copy / "labels.csv"),
        "-o",
        str(run),
        "--resume",
    ]
    assert main(["migrate", str(copy / "recipe.yaml")]) == 0
    assert main(command) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error.endswith(f"convert it: pipnet migrate {run}")
    assert main(["migrate", str(run)]) == 0
    assert main(command) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


def test_migrate_converts_a_bulk_job(copy, capsys):
    job = copy / "job"
    before = json.loads((job / "manifest.json").read_text())["shards"]
    command = [
        "data",
        "view",
        str(job),
        "--images",
        str(copy.parents[1] / "examples"),
        "-o",
        str(copy / "page"),
    ]
    assert main(command) == 1
    assert capsys.readouterr().err.strip().endswith(f"pipnet migrate {job}")
    assert main(["migrate", str(job)]) == 0
    assert main(["migrate", str(job)]) == 0
    manifest = json.loads((job / "manifest.json").read_text())
    assert manifest["settings"]["refine_steps"] == 0
    assert manifest["shards"][0]["faces"] == before[0]["faces"] == 1
    assert (
        main(
            [
                "data",
                "view",
                str(job),
                "-o",
                str(copy / "page"),
                "--images",
                str(copy.parents[1] / "examples"),
            ]
        )
        == 0
    )


def test_migrate_refuses_other_files(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("text")
    assert main(["migrate", str(tmp_path / "a.txt")]) == 1
    assert "not a recipe" in capsys.readouterr().err
