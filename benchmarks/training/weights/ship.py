"""Put trained weights into the package: a half-precision checkpoint, and the exported file.

    python benchmarks/training/weights/ship.py CHECKPOINT --faces ../shared/data/300w
    python benchmarks/training/weights/ship.py CHECKPOINT --int8 ../shared/data/300w

The first command fits the box adapters of all detectors on labeled faces (for 98 landmarks: the pseudo-labels
of 300-W's images, RUNS/pipnet-98/labels_300w/pseudo_labels.csv) and writes ``checkpoints/NAME.safetensors``
and ``src/pipnet/weights/NAME.onnx``. The second quantizes that checkpoint to ``NAME-int8.onnx``.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from pipnet.annotations.samples import without_label_offset
from pipnet.cli.export import export
from pipnet.datasets.load import load_samples
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.training.fit_box_adapters import fit_box_adapters

ROOT = Path(__file__).parents[3]
WEIGHTS, CHECKPOINTS = ROOT / "src" / "pipnet" / "weights", ROOT / "checkpoints"
MIN_HALF_SIZE = 1024
"""Tensors with fewer values stay in float32, as in the exported file."""


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--faces", type=Path, help="labeled faces, for the box adapters")
    parser.add_argument("--int8", type=Path, help="labeled faces that set the ranges of activations")
    arguments = parser.parse_args()
    network, metadata = load_checkpoint(arguments.checkpoint)
    stored = CHECKPOINTS / f"{metadata.name}.safetensors"
    if arguments.int8:
        export(str(stored), output=WEIGHTS / f"{metadata.name}-int8.onnx", int8=True, data=arguments.int8)
        return
    os.environ.setdefault("PIPNET_YUNET", str(ROOT.parent / "shared" / "models" / "yunet_n_dynamic.onnx"))
    subset = "train-deduplicated" if arguments.faces.is_dir() else None
    samples, _, _ = load_samples(arguments.faces, subset, metadata.scheme)
    faces = [without_label_offset(sample) for sample in samples if sample.is_complete]
    metadata = replace(metadata, box_adapters=fit_box_adapters(faces, metadata.crop))
    for parameter in network.parameters():
        if parameter.numel() >= MIN_HALF_SIZE:
            parameter.data = parameter.data.half()
    save_checkpoint(stored, network, metadata)
    export(str(stored), output=WEIGHTS / f"{metadata.name}.onnx", half=True)


if __name__ == "__main__":
    main()
