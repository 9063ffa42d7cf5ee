"""The cost of each head: parameters, multiply-adds and CPU time, and the papers' CPU figures.

    python benchmarks/speed/head_cost/run.py            (about five minutes; nothing else should run)

Every head at 256 px and full width, 98 landmarks as on WFLW, untrained: cost does not depend on weights.
Times are medians of plain float32 PyTorch at batch 1, as in the papers, in interleaved rounds. Only the
ratios to PIP at stride 32 in the same run are comparable with other machines; a too noisy run has none.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipnet.model.config import ModelConfig
from pipnet.model.pipnet import PIPNet

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    compare_speed,
    measured_on,
    new_parser,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)

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
    parser = new_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    results = read_results(HERE)
    if not arguments.report:
        results = measure(arguments.rounds)
        write_results(HERE, results)
    write_report(HERE, report(results))


def measure(rounds: int) -> dict[str, Any]:
    """Return size, multiply-adds and time of all networks."""
    face = np.random.default_rng(0).uniform(0.1, 0.9, (LANDMARKS, 2))
    image = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
    models = {
        row.name: PIPNet(ModelConfig(**{"backbone": "resnet18"} | row.config), face).eval() for row in ROWS
    }
    with torch.inference_mode():
        runs = {name: partial(model.predict, image) for name, model in models.items()}
        timings, meter = compare_speed(runs, rounds, seconds=0)
    noise, base = meter.noise(), timings[ROWS[0].name]
    rows = [
        {
            "row": row.name,
            "parameters": sum(p.numel() for p in models[row.name].parameters()),
            "macs": multiply_adds(models[row.name], image),
            "ms": round(timings[row.name].median, 2),
            "ratio": None if noise.problem else round(1 / timings[row.name].times_faster(base), 3),
            "v1_ratio": row.v1 and round(27.8 / row.v1, 2),
            "ijcv_ratio": row.ijcv and round(35.7 / row.ijcv, 2),
        }
        for row in ROWS
    ]
    facts = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rounds": rounds}
    return {**provenance(), **facts, "noise": noise.to_dict(), "rows": rows}


def multiply_adds(model: PIPNet, image: torch.Tensor) -> int:
    """Return the multiply-adds of one crop in network and decode, as they are timed."""
    with FlopCounterMode(display=False) as counter:
        model.predict(image)
    return int(counter.get_total_flops() // 2)


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    rows = [
        [
            row["row"],
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['macs'] / 1e9:.2f} G",
            f"{row['ms']:.1f}",
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            row["v1_ratio"],
            row["ijcv_ratio"],
            "not measured",
        ]
        for row in results["rows"]
    ]
    problem = results.get("noise", {}).get("problem")
    head = "network | parameters | multiply-adds | CPU ms | ratio | v1's ratio | IJCV's ratio | GPU"
    return [
        "# The cost of each head",
        "",
        "256 px, full width, 98 landmarks, batch 1, plain float32 PyTorch with decode; the backbone is",
        f"ResNet-18 unless the row names one. {results['threads']} threads, torch {results['torch']},",
        f"medians of {results['rounds']} interleaved rounds, {measured_on(results)}:",
        "`python benchmarks/speed/head_cost/run.py`.",
        "Ratios are over the time of PIP at stride 32; the papers' are from their CPU frames per second.",
        "IJCV's chart also has a Map, 10.5 times PIP, at a stride that it does not name.",
        "**The GPU column is not measured: there is no GPU here.**",
        *([problem] if problem else []),
        "",
        *table(head.split(" | "), rows),
    ]


if __name__ == "__main__":
    main()
