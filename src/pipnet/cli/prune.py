"""``pipnet prune``: prune a trained network."""

from __future__ import annotations

from pathlib import Path

from pipnet.annotations.samples import evenly_spaced
from pipnet.cli import say, training_imports
from pipnet.cli.options import OptionalOutput, TrainingSubset
from pipnet.datasets.load import load_samples


def prune(
    checkpoint: Path,
    /,
    *,
    data: Path,
    subset: TrainingSubset = None,
    last_width: int = 640,
    neighbors: int | None = None,
    output: OptionalOutput = None,
) -> None:
    """Prune a trained network: remove channels of its last layer, and neighbors, without further training.

    Much of MobileNetV2's time goes into channels that ImageNet needs and landmarks do not. Measure the loss
    of accuracy: pipnet evaluate.

    Parameters
    ----------
    checkpoint
        A .safetensors file of a training, of a MobileNetV2 or EfficientNet with a PIP head at stride 32.
    data
        A dataset; the outputs of both networks are compared on at most 1,000 of its training faces.
    last_width
        Remaining channels of the backbone's last layer.
    neighbors
        Remaining neighbors C, the nearest ones; all of them if not given.
    output
        The checkpoint to write; NAME-pruned.safetensors beside the other if not given.
    """
    with training_imports():
        from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
        from pipnet.training.augment import Augmentation
        from pipnet.training.dataset import FaceDataset
        from pipnet.training.prune import FACES, pruned_metadata
        from pipnet.training.prune import prune as prune_model
    model, metadata = load_checkpoint(checkpoint)
    samples, _, _ = load_samples(data, subset, metadata.scheme)
    chosen = evenly_spaced(samples, FACES)
    faces = FaceDataset(chosen, metadata.scheme, metadata.crop, metadata.input_size, Augmentation())
    pruned = prune_model(model, last_width, neighbors, faces)
    target = output or checkpoint.with_name(f"{checkpoint.stem}-pruned.safetensors")
    save_checkpoint(target, pruned, pruned_metadata(metadata, pruned))
    flags = f"--model.last-width {last_width} --model.neighbors {pruned.config.neighbors}"
    say(
        f"{target}\ncalibrate it: pipnet calibrate {target} --data {data}\n"
        f"export it: pipnet export {target}\n"
        f"train it further: pipnet train RECIPE --initial.checkpoint {target} {flags}"
    )
