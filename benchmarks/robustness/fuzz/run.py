"""Fuzz the readers of files of unknown origin; see `make fuzz`.

::

    python benchmarks/robustness/fuzz/run.py [--cases N] [--minutes M] [--target NAME ...]

Each target reads changed copies of valid files in a child process with limits of 2 GB of memory and of 20
seconds of processor time a case (a minute, if it waits). A child runs 200 cases and is replaced after a
fault. Files that cause a fault are kept in the folder of ``--work``, and the outcomes of all cases too: the
same command goes on where an earlier one was interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

sys.path.append(str(Path(__file__).parents[2]))
from _common import measured_on, provenance, table, write_report, write_results

HERE = Path(__file__).parent
OUTCOMES = ("ok", "typed error", "traceback", "crash", "hang", "memory")
FAULTS = OUTCOMES[2:]
CHUNK = 200
"""Cases of one child process."""
HANG = 20.0
"""Seconds of processor time that a case may take."""
WAIT = 60.0
"""Seconds that a case may take on any machine."""
START = 120.0
"""Seconds that the start of a child may take: imports, and making valid files."""


@dataclass
class Progress:
    """The outcomes of a target's cases."""

    done: int = 0
    """Number of cases that are finished; the next case has this number."""
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    peak_mb: int = 0
    """Highest resident memory of a child process."""


def main() -> None:
    """Run the cases and write the table."""
    arguments = _arguments()
    from robustness.fuzz.targets import TARGETS

    names = arguments.target or list(TARGETS)
    total = sum(TARGETS[name].share for name in names)
    wanted = {name: max(round(arguments.cases * TARGETS[name].share / total), 1) for name in names}
    work = arguments.work / f"seed-{arguments.seed}"
    work.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    progress = {name: _load(work, name) for name in names}
    while time.monotonic() < end:
        # The target with the smallest part of its cases comes next, so that an early end leaves all alike.
        open_names = [name for name in names if progress[name].done < wanted[name]]
        if not open_names:
            break
        name = min(open_names, key=lambda name: progress[name].done / wanted[name])
        count = min(CHUNK, wanted[name] - progress[name].done)
        _run_chunk(name, progress[name], count, arguments.seed, work, end)
        _save(work, name, progress[name])
    _finish(arguments, progress)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000, help="number of cases of all targets together")
    parser.add_argument("--minutes", type=float, default=10, help="end after this time, and report")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the changes; the same seed gives the same files"
    )
    parser.add_argument("--target", action="append", help="only this target; may be repeated")
    parser.add_argument(
        "--work", type=Path, default=HERE.parents[2] / "out" / "fuzz", help="folder for progress"
    )
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.json and report.md")
    return parser.parse_args()


