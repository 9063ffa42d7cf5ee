"""A landmark scheme is data: what the points are called, mirror to, and are measured by.

One small TOML a scheme stands in ``schemes/``; users bring their own by path. Mean face and neighbors
are no part of it: they follow from the training labels and travel with the weights.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from pipnet.errors import DataError

BUILT_IN = ("300w", "wflw", "cofw", "aflw", "lapa", "menpo39")
"""The schemes that come with pipnet: 68, 98, 29, 19, 106 and 39 points."""


@dataclass(frozen=True)
class LandmarkScheme:
    """Names, mirror pairs, regions, edges and norm of one set of landmarks."""

    name: str
    """Short name, as in recipes and model files."""
    title: str
    """One line for people."""
    landmarks: int
    """Number of points, L."""
    norm: tuple[int, int] | str
    """Two landmarks whose distance is the unit of the NME; or of the face box its side, ``"box"``, or its
    ``"diagonal"``."""
    flip: tuple[tuple[int, int], ...]
    """Landmarks that change places when the picture is mirrored."""
    edges: tuple[tuple[int, ...], ...]
    """Chains of landmarks to draw as lines."""
    regions: dict[str, tuple[int, ...]]
    """Named groups of landmarks, for errors by region and for names."""
    names: tuple[str, ...] = ()
    """A name for each landmark; made from the regions if there are none."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> LandmarkScheme:
        """A built-in scheme by name, or one of your own by the path of its TOML file.

        Raises:
            DataError: no such scheme, or the file is not a scheme.
        """
        path = Path(name_or_path)
        if path.suffix == ".toml":
            if not path.is_file():
                raise DataError(f"{path}: no such scheme file")
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path}: cannot be read as text: {error}") from None
            return cls.parse(path.stem, text, str(path))
        name = str(name_or_path)
        if name not in BUILT_IN:
            near = difflib.get_close_matches(name, BUILT_IN, 1)
            hint = f"did you mean {near[0]!r}?" if near else "or give the path of a .toml file"
            raise DataError(f"no landmark scheme {name!r}; there are {', '.join(BUILT_IN)}; {hint}")
        return cls.parse(name, _read_built_in(name), name)

    @classmethod
    def parse(cls, name: str, text: str, where: str) -> LandmarkScheme:
        """A scheme from the text of its TOML; ``where`` is named in errors.

        Raises:
            DataError: the text is not TOML, misses or contradicts something, or has a key that is not known.
        """
        try:
            table = tomllib.loads(text)
            _check_keys(table, where)
            scheme = cls(
                name=name,
                title=str(table["title"]),
                landmarks=int(table["landmarks"]),
                norm=_norm(table["norm"]),
                flip=tuple((int(a), int(b)) for a, b in table["flip"]),
                edges=tuple(_indices(chain) for chain in table["edges"]),
                regions={key: _indices(value) for key, value in table["regions"].items()},
                names=tuple(str(name) for name in table.get("names", ())),
            )
        except KeyError as error:
            raise DataError(f"{where}: the scheme has no {error}") from None
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise DataError(f"{where}: not a landmark scheme: {error}") from None
        scheme.check(where)
        return scheme

    def check(self, where: str) -> None:
        """Whether all that is said of landmarks is about landmarks there are.

        Raises:
            DataError: it is not; ``where`` is named.
        """
        norm = () if isinstance(self.norm, str) else self.norm
        used = [*norm, *(i for chain in self.edges for i in chain)]
        used += [i for pair in self.flip for i in pair]
        used += [i for region in self.regions.values() for i in region]
        outside = sorted({i for i in used if not 0 <= i < self.landmarks})
        if outside:
            raise DataError(f"{where}: landmarks {outside} are not among 0 to {self.landmarks - 1}")
        mirrored = [i for pair in self.flip for i in pair]
        if len(mirrored) != len(set(mirrored)):
            raise DataError(f"{where}: a landmark stands in two flip pairs")
        unit = self.norm in ("box", "diagonal") if isinstance(self.norm, str) else len(set(self.norm)) == 2
        if not unit:
            raise DataError(f"{where}: norm is two landmarks, 'box' or 'diagonal', not {self.norm!r}")
        if self.names and not len(self.names) == len(set(self.names)) == self.landmarks:
            different = f"{len(set(self.names))} of them different"
            raise DataError(f"{where}: {self.landmarks} landmarks, {len(self.names)} names, {different}")

    @cached_property
    def flip_permutation(self) -> Int64[np.ndarray, " landmarks"]:
        """``points[flip_permutation]`` puts the points of a mirrored picture in order again."""
        order = np.arange(self.landmarks)
        for a, b in self.flip:
            order[a], order[b] = b, a
        return order

    @cached_property
    def landmark_names(self) -> tuple[str, ...]:
        """A name for each landmark: the given one, or its region and its place in it, such as ``nose_3``."""
        if self.names:
            return self.names
        names = [f"point_{i}" for i in range(self.landmarks)]
        for region, members in self.regions.items():
            for place, i in enumerate(members):
                names[i] = f"{region}_{place}"
        return tuple(names)

    def to_dict(self) -> dict[str, Any]:
        """The scheme as plain data, as it is kept in model files; see `from_dict`."""
        return {
            "name": self.name,
            "title": self.title,
            "landmarks": self.landmarks,
            "norm": self.norm,
            "flip": self.flip,
            "edges": self.edges,
            "regions": self.regions,
            "names": self.names,
        }

    def to_toml(self) -> str:
        """The scheme as the text of its file, whose name is the scheme's; see `parse`."""

        def listed(members: Sequence[int]) -> str:
            return ",".join(map(str, members))

        table = {
            "title": self.title,
            "landmarks": self.landmarks,
            "norm": self.norm,
            "flip": self.flip,
            "edges": [listed(chain) for chain in self.edges],
            "names": self.names,
        }
        regions = {key: listed(members) for key, members in self.regions.items()}
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
        lines += [
            "[regions]",
            *(f"{json.dumps(k, ensure_ascii=False)} = {json.dumps(v)}" for k, v in regions.items()),
        ]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> LandmarkScheme:
        """The inverse of `to_dict`, also after a trip through JSON.

        Raises:
            KeyError, TypeError, ValueError: the table is not a scheme.
        """
        return cls(
            name=str(table["name"]),
            title=str(table["title"]),
            landmarks=int(table["landmarks"]),
            norm=_norm(table["norm"]),
            flip=tuple((int(a), int(b)) for a, b in table["flip"]),
            edges=tuple(tuple(int(i) for i in chain) for chain in table["edges"]),
            regions={k: tuple(int(i) for i in v) for k, v in table["regions"].items()},
            names=tuple(str(name) for name in table.get("names", ())),
        )


