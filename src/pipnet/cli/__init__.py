"""The command line: ``pipnet detect | evaluate | train | export | info | doctor``.

JSON on standard output, everything else on standard error. Exit codes: 0 all right (also where there is no
face), 1 an error of ours in one line, 2 wrong usage, 130 interrupted, 141 the reader of our output left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import cyclopts
from rich.console import Console

import pipnet
from pipnet.errors import PipnetError

app = cyclopts.App(
    name="pipnet",
    help="Facial landmarks: fast, accurate and robust in the wild.",
    version=pipnet.__version__,
    result_action="return_value",
)
app.command("pipnet.cli.detect:detect", name="detect")
app.command("pipnet.cli.evaluate:evaluate", name="evaluate")
app.command("pipnet.cli.train:train", name="train")
app.command("pipnet.cli.models:export", name="export")
app.command("pipnet.cli.models:info", name="info")
app.command("pipnet.cli.models:doctor", name="doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    errors = Console(stderr=True)
    try:
        code = app(
            None if arguments is None else list(arguments),
            exit_on_error=False,
            error_console=errors,
        )
        sys.stdout.flush()
    except cyclopts.CycloptsError:
        return 2
    except PipnetError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        # Nobody reads on: keep Python from complaining when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code if isinstance(code, int) else 0


def say(text: str) -> None:
    """One line on standard error, as it is."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
