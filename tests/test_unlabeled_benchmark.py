"""The benchmark of unlabeled faces: equal steps, repeated boxes, gains, and a trial of all rows."""

import importlib
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from pipnet.geometry import box_iou

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "training" / "unlabeled" / "run.py"


@pytest.fixture
def controlled(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("training.unlabeled.controlled")


def test_required_rows_come_before_the_rows_that_need_them(controlled):
    for row in controlled.ROWS:
        names = [needed.name for needed in controlled.required_rows(row.name)]
        assert names[0] == controlled.SUPERVISED
        assert row.name in names
        assert not row.control or row.control in names
        for needed in controlled.required_rows(row.name):
            assert not needed.steps_of or names.index(needed.steps_of) < names.index(needed.name)
    assert controlled.required_rows("") == list(controlled.ROWS)
    names = [row.name for row in controlled.required_rows(controlled.PUBLIC, [controlled.PLAIN])]
    assert names == [controlled.SUPERVISED, "supervised, equal steps", controlled.PUBLIC]


def test_every_row_with_pseudo_labels_has_a_control_without(controlled):
    for row in controlled.ROWS:
        if row.unlabeled:
            control = controlled.BY_NAME[row.control]
            assert control.steps_of
            assert not control.unlabeled
            assert control.warm_start == row.warm_start


def test_jittered_boxes_are_near_the_true_one_and_repeatable(controlled):
    true = np.float32([100, 200, 300, 500])
    boxes = controlled._jittered_boxes(true, 3)
    np.testing.assert_array_equal(boxes, controlled._jittered_boxes(true, 3))
    np.testing.assert_array_equal(boxes[0], true)
    assert len(np.unique(boxes, axis=0)) == 1 + controlled.JITTERED
    assert (box_iou(boxes, true) > 0.6).all()
    assert not np.array_equal(boxes[1:], controlled._jittered_boxes(true, 4)[1:])


def test_gain_is_over_the_seeds_that_row_and_control_share(controlled):
    gain_of = importlib.import_module("training.unlabeled.controlled_report").gain_of
    row = controlled.BY_NAME[controlled.PLAIN]
    rng = np.random.default_rng(0)
    faces, results = {}, {row.name: {}, row.control: {}}
    for seed in ("0", "1", "2"):
        before = rng.uniform(4, 6, 50)
        for name, errors in ((row.control, before), (row.name, 0.9 * before)):
            faces[f"controlled/{name}/{seed}/AFW"] = np.stack([errors, 2 * errors], axis=1)
            results[name][seed] = {}
    del results[row.control]["2"]
    gain = gain_of(row, "AFW", results, faces)
    assert (gain.mean, gain.low, gain.high) == pytest.approx((10, 10, 10))
    assert gain.two_sigma == pytest.approx(0, abs=1e-9)
    assert gain.seeds == 2
    faces[f"controlled/{row.name}/1/AFW"] *= 0.8 / 0.9  # the seeds differ: 10 and 20 %
    gain = gain_of(row, "AFW", results, faces)
    assert gain.mean == pytest.approx(15, abs=0.2)
    assert gain.two_sigma == pytest.approx(10, abs=0.2)
    assert gain_of(controlled.BY_NAME[controlled.LARGE], "AFW", results, faces) is None


@pytest.mark.slow
def test_trial_trains_measures_and_resumes_every_row(controlled, shared, tmp_path, monkeypatch):
    output = tmp_path / "out"
    arguments = ["controlled", "--shared", str(shared), "--runs", str(tmp_path / "runs")]
    arguments += ["-o", str(output), "--trial", "8"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT))["main"]()
    done = json.loads((output / "results.json").read_text())["controlled"]
    assert [*done] == [row.name for row in controlled.ROWS]
    for row in controlled.ROWS:
        result = done[row.name]["0"]
        assert [*result["nme"]] == [test.name for test in controlled.SETS]
        assert all(np.isfinite([*result["nme"].values()]))
        if row.control:
            assert done[row.control]["0"]["steps"] >= result["steps"]
            assert result["labeling"]["labeled"] > 0
    page = (output / "report.md").read_text()
    assert "Chosen on AFW: **" in page
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("last.safetensors")}
    results = json.loads((output / "results.json").read_text())
    del results["controlled"][controlled.AGREEMENT]
    (output / "results.json").write_text(json.dumps(results))
    runpy.run_path(str(SCRIPT))["main"]()  # measures the row again, and trains nothing
    assert weights == {path: path.stat().st_mtime_ns for path in weights}
    assert json.loads((output / "results.json").read_text())["controlled"][controlled.AGREEMENT]


def test_trial_requires_another_output_folder(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "controlled", "--trial", "8"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT))["main"]()
    assert "use -o" in capsys.readouterr().err
