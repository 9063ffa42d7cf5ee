"""Fitting a model's confidence on labeled faces that it was not trained on; see `inference.confidence`.

Held-out faces are of the same collection, and mostly easy. Each is therefore seen several times: as it is,
and turned, shifted, hidden in part, blurred, dark or small, so that there are large errors to learn from.

Faces of another collection are wrong more often than faces of the same that look as hard: their pictures are
unlike, and whoever labeled them put the points a little elsewhere. A model cannot know which it sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Float64

from pipnet.annotations.samples import FaceSample
from pipnet.confidence import WRONG, Calibration, terms
from pipnet.errors import DataError
from pipnet.inference.backends.base import CropModel
from pipnet.io.image import read_image
from pipnet.progress import track
from pipnet.training.augment import Augmentation, training_crop

HARDER = Augmentation(
    translate=0.7,
    translate_by=0.12,
    scale=0.7,
    scale_by=0.2,
    rotate=0.7,
    rotate_by=45,
    occlude=0.6,
    occlude_by=0.6,
    blur=0.3,
    blur_by=10 / 256,
    color_jitter=0.6,
    downscale=0.4,
    downscale_by=6,
)
"""How faces are made harder."""
ELSEWHERE = (0.75, 0.25)
"""Slope and intercept of the log odds of being wrong in a collection that a model never saw, on those in the
collection that it is calibrated on (`benchmarks/calibration.md`)."""
_RIDGE = 1.0
"""Pull of all coefficients towards zero, which matters to constants of landmarks that are never wrong."""
_STEPS = 30


def calibrate(
    model: CropModel, samples: Sequence[FaceSample], looks: int = 8, seed: int = 0, elsewhere: float = 0.5
) -> Calibration:
    """Fit a model's confidence.

    Args:
        model: the model.
        samples: labeled faces that it was not trained on.
        looks: how often each face is seen; once as it is, the other times harder.
        seed: of what makes them harder.
        elsewhere: how far chances go towards those in another collection: 0 is right for faces of the same
            collection, 1 for others, half is not far off for both.

    Raises:
        DataError: there are no faces, or no error above 5 % of the face to learn from.
    """
    scores, vote_std, errors = observe(model, samples, looks, seed)
    known = np.isfinite(errors)
    if not known.any() or not (errors[known] > WRONG).any():
        raise DataError(f"{len(samples)} faces are too few, or too easy, to calibrate on")
    fitted = fit(terms(scores, vote_std, model.metadata.mean_face), errors, elsewhere)
    if not fitted.is_sound(errors.shape[1]):
        raise DataError(f"{len(samples)} faces are too few to calibrate on")
    return fitted


def fit(
    of_terms: Float64[np.ndarray, "terms n l"], errors: Float64[np.ndarray, "n l"], elsewhere: float
) -> Calibration:
    """Both regressions, on terms and errors (NaN: unknown); see `calibrate`."""
    known, landmarks = np.isfinite(errors), errors.shape[1]
    constant = np.broadcast_to(np.eye(landmarks), (*errors.shape, landmarks))
    design = np.concatenate([of_terms.transpose(1, 2, 0), constant], axis=2)[known]
    truth = errors[known]
    slope, more = ELSEWHERE
    wrong = logistic(design, truth > WRONG) * (1 - elsewhere * (1 - slope))
    wrong[-landmarks:] += elsewhere * more
    size = _linear(design, np.log(truth.clip(1e-4)))
    # The mean of an error is more than the exponential of its logarithm's mean: put right as a whole.
    size[-landmarks:] += np.log(truth.mean() / np.exp(design @ size).mean())
    return Calibration(tuple(wrong.tolist()), tuple(size.tolist()))


def observe(
    model: CropModel, samples: Sequence[FaceSample], looks: int, seed: int
) -> tuple[Float[np.ndarray, "n l"], Float[np.ndarray, "n l"], Float64[np.ndarray, "n l"]]:
    """Scores, spreads, and errors as shares of the face; NaN where a landmark is unknown or left the crop."""
    metadata, rng = model.metadata, np.random.default_rng(seed)
    parts = []
    for sample in track(samples, len(samples), "looking at faces"):
        image = read_image(sample.image)
        box = metadata.crop(metadata.crop.face_box(sample.points, sample.box), image.shape[1], image.shape[0])
        ways = [Augmentation.none(), *[replace(HARDER, flip=0.0)] * (looks - 1)]
        seen = [
            training_crop(image, sample.points, box, metadata.input_size, metadata.scheme, way, rng)
            for way in ways
        ]
        truth = np.stack([points for _, points, _ in seen])
        found = model(np.stack([crop for crop, _, _ in seen]))
        side = (box[2:] - box[:2]).astype(
            np.float64
        )  # crops may be stretched, faces are measured as they are
        size = np.nanmax((np.nanmax(truth, axis=1) - np.nanmin(truth, axis=1)) * side, axis=1)
        away = (found.points.astype(np.float64) - truth) * side
        errors = np.linalg.norm(away, axis=2) / size[:, None]
        errors[~((truth >= 0) & (truth < 1)).all(axis=2)] = np.nan
        parts.append((found.scores, found.vote_std, errors))
    if not parts:
        raise DataError("there are no faces to calibrate on")
    scores, vote_std, errors = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores, vote_std, errors


def logistic(
    design: Float64[np.ndarray, "n terms"], wrong: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " terms"]:
    """Ridge logistic regression by Newton's method."""
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (chance - wrong) + _RIDGE * weights
        curve = (design * (chance * (1 - chance))[:, None]).T @ design + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curve, slope)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def _linear(
    design: Float64[np.ndarray, "n terms"], target: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " terms"]:
    """Ridge regression."""
    curve = design.T @ design + _RIDGE * np.eye(design.shape[1])
    return np.asarray(np.linalg.solve(curve, design.T @ target))
