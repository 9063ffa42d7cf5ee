"""``pipnet compare``: two evaluations on the same faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipnet.errors import DataError
from pipnet.evaluation.measured import read_faces, read_measured
from pipnet.evaluation.metrics import paired_gain


def compare(before: Path, after: Path, /) -> None:
    """Say how much better one evaluation is than another of the same faces, and how sure that is.

    NME of both over the faces that both have, the gain in percent of the first, and its 95 % bootstrap
    interval over these faces. An interval that holds 0 is no difference. What another training seed would
    give is not in it.

    Parameters
    ----------
    before
        What `pipnet evaluate -o` wrote: its folder or evaluation.json.
    after
        The other one.
    """
    for what in ("data", "landmarks", "norm"):
        one, other = (getattr(read_measured([path])[0], what) for path in (before, after))
        if one != other:
            raise DataError(f"{before} and {after} cannot be compared: their {what} are {one} and {other}")
    first, second = read_faces(before), read_faces(after)
    names = [name for name in first if name in second]
    if not names:
        raise DataError(f"{before} and {after} have no face in common")
    a, b = (np.array([faces[name] for name in names]) for faces in (first, second))
    gain, interval = paired_gain(a, b)
    more = max(len(first), len(second)) - len(names)
    print(f"faces    {len(names):,} in both" + (f", up to {more:,} in one alone" if more else ""))
    print(f"NME      {a.mean():.3f} %, then {b.mean():.3f} %")
    print(f"gain     {gain:.1f} % ({interval.low:.1f} to {interval.high:.1f})")
    print(f"better   {100 * (b < a).mean():.0f} % of the faces")