def _run_chunk(name: str, progress: Progress, count: int, seed: int, work: Path, end: float) -> None:
    """Run cases in one child process, until the last one, a fault, or the end of the time."""
    folder = work / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    environment = {
        **os.environ,
        "FUZZ_FOLDER": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    command = [sys.executable, str(HERE / "child.py"), name, str(seed), str(progress.done), str(count)]
    errors = (work / "stderr.txt").open("wb")
    started = time.monotonic()
    with (
        errors,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            bufsize=0,  # what is in a buffer, select does not see
            stderr=errors,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            fault = _follow(process, progress, folder, end, name, work)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    progress.seconds += time.monotonic() - started
    if fault:
        _add(progress, fault[0], fault[1], folder, name, work)


def _follow(
    process: subprocess.Popen[bytes], progress: Progress, folder: Path, end: float, name: str, work: Path
) -> tuple[str, str] | None:
    """Count the outcomes that a child reports; return the fault that ended it, if one did."""
    assert process.stdout is not None
    is_running_case, used = False, psutil.Process(process.pid)
    while True:
        if not _wait(process.stdout, used, (HANG, WAIT) if is_running_case else (START, 5 * START)):
            if not is_running_case:
                raise SystemExit(f"{name}: the child process does not start: see {work / 'stderr.txt'}")
            return "hang", f"more than {HANG:.0f} seconds"
        line = process.stdout.readline()
        if not line:
            break
        message = json.loads(line)
        if message[0] == "done":
            progress.peak_mb = max(progress.peak_mb, message[2])
            return None
        is_running_case = len(message) == 1
        if not is_running_case:
            _add(progress, message[1], message[2], folder, name, work)
            if time.monotonic() > end:
                return None
    code = process.wait()
    last = (work / "stderr.txt").read_text(errors="replace").strip().splitlines()[-1:]
    if not is_running_case:
        raise SystemExit(f"{name}: the child process ended with {code}: {''.join(last)}")
    places = re.findall(
        r'File "[^"]*/([^/"]+)", line (\d+)', (work / "stderr.txt").read_text(errors="replace")
    )
    where = " < ".join(":".join(place) for place in places[:2])
    return "crash", f"{signal.Signals(-code).name if code < 0 else f'exit code {code}'} at {where}"


def _wait(stream: IO[bytes], process: psutil.Process, limits: tuple[float, float]) -> bool:
    """Wait for a line of a process; return False after so much processor time, or time."""
    started, used = time.monotonic(), _processor_seconds(process)
    while not select.select([stream], [], [], 0.5)[0]:
        if _processor_seconds(process) - used > limits[0] or time.monotonic() - started > limits[1]:
            return False
    return True


def _processor_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:  # it has just ended
        return 0.0
    return float(times.user + times.system)


def _add(progress: Progress, outcome: str, detail: str, folder: Path, name: str, work: Path) -> None:
    """Count a case, and keep the file of a fault."""
    if outcome in FAULTS:
        content = (folder / "content").read_bytes()
        file = work / "faults" / f"{name.replace(' ', '_')}-{progress.done}-{outcome}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()[:12]
        progress.faults.append(
            {"case": progress.done, "outcome": outcome, "detail": detail, "sha256": digest}
        )
        print(f"{name} {progress.done}: {outcome}: {detail} ({file})", flush=True)
    progress.outcomes[outcome] += 1
    progress.done += 1


def _load(work: Path, name: str) -> Progress:
    path = work / f"{name}.json"
    if not path.is_file():
        return Progress()
    stored = json.loads(path.read_text())
    return Progress(**{**stored, "outcomes": Counter(stored["outcomes"])})


def _save(work: Path, name: str, progress: Progress) -> None:
    partial = work / f"{name}.partial"
    partial.write_text(json.dumps(vars(progress)))
    partial.replace(work / f"{name}.json")


def _finish(arguments: argparse.Namespace, progress: dict[str, Progress]) -> None:
    """Write the table of targets and outcomes."""
    results = {
        **provenance(),
        "seed": arguments.seed,
        "targets": {name: vars(p) for name, p in progress.items()},
    }
    write_results(arguments.output, results)
    rows = [
        [
            name,
            p.done,
            *(p.outcomes[outcome] for outcome in OUTCOMES),
            p.peak_mb,
            f"{p.done / max(p.seconds, 1e-9):.1f}",
        ]
        for name, p in progress.items()
    ]
    sums = [sum(p.outcomes[outcome] for p in progress.values()) for outcome in OUTCOMES]
    cases, seconds = sum(p.done for p in progress.values()), sum(p.seconds for p in progress.values())
    peak = max(p.peak_mb for p in progress.values())
    rows.append(["all", cases, *sums, peak, f"{cases / max(seconds, 1e-9):.1f}"])
    faults = [
        [name, f["case"], f["outcome"], f["detail"].replace("|", "/")]
        for name, p in progress.items()
        for f in p.faults
    ]
    lines = [
        "# Fuzzing the readers",
        "",
        *table(["target", "cases", *OUTCOMES, "peak MB", "cases/s"], rows),
        "",
        f"Seed {arguments.seed}; {CHUNK} cases a process, limits of 2 GB and {HANG:.0f} seconds a case. "
        f"A typed error is an exception of `pipnet.errors` in one line. Measured on {measured_on(results)}.",
        "",
        *(["## Faults", "", *table(["target", "case", "outcome", "detail"], faults), ""] if faults else []),
        "To run it again: `python benchmarks/robustness/fuzz/run.py --cases 20000 --minutes 90`.",
    ]
    write_report(arguments.output, lines)
    print("\n".join(lines[2 : 4 + len(rows)]))
    raise SystemExit(1 if sum(sums[2:]) else 0)


if __name__ == "__main__":
    main()
