"""Where model files come from: the package, a path, a model hub, a checksummed download."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from pipnet.errors import DownloadError, MissingExtraError, ModelError

DEFAULT_MODEL = "pipnet-300w-mbv2"
"""The model used when none is named."""
_TIMEOUT = 30


class RemoteFile(NamedTuple):
    """A file to fetch once, and the only content it may have."""

    name: str
    url: str
    sha256: str


YUNET = RemoteFile(
    "face_detection_yunet_2023mar.onnx",
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
)


def cache_folder() -> Path:
    """``$PIPNET_CACHE``, else ``pipnet`` in the user's cache folder."""
    given = os.environ.get("PIPNET_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "pipnet"


def packaged_models() -> dict[str, Path]:
    """The models that come with pipnet, by name."""
    folder = Path(str(resources.files("pipnet") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.onnx"))}


def find_model(name: str | Path) -> Path:
    """The ONNX file that a model's name, path, folder or hub id means.

    Raises:
        ModelError: there is none.
        DownloadError: a hub cannot be reached.
    """
    packaged = packaged_models()
    if str(name) in packaged:
        return packaged[str(name)]
    path = Path(name)
    if path.is_dir():
        return _only_onnx(path)
    if path.is_file():
        if path.suffix == ".safetensors":
            raise ModelError(f"{path}: a checkpoint for training; make it runnable: pipnet export {path}")
        return path
    if path.suffix != ".onnx" and re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        return _from_hub(str(name))
    raise ModelError(
        f"{name}: no such model; there are {', '.join(packaged) or 'none'}, an .onnx file, a folder"
        " with one, or a hub id OWNER/NAME"
    )


def cached_download(file: RemoteFile) -> Path:
    """Fetch a file once, check it, keep it.

    Raises:
        DownloadError: offline, or the content is not what it should be.
    """
    target = cache_folder() / "downloads" / file.name
    if target.is_file() and _sha256(target.read_bytes()) == file.sha256:
        return target
    try:
        with urllib.request.urlopen(file.url, timeout=_TIMEOUT) as response:  # noqa: S310
            content: bytes = response.read()
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(
            f"{file.name} cannot be fetched ({reason}); get it from {file.url} and put it at {target}"
        ) from None
    if _sha256(content) != file.sha256:
        raise DownloadError(f"{file.url} gave another file than expected (checksum); nothing was kept")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, target)
    return target


def _only_onnx(folder: Path) -> Path:
    files = sorted(folder.glob("*.onnx"))
    if len(files) != 1:
        raise ModelError(f"{folder}: {len(files)} .onnx files, expected one; name the file")
    return files[0]


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    try:
        return Path(hf_hub_download(name, "model.onnx"))
    except LocalEntryNotFoundError:
        raise DownloadError(f"{name}: the model hub cannot be reached, and it is not cached") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name}: no model.onnx to be had from the hub: {reason}") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
