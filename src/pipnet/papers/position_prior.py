"""The position prior: what a PIP network predicts where there is no face (v1).

Two experiments: a network trained on blank images with the true labels, shown a blank image; and a network
trained on faces, shown crops without a face. v1 finds that both predict landmarks near the mean face.
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
from pipnet.evaluation.matplotlib_figure import disable_formulas, new_figure
from pipnet.geometry import Image
from pipnet.model.pipnet import PIPNet
from pipnet.scheme import LandmarkScheme

_BATCH_SIZE = 16
_EXTENT = (0.0, 1.0, 1.0, 0.0)
"""Left, right, bottom and top of a crop, in fractions of it."""
BLANK, NO_FACE, NO_FACE_IMAGES, FACES = (
    "trained on blank images, shown a blank image",
    "trained on faces, shown no face",
    "trained on faces, shown no face (--images)",
    "trained on faces, shown faces",
)
"""Names of the experiments."""
_FIGURE_LANDMARKS = {"300w": {"outer eye corner": 36, "nose tip": 30, "mouth corner": 54, "chin": 8}}
"""The four landmarks whose score maps are shown, by scheme."""


class ProbeResult(NamedTuple):
    """Predictions of a model on some crops."""

    crops: Sequence[Image]
    points: Float32[np.ndarray, "crops landmarks 2"]
    """Predicted landmarks, as fractions of the crop."""
    unmerged_points: Float32[np.ndarray, "crops landmarks 2"]
    """The same before the neighbors' votes are merged, as in v1, which has no neighbors."""
    scores: Float32[np.ndarray, "crops landmarks"]
    """Peak of each landmark's score map, in [0, 1]."""
    score_maps: Float32[np.ndarray, "crops landmarks grid grid"]
    """Score maps, rows from top to bottom."""
    mean_face: Float64[np.ndarray, "landmarks 2"]
    """Mean of the labels that the model was trained on, as fractions of the crop."""

    @property
    def distances(self) -> Float64[np.ndarray, " crops"]:
        """Distance of each prediction from the mean face: mean over landmarks, as a fraction of the crop."""
        return np.asarray(np.linalg.norm(self.points - self.mean_face, axis=2).mean(axis=1))

    def summary(self) -> dict[str, float]:
        """Return means over all crops: distances from the mean face in % of the crop, and the peak score.

        ``any_landmark`` is the mean distance of each landmark's unmerged point from all landmarks of the mean
        face: what remains of ``unmerged`` if a network knows where landmarks are likely, but not which one.
        """
        unmerged = np.linalg.norm(self.unmerged_points - self.mean_face, axis=2)
        any_landmark = np.linalg.norm(self.unmerged_points[:, :, None] - self.mean_face, axis=3)
        return {
            "images": len(self.points),
            "distance": round(100 * float(self.distances.mean()), 3),
            "unmerged": round(100 * float(unmerged.mean()), 3),
            "any_landmark": round(100 * float(any_landmark.mean()), 3),
            "peak": round(float(self.scores.mean()), 4),
        }


FigureRow = tuple[str, ProbeResult, int]
"""Title, result, and index of one of its crops: one row of the figure."""


@torch.no_grad()
def check_score_maps(model: PIPNet) -> None:
    """Refuse a model without score maps.

    Raises:
        ModelError: its head has none.
    """
    size = model.config.input_size
    model.head.score_maps(model(torch.zeros(1, size, size, 3, dtype=torch.uint8)))


@torch.no_grad()
def predict_score_maps(model: PIPNet, crops: Sequence[Image]) -> ProbeResult:
    """Return landmarks and score maps of crops of the model's input size.

    Raises:
        ModelError: the model has no score maps.
    """
    head, parts = model.head, []
    for first in range(0, len(crops), _BATCH_SIZE):
        output = model(torch.from_numpy(np.stack(crops[first : first + _BATCH_SIZE])))
        landmarks = head.decode(output)
        parts.append(
            (landmarks.points, head.unmerged_points(output), landmarks.scores, head.score_maps(output))
        )
    points, unmerged, scores, maps = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return ProbeResult(crops, points, unmerged, scores, maps, model.mean_face)


def probe_models(
    model: PIPNet,
    blank_model: PIPNet,
    faces: Sequence[Image],
    backgrounds: Sequence[Image],
    image_backgrounds: Sequence[Image] = (),
) -> dict[str, ProbeResult]:
    """Return both experiments, and the model's predictions on faces to compare with, by name.

    Args:
        model: trained on faces.
        blank_model: trained on blank images.
        faces: crops of faces.
        backgrounds: crops without a face.
        image_backgrounds: more of these, from the user's images.

    Raises:
        ModelError: a model has no score maps, or the two have different numbers of landmarks.
    """
    if len(blank_model.mean_face) != len(model.mean_face):
        counts = len(blank_model.mean_face), len(model.mean_face)
        raise ModelError(
            f"the network trained on blank images has {counts[0]} landmarks, the model {counts[1]}"
        )
    size = blank_model.config.input_size
    results = {
        BLANK: predict_score_maps(blank_model, [np.zeros((size, size, 3), np.uint8)]),
        NO_FACE: predict_score_maps(model, backgrounds),
    }
    if image_backgrounds:
        results[NO_FACE_IMAGES] = predict_score_maps(model, image_backgrounds)
    return {**results, FACES: predict_score_maps(model, faces)}


