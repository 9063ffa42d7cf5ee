"""File names with control characters, markup and formulas: printed safely, and read back unchanged."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from rich.table import Table

from pipnet.annotations.formats import read_annotations
from pipnet.cli import main, say
from pipnet.cli.streams import print_table
from pipnet.errors import printable
from pipnet.io.csv_file import CsvReader, write_csv_file
from pipnet.progress import show_progress
from pipnet.video.preview_page import Preview
from pipnet.video.writer import VideoWriter

NAMES = [
    "=cmd|x.jpg",
    "+1.jpg",
    "-1.jpg",
    "@a.jpg",
    "'=quoted.jpg",
    "a\nb.jpg",
    "a\r\nb.jpg",
    "\tx.jpg",
    "\x1b[31mred\x1b]0;title\x07.jpg",
    "\u202egpj.exe.jpg",
    "\u2028line\u2066.jpg",
    "[red]x[link=a].jpg",
    "{task.x}{0}%s$x_.jpg",
    "<script>alert(1)<b>&amp;.jpg",
    '",;é日本\u3000.jpg',
]
UNSAFE = "\x1b\x07\r\t\u202e\u2028\u2066"


@pytest.fixture
def folder(tmp_path, portrait):
    """A folder with an image under all of these names."""
    if os.name == "nt":
        pytest.skip("Windows allows none of these names")
    for name in NAMES:
        shutil.copy(portrait, tmp_path / name)
    return tmp_path


def is_safe(text: str) -> bool:
    return not any(character in text for character in UNSAFE)


def test_printable_escapes_all_but_text_and_spaces():
    assert printable("a\x1b[m\n\r\t\x7f\x9b\u202e\u200b\udcff") == (
        "a\\x1b[m\\n\\r\\t\\x7f\\x9b\\u202e\\u200b\\udcff"
    )
    assert printable("é日本 \u00a0\u3000C:\\x") == "é日本 \u00a0\u3000C:\\x"


# -- commands ------------------------------------------------------------------------------------------


def test_detect_prints_names_safely_and_its_table_has_them_unchanged(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["detect", ".", "--csv", "faces.csv", "--coco", "faces.json", "--json"]) == 0
    output, errors = capsys.readouterr()
    rows = [json.loads(line) for line in output.splitlines()]
    assert sorted(row["image"] for row in rows) == sorted(NAMES)
    assert is_safe(output + errors)
    for file in ("faces.csv", "faces.json"):
        assert sorted(sample.image.name for sample in read_annotations(folder / file).samples) == sorted(
            NAMES
        )
    assert main(["detect", *(f"no\n{name}" for name in NAMES)]) == 1
    errors = capsys.readouterr().err
    assert is_safe(errors)
    assert errors.count("\n") == len(NAMES) + 1


def test_data_commands_print_names_safely_and_escape_pages(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["-q", "detect", ".", "--csv", "[b]\x1b\n.csv"]) == 0
    assert main(["data", "convert", "[b]\x1b\n.csv", "copy.csv"]) == 0
    assert (
        main(["data", "check", "copy.csv", "--model", "pipnet-tiny", "--scheme", "300w", "-o", "doubts"]) == 0
    )
    assert main(["data", "view", "[b]\x1b\n.csv", "-o", "view"]) == 0
    assert main(["evaluate", "pipnet-tiny", "--data", "[b]\x1b\n.csv", "-o", "$x_ [b]\x1b"]) == 0
    assert main(["report", "$x_ [b]\x1b"]) == 0
    assert is_safe("".join(capsys.readouterr()))
    for page in ("doubts/index.html", "view/index.html"):
        text = (folder / page).read_text(encoding="utf-8")
        assert is_safe(text)
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;b&gt;&amp;amp;.jpg" in text


def test_annotate_and_video_print_names_safely(folder, portrait, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    broken = folder / "\x1b[2J\n.jpg"
    broken.write_bytes(b"no image")
    command = ["annotate", ".", "-o", "labels\x1b\n", "--workers", "1", "--format", "jsonl"]
    assert main(command) == 0
    rows = (folder / "labels\x1b\n" / "labels.jsonl").read_text().splitlines()
    assert len(rows) == len(NAMES) + 1
    clip = "{task.x}[red]\x1b\n\u202e.mp4"
    with VideoWriter(folder / "clip.mp4", 25) as writer:
        for number in range(3):
            writer.write(np.zeros((64, 64, 3), np.uint8), number / 25)
    (folder / "clip.mp4").rename(clip)
    assert main(["video", clip, "--json", "--page"]) == 0
    assert main(["video", f"{clip}.none", "--json"]) == 1
    assert is_safe("".join(capsys.readouterr()))


HOSTILE = "x\x1b[2J\n\u202e"


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", HOSTILE],
        ["info", "--landmarks", f"{HOSTILE}.toml"],
        ["benchmark", HOSTILE],
        ["webcam", HOSTILE],
        ["annotate", HOSTILE, "-o", f"{HOSTILE}o"],
        ["detect", HOSTILE, "--model", HOSTILE],
        ["detect", HOSTILE, "--box", HOSTILE],
        ["detect", HOSTILE, "--detector", f"yunet:{HOSTILE}"],
        ["data", "view", HOSTILE, "-o", "v"],
        ["data", "prepare", HOSTILE, HOSTILE, "x"],
        ["migrate", HOSTILE],
        ["report", HOSTILE],
        ["train", f"{HOSTILE}.yaml"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]).split("x\x1b")[0],
)
def test_every_error_with_a_hostile_name_is_one_safe_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    output, errors = capsys.readouterr()
    assert output == ""
    assert is_safe(errors)
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert "unexpected" not in errors


# -- messages, progress, tables, pages -----------------------------------------------------------------


def test_messages_progress_and_tables_print_markup_in_names_as_text(monkeypatch, capsys):
    name = "[red]{task.x}[/b]\x1b\n\u202e"
    safe = "[red]{task.x}[/b]\\x1b\\n\\u202e"
    say(name)
    assert capsys.readouterr().err == f"{safe}\n"
    monkeypatch.setattr("pipnet.progress._INTERVAL", 0.0)
    assert list(show_progress(range(2), 2, name)) == [0, 1]
    assert capsys.readouterr().err == f"{safe}: 0 of 2\n{safe}: 1 of 2\n"
    table = Table("f" * 40, title="[b]title\x1b[2J", caption="[/x]\u202e")
    table.add_row("[red]cell\x1b]0;\x07")
    print_table(table)
    text = capsys.readouterr().err
    assert is_safe(text)
    assert all(part in text for part in ("[b]title\\x1b[2J", "[/x]\\u202e", "[red]cell\\x1b]0;"))


def test_progress_bar_on_a_terminal_prints_markup_in_names_as_text():
    code = (
        "from pipnet.progress import show_progress\n"
        "assert list(show_progress(range(2), 2, '{task.x}[red]\\x1b]0;[/b]\\u202e\\n')) == [0, 1]"
    )
    environment = {**os.environ, "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "200"}
    environment |= {"PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=120)
    assert result.returncode == 0, result.stderr
    assert "{task.x}[red]\\x1b]0;[/b]\\u202e\\n" in result.stderr
    assert "\x1b]0;" not in result.stderr


def test_preview_page_escapes_its_title():
    with Preview("<script>\x1b\u202e") as preview:
        _, parts = preview.answer("GET", "/" + preview.address.split("/", 3)[3])
        page = b"".join(parts).decode()
    assert "<title>&lt;script&gt;\\x1b\\u202e</title>" in page


# -- CSV -----------------------------------------------------------------------------------------------

CELLS = [
    "=1+1",
    "+x",
    "-x",
    "@x",
    "\tx",
    "\rx",
    "'=x",
    "''-x",
    "'x",
    "-",
    "-1",
    "+.5e3",
    "-inf",
    "",
    "a\r",
    "=,\n",
]


def test_csv_cells_like_formulas_are_quoted_and_read_back(tmp_path):
    path = tmp_path / "cells.csv"
    rows = [[cell, -1.5, 2, None] for cell in CELLS]
    write_csv_file(path, ["=title", "-1.5", "x", "y"], rows)
    with path.open(newline="", encoding="utf-8") as file:
        header, *written = list(csv.reader(file))  # what a spreadsheet reads
    assert header == ["'=title", "-1.5", "x", "y"]
    for row in written:
        assert row[1:] == ["-1.5", "2", ""]
        text = row[0]
        assert not text.startswith(tuple("=+-@\t\r")) or float(text) is not None
    reader = CsvReader(path)
    assert reader.header == ["=title", "-1.5", "x", "y"]
    assert [cells[0] for _, cells in reader] == CELLS
