"""Calibration: fitting a model's confidence (`pipnet.confidence`) on labeled faces outside of its training.

The held-out faces of a dataset are mostly easy. Each is therefore predicted several times, once unchanged and
otherwise rotated, shifted, occluded, blurred, dark or small, so that the fit has large errors to learn from.

Faces of other datasets are wrong more often than equally difficult faces of the same dataset: their images
differ, and their annotators placed the points slightly differently. A model cannot know which case it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64

from pipnet.annotations.samples import FaceSample
from pipnet.confidence import MAX_ERROR, Calibration, features
from pipnet.errors import DataError
from pipnet.inference.backends.base import CropModel
from pipnet.inference.predict import fractions_of_region
from pipnet.io.image import read_image
from pipnet.progress import show_progress
from pipnet.training.augment import Augmentation, training_crop

HARDER = Augmentation(
    translate=0.7,
    translate_by=0.12,
    scale=0.7,
    scale_by=0.2,
    rotate=0.7,
    rotate_by=45,
    flip=0,
    occlude=0.6,
    occlude_by=0.6,
    blur=0.3,
    blur_by=10 / 256,
    color_jitter=0.6,
    downscale=0.4,
    downscale_by=6,
)
"""The augmentation of all predictions of a face but the first."""
DOMAIN_SHIFT = (0.75, 0.25)
"""Slope and intercept of the log odds of being wrong on other datasets, as a function of the log odds on the
dataset of the calibration (`benchmarks/accuracy/calibration/report.md`)."""
_RIDGE = 1.0
"""Ridge of all coefficients; it matters for the constants of landmarks that are never wrong."""
_MAX_STEPS = 30


def calibrate(
    model: CropModel,
    samples: Sequence[FaceSample],
    predictions: int = 8,
    seed: int = 0,
    domain_shift: float = 0.5,
) -> Calibration:
    """Fit a model's confidence.

    Args:
        model: the model.
        samples: labeled faces that it was not trained on.
        predictions: predictions of each face; the first one without augmentation.
        seed: seed of the augmentation.
        domain_shift: how far probabilities move towards those on other datasets, 0 to 1: 0 fits faces of the
            same dataset, 1 faces of others, and a half is a compromise.

    Raises:
        DataError: there are no faces, or no error above 5 % of the face to learn from.
    """
    scores, vote_std, errors = observe(model, samples, predictions, seed)
    known = np.isfinite(errors)
    if not known.any() or not (errors[known] > MAX_ERROR).any():
        raise DataError(f"too few or too easy faces to calibrate on: {len(samples)}")
    calibration = fit(features(scores, vote_std, model.metadata.mean_face), errors, domain_shift)
    if not calibration.is_valid(errors.shape[1]):
        raise DataError(f"too few faces to calibrate on: {len(samples)}")
    return calibration


def fit(
    inputs: Float64[np.ndarray, "features n l"], errors: Float64[np.ndarray, "n l"], domain_shift: float
) -> Calibration:
    """Return both regressions of errors (NaN: unknown) on features, see `calibrate`."""
    known, landmarks = np.isfinite(errors), errors.shape[1]
    constant = np.broadcast_to(np.eye(landmarks), (*errors.shape, landmarks))
    design = np.concatenate([inputs.transpose(1, 2, 0), constant], axis=2)[known]
    known_errors = errors[known]
    slope, intercept = DOMAIN_SHIFT
    wrong = logistic(design, known_errors > MAX_ERROR) * (1 - domain_shift * (1 - slope))
    wrong[-landmarks:] += domain_shift * intercept
    error = _linear(design, np.log(known_errors.clip(1e-4)))
    # The mean error is larger than the exponential of the mean logarithm: one factor for all corrects it.
    error[-landmarks:] += np.log(known_errors.mean() / np.exp(design @ error).mean())
    return Calibration(tuple(wrong.tolist()), tuple(error.tolist()))


def observe(
    model: CropModel, samples: Sequence[FaceSample], predictions: int, seed: int
) -> tuple[Float[np.ndarray, "n l"], Float[np.ndarray, "n l"], Float64[np.ndarray, "n l"]]:
    """Return ``scores``, ``vote_std``, and errors as fractions of the face, of all predictions of some faces.

    An error is NaN where the landmark is unknown or outside of the crop.
    """
    metadata, rng = model.metadata, np.random.default_rng(seed)
    parts = []
    for sample in show_progress(samples, len(samples), "predicting faces"):
        image = read_image(sample.image)
        box = sample.crop_region(metadata.crop, image)
        crops, labels, _ = zip(
            *(
                training_crop(
                    image, sample.points, box, metadata.input_size, metadata.scheme, augmentation, rng
                )
                for augmentation in [Augmentation.none(), *[HARDER] * (predictions - 1)]
            ),
            strict=True,
        )
        true, predicted = np.stack(labels), model(np.stack(crops))
        points = predicted.points
        if metadata.crop.whole_pixels:
            height, width = image.shape[:2]
            label_box = metadata.crop.label_box(sample.face_box(metadata.crop), width, height)
            points = fractions_of_region(points, label_box, box)
        # Crops may be stretched, and faces are measured in pixels of the image.
        side = (box[2:] - box[:2]).astype(np.float64)
        size = np.nanmax((np.nanmax(true, axis=1) - np.nanmin(true, axis=1)) * side, axis=1)
        distance = (points.astype(np.float64) - true) * side
        errors = np.linalg.norm(distance, axis=2) / size[:, None]
        errors[~((true >= 0) & (true < 1)).all(axis=2)] = np.nan
        parts.append((predicted.scores, predicted.vote_std, errors))
    if not parts:
        raise DataError("there are no faces to calibrate on")
    scores, vote_std, errors = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores, vote_std, errors


def logistic(
    design: Float64[np.ndarray, "n terms"], wrong: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " terms"]:
    """Return the weights of a ridge logistic regression, by Newton's method."""
    weights = np.zeros(design.shape[1])
    for _ in range(_MAX_STEPS):
        probability = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (probability - wrong) + _RIDGE * weights
        hessian = (design * (probability * (1 - probability))[:, None]).T @ design
        hessian += _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def _linear(
    design: Float64[np.ndarray, "n terms"], target: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " terms"]:
    """Return the weights of a ridge regression."""
    hessian = design.T @ design + _RIDGE * np.eye(design.shape[1])
    return np.asarray(np.linalg.solve(hessian, design.T @ target))
