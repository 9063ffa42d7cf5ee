"""``pipnet import``: convert a checkpoint of the original authors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipnet.annotations.samples import without_label_offset
from pipnet.cli import say, training_imports
from pipnet.cli.options import OptionalOutput
from pipnet.datasets.load import load_samples
from pipnet.errors import PipnetError


def import_weights(
    checkpoint: Path,
    /,
    *,
    mean_face: Path,
    scheme: str,
    backbone: str = "resnet18",
    crop_scale: float | None = None,
    data: Path | None = None,
    output: OptionalOutput = None,
) -> None:
    """Convert a checkpoint of the original authors to one of pipnet, with the authors' merge.

    Parameters
    ----------
    checkpoint
        The authors' .pth file.
    mean_face
        The authors' meanface.txt of the dataset.
    scheme
        The landmark scheme: 300w, wflw, cofw, aflw, lapa, or a TOML file.
    backbone
        resnet18, resnet50, resnet101, mobilenetv2_100 or mobilenetv3_large_100.
    crop_scale
        Side of the crop over that of the face box; the authors' for the scheme if not given. For 300-W's
        landmarks the mean face tells whether it is 1.1, or 1.3 as for the authors' weights that learned from
        unlabeled faces (GSSL).
    data
        A dataset with this scheme, to fit box adapters for the face detectors; without it the model takes
        given boxes only.
    output
        The checkpoint to write; beside the authors' file if not given.
    """
    with training_imports():
        from pipnet.model.checkpoint import save_checkpoint
        from pipnet.papers.authors_weights import load_official
        from pipnet.training.fit_box_adapters import fit_box_adapters
    target = output or checkpoint.with_suffix(".safetensors")
    if target.suffix != ".safetensors":
        raise PipnetError(f"-o {target}: the name of a checkpoint must end in .safetensors")
    model, metadata = load_official(checkpoint, mean_face, scheme, backbone, crop_scale)
    if data is not None:
        samples = [without_label_offset(s) for s in load_samples(data, None, metadata.scheme)[0]]
        metadata = replace(metadata, box_adapters=fit_box_adapters(samples, metadata.crop))
    save_checkpoint(target, model, metadata)
    say(f"{target}", f"export it: pipnet export {target}")
