"""The position prior: what a PIP net answers where there is no face (v1).

Two experiments: a net trained on black pictures with the true labels, shown a black picture; and a net
trained on faces, shown pictures without one. v1 finds that both answer near the mean face.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, Float32, Float64

from pipnet.errors import ModelError
from pipnet.evaluation.figure import new_figure
from pipnet.geometry import Image
from pipnet.model.heads.pip import PipHead
from pipnet.model.pipnet import PIPNet
from pipnet.scheme import LandmarkScheme

_BATCH = 16
_WHOLE = (0, 1, 1, 0)
"""Left, right, bottom and top of a crop, in fractions of it."""
BLACK, NO_FACE, OWN_NO_FACE, FACES = (
    "trained on black, shown black",
    "trained on faces, shown no face",
    "trained on faces, shown no face (--pictures)",
    "trained on faces, shown faces",
)
"""What was shown to which net."""
_NAMED = {"300w": {"outer eye corner": 36, "nose tip": 30, "mouth corner": 54, "chin": 8}}
"""The four landmarks whose score maps are shown, by scheme."""


class Answers(NamedTuple):
    """What a model says of some crops."""

    crops: Sequence[Image]
    """What it was shown."""
    points: Float32[np.ndarray, "pictures landmarks 2"]
    """Landmarks as the model gives them, as fractions of the crop."""
    own: Float32[np.ndarray, "pictures landmarks 2"]
    """The same before neighbors' votes are merged in, as in v1, which has no neighbors."""
    scores: Float32[np.ndarray, "pictures landmarks"]
    """Peak of each landmark's score map, in [0, 1]."""
    maps: Float32[np.ndarray, "pictures landmarks grid grid"]
    """Score maps, rows from top to bottom."""
    mean_face: Float64[np.ndarray, "landmarks 2"]
    """Mean of the labels that the model was trained on, as fractions of the crop."""

    @property
    def distances(self) -> Float64[np.ndarray, " pictures"]:
        """How far each answer lies from the mean face: mean over landmarks, as a fraction of the crop."""
        return np.asarray(np.linalg.norm(self.points - self.mean_face, axis=2).mean(axis=1))

    def numbers(self) -> dict[str, float]:
        """Means over all pictures: distances from the mean face in % of the crop, and the peak score.

        ``exchanged`` is the distance if own points are taken for those of any landmark: what remains if
        a net tells apart where landmarks are likely, but not which.
        """
        own = np.linalg.norm(self.own - self.mean_face, axis=2)
        exchanged = np.linalg.norm(self.own[:, :, None] - self.mean_face, axis=3)
        return {
            "pictures": len(self.points),
            "distance": round(100 * float(self.distances.mean()), 3),
            "own": round(100 * float(own.mean()), 3),
            "exchanged": round(100 * float(exchanged.mean()), 3),
            "peak": round(float(self.scores.mean()), 4),
        }


class Row(NamedTuple):
    """One row of the figure."""

    title: str
    answers: Answers
    picture: int
    """Which of them."""


def score_head(model: PIPNet) -> PipHead:
    """The model's head, if it is one with score maps.

    Raises:
        ModelError: it is not.
    """
    if not isinstance(model.head, PipHead) or model.head.reduction == "coordinates":
        raise ModelError(
            f"only a pip head has score maps to look at, not {model.config.head!r} as it is here"
        )
    return model.head


@torch.no_grad()
def ask(model: PIPNet, crops: Sequence[Image]) -> Answers:
    """Landmarks and score maps of crops of the model's size.

    Raises:
        ModelError: the model has no score maps.
    """
    head = score_head(model)
    parts = []
    for first in range(0, len(crops), _BATCH):
        output = model(torch.from_numpy(np.stack(crops[first : first + _BATCH])))
        landmarks = head.decode(output)
        own = head.predictions(output)[0][:, : head.landmarks]
        maps = head.score_maps(output).reshape(-1, head.landmarks, head.grid, head.grid)
        maps = maps.sigmoid() if head.losses.score == "focal" else maps
        parts.append((landmarks.points, own, landmarks.scores, maps))
    points, own, scores, maps = (torch.cat(part) for part in zip(*parts, strict=True))
    return Answers(crops, points.numpy(), own.numpy(), scores.numpy(), maps.numpy(), model.mean_face)


def probe_both(
    model: PIPNet,
    black: PIPNet,
    faces: Sequence[Image],
    without: Sequence[Image],
    own_without: Sequence[Image] = (),
) -> dict[str, Answers]:
    """Both experiments, and the model on faces to compare with, by name.

    Args:
        model: trained on faces.
        black: trained on black pictures.
        faces: crops of faces.
        without: crops without a face.
        own_without: more of these, of other origin.

    Raises:
        ModelError: a model has no score maps, or the two have other landmarks.
    """
    if len(black.mean_face) != len(model.mean_face):
        raise ModelError(
            f"the net on black has {len(black.mean_face)} landmarks, the model {len(model.mean_face)}"
        )
    size = black.config.input_size
    answers = {BLACK: ask(black, [np.zeros((size, size, 3), np.uint8)]), NO_FACE: ask(model, without)}
    if own_without:
        answers[OWN_NO_FACE] = ask(model, own_without)
    return {**answers, FACES: ask(model, faces)}


