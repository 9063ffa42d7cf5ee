"""Finding the images that annotation files name."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

from pipnet.annotations.checked_values import quoted
from pipnet.errors import DataError
from pipnet.io.discovery import files_below, images_below
from pipnet.io.image import IMAGE_SUFFIXES
from pipnet.io.text import is_file


class ImageFinder:
    """Finds images below a folder by the names in annotation files.

    A name is tried as a path from the folder or an absolute path, and then as the bare name of any file below
    the folder, because annotations are often made where the images were in another place.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._images: dict[str, Path] = {}
        self._names: dict[Path, tuple[str, bool]] = {}
        """For each image the name that refers to it, and whether it was found by its bare name."""

    def find(self, name: str, where: str) -> Path:
        """Return the image that a name in an annotation file refers to.

        Args:
            name: a path, or a URL as written by Label Studio.
            where: file and place, for error messages.

        Raises:
            DataError: no image or several images have this name; or another name refers to the same image
                already, and one of the two was found by its bare name.
        """
        if name not in self._images:
            image, by_bare_name = self._find(name, where)
            spelling = [*_spellings(name)][-1]
            other, other_by_bare_name = self._names.setdefault(image, (spelling, by_bare_name))
            if other != spelling and (by_bare_name or other_by_bare_name):
                names = f"{quoted(other)} and {quoted(spelling)}"
                raise DataError(
                    f"{where}: {names} would both be {self.relative(image)}: one image is missing"
                )
            self._images[name] = image
        return self._images[name]

    def find_stem(self, stem: str, where: str) -> Path | None:
        """Return the image ``stem``, or that with any image suffix, a path from the root; None if missing.

        Raises:
            DataError: there are several.
        """
        path = self.root / stem
        if path.suffix.lower() in IMAGE_SUFFIXES and is_file(path):
            return path
        images = self._by_stem.get(str(path), [])
        if len(images) > 1:
            raise DataError(f"{where}: several images: {', '.join(p.name for p in images[:3])}")
        return images[0] if images else None

    def relative(self, image: Path) -> str:
        """Return the path of an image from the root, which is its name in the set."""
        try:
            return Path(os.path.relpath(image, self.root)).as_posix()
        except ValueError:  # another drive of Windows
            return image.as_posix()

    def _find(self, name: str, where: str) -> tuple[Path, bool]:
        """Return the image, and whether it was found by its bare name."""
        spellings = list(dict.fromkeys(_spellings(name)))
        for spelling in spellings:
            if is_file(self.root / spelling):
                return self.root / spelling, False
        for spelling in spellings:
            matches = _best_matches(self._by_name.get(Path(spelling).name, []), Path(spelling))
            if len(matches) == 1:
                return matches[0], True
            if matches:
                places = ", ".join(map(self.relative, matches[:3]))
                raise DataError(f"{where}: several images match {quoted(name)}: {places}")
        raise DataError(f"{where}: no image {quoted(name)} in {self.root}")

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _group(files_below(self.root), lambda path: path.name)

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return _group(images_below(self.root), lambda path: str(path.with_suffix("")))


def _group(paths: Iterable[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


def _spellings(name: str) -> Iterator[str]:
    """Yield the file names that a name may stand for, the most likely first."""
    yield name
    decoded = urllib.parse.unquote(name)
    yield decoded
    if "?d=" in name:  # /data/local-files/?d=a/b.jpg of Label Studio
        decoded = urllib.parse.unquote(name.partition("?d=")[2].partition("&")[0])
        yield decoded
    elif "://" in name:
        decoded = urllib.parse.unquote(re.split(r"[?#]", name.partition("://")[2])[0])
    decoded = decoded.replace("\\", "/").lstrip("/")
    yield decoded
    # Label Studio adds a prefix of eight hexadecimal digits to the name of an uploaded file.
    folder, slash, bare = decoded.rpartition("/")
    yield folder + slash + re.sub(r"^[0-9a-f]{8}-", "", bare)


def _best_matches(paths: list[Path], requested: Path) -> list[Path]:
    """Return the paths that share the most trailing parts with the requested path."""

    def shared_parts(path: Path) -> int:
        same = [a == b for a, b in zip(path.parts[::-1], requested.parts[::-1], strict=False)]
        return [*same, False].index(False)

    most = max(map(shared_parts, paths), default=0)
    return [path for path in paths if shared_parts(path) == most]
