"""The decode of a model that `pipnet export --format scores` wrote, and what the scripts here share."""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np


def decode(maps, constants):
    """Return landmarks as fractions of the crop (N, 2), scores (N) and vote_std (N).

    Args:
        maps: the outputs for one crop by name, each an array (channels, grid, grid).
        constants: the content of the JSON file beside the model.
    """
    neighbors = np.array(constants["neighbors"], int)  # (N, C): which landmarks each landmark votes for
    direct_weights, vote_weights = np.array(constants["direct_weights"]), np.array(constants["vote_weights"])
    n, grid = len(neighbors), maps["score_maps"].shape[-1]
    scores = maps["score_maps"].reshape(n, -1)
    cell = scores.argmax(axis=1)
    corner = np.stack([cell % grid, cell // grid], axis=1)

    def offsets(axis):  # (N, 1 + C): those of a landmark and its neighbors, in its best cell
        names = (f"{axis}_maps", f"neighbor_{axis}_maps")  # without neighbors, only the first
        parts = [maps[name].reshape(n, -1, grid**2) for name in names if name in maps]
        return np.concatenate(parts, axis=1)[np.arange(n), :, cell]

    predictions = (corner[:, None] + np.stack([offsets("x"), offsets("y")], axis=2)) / grid
    direct, votes = predictions[:, 0], predictions[:, 1:]
    points = direct * direct_weights[:, None]
    np.add.at(points, neighbors, votes * vote_weights[:, :, None])
    squared = np.sum((direct - points) ** 2, axis=1)
    np.add.at(squared, neighbors, np.sum((votes - points[neighbors]) ** 2, axis=2))
    vote_std = np.sqrt(squared / (1 + np.bincount(neighbors.ravel(), minlength=n)))
    peak = scores.max(axis=1)
    return points, 1 / (1 + np.exp(-peak)) if constants["sigmoid"] else peak.clip(0, 1), vote_std


def run(convert):
    """Run a script: convert the model, and print the landmarks of each crop as a line of JSON, in pixels.

    Args:
        convert: takes the path of the .onnx file; returns a function from an image (1, 3, size, size), RGB,
            float32, 0 to 255, to the outputs by name, in any order.
    """
    from PIL import Image

    model, *crops = map(Path, sys.argv[1:])
    constants = json.loads(model.with_suffix(".json").read_text())
    size = constants["metadata"]["input_size"]
    with contextlib.redirect_stdout(sys.stderr):  # libraries print while they convert
        network = convert(model)
    for path in crops:
        image = np.asarray(Image.open(path).convert("RGB").resize((size, size)), np.float32)
        maps = network(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
        points, scores, _ = decode({name: value[0] for name, value in maps.items()}, constants)
        pixels = points * size - 0.5
        print(json.dumps({"points": pixels.round(5).tolist(), "scores": scores.round(5).tolist()}))
