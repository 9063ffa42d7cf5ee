"""The benchmark of one GPU, which also runs on a CPU: a few steps of each training."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipnet.cli import main

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "training" / "gpu_check" / "run.py"


@pytest.fixture
def script(monkeypatch):
    """Runs the script with arguments and returns its exit code."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        return runpy.run_path(str(SCRIPT))["main"]()

    return run


@pytest.fixture
def bundle(small_300w, tmp_path):
    """36 training faces, more than a batch, and unlabeled faces with boxes."""
    root = tmp_path / "300w"
    for path in sorted(p for p in small_300w.rglob("*") if p.is_file()):
        for copy in range(3):
            target = root / path.relative_to(small_300w).with_name(
                f"{path.stem.replace('_', f'{copy}_')}{path.suffix}"
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    images = sorted((small_300w / "ibug").glob("*.jpg"))
    rows = [f"{image},40,40,150,150,face" for image in images]
    (tmp_path / "boxes.csv").write_text("\n".join(["image,x,y,w,h,box_format", *rows]) + "\n")
    path = tmp_path / "faces.zip"
    flags = ["--subset", "train", "--subset", "common", "--subset", "challenging", "--size", "100"]
    assert (
        main(["data", "bundle", str(root), str(path), *flags, "--unlabeled", str(tmp_path / "boxes.csv")])
        == 0
    )
    return path


@pytest.mark.slow
def test_gpu_check_runs_on_a_cpu(script, bundle, tmp_path):
    output = tmp_path / "out"
    arguments = ("--data", bundle, "--steps", 1, "--random-weights", "-o", output)
    assert script(*arguments) == 0
    results = json.loads((output / "results.json").read_text())
    assert len(results["speed"]) == 4
    assert all(row["images_per_second"] > 0 for row in results["speed"].values())
    assert [*results["rows"]] == [
        "ijcv/mobilenetv2_300w",
        "128 px, labeled faces alone",
        "128 px, STC, five rounds",
        "128 px, plain self-training, three rounds",
    ]
    assert results["skipped"] == {}
    assert results["difference"] < 1e-3
    page = (output / "report.md").read_text()
    assert "A trial: every training stopped after 1 steps" in page
    assert "| resnet18, 256 px |" in page
    (output / "report.md").unlink()
    assert script("--report", "-o", output) == 0
    assert (output / "report.md").read_text() == page


def test_gpu_check_refuses_a_trial_in_its_own_folder(script, capsys):
    with pytest.raises(SystemExit):
        script("--steps", 1)
    assert "are not those of this folder: use -o" in capsys.readouterr().err


def test_gpu_check_skips_what_does_not_fit(tmp_path):
    """By the speed that was measured: 60 epochs of 3,200 faces at 160 images a second are 26 minutes."""
    names = runpy.run_path(str(SCRIPT))
    arguments = SimpleNamespace(
        minutes=10, steps=None, data=tmp_path, random_weights=False, backbones=tmp_path, output=tmp_path
    )
    check = names["Check"](arguments, tmp_path)
    check.results["speed"]["x"] = {
        "images_per_second": 160.0,
        "loader_images_per_second": 900.0,
        "ms_per_face_batch_1": 1.0,
    }
    recipe = check.recipe(names["PUBLISHED"])
    seconds = check.seconds(recipe, 3200, "x")
    assert seconds == pytest.approx(1.3 * 60 * 3200 / 160)
    ran = []
    check.part("long", seconds, lambda: ran.append("long"))
    check.part("short", 10, lambda: ran.append("short"))
    assert ran == ["short"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["skipped"]["long"].startswith("needs 1560 s")
