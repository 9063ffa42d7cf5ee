"""The cost of each head: parameters, multiply-adds and CPU time, and the papers' CPU figures.

    python benchmarks/cost.py            (about five minutes; nothing else should run)

Every head at 256 px and full width, 98 landmarks as on WFLW, untrained: cost does not depend on weights.
Times are medians of plain float32 PyTorch at batch 1, as in the papers, in interleaved rounds. Only the
ratios to PIP at stride 32 in the same run are comparable with other machines.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipnet.model.config import ModelConfig
from pipnet.model.pipnet import PIPNet

HERE = Path(__file__).parent
LANDMARKS = 98


class Row(NamedTuple):
    """One network."""

    name: str
    config: dict[str, Any]
    v1: float | None = None
    """CPU frames per second in v1, table 8 (ResNet-18 and ResNet-50)."""
    ijcv: float | None = None
    """CPU frames per second in IJCV's speed chart (WFLW)."""


MAP = {"head": "map"}
ROWS = (
    Row("PIP stride 32", {}, v1=27.8, ijcv=35.7),
    Row("PIP stride 16", {"stride": 16}),
    Row("PIP stride 64", {"stride": 64}),
    Row("PIP stride 128", {"stride": 128}),
    Row("Coord", {"head": "coord"}, ijcv=37.5),
    Row("Map stride 4", MAP | {"stride": 4}, v1=11.9),
    Row("Map stride 2", MAP | {"stride": 2}, v1=3.9),
    Row("Map stride 1", MAP | {"stride": 1}, v1=1.1),
    Row("PIP stride 32, ResNet-50", {"backbone": "resnet50"}, v1=13.6, ijcv=13.8),
    Row("PIP stride 32, ResNet-101", {"backbone": "resnet101"}, ijcv=8.8),
    Row("PIP stride 32, MobileNetV2", {"backbone": "mobilenetv2_100"}),
    Row("PIP stride 32, MobileNetV3-L", {"backbone": "mobilenetv3_large_100"}),
    Row("PIP stride 32, EfficientNet-lite0", {"backbone": "tf_efficientnet_lite0"}),
)


def main() -> None:
    """Build all networks, time them interleaved, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    face = np.random.default_rng(0).uniform(0.1, 0.9, (LANDMARKS, 2))
    image = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
    models = {row.name: PIPNet(ModelConfig(**{"backbone": "resnet18"} | row.config), face) for row in ROWS}
    seconds: dict[str, list[float]] = {row.name: [] for row in ROWS}
    with torch.inference_mode():
        for round_number in range(arguments.rounds + 1):
            for name, model in models.items():
                model.eval()
                started = time.perf_counter()
                model.predict(image)
                if round_number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
            print(f"round {round_number} of {arguments.rounds}", flush=True)
    base = float(np.median(seconds[ROWS[0].name]))
    results = []
    for row in ROWS:
        model, median = models[row.name], float(np.median(seconds[row.name]))
        results.append(
            {
                "row": row.name,
                "parameters": sum(p.numel() for p in model.parameters()),
                "macs": multiply_adds(model, image),
                "ms": round(1000 * median, 2),
                "ratio": round(median / base, 3),
                "v1_ratio": row.v1 and round(27.8 / row.v1, 2),
                "ijcv_ratio": row.ijcv and round(35.7 / row.ijcv, 2),
            }
        )
    write(results, arguments.rounds)


def multiply_adds(model: PIPNet, image: torch.Tensor) -> int:
    """Return the multiply-adds of one crop in network and decode, as they are timed."""
    with FlopCounterMode(display=False) as counter:
        model.predict(image)
    return int(counter.get_total_flops() // 2)


def write(results: list[dict[str, Any]], rounds: int) -> None:
    """Write the JSON and the page."""
    commit = ["git", "rev-parse", "--short", "HEAD"]
    provenance = {
        "commit": subprocess.check_output(commit, cwd=HERE, text=True).strip(),
        "machine": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": rounds,
    }
    (HERE / "cost.json").write_text(json.dumps({**provenance, "rows": results}, indent=1) + "\n")
    lines = [
        "# The cost of each head",
        "",
        "256 px, full width, 98 landmarks, batch 1, plain float32 PyTorch with decode; the backbone is",
        f"ResNet-18 unless the row names one. {provenance['machine']}, {provenance['threads']} threads,",
        f"torch {provenance['torch']}, medians of {rounds} interleaved rounds, commit",
        f"{provenance['commit']}: `python benchmarks/cost.py`.",
        "Ratios are over the time of PIP at stride 32; the papers' are from their CPU frames per second.",
        "IJCV's chart also has a Map, 10.5 times PIP, at a stride that it does not name.",
        "**The GPU column is not measured: there is no GPU here.**",
        "",
        "| network | parameters | multiply-adds | CPU ms | ratio | v1's ratio | IJCV's ratio | GPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['row']} | {r['parameters'] / 1e6:.2f} M | {r['macs'] / 1e9:.2f} G | {r['ms']:.1f} "
        f"| {r['ratio']:.2f} | {r['v1_ratio'] or ''} | {r['ijcv_ratio'] or ''} | not measured |"
        for r in results
    ]
    (HERE / "cost.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
