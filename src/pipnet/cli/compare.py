"""``pipnet compare``: two evaluations on the same faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipnet.errors import DataError
from pipnet.evaluation.metrics import paired_gain
from pipnet.evaluation.record import FILE, read_faces, read_records


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
    files = [path / FILE if path.is_dir() else path for path in (before, after)]
    one, other = read_records(files)
    for what in ("data", "landmarks", "norm"):
        a, b = getattr(one, what), getattr(other, what)
        if a != b:
            raise DataError(f"{before} and {after} cannot be compared: their {what} are {a} and {b}")
    first, second = map(read_faces, files)
    names = [name for name in first if name in second]
    if not names:
        raise DataError(f"{before} and {after} have no face in common")
    nmes, after_nmes = (np.array([faces[name] for name in names]) for faces in (first, second))
    gain, interval = paired_gain(nmes, after_nmes)
    more = max(len(first), len(second)) - len(names)
    print(f"faces    {len(names):,} in both" + (f", up to {more:,} in one alone" if more else ""))
    print(f"NME      {nmes.mean():.3f} %, then {after_nmes.mean():.3f} %")
    print(f"gain     {gain:.1f} % ({interval.low:.1f} to {interval.high:.1f})")
    print(f"better   {100 * (after_nmes < nmes).mean():.0f} % of the faces")
