"""The command line: ``pipnet detect | annotate | video | webcam | train | export | info`` and more.

JSON goes to standard output, everything else to standard error. Exit codes: 0 success (also without a face),
1 an error in one line, 2 wrong usage, 129, 130 and 143 ended by SIGHUP, Ctrl-C and SIGTERM, 141 closed
output.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import cyclopts
from rich.console import Console

import pipnet
from pipnet.errors import MissingExtraError, PipnetError
from pipnet.io.image import ignore_pillow_warnings

COMMANDS = (
    ("detect", "detect:detect", "Find faces and their landmarks in images."),
    ("annotate", "annotate:annotate", "Annotate any number of images; resumes after a kill."),
    ("video", "video:video", "Find and track the faces of a video."),
    ("webcam", "webcam:webcam", "Find and track the faces in front of a camera."),
    ("evaluate", "evaluate:evaluate", "Measure a model on labeled faces."),
    ("report", "report:report", "Compare evaluations with the papers' numbers."),
    ("compare", "compare:compare", "Compare two evaluations of the same faces."),
    ("probe", "probe:probe", "Show what a model predicts where there is no face."),
    ("tta-maps", "tta_maps:tta_maps", "Show what test-time augmentation does to score maps."),
    ("benchmark", "benchmark:benchmark", "Measure the speed of models on this machine."),
    ("train", "train:app", "Train a model by a recipe."),
    ("self-train", "self_train:app", "Train on labeled and unlabeled faces, in rounds."),
    ("teach", "teach:teach", "Label unlabeled faces by the consensus of several teachers."),
    ("calibrate", "calibrate:calibrate", "Calibrate a model's confidence on labeled faces."),
    ("prune", "prune:prune", "Remove neighbors and channels of a trained network."),
    ("export", "export:export", "Export a checkpoint to an ONNX file."),
    ("import", "import_weights:import_weights", "Convert a checkpoint of the original authors."),
    ("migrate", "migrate:migrate", "Convert recipes, run folders and bulk jobs of earlier formats."),
    ("info", "info:info", "Print the metadata of a model."),
    ("doctor", "doctor:doctor", "Print what is installed and what is missing."),
    ("data prepare", "data:prepare", "Check and prepare a published dataset."),
    ("data convert", "data:convert", "Convert labeled faces to another file format."),
    ("data check", "data_check:check", "Look for mistakes in labels, with a model."),
    ("data scheme", "data:scheme", "Propose a landmark scheme for your own labeled faces."),
    ("data view", "data:view", "Write a page that shows labeled faces."),
    ("detector fit", "detector:fit", "Fit a model to the boxes of a detector."),
    ("detector sensitivity", "detector:sensitivity", "Measure how exact boxes must be."),
    ("teacher fit", "teacher:fit", "Fit a teacher's landmarks to the labels of a dataset."),
    ("protocol tsd", "protocol:tsd_app", "Train with a share of the labels of one dataset."),
    ("protocol tmd", "protocol:tmd_app", "Train with other datasets, without their labels."),
)
"""Name, module and function, and line of help, of at most 63 characters so that it fits a terminal of 80. A
command is imported when it is run."""
_GROUPS = {
    "data": "Prepare, convert, check and show labeled faces.",
    "detector": "Use the boxes of any detector; measure how exact they must be.",
    "teacher": "Prepare teachers for pipnet teach.",
    "protocol": "v1's protocols: training with part of the labels.",
}


def _build(argv: list[str]) -> cyclopts.App:
    """Return all commands; the help of the requested one is its whole docstring."""
    app = cyclopts.App(
        name="pipnet",
        help="Facial landmarks: fast, accurate and robust in the wild.",
        version=pipnet.__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        default_parameter=cyclopts.Parameter(negative=()),
    )
    groups = {name: cyclopts.App(name=name, help=help_line) for name, help_line in _GROUPS.items()}
    for name, target, help_line in COMMANDS:
        group, _, command = name.rpartition(" ")
        is_requested = argv[: name.count(" ") + 1] == name.split()
        parent = groups[group] if group else app
        parent.command(f"pipnet.cli.{target}", name=command, help=None if is_requested else help_line)
    for group_app in groups.values():
        app.command(group_app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    errors = Console(stderr=True)
    _print_notes()
    ignore_pillow_warnings()
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _build(argv)(argv, exit_on_error=False, error_console=errors)
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


@contextlib.contextmanager
def training_imports() -> Iterator[None]:
    """Report packages of the training part that are not installed, or installed and broken, in one line."""
    try:
        yield
    except (ImportError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            raise MissingExtraError(error.name, "train") from None
        reason = " ".join(str(error).split())
        raise PipnetError(f"the training packages cannot be imported: {reason:.200}") from None


def say(text: str) -> None:
    """One line on standard error, as it is."""
    print(text, file=sys.stderr, flush=True)


def say_errors(errors: Iterable[object]) -> None:
    """Print each error once, a line each."""
    for line in dict.fromkeys(map(str, errors)):
        say(f"error: {line}")
