"""The state from which a training resumes: one file in its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipnet.errors import ModelError, one_line
from pipnet.io.atomic import atomic_write

STATE = "last.pt"
"""The file in a run folder from which a training resumes."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state atomically.

    Raises:
        WriteError: it cannot be written, such as on a full disk; the previous state is kept.
    """
    with atomic_write(path) as partial:
        try:
            torch.save(state, partial)
        except RuntimeError as error:  # such as on a full disk
            raise OSError(f"is the disk full? {one_line(error, 120)}") from None


def load_state(path: Path) -> dict[str, Any]:
    """Return a state, its tensors on the CPU.

    Raises:
        ModelError: it is damaged, or no state.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and key errors alike
        raise ModelError(f"{path}: cannot be resumed from: {one_line(error)}") from None
    return state
