"""Every file of the shared cases ends in one line: a result, an error row, or a typed error."""

import json
import os
import shutil
import stat

import h5py
import numpy as np
import pytest

from conftest import SHARED
from pipnet.bulk.store import Store
from pipnet.cli import main
from pipnet.datasets.cofw import unpack_cofw
from pipnet.datasets.pseudo_labels import read_pseudo_labels
from pipnet.errors import DataError, ImageError, ModelError, PipnetError
from pipnet.inference.backends.load import load_model
from pipnet.inference.backends.model_check import check_model_file
from pipnet.io.image import image_size, read_image
from pipnet.io.text import read_text
from pipnet.io.yaml_file import load_yaml
from pipnet.scheme import LandmarkScheme
from pipnet.training.recipe_file import read_recipe

CASES = sorted(path for path in (SHARED / "cases").glob("*/*") if path.is_file())
READABLE = {"y4m_1x1_sar.mp4", "negative_size.tar"}
"""Files of which a part can be used; jobs without a readable image end with error rows and exit code 1."""


def command(case, folder, portrait):
    """The command that the table of the cases names for this file."""
    case_type = case.parent.name
    if case_type in ("matlab", "hdf5"):
        names = (
            ["AFLWinfo_release.mat"]
            if case_type == "matlab"
            else ["COFW_train_color.mat", "COFW_test_color.mat"]
        )
        for name in names:
            (folder / "source").mkdir(exist_ok=True)
            shutil.copy(case, folder / "source" / name)
        dataset = "aflw" if case_type == "matlab" else "cofw"
        return ["data", "prepare", dataset, str(folder / "source"), str(folder / "out")]
    return {
        "tar": ["annotate", str(case), "-o", str(folder / "out"), "--workers", "1"],
        "parquet": ["annotate", str(case), "-o", str(folder / "out"), "--workers", "1"],
        "scheme": ["train", "recipes/own.yaml", "--data", str(portrait), "--data.scheme", str(case)],
        "recipe": ["train", str(case)],
        "onnx": ["detect", str(portrait), "--json", "--model", str(case)],
        "video": ["video", str(case), "--json"],
        "image": ["detect", str(case), "--json"],
    }[case_type]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.stem}")
def test_malformed_file_ends_in_one_line(case, tmp_path, portrait, capsys, monkeypatch):
    monkeypatch.chdir(portrait.parents[1])
    arguments = command(case, tmp_path, portrait)
    if case.parent.name == "scheme":
        arguments += ["-o", str(tmp_path / "run")]
    elif case.parent.name == "recipe":
        arguments += ["--data", str(tmp_path), "-o", str(tmp_path / "run")]
    code = main(arguments)
    captured = capsys.readouterr()
    assert code == (0 if case.name in READABLE else 1)
    assert "Traceback" not in captured.err
    assert "unexpected" not in captured.err
    for line in captured.out.splitlines():
        json.loads(line)


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe.toml"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    "read",
    [read_image, image_size, read_text, read_recipe, load_model, LandmarkScheme.load, read_pseudo_labels],
)
def test_readers_refuse_pipes(pipe, read):
    with pytest.raises(PipnetError):
        read(pipe)


