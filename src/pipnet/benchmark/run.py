"""The whole benchmark: everything timed in turns, then measured and weighed."""

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
from pipnet.benchmark.contenders import Contender, memory_of, run_on, with_threads
from pipnet.benchmark.peers import Peer, installed_peers
from pipnet.benchmark.stages import stages
from pipnet.benchmark.timing import Timing, time_in_turns
from pipnet.datasets.load import load_samples
from pipnet.datasets.registry import DatasetSpec
from pipnet.errors import ImageError, PipnetError
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.evaluation.metrics import norm_distance, point_errors
from pipnet.geometry import tight_box
from pipnet.hub import find_model
from pipnet.inference.backends.base import CropModel
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image
from pipnet.progress import track
from pipnet.scheme import LandmarkScheme

BATCHES = (1, 4, 16, 64, 256)
"""Faces at once, for the throughput."""
REFERENCE = "reference: ResNet-18, plain float32 PyTorch, {} threads"


@dataclass
class Row:
    """One way to find landmarks on a crop."""

    name: str
    latency: Timing
    """Of one face."""
    ratio: float | None = None
    """How many times faster than the reference of as many threads, in the same run."""
    per_face: dict[int, float] = field(default_factory=dict)
    """Milliseconds a face, by batch."""
    megabytes: float | None = None
    """Memory of a process that loads and runs it, Python and libraries included."""
    file_megabytes: float | None = None
    nme: float | None = None
    """On the faces at hand in percent, from true boxes."""
    missed: int = 0
    """Faces that a peer's own detector did not find; no part of its NME."""


@dataclass
class Report:
    """All that one run found out."""

    rows: list[Row]
    stages: dict[str, dict[str, Timing]]
    """By contender and stage."""
    facts: dict[str, Any]
    """Machine, versions, data."""
    unreadable: list[str] = field(default_factory=list)
    """What was wrong with labeled pictures that could not be read."""

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(
            {
                **self.facts,
                "rows": [_plain(row) for row in self.rows],
                "stages": {
                    name: {stage: _timing(timing) for stage, timing in of_one.items()}
                    for name, of_one in self.stages.items()
                },
            },
            indent=1,
        )


def benchmark(
    ways: Sequence[Contender],
    rounds: int,
    picture: Path | None = None,
    data: Path | None = None,
    subset: str | None = None,
) -> Report:
    """Time everything in turns, then measure and weigh it.

    Args:
        ways: the models, on backends.
        rounds: how many turns each gets.
        picture: a photo with a face, for the stages and for peers.
        data: labeled faces, for the accuracy.
        subset: which of them; the test part if None.

    Raises:
        PipnetError: there is nothing to time, a model cannot be loaded, or as `stages`.
    """
    if not ways:
        raise PipnetError("nothing to time: no backend goes with these models and precisions")
    if rounds < 1:
        raise PipnetError(f"at least 1 round, not {rounds}")
    peers = installed_peers()
    models = {way.name: way.load() for way in ways}
    # What may be wrong with pictures and faces is found before anything takes long.
    of_stages = {way.name: _stages(way, models[way.name], picture) for way in ways if picture is not None}
    for model in models.values():
        if data is not None:
            load_samples(data, subset, model.metadata.scheme, for_evaluation=True)
    turns = _references(ways) | {way.name: run_on(way, models[way.name]) for way in ways}
    turns |= _peer_runs(peers, models[ways[0].name], picture)
    timings = time_in_turns(turns, rounds)
    rows = [Row(name, timing) for name, timing in timings.items()]
    by_name = {row.name: row for row in rows}
    for way in ways:
        row, reference = by_name[way.name], timings.get(REFERENCE.format(way.threads))
        row.ratio = reference and round(row.latency.times_faster(reference), 2)
        row.per_face = throughput(way, models[way.name], rounds)
        row.megabytes = memory_of(way)
        row.file_megabytes = round(_file(way).stat().st_size / 1e6, 2)
    unreadable: list[ImageError] = []
    facts: dict[str, Any] = {
        "pipnet": pipnet.__version__,
        "machine": _processor(),
        "python": platform.python_version(),
        "rounds": rounds,
    }
    if data is not None:
        facts["data"] = _measure(by_name, models, peers, data, subset, unreadable)
    if picture is not None:
        facts["picture"] = "{1} x {0} pixels".format(*read_image(picture).shape)
    timed = {name: time_in_turns(of_one, rounds) for name, of_one in of_stages.items()}
    return Report(rows, timed, facts, list(dict.fromkeys(map(str, unreadable))))


