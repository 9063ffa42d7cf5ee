"""The process of a command: Ctrl-C, closed and full outputs, no home folder, errors that are bugs."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipnet.cli import main
from pipnet.errors import PipnetError
from pipnet.hub import cache_folder

SCRIPT = "import sys; from pipnet.__main__ import main; sys.exit(main())"
"""What the console script does."""


def start(command: list[str], **options: object) -> subprocess.Popen[str]:
    """Start a process that Ctrl-C reaches, also where a shell runs the tests in the background."""
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (no threads)
        **options,
    )


# -- Ctrl-C --------------------------------------------------------------------------------------------


@pytest.fixture
def slow_imports(tmp_path):
    """A folder for PYTHONPATH: the first import of NumPy prints a line, and then takes a minute."""
    code = (
        "import sys, time\n"
        "print('importing', flush=True)\n"
        "try:\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('as some libraries do')\n"
    )
    (tmp_path / "numpy.py").write_text(code)
    return tmp_path


@pytest.mark.parametrize("command", [["-m", "pipnet"], ["-c", SCRIPT]], ids=["module", "script"])
def test_ctrl_c_during_imports_is_exit_code_130(command, slow_imports):
    with start([*command, "info"], env={**os.environ, "PYTHONPATH": str(slow_imports)}) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "interrupted\n")


def test_ctrl_c_that_a_library_turns_into_its_own_error_is_exit_code_130(capsys, monkeypatch):
    def interrupted_import(name):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("as some libraries do") from None

    monkeypatch.setattr("pipnet.cli.info.find_model", interrupted_import)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs of a shell
    try:
        assert main(["info"]) == 130
        assert capsys.readouterr().err == "interrupted\n"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# -- outputs -------------------------------------------------------------------------------------------

FULL = "error: standard output: No space left on device\n"
OUTPUTS = [  # redirection, exit code of bash or pipnet, standard error
    ("info --json >/dev/full", 1, FULL),
    ("--help >/dev/full", 1, FULL),
    ("info --json >/dev/full 2>/dev/full", 1, ""),
    ("detect missing.jpg --json 2>/dev/full >/dev/null", 1, ""),
    ("info --json | true; exit ${PIPESTATUS[0]}", 141, ""),
    ("--help | true; exit ${PIPESTATUS[0]}", 141, ""),
    ("info >&- 2>&- <&-", 0, ""),
    ("detect missing.jpg >&- 2>&- <&-", 1, ""),
]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_closed_and_full_outputs_end_in_one_line(tmp_path):
    def run(case: tuple[str, int, str]) -> subprocess.CompletedProcess[str]:
        command = f"'{sys.executable}' -m pipnet {case[0]}"
        return subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )

    with ThreadPoolExecutor(2) as threads:
        for case, result in zip(OUTPUTS, threads.map(run, OUTPUTS), strict=True):
            assert (result.returncode, result.stderr) == case[1:], case


def test_files_never_get_the_numbers_of_closed_standard_files(tmp_path):
    """Otherwise a library in C that prints would write into them."""
    code = "from pipnet.__main__ import _open_standard_files as f; f(); print(open('x', 'w').fileno())"
    command = f"cd '{tmp_path}'; {{ '{sys.executable}' -c \"{code}\" 3>&1 >&3; }} <&- 2>&-"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert int(result.stdout) > 2


class Broken(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_messages_that_cannot_be_written_do_not_end_the_work(portrait, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Broken())
    assert main(["detect", str(portrait), str(portrait.with_name("missing.jpg")), "--json"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_names_that_standard_output_cannot_encode_are_escaped(tmp_path, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setenv("PIPNET_CACHE", "/é")
    assert main(["doctor"]) == 0
    output.seek(0)
    assert "cache                    /\\xe9\n" in output.read()
    assert output.errors == "strict"


# -- no home folder ------------------------------------------------------------------------------------


def test_cache_folder_without_a_home_names_the_variable(monkeypatch, capsys):
    monkeypatch.delenv("PIPNET_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(lambda: (_ for _ in ()).throw(RuntimeError("no home"))))
    with pytest.raises(PipnetError, match="no home folder for the cache: set PIPNET_CACHE to a folder"):
        cache_folder()
    assert main(["doctor"]) == 0
    assert "cache                    none: no home folder" in capsys.readouterr().out


NO_USER = (
    "import pwd, sys\n"
    "def getpwuid(user): raise KeyError(f'getpwuid(): uid not found: {user}')\n"
    "pwd.getpwuid = getpwuid\n"
    "from pipnet.__main__ import main\n"
    "sys.exit(main())"
)
"""The command of a user who is not in the list of users, as in some containers."""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no list of users, or no /proc")
def test_commands_work_without_home_and_user_and_with_a_read_only_home(portrait):
    def run(home: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", NO_USER, "detect", str(portrait), *arguments]
        environment = {"PATH": os.environ["PATH"], **home}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    for home in ({}, {"HOME": "/proc"}):  # nothing can be made in /proc, also by root
        result = run(home)
        assert (result.returncode, result.stderr) == (0, f"{portrait}: 1 face\n")
    result = run({}, "--detector", "yunet")
    assert result.returncode == 1
    assert result.stderr == "error: no home folder for the cache: set PIPNET_CACHE to a folder\n"


# -- the last resort -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ZeroDivisionError("division\nby zero"), "unexpected ZeroDivisionError: division by zero (a bug: "),
        (RecursionError("too deep"), "unexpected RecursionError: too deep (a bug: "),
        (BaseException("panic"), "unexpected BaseException: panic (a bug: "),
        (ValueError("\x1b[31m\u202e"), "unexpected ValueError: \\x1b[31m\\u202e (a bug: "),
        (MemoryError(), "not enough memory\n"),
        (OSError(errno.EIO, "Input/output error", "a\nb"), "a\\nb: Input/output error\n"),
        (PipnetError("a\nb: missing"), "a\\nb: missing\n"),
        (PipnetError("Traceback (most recent call last):\n  worker\nImageError: x"), "ImageError: x\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_any_exception_is_one_line_and_exit_code_1(error, line, monkeypatch, capsys):
    def fail(name):
        raise error

    monkeypatch.setattr("pipnet.cli.info.find_model", fail)
    assert main(["info"]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {line}")
    assert message.count("\n") == 1
    assert ("please report it with the traceback that --debug prints" in message) == ("a bug" in line)
    assert main(["info", "--debug"]) == 1
    debug = capsys.readouterr().err
    assert "Traceback (most recent call last):\n" in debug
    assert debug.endswith(message)


def test_unexpected_error_of_one_image_does_not_stop_the_others(portrait, monkeypatch, capsys):
    monkeypatch.setattr("pipnet.inference.results.FaceLandmarks.to_dict", lambda _: 1 / 0)
    assert main(["detect", str(portrait), str(portrait), "--debug"]) == 1
    errors = capsys.readouterr().err
    line = f"error: {portrait}: unexpected ZeroDivisionError: division by zero (a bug: please report it"
    assert errors.count(line) == 2
    assert "Traceback" in errors


def test_wrong_usage_is_one_line(capsys):
    for arguments, message in (
        (["detect"], "requires an argument"),
        (["train"], "requires an argument"),
        (["detct", "a"], 'Unknown command "detct"'),
        (["detect", "a", "--jsn"], "Unknown option: --jsn"),
        (["detect", "a", "--tta", "\x1b\n"], 'Invalid value "\\x1b\\n" for --tta'),
        (["\u202e\n"], 'Unknown command "\\u202e\\n"'),
        (["detect", "a", "--\x1b]0;title\x07"], "Unknown option: --\\x1b]0;title\\x07"),
    ):
        assert main(arguments) == 2
        line = capsys.readouterr().err
        assert re.match(r"error: [^\n]*\n", line)
        assert message in line


def test_main_works_outside_of_the_main_thread(capsys):
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["info", "pipnet-tiny", "--json"])))
    thread.start()
    thread.join()
    assert codes == [0]
