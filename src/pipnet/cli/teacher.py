"""``pipnet teacher fit``: fit a shape adapter from a teacher's landmarks to those of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from pipnet.annotations.samples import without_label_offset
from pipnet.cli import cannot_import, say
from pipnet.datasets.load import load_samples


def fit(
    teacher: str,
    /,
    *,
    data: Path,
    output: Annotated[Path, Parameter(alias="-o")],
    subset: str | None = None,
    scheme: str | None = None,
) -> None:
    """Fit the shape adapter from a teacher's definition of the landmarks to that of a dataset.

    The file is for ``adapter`` in the teacher's .toml file.

    Parameters
    ----------
    teacher
        A model's name, an .onnx file, a checkpoint, or a .toml file, whose adapter is not used.
    data
        The labeled faces: a dataset, or your own annotations (a folder or file).
    output
        The .npz file to write.
    subset
        Subset of the dataset; the training subset if not given.
    scheme
        The landmark scheme; the dataset's if not given.
    """
    try:
        from pipnet.training.teachers import Teacher, fit_adapter
    except (ImportError, RuntimeError) as error:
        raise cannot_import(error) from None
    model = Teacher.load(teacher).model
    samples, loaded, _ = load_samples(data, subset, scheme)
    adapter = fit_adapter(model, [without_label_offset(sample) for sample in samples], loaded)
    adapter.save(output)
    moved = np.linalg.norm(adapter(adapter.mean_shape) - adapter.mean_shape, axis=1).mean()
    share = 100 * moved / np.ptp(adapter.mean_shape[:, 0])
    say(f"{output}: fitted on {len(samples):,} faces; moves the mean face by {share:.1f} % of its width")
