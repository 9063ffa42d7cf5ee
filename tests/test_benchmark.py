"""The benchmark: what is timed, in turns, and that its numbers are what they say. No time is asserted."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipnet import FaceLandmarker
from pipnet.benchmark.contenders import Contender, contenders, memory_of
from pipnet.benchmark.peers import installed_peers
from pipnet.benchmark.reference import Reference
from pipnet.benchmark.run import REFERENCE, Report, Row, benchmark, peer_error
from pipnet.benchmark.stages import DETECTOR, MAPS, WHOLE, stages
from pipnet.benchmark.timing import Timing, time_in_turns
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.errors import ImageError, ModelError, PipnetError
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.geometry import tight_box
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.io.image import read_image, write_image
from pipnet.model.heads.pip import PipHead
from pipnet.model.neighbors import merge_matrix


def test_everyone_has_a_turn_in_every_round():
    order = []
    ways = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = time_in_turns(ways, rounds=3, seconds=0)
    turns = [a for a, b in zip(order, order[1:] + [""], strict=True) if a != b]
    assert turns[-6:] == ["a", "b"] * 3
    assert all(t.runs == 9 and len(t.rounds) == 3 for t in timings.values())
    with pytest.raises(PipnetError, match="at least 1 round"):
        time_in_turns(ways, rounds=0)


def test_times_are_milliseconds():
    timing = time_in_turns({"nap": lambda: time.sleep(0.01)}, rounds=2, seconds=0)["nap"]
    assert 10 <= timing.median <= timing.p95


def test_a_ratio_is_of_rounds_side_by_side():
    """A disturbance of one whole round changes no ratio."""
    slow, fast = Timing(0, 0, [10.0, 30.0, 10.0], 3), Timing(0, 0, [2.0, 6.0, 2.0], 3)
    assert fast.times_faster(slow) == 5


def test_what_goes_together():
    given = ([DEFAULT_MODEL, "a.safetensors"], ["onnxruntime", "openvino", "torch"], ["f32", "bf16"], [1, 2])
    names = [(one.model, one.backend, one.precision) for one in contenders(*given) if one.threads == 1]
    assert names == [
        (DEFAULT_MODEL, "onnxruntime", "f32"),
        (DEFAULT_MODEL, "openvino", "f32"),
        (DEFAULT_MODEL, "openvino", "bf16"),
        ("a.safetensors", "torch", "f32"),
        ("a.safetensors", "torch", "bf16"),
    ]
    with pytest.raises(PipnetError, match="no backend 'tensorrt'"):
        contenders([DEFAULT_MODEL], ["tensorrt"], ["f32"], [1])


def test_the_reference_decodes_as_the_original():
    """The same votes through our own head, merged by the authors' weights: the same points."""
    reference = Reference(1)
    chosen = np.full((68, 10), -1)
    for landmark, (who, vote) in enumerate(zip(reference.who.numpy(), reference.vote.numpy(), strict=True)):
        chosen[who, vote] = landmark
    assert (chosen >= 0).all()
    with torch.no_grad():
        maps = torch.cat(reference.net(reference.image), dim=1)
    head = PipHead(512, 8, np.random.default_rng(0).uniform(0.1, 0.9, (68, 2)))
    head.merge_weights = torch.from_numpy(merge_matrix(chosen, "official")).float()
    head.neighbors = torch.from_numpy(chosen)
    torch.testing.assert_close(reference(), head.decode(maps).points[0])


def test_stages_of_a_picture(portrait, landmarker, tmp_path):
    ways = stages(landmarker, portrait, 1)
    assert {DETECTOR, MAPS, WHOLE} <= set(ways)
    assert ways[MAPS]()[0].shape == (1, 68, 8, 8)
    np.testing.assert_array_equal(ways[WHOLE]().points, landmarker(portrait).points)
    write_image(tmp_path / "gray.png", np.full((90, 90, 3), 128, np.uint8))
    with pytest.raises(ImageError, match="no face in it"):
        stages(landmarker, tmp_path / "gray.png", 1)


