"""LandmarkerConfig the pictures that annotation files name."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pipnet.annotations.fields import shown
from pipnet.annotations.files import is_file
from pipnet.errors import DataError
from pipnet.io.discovery import files_below
from pipnet.io.image import IMAGE_SUFFIXES


class ImageFinder:
    """Finds pictures below a folder by the names that files give them.

    A name is tried as a path from the folder, or an absolute one, and then as the bare name of a file
    anywhere below the folder, since annotations are often made where the pictures lay elsewhere.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._found: dict[str, Path] = {}
        self._meant: dict[Path, tuple[str, bool]] = {}
        """By picture, the name that was taken for it, and whether it had to be searched for."""

    def find(self, name: str, where: str) -> Path:
        """The picture that a file means.

        Args:
            name: the name in the file; also an address as Label Studio writes it.
            where: file and place, for errors.

        Raises:
            DataError: there is none, or several could be meant; or another name means it already, and one of
                the two is no path from the folder.
        """
        if name not in self._found:
            picture, searched = self._find(name, where)
            meant = [*_spellings(name)][-1]
            other, too = self._meant.setdefault(picture, (meant, searched))
            if other != meant and (searched or too):
                names = f"{shown(other)} and {shown(meant)}"
                raise DataError(f"{where}: {names} would both be {self.relative(picture)}: one is not there")
            self._found[name] = picture
        return self._found[name]

    def find_stem(self, stem: str, where: str) -> Path | None:
        """The picture ``stem``, or that + any picture's ending, a path from the root; None if there is none.

        Raises:
            DataError: there are several.
        """
        whole = self.root / stem
        if whole.suffix.lower() in IMAGE_SUFFIXES and is_file(whole):
            return whole
        found = self._by_stem.get(whole, [])
        if len(found) > 1:
            raise DataError(f"{where}: several pictures: {', '.join(p.name for p in found[:3])}")
        return found[0] if found else None

    def relative(self, picture: Path) -> str:
        """The path of a picture from the root, which is its name in the set."""
        try:
            return Path(os.path.relpath(picture, self.root)).as_posix()
        except ValueError:  # another drive of Windows
            return picture.as_posix()

    def _find(self, name: str, where: str) -> tuple[Path, bool]:
        """The picture, and whether it is somewhere else than the name says."""
        spellings = list(dict.fromkeys(_spellings(name)))
        for spelling in spellings:
            if is_file(self.root / spelling):
                return self.root / spelling, False
        for spelling in spellings:
            found = _best(self._by_name.get(Path(spelling).name, []), Path(spelling))
            if len(found) == 1:
                return found[0], True
            if found:
                places = ", ".join(map(self.relative, found[:3]))
                raise DataError(f"{where}: several pictures could be {shown(name)}: {places}")
        raise DataError(f"{where}: no picture {shown(name)} in {self.root}")

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        index: dict[str, list[Path]] = {}
        for path in files_below(self.root):
            index.setdefault(path.name, []).append(path)
        return index

    @cached_property
    def _by_stem(self) -> dict[Path, list[Path]]:
        index: dict[Path, list[Path]] = {}
        for path in files_below(self.root):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                index.setdefault(path.with_suffix(""), []).append(path)
        return index


def _spellings(name: str) -> Iterator[str]:
    """The names of files that a name may stand for, the likeliest first."""
    yield name
    plain = urllib.parse.unquote(name)
    yield plain
    if "?d=" in name:  # /data/local-files/?d=a/b.jpg of Label Studio
        plain = urllib.parse.unquote(name.partition("?d=")[2].partition("&")[0])
        yield plain
    elif "://" in name:
        plain = urllib.parse.unquote(re.split(r"[?#]", name.partition("://")[2])[0])
    plain = plain.replace("\\", "/").lstrip("/")
    yield plain
    # Label Studio puts eight digits before the name of a file that was uploaded to it.
    folder, slash, bare = plain.rpartition("/")
    yield folder + slash + re.sub(r"^[0-9a-f]{8}-", "", bare)


def _best(paths: list[Path], wanted: Path) -> list[Path]:
    """Of files of the same name those whose folders agree longest with the wanted path's."""

    def agreement(path: Path) -> int:
        same = [a == b for a, b in zip(path.parts[::-1], wanted.parts[::-1], strict=False)]
        return same.index(False) if False in same else len(same)

    longest = max(map(agreement, paths), default=0)
    return [path for path in paths if agreement(path) == longest]
