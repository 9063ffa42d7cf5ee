"""Where model files come from: the package, a path, a model hub, a checksummed download."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.request
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from pipnet.errors import DownloadError, MissingExtraError, ModelError, WriteError
from pipnet.io.atomic import atomic_write

DEFAULT_MODEL = "pipnet-wild-mbv2"
"""The model used when none is named."""
_TIMEOUT = 30
_LARGEST = 2**30


class RemoteFile(NamedTuple):
    """A file to fetch once, and the only content it may have."""

    name: str
    url: str
    sha256: str


YUNET = RemoteFile(
    "face_detection_yunet_2023mar.onnx",
    "https://huggingface.co/opencv/face_detection_yunet/resolve/"
    "3cc26e7f1014a5ee5d74a42acee58bafc9d0a310/face_detection_yunet_2023mar.onnx",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
)


def cache_folder() -> Path:
    """``$PIPNET_CACHE``, else ``pipnet`` in the user's cache folder."""
    for variable, below in (("PIPNET_CACHE", ""), ("XDG_CACHE_HOME", "pipnet")):
        if os.environ.get(variable):
            return Path(os.environ[variable], below)
    return Path.home() / ".cache" / "pipnet"


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
    local = path.suffix in (".onnx", ".safetensors", ".toml") or path.parent.is_dir()
    if not local and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        return _from_hub(str(name))
    raise ModelError(
        f"{name}: no such model; there are {', '.join(packaged) or 'none'}, an .onnx file, a folder"
        " with one, or a hub id OWNER/NAME"
    )


def cached(file: RemoteFile) -> Path | None:
    """Where a file was kept by an earlier download; None if it was not."""
    target = cache_folder() / "downloads" / file.name
    kept = target.is_file() and _sha256(target.read_bytes()) == file.sha256
    return target if kept else None


def cached_download(file: RemoteFile) -> Path:
    """Fetch a file once, check it, keep it.

    Raises:
        DownloadError: offline, the content is not what it should be, or it cannot be kept.
    """
    target = cache_folder() / "downloads" / file.name
    try:
        kept = cached(file)
        if kept:
            return kept
        with urllib.request.urlopen(file.url, timeout=_TIMEOUT) as response:  # noqa: S310
            content: bytes = response.read(_LARGEST)
        if _sha256(content) != file.sha256:
            raise DownloadError(f"{file.url} gave another file than expected (checksum); nothing was kept")
        with atomic_write(target, target.with_name(f"{target.name}.{os.getpid()}")) as partial:
            partial.write_bytes(content)
    except (OSError, WriteError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"{file.name} cannot be fetched ({reason}); get it from {file.url} and put it at {target}"
        ) from None
    return target


def _only_onnx(folder: Path) -> Path:
    files = sorted(folder.glob("*.onnx"))
    if not files:
        raise ModelError(f"{folder}: no .onnx file in it; make one of a training: pipnet export CHECKPOINT")
    if len(files) > 1:
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
