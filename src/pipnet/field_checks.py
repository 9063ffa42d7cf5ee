"""Checks of configurations: the ranges and choices that dataclasses declare for their fields."""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from numbers import Integral
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from pipnet.errors import PipnetError


@dataclass(frozen=True)
class Range:
    """The range of a number, written beside its field: ``Annotated[float, Range(0, 1)]``."""

    minimum: float
    maximum: float = float("inf")
    above: bool = False
    """Whether the minimum itself is out of range."""

    def check(self, key: str, value: float, error: type[PipnetError]) -> None:
        """Refuse a number out of range, or NaN."""
        if self.minimum <= value <= self.maximum and not (self.above and value == self.minimum):
            return
        bounds = [f"{'above' if self.above else 'at least'} {self.minimum:g}"]
        if self.maximum < float("inf"):
            bounds.append(f"at most {self.maximum:g}")
        raise error(f"{key} must be {' and '.join(bounds)}, not {value}")


def check_fields(config: object, error: type[PipnetError] = PipnetError, prefix: str = "") -> None:
    """Refuse a value outside of the range or the choices of its field, in nested configurations too.

    Args:
        config: a dataclass.
        error: the type of the exception.
        prefix: of the fields' names in messages, such as ``"model."``.

    Raises:
        PipnetError: of type ``error``: a value is out of range, not among the choices, or not a whole number.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value, key = getattr(config, name), prefix + name
        if is_dataclass(value):
            check_fields(value, error, f"{key}.")
            continue
        for limit in getattr(hint, "__metadata__", ()):
            if isinstance(limit, Range) and value is not None:
                limit.check(key, value, error)
        kind = hint.__origin__ if get_origin(hint) is Annotated else hint
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise error(f"{key} is one of {', '.join(map(str, get_args(kind)))}, not {value!r:.80}")
        if kind is int and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise error(f"{key} is a whole number, not {value!r:.80}")
