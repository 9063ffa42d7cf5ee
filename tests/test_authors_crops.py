"""Crops at whole pixels, as the authors cut them: right for their weights, wrong for others."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipnet.annotations.samples import evenly_spaced, without_label_offset
from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.geometry import CropConfig, tight_box, to_fraction
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.torch_model import TorchModel
from pipnet.warp import crop

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "pipnet-tiny.safetensors"
EXACT = CropConfig(scale=1.1, square=False, clip=True)
WHOLE_PIXELS = replace(EXACT, whole_pixels=True)


def exact_example(image, points, size):
    region = EXACT.region(tight_box(points), image.shape[1], image.shape[0])
    return crop(image, region, size), to_fraction(points, region)


def authors_example(image, points, size):
    """A crop and its labels as the authors' preprocessing of WFLW makes them, in OpenCV."""
    height, width = image.shape[:2]
    low, high = points.min(axis=0).astype(float), points.max(axis=0).astype(float)
    margin = 0.05 * (high - low)
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, [width - 1, height - 1])
    (left, top), (right, bottom) = low.astype(int), high.astype(int)
    return cv2.resize(image[top:bottom, left:right], (size, size)), (points - low) / (high - low)


def fine_tune(make_example, samples):
    """Return the tiny network after four epochs on other crops, from the same weights in the same order."""
    network, metadata = load_checkpoint(CHECKPOINT)
    examples = [make_example(read_image(s.image), s.points, metadata.input_size) for s in samples]
    crops, labels = (np.stack(part) for part in zip(*examples, strict=True))
    crops, labels = torch.from_numpy(crops), torch.from_numpy(labels).float()
    steps = 4 * (len(crops) // 32)
    optimizer = torch.optim.Adam(network.train().parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(len(crops))[: steps * 8] for _ in range(4)]).reshape(steps, 32)
    for batch in order:
        loss = sum(network.loss(network(crops[batch]), labels[batch]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval(), metadata


def nme(network, metadata, crop_config, samples, spec):
    landmarker = FaceLandmarker(TorchModel(network, replace(metadata, crop=crop_config)))
    return float(evaluate(landmarker, decoded(samples), spec).offset_removed.mean())


@pytest.mark.slow
def test_whole_pixels_remove_the_offset_of_weights_trained_like_the_authors(shared):
    """With whole pixels such weights are as good on 300-W Common as those of exact crops; without, worse."""
    torch.manual_seed(0)
    samples, scheme, _ = load_samples(shared / "data" / "300w", "train")
    samples = [without_label_offset(s) for s in evenly_spaced(samples, 960)]
    tests, _, spec = load_samples(shared / "data" / "300w", "common", scheme, for_evaluation=True)
    exact = nme(*fine_tune(exact_example, samples), EXACT, tests, spec)
    network, metadata = fine_tune(authors_example, samples)
    with_whole_pixels, without = (
        nme(network, metadata, config, tests, spec) for config in (WHOLE_PIXELS, EXACT)
    )
    assert with_whole_pixels < 1.01 * exact
    assert without > 1.02 * with_whole_pixels


def test_whole_pixels_are_wrong_for_exact_weights(shared):
    """On small faces whole pixels raise the error of our own weights: by about an eighth on WFLW."""
    landmarker = FaceLandmarker()
    tests, _, spec = load_samples(
        shared / "data" / "wflw", "test", landmarker.metadata.scheme, for_evaluation=True
    )
    tests = evenly_spaced(tests, 57)
    exact = evaluate(landmarker, decoded(tests), spec).nmes.mean()
    crop_config = replace(landmarker.metadata.crop, whole_pixels=True)
    landmarker.model.metadata = replace(landmarker.metadata, crop=crop_config)
    assert 1.08 < evaluate(landmarker, decoded(tests), spec).nmes.mean() / exact < 1.18
