"""Bulk annotation at size: `benchmarks/scale.md` and `.json`.

    python benchmarks/scale.py                 (20,000 pictures, three times; nothing else should run)
    python benchmarks/scale.py --parts kills   (only some of it)

Real pictures under many names, one of a hundred damaged, are annotated by one process, by two, and by two
actors of Ray: the three results must be the same, byte for byte, and memory must not grow. Then a smaller job
is killed at random moments, driver or worker, again and again, and must end with the same files too. What
stages, the driver and merging cost is measured apart, for benchmarks/plan.py.

Each part is kept in the work folder as it ends: killed, the same command goes on with the next one. The
results are written when all parts of this commit are there.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from scale_parts import driver, kill, make_pictures, merging, run, stages

HERE = Path(__file__).parent
WAYS = {
    "one": ("one process", "--workers", "1"),
    "two": ("two workers", "--workers", "2"),
    "ray": ("Ray, two actors", "--engine", "ray", "--workers", "2"),
}
PARTS = (*WAYS, "stages", "driver", "merging", "kills")


def main() -> None:
    """Measure what is not measured yet, and write both files where all is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="all that are not done yet")
    parser.add_argument("--work", type=Path, default=HERE.parent / "out" / "scale", help="pictures, labels")
    arguments = parser.parse_args()
    found = Parts(arguments)
    for name in arguments.parts:
        found.measure(name)
    missing = [name for name in PARTS if name not in found.done]
    if missing:
        print(f"kept in {found.file}; still to do: {', '.join(missing)}")
        return
    results = found.results()
    (HERE / "scale.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "scale.md").write_text(markdown(results))
    print((HERE / "scale.md").read_text())


class Parts:
    """What is measured at this commit, on so many pictures and kills; kept on disk part by part."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.pictures, self.kills = arguments.pictures, arguments.kills
        self.work, self.shared = arguments.work.resolve(), arguments.shared.resolve()
        self.file = self.work / "parts.json"
        self.of = {
            "commit": _git("rev-parse", "--short", "HEAD"),
            "pictures": self.pictures,
            "kills": self.kills,
        }
        kept = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.done: dict[str, Any] = kept["parts"] if kept.get("of") == self.of else {}

    def measure(self, name: str) -> None:
        """Measure a part, unless that is done."""
        if name in self.done:
            print(f"{name}: done before", flush=True)
            return
        print(f"{name} ...", flush=True)
        self.done[name] = self._how(name)()
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps({"of": self.of, "parts": self.done}))
        partial.replace(self.file)

    def _how(self, name: str) -> Callable[[], dict[str, Any]]:
        pictures = self._made("pictures", self.pictures)
        if name in WAYS:
            return lambda: run(pictures, self.work / name, *WAYS[name][1:])
        if name == "merging" and "one" not in self.done:
            raise SystemExit("merging needs the labels of part 'one': measure that first")
        few = max(self.pictures // 10, 10)
        return {
            "stages": lambda: stages(pictures),
            "driver": lambda: driver(pictures, self.work, 5 * self.pictures),
            "merging": lambda: merging(self.work / "one"),
            "kills": lambda: kill(self._made("few", few), self.work, self.kills),
        }[name]

    def _made(self, name: str, count: int) -> Path:
        """A folder with so many pictures, made anew where it has another number."""
        folder = self.work / f"{name} {count}"
        complete = self.work / f"{name} {count}.made"
        if not complete.is_file():
            make_pictures(folder, self.shared, count)
            complete.touch()
        return folder

    def results(self) -> dict[str, Any]:
        """All of it, as it is published."""
        runs = {title: self.done[name] for name, (title, *_) in WAYS.items()}
        return {
            "command": "python benchmarks/scale.py"
            + ("" if self.pictures == 20_000 else f" --pictures {self.pictures}")
            + ("" if self.kills == 20 else f" --kills {self.kills}"),
            "commit": self.of["commit"],
            "machine": f"{torch.cpu.get_capabilities().get('cpu_name') or platform.processor()}, "
            f"{psutil.cpu_count()} cores",
            "pictures": self.pictures,
            "identical": len({facts["checksum"] for facts in runs.values()}) == 1,
            "runs": runs,
            **{name: self.done[name] for name in ("stages", "driver", "merging", "kills")},
        }


def markdown(results: dict[str, Any]) -> str:
    """The page."""
    killed = results["kills"]
    same = {True: "the same, byte for byte", False: "**NOT THE SAME**"}
    lines = [
        "# Bulk annotation at size",
        "",
        f"`{results['command']}`, commit {results['commit']}, {results['machine']}. "
        f"{results['pictures']:,} pictures",
        "(real ones of WIDER under many names), one of a hundred damaged. Seconds are from the start of the",
        "command to its end; memory is that of all processes, and what they share counts for each.",
        "",
        f"Results of all ways are {same[results['identical']]}.",
        "",
        "| way | seconds | pictures a second | faces a second | faces | with an error "
        "| MB, second quarter | MB, last quarter | MB, most |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {r['seconds']:.0f} | {r['pictures_a_second']:.1f} | {r['faces_a_second']:.1f} "
        f"| {r['faces']:,} | {r['errors']} | {r['mb_second_quarter']:.0f} | {r['mb_last_quarter']:.0f} "
        f"| {r['mb_most']:.0f} |"
        for name, r in results["runs"].items()
    ]
    drivers, others = killed["kills"]["driver"], killed["kills"]["worker"]
    lines += [
        "",
        f"Killed (SIGKILL) at {drivers + others} random moments, {drivers} times the driver, {others} times",
        f"a worker ({killed['pictures']:,} pictures in shards of {killed['shard_size']}, two workers, jobs:",
        f"{killed['jobs']}): the files are {same[killed['identical']]};",
        f"{killed['recomputed_pictures']:,} pictures were begun more than once.",
        "",
        *_costs(results),
        "",
        "What follows for millions and billions of faces: [docs/scale.md](../docs/scale.md).",
        *_distributed(),
    ]
    return "\n".join(lines) + "\n"


def _costs(results: dict[str, Any]) -> list[str]:
    """What a picture and a shard cost, apart from one another."""
    stage, alone, merged = results["stages"], results["driver"], results["merging"]
    size = next(iter(results["runs"].values()))["bytes_a_face"]
    return [
        f"A picture costs one thread {stage['decode_ms']:.1f} ms to read and decode,"
        f" {stage['detect_ms']:.1f} ms to search,",
        f"{stage['landmarks_ms']:.1f} ms for the landmarks of its faces and {stage['write_ms']:.2f} ms to"
        f" pack ({stage['pictures']} pictures, {stage['faces']} faces, warm);",
        f"a worker takes {stage['begin_seconds']:.1f} s to begin. The driver lists"
        f" {alone['listed_a_second']:,} files a second and takes",
        f"{1000 * alone['seconds_a_shard']:.2f} ms for a shard. Labels take {size:.0f} bytes a face,"
        f" as JSON lines {merged['jsonl']['bytes_a_face']:,}",
        f"({merged['jsonl']['faces_a_second']:,} faces a second), as COCO {merged['coco']['bytes_a_face']:,}"
        f" ({merged['coco']['faces_a_second']:,}).",
    ]


def _distributed() -> list[str]:
    """Training by several processes against one, as benchmarks/distributed.py left it."""
    file = HERE / "distributed.json"
    if not file.is_file():
        return []
    found = json.loads(file.read_text())
    apart, counts = found["largest relative difference"], list(found["curves by number of processes"])
    return [
        "",
        "## Training by several processes",
        "",
        "![curves](distributed.png)",
        "",
        f"The same training by {counts[0]} and by {counts[-1]} processes: loss and NME are nowhere further"
        f" apart than {100 * apart['loss']:.2f} % and {100 * apart['nme']:.2f} %.",
        f"`python benchmarks/distributed.py`, commit {found['commit']}, {found['machine']},"
        f" {found['faces']} faces of 300-W's training part.",
    ]


def _git(*words: str) -> str:
    return subprocess.check_output(["git", *words], cwd=HERE, text=True).strip()


if __name__ == "__main__":
    main()
