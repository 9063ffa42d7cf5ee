"""README and docs: all of their commands and Python blocks run, and their links lead somewhere."""

import contextlib
import importlib
import io
import re
import runpy
import shlex
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib as mpl
import pytest

from pipnet.cli import COMMANDS
from pipnet.cli import main as pipnet_main

pytestmark = pytest.mark.usefixtures("loaded_once")
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "recipes/README.md", *DOCS.rglob("*.md"))
)
LINKED_PAGES = [*PAGES, "CONTRIBUTING.md", "benchmarks/README.md", "checkpoints/README.md"]
SERVICE = "127.0.0.1:8000"
FEW_STEPS = {
    "train": "--max-steps 2 --data.limit 64 --workers 0",
    # weights whose pseudo-labels are usable after one step
    "self-train": "--max-steps 1 --data.limit 40 --self-training.limit 20 --workers 0"
    " --initial.checkpoint checkpoints/pipnet-68.safetensors --model.last-width 640",
}
"""Flags that make a command of the documentation short."""
SLOW = ("annotate", "benchmark", "export", "self-train", "train", "tta-maps", "probe", "prune")
SLOW_PARTS = ("blink_counter", "pipnet video", "data prepare", "data view", "detector fit", "pipnet evaluate")
"""Commands that take many seconds."""


class Block(NamedTuple):
    page: str
    number: int
    language: str
    text: str
    not_run: str | None
    """The reason that the page states in a comment before the block."""


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    matches = re.findall(
        r"(?:<!-- not run: (.*?) -->\n)?^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    )
    return [
        Block(page, i, language, body, reason or None) for i, (reason, language, body) in enumerate(matches)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL_BLOCKS = [block for block in BLOCKS if block.language == "bash" and not block.not_run]
PYTHON_PAGES = [
    page for page in PAGES if any(b.language == "python" and not b.not_run for b in BLOCKS if b.page == page)
]


def lines_of(block: Block) -> list[str]:
    return [
        line for line in (re.sub(r"(^| +)# .*", "", raw).strip() for raw in block.text.splitlines()) if line
    ]


def is_slow(block: Block) -> bool:
    words = {word for line in lines_of(block) for word in line.split()[1:2]}
    return bool(words & set(SLOW)) or any(part in block.text for part in SLOW_PARTS)


def shell_cases() -> Iterator[object]:
    """Give the blocks of each page in order, the fast ones and the slow ones."""
    for page in PAGES:
        blocks = [block for block in SHELL_BLOCKS if block.page == page]
        for slow, marks in ((False, []), (True, [pytest.mark.slow])):
            if chosen := [block for block in blocks if is_slow(block) is slow]:
                yield pytest.param(chosen, id=f"{page}-{'slow' if slow else 'fast'}", marks=marks)


@pytest.fixture
def checkout(tmp_path, shared, monkeypatch):
    """Enter a folder like a checkout beside the shared data, which commands can write into."""
    (tmp_path / "shared").symlink_to(shared)
    folder = tmp_path / "main"
    (folder / "out").mkdir(parents=True)
    for name in ("examples", "recipes", "checkpoints", "src"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["test"])
    mpl.use("agg")
    return folder


# -- commands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", list(shell_cases()))
def test_shell_blocks_of_a_page_work(blocks, checkout, request):
    """A block may read what an earlier block of its page wrote."""
    for block in blocks:
        address = request.getfixturevalue("service") if "pipnet serve" in block.text else ""
        for line in lines_of(block):
            run_line(line.replace(SERVICE, address))


def run_line(line: str) -> None:
    """Run a line of a shell block, or check what it asks for where running it would install or build."""
    line, _, redirected = line.partition(" < ")
    program, *arguments = shlex.split(line)
    if program == "pipnet" and arguments[0] == "demo":  # it serves until Ctrl-C, see tests/test_demo.py
        run_pipnet([*arguments, "--help"], "")
    elif program == "pipnet" and arguments[0] != "serve":  # which runs during the whole block
        run_pipnet(arguments, redirected)
    elif program == "python":
        run_script(arguments)
    elif program == "pip":
        check_installation(arguments)
    elif program == "make":
        assert re.search(rf"^{arguments[0].replace('bench-', '')}|^bench-%:", makefile(), re.MULTILINE), line
    elif program == "curl":
        result = subprocess.run(["curl", "-sS", "--fail", *arguments], capture_output=True, text=True)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        assert '"points"' in result.stdout
    else:
        assert program == "pipnet", f"no test for {program}: {line}"


def run_pipnet(arguments: list[str], redirected: str) -> None:
    command = arguments[0]
    more = shlex.split(FEW_STEPS.get(command, "")) if "--help" not in arguments else []
    if arguments[1:] and arguments[1].startswith(("recipes/v1/", "recipes/ijcv/")):
        arguments = [*arguments, "--initial.no-pretrained"]  # ImageNet weights would be downloaded
    stated = {flag for flag in arguments if flag.startswith("--")}
    for flag, value in zip(more[::2], more[1::2], strict=True):
        if flag not in stated:
            arguments = [*arguments, flag, value]
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        if redirected:
            stack.callback(setattr, sys, "stdin", sys.stdin)
            sys.stdin = stack.enter_context(Path(redirected.strip()).open(encoding="latin-1"))
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(errors))
        code = pipnet_main(arguments)
    assert code == 0, f"pipnet {shlex.join(arguments)}\n{errors.getvalue()}"


def run_script(arguments: list[str]) -> None:
    script, *rest = arguments
    sys.argv = [script, *rest]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")


def check_installation(arguments: list[str]) -> None:
    """Check that the extras exist; `test_install` installs pipnet."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = re.findall(r"\.\[([\w,]+)\]", shlex.join(arguments))
    assert arguments[0] in ("install", "uninstall", "download")
    assert {name for group in extras for name in group.split(",")} <= set(
        project["project"]["optional-dependencies"]
    )


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """Run `pipnet serve` on a free port, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "pipnet", "serve", "--port", address.split(":")[1]]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while not is_ready(f"http://{address}/ready"):
                assert process.poll() is None
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status == 200
    except OSError:
        return False


