"""``pipnet info``: print the metadata of a model."""

from __future__ import annotations

from pathlib import Path

from pipnet.cli import training_imports
from pipnet.hub import find_model
from pipnet.metadata import ModelMetadata


def info(model: str, /, *, json: bool = False) -> None:
    """Print the metadata of a model: landmarks, crop, training, license.

    Parameters
    ----------
    model
        A model's name, .onnx file, .safetensors checkpoint, folder or hub id.
    json
        Print all of it as one line of JSON.
    """
    path, metadata = _read(model)
    if json:
        print(metadata.to_json())
        return
    scheme, crop = metadata.scheme, metadata.crop
    box = "the landmark box" if crop.box == "landmarks" else "the dataset's box"
    shape = "square" if crop.square else "stretched to a square"
    lines = {
        "model": metadata.name,
        "file": f"{path} ({path.stat().st_size / 1e6:.1f} MB)",
        "landmarks": f"{scheme.landmarks}: {scheme.title}",
        "crop": f"{crop.scale:g} x {box}, {shape}, {metadata.input_size} px",
        "network": ", ".join(f"{k} {v}" for k, v in metadata.config.items()),
        "detectors": ", ".join(metadata.box_adapters) or "none: no box adapters",
        "confidence": "calibrated" if metadata.calibration else "not calibrated: pipnet calibrate",
        "training": metadata.training,
        "license": metadata.license,
    }
    for name, value in lines.items():
        # The text comes from the file: print each value on one line, without terminal control characters.
        print(f"{name:<10} {''.join(c for c in ' '.join(value.split()) if c.isprintable())}")


def _read(model: str) -> tuple[Path, ModelMetadata]:
    path = Path(model)
    if path.suffix == ".safetensors" and path.is_file():
        with training_imports():
            from pipnet.model.checkpoint import read_checkpoint_metadata
        return path, read_checkpoint_metadata(path)
    from pipnet.inference.backends.onnxruntime import OnnxModel

    path = find_model(model)
    return path, OnnxModel(path, "cpu").metadata
