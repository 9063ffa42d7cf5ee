"""``pipnet detect``: outputs, files that it never overwrites, and errors of single images."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipnet.annotations.formats import read_annotations
from pipnet.annotations.pts import read_pts
from pipnet.cli import main
from pipnet.errors import DataError
from pipnet.inference.results import Face
from pipnet.io.image import read_image, write_image

pytestmark = pytest.mark.usefixtures("loaded_once")
ROW_KEYS = ["image", "width", "height", "faces", "error"]


def rows(output: str) -> list[dict]:
    """Return JSON lines of ``detect``, whose keys are always the same."""
    parsed = [json.loads(line) for line in output.splitlines()]
    assert all(list(row) == ROW_KEYS for row in parsed)
    return parsed


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "pipnet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


# -- output --------------------------------------------------------------------------------------------


def test_detect_writes_json_overlay_and_pts(portrait, tmp_path, capsys):
    assert main(["detect", str(portrait), "--json", "--pts", "-o", str(tmp_path / "out")]) == 0
    (row,) = rows(capsys.readouterr().out)
    assert (row["image"], row["width"], row["height"]) == (str(portrait), 512, 512)
    assert row["error"] is None
    (face,) = row["faces"]
    assert set(face) == set(Face._fields)
    assert len(face["points"]) == len(face["scores"]) == 68
    points = read_pts(tmp_path / "out" / "astronaut.pts", 68)
    assert abs(points - face["points"]).max() < 2e-3
    # An image with landmarks drawn on it must not be taken for the image of the labels.
    assert read_image(tmp_path / "out" / "astronaut_overlay.jpg").shape == (512, 512, 3)
    with pytest.raises(DataError, match=r"no image astronaut\.\* in|astronaut"):
        read_annotations(tmp_path / "out")
    (sample,) = read_annotations(tmp_path / "out", portrait.parent).samples
    assert sample.image == portrait


def test_detect_writes_one_image_into_one_file(portrait, tmp_path):
    assert main(["detect", str(portrait), "-o", str(tmp_path / "new" / "face.png")]) == 0
    assert (tmp_path / "new" / "face.png").read_bytes().startswith(b"\x89PNG")


def test_detect_writes_json_to_stdout_and_the_rest_to_stderr(portrait):
    result = run("detect", portrait, "--json")
    assert result.returncode == 0
    assert len(rows(result.stdout)) == 1
    assert result.stderr == ""
    result = run("detect", portrait)
    assert (result.stdout, result.stderr) == ("", f"{portrait}: 1 face\n")


def test_detect_writes_json_to_stdout_while_a_terminal_shows_progress(portrait, tmp_path):
    """Progress bars may redirect standard output."""
    for number in range(3):
        shutil.copy(portrait, tmp_path / f"{number}.jpg")
    code = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))"
    shell = f"{sys.executable} -m pipnet detect {tmp_path} --json > {tmp_path}/out.jsonl"
    subprocess.run(
        [sys.executable, "-c", code, "sh", "-c", shell], check=True, capture_output=True, timeout=120
    )
    assert len(rows((tmp_path / "out.jsonl").read_text())) == 3


def test_detect_accepts_files_folders_and_patterns(portrait_folder, tmp_path, capsys):
    (portrait_folder / "sub").mkdir()
    shutil.copy(portrait_folder / "good.jpg", portrait_folder / "sub" / "good.jpg")
    shutil.copy(portrait_folder / "good.jpg", portrait_folder / "sub" / "not an image.txt")
    names = [str(portrait_folder), str(portrait_folder / "*.jpg"), str(portrait_folder / "good.jpg")]
    assert main(["detect", *names, "--json", "-o", str(tmp_path / "out")]) == 0
    images = [Path(row["image"]) for row in rows(capsys.readouterr().out)]
    good = portrait_folder / "good.jpg"
    assert images == [good, portrait_folder / "sub" / "good.jpg", good, good]
    overlays = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.jpg"))
    assert overlays == ["good-2.jpg", "good-3.jpg", "good.jpg", "sub/good.jpg"]


def test_detect_uses_the_boxes_of_the_arguments(portrait, capsys):
    assert main(["detect", str(portrait), "--json", "--box", "178,63,89,112", "--box", "1,1,99,99"]) == 0
    (row,) = rows(capsys.readouterr().out)
    assert [face["detection_score"] for face in row["faces"]] == [1, 1]
    assert row["faces"][0]["box"] == [178, 63, 267, 175]
    assert row["faces"][0]["crop_box"] != row["faces"][0]["box"]


def test_detect_accepts_a_box_that_begins_outside_the_image(portrait, capsys):
    assert main(["detect", str(portrait), "--json", "--box", "-40,60,300,300"]) == 0
    assert rows(capsys.readouterr().out)[0]["faces"][0]["box"][0] == -40


def test_detect_without_a_face_is_no_error(tmp_path, capsys):
    PIL.Image.new("RGB", (300, 200), "gray").save(tmp_path / "gray.png")
    assert main(["detect", str(tmp_path / "gray.png"), "--json"]) == 0
    (row,) = rows(capsys.readouterr().out)
    assert (row["width"], row["height"], row["faces"], row["error"]) == (300, 200, [], None)
    assert main(["detect", str(tmp_path / "gray.png")]) == 0
    line, hint = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path / 'gray.png'}: 0 faces"
    assert hint.startswith("no face found: ")


def test_detect_writes_a_pts_file_per_face(portrait, tmp_path):
    image = read_image(portrait)[:260, 100:360]
    write_image(tmp_path / "a.png", np.hstack([image, image]))
    write_image(tmp_path / "a_1.png", image)
    write_image(tmp_path / "A.bmp", image)
    shutil.copy(tmp_path / "a_1.png", tmp_path / "._a_1.png")  # a hidden file, as macOS makes them
    PIL.Image.fromarray(image).save(tmp_path / "g.gif")
    assert main(["detect", str(tmp_path), "-o", str(tmp_path / "out"), "--pts"]) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.pts"))
    assert names == ["A.bmp.pts", "a.png.pts", "a.png_face2.pts", "a_1.pts", "g.gif.pts"]
    # Each file is read as the labels of its own image.
    command = ["data", "convert", str(tmp_path / "out"), str(tmp_path / "all.csv"), "--images", str(tmp_path)]
    assert main(command) == 0
    with (tmp_path / "all.csv").open() as file:
        images = [Path(row["image"]).name for row in csv.DictReader(file)]
    assert sorted(images) == ["A.bmp", "a.png", "a.png", "a_1.png", "g.gif"]


def test_detect_deletes_landmarks_of_an_earlier_run(portrait, tmp_path):
    image, output = read_image(portrait)[:260, 100:360], tmp_path / "out"
    names = []
    for content in (np.hstack([image, image]), image, np.zeros_like(image)):
        write_image(tmp_path / "a.png", content)
        assert main(["detect", str(tmp_path / "a.png"), "-o", str(output), "--pts"]) == 0
        names.append(sorted(path.name for path in output.glob("*.pts")))
    assert names == [["a.pts", "a_face2.pts"], ["a.pts"], []]


# -- nothing is overwritten ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", [".", "good.jpg", "../{name}"])
def test_detect_never_overwrites_an_image(portrait_folder, target, capsys):
    before = (portrait_folder / "good.jpg").read_bytes()
    output = portrait_folder / target.format(name=portrait_folder.name)
    assert main(["detect", str(portrait_folder / "good.jpg"), "-o", str(output), "--pts"]) == 1
    assert "would overwrite the image" in capsys.readouterr().err
    assert (portrait_folder / "good.jpg").read_bytes() == before
    assert [path.name for path in portrait_folder.iterdir()] == ["good.jpg"]


def test_detect_may_write_an_overlay_beside_its_image(portrait_folder):
    target = portrait_folder / "good_overlay.jpg"
    assert main(["detect", str(portrait_folder / "good.jpg"), "-o", str(target)]) == 0
    assert target.exists()


@pytest.mark.parametrize("name", ["good.jpg", "good.pts"])
def test_detect_never_overwrites_files_above_its_images(portrait_folder, name, capsys):
    """A camera uses the same names in every folder, and landmarks set by hand are beside the images."""
    (portrait_folder / "new").mkdir()
    (portrait_folder / "good.jpg").rename(portrait_folder / "new" / "good.jpg")
    (portrait_folder / name).write_text("an original")
    command = ["detect", str(portrait_folder / "new"), "-o", str(portrait_folder)]
    assert main([*command, "--pts"] if name.endswith("pts") else command) == 1
    assert f"{name} exists in a folder that images are read from" in capsys.readouterr().err
    assert (portrait_folder / name).read_text() == "an original"


def test_detect_ignores_its_results_in_a_searched_folder(portrait_folder, capsys):
    for _ in range(2):
        assert main(["detect", str(portrait_folder), "--json", "-o", str(portrait_folder / "out")]) == 0
    assert len(rows(capsys.readouterr().out)) == 2
    assert [path.name for path in (portrait_folder / "out").iterdir()] == ["good.jpg"]


def test_detect_ignores_its_results_in_a_folder_with_another_path(tmp_path, portrait, monkeypatch):
    (tmp_path / "a").mkdir()
    shutil.copy(portrait, tmp_path / "a" / "y.jpg")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["detect", "a", "-o", str(tmp_path / "a" / "out")]) == 0
    assert [path.name for path in (tmp_path / "a" / "out").iterdir()] == ["y.jpg"]


def test_detect_refuses_one_file_for_two_images(portrait_folder, capsys):
    good = str(portrait_folder / "good.jpg")
    assert main(["detect", good, good, "-o", str(portrait_folder / "two.png")]) == 1
    assert "is one file, but there are 2 images" in capsys.readouterr().err


def test_detect_refuses_ambiguous_landmark_files(portrait, tmp_path, capsys):
    for name in ("a.jpg", "a_face2.jpg"):
        shutil.copy(portrait, tmp_path / name)
    assert main(["detect", str(tmp_path), "-o", str(tmp_path / "out"), "--pts"]) == 1
    err = capsys.readouterr().err
    assert "a_face2.pts would belong to the image a_face2 and to a face in a" in err
    assert not (tmp_path / "out").exists()


def test_detect_writes_to_a_folder_or_an_image_file_only(portrait, tmp_path, capsys):
    assert main(["detect", str(portrait), "-o", str(tmp_path / "out.json")]) == 1
    assert "out.json: use a folder, or an image file ending in .bmp" in capsys.readouterr().err
    assert main(["detect", str(portrait), "-o", str(tmp_path / "run1.5")]) == 0
    assert (tmp_path / "run1.5").is_dir()


# -- errors --------------------------------------------------------------------------------------------


DAMAGED = ["missing", "empty", "truncated", "text", "huge", "folder", "glob"]


@pytest.fixture(scope="module")
def huge(tmp_path_factory) -> Path:
    """An image of 400 million pixels in a small file."""
    path = tmp_path_factory.mktemp("huge") / "huge.jpg"
    PIL.Image.new("1", (20_000, 20_000)).save(path, "PNG")
    return path


@pytest.fixture
def damaged(portrait_folder, huge) -> dict[str, Path]:
    """Files that cannot be read, by what is wrong with them."""
    good = (portrait_folder / "good.jpg").read_bytes()
    files = {name: portrait_folder / f"{name}.jpg" for name in DAMAGED}
    files["empty"].write_bytes(b"")
    files["truncated"].write_bytes(good[: len(good) // 2])
    files["text"].write_text("not an image\n" * 100)
    shutil.copy(huge, files["huge"])
    files["folder"].mkdir()
    files["glob"] = portrait_folder / "*.nothing"
    return files


@pytest.mark.parametrize("name", DAMAGED)
def test_detect_reports_a_damaged_image_and_processes_the_others(damaged, portrait_folder, name, capsys):
    assert main(["detect", str(damaged[name]), str(portrait_folder / "good.jpg"), "--json"]) == 1
    captured = capsys.readouterr()
    first, second = rows(captured.out)
    assert (first["width"], first["height"], first["faces"]) == (None, None, [])
    assert second["error"] is None
    assert len(second["faces"]) == 1
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: {first['error']}"]
    assert str(damaged[name]) in errors[0]


def test_detect_counts_failed_images(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(17):
        PIL.Image.new("RGB", (64, 48), (number, 99, 30)).save(folder / f"{number:03}.png")
    (folder / "a.jpg").write_bytes(b"")
    (folder / "b.jpg").write_text("text")
    (folder / "c.jpg").write_bytes((folder / "001.png").read_bytes()[:60])
    assert main(["detect", str(folder), "--json", "-o", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    done = [row for row in rows(captured.out) if row["error"] is None]
    assert len(done) == len(list((tmp_path / "out").iterdir())) == 17
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        assert sum(str(folder / name) in line for line in captured.err.splitlines()) == 1
    *_, count, hint = captured.err.splitlines()
    assert count == "17 of 20 images done, 3 failed"
    assert hint.startswith("17 of 17 images have no face: ")


def test_detect_reports_images_of_unsupported_formats(portrait_folder, capsys):
    (portrait_folder / "IMG_0001.CR3").write_bytes(b"ftypcrx ")
    assert main(["detect", str(portrait_folder), "--json"]) == 1
    done, unsupported = rows(capsys.readouterr().out)
    assert done["error"] is None
    assert "IMG_0001.CR3" in unsupported["error"]


def test_detect_keeps_landmarks_if_the_overlay_cannot_be_written(portrait, tmp_path, capsys):
    wide = np.zeros((180, 66_000, 3), np.uint8)
    wide[:, :400] = read_image(portrait)[:180, :400]
    write_image(tmp_path / "wide.png", wide)
    command = ["detect", str(tmp_path / "wide.png"), "--box", "178,63,89,112", "--json"]
    assert main([*command, "-o", str(tmp_path / "out.jpg")]) == 1
    (row,) = rows(capsys.readouterr().out)
    assert len(row["faces"]) == 1
    assert row["width"] == 66_000
    assert "out.jpg: cannot be written" in row["error"]


def test_detect_names_the_image_in_every_error(portrait_folder, capsys):
    write_image(portrait_folder / "small.png", np.zeros((20, 20, 3), np.uint8))
    assert main(["detect", str(portrait_folder), "--box", "178,63,89,112", "--json"]) == 1
    assert f"error: {portrait_folder / 'small.png'}: " in capsys.readouterr().err


def test_detect_refuses_a_url(capsys):
    assert main(["detect", "https://example.com/a.jpg"]) == 1
    assert "https://example.com/a.jpg: URLs are not supported" in capsys.readouterr().err


def test_detect_refuses_an_empty_name(capsys):
    assert main(["detect", "", "--json"]) == 1
    (row,) = rows(capsys.readouterr().out)
    assert row["error"] == "the name of an image is empty"


def test_detect_reports_names_that_are_too_long(portrait, capsys):
    assert main(["detect", "x" * 300 + ".jpg", str(portrait), "--json"]) == 1
    first, second = rows(capsys.readouterr().out)
    assert first["error"]
    assert len(second["faces"]) == 1


def test_detect_reports_an_unreadable_folder(portrait_folder, capsys):
    locked = portrait_folder / "locked"
    locked.mkdir()
    locked.chmod(0)
    try:
        if os.access(locked, os.R_OK):  # root may read everything
            pytest.skip("this user may read every folder")
        assert main(["detect", str(locked), str(portrait_folder / "good.jpg"), "--json"]) == 1
        assert "cannot be read" in rows(capsys.readouterr().out)[0]["error"]
    finally:
        locked.chmod(0o700)


def test_detect_reports_a_folder_that_cannot_be_listed(portrait_folder, capsys, monkeypatch):
    """The same as above where tests run as root, who may read everything."""
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    (portrait_folder / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    assert main(["detect", str(portrait_folder), "--json"]) == 1
    (error,) = [row["error"] for row in rows(capsys.readouterr().out) if row["error"]]
    assert "Permission denied" in error


def test_detect_reports_a_current_folder_without_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["detect", ".", "-o", "."]) == 1
    assert "no images in this folder" in capsys.readouterr().err


def test_detect_skips_named_pipes_in_a_folder(tmp_path, portrait):
    os.mkfifo(tmp_path / "x.jpg")
    shutil.copy(portrait, tmp_path / "y.jpg")
    assert main(["detect", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", "1,2,3"], "expected one word x,y,w,h"),
        (["--box", "0,0,nan,5"], "not finite"),
        (["--box", "0,0,0,5"], "empty"),
        (["--box", "900,900,10,10"], "outside"),
        (["--box", "0,0,9,9", "--box-format", "retina"], "retina"),
        (["--model", "nothing"], "no such model"),
        (["--model", "README.md"], "not a usable ONNX model"),
        (["--detector", "haar"], "no detector"),
        (["--box-format", "landmarks"], "needs --box x,y,w,h"),
        (["-o", "out.gif"], "an image file ending in"),
        (["--pts"], "--pts needs -o"),
        (["--max-pixels", "100"], "100"),
        (["--refine-steps", "-1"], "refine_steps must be at least 0"),
        (["-o", "/dev/null/x"], "/dev/null/x: "),
    ],
)
def test_detect_reports_wrong_values_in_one_line(portrait, arguments, message, capsys):
    assert main(["detect", str(portrait), *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_detect_writes_tables_of_finished_images_after_ctrl_c(portrait, tmp_path, monkeypatch):
    def interrupted(pairs, *_):
        yield next(pairs)
        raise KeyboardInterrupt

    monkeypatch.setattr("pipnet.cli.detect.show_progress", interrupted)
    tables = [tmp_path / "faces.csv", tmp_path / "faces.html"]
    command = ["detect", str(portrait), str(portrait), "--csv", str(tables[0]), "--html", str(tables[1])]
    assert main(command) == 130
    assert len(tables[0].read_text().splitlines()) == 2
    assert "Interrupted after 1 image." in tables[1].read_text()


@pytest.mark.parametrize("flag", ["--csv", "--coco", "--html"])
def test_detect_refuses_tables_that_cannot_be_written_before_it_starts(flag, portrait, tmp_path, capsys):
    suffix = {"--coco": ".json"}.get(flag, f".{flag[2:]}")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    for target in (folder, f"/proc/faces{suffix}"):
        assert main(["detect", str(portrait), flag, str(target), "--json"]) == 1
        output = capsys.readouterr()
        assert "cannot be written" in output.err
        assert not output.out
    assert [*tmp_path.iterdir()] == [folder]
