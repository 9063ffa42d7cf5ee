"""Landmark schemes: names, mirror pairs, regions, edges and norm of a set of landmarks.

A scheme is data: one small TOML file in ``schemes/``, or a user's own file. Mean face and neighbors are not
part of it: they are computed from the training labels and stored with the weights.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from pipnet.errors import DataError, one_line
from pipnet.io.regular_file import read_file, typed_errors

BUILT_IN = ("300w", "wflw", "cofw", "aflw", "lapa", "menpo39", "five")
"""The schemes that come with pipnet: 68, 98, 29, 19, 106, 39 and 5 points."""
_KEYS = ("title", "landmarks", "norm", "flip", "edges", "regions", "landmark_names")
"""The keys of a scheme file. Its name is that of the file."""
_EARLIER_KEYS = ("names",)
"""Keys of version 0.1 that are read too: ``names`` is `landmark_names`."""
MAX_LANDMARKS = 10_000
"""The largest number of landmarks. Dense meshes have some thousand."""
_MAX_BYTES = 2_000_000
"""Maximum size of a scheme file."""
_MAX_INDICES = 500_000
"""Maximum number of indices in all regions and edges together."""


@dataclass(frozen=True)
class LandmarkScheme:
    """Names, mirror pairs, regions, edges and norm of one set of landmarks."""

    name: str
    """Short name, as in recipes and model files."""
    title: str
    """Description in one line."""
    landmarks: int
    """Number of landmarks, L."""
    norm: tuple[int, int] | str
    """The unit of the NME: the distance of two landmarks, or ``"box"``, the side of the face box, or
    ``"diagonal"``, its diagonal."""
    flip: tuple[tuple[int, int], ...]
    """Pairs of landmarks that change places when the image is mirrored."""
    edges: tuple[tuple[int, ...], ...]
    """Chains of landmarks to draw as lines."""
    regions: dict[str, tuple[int, ...]]
    """Named groups of landmarks, for errors by region and for names. Left and right are the person's:
    ``right_eye`` is on the left of the image. The built-in schemes have those of ``jaw``, ``right_brow``,
    ``left_brow``, ``nose``, ``right_eye``, ``left_eye``, ``right_pupil``, ``left_pupil``, ``outer_lips``,
    ``inner_lips``, ``mouth`` and ``chin`` that their points tell apart."""
    landmark_names: tuple[str, ...] = ()
    """A different name for each landmark. Filled in if left out: with the region and the index in it, such as
    ``nose_3``, and ``point_3`` for landmark 3 in no region."""

    def __post_init__(self) -> None:
        if not 0 < self.landmarks <= MAX_LANDMARKS:
            raise ValueError(f"{self.landmarks} landmarks, not 1 to {MAX_LANDMARKS:,}")
        if not self.landmark_names:
            object.__setattr__(self, "landmark_names", _region_names(self.landmarks, self.regions))

    @classmethod
    def load(cls, name_or_path: str | Path) -> LandmarkScheme:
        """Return a built-in scheme by name, or a user's scheme by the path of its TOML file.

        Raises:
            DataError: the scheme does not exist, or the file is invalid.
        """
        path = Path(name_or_path)
        if path.suffix == ".toml":
            if not path.is_file():
                raise DataError(f"{path}: no such scheme file")
            with typed_errors(DataError, f"{path}: cannot be read as text"):
                text = read_file(path, _MAX_BYTES).decode("utf-8")
            return cls.parse(path.stem, text, str(path))
        name = str(name_or_path)
        if name not in BUILT_IN:
            matches = difflib.get_close_matches(name, BUILT_IN, 1)
            hint = f"did you mean {matches[0]!r}?" if matches else "or give the path of a .toml file"
            raise DataError(f"no landmark scheme {name[:80]!r}; there are {', '.join(BUILT_IN)}; {hint}")
        return cls.parse(name, _read_built_in(name), name)

    @classmethod
    def parse(cls, name: str, text: str, where: str) -> LandmarkScheme:
        """Return the scheme of a TOML text; ``where`` starts the error message.

        Raises:
            DataError: the text is not TOML, lacks a key, has an unknown key, or contradicts itself.
        """
        try:
            table = tomllib.loads(text)
            _check_keys(table, where)
            scheme = cls.from_dict({"name": name, **table})
        except KeyError as error:
            raise DataError(f"{where}: the scheme has no {error!s:.80}") from None
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise DataError(f"{where}: not a landmark scheme: {one_line(error)}") from None
        scheme.check(where)
        return scheme

    def check(self, where: str) -> None:
        """Refuse indices out of range and contradictions; ``where`` starts the error message.

        Raises:
            DataError: the scheme is invalid.
        """
        norm = () if isinstance(self.norm, str) else self.norm
        mirrored = [i for pair in self.flip for i in pair]
        used = [*norm, *mirrored]
        used += [i for group in (*self.edges, *self.regions.values()) for i in group]
        outside = sorted({i for i in used if not 0 <= i < self.landmarks})
        if outside:
            raise DataError(f"{where}: landmarks {outside!s:.80} are not among 0 to {self.landmarks - 1}")
        if len(mirrored) != len(set(mirrored)):
            raise DataError(f"{where}: a landmark is in two flip pairs")
        if self.norm not in ("box", "diagonal") and len(set(norm)) != 2:
            raise DataError(f"{where}: norm is two landmarks, 'box' or 'diagonal', not {self.norm!r:.80}")
        count, different = len(self.landmark_names), len(set(self.landmark_names))
        if not count == different == self.landmarks:
            raise DataError(
                f"{where}: {self.landmarks} landmarks, {count} names, {different} of them different"
            )

    @cached_property
    def flip_permutation(self) -> Int64[np.ndarray, " landmarks"]:
        """``points[flip_permutation]`` restores the order of the points of a mirrored image."""
        order = np.arange(self.landmarks)
        for a, b in self.flip:
            order[a], order[b] = b, a
        return order

    @property
    def has_own_names(self) -> bool:
        """Whether the landmark names are other than those that follow from the regions."""
        return self.landmark_names != _region_names(self.landmarks, self.regions)

    def current_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return landmark names, those that this built-in scheme had in version 0.1 replaced by today's."""
        regions = _previous_regions().get(self.name)
        if regions is None or self.has_own_names:
            return names
        previous = _region_names(self.landmarks, regions)
        renamed = dict(zip(previous, self.landmark_names, strict=True))
        return tuple(renamed.get(name, name) for name in names)

    def to_dict(self) -> dict[str, Any]:
        """Return the scheme as plain data, as stored in model files; see `from_dict`."""
        return {
            "name": self.name,
            "title": self.title,
            "landmarks": self.landmarks,
            "norm": self.norm,
            "flip": self.flip,
            "edges": self.edges,
            "regions": self.regions,
            "landmark_names": self.landmark_names,
        }

    def digest_text(self) -> str:
        """Return the scheme as JSON for digests: the same text as in version 0.1, for the same points."""
        table = self.to_dict()
        del table["landmark_names"]
        table["regions"] = _previous_regions().get(self.name, self.regions)
        table["names"] = self.landmark_names if self.has_own_names else ()
        return json.dumps(table)

    def to_toml(self) -> str:
        """Return the text of the scheme's file; its name is that of the file. See `parse`."""
        table = self.to_dict()
        del table["name"], table["regions"]
        if not self.has_own_names:
            del table["landmark_names"]
        table["edges"] = [_ranges(chain) for chain in self.edges]
        regions = {key: _ranges(members) for key, members in self.regions.items()}
        lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
        return (
            "\n".join([*lines, "[regions]", *(f"{_toml(k)} = {_toml(v)}" for k, v in regions.items())]) + "\n"
        )

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> LandmarkScheme:
        """Return the scheme of `to_dict`, also after a conversion to JSON and back.

        A built-in scheme with the regions of version 0.1 gets those of today.

        Raises:
            KeyError, TypeError, ValueError: the table is not a scheme.
        """
        title, landmarks = str(table["title"]), int(table["landmarks"])
        _check_total([*table["edges"], *table["regions"].values()])
        return cls(
            name=str(table["name"]),
            title=title,
            landmarks=landmarks,
            norm=_norm(table["norm"]),
            flip=tuple((int(a), int(b)) for a, b in table["flip"]),
            edges=tuple(_indices(chain) for chain in table["edges"]),
            regions=_current_regions(str(table["name"]), table["regions"]),
            landmark_names=tuple(str(name) for name in table.get("landmark_names", table.get("names", ()))),
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
        """Return the mapping between two schemes that comes with pipnet.

        Raises:
            DataError: there is no such mapping.
        """
        name = f"{source}_to_{target}"
        if not (resources.files("pipnet.schemes") / f"{name}.toml").is_file():
            there_are = ", ".join(_targets(source)) or "none"
            raise DataError(
                f"no mapping from scheme {source[:80]!r} to {target[:80]!r}; those from it: {there_are}"
            )
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

    def __call__(self, points: Float[np.ndarray, "*n source 2"]) -> Float64[np.ndarray, "*n target 2"]:
        """Map points of the source scheme to the target scheme, in the same frame."""
        return np.stack([points[..., 0] @ self.x_weights.T, points[..., 1] @ self.y_weights.T], axis=-1)

    def average(self, values: Float[np.ndarray, "*n source"]) -> Float32[np.ndarray, "*n target"]:
        """Average values of the source landmarks, such as scores, for each target landmark."""
        return np.asarray(values @ ((self.x_weights + self.y_weights) / 2).T, dtype=np.float32)


def _targets(source: str) -> list[str]:
    """Return the schemes that there is a mapping to."""
    files = (file.name for file in resources.files("pipnet.schemes").iterdir())
    prefix, suffix = f"{source}_to_", ".toml"
    return sorted(f[len(prefix) : -len(suffix)] for f in files if f.startswith(prefix) and f.endswith(suffix))


def _region_names(landmarks: int, regions: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    names = [f"point_{i}" for i in range(landmarks)]
    for region, members in regions.items():
        for index, i in enumerate(members):
            if 0 <= i < landmarks:  # others are refused by `check`
                names[i] = f"{region}_{index}"
    return tuple(names)


def _current_regions(name: str, table: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the regions of a table, those of a built-in scheme in version 0.1 replaced by today's."""
    regions = {key: _indices(members) for key, members in table.items()}
    return LandmarkScheme.load(name).regions if regions == _previous_regions().get(name) else regions


@cache
def _previous_regions() -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the regions of the built-in schemes in version 0.1."""
    tables = tomllib.loads(_read_built_in("previous_regions"))
    return {
        name: {region: _indices(members) for region, members in table.items()}
        for name, table in tables.items()
    }


def _mean_rows(members: list[list[int]], columns: int) -> Float64[np.ndarray, "target source"]:
    weights = np.zeros((len(members), columns))
    for row, indices in enumerate(members):
        for i in indices:
            weights[row, i] += 1 / len(indices)
    return weights


def _indices(value: str | Iterable[int]) -> tuple[int, ...]:
    """Return indices from a list or a text: ``"36-41,36"`` -> (36, 37, 38, 39, 40, 41, 36)."""
    if not isinstance(value, str):
        return tuple(int(i) for i in value)
    return tuple(i for indices in _parse_ranges(value) for i in indices)


def _parse_ranges(text: str) -> Iterator[range]:
    for item in text.split(","):
        first, _, last = item.partition("-")
        if int(last or first) >= MAX_LANDMARKS:
            raise ValueError(f"landmark {last or first:.80} is beyond {MAX_LANDMARKS}")
        yield range(int(first), int(last or first) + 1)


def _check_total(groups: Iterable[Any]) -> None:
    """Refuse edges and regions with too many indices, before ranges are expanded."""
    total = 0
    for group in groups:
        total += sum(map(len, _parse_ranges(group))) if isinstance(group, str) else len(group)
        if total > _MAX_INDICES:
            raise ValueError(f"more than {_MAX_INDICES:,} indices in edges and regions")


def _ranges(indices: Iterable[int]) -> str:
    """Return the text of `_indices`: (36, 37, 38, 36) -> ``"36-38,36"``."""
    ranges: list[list[int]] = []
    for i in indices:
        if ranges and i == ranges[-1][1] + 1:
            ranges[-1][1] = i
        else:
            ranges.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def _toml(value: object) -> str:
    """Return a value as TOML. This is JSON but for surrogate pairs and one more character to escape."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_keys(table: dict[str, Any], where: str) -> None:
    """Refuse unknown keys, which may be misspelled ones."""
    for key in table:
        if key not in _KEYS and key not in _EARLIER_KEYS:
            matches = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"did you mean {matches[0]!r}?" if matches else f"there are {', '.join(_KEYS)}"
            raise DataError(f"{where}: a scheme has no key {key[:80]!r}; {hint}")


def _norm(value: Any) -> tuple[int, int] | str:
    if isinstance(value, str):
        return value
    a, b = value
    return int(a), int(b)


def _read_built_in(name: str) -> str:
    return (resources.files("pipnet.schemes") / f"{name}.toml").read_text(encoding="utf-8")
