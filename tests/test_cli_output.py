"""What commands print: hints about low quality, -q and -v, closed outputs, singular and plural, --box."""

import json
import logging
import shutil
import subprocess
import sys
from itertools import product

import numpy as np
import PIL.Image
import pytest

from pipnet.cli import main
from pipnet.cli.hints import say_hint
from pipnet.config import LandmarkerConfig
from pipnet.io.image import read_image, write_image
from pipnet.video.writer import VideoWriter
from test_annotate import DirectEngine

pytestmark = pytest.mark.usefixtures("loaded_once")
ROTATION_HINT, SIZE_HINT = "rotated? try --any-rotation", "small? try --detector-size 1280"


@pytest.fixture
def upside_down(tmp_path, portrait):
    path = tmp_path / "upside_down.png"
    write_image(path, np.ascontiguousarray(read_image(portrait)[::-1, ::-1]))
    return path


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in bash, with ``pipnet`` for the command."""
    command = command.replace("pipnet", f"{sys.executable} -m pipnet", 1)
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)


# -- hints ---------------------------------------------------------------------------------------------


@pytest.fixture
def yunet(shared):
    """The name of a detector that finds upside-down faces."""
    return f"yunet:{shared / 'models' / 'yunet_n_dynamic.onnx'}"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ([], f"1 of 2 images has no face: {ROTATION_HINT}; {SIZE_HINT}"),
        (["--detector", "yunet"], f"1 of 2 faces has low quality: {ROTATION_HINT}; {SIZE_HINT}"),
        (
            ["--detector", "yunet", "--detector-size", "1280"],
            f"1 of 2 faces has low quality: {ROTATION_HINT}",
        ),
        (
            ["--detector", "yunet", "--min-quality", "0.25"],
            f"1 of 2 images has no face: {ROTATION_HINT}; {SIZE_HINT}",
        ),
        (["--any-rotation"], None),  # it finds the face upside down
        (["--box", "178,63,89,112"], f"1 of 2 faces has low quality: {ROTATION_HINT}"),
    ],
)
def test_detect_hints_at_options_for_bad_results(portrait, upside_down, yunet, arguments, hint, capsys):
    arguments = [yunet if argument == "yunet" else argument for argument in arguments]
    assert main(["detect", str(portrait), str(upside_down), *arguments]) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == hint if hint else "try" not in last


def test_hint_suggests_only_options_that_are_not_used(capsys):
    used = LandmarkerConfig(any_rotation=True, detector_size=1000)
    say_hint(2, 1200, used)
    say_hint(1, 1, used)
    say_hint(1, 1, LandmarkerConfig(detector="full_image"))
    say_hint(1, 4, LandmarkerConfig(), empty=2000, images=5000)
    say_hint(0, 0, LandmarkerConfig(), empty=1)
    say_hint(0, 0, used, empty=1)
    say_hint(0, 3, LandmarkerConfig())
    assert capsys.readouterr().err.splitlines() == [
        "2 of 1,200 faces have low quality: --min-quality 0.25 leaves such faces out",
        "the face has low quality: --min-quality 0.25 leaves such faces out",
        f"the face has low quality: {ROTATION_HINT}",
        f"2,000 of 5,000 images have no face, 1 of 4 faces has low quality: {ROTATION_HINT}; {SIZE_HINT}",
        f"no face found: {ROTATION_HINT}; {SIZE_HINT}",
    ]


def test_annotate_hints_at_low_quality_and_counts_one_image(
    upside_down, yunet, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("pipnet.cli.annotate.LocalEngine", DirectEngine)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)  # the worker sets it
    command = [
        "annotate",
        str(upside_down),
        "-o",
        str(tmp_path / "labels"),
        "--workers",
        "1",
        "--detector",
        yunet,
    ]
    for _ in range(2):  # the second time from the records
        assert main(command) == 0
        summary, hint = capsys.readouterr().err.splitlines()[-2:]
        assert ": 1 image, 1 face;" in summary
        assert hint == f"the face has low quality: {ROTATION_HINT}; {SIZE_HINT}"
    command = [
        "annotate",
        str(upside_down),
        "-o",
        str(tmp_path / "good"),
        "--workers",
        "1",
        "--detector",
        yunet,
    ]
    assert main([*command, "--min-quality", "0.25", "--format", "jsonl"]) == 0
    assert "1 image, 0 faces" in capsys.readouterr().err.splitlines()[-1]
    assert json.loads((tmp_path / "good" / "labels.jsonl").read_text())["faces"] == []


def test_video_hints_at_tracks_of_low_quality(portrait, upside_down, yunet, tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    pair = np.concatenate([read_image(portrait), read_image(upside_down)], axis=0)
    with VideoWriter(clip, 25) as writer:
        for number in range(3):
            writer.write(pair, number / 25)
    command = ["video", str(clip), "--json", "--detector", yunet]
    assert main(command) == 0
    captured = capsys.readouterr()
    faces = [len(json.loads(line)["faces"]) for line in captured.out.splitlines()]
    assert captured.err.splitlines()[-1] == f"1 of 2 faces has low quality: {ROTATION_HINT}; {SIZE_HINT}"
    assert main([*command, "--min-quality", "0.25"]) == 0
    captured = capsys.readouterr()
    assert faces == [2, 2, 2]
    assert [len(json.loads(line)["faces"]) for line in captured.out.splitlines()] == [1, 1, 1]
    assert "quality" not in captured.err


# -- -q and -v -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_prints_results_and_errors_only(flag, upside_down, tmp_path, capsys):
    assert main([flag, "detect", str(upside_down)]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["detect", str(upside_down), str(tmp_path / "none.jpg"), "--json", flag]) == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert captured.err == f"error: {tmp_path / 'none.jpg'}: no such file\n"


def test_verbose_prints_model_and_detector_and_debug_the_traceback_of_an_error(portrait, capsys):
    assert main(["detect", str(portrait), "-v"]) == 0
    err = capsys.readouterr().err
    assert "pipnet-68.onnx in CPUExecutionProvider" in err
    assert "detector: " in err
    assert main(["--debug", "detect", str(portrait), "--model", "none"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback (most recent call last):" in lines
    assert lines[-1].startswith("error: none: no such model")
    assert main(["--verbose", "detect", str(portrait), "--model", "none"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_main_restores_the_log_level(portrait):
    logger = logging.getLogger("pipnet")
    before = logger.level, logger.handlers
    main(["-q", "info", "pipnet-tiny"])
    assert (logger.level, logger.handlers) == before


def test_flags_after_two_dashes_are_file_names(capsys):
    assert main(["detect", "--", "-q"]) == 1
    assert capsys.readouterr().err == "error: -q: no such file\n"


# -- closed outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reader"),
    [
        *product(["detect {portrait} --json", "--version"], [" | head -n 0", " >&-", " 2>&-"]),
        ("info pipnet-tiny", " | head -n 0"),
        ("--help", " >&-"),
    ],
)
def test_closed_output_gives_no_traceback(portrait, arguments, reader):
    result = shell(f"pipnet {arguments.format(portrait=portrait)}{reader}")
    assert result.returncode == 0
    assert result.stderr == ""
    assert bool(result.stdout) == (reader == " 2>&-")


def test_closed_standard_error_does_not_move_messages_to_standard_output(portrait):
    result = shell(f"pipnet detect {portrait} 2>&-")
    assert (result.returncode, result.stdout) == (0, "")


# -- arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["image first", "box first"])
def test_box_with_spaces_is_refused_with_the_accepted_form(portrait, order, capsys):
    box = ["--box", "178", "63", "89", "112"]
    assert (
        main(["detect", *([str(portrait), *box] if order == "image first" else [*box, str(portrait)])]) == 1
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --box 178: expected one word x,y,w,h")
    assert line.endswith("with commas and without spaces, such as --box 10,20,200,250")


def test_detect_accepts_images_before_between_and_after_flags(portrait, tmp_path, capsys):
    names = [str(shutil.copy(portrait, tmp_path / f"{number}.jpg")) for number in range(3)]
    assert main(["detect", names[0], "--json", names[1], "--tta", "none", names[2]]) == 0
    assert [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()] == names
