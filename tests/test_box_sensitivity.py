"""Errors of landmarks in boxes that are moved or scaled: ``pipnet detector sensitivity``."""

import json

import numpy as np
import pytest

from pipnet.box_adapter import BoxAdapter
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.evaluation.sensitivity import PERTURBATIONS, nmes_from_boxes, summary
from pipnet.geometry import tight_box
from pipnet.io.image import read_image


def test_sensitivity_command_writes_metrics_and_a_figure(small_300w, tmp_path, capsys):
    output = tmp_path / "out"
    command = ["detector", "sensitivity", "pipnet-tiny", "--data", str(small_300w), "--subset", "afw"]
    assert main([*command, "-o", str(output)]) == 0
    assert "10 % more error" in capsys.readouterr().err
    facts = json.loads((output / "sensitivity.json").read_text())
    assert (facts["faces"], facts["subset"], len(facts["rows"])) == (4, "afw", len(PERTURBATIONS))
    nme = {(row["direction"], row["amount"]): row["nme"] for row in facts["rows"]}
    assert nme["size", 1.0] < 3
    for direction in ("left", "right", "up", "down"):
        assert nme[direction, 0.2] > nme["size", 1.0]
    assert nme["size", 0.7] > nme["size", 0.9]
    assert (output / "sensitivity.png").stat().st_size > 10_000
    assert main([*command, "-o", str(output / "sensitivity.json")]) == 1
    assert "error: " in capsys.readouterr().err


def test_perturbations_move_and_scale_boxes():
    box = np.float32([[10, 20, 110, 220]])
    boxes = {(name, amount): BoxAdapter(*change).apply(box)[0] for name, amount, change in PERTURBATIONS}
    assert boxes["size", 1.0].tolist() == [10, 20, 110, 220]
    assert boxes["left", 0.1] == pytest.approx([0, 20, 100, 220])
    assert boxes["down", 0.2] == pytest.approx([10, 60, 110, 260])
    assert boxes["size", 1.4] == pytest.approx([-10, -20, 130, 260], abs=1e-3)


def test_summary_interpolates_the_tolerated_shift():
    """The error grows by a fifth with each tenth of a shift to the right, and in no other direction."""
    nmes = np.array([[0.05 * (1 + 2 * amount * (name == "right")) for name, amount, _ in PERTURBATIONS]] * 3)
    facts = summary(nmes)
    assert facts["tolerated"] == dict.fromkeys(("left", "up", "down", "smaller", "larger")) | {"right": 0.05}
    rows = {(row["direction"], row["amount"]): row for row in facts["rows"]}
    assert rows["right", 0.2]["nme"] == pytest.approx(7)
    assert rows["right", 0.2]["iou"] == pytest.approx(0.8 / 1.2, abs=1e-3)
    assert rows["size", 0.7]["iou"] == pytest.approx(0.49, abs=1e-3)


def test_nmes_from_true_boxes_equal_those_of_evaluate(landmarker, small_300w):
    samples, _, spec = load_samples(small_300w, "afw")
    for norm in ("scheme", "longer_side"):
        errors = evaluate(landmarker, decoded(samples), spec, norm=norm)
        for sample, nme in zip(samples, errors.nmes, strict=True):
            labeled = (read_image(sample.image), sample)
            true_box = tight_box(sample.points)[None]
            assert nmes_from_boxes(landmarker, labeled, true_box, norm)[0] == pytest.approx(nme)
