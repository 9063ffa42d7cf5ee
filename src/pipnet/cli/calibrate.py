"""``pipnet calibrate``: calibrate a model's confidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipnet.annotations.samples import split_by_group, without_label_offset
from pipnet.cli import say, training_imports
from pipnet.cli.options import OptionalOutput, TrainingSubset
from pipnet.datasets.load import load_samples
from pipnet.errors import PipnetError
from pipnet.io.text import counted


def calibrate(
    checkpoint: Path,
    /,
    *,
    data: Path,
    subset: TrainingSubset = None,
    share: float = 0.05,
    domain_shift: float = 0.5,
    output: OptionalOutput = None,
) -> None:
    """Calibrate a model's confidence on faces that it was not trained on, and store it in the model.

    The model's results then have a confidence: the calibrated probability that the error of a landmark is at
    most 5 % of the face.

    Parameters
    ----------
    checkpoint
        A .safetensors file of a training.
    data
        The dataset of the training (data.root of its recipe), or another one.
    share
        Use the faces that a training with this data.validation keeps out; 1 uses all faces, for a dataset
        that was not trained on.
    domain_shift
        How much less confident the model is to be than on these faces, because other datasets are harder: 0
        if it will only be used on faces like these, or if the dataset was not trained on; 1 if it will not be
        used on faces like these.
    output
        The checkpoint to write; the same file if not given.
    """
    with training_imports():
        from pipnet.model.checkpoint import load_checkpoint, read_checkpoint, write_checkpoint
        from pipnet.model.torch_model import TorchModel
        from pipnet.training.calibrate import calibrate as fit
    if not 0 < share <= 1:
        raise PipnetError(f"--share must be above 0 and at most 1, not {share}")
    if not 0 <= domain_shift <= 1:
        raise PipnetError(f"--domain-shift must be 0 to 1, not {domain_shift}")
    model, metadata = load_checkpoint(checkpoint)
    samples, _, _ = load_samples(data, subset, metadata.scheme)
    held_out = [without_label_offset(s) for s in split_by_group(samples, share, seed=0)[1]]
    calibration = fit(TorchModel(model, metadata), held_out, domain_shift=domain_shift)
    target = output or checkpoint
    write_checkpoint(target, read_checkpoint(checkpoint)[0], replace(metadata, calibration=calibration))
    kept_out = "" if share == 1 else f" that a training with data.validation {share:g} keeps out"
    say(f"{target}: calibrated on {counted(len(held_out), 'face')}{kept_out}")
    say(f"export it: pipnet export {target}")
