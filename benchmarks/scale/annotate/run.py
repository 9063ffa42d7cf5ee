"""Bulk annotation at size.

    python benchmarks/scale/annotate/run.py                 (20,000 images, three times; nothing else runs)
    python benchmarks/scale/annotate/run.py --parts kills   (only some of it)

Real images under many names, one of a hundred damaged, are annotated by one process, by two, and by two
actors of Ray: the three results must be identical byte for byte, and memory must not grow. Then a smaller
job is killed repeatedly at random moments, driver or worker, and must end with the same files too. The cost
of the stages, of the driver and of merging is measured separately, for benchmarks/simulated/cluster.

The result of each part is saved in the work folder; a rerun with the same arguments resumes with the next
part. The results are written when all parts of this commit are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))
from _common import ROOT, new_parser, provenance, read_results, table, write_report, write_results
from scale.annotate.kills import kill
from scale.annotate.parts import driver, make_images, merging, run, stages

HERE = Path(__file__).parent
RUNS = {
    "one": ("one process", "--workers", "1"),
    "two": ("two workers", "--workers", "2"),
    "ray": ("Ray, two actors", "--engine", "ray", "--workers", "2"),
}
PARTS = (*RUNS, "stages", "driver", "merging", "kills")


def main() -> None:
    """Measure the missing parts, and write both files if none is missing."""
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="all missing parts if not given"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "scale", help="folder for images and labels"
    )
    arguments = parser.parse_args()
    if arguments.report:
        return write_report(HERE, report(read_results(HERE)))
    parts = Parts(arguments)
    for name in arguments.parts:
        parts.measure(name)
    missing = [name for name in PARTS if name not in parts.done]
    if missing:
        return print(f"saved in {parts.file}; missing: {', '.join(missing)}")
    results = parts.results()
    write_results(HERE, results)
    return write_report(HERE, report(results))


class Parts:
    """The results of the parts at this commit, with these numbers of images and kills; saved part by part."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.images, self.kills = arguments.images, arguments.kills
        self.work, self.shared = arguments.work.resolve(), arguments.shared.resolve()
        self.file = self.work / "parts.json"
        self.key = {
            "commit": provenance()["commit"],
            "images": self.images,
            "kills": self.kills,
        }
        saved = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.done: dict[str, Any] = saved["parts"] if saved.get("key") == self.key else {}

    def measure(self, name: str) -> None:
        """Measure a part, unless it is already saved."""
        if name in self.done:
            print(f"{name}: already measured", flush=True)
            return
        print(f"{name} ...", flush=True)
        self.done[name] = self._measurement(name)()
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps({"key": self.key, "parts": self.done}))
        partial.replace(self.file)

    def _measurement(self, name: str) -> Callable[[], dict[str, Any]]:
        images = self._make("images", self.images)
        if name in RUNS:
            return lambda: run(images, self.work / name, *RUNS[name][1:])
        if name == "merging" and "one" not in self.done:
            raise SystemExit("merging needs the labels of part 'one': measure that part first")
        few = max(self.images // 10, 10)
        return {
            "stages": lambda: stages(images),
            "driver": lambda: driver(images, self.work, 5 * self.images),
            "merging": lambda: merging(self.work / "one"),
            "kills": lambda: kill(self._make("few", few), self.work, self.kills),
        }[name]

    def _make(self, name: str, count: int) -> Path:
        """Return a folder with `count` images; it is made unless it is complete."""
        folder = Path(self.work, f"{name} {count}")
        complete = self.work / f"{name} {count}.made"
        if not complete.is_file():
            make_images(folder, self.shared, count)
            complete.touch()
        return folder

    def results(self) -> dict[str, Any]:
        """Return all results as they are published."""
        runs = {title: self.done[name] for name, (title, *_) in RUNS.items()}
        return {
            "command": "python benchmarks/scale/annotate/run.py"
            + ("" if self.images == 20_000 else f" --images {self.images}")
            + ("" if self.kills == 20 else f" --kills {self.kills}"),
            **provenance(),
            "images": self.images,
            "identical": len({result["checksum"] for result in runs.values()}) == 1,
            "runs": runs,
            **{name: self.done[name] for name in ("stages", "driver", "merging", "kills")},
        }


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    killed = results["kills"]
    identical = {True: "identical byte for byte", False: "**NOT IDENTICAL**"}
    head = "run | seconds | images per second | faces per second | faces | with an error | MB, second quarter"
    rows = [
        [
            name,
            f"{r['seconds']:.0f}",
            f"{r['images_per_second']:.1f}",
            f"{r['faces_per_second']:.1f}",
            f"{r['faces']:,}",
            r["errors"],
            *(f"{r[key]:.0f}" for key in ("mb_second_quarter", "mb_last_quarter", "mb_max")),
        ]
        for name, r in results["runs"].items()
    ]
    drivers, others = killed["kills"]["driver"], killed["kills"]["worker"]
    return [
        "# Bulk annotation at size",
        "",
        f"`{results['command']}`, commit {results['commit']}, {results['machine']}. "
        f"{results['images']:,} images",
        "(of WIDER, under many names), one of a hundred damaged. Seconds are from the start of the command",
        "to its end; memory is that of all processes, and shared pages count for each.",
        "",
        f"The results of all runs are {identical[results['identical']]}.",
        "",
        *table([*head.split(" | "), "MB, last quarter", "MB, maximum"], rows),
        "",
        f"Killed (SIGKILL) at {drivers + others} random moments, {drivers} times the driver, {others} times",
        f"a worker ({killed['images']:,} images in shards of {killed['shard_size']}, two workers, jobs:",
        f"{killed['jobs']}): the files are {identical[killed['identical']]};",
        f"{killed['recomputed_images']:,} images were started more than once.",
        "",
        *_costs(results),
        "",
        "Extrapolation to millions and billions of faces: [docs/scale.md](../../../docs/scale.md).",
    ]


def _costs(results: dict[str, Any]) -> list[str]:
    """Return the lines on the cost of an image and of a shard."""
    stage, driver_only, merged = results["stages"], results["driver"], results["merging"]
    size = next(iter(results["runs"].values()))["bytes_per_face"]
    return [
        f"An image takes one thread {stage['decode_ms']:.1f} ms to read and decode,"
        f" {stage['detect_ms']:.1f} ms to search,",
        f"{stage['landmarks_ms']:.1f} ms for the landmarks of its faces and {stage['write_ms']:.2f} ms to"
        f" pack ({stage['images']} images, {stage['faces']} faces, warm);",
        f"a worker takes {stage['start_seconds']:.1f} s to start. The driver lists"
        f" {driver_only['listed_per_second']:,} files per second and takes",
        f"{1000 * driver_only['seconds_per_shard']:.2f} ms for a shard. Labels take {size:.0f} bytes a face,"
        f" as JSON lines {merged['jsonl']['bytes_per_face']:,}",
        f"({merged['jsonl']['faces_per_second']:,} faces per second), as COCO"
        f" {merged['coco']['bytes_per_face']:,} ({merged['coco']['faces_per_second']:,}).",
    ]


if __name__ == "__main__":
    main()