def references(mean_face: Float64[np.ndarray, "landmarks 2"]) -> dict[str, float]:
    """What answers without any knowledge would score: their distance from the mean face in % of the crop."""
    line = (np.arange(64) + 0.5) / 64
    anywhere = np.stack(np.meshgrid(line, line), axis=2).reshape(-1, 1, 2)
    guesses = {"points anywhere in the crop": anywhere, "all points at its center": np.full((1, 1, 2), 0.5)}
    away = {name: np.linalg.norm(guess - mean_face, axis=2).mean() for name, guess in guesses.items()}
    return {name: round(100 * float(distance), 3) for name, distance in away.items()}


def probed_landmarks(scheme: LandmarkScheme, mean_face: Float64[np.ndarray, "landmarks 2"]) -> dict[str, int]:
    """Four landmarks by name: v1's on 68 points, else some that lie far from each other."""
    if scheme.name in _NAMED:
        return _NAMED[scheme.name]
    chosen = [int(np.linalg.norm(mean_face - mean_face.mean(axis=0), axis=1).argmin())]
    while len(chosen) < min(4, scheme.landmarks):
        away = np.linalg.norm(mean_face[:, None] - mean_face[chosen], axis=2).min(axis=1)
        away[chosen] = -1
        chosen.append(int(away.argmax()))
    return {scheme.landmark_names[i]: i for i in chosen}


def figure_rows(answers: Mapping[str, Answers], face: Answers | None = None) -> list[Row]:
    """v1's four rows, (a) black and (b) to (d) without a face, and a face to compare with."""
    without = answers.get(OWN_NO_FACE, answers[NO_FACE])
    rows = [Row("(a) trained on black", answers[BLACK], 0)]
    rows += [Row(f"({letter}) no face", without, i) for i, letter in enumerate("bcd"[: len(without.crops)])]
    return [*rows, Row("for comparison: a face", face or answers[FACES], 0)]


def plot_prior(rows: Sequence[Row], scheme: LandmarkScheme, landmarks: Mapping[str, int], path: Path) -> None:
    """Draw each picture with the answer, own points on the mean face, and score maps over the picture.

    Args:
        rows: what to draw.
        scheme: the lines between landmarks.
        landmarks: whose score maps, by the name to write above.
        path: the picture to write.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    columns = ["answer", "own points, mean face", *landmarks]
    figure = new_figure(1.4 * len(columns) + 0.5, 1.4 * len(rows) + 0.3)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name, fontsize=9)
    for (title, answers, i), (picture, face, *maps) in zip(rows, grid, strict=True):
        picture.set_ylabel(f"{title}\n{100 * answers.distances[i]:.1f} % from mean face", fontsize=8)
        picture.imshow(answers.crops[i], extent=_WHOLE)
        _draw_face(picture, answers.points[i], scheme, "cyan", 0.9)
        _draw_face(face, answers.mean_face, scheme, "0.7", 2.5)
        _draw_face(face, answers.own[i], scheme, "tab:blue", 0.9)
        for axes, landmark in zip(maps, landmarks.values(), strict=True):
            _draw_map(axes, answers, i, landmark)
    for axes in grid.flat:
        axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])
    _save_small(figure, path)


def _draw_face(
    axes: Any, points: Float[np.ndarray, "landmarks 2"], scheme: LandmarkScheme, color: str, width: float
) -> None:
    for chain in scheme.edges:
        axes.plot(*points[list(chain)].T, color=color, linewidth=width)
    axes.plot(*points.T, ".", color=color, markersize=1.5 * width)


def _draw_map(axes: Any, answers: Answers, i: int, landmark: int) -> None:
    """One score map as heat over the gray picture, with the own point and that of the mean face.

    Colors go from 0 to the map's own peak, which is written below; it is low where there is no face.
    """
    heat = answers.maps[i, landmark]
    peak = float(heat.max())
    share = (heat / max(peak, 1e-6)).clip(0, 1)
    axes.imshow(answers.crops[i].mean(axis=2), extent=_WHOLE, cmap="gray", vmin=0, vmax=400)
    axes.imshow(share, extent=_WHOLE, cmap="inferno", vmin=0, vmax=1, alpha=0.3 + 0.7 * share)
    axes.plot(*answers.mean_face[landmark], "+", color="white", markersize=8)
    axes.plot(*answers.own[i, landmark], "o", color="cyan", markersize=5, fillstyle="none")
    axes.text(0.03, 0.97, f"{peak:.2f}", color="white", fontsize=8, va="bottom")


def _save_small(figure: Any, path: Path) -> None:
    """Write a figure in 256 colors: photos among plots take a third of the space, and look the same."""
    whole = io.BytesIO()
    figure.savefig(whole, dpi=100, format="png")
    picture = PIL.Image.open(whole).convert("RGB")
    colors = picture.quantize(256, kmeans=5)
    picture.quantize(palette=colors, dither=PIL.Image.Dither.NONE).save(path, format="PNG", optimize=True)
