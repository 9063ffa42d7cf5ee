"""A small part of `make fuzz`: no traceback, crash or hang in some hundred changed files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "benchmarks" / "robustness" / "fuzz" / "run.py"


@pytest.mark.parametrize(
    "targets",
    [
        ("image", "metadata", "recipe", "coco"),
        pytest.param(
            ("tar", "parquet", "scheme", "matlab", "cvat", "csv", "yolo", "job (hypothesis)"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda targets: targets[0],
)
def test_fuzzed_files_end_in_typed_errors(tmp_path, targets):
    target_flags = [f"--target={name}" for name in targets]
    folders = ["--work", str(tmp_path), "--output", str(tmp_path)]
    arguments = ["--cases", "150", "--seed", "1", *target_flags, *folders]
    result = subprocess.run([sys.executable, RUN, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    outcomes = json.loads((tmp_path / "results.json").read_text())["targets"]
    assert set(outcomes) == set(targets)
    for counts in outcomes.values():
        assert counts["outcomes"].keys() <= {"ok", "typed error"}
        assert counts["done"] == sum(counts["outcomes"].values())
