"""Checks of a dataset's labels: offset, swapped sides, duplicates between subsets, disagreement with a model.

Any model that was trained with mirroring finds a constant offset of all labels along x: averaged over a face
and its mirror image, its predictions prefer no side, so the mean difference of the labels from them is the
offset. An offset along y cannot be found in this way, since faces are not mirrored upside down.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from pipnet.annotations.samples import FaceSample
from pipnet.evaluation.evaluate import decoded
from pipnet.evaluation.metrics import Interval, bootstrap_mean, norm_distance, point_errors
from pipnet.geometry import CropConfig, Image, tight_box
from pipnet.inference.backends.base import CropModel
from pipnet.inference.predict import predict_crops
from pipnet.scheme import LandmarkScheme, SchemeMapping
from pipnet.warp import crop, resize

_RECROPS = 3
"""Number of predictions of each face. The first crop is cut around the labels, which draws the prediction
towards them; each further one is cut around the previous prediction."""
_MIN_FACES = 10
"""Minimum number of faces of a group for an offset."""
_SWAPPED = 0.5
"""Labels count as swapped if exchanging left and right reduces the error below this fraction of it."""
_HASH_SIDE = 16
_MAX_HASH_DISTANCE = 38
"""Bits of `_HASH_SIDE` squared by which the hashes of one face in two files may differ. In 300-W the three
known duplicates differ by 10, 18 and 32 bits, other faces by 44 and more."""


class CheckedFace(NamedTuple):
    """The comparison of a labeled face with a model's prediction."""

    sample: FaceSample
    prediction: np.ndarray
    """(landmarks, 2) in pixels of the image; the mean over the face and its mirror image."""
    offset: float
    """Mean of label minus prediction along x over the known landmarks, in pixels of the image."""
    nme: float
    """Error of the labels against the prediction as a fraction of the norm, without the face's own offset;
    NaN without a norm."""
    is_swapped: bool
    """Whether the labels fit much better with left and right exchanged."""
    image_size: tuple[int, int]
    """Width and height of the image in pixels."""


class Offset(NamedTuple):
    """The label offset of a group of faces along x, in pixels of the image."""

    mean: float
    interval: Interval
    """95 % bootstrap interval of the mean."""
    faces: int


class Duplicate(NamedTuple):
    """Two files that seem to show one face."""

    first: str
    second: str
    distance: int
    """Bits by which their perceptual hashes differ."""


def check_faces(model: CropModel, samples: Iterable[FaceSample], scheme: LandmarkScheme) -> list[CheckedFace]:
    """Predict all faces, each with its mirror image.

    Args:
        model: a model of this scheme, or of one with a mapping to it.
        samples: the labeled faces.
        scheme: the scheme of their landmarks.

    Raises:
        DataError: no mapping leads from the model's scheme to this one.
        ImageError: an image cannot be read.
    """
    source = model.metadata.scheme
    mapping = None if source.name == scheme.name else SchemeMapping.load(source.name, scheme.name)
    return [_check(model, mapping, image, sample, scheme) for image, sample in decoded(samples)]


def _check(
    model: CropModel,
    mapping: SchemeMapping | None,
    image: Image,
    sample: FaceSample,
    scheme: LandmarkScheme,
) -> CheckedFace:
    box = tight_box(sample.points)
    for _ in range(_RECROPS):
        points = predict_crops(model, [image], [box[None]], "flip").points[0]
        box = tight_box(points)
    prediction = points if mapping is None else mapping(points).astype(np.float32)
    offset = float(np.nanmean(sample.points[:, 0] - prediction[:, 0]))
    labels = sample.points - np.array([offset, 0], np.float32)
    norm = norm_distance(sample.points, scheme, sample.box)
    errors = [
        float(np.nanmean(point_errors(prediction, points, norm))) if norm > 0 else float("nan")
        for points in (labels, labels[scheme.flip_permutation])
    ]
    is_swapped = errors[1] < _SWAPPED * errors[0]
    return CheckedFace(sample, prediction, offset, errors[0], is_swapped, (image.shape[1], image.shape[0]))


def label_offsets(faces: Sequence[CheckedFace]) -> dict[str, Offset]:
    """Return the label offsets of all faces, of each part of the dataset, and of its common image sizes.

    A part of a dataset is the first folder in the names of its faces, such as ``helen`` in 300-W. Groups with
    few faces are left out.
    """
    groups: Mapping[str, list[float]] = defaultdict(list)
    sizes = Counter(face.image_size for face in faces)
    for face in faces:
        part = face.sample.name.split("/", 1)[0]
        width, height = face.image_size
        is_common = sizes[face.image_size] >= max(_MIN_FACES, len(faces) // 20)
        groups["all"].append(face.offset)
        groups[part].append(face.offset)
        size = f"{width} x {height} px" if is_common else "other sizes"
        groups[f"{part}, {size}"].append(face.offset)
    return {
        name: Offset(float(np.mean(values)), bootstrap_mean(np.array(values)), len(values))
        for name, values in groups.items()
        if len(values) >= _MIN_FACES
    }


def perceptual_hash(image: Image, sample: FaceSample) -> Bool[np.ndarray, " bits"]:
    """Return the difference hash of a face, of the crop around its landmarks."""
    box = CropConfig(scale=1.2).region(tight_box(sample.points), image.shape[1], image.shape[0])
    small = resize(crop(image, box, 64), _HASH_SIDE + 1, _HASH_SIDE)
    gray = np.rint(small @ np.array([0.299, 0.587, 0.114]))
    return np.asarray(gray[:, 1:] > gray[:, :-1]).ravel()


def find_duplicates(subsets: Mapping[str, Sequence[FaceSample]]) -> list[Duplicate]:
    """Return the pairs of faces of different subsets that look the same, the most alike first.

    Raises:
        ImageError: an image cannot be read.
    """
    names: list[str] = []
    origins: list[int] = []
    hashes: list[np.ndarray] = []
    for number, (subset, samples) in enumerate(subsets.items()):
        for image, sample in decoded(samples):
            names.append(f"{subset}: {sample.name}")
            origins.append(number)
            hashes.append(perceptual_hash(image, sample))
    bits: Float64[np.ndarray, "faces bits"] = np.array(hashes, np.float64).reshape(len(names), -1)
    distances = bits @ (1 - bits).T + (1 - bits) @ bits.T
    pairs = np.argwhere(distances <= _MAX_HASH_DISTANCE)
    duplicates = [
        Duplicate(names[i], names[j], int(distances[i, j])) for i, j in pairs if origins[i] < origins[j]
    ]
    return sorted(duplicates, key=lambda pair: pair.distance)
