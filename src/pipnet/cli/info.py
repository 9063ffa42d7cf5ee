"""``pipnet info``: print the metadata of a model, and the landmarks of a model or scheme."""

from __future__ import annotations

import contextlib
import tomllib
from json import dumps
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from pipnet.cli import say, training_imports
from pipnet.cli.options import OptionalOutput
from pipnet.errors import PipnetError, printable
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.external_model import MAX_BYTES
from pipnet.inference.scheme_figure import draw_scheme, mean_face
from pipnet.io.image import write_image
from pipnet.io.regular_file import read_file
from pipnet.metadata import ModelMetadata
from pipnet.scheme import BUILT_IN, LandmarkScheme


def info(
    model: str = DEFAULT_MODEL,
    /,
    *,
    landmarks: bool = False,
    output: OptionalOutput = None,
    json: bool = False,
) -> None:
    """Print the metadata of a model: landmarks, crop, training, license.

    Parameters
    ----------
    model
        A model's name, .onnx file, .safetensors checkpoint, folder or hub id, or the .toml file of another
        project's network. With --landmarks also a scheme:
        300w, wflw, ... or FILE.toml.
    landmarks
        Print the number, name, region and mirror partner of each landmark instead.
    output
        With --landmarks: write a figure of the numbered landmarks to this image file.
    json
        Print all of it as one line of JSON.
    """
    if landmarks:
        scheme, face = _read_landmarks(model)
        if json:
            print(dumps(scheme.to_dict()))
        else:
            _print_landmarks(scheme)
        if output is not None:
            _write_figure(output, scheme, face)
        return
    if output is not None:
        raise PipnetError("-o is for the figure of the landmarks: add --landmarks")
    path, metadata = _read(model)
    if json:
        print(metadata.to_json())
        return
    scheme, crop = metadata.scheme, metadata.crop
    box = "the landmark box" if crop.box == "landmarks" else "the dataset's box"
    shape = "square" if crop.square else "stretched to a square"
    shape += ", cut at whole pixels" if crop.whole_pixels else ""
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
        print(f"{name:<10} {_printable(value)}")


def _printable(text: str) -> str:
    """Return text from a file on one line that is safe to print."""
    return printable(" ".join(text.split()))


def _read_landmarks(name: str) -> tuple[LandmarkScheme, Float64[np.ndarray, "landmarks 2"] | None]:
    """Return the scheme of a model or the scheme itself, and its mean face where it is known."""
    if name in BUILT_IN or (name.endswith(".toml") and not _describes_a_model(Path(name))):
        scheme = LandmarkScheme.load(name)
        return scheme, mean_face(scheme)
    _, metadata = _read(name)
    # The mean face of a network of another project may be unknown.
    return metadata.scheme, metadata.mean_face if metadata.mean_face.any() else mean_face(metadata.scheme)


def _describes_a_model(path: Path) -> bool:
    """Whether a TOML file describes a network of another project, not a scheme."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return "model" in tomllib.loads(read_file(path, MAX_BYTES).decode("utf-8"))
    return False


def _print_landmarks(scheme: LandmarkScheme) -> None:
    names = [_printable(name) for name in scheme.landmark_names]
    regions = {i: _printable(region) for region, members in scheme.regions.items() for i in members}
    partners = scheme.flip_permutation.tolist()
    rows = [("index", "name", "region", "mirror partner")]
    for i, name in enumerate(names):
        partner = "itself" if partners[i] == i else f"{partners[i]} {names[partners[i]]}"
        rows.append((str(i), name, regions.get(i, "-"), partner))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    print(_printable(f"{scheme.name}: {scheme.title}"))
    for index, name, region, partner in rows:
        print(f"{index:>{widths[0]}}  {name:<{widths[1]}}  {region:<{widths[2]}}  {partner}")


def _write_figure(
    path: Path, scheme: LandmarkScheme, face: Float64[np.ndarray, "landmarks 2"] | None
) -> None:
    if face is None:
        raise PipnetError(
            f"scheme {scheme.name!r:.80} has no mean face to draw: give a model with this scheme instead"
        )
    write_image(path, draw_scheme(scheme, face))
    say(f"{path}: {scheme.landmarks} landmarks; left and right are the person's")


def _read(model: str) -> tuple[Path, ModelMetadata]:
    path = Path(model)
    if path.suffix == ".safetensors" and path.is_file():
        with training_imports():
            from pipnet.model.checkpoint import read_checkpoint_metadata
        return path, read_checkpoint_metadata(path)
    from pipnet.config import RuntimeConfig
    from pipnet.inference.backends.load import load_model

    path = find_model(model)
    return path, load_model(path, RuntimeConfig(device="cpu")).metadata