def reference_distances(mean_face: Float64[np.ndarray, "landmarks 2"]) -> dict[str, float]:
    """Return the distances of uninformed guesses from the mean face, in % of the crop."""
    line = (np.arange(64) + 0.5) / 64
    anywhere = np.stack(np.meshgrid(line, line), axis=2).reshape(-1, 1, 2)
    guesses = {"points anywhere in the crop": anywhere, "all points at its center": np.full((1, 1, 2), 0.5)}
    distances = {name: np.linalg.norm(guess - mean_face, axis=2).mean() for name, guess in guesses.items()}
    return {name: round(100 * float(distance), 3) for name, distance in distances.items()}


def probed_landmarks(scheme: LandmarkScheme, mean_face: Float64[np.ndarray, "landmarks 2"]) -> dict[str, int]:
    """Return up to four landmarks by name: v1's on 68 points, else some that are far from each other."""
    if scheme.name in _FIGURE_LANDMARKS:
        return _FIGURE_LANDMARKS[scheme.name]
    chosen = [int(np.linalg.norm(mean_face - mean_face.mean(axis=0), axis=1).argmin())]
    while len(chosen) < min(4, scheme.landmarks):
        distances = np.linalg.norm(mean_face[:, None] - mean_face[chosen], axis=2).min(axis=1)
        distances[chosen] = -1
        chosen.append(int(distances.argmax()))
    return {scheme.landmark_names[i]: i for i in chosen}


def figure_rows(results: Mapping[str, ProbeResult], face: ProbeResult | None = None) -> list[FigureRow]:
    """Return v1's four rows, (a) blank and (b) to (d) without a face, and a face to compare with."""
    no_face = results.get(NO_FACE_IMAGES, results[NO_FACE])
    rows = [("(a) trained on blank images", results[BLANK], 0)]
    rows += [(f"({letter}) no face", no_face, i) for i, letter in enumerate("bcd"[: len(no_face.crops)])]
    return [*rows, ("for comparison: a face", face or results[FACES], 0)]


def plot_prior(
    rows: Sequence[FigureRow], scheme: LandmarkScheme, landmarks: Mapping[str, int], path: Path
) -> None:
    """Draw each crop with its prediction, the unmerged points on the mean face, and score maps over the crop.

    Args:
        rows: the rows to draw.
        scheme: gives the lines between landmarks.
        landmarks: indices of the landmarks whose score maps are drawn, by their titles.
        path: the image to write.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    columns = ["prediction", "unmerged, mean face", *landmarks]
    figure = new_figure(1.4 * len(columns) + 0.5, 1.4 * len(rows) + 0.3)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name, fontsize=9)
    for (title, result, i), (crop_axes, face_axes, *map_axes) in zip(rows, grid, strict=True):
        crop_axes.set_ylabel(f"{title}\n{100 * result.distances[i]:.1f} % from mean face", fontsize=8)
        crop_axes.imshow(result.crops[i], extent=_EXTENT)
        _draw_face(crop_axes, result.points[i], scheme, "cyan", 0.9)
        _draw_face(face_axes, result.mean_face, scheme, "0.7", 2.5)
        _draw_face(face_axes, result.unmerged_points[i], scheme, "tab:blue", 0.9)
        for axes, n in zip(map_axes, landmarks.values(), strict=True):
            draw_score_map(axes, result.crops[i], result.score_maps[i, n], result.unmerged_points[i, n])
            axes.plot(*result.mean_face[n], "+", color="white", markersize=8)
    for axes in grid.flat:
        axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])
    _save_palette_png(figure, path)


def draw_score_map(
    axes: Any,
    crop: Image,
    score_map: Float[np.ndarray, "rows columns"],
    point: Float[np.ndarray, "2"],
) -> None:
    """Draw a score map as a heat map over the gray crop, with its landmark and its peak as a number.

    The colors go from 0 to the map's own peak, because that is low where there is no face.

    Args:
        axes: of matplotlib.
        crop: the crop.
        score_map: the score map of one landmark.
        point: the landmark, as fractions of the crop.
    """
    peak = float(score_map.max())
    relative = (score_map / max(peak, 1e-6)).clip(0, 1)
    axes.imshow(crop.mean(axis=2), extent=_EXTENT, cmap="gray", vmin=0, vmax=400)
    axes.imshow(relative, extent=_EXTENT, cmap="inferno", vmin=0, vmax=1, alpha=0.3 + 0.7 * relative)
    axes.plot(*point, "o", color="cyan", markersize=5, fillstyle="none")
    axes.text(0.03, 0.03, f"{peak:.2f}", color="white", fontsize=8, va="bottom", transform=axes.transAxes)


def _draw_face(
    axes: Any, points: Float[np.ndarray, "landmarks 2"], scheme: LandmarkScheme, color: str, width: float
) -> None:
    for chain in scheme.edges:
        axes.plot(*points[list(chain)].T, color=color, linewidth=width)
    axes.plot(*points.T, ".", color=color, markersize=1.5 * width)


def _save_palette_png(figure: Any, path: Path) -> None:
    """Write a figure in 256 colors: with photos among the plots, the file is a third as large."""
    buffer = io.BytesIO()
    disable_formulas(figure)
    figure.savefig(buffer, dpi=100, format="png")
    image = PIL.Image.open(buffer).convert("RGB")
    palette = image.quantize(256, kmeans=5)
    image.quantize(palette=palette, dither=PIL.Image.Dither.NONE).save(path, format="PNG", optimize=True)