# -- Python --------------------------------------------------------------------------------------------


def reads_outputs(page: str) -> bool:
    return any('"out/' in block.text for block in blocks_of(page) if block.language == "python")


def python_cases() -> Iterator[object]:
    for page in PYTHON_PAGES:
        yield pytest.param(page, marks=[pytest.mark.slow] if reads_outputs(page) else [])


@pytest.fixture
def fake_camera(shared, monkeypatch):
    """Replace OpenCV's camera by a clip, and its window by a person who presses Escape at the fifth frame."""
    open_video, keys = cv2.VideoCapture, iter([-1] * 4 + [27])
    clip = str(shared / "data" / "video" / "cap13_edit2.mp4")
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: open_video(clip if source == 0 else source))
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    monkeypatch.setattr(cv2, "imshow", lambda _name, image: image.shape)


@pytest.mark.parametrize("page", list(python_cases()))
def test_python_blocks_of_a_page_work(page, checkout, fake_camera, request):
    """The blocks of a page are one program, which may read what the commands above them wrote."""
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = [block for block in blocks_of(page) if not block.not_run]
    address = request.getfixturevalue("service") if any(SERVICE in b.text for b in blocks) else ""
    for block in blocks:
        if block.language == "bash" and reads_outputs(page):
            for line in lines_of(block):
                run_line(line)
        elif block.language == "python":
            code = compile(block.text.replace(SERVICE, address), f"{page}, block {block.number}", "exec")
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, names)


def test_every_block_is_run_or_states_why_not():
    for block in BLOCKS:
        if block.language not in ("bash", "python"):
            assert block.language in ("", "text", "bibtex", "toml", "yaml", "json"), block
            assert "pipnet detect" not in block.text, block
        assert block.not_run is None or len(block.not_run) > 5


def test_commands_in_the_text_exist():
    names = {name for name, *_ in COMMANDS} | {name.split()[0] for name, *_ in COMMANDS}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for span in re.findall(r"`pipnet\s([a-z][\w-]*)", text):
            assert span in names, f"{page}: pipnet {span}"


def test_flags_in_the_text_exist(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    reference = importlib.import_module("command_reference").command_reference()
    flags = {"--help", "--debug", *re.findall(r"--[a-z][a-z0-9.-]*", reference)}
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for span in re.findall(r"`((?!curl |pip )[^`\n]+)`", text):
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*", span):
                assert flag in flags, f"{page}: {span}"


# -- links ---------------------------------------------------------------------------------------------


def links_of(page: str) -> list[str]:
    text = re.sub(
        r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors_of(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED_PAGES)
def test_links_of_a_page_exist(page):
    for link in links_of(page):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: {link}"
        # the reference of commands is on the site only, where the build checks its anchors
        if anchor and path.suffix == ".md" and path.name != "commands.md":
            assert anchor in anchors_of(path), f"{page}: {link}"


def test_source_tree_names_existing_files():
    tree = next(b.text for b in blocks_of("docs/architecture.md") if b.text.startswith("recipes/"))
    package = ROOT / "src/pipnet"
    places = [ROOT, package, *(path for path in package.iterdir() if path.is_dir())]
    for line in tree.splitlines():
        names = re.match(r" *((?:[\w/.]+(?:, )?)+)", line)
        for name in names[1].split(", ") if names else []:
            if "/" in name or name.endswith(".py"):
                assert any((place / name).exists() for place in places), name


def test_paths_of_the_method_exist():
    rows = re.findall(r"^\| .*\| (`.*`) \|$", (DOCS / "method.md").read_text(encoding="utf-8"), re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`([\w/.]+/[\w/.]*)`", row)]
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / "src/pipnet" / path).exists() or (ROOT / path).exists(), path


# -- site ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_site_builds_without_warnings_and_loads_nothing_from_other_hosts(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(https?:[^\s\">]+)", html)
        loaded += re.findall(
            r"<link[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*href=\"?(https?:[^\s\">]+)", html
        )
        assert not loaded, f"{page}: {loaded}"
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), (
            sheet
        )
    commands = (tmp_path / "commands.html").read_text(encoding="utf-8")
    assert all(f"pipnet {name}" in commands for name, *_ in COMMANDS)
