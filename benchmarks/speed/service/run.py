"""The service under load, over 20,000 requests, with hostile bodies, and when its processes are killed.

    python benchmarks/speed/service/run.py --locust PATH      (about twelve minutes; nothing else should run)

The load comes from locust (pip install locust, best into an environment of its own) on the same machine, over
loopback. Each part is stored when it is done; a rerun does the parts that are missing. ``--quick`` tries all
parts with few requests and stores nothing.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2 as httpx
import PIL.Image
import psutil

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    ROOT,
    measured_on,
    new_parser,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)
from speed.service.hostile import hostile_bodies

HERE = Path(__file__).parent
PHOTO = ROOT / "examples" / "astronaut.jpg"
CLIENTS = 8


class Load(NamedTuple):
    """A row of the load test."""

    workers: int
    batch_size: int
    users: int


LOADS = (Load(1, 8, 1), Load(1, 1, CLIENTS), Load(1, 8, CLIENTS), Load(2, 8, CLIENTS))


class Size(NamedTuple):
    """How much is measured."""

    rounds: int = 2
    seconds: int = 25
    requests: int = 20_000
    bodies: int = 1_000


QUICK = Size(1, 3, 200, 40)


def main() -> None:
    """Measure what is missing, store it, and write the page."""
    parser = new_parser(__doc__)
    parser.add_argument("--locust", default=shutil.which("locust"), help="the program locust")
    parser.add_argument("--quick", action="store_true", help="try all parts with few requests; store nothing")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else Size()
    results = {} if arguments.quick else read_results(HERE)
    if not arguments.report:
        if arguments.locust is None:
            parser.error("locust is not installed: pip install locust, and --locust PATH")
        parts: dict[str, Callable[[], Any]] = {
            "load": lambda: measure_load(arguments.locust, size),
            "memory": lambda: measure_memory(size),
            "hostile": lambda: measure_hostile(size),
            "kill": measure_kill,
        }
        for name, measure in parts.items():
            if name not in results:
                results[name] = measure()
                results["origins"] = {**results.get("origins", {}), name: provenance()}
                if not arguments.quick:
                    write_results(HERE, results)
    lines = report(results)
    if arguments.quick:
        print("\n".join(lines))
    else:
        write_report(HERE, lines)


# -- parts ---------------------------------------------------------------------------------------------


def measure_load(locust: str, size: Size) -> list[dict[str, Any]]:
    """Return requests a second and percentiles of each row; the rounds are interleaved."""
    runs: dict[Load, list[dict[str, float]]] = {load: [] for load in LOADS}
    for _ in range(size.rounds):
        for load, rounds in runs.items():
            with serving("--workers", load.workers, "--batch-size", load.batch_size) as service:
                rounds.append(run_locust(locust, service.address, load.users, size.seconds))
    rows = []
    for load, rounds in runs.items():
        mean = {key: round(sum(r[key] for r in rounds) / len(rounds), 2) for key in rounds[0]}
        rows.append({**load._asdict(), **mean, "rps_of_rounds": [r["rps"] for r in rounds]})
    return rows


def run_locust(locust: str, address: str, users: int, seconds: int) -> dict[str, float]:
    """Return the statistics of one run of locust, after some requests that are not counted."""
    for _ in range(5):
        httpx.post(f"{address}/detect", content=PHOTO.read_bytes(), timeout=60).raise_for_status()
    before = metric(address, "pipnet_batch_images_sum"), metric(address, "pipnet_batch_images_count")
    with tempfile.TemporaryDirectory() as folder:
        command = [locust, "-f", HERE / "locustfile.py", "--headless", "--host", address]
        command += ["--csv", f"{folder}/run"]
        command += ["--users", users, "--spawn-rate", users, "--run-time", f"{seconds}s", "--reset-stats"]
        environment = {**os.environ, "PIPNET_PHOTO": str(PHOTO)}
        subprocess.run([*map(str, command)], env=environment, check=True, capture_output=True)
        text = Path(folder, "run_stats.csv").read_text()
    row = next(row for row in csv.DictReader(io.StringIO(text)) if row["Name"] == "Aggregated")
    images, batches = (
        metric(address, name) - old
        for name, old in zip(("pipnet_batch_images_sum", "pipnet_batch_images_count"), before, strict=True)
    )
    return {
        "rps": float(row["Requests/s"]),
        "p50_ms": float(row["50%"]),
        "p99_ms": float(row["99%"]),
        "requests": float(row["Request Count"]),
        "failures": float(row["Failure Count"]),
        "images_a_batch": images / max(batches, 1),
    }


def measure_memory(size: Size) -> dict[str, Any]:
    """Return the memory of a process over many requests for a photo of 256 px, in MB at each twentieth."""
    file = io.BytesIO()
    PIL.Image.open(PHOTO).resize((256, 256)).save(file, "JPEG", quality=92)
    with serving() as (process, address, _):
        megabytes, start = [memory(process)], time.monotonic()
        for _ in range(20):
            statuses = post_all(address, [{"content": file.getvalue()}] * (size.requests // 20))
            assert set(statuses) == {200}, statuses
            megabytes.append(memory(process))
        seconds = time.monotonic() - start
    return {"requests": size.requests, "seconds": round(seconds, 1), "megabytes": megabytes}


def measure_hostile(size: Size) -> dict[str, Any]:
    """Return the statuses of hostile bodies, and the memory before and after them."""
    photo = PHOTO.read_bytes()
    with serving() as (process, address, _):
        post_all(address, [{"content": photo}] * 50)
        before = memory(process)
        statuses = post_all(address, list(hostile_bodies(photo, size.bodies)))
        after = memory(process)
        answer = httpx.post(f"{address}/detect", content=photo, timeout=60).json()
    return {
        "bodies": size.bodies,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "megabytes": [before, after],
        "faces_afterwards": len(answer["faces"]),
    }


def measure_kill() -> dict[str, Any]:
    """Return what clients see when one of two processes is killed, and when the service is told to stop."""
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def send(address: str) -> None:
        while not stop.is_set():
            try:
                status = httpx.post(f"{address}/detect", content=PHOTO.read_bytes(), timeout=60).status_code
                outcomes["answered" if status == 200 else str(status)] += 1
            except httpx.ConnectError:  # never accepted
                outcomes["refused"] += 1
                time.sleep(0.05)
            except httpx.TransportError:
                outcomes["lost"] += 1

    start = time.monotonic()
    with serving("--workers", 2) as service, ThreadPoolExecutor(CLIENTS) as pool:
        process, address = service.process, service.address
        ready_after = time.monotonic() - start
        for _ in range(CLIENTS):
            pool.submit(send, address)
        time.sleep(5)
        victim = workers(process)[0]
        start = time.monotonic()
        victim.kill()
        while not any("was replaced" in line for line in service.lines):
            time.sleep(0.05)
        replaced_after = time.monotonic() - start
        time.sleep(5)
        killed = dict(outcomes)
        outcomes.clear()
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        process.wait(timeout=120)
        stopped_after = time.monotonic() - start
        time.sleep(0.5)
        stop.set()
    return {
        "ready_seconds": round(ready_after, 2),
        "replaced_seconds": round(replaced_after, 2),
        "after_kill": killed,
        "stopped_seconds": round(stopped_after, 2),
        "after_sigterm": dict(outcomes),
        "exit_code": process.returncode,
    }


# -- the service ---------------------------------------------------------------------------------------


class Service(NamedTuple):
    """A running service."""

    process: subprocess.Popen[str]
    address: str
    lines: list[str]
    """What it has written to standard error."""


@contextmanager
def serving(*options: object) -> Iterator[Service]:
    """Start a service on a free port, yield it, and stop it."""
    command = [sys.executable, "-m", "pipnet", "serve", "--port", "0", *map(str, options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        while not (match := re.search(r"at (http://\S+?): POST", line)):
            if not line:
                raise SystemExit("the service does not start")
            line = process.stderr.readline()
        lines: list[str] = []
        threading.Thread(target=lines.extend, args=[process.stderr], daemon=True).start()
        yield Service(process, match[1], lines)
    finally:
        process.terminate()
        process.wait(timeout=120)


def post_all(address: str, bodies: list[dict[str, Any]]) -> Counter[int]:
    """Send bodies with some clients, and return how often each status came; an answer must be one line."""
    statuses: Counter[int] = Counter()

    def send(part: list[dict[str, Any]]) -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            for body in part:
                response = client.post("/detect", **body)
                assert "Traceback" not in response.text
                assert response.status_code == 200 or "\n" not in json.loads(response.text)["error"]
                statuses[response.status_code] += 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, [bodies[i::4] for i in range(4)]))
    return statuses


def metric(address: str, name: str) -> float:
    """Return a number of the service's metrics."""
    match = re.search(rf"^{name} (\S+)$", httpx.get(f"{address}/metrics", timeout=60).text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def memory(process: subprocess.Popen[str]) -> float:
    """Return the resident memory of the service in MB."""
    return round(psutil.Process(process.pid).memory_info().rss / 1e6, 1)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of a service that run."""
    children = psutil.Process(process.pid).children()
    running = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in running if "spawn_main" in " ".join(child.cmdline())]


# -- the page ------------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    lines = [
        "# The service under load",
        "",
        "`pipnet serve` with `examples/astronaut.jpg` (512 px, one face),"
        f" {measured_on(results['origins']['load'])}.",
        "Service and locust share the machine, over loopback: `python benchmarks/speed/service/run.py`.",
        "",
    ]
    head = "processes | batch size | clients | requests a second | 50th percentile | 99th | images a batch"
    head += " | failures"
    rows = [
        [
            *(row[key] for key in ("workers", "batch_size", "users")),
            f"{row['rps']:.1f}",
            f"{row['p50_ms']:.0f} ms",
            f"{row['p99_ms']:.0f} ms",
            f"{row['images_a_batch']:.2f}",
            f"{row['failures']:.0f}",
        ]
        for row in results["load"]
    ]
    commits = ", ".join(f"{part} {origin['commit']}" for part, origin in results["origins"].items())
    lines += [*table(head.split(" | "), rows), "", batching(results["load"]), f"Commits: {commits}.", ""]
    used = results["memory"]["megabytes"]
    tenth = len(used) // 10
    lines += [
        "## Memory",
        "",
        f"{results['memory']['requests']:,} requests in {results['memory']['seconds']:.0f} s:"
        f" {used[0]:.0f} MB at the start, {used[tenth]:.0f} MB after a tenth, {used[-1]:.0f} MB at the end.",
        "",
    ]
    hostile, kill = results["hostile"], results["kill"]
    statuses = ", ".join(f"{count} with {status}" for status, count in hostile["statuses"].items())
    lines += [
        "## Hostile bodies",
        "",
        f"{hostile['bodies']:,} corrupt images, forms and JSON texts: {statuses}. Memory:"
        f" {hostile['megabytes'][0]:.0f} MB before, {hostile['megabytes'][1]:.0f} MB after. Faces found in"
        f" the photo afterwards: {hostile['faces_afterwards']}.",
        "",
        "## Killed and stopped under load",
        "",
        *table(
            ["event", "seconds", "requests"],
            [
                ["start to first request, two processes", kill["ready_seconds"], None],
                [
                    "one of two killed, to its replacement",
                    kill["replaced_seconds"],
                    counts(kill["after_kill"]),
                ],
                ["SIGTERM to the end", kill["stopped_seconds"], counts(kill["after_sigterm"])],
            ],
        ),
        "",
        "A refused request was never accepted; a lost one was accepted and not answered.",
    ]
    return lines


def batching(rows: list[dict[str, Any]]) -> str:
    """Return the sentence about batches: whether they pay."""
    one, eight = (
        next(row for row in rows if (row["workers"], row["batch_size"], row["users"]) == (1, size, CLIENTS))
        for size in (1, 8)
    )
    gain = eight["rps"] / one["rps"] - 1
    verdict = "pay" if gain > 0.05 else "cost" if gain < -0.05 else "make no difference"
    return f"Batches {verdict} on this machine: {gain:+.0%} requests a second over one image at a time."


def counts(outcomes: dict[str, int]) -> str:
    """Return outcomes as text."""
    return ", ".join(f"{count:,} {name}" for name, count in sorted(outcomes.items()))


if __name__ == "__main__":
    main()
