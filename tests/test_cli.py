"""The command line as a shell sees it: output, errors, exit codes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipnet.annotations.formats import read_annotations
from pipnet.annotations.pts import read_pts
from pipnet.cli import COMMANDS, main
from pipnet.errors import DataError
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.io.image import read_image, write_image


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "pipnet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def rows(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_detect_writes_json_overlay_and_pts(portrait, tmp_path, capsys):
    assert main(["detect", str(portrait), "--json", "--pts", "-o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    (row,) = rows(captured.out)
    assert set(row) == {"image", "width", "height", "faces"}
    assert (row["image"], row["width"], row["height"]) == (str(portrait), 512, 512)
    (face,) = row["faces"]
    assert set(face) == {"box", "score", "points", "scores", "confidence", "quality"}
    assert len(face["points"]) == len(face["scores"]) == 68
    points = read_pts(tmp_path / "out" / "astronaut.pts", 68)
    assert abs(points - face["points"]).max() < 2e-3
    # A picture with dots on it must not be taken for the picture of the labels.
    assert read_image(tmp_path / "out" / "astronaut_overlay.jpg").shape == (512, 512, 3)
    with pytest.raises(DataError, match=r"no picture astronaut\.\* in"):
        read_annotations(tmp_path / "out")
    (found,) = read_annotations(tmp_path / "out", portrait.parent).samples
    assert found.image == portrait


def test_one_picture_into_one_file(portrait, tmp_path):
    assert main(["detect", str(portrait), "-o", str(tmp_path / "new" / "face.png")]) == 0
    assert (tmp_path / "new" / "face.png").read_bytes().startswith(b"\x89PNG")


def test_the_process_says_json_on_stdout_and_the_rest_on_stderr(portrait):
    result = run("detect", portrait, "--json")
    assert result.returncode == 0
    assert len(rows(result.stdout)) == 1
    assert result.stderr == ""
    result = run("detect", portrait)
    assert (result.stdout, result.stderr) == ("", f"{portrait}: 1 face\n")


def test_files_folders_and_globs(pictures, tmp_path, capsys):
    (pictures / "sub").mkdir()
    shutil.copy(pictures / "good.jpg", pictures / "sub" / "good.jpg")
    shutil.copy(pictures / "good.jpg", pictures / "sub" / "not a picture.txt")
    names = [str(pictures), str(pictures / "*.jpg"), str(pictures / "good.jpg")]
    assert main(["detect", *names, "--json", "-o", str(tmp_path / "out")]) == 0
    found = [Path(row["image"]) for row in rows(capsys.readouterr().out)]
    good = pictures / "good.jpg"
    assert found == [good, pictures / "sub" / "good.jpg", good, good]
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.jpg"))
    assert written == ["good-2.jpg", "good-3.jpg", "good.jpg", "sub/good.jpg"]


def test_a_given_box(portrait, capsys):
    assert main(["detect", str(portrait), "--json", "--box", "178,63,89,112", "--box", "1,1,99,99"]) == 0
    (row,) = rows(capsys.readouterr().out)
    assert [face["score"] for face in row["faces"]] == [1, 1]
    assert row["faces"][0]["box"] == [178, 63, 267, 175]


def test_no_face_is_all_right(tmp_path, capsys):
    PIL.Image.new("RGB", (300, 200), "gray").save(tmp_path / "gray.png")
    assert main(["detect", str(tmp_path / "gray.png"), "--json"]) == 0
    assert rows(capsys.readouterr().out)[0]["faces"] == []


# -- nothing is lost -----------------------------------------------------------------------------------


def test_json_reaches_standard_output_while_a_terminal_shows_progress(portrait, tmp_path):
    """Progress bars like to take hold of standard output."""
    for number in range(3):
        shutil.copy(portrait, tmp_path / f"{number}.jpg")
    code = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))"
    shell = f"{sys.executable} -m pipnet detect {tmp_path} --json > {tmp_path}/out.jsonl"
    subprocess.run(
        [sys.executable, "-c", code, "sh", "-c", shell], check=True, capture_output=True, timeout=120
    )
    assert len(rows((tmp_path / "out.jsonl").read_text())) == 3


@pytest.mark.parametrize("target", [".", "good.jpg", "../{name}"])
def test_pictures_are_never_overwritten(pictures, target, capsys):
    before = (pictures / "good.jpg").read_bytes()
    output = pictures / target.format(name=pictures.name)
    assert main(["detect", str(pictures / "good.jpg"), "-o", str(output), "--pts"]) == 1
    assert "would overwrite the picture" in capsys.readouterr().err
    assert (pictures / "good.jpg").read_bytes() == before
    assert [p.name for p in pictures.iterdir()] == ["good.jpg"]


def test_an_overlay_s_own_name_is_free(pictures):
    target = pictures / "good_overlay.jpg"
    assert main(["detect", str(pictures / "good.jpg"), "-o", str(target)]) == 0
    assert target.exists()


@pytest.mark.parametrize("there", ["good.jpg", "good.pts"])
def test_originals_above_the_pictures_are_never_overwritten(pictures, there, capsys):
    """A camera calls pictures the same in every folder, and landmarks set by hand lie beside them."""
    (pictures / "new").mkdir()
    (pictures / "good.jpg").rename(pictures / "new" / "good.jpg")
    (pictures / there).write_text("an original")
    command = ["detect", str(pictures / "new"), "-o", str(pictures)]
    assert main([*command, "--pts"] if there.endswith("pts") else command) == 1
    assert f"{there} is there, in a folder that pictures are read from" in capsys.readouterr().err
    assert (pictures / there).read_text() == "an original"


def test_results_in_a_searched_folder_are_no_pictures(pictures, capsys):
    for _ in range(2):
        assert main(["detect", str(pictures), "--json", "-o", str(pictures / "out")]) == 0
    assert len(rows(capsys.readouterr().out)) == 2
    assert [p.name for p in (pictures / "out").iterdir()] == ["good.jpg"]


def test_one_file_cannot_hold_two_pictures(pictures, capsys):
    good = str(pictures / "good.jpg")
    assert main(["detect", good, good, "-o", str(pictures / "two.png")]) == 1
    assert "is one file" in capsys.readouterr().err


def test_every_face_has_its_own_pts(portrait, tmp_path):
    image = read_image(portrait)[:260, 100:360]
    write_image(tmp_path / "a.png", np.hstack([image, image]))
    write_image(tmp_path / "a_1.png", image)
    write_image(tmp_path / "A.bmp", image)
    shutil.copy(
        tmp_path / "a_1.png", tmp_path / "._a_1.png"
    )  # hidden, as macOS leaves such files that are none
    PIL.Image.fromarray(image).save(tmp_path / "g.gif")
    assert main(["detect", str(tmp_path), "-o", str(tmp_path / "out"), "--pts"]) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.pts"))
    assert names == ["A.bmp.pts", "a.png.pts", "a.png_face2.pts", "a_1.pts", "g.gif.pts"]
    # Each is of its own picture when they are learnt from.
    words = ["data", "convert", str(tmp_path / "out"), str(tmp_path / "all.csv"), "--images", str(tmp_path)]
    assert main(words) == 0
    with (tmp_path / "all.csv").open() as file:
        pictures = [Path(row["image"]).name for row in csv.DictReader(file)]
    assert sorted(pictures) == ["A.bmp", "a.png", "a.png", "a_1.png", "g.gif"]


def test_landmarks_of_an_earlier_run_do_not_stay(portrait, tmp_path):
    image, out = read_image(portrait)[:260, 100:360], tmp_path / "out"
    left = []
    for picture in (np.hstack([image, image]), image, np.zeros_like(image)):
        write_image(tmp_path / "a.png", picture)
        assert main(["detect", str(tmp_path / "a.png"), "-o", str(out), "--pts"]) == 0
        left.append(sorted(path.name for path in out.glob("*.pts")))
    assert left == [["a.pts", "a_face2.pts"], ["a.pts"], []]


def test_a_picture_called_like_a_face_of_another(portrait, tmp_path, capsys):
    for name in ("a.jpg", "a_face2.jpg"):
        shutil.copy(portrait, tmp_path / name)
    assert main(["detect", str(tmp_path), "-o", str(tmp_path / "out"), "--pts"]) == 1
    assert "a_face2.pts: would be of the picture a_face2 and of a face in a" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_address_is_no_file(capsys):
    assert main(["detect", "https://example.com/a.jpg"]) == 1
    assert "https://example.com/a.jpg: an address" in capsys.readouterr().err


def test_an_empty_name_is_not_the_folder_one_is_in(capsys):
    assert main(["detect", "", "--json"]) == 1
    assert rows(capsys.readouterr().out) == [{"image": ".", "error": "an empty name is no picture"}]


def test_a_result_is_a_folder_or_a_picture(portrait, tmp_path, capsys):
    assert main(["detect", str(portrait), "-o", str(tmp_path / "out.json")]) == 1
    assert "out.json: is a folder, or the file of a picture" in capsys.readouterr().err
    assert main(["detect", str(portrait), "-o", str(tmp_path / "run1.5")]) == 0
    assert (tmp_path / "run1.5").is_dir()


def test_a_box_may_begin_outside(portrait, capsys):
    assert main(["detect", str(portrait), "--json", "--box", "-40,60,300,300"]) == 0
    assert rows(capsys.readouterr().out)[0]["faces"][0]["box"][0] == -40


def test_names_that_the_system_refuses(portrait, capsys):
    assert main(["detect", "x" * 300 + ".jpg", str(portrait), "--json"]) == 1
    first, second = rows(capsys.readouterr().out)
    assert "error" in first
    assert len(second["faces"]) == 1


BAD = ["missing", "empty", "truncated", "text", "huge", "folder", "glob"]


@pytest.fixture
def bad(pictures) -> dict[str, Path]:
    good = (pictures / "good.jpg").read_bytes()
    files = {kind: pictures / f"{kind}.jpg" for kind in BAD}
    files["empty"].write_bytes(b"")
    files["truncated"].write_bytes(good[: len(good) // 2])
    files["text"].write_text("not a picture\n" * 100)
    PIL.Image.new("1", (20_000, 20_000)).save(files["huge"], "PNG")
    files["folder"].mkdir()
    files["glob"] = pictures / "*.nothing"
    return files


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_is_one_line_and_the_rest_goes_on(bad, pictures, kind, capsys):
    assert main(["detect", str(bad[kind]), str(pictures / "good.jpg"), "--json"]) == 1
    captured = capsys.readouterr()
    first, second = rows(captured.out)
    assert set(first) == {"image", "error"}
    assert len(second["faces"]) == 1
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(bad[kind]) in errors[0]


def test_a_hundred_pictures_with_three_bad_ones(tmp_path, capsys):
    folder = tmp_path / "hundred"
    folder.mkdir()
    for number in range(97):
        PIL.Image.new("RGB", (64, 48), (number, 99, 30)).save(folder / f"{number:03}.png")
    (folder / "a.jpg").write_bytes(b"")
    (folder / "b.jpg").write_text("text")
    (folder / "c.jpg").write_bytes((folder / "001.png").read_bytes()[:60])
    assert main(["detect", str(folder), "--json", "-o", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    done = [row for row in rows(captured.out) if "faces" in row]
    assert len(done) == len(list((tmp_path / "out").iterdir())) == 97
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        assert sum(str(folder / name) in line for line in captured.err.splitlines()) == 1
    assert captured.err.splitlines()[-1] == "97 of 100 pictures done, 3 failed"


def test_pictures_of_unknown_kinds_are_not_passed_over_in_silence(pictures, capsys):
    (pictures / "IMG_0001.HEIC").write_bytes(b"ftypheic")
    assert main(["detect", str(pictures), "--json"]) == 1
    done, said = rows(capsys.readouterr().out)
    assert "faces" in done
    assert "IMG_0001.HEIC" in said["error"]


def test_landmarks_are_kept_where_the_overlay_cannot_be(portrait, tmp_path, capsys):
    wide = np.zeros((300, 66_000, 3), np.uint8)
    wide[:, :400] = read_image(portrait)[:300, :400]
    write_image(tmp_path / "wide.png", wide)
    words = ["detect", str(tmp_path / "wide.png"), "--box", "178,63,89,112", "--json"]
    assert main([*words, "-o", str(tmp_path / "out.jpg")]) == 1
    row = json.loads(capsys.readouterr().out)
    assert len(row["faces"]) == 1
    assert "out.jpg: cannot be written" in row["error"]


def test_an_error_names_its_picture(pictures, capsys):
    write_image(pictures / "small.png", np.zeros((20, 20, 3), np.uint8))
    assert main(["detect", str(pictures), "--box", "178,63,89,112", "--json"]) == 1
    assert str(pictures / "small.png") in capsys.readouterr().err


def test_an_unreadable_folder(pictures, capsys):
    locked = pictures / "locked"
    locked.mkdir()
    locked.chmod(0)
    try:
        if os.access(locked, os.R_OK):  # root may read everything
            pytest.skip("this user may read every folder")
        assert main(["detect", str(locked), str(pictures / "good.jpg"), "--json"]) == 1
        assert "cannot be read" in rows(capsys.readouterr().out)[0]["error"]
    finally:
        locked.chmod(0o700)


def test_a_folder_that_the_system_refuses_to_list(pictures, capsys, monkeypatch):
    """The same as above where tests run as root, who may read everything."""
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    (pictures / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    assert main(["detect", str(pictures), "--json"]) == 1
    failed = [row for row in rows(capsys.readouterr().out) if "error" in row]
    assert len(failed) == 1
    assert "Permission denied" in failed[0]["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--box", "1,2,3"], "expected x,y,w,h"),
        (["--box", "0,0,nan,5"], "not finite"),
        (["--box", "0,0,0,5"], "empty"),
        (["--box", "900,900,10,10"], "outside"),
        (["--box", "0,0,9,9", "--box-format", "retina"], "retina"),
        (["--model", "nothing"], "no such model"),
        (["--model", "README.md"], "not a usable ONNX model"),
        (["--detector", "haar"], "no detector"),
        (["--device", "cuda"], "cannot run on cuda"),
        (["--box-format", "landmarks"], "give that too"),
        (["-o", "out.gif"], "a picture is written as"),
        (["--pts"], "--pts needs -o"),
        (["--max-pixels", "100"], "limit of 100"),
        (["--refine-steps", "-1"], "at least 1"),
        (["-o", "/dev/null/x"], "cannot be made"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_1(portrait, arguments, words, capsys):
    assert main(["detect", str(portrait), *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["detect"], ["detct", "a"], ["detect", "a", "--jsn"], ["train"]])
def test_wrong_usage_is_exit_2_without_a_traceback(arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr


def test_a_reader_that_leaves_is_no_error(portrait, tmp_path):
    for number in range(30):
        shutil.copy(portrait, tmp_path / f"{number}.jpg")
    command = f"{sys.executable} -m pipnet detect {tmp_path} --json | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
    assert len(rows(result.stdout)) == 1
    assert "Traceback" not in result.stderr


def test_ctrl_c_is_exit_130(portrait, tmp_path, start):
    for number in range(200):
        shutil.copy(portrait, tmp_path / f"{number}.jpg")
    with start("detect", str(tmp_path), "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(2)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"


def test_detect_never_imports_torch(portrait):
    code = (
        "import sys\n"
        "from pipnet.cli import main\n"
        f"assert main(['detect', {str(portrait)!r}, '--json']) == 0\n"
        "heavy = {'torch', 'timm', 'matplotlib', 'onnx', 'yaml', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_info(capsys):
    assert main(["info", DEFAULT_MODEL]) == 0
    text = capsys.readouterr().out
    assert "research use only" in text
    assert re.search("^confidence calibrated$", text, re.MULTILINE)
    assert "1.2 x the landmark box" in text
    assert main(["info", str(find_model(DEFAULT_MODEL)), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["scheme"]["landmarks"] == 68


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "onnxruntime" in text
    assert "works" in text
    missing = [line for line in text.splitlines() if "missing" in line]
    assert not [line for line in missing if line.split()[0] in ("pillow", "opencv-python-headless")]
    assert re.search(r"^cameras +(none|\S+ \()", text, re.MULTILINE)


def test_doctor_does_not_put_one_build_over_another(capsys, monkeypatch):
    """onnxruntime-gpu has the module of onnxruntime: whoever installs that too breaks it."""
    monkeypatch.setattr("importlib.metadata.version", _not_found)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for package in ("onnxruntime", "opencv-python-headless", "pillow"):
        assert re.search(
            rf"^{package} +not installed, but another package has its module$", text, re.MULTILINE
        )


def _not_found(name):
    raise PackageNotFoundError(name)


@pytest.mark.parametrize("command", [name for name, _, _ in COMMANDS])
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"Usage: pipnet {command}" in capsys.readouterr().out


def test_help_says_what_the_docstring_says(capsys):
    assert main(["annotate", "--help"]) == 0
    assert "the exit code is 0 all the" in capsys.readouterr().out


def test_the_current_folder_without_a_picture_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["detect", ".", "-o", "."]) == 1
    assert "no pictures in this folder" in capsys.readouterr().err


def test_a_pipe_among_pictures_is_not_waited_for(tmp_path, portrait):
    os.mkfifo(tmp_path / "x.jpg")
    shutil.copy(portrait, tmp_path / "y.jpg")
    assert main(["detect", str(tmp_path)]) == 0


def test_results_in_a_named_folder_are_not_taken_for_pictures(tmp_path, portrait, monkeypatch):
    (tmp_path / "a").mkdir()
    shutil.copy(portrait, tmp_path / "a" / "y.jpg")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["detect", "a", "-o", str(tmp_path / "a" / "out")]) == 0
    assert [p.name for p in (tmp_path / "a" / "out").iterdir()] == ["y.jpg"]


@pytest.mark.parametrize("words", [["export"], ["import", "--mean-face", "m.txt", "--scheme", "wflw"]])
def test_a_checkpoint_is_not_overwritten_by_what_is_made_of_it(tmp_path, words, capsys):
    weights = tmp_path / "a.weights"
    weights.write_bytes(b"precious")
    assert main([words[0], str(weights), *words[1:], "-o", str(weights)]) == 1
    assert "ends in ." in capsys.readouterr().err
    assert weights.read_bytes() == b"precious"
