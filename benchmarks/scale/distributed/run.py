"""Training by several processes compared with one: the curves of both, and their difference.

    python benchmarks/scale/distributed/run.py [--processes 2] [--epochs 4]

Both runs train the same small network on the same faces with the same batch, on the CPU and in float32. They
differ only in the order of sums, and this difference grows with each step of an untrained network; in float64
they are the same (tests/test_distributed.py). This does not measure speed: processes on one machine share it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    COLORS,
    label_line,
    measured_on,
    new_figure,
    new_parser,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)

HERE = Path(__file__).parent
RECIPE = """
name: distributed
workers: 0
precision: float32
data: {subset: afw, validation: 0.2}
initial: {pretrained: false}
model: {backbone: lcnet_050, input_size: 64}
optim: {batch_size: 16, lr: 0.002}
"""


def main() -> None:
    """Train twice, and write the page."""
    parser = new_parser(__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--faces", type=int, default=96)
    arguments = parser.parse_args()
    results = read_results(HERE)
    if not arguments.report:
        counts = (1, arguments.processes)
        results = {
            **provenance(),
            "faces": arguments.faces,
            "recipe": RECIPE,
            "curves by number of processes": {str(count): train(count, arguments) for count in counts},
        }
        write_results(HERE, results)
    write_report(HERE, report(results))
    draw(differences(results))


def train(count: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of a training's metrics, without its times."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, run = Path(folder, "recipe.yaml"), Path(folder, "run")
        recipe.write_text(RECIPE)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [sys.executable, *(launcher if count > 1 else []), "-m", "pipnet", "train", str(recipe)]
        command += [
            "--data",
            str(arguments.shared / "data" / "300w"),
            "-o",
            str(run),
            "--data.limit",
            str(arguments.faces),
        ]
        command += ["--optim.epochs", str(arguments.epochs)]
        # The same number of threads for every process: the order of sums depends on it too.
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def differences(results: dict[str, Any]) -> dict[str, list[float]]:
    """Return the difference of several processes to one in percent, by quantity and epoch."""
    one, several = results["curves by number of processes"].values()
    return {
        key: [100 * (b[key] - a[key]) / a[key] for a, b in zip(one, several, strict=True)]
        for key in ("loss", "nme")
    }


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    curves = results["curves by number of processes"]
    (one, first), (several, second) = curves.items()
    largest = {key: max(map(abs, values)) for key, values in differences(results).items()}
    rows = [
        [a["epoch"], *(f"{row[key]:.4f}" for key in ("loss", "nme") for row in (a, b))]
        for a, b in zip(first, second, strict=True)
    ]
    return [
        "# Training by several processes",
        "",
        *table(["epoch", f"loss, {one} process", f"{several} processes", f"NME %, {one}", several], rows),
        "",
        f"The same training by {one} and by {several} processes: loss and NME differ by at most"
        f" {largest['loss']:.2f} % and {largest['nme']:.2f} %.",
        f"`python benchmarks/scale/distributed/run.py`, {measured_on(results)}, {results['faces']} faces of",
        "300-W's training subset. The order of sums differs; in float64 the results are the same",
        "(`tests/test_distributed.py`). Speed is not measured: the processes share one machine.",
        "",
        "![difference](difference.png)",
    ]


def draw(curves: dict[str, list[float]]) -> None:
    """Draw the difference to one process over the epochs."""
    titles = {"loss": "training loss", "nme": "validation NME"}
    with new_figure(HERE / "difference.png", 5.5, 3.2) as (axes,):
        axes.axhline(0, color="0.7", linewidth=1)
        for color, (key, values) in zip(COLORS, curves.items(), strict=False):
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, "o-", color=color)
            label_line(axes, epochs[-1], values[-1], titles[key], color)
        axes.set(xlabel="epoch", ylabel="two processes against one, %", xticks=epochs)
        axes.set_xlim(0.8, epochs[-1] + 1.1)


if __name__ == "__main__":
    main()
