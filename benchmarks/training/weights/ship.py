"""Put trained weights into the package: a half-precision checkpoint, and the exported file.

    python benchmarks/training/weights/ship.py RUNS/pipnet-68/pipnet-68.safetensors
    python benchmarks/training/weights/ship.py RUNS/pipnet-68/pipnet-68.safetensors --int8 ../shared/data/300w

Writes ``checkpoints/NAME.safetensors`` and ``src/pipnet/weights/NAME.onnx``; with ``--int8`` only
``src/pipnet/weights/NAME-int8.onnx``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipnet.cli.export import export
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[3]
WEIGHTS, CHECKPOINTS = ROOT / "src" / "pipnet" / "weights", ROOT / "checkpoints"
MIN_HALF_SIZE = 1024
"""Tensors with fewer values stay in float32, as in the exported file."""


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--int8", type=Path, help="300-W, whose training faces set the ranges of activations")
    arguments = parser.parse_args()
    network, metadata = load_checkpoint(arguments.checkpoint)
    if arguments.int8:
        target = WEIGHTS / f"{metadata.name}-int8.onnx"
        export(str(arguments.checkpoint), output=target, int8=True, data=arguments.int8)
        return
    for parameter in network.parameters():
        if parameter.numel() >= MIN_HALF_SIZE:
            parameter.data = parameter.data.half()
    stored = CHECKPOINTS / f"{metadata.name}.safetensors"
    save_checkpoint(stored, network, metadata)
    export(str(stored), output=WEIGHTS / f"{metadata.name}.onnx", half=True)


if __name__ == "__main__":
    main()
