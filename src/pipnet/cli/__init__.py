"""The command line: ``pipnet detect | annotate | video | webcam | train | export | info`` and more.

JSON on standard output, everything else on standard error. Exit codes: 0 all right (also where there is no
face), 1 an error of ours in one line, 2 wrong usage, 129, 130 and 143 hung up, interrupted and ended, 141 the
reader of our output left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import cyclopts
from rich.console import Console

import pipnet
from pipnet.errors import MissingExtraError, PipnetError

# By name, so that each command imports what it needs and no more; with what the list of commands says of it.
COMMANDS = (
    ("detect", "detect:detect", "Find faces and their landmarks in pictures."),
    ("annotate", "annotate:annotate", "Annotate any number of pictures, resumably."),
    ("video", "video:video", "Find and follow the faces of a video."),
    ("webcam", "webcam:webcam", "Find and follow the faces before a camera."),
    ("evaluate", "evaluate:evaluate", "Measure a model on labeled faces."),
    ("report", "report:report", "Set results beside the papers' numbers."),
    (
        "compare",
        "compare:compare",
        "Say how much better one evaluation is than another, and how surely.",
    ),
    ("probe", "probe:probe", "Show what a model answers where there is no face."),
    ("views", "views:views", "Show the score maps of a face before and after the mean over views."),
    ("benchmark", "benchmark:benchmark", "Say how fast models are here, side by side."),
    ("train", "train:train", "Train a model as a recipe says."),
    ("self-train", "self_train:self_train", "Train on labeled and unlabeled faces, in rounds."),
    ("teach", "teach:teach", "Label unlabeled faces by the consensus of several teachers."),
    ("calibrate", "models:calibrate", "Measure what a model's scores are worth, and write it into it."),
    ("slim", "models:slim", "Make a trained net leaner: fewer neighbors, a narrower last layer."),
    ("export", "models:export", "Turn a checkpoint into an ONNX file."),
    ("import", "models:import_official", "Read a checkpoint of the original authors."),
    ("info", "models:info", "Say what a model is."),
    ("doctor", "models:doctor", "Say what is installed and what is missing."),
)
_GROUPS = (
    (
        "data",
        ("prepare", "convert", "scheme", "view"),
        "Prepare collections, convert and look at labels, propose a scheme.",
    ),
    ("detector", ("fit", "sensitivity"), "Use the boxes of any detector; see how exact one must be."),
    ("teacher", ("fit",), "Fit a teacher's landmarks to the labels of a dataset."),
    ("protocol", ("tsd", "tmd"), "v1's protocols: learning with labels taken away."),
)


def _build(command: str | None) -> cyclopts.App:
    """All commands; the help of the one that is asked for is its whole docstring."""
    app = cyclopts.App(
        name="pipnet",
        help="Facial landmarks: fast, accurate and robust in the wild.",
        version=pipnet.__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        default_parameter=cyclopts.Parameter(negative=()),
    )
    for name, where, words in COMMANDS:
        app.command(f"pipnet.cli.{where}", name=name, help=None if name == command else words)
    for group, commands, words in _GROUPS:
        within = cyclopts.App(name=group, help=words)
        for name in commands:
            within.command(f"pipnet.cli.{group}:{name}", name=name)
        app.command(within)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    errors = Console(stderr=True)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _build(given[0] if given else None)(given, exit_on_error=False, error_console=errors)
        sys.stdout.flush()
    except cyclopts.CycloptsError:
        return 2
    except PipnetError as error:
        # An error from a worker process comes with that process's traceback above its own line.
        say(f"error: {str(error).splitlines()[-1]}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        # Nobody reads on: keep Python from complaining when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        say(f"error: {error.filename or 'system'}: {error.strerror or error}")
        return 1
    return code if isinstance(code, int) else 0


def cannot_import(error: ImportError | RuntimeError) -> PipnetError:
    """Why the training part cannot be imported: not installed, or installed and broken."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return MissingExtraError(error.name, "train")
    return PipnetError(f"the training packages cannot be imported: {' '.join(str(error).split()):.200}")


def say(text: str) -> None:
    """One line on standard error, as it is."""
    print(text, file=sys.stderr, flush=True)
