"""``pipnet compare``: two evaluations of the same faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipnet.errors import DataError
from pipnet.evaluation.metrics import paired_gain
from pipnet.evaluation.record import FILE, read_face_nmes, read_records


def compare(before: Path, after: Path, /) -> None:
    """Compare two evaluations of the same faces.

    Prints both NMEs over the faces that both evaluations have, the gain in percent of the first, and its 95 %
    bootstrap interval over these faces. If the interval contains 0, no difference is shown. The interval does
    not include the variation between training seeds.

    Parameters
    ----------
    before
        The output of `pipnet evaluate -o`: its folder or evaluation.json.
    after
        The output of the other evaluation.
    """
    files = [path / FILE if path.is_dir() else path for path in (before, after)]
    records = read_records(files)
    for key in ("data", "landmarks", "norm"):
        a, b = (getattr(record, key) for record in records)
        if a != b:
            raise DataError(f"{before} and {after} cannot be compared: their {key} are {a} and {b}")
    before_nmes, after_nmes = map(read_face_nmes, files)
    names = [name for name in before_nmes if name in after_nmes]
    if not names:
        raise DataError(f"{before} and {after} have no face in common")
    old, new = (np.array([nmes[name] for name in names]) for nmes in (before_nmes, after_nmes))
    gain, interval = paired_gain(old, new)
    unmatched = max(len(before_nmes), len(after_nmes)) - len(names)
    print(f"faces    {len(names):,} in both" + (f", up to {unmatched:,} in one alone" if unmatched else ""))
    print(f"NME      {old.mean():.3f} %, then {new.mean():.3f} %")
    print(f"gain     {gain:.1f} % ({interval.low:.1f} to {interval.high:.1f})")
    print(f"better   {100 * (new < old).mean():.0f} % of the faces")