def test_a_whole_run(portrait, small_300w):
    way = Contender(DEFAULT_MODEL, "onnxruntime", "f32", 1)
    report = benchmark([way], 1, portrait, small_300w)
    rows = {row.name: row for row in report.rows}
    assert REFERENCE.format(1) in rows
    row = rows[way.name]
    assert row.ratio == pytest.approx(
        rows[REFERENCE.format(1)].latency.rounds[0] / row.latency.rounds[0], 0.01
    )
    assert sorted(row.per_face) == [1, 4, 16, 64, 256]
    assert row.file_megabytes == pytest.approx(find_model(DEFAULT_MODEL).stat().st_size / 1e6, abs=0.01)
    assert 20 < row.megabytes < 1000
    samples, _, spec = load_samples(small_300w, None, "300w", for_evaluation=True)
    errors = evaluate(FaceLandmarker(way.load()), decoded(samples), spec)
    assert row.nme == pytest.approx(100 * errors.nmes.mean(), abs=1e-3)
    facts = json.loads(report.to_json())
    assert facts["data"]["faces"] == len(samples)
    assert facts["stages"][way.name][WHOLE]["runs"] >= 3


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    timing = Timing(2.0, 3.0, [2.0], 3)
    row = Row("a model", timing, 5.0, {1: 2.0, 4: 1.5}, 30.0, 9.0, 3.3)
    monkeypatch.setattr(
        "pipnet.cli.benchmark.time_all", lambda *_: Report([row], {"a model": {WHOLE: timing}}, {})
    )
    assert main(["benchmark", "--data", "x", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    for words in ("a model", "1.50 (4)", "3.300", WHOLE):
        assert words in said
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["rows"][0]["ratio"] == 5.0
    assert (tmp_path / "out" / "speed.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.onnx"], "no such model"),
        (["--backend", "torch"], "none of torch runs it in f32"),
        (["a/model.onnx", "b/model.onnx"], "have the same: a/model.onnx, b/model.onnx"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--data", "none", "--rounds", "1"], "no such file or folder"),
        (["--backend", "gpu"], "no backend 'gpu'"),
        (["--rounds", "0"], "at least 1 round"),
    ],
)
def test_impossible_wishes_are_one_line(words, message, capsys):
    assert main(["benchmark", *words]) == 1
    assert message in capsys.readouterr().err


def test_memory_is_measured_in_a_process_of_its_own():
    with pytest.raises(ModelError, match="no such model"):
        memory_of(Contender("none.onnx", "onnxruntime", "f32", 1))


def test_a_peer_is_measured_as_models_are(small_300w):
    """Unknown landmarks and faces without a norm do not count, faces that it misses are told."""
    samples, _, spec = load_samples(small_300w, "train")
    first, second, third = (replace(sample, points=sample.points.copy()) for sample in samples[:3])
    first.points[5] = np.nan
    second.points[36] = np.nan

    class OffByATenth:
        name = "off by a tenth"

        def place(self, image, box):
            return box

        def __call__(self, image, place):
            sample = first if np.array_equal(place, tight_box(first.points)) else None
            if sample is None:
                return None
            unit = np.linalg.norm(first.points[36] - first.points[45])
            return np.nan_to_num(first.points) + np.float32([0.1 * unit, 0])

    assert peer_error(OffByATenth(), [first, second, third], spec) == (pytest.approx(10, abs=0.01), 1)
    assert peer_error(OffByATenth(), [second, third], spec) == (None, 1)


def test_peers_find_real_faces(portrait, landmarker):
    """Those that are installed; none is asked for."""
    image, faces = read_image(portrait), landmarker(portrait)
    box = np.concatenate([faces[0].points.min(axis=0), faces[0].points.max(axis=0)])
    peers = installed_peers()
    if not peers:
        pytest.skip("neither dlib nor MediaPipe is installed here")
    for peer in peers:
        found = peer(image, peer.place(image, box))
        away = np.linalg.norm(found - faces[0].points, axis=1).mean()
        assert away < 0.06 * np.ptp(faces[0].points[:, 0]), peer.name
