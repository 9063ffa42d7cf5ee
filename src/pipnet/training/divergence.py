"""Stop a training that diverges, which would otherwise end without an error in useless weights."""

from __future__ import annotations

import math

from pipnet.errors import DivergenceError

_MAX_LOSS_RATIO = 1000
"""Maximum mean loss of an epoch, in losses of the first step. The first step's loss is that of the initial
weights."""
_MAX_NME = 100.0
"""Maximum validation NME in percent after the first epochs."""
_MAX_EARLY_NME = 10_000.0
"""Maximum validation NME in percent in the first epochs. Random points in the crop are at about 150 %, more
where the norm is short, such as between the eyes of profiles."""
_FIRST_EPOCHS, _FIRST_STEPS = 5, 200
"""Until both have passed, the first epochs last."""


def check_loss(loss: float, first: float, epoch: int, lr: float) -> None:
    """Refuse a mean loss that is not finite or far above that of the first step.

    Args:
        loss: mean loss of the epoch.
        first: loss of the first step of the training.
        epoch: number of the epoch, from 1.
        lr: learning rate of the recipe.

    Raises:
        DivergenceError: the training diverges.
    """
    if not math.isfinite(loss):
        raise _error(f"the loss is {loss}", epoch, lr)
    if loss > _MAX_LOSS_RATIO * first:
        raise _error(f"the loss is {loss:.2g}, {loss / first:.1g} times that of the first step", epoch, lr)


def check_nme(nme: float | None, epoch: int, step: int, lr: float) -> None:
    """Refuse a validation NME that is not finite, or too high for this stage of the training.

    Args:
        nme: validation NME in percent; None if it is not measured.
        epoch: number of the epoch, from 1.
        step: number of steps so far.
        lr: learning rate of the recipe.

    Raises:
        DivergenceError: the training diverges.
    """
    is_early = epoch <= _FIRST_EPOCHS or step <= _FIRST_STEPS
    if nme is not None and not nme <= (_MAX_EARLY_NME if is_early else _MAX_NME):
        raise _error(f"the validation NME is {nme:.3g} %", epoch, lr)


def _error(reason: str, epoch: int, lr: float) -> DivergenceError:
    kept = f"the weights of epoch {epoch - 1} are kept" if epoch > 1 else "no weights are saved"
    return DivergenceError(
        f"the training diverges in epoch {epoch}: {reason}; {kept}. Lower the learning rate, such as "
        f"--optim.lr {lr / 10:.2g} instead of {lr:.2g}, and train in another folder"
    )
