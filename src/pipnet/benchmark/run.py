"""The benchmark: all candidates timed interleaved, then their memory and accuracy measured."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import pipnet
from pipnet.annotations.samples import FaceSample
from pipnet.benchmark.candidates import Candidate, measure_memory, run_on_noise, with_threads
from pipnet.benchmark.noise import Noise, NoiseMeter
from pipnet.benchmark.other_software import Peer, installed_peers
from pipnet.benchmark.stages import stages
from pipnet.benchmark.timing import Timing, time_interleaved
from pipnet.datasets.load import load_samples
from pipnet.datasets.registry import DatasetSpec
from pipnet.errors import ImageError, PipnetError
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.evaluation.metrics import norm_distance, point_errors
from pipnet.geometry import tight_box
from pipnet.inference.backends.base import CropModel
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image
from pipnet.progress import show_progress
from pipnet.scheme import LandmarkScheme

BATCH_SIZES = (1, 4, 16, 64, 256)
"""Batch sizes of the throughput."""
REFERENCE = "reference: ResNet-18, plain float32 PyTorch, {} threads"


@dataclass
class Row:
    """The results of a candidate, the reference or a peer."""

    name: str
    latency: Timing
    """Of one face."""
    ratio: float | None = None
    """How many times faster it is than the reference with as many threads; None in a too noisy run."""
    per_face: dict[int, float] = field(default_factory=dict)
    """Milliseconds a face, by batch size."""
    megabytes: float | None = None
    """Memory of a process that loads and runs it, Python and libraries included."""
    file_megabytes: float | None = None
    nme: float | None = None
    """NME in percent on the labeled faces, from true boxes."""
    missed: int = 0
    """Number of faces that a peer's own detector missed. They are not part of its NME."""


@dataclass
class Report:
    """The results of a benchmark."""

    rows: list[Row]
    stages: dict[str, dict[str, Timing]]
    """By candidate and stage."""
    facts: dict[str, Any]
    """Machine, versions, dataset."""
    unreadable: list[str] = field(default_factory=list)
    """Errors of labeled images that cannot be read."""
    noise: Noise | None = None
    """The disturbance while the rows were timed."""

    def to_json(self) -> str:
        """Return the report as JSON."""
        rows = [{**asdict(row), "latency": _timing_dict(row.latency)} for row in self.rows]
        by_stage = {
            name: {stage: _timing_dict(timing) for stage, timing in timings.items()}
            for name, timings in self.stages.items()
        }
        noise = self.noise and self.noise.to_dict()
        return json.dumps({**self.facts, "noise": noise, "rows": rows, "stages": by_stage}, indent=1)


def benchmark(
    candidates: Sequence[Candidate],
    rounds: int,
    image: Path | None = None,
    data: Path | None = None,
    subset: str | None = None,
) -> Report:
    """Time all candidates interleaved, then measure their throughput, memory and accuracy.

    Args:
        candidates: the models and what runs them.
        rounds: number of rounds in which each candidate is timed.
        image: an image with a face, for the stages and the peers.
        data: labeled faces, for the accuracy.
        subset: the subset of the labeled faces; the default test subset if None.

    Raises:
        PipnetError: no candidates, fewer than 1 round, a model that cannot be loaded, or see `stages`.
    """
    if not candidates:
        raise PipnetError("no candidates: no backend runs these models in these precisions")
    if rounds < 1:
        raise PipnetError(f"--rounds must be at least 1, not {rounds}")
    peers = installed_peers()
    models = {candidate.name: candidate.load() for candidate in candidates}
    # Errors in the image and the labeled faces are found before anything takes long.
    stage_runs = {c.name: _stage_runs(c, models[c.name], image) for c in candidates if image is not None}
    for model in models.values():
        if data is not None:
            load_samples(data, subset, model.metadata.scheme, for_evaluation=True)
    runs = _reference_runs(candidates) | {c.name: run_on_noise(c, models[c.name]) for c in candidates}
    runs |= _peer_runs(peers, models[candidates[0].name], image)
    meter = NoiseMeter()
    timings = time_interleaved(runs, rounds, meter=meter)
    noise = meter.noise()
    rows = {name: Row(name, timing) for name, timing in timings.items()}
    for candidate in candidates:
        row, reference = rows[candidate.name], timings.get(REFERENCE.format(candidate.threads))
        if reference and noise.problem is None:
            row.ratio = round(row.latency.times_faster(reference), 2)
        row.per_face = throughput(candidate, models[candidate.name], rounds)
        row.megabytes = measure_memory(candidate)
        row.file_megabytes = round(candidate.file.stat().st_size / 1e6, 2)
    facts: dict[str, Any] = {
        "pipnet": pipnet.__version__,
        "machine": processor_name(),
        "python": platform.python_version(),
        "rounds": rounds,
    }
    unreadable: list[ImageError] = []
    if data is not None:
        facts["data"] = _measure_accuracy(rows, models, peers, data, subset, unreadable)
    if image is not None:
        facts["image"] = "{1} x {0} pixels".format(*read_image(image).shape)
    stage_timings = {name: time_interleaved(stage, rounds) for name, stage in stage_runs.items()}
    return Report(list(rows.values()), stage_timings, facts, list(dict.fromkeys(map(str, unreadable))), noise)


