"""Run cases of one target in this process, and report each on standard output. `run.py` starts it.

Arguments: target, seed, first case, number of cases. Before a case a line ``[case]`` is written, after it
``[case, outcome, detail]``. The process may die at any moment: that is what `run.py` waits for.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

MEMORY = 2 * 2**30
"""Limit of the memory of the process, in bytes."""


def main(name: str, seed: int, first: int, count: int) -> None:
    """Run the cases of a target."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever libraries print
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.path.append(str(Path(__file__).parents[2]))
    from robustness.fuzz.targets import TARGETS

    target, folder = TARGETS[name], Path(os.environ["FUZZ_FOLDER"]) / "case"
    files = target.seeds()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    case = first

    def run(content: bytes) -> None:
        nonlocal case
        _report(out, [case])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder.parent / "content").write_bytes(content)
        _report(out, [case, *_outcome(target.run, content, folder)])
        case += 1

    if target.base is None:
        for number in range(first, first + count):
            random = Random(f"{seed} {name} {number}")  # noqa: S311
            content = random.choice(files)
            run(target.mutate(content, random) if number else content)
    else:
        _run_hypothesis(run, list(target.base()), seed + first, count)
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    _report(out, ["done", case, usage])


def _outcome(run: Callable[[bytes, Path], object], content: bytes, folder: Path) -> tuple[str, str]:
    from pipnet.errors import PipnetError

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run(content, folder)
    except PipnetError as error:
        text = str(error)
        return (
            ("typed error", "")
            if "\n" not in text and len(text) < 1500
            else ("traceback", f"long message {text:.200}")
        )
    except MemoryError:
        return "memory", _where()
    except Exception:
        return "traceback", _where()
    return "ok", ""


def _where() -> str:
    """Return the exception and the last lines of the traceback that are in pipnet."""
    kind, error, trace = sys.exc_info()
    frames = [f for f in traceback.extract_tb(trace) if "pipnet" in f.filename][-2:]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
    return f"{kind and kind.__name__}: {' '.join(str(error).split()):.160} at {places}"


def _run_hypothesis(run: Callable[[bytes], None], bases: list[Any], seed: int, count: int) -> None:
    """Run cases that hypothesis makes of plain data: values replaced, removed or nested."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as with_seed
    from hypothesis import strategies as st

    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([0, -1, 2**31, 2**63, 10**400]),
        st.floats(),
        st.text(max_size=20),
    )
    values = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    )

    @st.composite
    def tables(draw: Any) -> Any:
        table = copy.deepcopy(draw(st.sampled_from(bases)))
        for _ in range(draw(st.integers(1, 3))):
            places = list(_places(table))
            if places:
                parent, key = places[draw(st.integers(0, len(places) - 1))]
                if draw(st.integers(0, 9)) == 0:
                    del parent[key]
                else:
                    parent[key] = draw(values)
        return table

    @with_seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(tables())
    def cases(table: Any) -> None:
        run(json.dumps(table).encode())

    sys.set_int_max_str_digits(0)  # for the number above; readers must not depend on the limit
    cases()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(min(len(value), 20)):
            yield value, key
            yield from _places(value[key])


def _report(out: Any, message: list[object]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
