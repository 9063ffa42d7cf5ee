"""Comparison of a model with other networks (peers) on the same faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from pipnet.errors import DataError
from pipnet.evaluation.evaluate import FaceErrors
from pipnet.evaluation.metrics import bootstrap_mean, paired_gain

FRAMES = ("pixels", "offset_removed")
"""The errors that are compared: for the labels as filed, and without their known offset."""


def compare_with_peer(name: str, model: FaceErrors, peer: FaceErrors) -> dict[str, Any]:
    """Return the metrics of a peer and the gain of a model over it, as plain data in percent.

    Args:
        name: the name of the peer.
        model: the errors of the model.
        peer: the errors of the peer on the same faces.

    Returns:
        ``name``; ``faces``, the number of faces that neither missed, which all metrics are over; for each of
        `FRAMES` the ``nme`` of the peer and its 95 % interval ``nme_ci``; and ``gain``, for each frame by how
        many percent the NME of the model is lower than that of the peer, with the 95 % interval of a paired
        bootstrap over faces: [gain, low, high].

    Raises:
        DataError: one of them missed every face that the other detected.
    """
    peer_index = {sample.name: i for i, sample in enumerate(peer.samples)}
    pairs = [(i, peer_index[s.name]) for i, s in enumerate(model.samples) if s.name in peer_index]
    if not pairs:
        raise DataError(f"the model and the peer {name} have no detected face in common")
    indices, peer_indices = (list(part) for part in zip(*pairs, strict=True))
    comparison: dict[str, Any] = {"name": name, "faces": len(pairs)}
    gains = {}
    for frame in FRAMES:
        model_nmes = np.asarray(np.nanmean(getattr(model, frame)[indices], axis=1))
        peer_nmes = np.asarray(np.nanmean(getattr(peer, frame)[peer_indices], axis=1))
        comparison[frame] = {
            "nme": round(100 * float(peer_nmes.mean()), 4),
            "nme_ci": [round(100 * end, 4) for end in bootstrap_mean(peer_nmes)],
        }
        gain, interval = paired_gain(peer_nmes, model_nmes)
        gains[frame] = [round(value, 2) for value in (gain, *interval)]
    return {**comparison, "gain": gains}


def peers_table(comparisons: Sequence[dict[str, Any]], model: str) -> Table:
    """Return comparisons with peers as a table: a row a peer, and one below it if labels have an offset."""
    caption = f"gain: by how much the NME of {model} is lower, over the faces that neither missed"
    table = Table("peer", title="Peers on the same faces", caption=caption)
    for column in ("NME, %", "95 % interval", "gain, %", "95 % interval"):
        table.add_column(column, justify="right")
    for row in comparisons:
        for frame, name in zip(FRAMES, (row["name"], "  offset removed"), strict=True):
            if frame != FRAMES[0] and row[frame] == row[FRAMES[0]]:
                continue
            (low, high), (gain, gain_low, gain_high) = row[frame]["nme_ci"], row["gain"][frame]
            nme = f"{row[frame]['nme']:.3f}"
            table.add_row(
                name, nme, f"{low:.2f} to {high:.2f}", f"{gain:.1f}", f"{gain_low:.1f} to {gain_high:.1f}"
            )
    return table