def _stage_runs(candidate: Candidate, model: CropModel, image: Path) -> dict[str, Callable[[], object]]:
    runs = stages(FaceLandmarker(model), image, candidate.threads)
    return {stage: with_threads(candidate, run) for stage, run in runs.items()}


def throughput(candidate: Candidate, model: CropModel, rounds: int) -> dict[int, float]:
    """Return the milliseconds a face by batch size."""
    runs = {str(batch): run_on_noise(candidate, model, batch) for batch in BATCH_SIZES}
    timings = time_interleaved(runs, max(rounds // 3, 1), 0.1)
    return {batch: round(timings[str(batch)].median / batch, 4) for batch in BATCH_SIZES}


def _reference_runs(candidates: Sequence[Candidate]) -> dict[str, Callable[[], object]]:
    """Return the reference for each number of threads; nothing without torch."""
    try:
        from pipnet.benchmark.reference_model import Reference
    except ImportError:
        return {}
    return {REFERENCE.format(n): Reference(n) for n in sorted({c.threads for c in candidates})}


def _peer_runs(
    peers: Sequence[Peer], model: CropModel, image_path: Path | None
) -> dict[str, Callable[[], object]]:
    """Return the peers on the face with the highest detection score in an image."""
    if image_path is None or not peers:
        return {}
    image = read_image(image_path)
    faces = FaceLandmarker(model)(image)
    if not len(faces):
        return {}
    box = tight_box(faces[0].points)
    return {peer.name: partial(peer, image, peer.adapt(image, box)) for peer in peers}


def _measure_accuracy(
    rows: dict[str, Row],
    models: dict[str, CropModel],
    peers: Sequence[Peer],
    data: Path,
    subset: str | None,
    unreadable: list[ImageError],
) -> dict[str, Any]:
    """Set the NME of all rows on the same faces, and return what the faces are."""
    for name, model in models.items():
        samples, scheme, spec = load_samples(data, subset, model.metadata.scheme, for_evaluation=True)
        images = show_progress(decoded(samples, unreadable), len(samples), name)
        summary = evaluate(FaceLandmarker(model), images, spec).summary(scheme)
        rows[name].nme = summary["pixels"]["nme"]
    timed = [peer for peer in peers if peer.name in rows]
    if timed and any(model.metadata.scheme.name == "300w" for model in models.values()):
        samples, _, spec = load_samples(data, subset, "300w", for_evaluation=True)
        for peer in timed:
            rows[peer.name].nme, rows[peer.name].missed = peer_error(peer, samples, spec)
    return {"dataset": spec.title, "subset": subset or spec.default_test, "faces": summary["faces"]}


def peer_error(peer: Peer, samples: Sequence[FaceSample], spec: DatasetSpec) -> tuple[float | None, int]:
    """Return a peer's NME in percent, None if it missed all faces, and the number of faces that it missed."""
    scheme, errors, missed = LandmarkScheme.load("300w"), [], 0
    for image, sample in show_progress(decoded(samples, []), len(samples), f"{peer.name} on {spec.title}"):
        unit = norm_distance(sample.points, scheme)
        if not unit > 0:  # as in `evaluate`
            continue
        points = peer(image, peer.adapt(image, tight_box(sample.points)))
        if points is None:
            missed += 1
        else:
            errors.append(np.nanmean(point_errors(points, sample.points, unit)))
    return round(100 * float(np.mean(errors)), 4) if errors else None, missed


def _timing_dict(timing: Timing) -> dict[str, Any]:
    return {"median": round(timing.median, 4), "p95": round(timing.p95, 4), "runs": timing.runs}


def processor_name() -> str:
    """Return the name of the processor, if the system tells it, and the number of its threads."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else name}, {os.cpu_count()} threads"
