"""``pipnet teach``: pseudo-labels by the consensus of several networks."""

from __future__ import annotations

from pathlib import Path

from pipnet.cli import say, training_imports
from pipnet.cli.options import Output
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.load import load_model
from pipnet.scheme import LandmarkScheme


def teach(
    *unlabeled: Path,
    output: Output,
    teacher: list[str],
    scheme: str = "300w",
    locator: str = DEFAULT_MODEL,
    box_format: str = "face",
) -> None:
    """Label unlabeled faces by the consensus of several teachers.

    Writes pseudo_labels.csv, for pseudo.labels of a recipe, and a contact sheet of the highest and lowest
    scores.

    Parameters
    ----------
    unlabeled
        Folders, boxes.csv tables, .txt lists or videos, of which one frame a second is taken.
    output
        The folder to write.
    teacher
        A model's name, an .onnx file, a checkpoint, or the .toml file that describes another project's
        network; give it several times.
    scheme
        The landmark scheme of the labels: 300w, wflw, ... or FILE.toml.
    locator
        The model that predicts the landmarks which the teachers' first crops are cut around.
    box_format
        Format of the boxes of tables that do not say it: face, landmarks, region, or one that the locator was
        fitted to.
    """
    with training_imports():
        from pipnet.training.self_training import teach as label
        from pipnet.training.teachers import Teacher
    teachers = [Teacher.load(name) for name in teacher]
    model = load_model(find_model(locator))
    table = label(teachers, unlabeled, output, LandmarkScheme.load(scheme), model, box_format)
    say(f"{table}", f"train on it: pipnet train RECIPE --pseudo.labels {table}")
