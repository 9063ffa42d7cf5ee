"""The benchmark: candidates, interleaved timing, and the reported numbers. No duration is asserted."""

import io
import itertools
import json
import os
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from pipnet import FaceLandmarker
from pipnet.benchmark.candidates import Candidate, list_candidates, measure_memory
from pipnet.benchmark.noise import Noise, NoiseMeter, others_share, read_cpu_times, wait_until_idle
from pipnet.benchmark.other_software import installed_peers
from pipnet.benchmark.reference_model import Reference
from pipnet.benchmark.report import to_table
from pipnet.benchmark.run import REFERENCE, Report, Row, benchmark, peer_error
from pipnet.benchmark.stages import DETECTOR, MAPS, TOTAL, stages
from pipnet.benchmark.timing import Timing, time_interleaved
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.errors import ImageError, ModelError, PipnetError
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.geometry import tight_box
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.io.image import read_image, write_image
from pipnet.model.heads.pip import PipHead
from pipnet.model.neighbors import merge_matrix


@pytest.fixture
def quick(monkeypatch):
    """Time each row three times only, without a warm-up."""

    def without_minimum(runs, rounds, seconds=0, meter=None):
        return time_interleaved(runs, rounds, 0, meter)

    monkeypatch.setattr("pipnet.benchmark.timing._WARM_UP", 0)
    monkeypatch.setattr("pipnet.benchmark.run.time_interleaved", without_minimum)
    monkeypatch.setattr("pipnet.benchmark.run.BATCH_SIZES", (1, 4))


def test_time_interleaved_runs_every_function_in_every_round(quick):
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = time_interleaved(runs, rounds=3, seconds=0)
    sequence = [a for a, b in zip(order, order[1:] + [""], strict=True) if a != b]
    assert sequence[-6:] == ["a", "b"] * 3
    assert all(t.runs == 9 and len(t.rounds) == 3 for t in timings.values())
    with pytest.raises(PipnetError, match="rounds must be at least 1"):
        time_interleaved(runs, rounds=0)


def test_time_interleaved_returns_milliseconds(quick):
    timing = time_interleaved({"nap": lambda: time.sleep(0.01)}, rounds=2, seconds=0)["nap"]
    assert 10 <= timing.median <= timing.p95


def test_times_faster_compares_rounds():
    """A disturbance of a whole round does not change the ratio."""
    slow, fast = Timing(0, 0, [10.0, 30.0, 10.0], 3), Timing(0, 0, [2.0, 6.0, 2.0], 3)
    assert fast.times_faster(slow) == 5


def test_list_candidates_returns_possible_combinations():
    arguments = (
        [DEFAULT_MODEL, "a.safetensors"],
        ["onnxruntime", "openvino", "torch"],
        ["f32", "bf16"],
        [1, 2],
    )
    names = [(c.model, c.backend, c.precision) for c in list_candidates(*arguments) if c.threads == 1]
    assert names == [
        (DEFAULT_MODEL, "onnxruntime", "f32"),
        (DEFAULT_MODEL, "openvino", "f32"),
        (DEFAULT_MODEL, "openvino", "bf16"),
        ("a.safetensors", "torch", "f32"),
        ("a.safetensors", "torch", "bf16"),
    ]
    on_cuda = list_candidates(*arguments, ["cpu", "cuda:1"])
    names = [c.name for c in on_cuda if c.threads == 1 and c.model == DEFAULT_MODEL]
    assert names == [
        f"{DEFAULT_MODEL}, onnxruntime f32, 1 thread",
        f"{DEFAULT_MODEL}, onnxruntime f32, 1 thread, cuda:1",
        f"{DEFAULT_MODEL}, openvino f32, 1 thread",
        f"{DEFAULT_MODEL}, openvino bf16, 1 thread",
    ]
    assert {c.runtime.device for c in on_cuda} == {"cpu", "cuda:1"}
    with pytest.raises(PipnetError, match="unknown backend 'tensorrt'"):
        list_candidates([DEFAULT_MODEL], ["tensorrt"], ["f32"], [1])


def test_reference_decodes_like_our_head():
    """Our own head, merged with the official weights, gives the same points for the same votes."""
    reference = Reference(1)
    chosen = np.full((68, 10), -1)
    for landmark, pair in enumerate(zip(reference.voter.numpy(), reference.vote.numpy(), strict=True)):
        chosen[pair] = landmark
    assert (chosen >= 0).all()
    net = reference.net
    layers = (net.score, net.x, net.y, net.neighbor_x, net.neighbor_y)
    head = PipHead(512, 8, np.random.default_rng(0).uniform(0.1, 0.9, (68, 2))).eval()
    head.conv.weight.data = torch.cat([layer.weight for layer in layers])
    head.conv.bias.data = torch.cat([layer.bias for layer in layers])
    head.merge_weights = torch.from_numpy(merge_matrix(chosen, "official")).float()
    head.neighbors = torch.from_numpy(chosen)
    with torch.no_grad():
        landmarks = head.decode(head(net.backbone(reference.image)))
    torch.testing.assert_close(reference(), landmarks.points[0])


