"""Model files: packaged with pipnet, by path, from the Hugging Face hub, or as a checksummed download."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.request
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from pipnet.errors import DownloadError, MissingExtraError, ModelError, PipnetError, WriteError, one_line
from pipnet.io.atomic import atomic_write

DEFAULT_MODEL = "pipnet-68"
"""Name of the model that is used by default."""
ALIASES = {
    "pipnet-wild-mbv2": "pipnet-68",
    "pipnet-300w-mbv2": "pipnet-68",
    "pipnet-wild-mbv2-int8": "pipnet-68-int8",
}
"""Earlier names of packaged models."""
_TIMEOUT = 30
"""Seconds to wait for a server."""
_MAX_BYTES = 2**30


class RemoteFile(NamedTuple):
    """A file to download, and its checksum."""

    name: str
    url: str
    sha256: str


YUNET = RemoteFile(
    "yunet_n_dynamic.onnx",
    "https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/"
    "0047ac24afb1a50a0c6105001c89d1b5b805dbf1/onnx/yunet_n_dynamic.onnx",
    "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
)
"""The authors' file, which takes images of any size; the box adapters of the weights are fitted to it."""


def cache_folder() -> Path:
    """Return ``$PIPNET_CACHE``, or ``pipnet`` in the user's cache folder.

    Raises:
        PipnetError: neither is known: the user has no home folder.
    """
    for variable, subfolder in (("PIPNET_CACHE", ""), ("XDG_CACHE_HOME", "pipnet")):
        if os.environ.get(variable):
            return Path(os.environ[variable], subfolder)
    try:
        return Path.home() / ".cache" / "pipnet"
    except RuntimeError:  # no HOME, and no entry in the list of users, as in some containers
        raise PipnetError("no home folder for the cache: set PIPNET_CACHE to a folder") from None


def packaged_models() -> dict[str, Path]:
    """Return the files of the models that are packaged with pipnet, by name."""
    folder = Path(str(resources.files("pipnet") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.onnx"))}


def packaged_detector() -> Path:
    """Return the file of the face detector that is packaged with pipnet."""
    return Path(str(resources.files("pipnet") / "weights" / "detectors" / "pipnet-face.onnx"))


def list_models() -> list[str]:
    """Return the names of the models that are packaged with pipnet."""
    return list(packaged_models())


def find_model(name: str | Path) -> Path:
    """Return the file of a model by its name, path, folder or hub ID.

    Raises:
        ModelError: there is no such model.
        DownloadError: the hub cannot be reached.
    """
    packaged = packaged_models()
    current_name = ALIASES.get(str(name), str(name))
    if current_name in packaged:
        return packaged[current_name]
    path = Path(name)
    if path.is_dir():
        return _single_onnx_file(path)
    if path.is_file():
        if path.suffix == ".safetensors":
            raise ModelError(f"{path}: a training checkpoint; export it first: pipnet export {path}")
        return path
    is_local = path.suffix in (".onnx", ".safetensors", ".toml") or path.parent.is_dir()
    if not is_local and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        return _download_from_hub(str(name))
    raise ModelError(
        f"{name!s:.80}: no such model: use {', '.join(packaged)}, an .onnx file, a folder with one,"
        " or a hub ID OWNER/NAME"
    )


def cached(file: RemoteFile) -> Path | None:
    """Return the path of an earlier download, None if there is none or its checksum is wrong."""
    target = _cache_path(file)
    is_cached = target.is_file() and _sha256(target.read_bytes()) == file.sha256
    return target if is_cached else None


def cached_download(file: RemoteFile) -> Path:
    """Return the path of a file in the cache; download it and check its checksum if it is not cached.

    Raises:
        DownloadError: there is no connection, the checksum is wrong, or the cache cannot be written.
    """
    target = _cache_path(file)
    try:
        if cached(file):
            return target
        with urllib.request.urlopen(file.url, timeout=_TIMEOUT) as response:  # noqa: S310
            content: bytes = response.read(_MAX_BYTES)
        if _sha256(content) != file.sha256:
            raise DownloadError(
                f"{file.url}: wrong checksum: the file on the server is another one; not cached"
            )
        with atomic_write(target, target.with_name(f"{target.name}.{os.getpid()}")) as temporary:
            temporary.write_bytes(content)
    except (OSError, WriteError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"{file.name} cannot be downloaded ({reason}): get it from {file.url} and save it as {target}"
        ) from None
    return target


def _cache_path(file: RemoteFile) -> Path:
    return cache_folder() / "downloads" / file.name


def _single_onnx_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.onnx"))
    if not files:
        raise ModelError(
            f"{folder}: no .onnx file in this folder; export a checkpoint: pipnet export CHECKPOINT"
        )
    if len(files) > 1:
        raise ModelError(f"{folder}: {len(files)} .onnx files in this folder, expected one: name the file")
    return files[0]


def _download_from_hub(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    try:
        return Path(hf_hub_download(name, "model.onnx"))
    except LocalEntryNotFoundError:
        raise DownloadError(f"{name}: the model hub cannot be reached, and the model is not cached") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"{name}: model.onnx cannot be downloaded from the hub: {one_line(error)}") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