def _stages(way: Contender, model: CropModel, picture: Path) -> dict[str, Callable[[], object]]:
    runs = stages(FaceLandmarker(model), picture, way.threads)
    return {stage: with_threads(way, run) for stage, run in runs.items()}


def throughput(way: Contender, model: CropModel, rounds: int) -> dict[int, float]:
    """Milliseconds a face, by batch."""
    turns = {str(batch): run_on(way, model, batch) for batch in BATCHES}
    timings = time_in_turns(turns, max(rounds // 3, 1), 0.1)
    return {batch: round(timings[str(batch)].median / batch, 4) for batch in BATCHES}


def _references(ways: Sequence[Contender]) -> dict[str, Callable[[], object]]:
    """The yardstick, for each number of threads; none without torch."""
    try:
        from pipnet.benchmark.reference import Reference
    except ImportError:
        return {}
    return {REFERENCE.format(threads): Reference(threads) for threads in sorted({w.threads for w in ways})}


def _peer_runs(
    peers: Sequence[Peer], model: CropModel, picture: Path | None
) -> dict[str, Callable[[], object]]:
    """Peers on the surest face of a picture."""
    if picture is None or not peers:
        return {}
    image = read_image(picture)
    faces = FaceLandmarker(model)(image)
    if not len(faces):
        return {}
    box = tight_box(faces[0].points)
    return {peer.name: partial(peer, image, peer.place(image, box)) for peer in peers}


def _measure(
    rows: dict[str, Row],
    models: dict[str, CropModel],
    peers: Sequence[Peer],
    data: Path,
    subset: str | None,
    unreadable: list[ImageError],
) -> dict[str, Any]:
    """NME of everything on the same faces, and what these are; pictures that cannot be read are left out."""
    for name, model in models.items():
        samples, scheme, spec = load_samples(data, subset, model.metadata.scheme, for_evaluation=True)
        pictures = track(decoded(samples, unreadable), len(samples), name)
        summary = evaluate(FaceLandmarker(model), pictures, spec).summary(scheme)
        rows[name].nme = summary["pixels"]["nme"]
    timed = [peer for peer in peers if peer.name in rows]
    if timed and any(model.metadata.scheme.name == "300w" for model in models.values()):
        samples, _, spec = load_samples(data, subset, "300w", for_evaluation=True)
        for peer in timed:
            rows[peer.name].nme, rows[peer.name].missed = peer_error(peer, samples, spec)
    return {"collection": spec.title, "subset": subset or spec.default_test, "faces": summary["faces"]}


def peer_error(peer: Peer, samples: Sequence[FaceSample], spec: DatasetSpec) -> tuple[float | None, int]:
    """A peer's NME in percent on the faces that it found, None without any; how many it missed."""
    scheme, errors, missed = LandmarkScheme.load("300w"), [], 0
    for image, sample in track(decoded(samples, []), len(samples), f"{peer.name} on {spec.title}"):
        unit = norm_distance(sample.points, scheme)
        if not unit > 0:  # as in `evaluate`
            continue
        found = peer(image, peer.place(image, tight_box(sample.points)))
        if found is None:
            missed += 1
            continue
        errors.append(np.nanmean(point_errors(found, sample.points, unit)))
    return round(100 * float(np.mean(errors)), 4) if errors else None, missed


def _file(way: Contender) -> Path:
    path = Path(way.model)
    return path if path.suffix == ".safetensors" else find_model(way.model)


def _plain(row: Row) -> dict[str, Any]:
    return {**asdict(row), "latency": _timing(row.latency)}


def _timing(timing: Timing) -> dict[str, Any]:
    return {"median": round(timing.median, 4), "p95": round(timing.p95, 4), "runs": timing.runs}


def _processor() -> str:
    """The processor's name where the system tells it, and how many threads there are."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else name}, {os.cpu_count()} threads"