def test_readers_refuse_devices(tmp_path):
    (tmp_path / "a.png").symlink_to("/dev/zero")
    assert stat.S_ISCHR((tmp_path / "a.png").stat().st_mode)
    with pytest.raises(ImageError, match="a pipe or device, not a file"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("place", ["external storage", "virtual", "external link", "soft link", "huge"])
def test_hdf5_refuses_arrays_in_other_places(tmp_path, place):
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "COFW_train_color.mat", "w") as file:
        if place == "external storage":
            file.create_dataset("bboxesTr", (4, 2), "f8", external=[(tmp_path / "pipe", 0, 64)])
        elif place == "virtual":
            layout = h5py.VirtualLayout((4, 2), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "pipe"), "x", (4, 2))
            file.create_virtual_dataset("bboxesTr", layout)
        elif place == "external link":
            file["bboxesTr"] = h5py.ExternalLink(str(tmp_path / "pipe"), "x")
        elif place == "soft link":
            file["x"], file["bboxesTr"] = np.ones((4, 2)), h5py.SoftLink("/x")
        else:
            file.create_dataset("bboxesTr", (4, 2**40), "f8", chunks=(4, 1024))
        file["phisTr"] = np.ones((87, 2))
        file["IsTr"] = np.ones((1, 2))
    with pytest.raises(
        DataError, match=r"COFW_train_color\.mat: not a readable Matlab 7\.3 file: .*(array|link)"
    ):
        unpack_cofw(tmp_path, "train", tmp_path)


def test_yaml_bounds_depth_aliases_and_keys():
    assert load_yaml("a: &x {b: 1}\nc: *x", "data") == {"a": {"b": 1}, "c": {"b": 1}}
    bomb = "a0: &a0 [1, 2]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    for text in (
        bomb,
        "[" * 5000,
        "a: &a [*a]",
        "".join(f"k{i}: {i}\n" for i in range(30_000)),
        "x" * 200_001,
    ):
        with pytest.raises(ValueError, match=r"values|deep|characters"):
            load_yaml(text, "data")


def test_model_check_refuses_what_networks_do_not_need(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    def write(*nodes, constants=(), opsets=("",)):
        graph = helper.make_graph(nodes, "g", [], [], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(name, 18) for name in opsets])
        (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
        return tmp_path / "a.onnx"

    assert check_model_file(write(helper.make_node("Relu", ["x"], ["y"]))) == {}
    outside = helper.make_tensor("w", TensorProto.FLOAT, [2], b"\0" * 8, raw=True)
    onnx.external_data_helper.set_external_data(outside, "other.bin")
    outside.data_location = TensorProto.EXTERNAL
    cut = helper.make_tensor("w", TensorProto.FLOAT, [2], b"\0" * 8, raw=True)
    cut.dims[0] = 2**20
    body = helper.make_graph([], "b", [], [])
    refused = {
        "operator 'Loop'": lambda: write(helper.make_node("Loop", ["n", "", ""], ["y"], body=body)),
        "has a graph": lambda: write(helper.make_node("Relu", ["x"], ["y"], body=body)),
        "operators of 'com.microsoft'": lambda: write(opsets=("", "com.microsoft")),
        "is in another file": lambda: write(constants=[outside]),
        "has 8 bytes": lambda: write(constants=[cut]),
        "a shape of": lambda: write(
            constants=[helper.make_tensor("s", TensorProto.INT64, [2], [60_000, 60_000])]
        ),
        "'pads' of Conv": lambda: write(helper.make_node("Conv", ["x", "w"], ["y"], pads=[10**6] * 4)),
    }
    for message, make in refused.items():
        path = make()
        with pytest.raises(ModelError, match=message):
            check_model_file(path)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("manifest.json", {"base": 3}),
        ("manifest.json", {"shards": [{"number": "0"}]}),
        ("manifest.json", {"model": []}),
        (".work/done.jsonl", {"number": "a", "images": 1, "faces": 1, "errors": 0, "rows": 1, "sha256": "0"}),
        (".work/plan.jsonl", [["file", 3, "", 0, 0]]),
    ],
)
def test_store_refuses_other_types(tmp_path, file, change):
    (tmp_path / ".work").mkdir()
    content = {"format": 3, **change} if file == "manifest.json" else change
    (tmp_path / file).write_text(json.dumps(content) + "\n")
    if file != "manifest.json":
        (tmp_path / "manifest.json").write_text('{"format": 3}')
    store = Store(tmp_path)
    with pytest.raises(DataError, match=str(tmp_path / file)):
        store.manifest(), store.final_records(), store.records(), list(store.shards())