@dataclass(frozen=True)
class SchemeMapping:
    """A linear map from the points of one scheme to those of another, such as WFLW's 98 to 68."""

    source: str
    target: str
    x_weights: Float64[np.ndarray, "target source"]
    y_weights: Float64[np.ndarray, "target source"]

    @classmethod
    def load(cls, source: str, target: str) -> SchemeMapping:
        """The mapping that comes with pipnet for two schemes.

        Raises:
            DataError: there is none for these two.
        """
        name = f"{source}_to_{target}"
        if not (resources.files("pipnet.schemes") / f"{name}.toml").is_file():
            raise DataError(f"no mapping from scheme {source!r} to {target!r}")
        table = tomllib.loads(_read_built_in(name))
        if "via" in table:
            first, second = cls.load(source, table["via"]), cls.load(table["via"], target)
            x_weights, y_weights = second.x_weights @ first.x_weights, second.y_weights @ first.y_weights
            return cls(source, target, x_weights, y_weights)
        columns = LandmarkScheme.load(source).landmarks
        x_weights = _mean_rows(table["points"], columns)
        y_weights = x_weights.copy()
        for row, members in table.get("y", {}).items():
            y_weights[int(row)] = _mean_rows([members], columns)[0]
        return cls(source, target, x_weights, y_weights)

    def __call__(self, points: Float[np.ndarray, "source 2"]) -> Float64[np.ndarray, "target 2"]:
        """Points of the source scheme -> points of the target scheme, in the same frame."""
        return np.stack([self.x_weights @ points[:, 0], self.y_weights @ points[:, 1]], axis=1)


def _mean_rows(members: list[list[int]], columns: int) -> Float64[np.ndarray, "target source"]:
    weights = np.zeros((len(members), columns))
    for row, indices in enumerate(members):
        for i in indices:
            weights[row, i] += 1 / len(indices)
    return weights


_MOST = 100_000
"""Landmarks that a scheme may have: a list of them is written out."""


def _indices(text: str) -> tuple[int, ...]:
    """``"36-41,36"`` -> (36, 37, 38, 39, 40, 41, 36)."""
    out: list[int] = []
    for part in str(text).split(","):
        first, _, last = part.partition("-")
        if int(last or first) >= _MOST:
            raise ValueError(f"landmark {last or first} is beyond {_MOST}")
        out.extend(range(int(first), int(last or first) + 1))
    return tuple(out)


def _check_keys(table: dict[str, Any], where: str) -> None:
    """Refuse a key that means nothing here, as it may be one that is misspelt."""
    known = [field.name for field in fields(LandmarkScheme) if field.name != "name"]  # its file's
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise DataError(f"{where}: a scheme has no key {key!r}; {hint}")


def _norm(value: Any) -> tuple[int, int] | str:
    if isinstance(value, str):
        return value
    a, b = value
    return int(a), int(b)


def _read_built_in(name: str) -> str:
    return (resources.files("pipnet.schemes") / f"{name}.toml").read_text(encoding="utf-8")
