"""``pipnet teacher fit``: fit a shape adapter from a teacher's landmarks to those of a dataset."""

from __future__ import annotations

import numpy as np

from pipnet.annotations.samples import without_label_offset
from pipnet.cli import say, training_imports
from pipnet.cli.options import Data, Output, Scheme, TrainingSubset
from pipnet.datasets.load import load_samples
from pipnet.io.text import counted


def fit(
    teacher: str,
    /,
    *,
    data: Data,
    output: Output,
    subset: TrainingSubset = None,
    scheme: Scheme = None,
) -> None:
    """Fit the shape adapter from a teacher's definition of the landmarks to that of a dataset.

    The file is for ``adapter`` in the teacher's .toml file.

    Parameters
    ----------
    teacher
        A model's name, an .onnx file, a checkpoint, or a .toml file, whose adapter is not used.
    output
        The .npz file to write.
    """
    with training_imports():
        from pipnet.training.teachers import Teacher, fit_adapter
    model = Teacher.load(teacher).model
    samples, loaded, _ = load_samples(data, subset, scheme)
    adapter = fit_adapter(model, [without_label_offset(sample) for sample in samples], loaded)
    adapter.save(output)
    moved = np.linalg.norm(adapter(adapter.mean_shape) - adapter.mean_shape, axis=1).mean()
    share = 100 * moved / np.ptp(adapter.mean_shape[:, 0])
    faces = counted(len(samples), "face")
    say(f"{output}: fitted on {faces}; moves the mean face by {share:.1f} % of its width")
