"""The command line: ``pipnet detect | annotate | video | webcam | train | export | info`` and more.

JSON goes to standard output, everything else to standard error. Exit codes: 0 success (also without a face),
1 an error in one line, 2 wrong usage, 129, 130 and 143 ended by SIGHUP, Ctrl-C and SIGTERM, 141 closed
output. ``-q``, ``-v`` and ``--debug``, anywhere on the line, set the level of the logger ``pipnet``, which
decides what is printed on standard error.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence

import cyclopts

import pipnet
from pipnet.cli.streams import standard_streams
from pipnet.errors import MissingExtraError, PipnetError, one_line, printable
from pipnet.io.discovery import STANDARD_INPUT
from pipnet.io.image import ignore_pillow_warnings
from pipnet.io.signals import record_interrupts
from pipnet.progress import is_quiet

COMMANDS = (
    ("detect", "detect:detect", "Find faces and their landmarks in images."),
    ("annotate", "annotate:annotate", "Annotate any number of images; resumes after a kill."),
    ("video", "video:video", "Find and track the faces of a video."),
    ("webcam", "webcam:webcam", "Find and track the faces in front of a camera."),
    ("demo", "demo:demo", "Find landmarks in the browser, also with the camera."),
    ("serve", "serve:serve", "Serve detection over HTTP, for other programs."),
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
    ("data boxes", "data:boxes", "Write the boxes of a dataset's faces without their labels."),
    ("data bundle", "data_bundle:bundle", "Put chosen faces of a dataset into one file."),
    ("data convert", "data:convert", "Convert labeled faces to another file format."),
    ("data check", "data_check:check", "Look for mistakes in labels, with a model."),
    ("data scheme", "data:scheme", "Propose a landmark scheme for your own labeled faces."),
    ("data view", "data:view", "Write a page that shows labeled faces."),
    ("detector fit", "detector:fit", "Fit a model to the boxes of a detector."),
    ("detector train", "detector_train:app", "Train a face detector by a recipe."),
    ("detector sensitivity", "detector:sensitivity", "Measure how exact boxes must be."),
    ("teacher fit", "teacher:fit", "Fit a teacher's landmarks to the labels of a dataset."),
    ("protocol tsd", "protocol:tsd_app", "Train with a share of the labels of one dataset."),
    ("protocol tmd", "protocol:tmd_app", "Train with other datasets, without their labels."),
)
"""Name, module and function, and line of help, of at most 63 characters so that it fits a terminal of 80. A
command is imported when it is run."""
_HELP = """Facial landmarks: fast, accurate and robust in the wild.

Every command takes -q (--quiet: only results, warnings and errors), -v (--verbose: also what is loaded and
which device runs it) and --debug (the same, and the traceback of an error)."""
_LOG = logging.getLogger("pipnet")
_DEBUG = logging.DEBUG - 1
"""Below the level of all notes."""
_LEVELS = {
    "-q": logging.WARNING,
    "--quiet": logging.WARNING,
    "-v": logging.DEBUG,
    "--verbose": logging.DEBUG,
    "--debug": _DEBUG,
}
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
        help=_HELP,
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
    words = sys.argv[1:] if arguments is None else arguments
    # cyclopts takes a lone - for an option.
    argv, level = _split_level([STANDARD_INPUT if word == "-" else word for word in words])
    with standard_streams() as output, _print_notes(level):
        ignore_pillow_warnings()
        failure: BaseException | None = None
        with record_interrupts() as interrupts:
            try:
                result = _run(argv)
            except SystemExit:
                if output.error is None:
                    raise
                failure = output.error  # rich exits if nobody reads its output
            except BaseException as error:
                failure = error
        if failure is None:
            return result if isinstance(result, int) else 0
        return _report(KeyboardInterrupt() if interrupts else failure, failure is output.error)


def _run(argv: list[str]) -> object:
    """Run a command and return what it returns."""
    result = _build(argv)(argv, exit_on_error=False, print_error=False)
    sys.stdout.flush()
    return result


def _report(error: BaseException, is_output: bool) -> int:
    """Report what ended a command, in one line, and return the exit code.

    Args:
        error: what ended it.
        is_output: whether standard output could not be written.
    """
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return 130
    print_traceback(error)
    if is_output and isinstance(error, OSError):
        if isinstance(error, BrokenPipeError):  # nobody reads on
            return 141
        error = OSError(error.errno, error.strerror, "standard output")
    say_error(describe(error))
    return 2 if isinstance(error, cyclopts.CycloptsError) else 1


def describe(error: BaseException) -> str:
    """Return what is wrong, with a request to report it if the exception is not raised on purpose."""
    if isinstance(error, PipnetError | cyclopts.CycloptsError):
        text = str(error).strip()
        # An error from a worker process comes with that process's traceback above its own line.
        return text.splitlines()[-1] if "Traceback (most recent call last)" in text else text
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}"
    if isinstance(error, MemoryError):
        return "not enough memory"
    advice = "a bug: please report it with the traceback that --debug prints"
    return f"unexpected {type(error).__name__}: {one_line(error)} ({advice})"


def print_traceback(error: BaseException) -> None:
    """Print the traceback of an exception on standard error if the user wants it (--debug)."""
    if _LOG.isEnabledFor(_DEBUG):
        for line in "".join(traceback.format_exception(error)).split("\n"):
            _print_error(line)


def _split_level(arguments: Sequence[str]) -> tuple[list[str], int]:
    """Return the arguments without -q, -v and --debug, and the level that the last of them sets."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    levels = [_LEVELS[word] for word in arguments[:end] if word in _LEVELS]
    rest = [word for word in arguments[:end] if word not in _LEVELS]
    return [*rest, *arguments[end:]], levels[-1] if levels else logging.INFO


@contextlib.contextmanager
def _print_notes(level: int) -> Iterator[None]:
    """Print what the library logs at this level and above, a line each, on standard error."""
    before, handlers = _LOG.level, _LOG.handlers
    _LOG.setLevel(level)
    _LOG.handlers = [_NoteHandler()]
    try:
        yield
    finally:
        _LOG.setLevel(before)
        _LOG.handlers = handlers


class _NoteHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _print_error(record.getMessage())


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


def say(*lines: str) -> None:
    """Print lines on standard error, unless the user wants only results, warnings and errors (-q)."""
    if not is_quiet():
        for line in lines:
            _print_error(line)


def say_error(text: str) -> None:
    """Print an error on standard error."""
    _print_error(f"error: {text}")


def say_errors(errors: Iterable[object]) -> None:
    """Print each error once, a line each."""
    for line in dict.fromkeys(map(str, errors)):
        say_error(line)


def _print_error(line: str) -> None:
    if sys.stderr is not None:  # closed by the shell (2>&-): print would write to standard output
        print(printable(line), file=sys.stderr, flush=True)