def test_stages_run_the_parts_of_a_landmarker(portrait, landmarker, tmp_path):
    runs = stages(landmarker, portrait, 1)
    assert {DETECTOR, MAPS, TOTAL} <= set(runs)
    assert runs[MAPS]()[0].shape == (1, 68, 8, 8)
    np.testing.assert_array_equal(runs[TOTAL]().points, landmarker(portrait).points)
    write_image(tmp_path / "gray.png", np.full((90, 90, 3), 128, np.uint8))
    with pytest.raises(ImageError, match="no face in this image"):
        stages(landmarker, tmp_path / "gray.png", 1)


def test_benchmark_reports_all_measures(portrait, small_300w, quick, monkeypatch):
    monkeypatch.setattr(NoiseMeter, "noise", lambda _: Noise(0, 0))
    candidate = Candidate("pipnet-tiny", "onnxruntime", "f32", 1)
    report = benchmark([candidate], 1, portrait, small_300w)
    rows = {row.name: row for row in report.rows}
    assert REFERENCE.format(1) in rows
    row = rows[candidate.name]
    assert row.ratio == pytest.approx(
        rows[REFERENCE.format(1)].latency.rounds[0] / row.latency.rounds[0], 0.01
    )
    assert sorted(row.per_face) == [1, 4]
    assert row.file_megabytes == pytest.approx(find_model("pipnet-tiny").stat().st_size / 1e6, abs=0.01)
    assert 20 < row.megabytes < 1000
    samples, _, spec = load_samples(small_300w, None, "300w", for_evaluation=True)
    errors = evaluate(FaceLandmarker(candidate.load()), decoded(samples), spec)
    assert row.nme == pytest.approx(100 * errors.nmes.mean(), abs=1e-3)
    facts = json.loads(report.to_json())
    assert facts["data"]["faces"] == len(samples)
    assert facts["noise"]["problem"] is None
    assert facts["stages"][candidate.name][TOTAL]["runs"] >= 3


def test_benchmark_command_prints_and_writes_the_report(tmp_path, monkeypatch, capsys):
    timing = Timing(2.0, 3.0, [2.0], 3)
    row = Row("a model", timing, 5.0, {1: 2.0, 4: 1.5}, 30.0, 9.0, 3.3)
    monkeypatch.setattr(
        "pipnet.cli.benchmark.run_benchmark", lambda *_: Report([row], {"a model": {TOTAL: timing}}, {})
    )
    assert main(["benchmark", "--data", "x", "-o", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    for text in ("a model", "1.50 (4)", "3.300", TOTAL):
        assert text in err
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["rows"][0]["ratio"] == 5.0
    assert (tmp_path / "out" / "speed.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.onnx"], "no such model"),
        (["--backend", "torch"], "none of torch runs it in f32"),
        (["a/model.onnx", "b/model.onnx"], "two are equal: a/model.onnx, b/model.onnx"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--data", "none", "--rounds", "1"], "no such file or folder"),
        (["--backend", "gpu"], "unknown backend 'gpu'"),
        (["--device", "gpu"], "device is one of auto, cpu, cuda"),
        (
            ["--device", "cuda:7"],
            "the installed onnxruntime cannot run on cuda:7, only on cpu: pip uninstall",
        ),
        (["--device", "cuda", "--backend", "openvino"], "none of openvino runs it in f32 on cuda"),
        (["--rounds", "0"], "rounds must be at least 1"),
    ],
)
def test_benchmark_command_refuses_invalid_options_in_one_line(options, message, monkeypatch, capsys):
    # All installed packages are read otherwise.
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"onnxruntime": ["onnxruntime"]})
    assert main(["benchmark", *options]) == 1
    assert message in capsys.readouterr().err


def test_measure_memory_raises_the_error_of_its_process():
    with pytest.raises(ModelError, match="no such model"):
        measure_memory(Candidate("none.onnx", "onnxruntime", "f32", 1))


