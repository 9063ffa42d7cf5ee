"""Training by several processes compared with one: the curves of both, and their difference.

    python benchmarks/distributed.py --data ../shared/data/300w [--processes 2] [--epochs 4]

Both runs train the same small network on the same faces with the same batch, on the CPU and in float32. They
differ only in the order of sums, and this difference grows with each step of an untrained network; in float64
they are the same (tests/test_distributed.py). This does not measure speed: processes on one machine share it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from pipnet.evaluation.matplotlib_figure import new_figure

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
    """Train twice and write benchmarks/distributed.json and .png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="300-W in its official layout")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--faces", type=int, default=96)
    arguments = parser.parse_args()
    counts = (1, arguments.processes)
    curves = {str(count): train(count, arguments) for count in counts}
    one, several = curves.values()
    commit = ["git", "rev-parse", "--short", "HEAD"]
    result = {
        "commit": subprocess.check_output(commit, cwd=HERE, text=True).strip(),
        "machine": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
        "torch": torch.__version__,
        "faces": arguments.faces,
        "recipe": RECIPE,
        "largest relative difference": {
            key: max(abs(a[key] - b[key]) / a[key] for a, b in zip(one, several, strict=True))
            for key in ("loss", "nme")
        },
        "curves by number of processes": curves,
    }
    (HERE / "distributed.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(curves)


def train(count: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of a training's metrics, without its times."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, run = Path(folder, "recipe.yaml"), Path(folder, "run")
        recipe.write_text(RECIPE)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [sys.executable, *(launcher if count > 1 else []), "-m", "pipnet", "train", str(recipe)]
        command += ["--data", str(arguments.data), "-o", str(run), "--data.limit", str(arguments.faces)]
        command += ["--optim.epochs", str(arguments.epochs)]
        # The same number of threads for every process: the order of sums depends on it too.
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def draw(curves: dict[str, list[dict[str, Any]]]) -> None:
    """Draw loss and validation NME over epochs, one curve for each number of processes."""
    figure = new_figure(8, 3.2)
    titles = {"loss": "training loss", "nme": "validation NME, %"}
    for axes, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for width, (count, rows) in zip((6, 2), curves.items(), strict=True):
            epochs = [row["epoch"] for row in rows]
            label = f"{count} processes" if int(count) > 1 else "1 process"
            axes.plot(epochs, [row[key] for row in rows], label=label, linewidth=width, marker="o")
        axes.set(xlabel="epoch", ylabel=title, xticks=epochs)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(HERE / "distributed.png", dpi=110)


if __name__ == "__main__":
    main()
