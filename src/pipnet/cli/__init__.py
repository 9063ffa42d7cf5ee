"""The command line: ``pipnet detect | annotate | video | webcam | train | export | info`` and more.

JSON goes to standard output, everything else to standard error. Exit codes: 0 success (also without a face),
1 an error in one line, 2 wrong usage, 129, 130 and 143 ended by SIGHUP, Ctrl-C and SIGTERM, 141 closed
output.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import cyclopts
from rich.console import Console

import pipnet
from pipnet.errors import MissingExtraError, PipnetError
from pipnet.io.image import ignore_pillow_warnings

# Name, module and function, and the line of help in the list of commands. A command is imported when it is
# run.
COMMANDS = (
    ("detect", "detect:detect", "Find faces and their landmarks in images."),
    ("annotate", "annotate:annotate", "Annotate any number of images; resumes after a kill."),
    ("video", "video:video", "Find and track the faces of a video."),
    ("webcam", "webcam:webcam", "Find and track the faces in front of a camera."),
    ("evaluate", "evaluate:evaluate", "Measure a model on labeled faces."),
    ("report", "report:report", "Compare evaluations with the papers' numbers."),
    (
        "compare",
        "compare:compare",
        "Compare two evaluations of the same faces, with a paired interval.",
    ),
    ("probe", "probe:probe", "Show what a model predicts where there is no face."),
    ("tta-maps", "tta_maps:tta_maps", "Show score maps of a face before and after test-time augmentation."),
    ("benchmark", "benchmark:benchmark", "Measure the speed of models on this machine."),
    ("train", "train:app", "Train a model by a recipe."),
    ("self-train", "self_train:app", "Train on labeled and unlabeled faces, in rounds."),
    ("teach", "teach:teach", "Label unlabeled faces by the consensus of several teachers."),
    ("calibrate", "calibrate:calibrate", "Calibrate a model's confidence on labeled faces."),
    ("prune", "prune:prune", "Prune a trained network: fewer neighbors, a narrower last layer."),
    ("export", "export:export", "Export a checkpoint to an ONNX file."),
    ("import", "import_weights:import_weights", "Convert a checkpoint of the original authors."),
    ("migrate", "migrate:migrate", "Convert recipes, run folders and bulk jobs of earlier formats."),
    ("info", "info:info", "Print the metadata of a model."),
    ("doctor", "doctor:doctor", "Print what is installed and what is missing."),
)
_GROUPS = {
    "data": (
        "Prepare datasets, convert, check and show labels, propose a landmark scheme.",
        {
            "prepare": "data:prepare",
            "convert": "data:convert",
            "check": "data_check:check",
            "scheme": "data:scheme",
            "view": "data:view",
        },
    ),
    "detector": (
        "Use the boxes of any detector; measure how exact they must be.",
        {"fit": "detector:fit", "sensitivity": "detector:sensitivity"},
    ),
    "teacher": (
        "Fit a teacher's landmarks to the labels of a dataset.",
        {"fit": "teacher:fit"},
    ),
    "protocol": (
        "v1's protocols: training with part of the labels.",
        {"tsd": "protocol:tsd_app", "tmd": "protocol:tmd_app"},
    ),
}


def _build(command: str | None) -> cyclopts.App:
    """Return all commands; the help of the requested one is its whole docstring."""
    app = cyclopts.App(
        name="pipnet",
        help="Facial landmarks: fast, accurate and robust in the wild.",
        version=pipnet.__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        default_parameter=cyclopts.Parameter(negative=()),
    )
    for name, target, words in COMMANDS:
        app.command(f"pipnet.cli.{target}", name=name, help=None if name == command else words)
    for group, (words, commands) in _GROUPS.items():
        within = cyclopts.App(name=group, help=words)
        for name, target in commands.items():
            within.command(f"pipnet.cli.{target}", name=name)
        app.command(within)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    errors = Console(stderr=True)
    _print_notes()
    ignore_pillow_warnings()
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


def _print_notes() -> None:
    """Print what the library logs, a line each, on standard error."""
    logger = logging.getLogger("pipnet")
    logger.setLevel(logging.INFO)
    logger.handlers = [_NoteHandler()]


class _NoteHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def cannot_import(error: ImportError | RuntimeError) -> PipnetError:
    """Why the training part cannot be imported: not installed, or installed and broken."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return MissingExtraError(error.name, "train")
    return PipnetError(f"the training packages cannot be imported: {' '.join(str(error).split()):.200}")


def say(text: str) -> None:
    """One line on standard error, as it is."""
    print(text, file=sys.stderr, flush=True)