def test_peer_error_counts_like_evaluate(small_300w):
    """Unknown landmarks and faces without a norm are left out, and missed faces are counted."""
    samples, _, spec = load_samples(small_300w, "train")
    first, second, third = (replace(sample, points=sample.points.copy()) for sample in samples[:3])
    first.points[5] = np.nan
    second.points[36] = np.nan

    class OffByATenth:
        name = "off by a tenth"

        def adapt(self, image, box):
            return box

        def __call__(self, image, box):
            sample = first if np.array_equal(box, tight_box(first.points)) else None
            if sample is None:
                return None
            unit = np.linalg.norm(first.points[36] - first.points[45])
            return np.nan_to_num(first.points) + np.float32([0.1 * unit, 0])

    assert peer_error(OffByATenth(), [first, second, third], spec) == (pytest.approx(10, abs=0.01), 1)
    assert peer_error(OffByATenth(), [second, third], spec) == (None, 1)


def test_installed_peers_predict_landmarks(portrait, landmarker):
    """Peers are optional."""
    image, faces = read_image(portrait), landmarker(portrait)
    box = np.concatenate([faces[0].points.min(axis=0), faces[0].points.max(axis=0)])
    peers = installed_peers()
    if not peers:
        pytest.skip("neither dlib nor MediaPipe is installed")
    for peer in peers:
        points = peer(image, peer.adapt(image, box))
        distance = np.linalg.norm(points - faces[0].points, axis=1).mean()
        assert distance < 0.06 * np.ptp(faces[0].points[:, 0]), peer.name


def test_benchmark_table_fits_80_columns():
    timing = Timing(6.31, 7.12, [6.3, 6.4], 40)
    names = ["plain PyTorch, 2 threads", "pipnet-68-int8, onnxruntime f32, 2 threads"]
    rows = [Row(name, timing, 12.7, {1: 6.31, 16: 3.91}, 212, 6.6) for name in names]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(to_table(Report(rows, {}, {})))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for number in ("6.31", "7.12", "12.7", "3.91 (16)", "212", "6.6"):
        assert text.count(number) >= len(rows), text
    assert "NME" not in text  # a column without values


# -- noise ---------------------------------------------------------------------------------------------


def test_read_cpu_times_separates_work_from_idling(tmp_path):
    ticks = os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 700 50 3 2 5 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
    busy, total = read_cpu_times(stat)
    assert (busy * ticks, total * ticks) == pytest.approx((160, 910))
    assert read_cpu_times(tmp_path / "none") is None
    stat.write_text("intr 1 2 3\n")
    assert read_cpu_times(stat) is None


def test_others_share_leaves_out_this_process():
    """Of 20 seconds of two CPUs, 14 were busy, 4 of them with this process."""
    assert others_share([(100, 500, 3), (105, 505, 4), (114, 520, 7)]) == pytest.approx(0.5)
    assert others_share([(100, 500, 3)]) is None
    assert others_share([(100, 500, 3), (101, 502, 5)]) == 0  # clocks of different resolution


def test_noise_states_each_problem():
    assert Noise(0.05, 0.02).problem is None
    assert Noise(0.05, None).problem is None
    problem = Noise(0.3, 0.48).problem
    assert "other processes took 48 % of the CPU (at most 10 %)" in problem
    assert "a fixed loop varied by 30 % (at most 15 %)" in problem


def test_noise_meter_reads_the_spread_of_its_loop(monkeypatch):
    """Eleven rounds, in the last two of which the loop takes twice as long."""
    now = [0.0]
    monkeypatch.setattr("pipnet.benchmark.noise.time.perf_counter", lambda: now[0])

    def loop():
        now[0] += 2.0 if len(meter._loops) >= 9 else 1.0

    meter = NoiseMeter(loop)
    for _ in range(11):
        meter.sample()
    assert meter.noise().loop_spread == pytest.approx(1.0)


def test_wait_until_idle_waits_for_busy_threads():
    """Three naps with a busy thread, then one without; and a thread that never sleeps."""
    used = iter([0.0, 0.01, 0.02, 0.03, 0.0301])
    naps = []
    assert wait_until_idle(lambda: next(used), naps.append)
    assert len(naps) == 4
    busy = itertools.count()
    assert not wait_until_idle(lambda: next(busy), naps.append)


def test_benchmark_of_a_noisy_run_states_the_noise_instead_of_ratios(quick, monkeypatch):
    monkeypatch.setattr(NoiseMeter, "noise", lambda _: Noise(0.5, 0.4))
    monkeypatch.setattr("pipnet.benchmark.run.measure_memory", lambda _: None)
    report = benchmark([Candidate("pipnet-tiny", "onnxruntime", "f32", 1)], 1)
    assert {REFERENCE.format(1)} < {row.name for row in report.rows}
    assert all(row.ratio is None and row.latency.median > 0 for row in report.rows)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(to_table(report))
    text = " ".join(console.export_text().split())
    assert "Too noisy for ratios: other processes took 40 % of the CPU" in text
    assert json.loads(report.to_json())["noise"]["loop_spread"] == 0.5
